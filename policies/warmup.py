"""Whether a bundle may come into force: parsed, linted, compiled, and asked once in both phases."""

from __future__ import annotations

from collections.abc import Iterator

from mcpgw.domain import (
    Action,
    Arguments,
    Era,
    Kind,
    Principal,
    Route,
    ServerVersion,
    ToolPin,
    Transport,
    Verb,
    VersionStatus,
)
from mcpgw.errors import InvalidRequest
from mcpgw.policies import output
from mcpgw.policies.apart import apart
from mcpgw.policies.bundle import ENTRY_POINT, Bundle
from mcpgw.policies.finding import Finding
from mcpgw.policies.input import Inputs
from mcpgw.policies.local import LocalEngine, compiled
from mcpgw.ports import Question

# What an engine says of itself. To say nothing about a question is a policy's right: that denies.
_FAILURES = frozenset(output.MESSAGES) - {output.UNDEFINED}
_MAX_INPUT_BYTES = 1024 * 1024


def check(bundle: Bundle) -> list[Finding]:
    """Return everything for which the bundle is refused; takes up to 10 s, in a process of its own."""
    try:
        return [Finding(**found) for found in apart("check", {"files": dict(bundle.files)})]
    except InvalidRequest as refusal:
        return [Finding("policy", 0, refusal.message, refusal.fix)]


def inspect(bundle: Bundle) -> list[Finding]:
    """As `check`, here: for text that is known to come back."""
    try:
        engine = LocalEngine(compiled(bundle, _MAX_INPUT_BYTES))
    except InvalidRequest as refusal:
        return [Finding(**found) for found in refusal.data["findings"]]
    found: dict[str, Finding] = {}
    inputs = Inputs()
    for question in samples():
        decision = engine.evaluate(inputs.whole(question, inputs.head(question)))
        reason = decision.reasons[0]
        if reason in _FAILURES and decision.message == output.MESSAGES[reason]:
            asked = f"{question.action.verb} in phase `{question.phase}`"
            fix = "mcpgw policy explain shows what is evaluated; the contract describes the decision"
            found.setdefault(reason, Finding("policy", 0, f"{ENTRY_POINT} fails for {asked}: {reason}", fix))
    return list(found.values())


def samples() -> Iterator[Question]:
    """Yield a tool call and a model call in both phases, as the gateway would ask about them."""
    who = Principal(
        issuer="mcpgw",
        subject="warm-up",
        client_id="warm-up",
        kind=Kind.AGENT,
        roles=frozenset({"agent"}),
        scopes=frozenset({"mcp:use", "llm:use"}),
    )
    pin = ToolPin("read", "0" * 64, b'{"name":"read","title":"Read","annotations":{"readOnlyHint":true}}')
    version = ServerVersion(
        server="example",
        version="1.0.0",
        manifest_sha256="0" * 64,
        endpoint="example",
        transport=Transport.STDIO,
        era=Era.DUAL,
        tools={pin.name: pin},
        status=VersionStatus.APPROVED,
        published_by="mcpgw",
        published_at=0.0,
    )
    tool_call = _action(Route.MCP, Verb.TOOLS_CALL, "example", pin.name, b'{"path":"/notes/1","limit":10}')
    chat = b'{"model":"small","messages":[{"role":"user","content":"Hello"}],"tools":[]}'
    model_call = _action(Route.LLM, Verb.CHAT, "provider", "small", chat)
    for phase in ("list", "call"):
        yield Question(phase=phase, principal=who, action=tool_call, version=version, tool=pin, name=pin.name)
        yield Question(phase=phase, principal=who, action=model_call, name="small")


def _action(route: Route, verb: Verb, server: str, name: str, arguments: bytes) -> Action:
    return Action(
        id="00000000-0000-7000-8000-000000000000",
        route=route,
        verb=verb,
        resource=f"/{server}",
        received_at=1_790_000_000.0,
        server=server,
        name=name,
        arguments=Arguments(arguments),
        source_ip="127.0.0.1",
    )
