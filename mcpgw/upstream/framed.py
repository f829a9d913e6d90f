"""Calls on connections that carry many: of a server process, or of a session over HTTP+SSE."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from mcpgw.config import LimitsSection
from mcpgw.domain import Action, Judged, Part, PartKind, Verb
from mcpgw.errors import (
    EraCrossing,
    InvalidRequest,
    MethodNotAllowed,
    MethodNotFound,
    RateLimited,
    UpstreamTimeout,
)
from mcpgw.ports import Exchange, Gate
from mcpgw.task_ids import TaskIds
from mcpgw.upstream.farewells import Farewells
from mcpgw.upstream.framed_call import Common, FramedCall, FramedStream
from mcpgw.upstream.framed_listening import FramedListener
from mcpgw.upstream.greeting import Link, Live, answered_by
from mcpgw.upstream.holding import Holding, Turn, not_waiting
from mcpgw.upstream.mcp_for_modern_questions import STATE, answers_ours, responses, without_responses
from mcpgw.upstream.mcp_for_modern_wishes import Subscription, granted
from mcpgw.upstream.mcp_parts import (
    Asked,
    Message,
    Whole,
    accepted,
    encode,
    members,
    next_id,
    notification,
    params_of,
    request,
)
from mcpgw.upstream.mcp_tasks import addressed
from mcpgw.upstream.mcp_translate import LOG_LEVELS

_OF_ONE_CLIENT = frozenset({Verb.SET_LEVEL, Verb.RESOURCES_SUBSCRIBE, Verb.RESOURCES_UNSUBSCRIBE})
_TOLD = frozenset({Verb.ROOTS_CHANGED, Verb.PROGRESS})


class Framed:
    """Sends calls over such connections; what `holding` and `task_ids` are for, and None, says `Common`."""

    def __init__(self, limits: LimitsSection, holding: Holding | None = None, task_ids: TaskIds | None = None) -> None:
        self._limits = limits
        self._holding = holding
        self._farewells = Farewells()
        self._common = Common(limits, self._farewells, holding, task_ids)

    async def go_on(self, judged: Judged, gate: Gate) -> Exchange | None:
        """Go on with the call that waits for this retry; None: it is a call of its own. Raises InvalidParams."""
        if self._holding is None or not self._holding.knows(judged.action):
            return None
        adoption = self._holding.find(judged, gate, FramedCall)
        held, call, given = adoption.held, adoption.held.stream, responses(judged.action)
        link = call.live.link
        frames = link.frames
        wanted = {q.id: bytes(given[k]) for k, q in held.questions.items() if k in given and frames.is_open(q.id)}
        left = {key: question for key, question in held.questions.items() if key not in given}
        answers = [frames.answer(shown, "result", value, call.asked) for shown, value in wanted.items()]

        async def say(gate: Gate) -> None:
            await self._in_time(link, link.write(answers[0], gate))

        await adoption.take_over(say if answers else None, lambda: call.go_on(judged, gate, held.asked))
        for shown in wanted:
            frames.answered(shown)
        return Turn(call, answers[1:], call.suspended(left, held.asked) if left else None)

    async def send(self, live: Live, judged: Judged, gate: Gate) -> Exchange:
        """Send a call, or answer it from what the server has told of itself."""
        action = judged.action
        known = answered_by(live.greeting, action, exclusive=live.exclusive)
        if known is not None:
            return Whole(Part(PartKind.WHOLE, known, facts={"era": live.greeting.era}))
        _refuse(live, action)
        if action.verb is Verb.STREAM:
            return FramedStream(live, judged, self._limits)
        if action.verb is Verb.LISTEN and not live.greeting.modern:
            return await self._listen(live, judged, gate)
        await self._want_log(live, judged, gate)
        modern = live.greeting.modern
        action = addressed(judged) if modern else without_responses(action)
        listens_as = action.forwarded.get("#id") if action.verb is Verb.LISTEN else None
        asked = Asked(
            action.verb,
            live.link.name,
            live.greeting.era,
            client_id=listens_as,
            judged=judged if modern else None,  # tasks are of this generation alone
            task_ids=self._common.task_ids,
        )
        return await self.ask(live, judged, gate, asked, action)

    async def ask(self, live: Live, judged: Judged, gate: Gate, asked: Asked, action: Action) -> Turn:
        """Send a request: `action`, which holds the judged values, in the server's generation."""
        if len(live.link.frames) >= self._limits.per_upstream:
            raise RateLimited(f"`{action.server}` has as many running calls as it may", data={"retry_after_s": 1})
        call = FramedCall(self._common, live, judged, gate, asked, action)
        try:
            await self._in_time(live.link, call.write())
        except BaseException as error:
            await call.aclose(error)
            raise
        return Turn(call)

    async def tell(self, live: Live | None, judged: Judged, gate: Gate) -> Whole:
        """Pass on a client's notification, or its answer to a request of the server; None: there is no connection."""
        action = judged.action
        if action.verb is Verb.ANSWER:
            return await self._answer(live, action, gate)
        if live is not None and live.exclusive and action.verb in _TOLD and not live.greeting.modern:
            body = notification(action.verb.value, params_of(action, b"{}", b""))
            await self._in_time(live.link, live.link.write(body, gate))
        return accepted()

    async def aclose(self) -> None:
        """Drop what is still to be said to servers."""
        await self._farewells.aclose()

    async def _answer(self, live: Live | None, action: Action, gate: Gate) -> Whole:
        member = "result" if "result" in action.forwarded else "error"
        if "id" not in action.forwarded or member not in action.forwarded:
            raise InvalidRequest("an answer needs the `id` of what it answers, and a `result` or an `error`")
        asked = Asked(action.verb, action.server or "", live.greeting.era if live is not None else "legacy")
        if live is None:
            raise asked.failed("session_lost", "no longer has the session of the request that is answered")
        shown, frames = action.forwarded["id"], live.link.frames
        frame = frames.answer(shown, member, action.forwarded[member], asked)

        def written() -> None:
            gate()
            frames.answered(shown)

        await self._in_time(live.link, live.link.write(frame, written))
        return accepted(era=asked.era)

    async def _want_log(self, live: Live, judged: Judged, gate: Gate) -> None:
        """Have the server send messages of the level that a modern client's call wants."""
        client, frames = judged.action.client, live.link.frames
        if client is None or not client.modern or client.log_level is None or not live.offers("logging"):
            return
        wanted, held = LOG_LEVELS.index(client.log_level), frames.log_level
        if held is not None and held <= wanted:
            return
        frames.log_level = wanted  # at once: whoever wants less meanwhile must not be told after us
        settled = False
        try:
            await self._request(live, Verb.SET_LEVEL, b'{"level":%b}' % encode(client.log_level), gate)
            settled = True
        finally:
            if not settled:
                frames.log_level = held

    async def _listen(self, live: Live, judged: Judged, gate: Gate) -> FramedListener:
        """Return what a modern client hears, once the server has been asked for it. Raises MethodNotAllowed."""
        action = judged.action
        wanted = granted(action, members(live.greeting.capabilities), action.server or "")
        listener = FramedListener(live, Subscription(action, wanted), gate, self._limits, self._farewells)

        async def subscribe(params: bytes) -> bool:
            return not (await self._request(live, Verb.RESOURCES_SUBSCRIBE, params, gate)).error

        try:
            await listener.subscribe(subscribe)
        except BaseException as error:
            await listener.aclose(error)
            raise
        return listener

    async def _request(self, live: Live, verb: Verb, params: bytes, gate: Gate) -> Message:
        """Ask the server something on a call's behalf, and return its answer."""
        link, pending = live.link, live.link.frames.expect(next_id())
        try:
            await self._in_time(link, link.write(request(pending.id, verb.value, params), gate, pending.id))
            while (message := await link.frames.next(pending, self._limits.call_s)).method is not None:
                continue
            return message
        finally:
            link.frames.forget(pending)

    async def _in_time(self, link: Link, writing: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(self._limits.call_s):
                await writing
        except TimeoutError:
            raise UpstreamTimeout(f"`{link.name}` does not read its input", fix="see the gateway's log") from None


def _refuse(live: Live, action: Action) -> None:
    """Raise for what this connection does not offer in the caller's generation."""
    found, server = live.greeting, action.server
    if not found.modern and (STATE in action.forwarded or answers_ours(action)):
        raise not_waiting()  # without the call that waits it would be the same call once more
    native = live.exclusive and not found.modern
    if action.verb is Verb.STREAM and not native:
        raise MethodNotAllowed(f"`{server}` offers no stream of its own")
    if action.verb in _OF_ONE_CLIENT and not native:
        raise MethodNotFound(f"`{server}` is one connection for all callers: it does not offer {action.verb.value}")
    if action.verb is Verb.LISTEN and not found.modern and not live.exclusive:
        raise EraCrossing(
            f"`{server}` speaks {found.version} only, and is one connection for all callers: nobody can subscribe",
            fix="list again now and then",
            data={"supported": [found.version]},
        )
