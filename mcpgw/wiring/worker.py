"""One worker process: everything behind the ports."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.routing import BaseRoute

from mcpgw.app import create_app
from mcpgw.audit import certificate, logs
from mcpgw.audit.auth_log import JournalAuthLog
from mcpgw.audit.journal import SlotJournal
from mcpgw.audit.keys import Digester, Signer
from mcpgw.audit.reader import AuditReader
from mcpgw.audit.segments import Slot as LogSlot
from mcpgw.audit.segments import unfinished
from mcpgw.auth.grants import GrantsService
from mcpgw.auth.signing_service import SigningService
from mcpgw.bus import ControlServer, LocalBus, PublishingStore
from mcpgw.chores import Chores, Work, release_by_system
from mcpgw.clock import SystemClock
from mcpgw.cluster import EpochBoard, Slot, socket_path
from mcpgw.config import Settings
from mcpgw.domain import SYSTEM, Action, KillSwitch, Principal, Route, ServerVersion, Transport, UpstreamAuth, Verb
from mcpgw.edge import admin
from mcpgw.edge.asgi import App
from mcpgw.edge.llm import LlmEdge
from mcpgw.edge.mcp import McpEdge, Workers, presented
from mcpgw.edge.mcp_names import ClientNames
from mcpgw.edge.mcp_sessions import Session, Sessions
from mcpgw.edge.services import Services
from mcpgw.edge.strict_json import JsonLimits
from mcpgw.errors import FetchRefused, GatewayError, InvalidParams, UsageError
from mcpgw.kills import KillService
from mcpgw.pipeline import Gateway
from mcpgw.places import Places
from mcpgw.policies.bundle import Bundle
from mcpgw.policies.limits import ConcurrencyMeter
from mcpgw.policies.loading import PolicyLoader
from mcpgw.policies.service import PolicyService
from mcpgw.ports import Ack
from mcpgw.probes import Candidates, ProbedCatalog, Prober
from mcpgw.registry.catalog import StateCatalog
from mcpgw.registry.configured import endpoints
from mcpgw.registry.drift import differences
from mcpgw.registry.service import Probe, ServersService
from mcpgw.registry.toolsets import ToolsetsService
from mcpgw.request_state import RequestStates
from mcpgw.retries import Retries, RetryLimits
from mcpgw.running import Board
from mcpgw.seals import Seals
from mcpgw.status import WorkerStatus
from mcpgw.store import snapshot
from mcpgw.store.records import SqlRecords
from mcpgw.store.sql import SqlStore
from mcpgw.task_ids import TaskIds
from mcpgw.upstream.health import trial
from mcpgw.upstream.http import Url
from mcpgw.upstream.llm.proposals import reviewed
from mcpgw.upstream.relay import SocketRelay
from mcpgw.visible import sees_model
from mcpgw.wiring.connecting import Connecting
from mcpgw.wiring.ground import Ground
from mcpgw.wiring.identity import Identity
from mcpgw.wiring.upstreams import Upstreams, shelf_limits
from mcpgw.world import NoPolicy, Snapshot, WorldKeeper, closed_world

LEADER = 0
"""The worker that owns the stdio servers and does the machine's chores."""


class Worker:
    """One worker process: everything behind the ports, made in the order of dependence, started with the server."""

    def __init__(self, settings: Settings, index: int) -> None:
        self.settings = settings
        self.index = index
        self.clock = SystemClock()
        self.places = Places(settings.data_dir)
        # The slot is claimed before state is first read: whoever changes state from now on waits for this worker.
        self.epochs = EpochBoard(self.places.run)
        self.slot = Slot(self.places.run, index, self.epochs)
        self.store = SqlStore(settings.store_url)
        self.policies = PolicyLoader(settings)
        self.candidates = Candidates()
        key, searched = self.places.secret("snapshot.key"), settings.registry.search_only
        self.worlds = WorldKeeper(
            store=self.store,
            epochs=self.epochs,
            slot=index,
            catalog_of=lambda state: ProbedCatalog(StateCatalog(state, search_only=searched), self.candidates),
            policy_of=self.policies.engine_for,
            snapshot=Snapshot(
                partial(snapshot.read, self.places.snapshot, key), partial(snapshot.write, self.places.snapshot, key)
            ),
            first=closed_world("the gateway is starting", NoPolicy()),
        )
        self.board = Board(self.worlds.published, self.clock, shelf_limits(settings.limits))
        self.worlds.board = self.board
        self.journal = self._open_journal()
        self.control = ControlServer(self.places.run, index, self.worlds, lambda: self.journal.size)
        self.bus = LocalBus(self.places.run, index, self.epochs, self.control, self._left_by)
        self.seals = Seals(self.places.secret("session.key"), index)
        self.worlds.refusal_of = self.identity.refusal_of
        self.upstreams = Upstreams(
            self.ground,
            self.board,
            leads=index == LEADER,
            on_list_changed=self._list_changed,
            sees_model=self._sees_model,
        )
        self.worlds.on_change(self.upstreams.notices.world_changed)
        self.gateway = self.upstreams.together.serve(self._gateway())
        self.prober = Prober(self.gateway, self.candidates)
        self.certificates = certificate.Certificates(self.places.audit)
        self.services = self._services()
        self.chores = self._chores()
        self.worlds.on_change(self.chores.world_changed)
        self.worlds.on_change(self.identity.credentials.endings.world_changed)

    async def start(self) -> None:
        await self.control.start()  # first: whoever changes state meanwhile gets an answer
        await self.worlds.start()
        await self.upstreams.start()
        if self.index == LEADER:
            await self.servers.sync_configured()
            await self.toolsets.sync_configured()
            await self._push_first_policy()
        self.chores.start()

    async def _push_first_policy(self) -> None:
        """Activate the operator's policy where there has never been one."""
        directory = self.settings.policies.bundle
        if directory is not None and self.worlds.current.state.bundle is None:
            bundle = await asyncio.to_thread(Bundle.read, Path(directory))
            await self.services.policies.push(SYSTEM, bundle.files, activate=True, reason="policies.bundle")

    async def stop(self) -> None:
        await self.chores.stop()
        self.board.shelf.close()
        await self.control.stop()
        await self.worlds.stop()
        await self.upstreams.aclose()
        await self.identity.close()
        await self.store.close()
        self.journal.close()

    @cached_property
    def published(self) -> PublishingStore:
        return PublishingStore(self.store, self.bus)

    @cached_property
    def ground(self) -> Ground:
        return Ground(
            settings=self.settings,
            clock=self.clock,
            worlds=self.worlds,
            published=self.published,
            records=SqlRecords(self.store, self.clock),
            seals=self.seals,
            log=JournalAuthLog(self.journal, self.worlds, self.clock),
        )

    @cached_property
    def identity(self) -> Identity:
        return Identity(self.ground)

    @cached_property
    def signer(self) -> Signer:
        return Signer.load_or_create(self.places.keys, self.places.audit)

    @cached_property
    def servers(self) -> ServersService:
        return ServersService(
            self.published,
            self.worlds,
            self.clock,
            self._probe,
            self._allow_endpoint,
            self.settings.registry,
        )

    @cached_property
    def toolsets(self) -> ToolsetsService:
        return ToolsetsService(self.published, self.worlds, self.clock, self.settings.registry)

    def app(self) -> App:
        """Return the ASGI application of this worker."""
        settings = self.settings
        return create_app(
            mcp=self._mcp_edge(),
            llm=LlmEdge(
                gateway=self.gateway, llm=settings.llm, limits=settings.limits, challenge=self._challenge_headers
            ),
            routes=self.routes(),
            server=settings.server,
            limits=settings.limits,
            start=self.start,
            stop=self.stop,
        )

    def routes(self) -> list[BaseRoute]:
        """Return what is served beside the two edges."""
        own = admin.routes(self.services, self._door())
        return [*self.identity.routes(), *self._connecting().routes(), *own]

    def _mcp_edge(self) -> McpEdge:
        limits = self.settings.limits
        sessions = Sessions(
            seals=self.seals,
            limit=limits.sessions,
            idle_s=limits.session_idle_s,
            clock=self.clock,
            ended=self._session_ended,
        )
        return McpEdge(
            gateway=self.gateway,
            sessions=sessions,
            limits=limits,
            workers=Workers(
                self.index, LEADER, SocketRelay(self.upstreams.http, partial(socket_path, self.places.run), limits)
            ),
            challenge=self._challenge_headers,
            names=ClientNames(self.upstreams.together.prompts, TaskIds(self.seals), RequestStates(self.seals)),
        )

    def _connecting(self) -> Connecting:
        return Connecting(self.ground, self.identity, self.prober.greet)

    def _door(self) -> admin.Door:
        return admin.Door(
            authenticate=self._administrator,
            challenge=lambda request, error: self.identity.challenge(admin.PREFIX, error),
            refused=self._refused_administrator,
            max_body_bytes=self.settings.limits.body_bytes,
            json=JsonLimits.of(self.settings.limits),
            dev_no_auth=self.settings.server.dev_no_auth,
        )

    def _challenge_headers(self, path: str, error: GatewayError) -> list[tuple[bytes, bytes]]:
        return [(b"www-authenticate", self.identity.challenge(path, error).encode("latin-1"))]

    def _open_journal(self) -> SlotJournal:
        slot = LogSlot.claim(logs.logs_of(self.places.audit), self.slot.name, self.settings.audit, self.clock)
        return SlotJournal(slot, Digester.load_or_create(self.places.keys), self.settings.audit, self.clock)

    def _gateway(self) -> Gateway:
        return Gateway(
            worlds=self.worlds,
            journal=self.journal,
            tokens=self.identity.verifier,
            running=self.board,
            meter=ConcurrencyMeter(self.settings.limits),
            broker=self.identity.broker,
            upstream=self.upstreams.router,
            review=reviewed,
            retries=Retries(
                self.clock, RetryLimits(most=self.settings.limits.retries, per_s=self.settings.limits.retries_per_s)
            ),
            clock=self.clock,
        )

    def _services(self) -> Services:
        kills = KillService(
            store=self.store,
            worlds=self.worlds,
            bus=self.bus,
            board=self.board,
            clock=self.clock,
            certify=self._certify,
        )
        return Services(
            servers=self.servers,
            toolsets=self.toolsets,
            policies=PolicyService(self.published, self.worlds, self.clock, self.settings.policies),
            kills=kills,
            keys=self.identity.keys,
            clients=self.identity.clients,
            principals=self.identity.principals,
            grants=GrantsService(self.identity.grants, self.worlds, [self.identity.people.consents.forget]),
            secrets=self.identity.credentials.secrets,
            connections=self.identity.credentials.disconnections,
            signing=SigningService(self.settings.data_dir, self.published, self.worlds, self.clock),
            audit=AuditReader(self.places.audit, self.settings.data_dir / "audit-index.db"),
            status=WorkerStatus(
                self.slot.name,
                self.worlds,
                self.board,
                (self.settings.audit.durability, self.journal.check),
                endpoints(self.settings.registry).keys(),
            ),
        )

    def _chores(self) -> Chores:
        work = Work(
            compare=self._compare,
            release=release_by_system(self.services.kills.release),
            end_killed=self.upstreams.end_killed,
            always=self._each_second,
            try_again=self._try_again,
            review=self.gateway.review_suspended,
            sweep=self.identity.sweep,
        )
        return Chores(
            self.worlds,
            self.clock,
            work,
            drift_check_s=self.settings.registry.drift_check_s,
            leads=self.index == LEADER,
        )

    async def _probe(self, slug: str, endpoint: str, transport: Transport, auth: UpstreamAuth | None, by: str) -> Probe:
        if transport in (Transport.HTTP, Transport.SSE) and slug not in endpoints(self.settings.registry):
            await self.identity.fetcher.vet(endpoint)
        try:
            return Probe(*await self.prober.candidate(slug, endpoint, transport, auth, by))
        finally:
            if transport is Transport.STDIO and self.index != LEADER:
                await self.upstreams.stdio.stop(slug)  # its processes are the leader's
            elif transport is Transport.SSE:
                await self.upstreams.sse.end_own(slug)  # nobody will ask this candidate again

    async def _compare(self, version: ServerVersion) -> None:
        """Quarantine every pinned tool whose live definition is another."""
        _, live = await self.prober.tools(version)
        for found in differences(version, live):
            if found.tool in version.tools and found.tool not in version.quarantined:
                await self.servers.quarantine(SYSTEM, version.server, found.tool, found.seen_sha256, version.version)

    async def _try_again(self) -> None:
        """Ask the servers that are left alone whether they are well again."""
        for version in self.upstreams.left_alone(self.worlds.current.catalog.active()):
            with trial(), suppress(GatewayError):
                await self.prober.greet(version)

    async def _sees_model(self, who: Principal, action: Action) -> bool:
        return await sees_model(self.worlds.current, who, action)

    def _allow_endpoint(self, url: str) -> None:
        """Addresses are vetted at each connect; here only what can never be one is refused."""
        try:
            Url.parse(url)
            self.identity.fetcher.check(url)
        except (UsageError, FetchRefused) as error:
            raise InvalidParams(error.message, fix=error.fix) from None

    def _list_changed(self, server: str, kind: str) -> None:
        self.upstreams.notices.server_said(server, kind)
        if kind == "tools":
            self.chores.list_changed(server)

    def _session_ended(self, session: Session) -> None:
        self.upstreams.end_session(session.id)

    def _certify(self, switch: KillSwitch, acks: Sequence[Ack], in_flight: Sequence[str]) -> Mapping[str, Any]:
        made = certificate.certify(self.signer, switch, switch.epoch, acks, in_flight, self.clock.time())
        self.certificates.keep(made)
        return made

    def _each_second(self) -> None:
        self.board.cut_ended(self.identity.expired)
        self.board.shelf.sweep()
        self.upstreams.sweep()
        self.journal.flush()
        self.certificates.store()
        self.identity.each_second()

    def _left_by(self, name: str) -> tuple[int, tuple[str, ...]]:
        return unfinished(self.places.audit, name)

    async def _administrator(self, request: Request) -> Principal:
        people = self.identity.people
        if not self.settings.server.dev_no_auth and (who := await admin.signed_in(request, people.front, people.pages)):
            return who
        return await self.identity.verifier.verify(presented(request.headers), admin.PREFIX, self.worlds.current)

    async def _refused_administrator(self, request: Request, who: Principal | None, error: GatewayError) -> None:
        """Record a refused request to the admin API, before it is answered."""
        action = Action(
            id=self.clock.new_id(),
            route=Route.ADMIN,
            verb=Verb.ADMIN,
            resource=admin.PREFIX,
            received_at=self.clock.time(),
            name=f"{request.method} {request.url.path}",
            source_ip=request.client.host if request.client else None,
        )
        try:
            async with self.journal.entry(action, self.worlds.current) as entry:
                if who is not None:
                    entry.identified(who)
                raise error
        except GatewayError:
            return
