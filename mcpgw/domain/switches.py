"""Kill switches and what they match."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from mcpgw.domain.action import Action, Route
from mcpgw.domain.principal import Principal


class Scope(StrEnum):
    """What a kill switch selects by."""

    GLOBAL = "global"  # selector `*`
    SERVER = "server"  # `notes`
    VERSION = "version"  # `notes@1.2.0`
    TOOL = "tool"  # `notes/delete`
    PRINCIPAL = "principal"  # `issuer|subject`, also of one who acts on behalf of another
    CLIENT = "client"  # a client_id
    TEAM = "team"
    KEY = "key"  # an API key's id
    PROVIDER = "provider"
    MODEL = "model"  # `provider/model` or `model`
    ISSUER = "issuer"


class Mode(StrEnum):
    """`hard` also cuts the calls that are running; `drain` lets them finish."""

    HARD = "hard"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True, kw_only=True)
class KillSwitch:
    """A standing order that matching calls do not happen, in force from `epoch` on. Times are Unix seconds."""

    id: str
    scope: Scope
    selector: str
    mode: Mode
    reason: str
    thrown_by: str
    thrown_at: float
    epoch: int = 0
    expires_at: float | None = None
    released_at: float | None = None
    released_by: str | None = None
    release_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What a call is aimed at, as far as switches care. On the LLM route `server` is the provider, `name` the model.

    `besides` are the tools whose tasks it asks about or listens to.
    """

    route: Route
    server: str | None
    version: str | None
    name: str | None
    besides: tuple[Target, ...] = ()

    @classmethod
    def of(cls, action: Action, version: str | None = None) -> Target:
        target = cls(action.route, action.server, version or action.version, action.name)
        if not action.tasks:
            return target
        tasks = [cls(action.route, task.server, task.version, task.tool) for task in action.tasks]
        return replace(target, besides=tuple(tasks))


class Switches:
    """The switches in force, compiled so that testing a call costs a handful of dictionary look-ups."""

    __slots__ = ("_by_key", "standing")

    def __init__(self, switches: Iterable[KillSwitch] = ()) -> None:
        self.standing: tuple[KillSwitch, ...] = tuple(s for s in switches if s.released_at is None)
        self._by_key: dict[tuple[Scope, str], KillSwitch] = {}
        for switch in self.standing:
            held = self._by_key.get((switch.scope, switch.selector))
            if held is None or held.mode is Mode.DRAIN:
                self._by_key[switch.scope, switch.selector] = switch

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def match(self, who: Principal | None, target: Target, *, hard_only: bool = False) -> KillSwitch | None:
        """Return a switch that forbids this call, or None. With `hard_only`: only one that also cuts running calls."""
        if not self._by_key:
            return None
        for key in _keys(who, target):
            switch = self._by_key.get(key)
            if switch is not None and (switch.mode is Mode.HARD or not hard_only):
                return switch
        return None


def _keys(who: Principal | None, target: Target) -> Iterator[tuple[Scope, str]]:
    yield Scope.GLOBAL, "*"
    if target.route is Route.LLM:
        if target.server:
            yield Scope.PROVIDER, target.server
        if target.name:
            yield Scope.MODEL, target.name
            yield Scope.MODEL, f"{target.server}/{target.name}"
    for one in (target, *target.besides):
        if one.server and one.route is not Route.LLM:
            yield Scope.SERVER, one.server
            if one.version:
                yield Scope.VERSION, f"{one.server}@{one.version}"
            if one.name:
                yield Scope.TOOL, f"{one.server}/{one.name}"
    if who is None:
        return
    yield Scope.PRINCIPAL, who.selector
    for actor in who.actors:
        yield Scope.PRINCIPAL, actor
    yield Scope.CLIENT, who.client_id
    yield Scope.ISSUER, who.issuer
    if who.team:
        yield Scope.TEAM, who.team
    if who.credential:
        yield Scope.KEY, who.credential
