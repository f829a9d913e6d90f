"""MCP servers that the gateway runs as processes and speaks to over their standard input and output."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

from mcpgw.config import LimitsSection, StdioServer
from mcpgw.domain import Era, Judged, Kind, Permit, Switches, Target, Verb
from mcpgw.errors import Internal, MethodNotAllowed, UpstreamUnreachable
from mcpgw.ports import Clock, Exchange, Gate
from mcpgw.task_ids import TaskIds
from mcpgw.upstream.framed import Framed
from mcpgw.upstream.framed_way import FramedWay
from mcpgw.upstream.greeting import Live, hello
from mcpgw.upstream.holding import Holding
from mcpgw.upstream.mcp_for_legacy import ModernForLegacy
from mcpgw.upstream.mcp_for_modern_questions import declared
from mcpgw.upstream.mcp_modern import NotModern
from mcpgw.upstream.mcp_parts import NOTIFICATIONS, ListChanged, accepted
from mcpgw.upstream.pool import Pool, Whose
from mcpgw.upstream.stdio_start import Guard
from mcpgw.upstream.stdio_supervision import Program, Supervised, environment

_EVERYBODY = Whose("")
_LISTENING = frozenset({Verb.LISTEN, Verb.STREAM})
_MODERN = frozenset({Era.MODERN, Era.DUAL})  # each request says what its client can do


class StdioServers:
    """Implements `ports.Upstream` for servers with Transport.STDIO: the processes of the operator's configuration.

    A server is one process for all callers, or one for each principal or session of a client, as its entry says. A
    shared process has one session, which is the gateway's own; the calls of all callers go through it under ids and
    progress tokens of ours. So nothing that it sends outside of a call can belong to a caller: its log messages are
    dropped, and, of the handshake era, its resource updates and requests. A process of its own knows its client: it
    is told what that one can do, and may ask it. Of a changed list `on_list_changed` is told.

    Clients of the handshake era are carried across to a process that speaks 2026-07-28 alone.
    """

    def __init__(
        self,
        servers: Sequence[StdioServer],
        limits: LimitsSection,
        clock: Clock,
        on_list_changed: ListChanged,
        holding: Holding | None = None,
        task_ids: TaskIds | None = None,
    ) -> None:
        self._guard = Guard()
        self._framed = Framed(limits, holding, task_ids)
        self._modern_for_legacy = ModernForLegacy(limits, clock)
        self._servers = {
            server.name: Processes(
                Program(
                    server=server,
                    environment=environment(server),
                    limits=limits,
                    guard=self._guard,
                    on_list_changed=on_list_changed,
                    monotonic=clock.monotonic,
                )
            )
            for server in servers
        }

    async def send(self, permit: Permit, credential: Mapping[str, str], gate: Gate) -> Exchange:
        """Send what the permit allows. `credential` is not used: a process has its own environment.

        Raises RateLimited when there are as many processes, or calls, as there may be, besides what every upstream
        raises.
        """
        judged = permit.judged
        action, version = judged.action, judged.version
        if version is None:
            raise Internal("a call without a server version reached the stdio upstream")
        processes = self._servers.get(version.endpoint)
        if processes is None:
            raise UpstreamUnreachable(
                f"`{version.endpoint}` is not declared in the operator's configuration", fix="add it to registry.stdio"
            )
        if action.verb is Verb.END_SESSION:
            return accepted()  # whose end the gateway has noticed
        way = FramedWay(self._framed, judged, gate, lambda: processes.live(judged, gate))
        if action.verb is Verb.ANSWER and self._modern_for_legacy.awaits(way):
            return await self._modern_for_legacy.send(way)
        if action.verb in NOTIFICATIONS or action.verb is Verb.ANSWER:
            held = processes.find(judged)
            return await self._framed.tell(held.running if held is not None else None, judged, gate)
        going_on = await self._framed.go_on(judged, gate)
        if going_on is not None:
            return going_on
        live = await way.live()
        if not way.crosses(live):
            return await self._framed.send(live, judged, gate)
        try:
            return await self._modern_for_legacy.send(way)
        except NotModern as contradiction:
            raise contradiction.failure from None

    async def stop(self, name: str) -> None:
        """End all processes of a server and all they have started; the next call starts another."""
        processes = self._servers.get(name)
        if processes is not None:
            await processes.stop()

    def servers_of(self, client_session: str) -> frozenset[str]:
        """Return the servers with which something is open for a session of a client."""
        own = frozenset(name for name, processes in self._servers.items() if processes.has_for(client_session))
        return own | self._modern_for_legacy.servers_of(client_session)

    async def end_killed(self, switches: Switches, target: Target) -> None:
        """End the processes of the target's server that can serve nobody else than these switches stop."""
        processes = self._servers.get(target.server or "")
        if processes is not None:
            await processes.end_killed(switches, target)

    def end_session(self, client_session: str) -> None:
        """End the processes that were started for a session of a client that is over, and forget it."""
        self._modern_for_legacy.end_session(client_session)
        for processes in self._servers.values():
            processes.end_session(client_session)

    def sweep(self) -> None:
        """End the processes that have been idle for long."""
        for processes in self._servers.values():
            processes.sweep()

    async def aclose(self) -> None:
        """End all processes."""
        await asyncio.gather(*(processes.stop() for processes in self._servers.values()))
        await self._framed.aclose()
        self._guard.close()


class Processes:
    """The processes of one server: one for all callers, or one for each of those whom it serves alone.

    The gateway's own questions then have a process besides: they must not end that of a client.
    """

    def __init__(self, program: Program) -> None:
        server, monotonic = program.server, program.monotonic
        self.exclusive = server.per != "shared"
        self._program = program
        what = f"the processes of `{server.name}`"
        self._common: Pool[Supervised] = Pool(what, 1, server.idle_s if self.exclusive else math.inf, monotonic)
        self._own: Pool[Supervised] = Pool(what, server.max_processes, server.idle_s, monotonic)

    def find(self, judged: Judged) -> Supervised | None:
        return self._own.get(self._whose(judged)) if self._is_own(judged) else self._common.get(_EVERYBODY)

    async def live(self, judged: Judged, gate: Gate) -> Live:
        """Return the process for this call, started if need be.

        Raises RateLimited, MethodNotAllowed, and what the start of a process raises.
        """
        supervised = await self._of(judged)
        told = judged.action if self.exclusive else None
        return await supervised.live(gate, hello(told, alone=self._program.server.per == "session"))

    async def _of(self, judged: Judged) -> Supervised:
        if self._is_own(judged):
            return await self._own.take(self._whose(judged), lambda: Supervised(self._program, judged.principal))
        if self.exclusive and judged.action.verb in _LISTENING:
            raise MethodNotAllowed("each process tells its own client what has changed")  # nobody else would listen
        return await self._common.take(_EVERYBODY, lambda: Supervised(self._program))

    async def stop(self) -> None:
        await asyncio.gather(self._common.clear(), self._own.clear())

    async def end_killed(self, switches: Switches, target: Target) -> None:
        await asyncio.gather(self._common.end_killed(switches, target), self._own.end_killed(switches, target))

    def has_for(self, client_session: str) -> bool:
        return bool(self._own.of_session(client_session))

    def end_session(self, client_session: str) -> None:
        self._own.end_session(client_session)

    def sweep(self) -> None:
        self._common.sweep()
        self._own.sweep()

    def _is_own(self, judged: Judged) -> bool:
        return self.exclusive and judged.principal.kind is not Kind.SYSTEM

    def _whose(self, judged: Judged) -> Whose:
        """Return whose the process for this call is.

        One of the handshake era is told once what its client can do: clients of one principal that can do the same
        share it.
        """
        action, version = judged.action, judged.version
        if self._program.server.per == "session" and action.session is not None:
            return Whose.of(judged)
        if action.client is None or (version is not None and version.era in _MODERN):
            return Whose(judged.principal.key)
        return Whose(judged.principal.key, can=declared(action.client))
