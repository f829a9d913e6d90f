"""Permits made by hand from the domain types, and what a caller of an upstream sees."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mcpgw.config import LimitsSection
from mcpgw.domain import (
    SYSTEM,
    Action,
    Arguments,
    ClientFacts,
    Decision,
    Effect,
    Era,
    Judged,
    Kind,
    Part,
    PartKind,
    Permit,
    Principal,
    Receipt,
    Route,
    ServerVersion,
    ToolPin,
    Transport,
    Verb,
    VersionStatus,
)
from mcpgw.ports import Exchange, Gate, Upstream
from mcpgw.request_state import RequestStates
from mcpgw.seals import Seals
from mcpgw.shelf import Shelf, ShelfLimits
from mcpgw.task_ids import TaskIds
from mcpgw.upstream.holding import Holding
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_http import McpHttpUpstream
from mcpgw.upstream.mcp_parts import ListChanged

LIMITS = LimitsSection()
TASK_IDS = TaskIds(Seals(bytes(32), 0))
MODERN = ClientFacts(protocol_version="2026-07-28", modern=True, info=b'{"name":"tester","version":"1"}')
LEGACY = ClientFacts(protocol_version="2025-11-25", modern=False, info=b'{"name":"tester","version":"1"}')
ALICE = Principal(issuer="test", subject="alice", client_id="agent", kind=Kind.AGENT)
BOB = dataclasses.replace(ALICE, subject="bob")
_numbers = itertools.count(1)


def version(
    endpoint: str,
    *,
    transport: Transport = Transport.HTTP,
    era: Era = Era.UNKNOWN,
    server: str = "srv",
    tools: Mapping[str, ToolPin] | None = None,
) -> ServerVersion:
    return ServerVersion(
        server=server,
        version="1.0.0",
        manifest_sha256="",
        endpoint=endpoint,
        transport=transport,
        era=era,
        tools=tools or {},
        status=VersionStatus.APPROVED,
        published_by="test",
        published_at=0.0,
    )


def permit(
    target: ServerVersion,
    verb: Verb,
    *,
    who: Principal = ALICE,
    judged: bytes | None = None,
    tool: ToolPin | None = None,
    **facts: Any,
) -> Permit:
    """Return the right to send an action with these facts; `judged` are its arguments after a redaction."""
    route = Route.SYSTEM if who is SYSTEM else Route.MCP
    action = Action(
        id=f"action-{next(_numbers)}",
        route=route,
        verb=verb,
        resource="/mcp/srv",
        received_at=0.0,
        server="srv",
        **facts,
    )
    arguments = action.arguments if judged is None else Arguments(judged)
    decision = Decision(Effect.ALLOW, ("test",), "")
    verdict = Judged(
        principal=who, action=action, decision=decision, arguments=arguments, epoch=1, version=target, tool=tool
    )
    return Permit(verdict, None, Receipt("w0", 0, ""))


class HandClock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def new_id(self) -> str:
        return f"id-{next(_numbers)}"


def mcp_http(
    http: HttpClient,
    clock: HandClock,
    limits: LimitsSection = LIMITS,
    *,
    shelf: Shelf | None = None,
    on_list_changed: ListChanged = lambda server, kind: None,
) -> McpHttpUpstream:
    """Return the upstream of HTTP servers, as the wiring makes it; what it holds stands on `shelf`."""
    states = RequestStates(Seals(bytes(32), 0))
    shelf = Shelf(clock, ShelfLimits()) if shelf is None else shelf
    holding = Holding(states, shelf, clock, limits.held_s)
    return McpHttpUpstream(http, limits, clock, on_list_changed, holding, TASK_IDS)


@dataclass
class CountingGate:
    """A gate that counts, and raises from the moment it is told to."""

    passed: int = 0
    closed: BaseException | None = None
    closed_from: int = 0

    def __call__(self) -> None:
        if self.closed is not None and self.passed >= self.closed_from:
            raise self.closed
        self.passed += 1


@dataclass
class Seen:
    """An answer as it arrived."""

    parts: list[Part] = field(default_factory=list)

    @property
    def kinds(self) -> list[str]:
        return [part.kind.value for part in self.parts]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(p.body) for p in self.parts if p.kind is PartKind.EVENT and p.body]

    @property
    def last(self) -> Part:
        return self.parts[-1]

    @property
    def result(self) -> dict[str, Any]:
        assert self.last.error_code is None, self.last.body
        found: dict[str, Any] = json.loads(self.last.body)
        return found

    @property
    def text(self) -> str:
        found: str = self.result["content"][0]["text"]
        return found


async def read(exchange: Exchange) -> Seen:
    """Read an answer to its end, as the pipeline does."""
    seen = Seen()
    ended: BaseException | None = None
    try:
        async for part in exchange:
            seen.parts.append(part)
    except BaseException as error:
        ended = error
        raise
    finally:
        await exchange.aclose(ended)
    return seen


@dataclass
class Caller:
    """A client of one server through one upstream."""

    upstream: Upstream
    target: ServerVersion
    client: ClientFacts | None = MODERN
    who: Principal = ALICE
    session: str | None = None
    credential: Mapping[str, str] = field(default_factory=dict)

    async def send(self, verb: Verb, gate: Gate | None = None, **facts: Any) -> Exchange:
        facts = {"client": self.client, "session": self.session, **facts}
        right = permit(self.target, verb, who=self.who, **facts)
        return await self.upstream.send(right, self.credential, gate or CountingGate())

    async def ask(self, verb: Verb, gate: Gate | None = None, **facts: Any) -> Seen:
        return await read(await self.send(verb, gate, **facts))

    async def call(self, tool: str, arguments: bytes = b"{}", gate: Gate | None = None, **facts: Any) -> Seen:
        return await self.ask(Verb.TOOLS_CALL, gate, name=tool, arguments=Arguments(arguments), **facts)

    def known(self, **changes: Any) -> Caller:
        """Return a caller whose client says other things of itself."""
        assert self.client is not None
        return dataclasses.replace(self, client=dataclasses.replace(self.client, **changes))
