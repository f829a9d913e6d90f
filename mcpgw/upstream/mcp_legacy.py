"""MCP over streamable HTTP with an `initialize` handshake (2025-03-26 to 2025-11-25)."""

from __future__ import annotations

import asyncio

import msgspec

from mcpgw.config import LimitsSection
from mcpgw.domain import Part, PartKind, Verb
from mcpgw.errors import InvalidRequest, MethodNotAllowed, UpstreamFailed, UpstreamTimeout
from mcpgw.ports import Clock, Exchange
from mcpgw.upstream.era import Eras
from mcpgw.upstream.farewells import Farewells
from mcpgw.upstream.flights import Flights
from mcpgw.upstream.http import HttpClient, Response
from mcpgw.upstream.mcp_channel import ERA, Channel, SessionLost
from mcpgw.upstream.mcp_legacy_stream import Common, LegacyStream, Streamed
from mcpgw.upstream.mcp_parts import (
    NOTIFICATIONS,
    Asked,
    ListChanged,
    Message,
    Whole,
    accepted,
    encode,
    notification,
    params_of,
    read_message,
    reply,
    request,
)
from mcpgw.upstream.mcp_retelling import Telling
from mcpgw.upstream.mcp_sessions import Session, Sessions, key_of, opening
from mcpgw.upstream.mcp_wire import Sending, final, media_type, refuses_credential, unusable

# How servers refuse a session with status 400: the TypeScript and Python SDKs when they do not know it, and a server
# that has become modern in the meantime.
_SESSION_ERRORS = frozenset({-32000, -32600, -32022})
_OPENING = frozenset({Verb.INITIALIZE, Verb.DISCOVER})
OCCUPIED_S = (0.05, 0.2, 0.5)  # a server may not have noticed yet that the session's last stream is gone


class NoHandshake(Exception):
    """The server did not answer `initialize` as one of this era does. `refusal` holds its JSON-RPC error, if any."""

    def __init__(self, failure: UpstreamFailed, refusal: Part | None = None) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.refusal = refusal


class _Error(msgspec.Struct, gc=False):
    code: int


class LegacyWire:
    """Sends calls to servers of this era, each in the session that belongs to it."""

    def __init__(
        self, http: HttpClient, limits: LimitsSection, clock: Clock, on_list_changed: ListChanged, eras: Eras
    ) -> None:
        self._http = http
        self._eras = eras
        self._limits = limits
        self.farewells = Farewells()
        self._common = Common(limits, on_list_changed, self.farewells)
        self._sessions = Sessions(limits, clock.monotonic)
        self._opening: Flights[Session] = Flights()
        self._greeting: Flights[None] = Flights()

    async def ask(self, sending: Sending) -> Exchange:
        """Send a call. Raises NoHandshake besides what every upstream raises."""
        verb = sending.action.verb
        if verb in _OPENING:
            session = await self.open(sending)
            return Whole(Part(PartKind.WHOLE, session.result, facts={"upstream_status": 200, "era": ERA}))
        if verb is Verb.END_SESSION:
            return await self._end(sending)
        if verb in NOTIFICATIONS or verb is Verb.ANSWER:
            return await self._tell(sending)
        for _ in range(2):
            channel = await self.channel(sending, greeting=verb is not Verb.PING)
            try:
                return Streamed(await self.stream(channel)) if verb is Verb.STREAM else await self._call(channel)
            except SessionLost:
                self.forget(channel)
        raise unknown_session(sending)

    def servers_of(self, client_session: str) -> frozenset[str]:
        """Return the servers with which a session is open for this one of a client."""
        return self._sessions.servers_of(client_session)

    def end_session(self, client_session: str) -> None:
        """Forget what was opened with servers for a session of a client that is over."""
        self._sessions.forget_client(client_session)

    async def aclose(self) -> None:
        await self.farewells.aclose()

    # Sessions

    async def channel(self, sending: Sending, *, greeting: bool = True) -> Channel:
        """Return the way of a call to its server, in its session. Raises NoHandshake."""
        key = key_of(sending)
        for _ in range(2):
            session = self._sessions.get(key) or await self.open(sending)
            channel = Channel(self._http, sending, session)
            try:
                if greeting and not session.greeted:
                    await self._greet(channel, session)
                return channel
            except SessionLost:
                self.forget(channel)
        raise unknown_session(sending)

    def within(self, sending: Sending, session: Session) -> Channel:
        """Return the way of a call that goes on with what was begun in this session."""
        return Channel(self._http, sending, session)

    def forget(self, channel: Channel) -> None:
        """Forget a session that its server has forgotten."""
        if channel.session is not None:
            self._sessions.forget(key_of(channel.sending), channel.session)

    async def open(self, sending: Sending) -> Session:
        """Return a new session, or the one that another call of the same client is opening. Raises NoHandshake."""
        return await self._opening.join(key_of(sending), lambda: self._open(sending))

    async def _open(self, sending: Sending) -> Session:
        asked = Asked(Verb.INITIALIZE, sending.server, ERA)
        body = request(asked.id, "initialize", opening(sending))
        response = None
        try:
            response = await Channel(self._http, sending, None).post(body)
            message = await self._final(asked, response)
            part = asked.answer(message, PartKind.WHOLE, response.status)
            if part.error_code is not None:
                what = f"refused the handshake (JSON-RPC error {part.error_code})"
                raise NoHandshake(asked.failed("handshake", what), part)
            session = self._sessions.keep(key_of(sending), asked, message, response.headers.get(b"mcp-session-id"))
        except UpstreamFailed as failure:
            raise NoHandshake(failure) from None
        finally:
            if response is not None:
                await response.aclose()
        self._eras.learn(sending.version, legacy=True, versions=(session.version,))
        return session

    async def _final(self, asked: Asked, response: Response) -> Message:
        kind = media_type(response)
        if response.status == 200 and kind == b"text/event-stream":
            return await final(response, asked, self._limits)
        if response.status == 200 and kind == b"application/json":
            return asked.read(await response.body())
        if 400 <= response.status < 500 and kind == b"application/json" and not refuses_credential(response):
            message = read_message(await response.body())
            if message is not None and asked.is_answered_by(message):
                return message
        raise unusable(asked, response)

    async def _greet(self, channel: Channel, session: Session) -> None:
        """Tell the server that its answer to `initialize` has been read."""

        async def once() -> None:
            if not session.greeted:
                await channel.tell(notification("notifications/initialized", b"{}"))
                session.greeted = True
                await self._tell_level(channel, session)

        await self._greeting.join(key_of(channel.sending), once)

    async def _tell_level(self, channel: Channel, session: Session) -> None:
        """Tell a session that is opened after its client asked for log messages at a level, which one that is."""
        action = channel.sending.action
        client = action.client
        if client is None or client.modern or client.log_level is None or action.verb is Verb.SET_LEVEL:
            return
        if "logging" in session.capabilities:
            asked = Asked(Verb.SET_LEVEL, channel.sending.server, ERA)
            # A server that refuses says what it wants to say.
            await self.request(channel, asked, b'{"level":%b}' % encode(client.log_level))

    async def _end(self, sending: Sending) -> Whole:
        key = key_of(sending)
        session = self._sessions.get(key)
        if session is None:
            return accepted()
        self._sessions.forget(key, session)
        if session.id is None:
            return accepted()
        # A server may refuse (405): for us the session has ended all the same.
        return accepted(era=ERA, upstream_status=await Channel(self._http, sending, session).end())

    # Messages

    async def _tell(self, sending: Sending) -> Whole:
        """Pass on a client's notification, or its answer to a request of the server."""
        action, key = sending.action, key_of(sending)
        session = self._sessions.get(key)
        try:
            if session is None:
                raise SessionLost
            channel = Channel(self._http, sending, session)
            if action.verb is Verb.INITIALIZED:
                await self._greet(channel, session)
                return accepted()
            body = _told(sending)
            if body is None:
                return accepted()
            return accepted(era=ERA, upstream_status=await channel.tell(body))
        except SessionLost:
            if session is not None:
                self._sessions.forget(key, session)
            if action.verb is not Verb.ANSWER:
                return accepted()  # there is nobody left to tell
            asked = Asked(action.verb, sending.server, ERA)
            raise asked.failed("session_lost", "no longer has the session of the request that is answered") from None

    async def _call(self, channel: Channel) -> Exchange:
        action = channel.sending.action
        asked = Asked(action.verb, channel.sending.server, ERA)
        meta = action.client.meta if action.client is not None else b"{}"
        params = params_of(action, channel.sending.judged.arguments.raw, meta if meta != b"{}" else b"")
        found = await self.post(channel, asked, params)
        return Whole(found) if isinstance(found, Part) else Streamed(self.streamed(channel, asked, found))

    async def post(self, channel: Channel, asked: Asked, params: bytes) -> Part | Response:
        """Send a request; return its answer, or the stream on which that will arrive. Raises SessionLost."""
        sending = channel.sending
        before = sending.writes
        response = None
        try:
            response = await channel.post(request(asked.id, asked.verb.value, params))
            if response.status == 200 and media_type(response) == b"text/event-stream":
                return response
            return await self._answered(channel, asked, response)
        except (asyncio.CancelledError, UpstreamTimeout) as error:
            if sending.writes > before:
                self.farewells.say(lambda gate: channel.cancel(asked.id, gate), sending.gate, error)
            raise

    async def request(self, channel: Channel, asked: Asked, params: bytes) -> Part:
        """Send a request and return its answer, whatever is said before it. Raises SessionLost."""
        found = await self.post(channel, asked, params)
        if isinstance(found, Part):
            return found
        try:
            return asked.answer(await final(found, asked, self._limits), PartKind.WHOLE)
        finally:
            await found.aclose()

    async def _answered(self, channel: Channel, asked: Asked, response: Response) -> Part:
        kind, status = media_type(response), response.status
        try:
            if status == 404 and channel.has_session_id:
                raise SessionLost
            is_answer = status == 200 or (400 <= status < 500 and not refuses_credential(response))
            if kind != b"application/json" or not is_answer:
                raise unusable(asked, response)
            data = await response.body()
        finally:
            await response.aclose()
        if status == 200:
            return asked.answer(asked.read(data), PartKind.WHOLE)
        message = read_message(data)
        if status == 400 and channel.has_session_id and message is not None and _is_session_error(message):
            raise SessionLost
        if message is None or not message.error or not asked.is_answered_by(message):
            raise unusable(asked, response)
        return asked.answer(message, PartKind.WHOLE, status)

    async def stream(self, channel: Channel, telling: Telling | None = None, *, quiet: bool = False) -> LegacyStream:
        """Open the stream of a session. Raises MethodNotAllowed, SessionLost."""
        asked = Asked(Verb.STREAM, channel.sending.server, ERA)
        response = await channel.listen()
        for wait_s in OCCUPIED_S:
            if response.status != 409:
                break
            await response.aclose()
            await asyncio.sleep(wait_s)
            response = await channel.listen()
        if response.status == 200 and media_type(response) == b"text/event-stream":
            return self.streamed(channel, asked, response, telling, quiet=quiet)
        await response.aclose()
        if response.status == 405:
            raise MethodNotAllowed(f"`{asked.server}` offers no stream of its own")
        if channel.has_session_id and response.status in {400, 404}:
            raise SessionLost
        raise unusable(asked, response)

    def streamed(
        self,
        channel: Channel,
        asked: Asked,
        response: Response,
        telling: Telling | None = None,
        *,
        quiet: bool = False,
    ) -> LegacyStream:
        return LegacyStream(self._common, channel, asked, response, telling, quiet=quiet)


def unknown_session(sending: Sending) -> UpstreamFailed:
    asked = Asked(sending.action.verb, sending.server, ERA)
    return asked.failed("session_lost", "does not know the session that it has just opened")


def _told(sending: Sending) -> bytes | None:
    """Return the message for a notification or an answer; None when there is nothing to say."""
    action = sending.action
    if action.verb is Verb.ANSWER:
        member = "result" if "result" in action.forwarded else "error"
        if "id" not in action.forwarded or member not in action.forwarded:
            raise InvalidRequest("an answer needs the `id` of what it answers, and a `result` or an `error`")
        return reply(action.forwarded["id"], member, action.forwarded[member])
    if action.verb is Verb.CANCELLED:
        if action.name is None:
            return None
        reason = b',"reason":' + action.forwarded["reason"] if "reason" in action.forwarded else b""
        return notification(action.verb.value, b'{"requestId":%b%b}' % (action.name.encode(), reason))
    return notification(action.verb.value, params_of(action, b"{}", b""))


def _is_session_error(message: Message) -> bool:
    try:
        return bool(message.error) and msgspec.json.decode(message.error, type=_Error).code in _SESSION_ERRORS
    except msgspec.DecodeError:
        return False
