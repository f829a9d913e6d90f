"""Sessions with servers of the handshake era (2025-11-25 and before).

Each session of a client has its own. A modern client has none: its calls share one with those of the same principal
that declare the same capabilities, which is all that a server of this era can know of them.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

import msgspec

from mcpgw.config import LimitsSection
from mcpgw.domain import Action, Verb
from mcpgw.upstream.mcp_for_modern_questions import declared
from mcpgw.upstream.mcp_parts import CLIENT_INFO, LEGACY_VERSIONS, Asked, Message, encode, members
from mcpgw.upstream.mcp_wire import Header, Sending

Key = tuple[Hashable, ...]

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_VISIBLE_ASCII = re.compile(rb"[\x21-\x7e]{1,1024}")


class _Initialized(msgspec.Struct, gc=False):
    protocolVersion: str
    serverInfo: msgspec.Raw = msgspec.Raw(b"{}")
    capabilities: msgspec.Raw = msgspec.Raw(b"{}")


_initialized = msgspec.json.Decoder(_Initialized).decode


@dataclass(slots=True, eq=False)
class Session:
    """What a server granted at `initialize`; `result` is its answer, raw. `greeted`: it knows that we have read it.

    `info` is its `serverInfo`, raw, and `capabilities` are its own by name. `log_level` is the least of which it was
    told to send messages, as a number; None: it was told of none.
    """

    version: str
    id: bytes | None
    result: bytes
    used_at: float
    info: bytes = b"{}"
    capabilities: Mapping[str, msgspec.Raw] = field(default_factory=dict)
    greeted: bool = False
    log_level: int | None = None

    @property
    def headers(self) -> list[Header]:
        found: list[Header] = [(b"mcp-protocol-version", self.version.encode())]
        if self.id is not None:
            found.append((b"mcp-session-id", self.id))
        return found


class Sessions:
    """All of them, as many as `limits.sessions`; the one unused for longest goes first.

    Those that go are forgotten without a word to the server, which ends idle ones itself: there is no call, so no
    permit, in whose name to write.
    """

    def __init__(self, limits: LimitsSection, monotonic: Callable[[], float]) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._held: OrderedDict[Key, Session] = OrderedDict()
        self._of_client: dict[str, set[Key]] = {}

    def get(self, key: Key) -> Session | None:
        session = self._held.get(key)
        if session is None:
            return None
        now = self._monotonic()
        if now - session.used_at > self._limits.session_idle_s:
            self.forget(key, session)
            return None
        session.used_at = now
        self._held.move_to_end(key)
        return session

    def keep(self, key: Key, asked: Asked, message: Message, session_id: bytes | None) -> Session:
        """Keep what this answer to `initialize` grants. Raises UpstreamFailed when it is not such an answer."""
        if session_id is not None and not _VISIBLE_ASCII.fullmatch(session_id):
            raise asked.failed("malformed", "granted a session id that no header can carry")
        result = message.result
        try:
            told = _initialized(result)
        except msgspec.DecodeError:
            raise asked.failed("malformed", "answered `initialize` without a protocol version") from None
        if not _DATE.fullmatch(told.protocolVersion):
            raise asked.failed("malformed", "answered `initialize` with something that is not a protocol version")
        session = Session(
            told.protocolVersion,
            session_id,
            result,
            self._monotonic(),
            info=_object(told.serverInfo),
            capabilities=members(_object(told.capabilities)),
        )
        self._held[key] = session
        self._held.move_to_end(key)
        if isinstance(key[1], str):
            self._of_client.setdefault(key[1], set()).add(key)
        while len(self._held) > self._limits.sessions:
            self.forget(*next(iter(self._held.items())))
        return session

    def forget(self, key: Key, session: Session) -> None:
        """Forget a session, unless another has taken its place."""
        if self._held.get(key) is not session:
            return
        del self._held[key]
        of_client = key[1] if isinstance(key[1], str) else ""
        keys = self._of_client.get(of_client, set())
        keys.discard(key)
        if not keys:
            self._of_client.pop(of_client, None)

    def servers_of(self, client_session: str) -> frozenset[str]:
        """Return the servers with which a session is open for this one of a client."""
        return frozenset(str(key[2]) for key in self._of_client.get(client_session, ()))

    def forget_client(self, client_session: str) -> None:
        """Forget all sessions that were opened for this session of a client."""
        for key in self._of_client.pop(client_session, ()):
            del self._held[key]


def _object(raw: msgspec.Raw) -> bytes:
    """Return a raw object, an empty one in place of anything else."""
    return bytes(raw) if bytes(raw).startswith(b"{") else b"{}"


def key_of(sending: Sending) -> Key:
    """Return what a session is bound to: never shared between principals, nor between sessions of one."""
    action, version, who = sending.action, sending.version, sending.judged.principal
    client = action.client
    if client is None or not client.modern or sending.own:
        return who.key, action.session, version.server, version.version
    bound = client.protocol_version, declared(client), sending.bound
    return who.key, None, version.server, version.version, bound


def opening(sending: Sending) -> bytes:
    """Return the `params` of the `initialize` that opens the session of this call."""
    client = sending.action.client
    if client is None or not client.modern or sending.own:
        return handshake(sending.action)
    info = client.info if client.info != b"{}" else CLIENT_INFO
    return _opening(encode(LEGACY_VERSIONS[-1]), declared(client), info)


def handshake(action: Action) -> bytes:
    """Return the `params` of `initialize`, as the client of this era behind this action stated them."""
    version, capabilities, info = LEGACY_VERSIONS[-1], b"{}", CLIENT_INFO
    if action.client is not None and not action.client.modern:
        version, capabilities = action.client.protocol_version, action.client.capabilities
        info = action.client.info if action.client.info != b"{}" else CLIENT_INFO
    stated = action.forwarded if action.verb is Verb.INITIALIZE else {}
    return _opening(
        stated.get("protocolVersion", encode(version)),
        stated.get("capabilities", capabilities),
        stated.get("clientInfo", info),
    )


def _opening(version: bytes, capabilities: bytes, info: bytes) -> bytes:
    return b'{"protocolVersion":%b,"capabilities":%b,"clientInfo":%b}' % (version, capabilities, info)
