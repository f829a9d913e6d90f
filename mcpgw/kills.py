"""Throwing and releasing kill switches: commit, publish, wait for every worker, certify."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from mcpgw.domain import AdminNote, KillSwitch, Mode, Principal, Route, Scope, Switches, Target
from mcpgw.errors import Conflict, InvalidParams, NotFound
from mcpgw.ports import Ack, Bus, Clock, Store, Worlds
from mcpgw.running import Board

Certify = Callable[[KillSwitch, Sequence[Ack], Sequence[str]], Mapping[str, Any]]
"""Return, and keep, the signed certificate of a kill that every worker has applied."""

_SHAPES = {
    Scope.GLOBAL: "*",
    Scope.SERVER: "notes",
    Scope.VERSION: "notes@1.0.0",
    Scope.TOOL: "notes/delete_note",
    Scope.PRINCIPAL: "issuer|subject",
    Scope.MODEL: "provider/model, or model",
}


class KillService:
    """Kill switches, as administrators use them."""

    def __init__(self, *, store: Store, worlds: Worlds, bus: Bus, board: Board, clock: Clock, certify: Certify) -> None:
        self._store = store
        self._worlds = worlds
        self._bus = bus
        self._board = board
        self._clock = clock
        self._certify = certify

    async def throw(
        self,
        who: Principal,
        scope: str,
        selector: str,
        mode: str = "hard",
        reason: str = "",
        expires_in_s: float | None = None,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Throw a switch and return once every live worker has applied it, or is named under `missing`."""
        started = self._clock.monotonic()
        now = self._clock.time()
        switch = KillSwitch(
            id=f"kill-{self._clock.new_id()}",
            scope=_scope(scope),
            selector=selector,
            mode=_mode(mode),
            reason=reason.strip(),
            thrown_by=who.selector,
            thrown_at=now,
            expires_at=now + expires_in_s if expires_in_s else None,
        )
        _check(switch)
        if dry_run:
            return self._preview(switch)
        epoch = await self._store.commit([switch], self._note(who, "kill.throw", switch, reason, after=_shown(switch)))
        switch = replace(switch, epoch=epoch)
        acks, missing = await self._bus.publish(epoch, switch.id)
        sent = sorted({i for ack in acks for i in ack.may_have_taken_effect})
        cut = sum(len(ack.cut) for ack in acks)
        return {
            "id": switch.id,
            "epoch": epoch,
            "acknowledged": [{"worker": a.worker, "log": a.log, "position": a.position} for a in acks],
            "missing": list(missing),
            "cancelled": cut,
            "finished": 0 if switch.mode is Mode.HARD else len(sent) - cut,
            "may_have_taken_effect": sent,
            "took_ms": round((self._clock.monotonic() - started) * 1000, 3),
            "certificate": None if missing else dict(self._certify(switch, acks, sent)),
        }

    async def release(self, who: Principal, switch_id: str, reason: str) -> dict[str, Any]:
        """Release a switch. Raises NotFound, Conflict when it is released already."""
        held = next((s for s in self._worlds.current.state.switches if s.id == switch_id), None)
        if held is None:
            raise NotFound(f"no kill switch `{switch_id}`", fix="mcpgw kills lists them")
        if held.released_at is not None:
            raise Conflict(f"kill switch `{switch_id}` is released already")
        if not reason.strip():
            raise InvalidParams("a release needs a reason", fix="give --reason")
        released = replace(
            held, released_at=self._clock.time(), released_by=who.selector, release_reason=reason.strip()
        )
        note = self._note(who, "kill.release", released, reason, before=_shown(held), after=_shown(released))
        epoch = await self._store.commit([released], note)
        _, missing = await self._bus.publish(epoch)
        return {"id": switch_id, "epoch": epoch, "released": True, "missing": list(missing)}

    def list(self, include_released: bool = False) -> list[dict[str, Any]]:
        switches = self._worlds.current.state.switches
        return [_shown(s) for s in switches if include_released or s.released_at is None]

    def _preview(self, switch: KillSwitch) -> dict[str, Any]:
        """What the switch would match now, by the matcher that does the killing."""
        world = self._worlds.current
        only = Switches([switch])
        tools = [
            f"{version.server}/{tool}"
            for version in world.catalog.active()
            for tool in version.tools
            if only.match(None, Target(Route.MCP, version.server, version.version, tool))
        ]
        running = [
            call.action.id
            for call in (*self._board.calls.values(), *self._board.shelf)
            if only.match(call.who, Target.of(call.action, call.version.version if call.version else None))
        ]
        return {"dry_run": True, "tools": tools, "running_here": running, "missing": []}

    def _note(
        self,
        who: Principal,
        action: str,
        switch: KillSwitch,
        reason: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> AdminNote:
        return AdminNote(
            id=self._clock.new_id(),
            time=self._clock.time(),
            actor=who.selector,
            action=action,
            target=switch.id,
            reason=reason.strip(),
            before=before,
            after=after,
        )


def _scope(value: str) -> Scope:
    try:
        return Scope(value)
    except ValueError:
        known = ", ".join(s.value for s in Scope)
        raise InvalidParams(f"unknown kill scope `{value}`", fix=f"one of: {known}") from None


def _mode(value: str) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        raise InvalidParams(f"unknown kill mode `{value}`", fix="hard or drain") from None


def _check(switch: KillSwitch) -> None:
    if not switch.reason:
        raise InvalidParams("a kill needs a reason", fix="give --reason")
    selector, scope = switch.selector, switch.scope
    well_formed = bool(selector) and len(selector) <= 512
    if scope is Scope.GLOBAL:
        well_formed = selector == "*"
    elif scope is Scope.VERSION:
        well_formed = well_formed and selector.count("@") == 1
    elif scope is Scope.TOOL:
        well_formed = well_formed and "/" in selector
    elif scope is Scope.PRINCIPAL:
        well_formed = well_formed and "|" in selector
    elif scope is Scope.SERVER:
        well_formed = well_formed and "/" not in selector and "@" not in selector
    if not well_formed:
        raise InvalidParams(
            f"selector `{selector[:80]}` does not fit scope {scope.value}",
            fix=f"for example: {_SHAPES.get(scope, 'a name')}",
        )


def _shown(switch: KillSwitch) -> dict[str, Any]:
    return {k: v.value if isinstance(v, Scope | Mode) else v for k, v in asdict(switch).items() if v is not None}
