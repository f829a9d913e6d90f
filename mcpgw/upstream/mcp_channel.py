"""How one call writes to a server of the handshake era."""

from __future__ import annotations

from mcpgw.errors import Internal
from mcpgw.ports import Gate
from mcpgw.upstream.http import HttpClient, Response
from mcpgw.upstream.mcp_parts import Asked, cancelled
from mcpgw.upstream.mcp_sessions import Session
from mcpgw.upstream.mcp_wire import ACCEPT, JSON, Header, Sending, unusable

ERA = "legacy"


class SessionLost(Exception):
    """The server does not know the session: what was asked in it has not been carried out."""


class Channel:
    """The way of one call to its server, within a session (None: before there is one)."""

    __slots__ = ("_headers", "_http", "sending", "session")

    def __init__(self, http: HttpClient, sending: Sending, session: Session | None) -> None:
        self._http = http
        self._headers: list[Header] = [*(session.headers if session is not None else ()), *sending.credential]
        self.sending = sending
        self.session = session

    @property
    def opened(self) -> Session:
        """The session, of a channel that is within one."""
        if self.session is None:
            raise Internal("a call was sent outside of a session")
        return self.session

    @property
    def has_session_id(self) -> bool:
        return self.session is not None and self.session.id is not None

    async def post(self, body: bytes, gate: Gate | None = None) -> Response:
        headers = [JSON, ACCEPT, *self._headers]
        return await self._http.request(b"POST", self.sending.url, headers, body, gate or self.sending.gate)

    async def cancel(self, own_id: int, gate: Gate) -> None:
        """Tell the server that nobody waits for the answer to this request any more."""
        response = await self.post(cancelled(own_id), gate)
        await response.aclose()

    async def tell(self, body: bytes, gate: Gate | None = None) -> int:
        """Send a message that has no answer; return the status. Raises SessionLost, UpstreamFailed."""
        response = await self.post(body, gate)
        await response.aclose()
        if response.status == 404 and self.has_session_id:
            raise SessionLost
        if not 200 <= response.status < 300:
            raise unusable(Asked(self.sending.action.verb, self.sending.server, ERA), response)
        return response.status

    async def listen(self, last_event_id: bytes | None = None) -> Response:
        """Open the stream of the session; with an event id: the stream that it stood on, from there on."""
        headers = [(b"accept", b"text/event-stream"), *self._headers]
        if last_event_id is not None:
            headers.append((b"last-event-id", last_event_id))
        return await self._http.request(b"GET", self.sending.url, headers, b"", self.sending.gate)

    async def end(self) -> int:
        """End the session; return the status. A server may refuse (405)."""
        response = await self._http.request(b"DELETE", self.sending.url, self._headers, b"", self.sending.gate)
        await response.aclose()
        return response.status
