"""Questions, small policies, and real OPA to compare with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mcpgw
from mcpgw.domain import Arguments, ServerVersion, ToolPin
from mcpgw.policies import local
from mcpgw.policies.bundle import ENTRY_POINT, Bundle
from mcpgw.policies.local import LocalEngine, compiled
from mcpgw.ports import Question
from tests.parts import action, agent, published

POLICIES = Path(mcpgw.__file__).parents[1] / "policies"
EXAMPLE = POLICIES / "rego" / "example.rego"
PACKAGE = "package mcpgw.authz\n\n"
ALLOW = '{"effect": "allow", "reasons": ["rule"]}'
DENY = '{"effect": "deny", "reasons": ["rule"]}'
MAX_INPUT_BYTES = 262_144
# No answer, be it for want of one or for an error: both deny.
UNDEFINED = "<undefined>"
ORACLE = "pip install --ignore-requires-python --no-deps opa-golib-python-bindings==0.4.4"


def bundle(rules: str, **files: str) -> Bundle:
    """Return the bundle of one module in our package, and of further files."""
    return Bundle.of({"policy.rego": PACKAGE + rules, **files})


def engine(rules: str, max_input_bytes: int = MAX_INPUT_BYTES, /, **files: str) -> LocalEngine:
    return LocalEngine(compiled(bundle(rules, **files), max_input_bytes))


def asked(phase: str, arguments: bytes = b"{}", **facts: Any) -> Question:
    """Return a question about the tool `read` of the server `notes`; `facts` are those of the action."""
    version = published(tools=["read"])
    call = action(name="read", arguments=Arguments(arguments), **facts)
    return Question(
        phase=phase, principal=agent(roles=frozenset({"agent"})), action=call, **pinned(version), name="read"
    )


def pinned(version: ServerVersion) -> dict[str, Any]:
    pin: ToolPin = next(iter(version.tools.values()))
    return {"version": version, "tool": pin}


def embedded(source: Bundle, document: Any) -> tuple[Any, Any]:
    """Return what the compiled program and the interpreter answer."""
    seen = local.trace(compiled(source, MAX_INPUT_BYTES), json.dumps(document).encode())
    return _answer(seen.program), _answer(seen.interpreter)


def _answer(text: str | None) -> Any:
    return UNDEFINED if text is None else json.loads(text)


class Oracle:
    """OPA itself, as a library."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def answer(self, source: Bundle, document: Any, rule: str = ENTRY_POINT) -> Any:
        """Return what OPA answers; a built-in that fails is an error."""
        with self._library.OpaEngine() as opa:
            try:
                for path, text in source.modules:
                    opa.add_policy(path, text)
                opa.add_data(json.loads(source.data))
                return opa.eval_document(rule.removeprefix("data."), document)
            except self._library.OpaError:
                return UNDEFINED
