"""Pure verdicts: the same world, principal and action give the same answer, and nothing is counted or sent.

So lists, explanations and proposed calls ask the very rules that guard the call.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from mcpgw.domain import (
    VERBS,
    Action,
    Arguments,
    Decision,
    Effect,
    Judged,
    KillSwitch,
    Kind,
    Principal,
    Route,
    ServerVersion,
    Subject,
    Target,
    ToolPin,
    Verb,
    VerbRule,
)
from mcpgw.errors import Denied, InsufficientScope, Killed, Quarantined, Unavailable, UnknownName, UnknownSession
from mcpgw.obligations import redact_arguments
from mcpgw.ports import Question, World

MAX_REDACTIONS = 2
Visible = tuple[tuple[ServerVersion, ToolPin], ...]


async def judge(world: World, who: Principal, action: Action, *, running: bool = False) -> Judged:
    """Return the verdict on an action, which allows it. `running`: it was allowed before and is under way.

    Raises, in this order: Unavailable, UnknownSession and UnknownName (what the caller may not see does not exist),
    InsufficientScope, Killed, Quarantined, Denied.
    """
    if world.unavailable:
        raise Unavailable(world.unavailable, fix="see /readyz")
    if action.owner is not None and action.owner != who.key:
        raise UnknownSession("no such session", fix="initialize a new one")
    rule = VERBS[action.verb]
    version = _version(world, who, action)
    tool = version.tools.get(action.name or "") if version is not None and rule.subject is Subject.TOOL else None
    decision = await _seen(world, who, action, rule, version, tool)
    if rule.scope not in who.scopes:
        raise InsufficientScope(f"this needs the scope {rule.scope}", data={"scope": rule.scope})
    _not_killed(world, who, action, version, running=running)
    if version is not None and tool is not None and tool.name in version.quarantined:
        raise Quarantined(
            f"tool `{tool.name}` of `{version.server}` changed since it was approved",
            fix=f"an administrator compares and approves: mcpgw servers diff {version.server}",
        )
    arguments = action.arguments
    if rule.acts:
        decision, arguments = await _settled(world, who, action, version, tool)
    visible: Visible = ()
    if action.verb is Verb.TOOLS_LIST and action.route is not Route.SYSTEM:
        visible = await visible_tools(world, who, action)
    return Judged(
        principal=who,
        action=action,
        decision=decision,
        arguments=arguments,
        epoch=world.epoch,
        version=version,
        tool=tool,
        visible=visible,
    )


async def _settled(
    world: World, who: Principal, action: Action, version: ServerVersion | None, tool: ToolPin | None
) -> tuple[Decision, Arguments]:
    """Return the decision on the arguments as they will be sent: redacted, and judged again."""
    arguments = action.arguments
    for _ in range(MAX_REDACTIONS + 1):
        question = Question(
            phase="call",
            principal=who,
            action=action,
            version=version,
            tool=tool,
            name=action.name,
            arguments=arguments,
        )
        decision = _allowed(await world.policy.decide(question), action)
        redacted = redact_arguments(arguments, decision)
        if redacted is arguments:
            return decision, arguments
        arguments = redacted
    raise Denied("the policy's redactions do not settle", data=_data(action, decision, "redaction"))


async def visible_tools(world: World, who: Principal, action: Action) -> Visible:
    """Return the tools of `action.server` (None: of every server) that this caller may see and that are not killed."""
    key = ("tools", action.server, action.version, *_identity(who))
    held: Visible | None = world.memo.get(key)
    if held is None:
        found: list[tuple[ServerVersion, ToolPin]] = []
        for version in _versions(world, who, action):
            for tool in version.tools.values():
                if await _may_see(world, who, action, version, tool) and not _tool_killed(world, who, version, tool):
                    found.append((version, tool))
        held = world.memo[key] = tuple(found)
    return held


async def visible_name(world: World, who: Principal, action: Action, version: ServerVersion, name: str) -> bool:
    """Say whether one item of a list that is not pinned (a prompt, a resource) may leave."""
    question = Question(phase="list", principal=who, action=action, version=version, name=name)
    return (await world.policy.decide(question)).effect is Effect.ALLOW


async def sees_model(world: World, who: Principal, action: Action) -> bool:
    """Say whether a model (`action.server` is its provider, `action.name` the model) may stand in a list of models."""
    if world.switches.match(who, Target.of(action)) is not None:
        return False
    question = Question(phase="list", principal=who, action=action, name=action.name)
    return (await world.policy.decide(question)).effect is Effect.ALLOW


def _version(world: World, who: Principal, action: Action) -> ServerVersion | None:
    if action.server is None or action.route is Route.LLM:
        return None
    version = world.catalog.resolve(action.server, action.version, who)
    if version is None:
        raise _unknown(action)
    return version


async def _seen(
    world: World, who: Principal, action: Action, rule: VerbRule, version: ServerVersion | None, tool: ToolPin | None
) -> Decision:
    """Return the decision by which the caller sees what the action names. Raises UnknownName."""
    if who.kind is Kind.SYSTEM:
        # The gateway's own probes see every server; they are recorded, gated and killed like any call.
        return Decision(Effect.ALLOW, ("gateway:system",), world.policy.sha256)
    if version is not None and rule.acts and rule.subject is Subject.TOOL and tool is None:
        raise _unknown(action)
    if rule.acts:
        question = Question(phase="list", principal=who, action=action, version=version, tool=tool, name=action.name)
        decision = await world.policy.decide(question)
        if decision.effect is not Effect.ALLOW or (version is None and action.route is Route.MCP):
            raise _unknown(action)
        return decision
    if version is not None:
        if not await _sees_server(world, who, action, version):
            raise _unknown(action)
        await _see_references(world, who, action, version)
    return Decision(Effect.ALLOW, ("gateway:visible",), world.policy.sha256)


async def _see_references(world: World, who: Principal, action: Action, version: ServerVersion) -> None:
    """What an action names besides (what it completes, what it wants to watch) must be visible too."""
    for verb, name in _references(action):
        named = dataclasses.replace(action, verb=verb, name=name)
        question = Question(phase="list", principal=who, action=named, version=version, name=name)
        if (await world.policy.decide(question)).effect is not Effect.ALLOW:
            raise _unknown(named)
        if verb is Verb.RESOURCES_SUBSCRIBE:
            question = dataclasses.replace(question, phase="call", arguments=action.arguments)
            _allowed(await world.policy.decide(question), action)


def _references(action: Action) -> list[tuple[Verb, str]]:
    if action.verb is Verb.COMPLETE:
        ref = json.loads(action.forwarded.get("ref", b"{}"))
        # Whatever its `type` says: a server may read either member.
        members = ((Verb.PROMPTS_GET, "name"), (Verb.RESOURCES_READ, "uri"))
        if isinstance(ref, dict):
            return [(verb, ref[member]) for verb, member in members if isinstance(ref.get(member), str)]
    elif action.verb is Verb.LISTEN:
        wanted = json.loads(action.forwarded.get("notifications", b"{}"))
        uris = wanted.get("resourceSubscriptions") if isinstance(wanted, dict) else None
        if isinstance(uris, list):
            return [(Verb.RESOURCES_SUBSCRIBE, uri) for uri in uris if isinstance(uri, str)]
    return []


async def _sees_server(world: World, who: Principal, action: Action, version: ServerVersion) -> bool:
    """A server is visible when phase `list` allows it by itself, or allows any of its tools."""
    key = ("server", version.server, version.version, *_identity(who))
    held = world.memo.get(key)
    if held is None:
        question = Question(phase="list", principal=who, action=action, version=version)
        held = (await world.policy.decide(question)).effect is Effect.ALLOW
        for tool in () if held else version.tools.values():
            if await _may_see(world, who, action, version, tool):
                held = True
                break
        world.memo[key] = held
    return bool(held)


async def _may_see(world: World, who: Principal, action: Action, version: ServerVersion, tool: ToolPin) -> bool:
    question = Question(phase="list", principal=who, action=action, version=version, tool=tool, name=tool.name)
    return (await world.policy.decide(question)).effect is Effect.ALLOW


def _not_killed(world: World, who: Principal, action: Action, version: ServerVersion | None, *, running: bool) -> None:
    if not world.switches:
        return
    target = Target.of(action, version.version if version is not None else None)
    switch = world.switches.match(who, target, hard_only=running)
    if switch is not None:
        raise Killed.by(switch)


def _tool_killed(world: World, who: Principal, version: ServerVersion, tool: ToolPin) -> KillSwitch | None:
    return world.switches.match(who, Target(Route.MCP, version.server, version.version, tool.name))


def _versions(world: World, who: Principal, action: Action) -> Sequence[ServerVersion]:
    if action.server is None:
        return world.catalog.active()
    version = world.catalog.resolve(action.server, action.version, who)
    return () if version is None else (version,)


def _allowed(decision: Decision, action: Action) -> Decision:
    if decision.effect is Effect.ALLOW:
        return decision
    held = decision.effect is Effect.HOLD
    message = decision.message or ("this call needs an approval" if held else "the policy does not allow this call")
    raise Denied(message, data=_data(action, decision, decision.reasons[0]))


def _data(action: Action, decision: Decision, rule: str) -> dict[str, Any]:
    return {
        "decision_id": action.id,
        "effect": decision.effect.value if decision.effect is not Effect.ALLOW else Effect.DENY.value,
        "rule": rule,
        "reasons": list(decision.reasons),
        "policy_sha256": decision.policy_sha256,
        "retryable": False,
    }


def _identity(who: Principal) -> tuple[Any, ...]:
    claims = repr(sorted(who.claims.items())) if who.claims else ""
    names = who.issuer, who.subject, who.client_id  # not `who.key`: joined names may read alike
    return names, who.roles, who.scopes, who.team, who.actors, who.kind, who.credential, claims


_NOUN = {Subject.TOOL: "tool", Subject.PROMPT: "prompt", Subject.RESOURCE: "resource", Subject.MODEL: "model"}


def _unknown(action: Action) -> UnknownName:
    rule = VERBS[action.verb]
    if rule.acts:
        return UnknownName(f"Unknown {_NOUN[rule.subject]}: {action.name}")
    return UnknownName(f"Unknown server: {action.server}")
