"""MCP servers over HTTP+SSE (2024-11-05): a session for each session of a client, or for what a principal can do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from mcpgw.config import LimitsSection
from mcpgw.domain import SYSTEM, Permit, Principal, Switches, Target, Verb
from mcpgw.errors import UpstreamFailed, UpstreamUnreachable
from mcpgw.ports import Clock, Exchange, Gate
from mcpgw.upstream.flights import Flights
from mcpgw.upstream.framed import Framed
from mcpgw.upstream.greeting import Live, greeting, hello
from mcpgw.upstream.holding import Holding
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_parts import (
    NOTIFICATIONS,
    Asked,
    ListChanged,
    Message,
    accepted,
    next_id,
    notification,
    request,
)
from mcpgw.upstream.mcp_sse_session import ERA, SseSession
from mcpgw.upstream.mcp_wire import Sending, tell
from mcpgw.upstream.pool import Pool, Whose

Opening = Callable[[Sending], Awaitable[tuple[SseSession, Live]]]


class SseServers:
    """Implements `ports.Upstream` for servers with Transport.SSE.

    Such a server is of the handshake era and keeps a session, so each client has its own: it is told what that client
    can do, and may ask it. What was running in a session that is lost has failed; the next call opens another one.
    """

    def __init__(
        self,
        http: HttpClient,
        limits: LimitsSection,
        clock: Clock,
        on_list_changed: ListChanged,
        holding: Holding | None = None,
    ) -> None:
        self._http = http
        self._limits = limits
        self._on_list_changed = on_list_changed
        self._framed = Framed(limits, holding)
        self._pool: Pool[SseClient] = Pool(
            "the sessions with servers over HTTP+SSE", limits.sessions, limits.session_idle_s, clock.monotonic
        )

    async def send(self, permit: Permit, credential: Mapping[str, str], gate: Gate) -> Exchange:
        """Send what the permit allows.

        Raises RateLimited when there are as many sessions, or calls, as there may be, besides what every upstream
        raises.
        """
        sending = Sending(permit, credential, gate)
        action, judged = sending.action, sending.judged
        if action.verb is Verb.END_SESSION:
            return accepted()  # whose end the gateway has noticed
        whose = Whose.of(judged, (sending.server, sending.version.version, *sending.bound))
        if action.verb in NOTIFICATIONS or action.verb is Verb.ANSWER:
            held = self._pool.get(whose)
            return await self._framed.tell(held.running if held is not None else None, judged, sending.gate)
        going_on = await self._framed.go_on(judged, sending.gate)
        if going_on is not None:
            return going_on
        client = await self._pool.take(whose, lambda: SseClient(self._open, judged.principal))
        return await self._framed.send(await client.live(sending), judged, sending.gate)

    def servers_of(self, client_session: str) -> frozenset[str]:
        """Return the servers with which something is open for a session of a client."""
        return frozenset(str(whose.place[0]) for whose in self._pool.of_session(client_session))

    async def end_killed(self, switches: Switches, target: Target) -> None:
        """End the sessions with the target's server that are for those whom these switches stop."""
        await self._pool.end_killed(switches, target, (target.server, target.version))

    async def end_own(self, server: str) -> None:
        """End the gateway's own sessions with a server."""
        await self._pool.end_of(SYSTEM.key, (server,))

    def end_session(self, client_session: str) -> None:
        """End what was opened with servers for a session of a client that is over."""
        self._pool.end_session(client_session)

    def sweep(self) -> None:
        """End the sessions that have been idle for long."""
        self._pool.sweep()

    async def aclose(self) -> None:
        """End all sessions."""
        await self._pool.clear()
        await self._framed.aclose()

    async def _open(self, sending: Sending) -> tuple[SseSession, Live]:
        """Return a new session in which both sides have greeted each other."""

        def told(message: Message) -> None:
            tell(self._on_list_changed, sending.server, message)

        session = await SseSession.open(self._http, sending, self._limits, told)
        greeted = False
        try:
            live = await self._greet(session, sending)
            greeted = True
            return session, live
        finally:
            if not greeted:
                await session.stop()

    async def _greet(self, session: SseSession, sending: Sending) -> Live:
        pending = session.frames.expect(next_id())
        try:
            body = request(pending.id, Verb.INITIALIZE.value, hello(sending.action).params)
            await session.write(body, sending.gate, pending.id)
            while (answer := await session.frames.next(pending, self._limits.first_byte_s)).method is not None:
                pass
        finally:
            session.frames.forget(pending)
        found = greeting(answer)
        if found is None or found.modern:
            raise UpstreamFailed(
                f"`{sending.server}` is not an MCP server: it did not answer initialize",
                fix="check its URL",
                data={"cause": "handshake"},
            )
        session.version = found.version
        await session.write(notification("notifications/initialized", b"{}"), sending.gate)
        return Live(session, found, exclusive=True)


class SseClient:
    """The session of one client with one server, opened when it is needed, and again when it was lost."""

    def __init__(self, open_session: Opening, owner: Principal) -> None:
        self.owner: Principal | None = owner
        self.used_at = 0.0
        self._open = open_session
        self._opening: Flights[None] = Flights()
        self._session: SseSession | None = None
        self._live: Live | None = None
        self._waiting = 0
        self._over = False

    @property
    def running(self) -> Live | None:
        """The open session; None: there is none."""
        return self._live if self._session is not None and self._session.running else None

    @property
    def busy(self) -> bool:
        live = self.running
        return self._waiting > 0 or (live is not None and len(live.link.frames) > 0)

    @property
    def listened_to(self) -> bool:
        live = self.running
        return live is not None and live.link.frames.listened_to

    async def live(self, sending: Sending) -> Live:
        """Return the open session, opened if need be."""
        self._waiting += 1
        try:
            if self.running is None:
                await self._opening.join(None, lambda: self._opened(sending))
            live = self.running
            if live is None:
                asked = Asked(sending.action.verb, sending.server, ERA)
                raise asked.failed("session_lost", "ended the session that was just opened")
            if self._session is not None:
                self._session.proven_by(sending)
            return live
        finally:
            self._waiting -= 1

    async def end(self) -> None:
        self._over = True
        if self._session is not None:
            await self._session.stop()

    async def _opened(self, sending: Sending) -> None:
        session, live = await self._open(sending)
        if self._over:
            await session.stop()
            raise UpstreamUnreachable(f"the session with `{sending.server}` is being ended", fix="try again")
        if self._session is not None:
            await self._session.stop()  # what is left of the one before
        self._session, self._live = session, live
