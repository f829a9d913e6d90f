"""Clients of the handshake era in front of servers of 2026-07-28, and what their sessions need between requests."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from mcpgw.config import LimitsSection
from mcpgw.domain import Part, PartKind, Verb
from mcpgw.errors import InvalidParams, MethodNotAllowed
from mcpgw.ports import Clock, Exchange
from mcpgw.upstream.mcp_for_legacy_call import Call, Crossed, OpenQuestions, Rounds, Way, bound_to
from mcpgw.upstream.mcp_for_legacy_stream import ClientState, ClientStream, Listening, Refused, filter_of, listen
from mcpgw.upstream.mcp_modern import ERA
from mcpgw.upstream.mcp_parts import LEGACY_VERSIONS, NOTIFICATIONS, Whole, accepted
from mcpgw.upstream.mcp_translate import LOG_LEVELS, legacy_answer, legacy_handshake

MAX_URIS = 1000  # that one session is subscribed to
_NOT_FOUND = -32601
_FACTS = {"era": ERA}
_DONE = Part(PartKind.WHOLE, b"{}", facts=_FACTS)
_TO_NOBODY = NOTIFICATIONS | {Verb.END_SESSION}  # a modern server has no session, and is told nothing between requests


class ModernForLegacy:
    """Carries calls across: each is a request that stands alone, with what the client stated at its `initialize`.

    A client's session and a server belong together by principal, session and server, so that nothing that one caller
    said or asked for reaches another.
    """

    def __init__(self, limits: LimitsSection, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._states = ClientStates(limits.sessions)
        self._questions = OpenQuestions()

    def holds(self, call: Call) -> bool:
        """Whether this session has crossed before: it goes on in the way that it began."""
        if self._states.get(call) is not None:
            return True
        return call.action.verb is Verb.ANSWER and self._questions.find(call) is not None

    def awaits(self, answer: Call) -> bool:
        """Whether this is the answer to something that was asked across."""
        return self._questions.find(answer) is not None

    async def send(self, way: Way) -> Exchange:
        """Send a call. Raises NotModern besides what every upstream raises."""
        verb = way.action.verb
        if verb is Verb.ANSWER:
            return self._questions.answer(way)
        if verb in _TO_NOBODY:
            return accepted(**_FACTS)
        if verb is Verb.INITIALIZE:
            return await self._initialize(way)
        state = self._states.of(way)
        if verb is Verb.SET_LEVEL:
            return _set_level(way, state)
        if verb is Verb.STREAM:
            return await self._stream(way, state)
        if verb in {Verb.RESOURCES_SUBSCRIBE, Verb.RESOURCES_UNSUBSCRIBE}:
            return await self._subscribe(way, state)
        client = way.action.client
        level = state.log_level or (client.log_level if client is not None else None)
        crossed = Crossed.of(way, level)
        first = await crossed.write()
        return Rounds(crossed, first, self._questions, self._clock.new_id, self._limits)

    def forget(self, call: Call) -> None:
        """Let this session find another way: its server does not speak this era any more."""
        self._states.forget(bound_to(call))

    def servers_of(self, client_session: str) -> frozenset[str]:
        """Return the servers that this session of a client has crossed to."""
        return self._states.servers_of(client_session)

    def end_session(self, client_session: str) -> None:
        """Forget a session of a client that is over."""
        self._states.forget_client(client_session)

    async def _initialize(self, way: Way) -> Whole:
        """Answer with what the server tells of itself to this very client, for whom it may be private."""
        crossed = Crossed.of(way, verb=Verb.DISCOVER, forwarded={})
        asked, exchange = await crossed.write()
        last: Part | None = None
        try:
            async for part in exchange:
                if part.kind in (PartKind.WHOLE, PartKind.LAST):
                    last = part
        finally:
            await exchange.aclose(None)
        if last is None:
            raise asked.failed("cut", "ended its stream before the answer")
        if last.error_code is not None:
            return Whole(legacy_answer(Verb.INITIALIZE, last))
        client = way.action.client
        stated = client.protocol_version if client is not None else LEGACY_VERSIONS[-1]
        try:
            result = legacy_handshake(last.body, stated, way.server)
        except msgspec.DecodeError:
            raise asked.failed("malformed", "told of itself in a way that cannot be read") from None
        self._states.of(way)
        return Whole(Part(PartKind.WHOLE, result, facts=last.facts))

    async def _listen(self, way: Way, uris: frozenset[str]) -> Listening:
        forwarded = {"notifications": filter_of(uris)}
        crossed = Crossed.of(way, verb=Verb.LISTEN, forwarded=forwarded)
        return await listen(crossed, self._limits.first_byte_s)

    async def _stream(self, way: Way, state: ClientState) -> ClientStream:
        async with state.lock:
            try:
                first = await self._listen(way, state.uris)
            except Refused as refused:
                if refused.part.error_code == _NOT_FOUND:
                    raise MethodNotAllowed(f"`{way.server}` offers no subscriptions") from None
                raise refused.failure from None
            state.stream = ClientStream(state, first, lambda: self._listen(way, state.uris), way.facts)
            return state.stream

    async def _subscribe(self, way: Way, state: ClientState) -> Whole:
        """Change what the session is subscribed to, at once where its stream is open; without one, for when it is."""
        uri, adding = way.action.name or "", way.action.verb is Verb.RESOURCES_SUBSCRIBE
        async with state.lock:
            uris = state.uris | {uri} if adding else state.uris - {uri}
            if len(uris) > MAX_URIS:
                raise InvalidParams(f"a session can subscribe to {MAX_URIS} resources", fix="unsubscribe from some")
            if uris == state.uris or (not adding and state.stream is None):
                way.gate()
                state.uris = uris
                return Whole(_DONE)
            if not adding:
                state.uris = uris  # whatever becomes of the rest, nothing of it is told any more
            try:
                await self._relisten(way, state, uris, uri if adding else None)
            except Refused as refused:
                return Whole(legacy_answer(way.action.verb, refused.part))
            return Whole(_DONE)

    async def _relisten(self, way: Way, state: ClientState, uris: frozenset[str], added: str | None) -> None:
        """Listen for these resources; before the older listen ends, so that nothing is missed.

        Without an open stream the server is asked only whether it tells of the added one. Raises Refused.
        """
        stream, newer, taken = state.stream, None, False
        try:
            if stream is not None:
                await stream.expect()
            newer = await self._listen(way, uris)
            if added is not None and added not in newer.uris:
                raise InvalidParams(f"`{way.server}` does not tell when this resource changes")
            state.uris = uris
            taken = stream is not None and state.stream is stream
        finally:
            if stream is not None:
                stream.take_over(newer if taken else None)
            if newer is not None and not taken:
                await newer.aclose()


class ClientStates:
    """What is held for all sessions; of more than the limit, the one unused for longest is forgotten.

    One whose client reads a stream stays: it goes when the stream does.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[tuple[str, str | None, str], ClientState] = OrderedDict()
        self._of_client: dict[str | None, set[tuple[str, str | None, str]]] = {}

    def get(self, call: Call) -> ClientState | None:
        return self._held.get(bound_to(call))

    def of(self, call: Call) -> ClientState:
        """Return what is held for the session of this call, from its first one on."""
        key = bound_to(call)
        state = self._held.get(key)
        if state is None:
            state = self._held[key] = ClientState()
            self._of_client.setdefault(key[1], set()).add(key)
            self._make_room()
        else:
            self._held.move_to_end(key)
        return state

    def _make_room(self) -> None:
        for _ in range(len(self._held)):
            if len(self._held) <= self._limit:
                return
            key, state = next(iter(self._held.items()))
            if state.stream is None:
                self.forget(key)
            else:
                self._held.move_to_end(key)

    def forget(self, key: tuple[str, str | None, str]) -> None:
        self._held.pop(key, None)
        keys = self._of_client.get(key[1], set())
        keys.discard(key)
        if not keys:
            self._of_client.pop(key[1], None)

    def servers_of(self, client_session: str) -> frozenset[str]:
        return frozenset(key[2] for key in self._of_client.get(client_session, ()))

    def forget_client(self, client_session: str) -> None:
        for key in self._of_client.pop(client_session, ()):
            del self._held[key]


def _set_level(way: Way, state: ClientState) -> Whole:
    try:
        level = msgspec.json.decode(way.action.forwarded.get("level", b"null"))
    except msgspec.DecodeError:
        level = None
    if not isinstance(level, str) or level not in LOG_LEVELS:
        raise InvalidParams("unknown log level", fix=f"one of: {', '.join(LOG_LEVELS)}")
    way.gate()
    state.log_level = level
    return Whole(_DONE)
