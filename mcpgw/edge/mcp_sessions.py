"""Legacy sessions: what a client of the handshake era and the gateway know of each other.

A session id is an AEAD-sealed value that names the worker holding the session, so any worker can relay a request to
it without shared state. Possession proves nothing: the session belongs to the principal that opened it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

from mcpgw.domain import ClientFacts
from mcpgw.edge.mcp_replay import Replays
from mcpgw.errors import Unavailable, UnknownSession
from mcpgw.ports import Clock
from mcpgw.seals import Seals

_KIND = b"mcp-session"
MAX_ASKED = 1000
RESUMABLE_SINCE = "2025-11-25"


@dataclass(slots=True, kw_only=True)
class Session:
    """One client's session on one endpoint.

    `running` maps the client's raw request ids to action ids. `asked` maps the ids under which requests of servers
    were passed to the client to (server, the server's own raw id).
    """

    id: str
    owner: str
    resource: str
    facts: ClientFacts
    used_at: float
    running: dict[bytes, str] = field(default_factory=dict)
    asked: dict[bytes, tuple[str, bytes]] = field(default_factory=dict)
    next_ask: int = 1
    streaming: bool = False
    replays: Replays = field(default_factory=Replays)

    @property
    def resumable(self) -> bool:
        """Whether the client knows streams that are closed and gone on with."""
        return self.facts.protocol_version >= RESUMABLE_SINCE

    def ask(self, server: str, upstream_id: bytes) -> bytes:
        """Return the id under which a server's request is passed to the client."""
        shown = b"%d" % self.next_ask
        self.next_ask += 1
        self.asked[shown] = (server, upstream_id)
        if len(self.asked) > MAX_ASKED:
            del self.asked[next(iter(self.asked))]
        return shown

    def shown(self, server: str, upstream_id: bytes) -> bytes | None:
        """Return the id under which the client knows a request of a server."""
        return next((shown for shown, asked in self.asked.items() if asked == (server, upstream_id)), None)

    def answered(self, shown: bytes) -> None:
        self.asked.pop(shown, None)

    def log_at(self, level: object) -> None:
        """Remember the level that log messages are asked for at."""
        if isinstance(level, str):
            self.facts = dataclasses.replace(self.facts, log_level=level)

    def stop_streaming(self) -> None:
        self.streaming = False


class Sessions:
    """The sessions that this worker holds."""

    def __init__(
        self, *, seals: Seals, limit: int, idle_s: float, clock: Clock, ended: Callable[[Session], None]
    ) -> None:
        self._seals = seals
        self._limit = limit
        self._idle_s = idle_s
        self._clock = clock
        self._ended = ended
        self._held: dict[str, Session] = {}

    def new_id(self) -> str:
        return self._seals.seal(_KIND)

    def open(self, session_id: str, *, owner: str, resource: str, facts: ClientFacts) -> Session:
        """Hold a new session. Raises Unavailable when this worker holds as many as it may."""
        self._expire()
        if len(self._held) >= self._limit:
            raise Unavailable("too many sessions are open", fix="close some, or raise limits.sessions")
        session = Session(id=session_id, owner=owner, resource=resource, facts=facts, used_at=self._clock.monotonic())
        self._held[session_id] = session
        return session

    def find(self, session_id: str, resource: str) -> Session:
        """Return a session of this worker. Raises UnknownSession."""
        session = self._held.get(session_id)
        now = self._clock.monotonic()
        if session is None or session.resource != resource or self._is_idle(session, now):
            raise UnknownSession("no such session", fix="initialize a new one")
        session.used_at = now
        return session

    def end(self, session: Session) -> None:
        if self._held.pop(session.id, None) is not None:
            self._ended(session)

    def worker_of(self, session_id: str) -> int:
        """Return the worker that a session id names. Raises UnknownSession for one that is not ours."""
        if session_id in self._held:
            return self._seals.worker
        sealed = self._seals.open(_KIND, session_id)
        if sealed is None:
            raise UnknownSession("no such session", fix="initialize a new one")
        return sealed.worker

    def _is_idle(self, session: Session, now: float) -> bool:
        return not session.streaming and not session.running and now - session.used_at > self._idle_s

    def _expire(self) -> None:
        now = self._clock.monotonic()
        for session in [s for s in self._held.values() if self._is_idle(s, now)]:
            self.end(session)
