"""Modern clients in front of servers of the handshake era: each request in a session that the gateway keeps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import msgspec

from mcpgw.domain import Part, PartKind, Verb
from mcpgw.errors import UpstreamFailed
from mcpgw.ports import Exchange, Gate
from mcpgw.upstream.holding import HeldCall, Holding, Question, Turn, not_waiting
from mcpgw.upstream.mcp_channel import ERA, Channel, SessionLost
from mcpgw.upstream.mcp_for_modern_listening import Ears
from mcpgw.upstream.mcp_for_modern_questions import STATE, answers_ours, responses, without_responses
from mcpgw.upstream.mcp_legacy import LegacyWire
from mcpgw.upstream.mcp_legacy_stream import LegacyStream
from mcpgw.upstream.mcp_parts import NOTIFICATIONS, Asked, Whole, accepted, encode, params_of, reply
from mcpgw.upstream.mcp_retelling import Retelling, answer_of, own_token
from mcpgw.upstream.mcp_translate import LOG_LEVELS, modern_handshake
from mcpgw.upstream.mcp_wire import Sending

# What may be asked twice, by the protocol: nothing is done that a second time would do again.
_REPEATABLE = frozenset(
    {
        Verb.DISCOVER,
        Verb.RESOURCES_LIST,
        Verb.RESOURCE_TEMPLATES_LIST,
        Verb.RESOURCES_READ,
        Verb.PROMPTS_LIST,
        Verb.PROMPTS_GET,
        Verb.COMPLETE,
        Verb.LISTEN,
    }
)


class LegacyForModern:
    """Carries calls across, and back what servers ask in them."""

    def __init__(self, wire: LegacyWire, holding: Holding) -> None:
        self._wire = wire
        self._holding = holding
        self._ears = Ears(wire)

    def holds(self, sending: Sending) -> bool:
        """Whether this is a retry of a call that was carried across, whatever its server speaks by now."""
        return self._holding.knows(sending.action)

    async def ask(self, sending: Sending) -> Exchange:
        """Send a call. Raises NoHandshake and MethodNotAllowed (no stream offered) besides what every upstream does."""
        action = sending.action
        if action.verb in NOTIFICATIONS:
            return accepted(era=ERA)  # they concern nothing but their own request
        if STATE in action.forwarded:
            return await self._go_on(sending)
        if answers_ours(action):
            raise not_waiting()  # without its state it would be the same call once more
        for again in (True, False):
            channel = await self._wire.channel(sending)
            sent = False
            try:
                await self._want_log(channel)
                sent = True
                return await self._send(channel)
            except SessionLost:
                self._wire.forget(channel)
                if not again or (sent and action.verb not in _REPEATABLE):
                    break
        raise Asked(action.verb, sending.server, ERA).failed("session_lost", "no longer has the session of this call")

    async def aclose(self) -> None:
        await self._ears.aclose()

    async def _send(self, channel: Channel) -> Exchange:
        sending, session = channel.sending, channel.opened
        action = sending.action
        if action.verb is Verb.DISCOVER:
            facts = {"upstream_status": 200, "era": ERA}
            return Whole(Part(PartKind.WHOLE, _discovered(sending, session.result), facts=facts))
        if action.verb is Verb.LISTEN:
            return await self._ears.listen(channel)
        asked = Asked(action.verb, sending.server, ERA)
        found = await self._wire.post(channel, asked, _params(sending, asked))
        if isinstance(found, Part):
            return Whole(answer_of(found, action, session.info))
        stream = self._wire.streamed(channel, asked, found)
        stream.go_on(channel, self._retelling(channel, stream))
        return Turn(stream)

    async def _want_log(self, channel: Channel) -> None:
        """Have the server send messages of the level that this call wants; others in the session do not hear them."""
        client, session = channel.sending.action.client, channel.opened
        if client is None or client.log_level is None or "logging" not in session.capabilities:
            return
        wanted, held = LOG_LEVELS.index(client.log_level), session.log_level
        if held is not None and held <= wanted:
            return
        session.log_level = wanted  # at once: whoever wants less meanwhile must not be told after us
        settled = False
        try:
            asked = Asked(Verb.SET_LEVEL, channel.sending.server, ERA)
            await self._wire.request(channel, asked, b'{"level":%b}' % encode(client.log_level))
            settled = True
        except UpstreamFailed:
            settled = True  # it has no levels after all
        finally:
            if not settled:
                session.log_level = held

    async def _go_on(self, sending: Sending) -> Turn:
        """Take over the call that this is a retry of, and answer what its server has asked."""
        adoption = self._holding.find(sending.judged, sending.gate, LegacyStream)
        call, given = adoption.held, responses(sending.action)
        answers = [reply(q.id, "result", bytes(given[key])) for key, q in call.questions.items() if key in given]
        left = {key: question for key, question in call.questions.items() if key not in given}
        stream, channel = call.stream, self._wire.within(sending, call.stream.session)
        retelling = self._retelling(channel, stream, call.asked)

        async def say(gate: Gate) -> None:
            await self._want_log(channel)
            await channel.tell(answers[0], gate)

        try:
            await adoption.take_over(say if answers else None, lambda: stream.go_on(channel, retelling))
        except SessionLost:
            raise stream.asked.failed("session_lost", "no longer has the session of this call") from None
        again = self._suspended(sending, stream, left, call.asked) if left else None
        return Turn(stream, answers[1:], again)

    def _retelling(self, channel: Channel, stream: LegacyStream, before: int = 0) -> Retelling:
        sending, session = channel.sending, channel.opened
        suspend = partial(self._suspended, sending, stream)
        return Retelling(
            sending.judged, stream.asked, session.info, suspend, partial(self._ears.overheard, session), before
        )

    def _suspended(self, sending: Sending, stream: LegacyStream, questions: Mapping[str, Question], asked: int) -> Part:
        return self._holding.suspend(sending.judged, HeldCall(stream, questions, asked), upstream_status=200, era=ERA)


def _discovered(sending: Sending, initialized: bytes) -> bytes:
    try:
        return modern_handshake(initialized)
    except msgspec.DecodeError:
        asked = Asked(Verb.INITIALIZE, sending.server, ERA)
        raise asked.failed("malformed", "told of itself in a way that cannot be read") from None


def _params(sending: Sending, asked: Asked) -> bytes:
    action = without_responses(sending.action)
    meta = own_token(action.client.meta, asked.id) if action.client is not None else b"{}"
    return params_of(action, sending.judged.arguments.raw, meta if meta != b"{}" else b"")
