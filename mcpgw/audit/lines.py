"""The records of one action: which words say what happened to it. The journal puts time, duration and digest in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from msgspec import Raw

from mcpgw.audit.record import Line, standing
from mcpgw.domain import Action, Effect, Judged, Part, Permit, Phase, Principal, Tag
from mcpgw.errors import GatewayError
from mcpgw.obligations import redacted_pointers
from mcpgw.ports import World

_STANDINGS = 4096
_DENIALS = frozenset({"denied", "killed", "quarantined"})


def intent(action: Action, judged: Judged, attempt: int) -> Line:
    """Who is about to do what, by which rule; `attempt` counts the judgements of one action from 1."""
    who, version, decision = judged.principal, judged.version, judged.decision
    facts: dict[str, Any] = {}
    if attempt > 1:
        facts["attempt"] = attempt
    if who.actors:
        facts["actors"] = who.actors
    if action.toolset is not None:
        facts["toolset"] = action.toolset
    if judged.tool is not None:
        facts["tool_sha256"] = judged.tool.sha256
    tags = [o.name for o in decision.obligations if isinstance(o, Tag)]
    if tags:
        facts["tags"] = tags
    return Line(
        time=0.0,
        phase=Phase.INTENT,
        action_id=action.id,
        epoch=judged.epoch,
        parent=action.parent,
        route=action.route,
        verb=action.verb,
        server=action.server if version is None else version.server,
        version=action.version if version is None else version.version,
        name=action.name,
        principal=who.selector,
        client_id=who.client_id,
        team=who.team,
        credential=who.credential,
        effect=decision.effect,
        reasons=decision.reasons,
        policy_sha256=decision.policy_sha256,
        redacted=redacted_pointers(decision) or None,
        session=action.session,
        trace=action.trace,
        source_ip=action.source_ip,
        facts=facts or None,
    )


def owed(permit: Permit, phase: Phase, outcome: str | None, facts: Mapping[str, Any]) -> Line:
    """What became of an intent."""
    line = _ending(permit.judged, phase, outcome)
    line.trace = permit.judged.action.trace
    line.facts = {"intent": permit.receipt.index, **facts}
    return line


def _ending(judged: Judged, phase: Phase, outcome: str | None) -> Line:
    action, version = judged.action, judged.version
    return Line(
        time=0.0,
        phase=phase,
        action_id=action.id,
        epoch=judged.epoch,
        route=action.route,
        verb=action.verb,
        server=action.server if version is None else version.server,
        version=action.version if version is None else version.version,
        name=action.name,
        principal=judged.principal.selector,
        effect=judged.decision.effect,
        outcome=outcome,
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """What the records of one caller's calls of one thing have in common, as `record.standing` writes it."""

    intent: bytes
    owed: bytes
    facts: Raw | None
    of: tuple[object, ...]


class Standings:
    """Kept by the identity of what they were made from; those objects are kept too, so that it cannot pass on."""

    def __init__(self) -> None:
        self._held: dict[tuple[object, ...], Standing] = {}

    def of(self, judged: Judged) -> Standing:
        """Return what stands in the records of a call that was judged once, has no parent and nothing redacted."""
        action, who, decision = judged.action, judged.principal, judged.decision
        target = action.server, action.version, action.name, action.toolset
        key = (id(who), id(judged.version), id(decision), action.verb, *target)
        held = self._held.get(key)
        if held is None:
            if len(self._held) >= _STANDINGS:
                self._held.clear()
            held = self._held[key] = _standing(judged)
        return held


def _standing(judged: Judged) -> Standing:
    action = replace(judged.action, id="", session=None, trace=None, source_ip=None)
    blank = replace(judged, action=action, epoch=0)
    line = intent(action, blank, 1)
    facts, line.facts = line.facts, None
    return Standing(
        intent=standing(line),
        owed=standing(_ending(blank, Phase.OUTCOME, None)),
        facts=Raw(msgspec.json.encode(facts)) if facts else None,
        of=(judged.principal, judged.version, judged.decision),
    )


def refusal(action: Action, who: Principal | None, world: World, error: BaseException | None) -> Line:
    """Why a request ended without being sent; `error` None: it ended without a word, which is a fault of ours."""
    code = code_of(error) or "internal"
    data = error.data if isinstance(error, GatewayError) else {}
    facts = {name: data[name] for name in ("decision_id", "switch") if name in data}
    if isinstance(error, GatewayError):
        facts["message"] = error.message
    if action.toolset is not None:
        facts["toolset"] = action.toolset
    line = Line(
        time=0.0,
        phase=Phase.REFUSED,
        action_id=action.id,
        epoch=world.epoch,
        parent=action.parent,
        route=action.route,
        verb=action.verb,
        server=action.server,
        version=action.version,
        name=action.name,
        effect=str(data.get("effect", Effect.DENY)) if code in _DENIALS else None,
        reasons=_reasons_of(data),
        policy_sha256=world.policy.sha256 if code == "denied" else None,
        outcome=code,
        session=action.session,
        trace=action.trace,
        source_ip=action.source_ip,
        facts=facts or None,
    )
    if who is not None:
        line.principal, line.client_id, line.team, line.credential = (
            who.selector,
            who.client_id,
            who.team,
            who.credential,
        )
    return line


def outcome_of(part: Part) -> str:
    """Return `ok`, `tool_error`, the upstream's JSON-RPC error code or its HTTP status."""
    if part.error_code is not None:
        return str(part.error_code)
    if part.status >= 400:
        return f"http_{part.status}"
    return "tool_error" if part.failed else "ok"


def code_of(error: BaseException | None) -> str | None:
    if error is None:
        return None
    if isinstance(error, GatewayError):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "internal"


def cut_by(error: BaseException | None) -> dict[str, Any]:
    """Say by whom or what a call was cut short."""
    if error is None:
        return {}
    code = code_of(error)
    cut: dict[str, Any] = {"cut_by": "timeout" if code == "upstream_timeout" else code}
    if isinstance(error, GatewayError) and "switch" in error.data:
        cut["switch"] = error.data["switch"]
    return cut


def _reasons_of(data: Mapping[str, Any]) -> tuple[str, ...] | None:
    for name in ("reasons", "rule", "reason"):
        held = data.get(name)
        if isinstance(held, str):
            return (held,)
        if isinstance(held, list | tuple):
            return tuple(str(reason) for reason in held)
    return None
