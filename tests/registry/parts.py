"""Tool definitions, versions, and a registry whose servers answer what a test says."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mcpgw.config import RegistrySection
from mcpgw.domain import (
    Decision,
    Effect,
    Era,
    Kind,
    Principal,
    Server,
    ServerVersion,
    State,
    Switches,
    ToolPin,
    Transport,
    UpstreamAuth,
    VersionStatus,
)
from mcpgw.errors import GatewayError, InvalidParams, UpstreamUnreachable
from mcpgw.ports import Identities, Question, Store, World
from mcpgw.registry import digest
from mcpgw.registry.catalog import StateCatalog
from mcpgw.registry.service import Probe, ServersService

ADA = Principal(issuer="mcpgw", subject="ada", client_id="cli", kind=Kind.ADMIN)
BOT = Principal(issuer="mcpgw", subject="bot", client_id="bot", kind=Kind.AGENT)
URL = "https://notes.example/mcp"


def raw(name: str, **fields: Any) -> bytes:
    tool = {"name": name, "description": "d", "inputSchema": {"type": "object"}, **fields}
    return json.dumps(tool, ensure_ascii=False).encode()


def pins(*names: str) -> dict[str, ToolPin]:
    return digest.pins([raw(name) for name in names])


def version(number: str = "1.0.0", tools: Mapping[str, ToolPin] | None = None, **fields: Any) -> ServerVersion:
    tools = pins("read", "write") if tools is None else tools
    made = ServerVersion(
        server="notes",
        version=number,
        manifest_sha256="",
        endpoint=URL,
        transport=Transport.HTTP,
        era=Era.MODERN,
        tools=tools,
        status=VersionStatus.APPROVED,
        published_by="ada",
        published_at=1.0,
    )
    return replace(made, **fields)


def server(slug: str = "notes", **fields: Any) -> Server:
    return replace(Server(slug=slug, title=slug, created_by="ada", created_at=1.0), **fields)


class DenyEverything:
    sha256 = ""

    async def decide(self, question: Question) -> Decision:
        return Decision(Effect.DENY, ("test",), "")


class Follower:
    """Implements ports.Worlds: reads the store when it is asked for a newer world."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.current = self._world(State(epoch=0))

    def published(self) -> int:
        return self.current.epoch

    async def at_least(self, epoch: int) -> World:
        if self.current.epoch < epoch:
            read = self._world(await self._store.state())
            if read.epoch > self.current.epoch:  # of two reads at once the older one may come in last
                self.current = read
        assert self.current.epoch >= epoch
        return self.current

    def _world(self, state: State) -> World:
        return World(
            epoch=state.epoch,
            catalog=StateCatalog(state),
            switches=Switches(),
            policy=DenyEverything(),
            identities=Identities(),
            state=state,
        )


class StepClock:
    """Implements ports.Clock: every look is a second later."""

    def __init__(self) -> None:
        self._seconds = itertools.count(1_700_000_000)
        self._ids = itertools.count()

    def time(self) -> float:
        return float(next(self._seconds))

    def monotonic(self) -> float:
        return self.time()

    def new_id(self) -> str:
        return f"id-{next(self._ids)}"


class Registry:
    """The service with everything it needs. `live` holds the tools that a server offers, by endpoint."""

    def __init__(self, store: Store, section: RegistrySection | None = None) -> None:
        self.store = store
        self.worlds = Follower(store)
        self.clock = StepClock()
        self.live: dict[str, Sequence[bytes]] = {URL: [raw("read"), raw("write")]}
        self.asked: list[tuple[str, str, Transport]] = []
        self.proven: dict[str, UpstreamAuth | None] = {}
        self.refuses: dict[tuple[str, Transport], GatewayError] = {}
        self.service = self.with_configuration(section)

    def with_configuration(self, section: RegistrySection | None) -> ServersService:
        return ServersService(self.store, self.worlds, self.clock, self._probe, _allow, section)

    @property
    def catalog(self) -> StateCatalog:
        assert isinstance(self.worlds.current.catalog, StateCatalog)
        return self.worlds.current.catalog

    async def served(self, *numbers: str) -> None:
        """Publish, approve and activate versions of `notes` one after another, each with another tool."""
        for number in numbers:
            self.live[URL] = [*self.live[URL], raw(f"since-{number}")]
            if any(s.slug == "notes" for s in (await self.store.state()).servers):
                await self.service.publish(ADA, "notes", number)
            else:
                await self.service.add(ADA, "notes", URL)
            await self.service.approve(ADA, "notes", number)
            await self.service.activate(ADA, "notes", number)

    async def notes(self) -> list[tuple[str, str]]:
        return [(note.action, note.target) for _, _, note in await self.store.notes(0, 1000)]

    async def _probe(self, slug: str, endpoint: str, transport: Transport, auth: UpstreamAuth | None, by: str) -> Probe:
        self.proven[slug] = auth
        self.asked.append((slug, endpoint, transport))
        refusal = self.refuses.get((endpoint, transport))
        if refusal is not None:
            raise refusal
        if endpoint not in self.live:
            raise UpstreamUnreachable("cannot connect", fix="start it")
        return Probe(Era.MODERN, self.live[endpoint])


def _allow(url: str) -> None:
    if "10.0.0.1" in url:
        raise InvalidParams("the gateway may not connect to this address", fix="registry.allow_networks")
