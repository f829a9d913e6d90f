"""Small real parts for tests of the request path: principals, actions, pinned servers, a policy of one function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Any

from mcpgw.domain import (
    Action,
    Decision,
    Effect,
    Era,
    KillSwitch,
    Kind,
    Mode,
    Obligation,
    Offer,
    Principal,
    Route,
    Scope,
    Selection,
    ServerVersion,
    State,
    Switches,
    ToolPin,
    Transport,
    Verb,
    VersionStatus,
)
from mcpgw.ports import Identities, Question, World

_ids = count(1)


def agent(subject: str = "ada", **facts: Any) -> Principal:
    held: dict[str, Any] = {
        "issuer": "https://id.example",
        "client_id": "desk",
        "kind": Kind.AGENT,
        "scopes": frozenset({"mcp:use", "llm:use", "admin"}),
    }
    return Principal(subject=subject, **(held | facts))


def action(
    verb: Verb = Verb.TOOLS_CALL, server: str | None = "notes", name: str | None = "read", **facts: Any
) -> Action:
    held: dict[str, Any] = {
        "id": f"action-{next(_ids)}",
        "route": Route.MCP,
        "resource": f"/mcp/{server}" if server else "/mcp",
        "received_at": 0.0,
    }
    return Action(verb=verb, server=server, name=name, **(held | facts))


def published(server: str = "notes", tools: Iterable[str] = ("read", "write"), **facts: Any) -> ServerVersion:
    held: dict[str, Any] = {
        "version": "1.0.0",
        "manifest_sha256": f"manifest of {server}",
        "endpoint": f"http://{server}.example/mcp",
        "transport": Transport.HTTP,
        "era": Era.DUAL,
        "status": VersionStatus.APPROVED,
        "published_by": "root",
        "published_at": 0.0,
    }
    pins = {name: ToolPin(name, f"sha256 of {server}/{name}", b'{"name":"%b"}' % name.encode()) for name in tools}
    return ServerVersion(server=server, tools=pins, **(held | facts))


def switch(scope: Scope, selector: str, mode: Mode = Mode.HARD, **facts: Any) -> KillSwitch:
    held: dict[str, Any] = {"id": f"kill-{next(_ids)}", "reason": "test", "thrown_by": "root", "thrown_at": 0.0}
    return KillSwitch(scope=scope, selector=selector, mode=mode, **(held | facts))


class Shelf:
    """A catalogue of given versions; the first of each server is the active one. `toolsets` are given by slug."""

    def __init__(
        self,
        versions: Iterable[ServerVersion],
        toolsets: Mapping[str, Selection] | None = None,
        *,
        search: bool = False,
    ) -> None:
        self._versions = tuple(versions)
        self._toolsets = toolsets or {}
        self._everything = Selection(self._offers, search=search)

    def resolve(self, server: str, version: str | None, who: Principal) -> ServerVersion | None:
        found = (v for v in self._versions if v.server == server and version in (None, v.version))
        return next(found, None)

    def active(self) -> Sequence[ServerVersion]:
        slugs = sorted({v.server for v in self._versions})
        return [next(v for v in self._versions if v.server == slug) for slug in slugs]

    def find(self, prefixed: str) -> tuple[str, str] | None:
        server, mark, tool = prefixed.partition("__")
        known = any(v.server == server and tool in v.tools for v in self._versions)
        return (server, tool) if mark and known else None

    def selection(self, toolset: str | None) -> Selection | None:
        return self._everything if toolset is None else self._toolsets.get(toolset)

    def _offers(self) -> list[Offer]:
        return [Offer(v, tool, f"{v.server}__{tool.name}") for v in self.active() for tool in v.tools.values()]


class Rules:
    """A policy of one function, which answers with an effect or a whole decision; it remembers what it was asked."""

    sha256 = "rules"

    def __init__(self, answer: Callable[[Question], Effect | Decision] = lambda question: Effect.ALLOW) -> None:
        self._answer = answer
        self.asked: list[Question] = []

    async def decide(self, question: Question) -> Decision:
        self.asked.append(question)
        answer = self._answer(question)
        return answer if isinstance(answer, Decision) else decision(answer)


def decision(effect: Effect, *obligations: Obligation, rule: str = "rule") -> Decision:
    return Decision(effect, (rule,), Rules.sha256, obligations=obligations)


def world_of(
    *versions: ServerVersion,
    policy: Rules | None = None,
    switches: Iterable[KillSwitch] = (),
    epoch: int = 1,
    unavailable: str | None = None,
    toolsets: Mapping[str, Selection] | None = None,
) -> World:
    standing = tuple(switches)
    return World(
        epoch=epoch,
        catalog=Shelf(versions or (published(),), toolsets),
        switches=Switches(standing),
        policy=policy or Rules(),
        identities=Identities(),
        state=State(epoch=epoch, versions=versions, switches=standing),
        unavailable=unavailable,
    )


class SetClock:
    """A clock that moves only when it is told to."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def new_id(self) -> str:
        return f"00000000-0000-7000-8000-{next(_ids):012d}"
