"""Calls whose server has asked something, on their way to wait for a retry and back from there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Raw

from mcpgw.domain import Action, Judged, Part, PartKind
from mcpgw.errors import InvalidParams
from mcpgw.ports import Clock, Gate, Shelf
from mcpgw.request_state import HeldRef, RequestStates
from mcpgw.upstream.mcp_for_modern_questions import STATE, input_required
from mcpgw.upstream.mcp_wire import opened_late


@dataclass(frozen=True, slots=True)
class Question:
    """A request of a server, by its raw id, and as it is asked the client."""

    id: bytes
    method: str
    asked: Raw


class Suspendable(Protocol):
    """A call under way in which its server may ask something. Iterated, it goes on behind a part that is held."""

    @property
    def opened(self) -> Part:
        """What stands before all else that is told of it."""
        ...

    def __aiter__(self) -> AsyncIterator[Part]: ...

    def say(self, body: bytes) -> AsyncGenerator[Part, None]:
        """Write what the client has answered."""
        ...

    async def aclose(self, reason: BaseException | None) -> None:
        """Let go of it, in the name of whoever goes on with it now."""
        ...

    def abandon(self) -> None:
        """Let go of it when no call stands behind it any more."""
        ...


S = TypeVar("S", bound=Suspendable)


@dataclass(frozen=True, slots=True, eq=False)
class HeldCall(Generic[S]):
    """Implements `ports.Held`: a call, and by key the questions in it that the client has not answered.

    `asked` is how many there have been: no key comes up twice.
    """

    stream: S
    questions: Mapping[str, Question]
    asked: int

    def end(self, reason: BaseException) -> None:
        self.stream.abandon()


class Holding:
    """Suspends calls, and finds them again for their retries."""

    def __init__(self, states: RequestStates, shelf: Shelf, clock: Clock, held_s: float) -> None:
        self._states = states
        self._shelf = shelf
        self._clock = clock
        self._held_s = held_s

    def knows(self, action: Action) -> bool:
        """Whether the state that a request brings is one of ours."""
        raw = action.forwarded.get(STATE)
        return raw is not None and self._states.find(raw) is not None

    def suspend(self, judged: Judged, held: HeldCall[S], **facts: Any) -> Part:
        """Return the answer that asks the client of this call."""
        ends, until = judged.principal.expires_at, self._clock.time() + self._held_s
        ref = HeldRef.of(judged, until if ends is None else min(until, ends))
        questions = {key: question.asked for key, question in held.questions.items()}
        body = input_required(questions, self._states.shown(ref))
        asks = sorted({question.method for question in held.questions.values()})
        return Part(PartKind.LAST, body, facts={**facts, "asks": asks}, held=held)

    def find(self, judged: Judged, gate: Gate, kind: type[S]) -> Adoption[S]:
        """Return the way to the call that this retry, of a state of ours, belongs to. Raises InvalidParams."""
        ref = self._states.find(judged.action.forwarded[STATE])
        if ref is None or not ref.is_of(judged, self._clock.time()):
            raise not_waiting()
        held = self._shelf.find(ref.action_id)
        if not isinstance(held, HeldCall) or not isinstance(held.stream, kind):
            raise not_waiting()
        return Adoption(self._shelf, ref.action_id, held, judged, gate)


@dataclass(slots=True)
class Adoption(Generic[S]):
    """A retry on its way to the call that it goes on with. Called, it is the gate of the retry's first write."""

    shelf: Shelf
    action_id: str
    held: HeldCall[S]
    judged: Judged
    gate: Gate
    done: bool = False

    def __call__(self) -> None:
        if self.shelf.find(self.action_id) is not self.held:
            raise not_waiting()
        self.gate()
        self.shelf.adopt(self.action_id, self.judged.action)
        self.done = True

    async def take_over(self, say: Callable[[Gate], Awaitable[object]] | None, go_on: Callable[[], None]) -> None:
        """Take the call over while `say` writes the first answer to its server; None: there is none to write.

        `go_on` puts the retry in the place of the call before. After that, whatever goes wrong is the call's end.
        """
        ended: BaseException | None = None
        try:
            if say is None:
                self()
            else:
                await say(self)
        except BaseException as error:
            ended = error
            raise
        finally:
            if self.done:
                go_on()
                if ended is not None:
                    await self.held.stream.aclose(ended)


class Turn:
    """An exchange: what a server says up to its answer, or to what it asks of the client.

    Before that it is told `answers`; `first`: then the client is asked that once more, before the server says anything.
    """

    def __init__(self, stream: Suspendable, answers: Sequence[bytes] = (), first: Part | None = None) -> None:
        self._stream = stream
        self._held = False
        self._turn = self._read(answers, first)
        self._parts = opened_late(self._turn, stream.opened, at_once=False)

    def __aiter__(self) -> AsyncIterator[Part]:
        return self._parts

    async def aclose(self, reason: BaseException | None) -> None:
        await self._parts.aclose()
        await self._turn.aclose()
        if not self._held:
            await self._stream.aclose(reason)

    async def _read(self, answers: Sequence[bytes], first: Part | None) -> AsyncGenerator[Part, None]:
        for answer in answers:
            async with aclosing(self._stream.say(answer)) as parts:
                async for part in parts:
                    yield part
        if first is not None:
            self._held = True
            yield first
            return
        async for part in self._stream:  # which goes on in the next turn: it is not closed with this one
            self._held = part.held is not None
            yield part
            if part.kind is PartKind.LAST:
                return


def not_waiting() -> InvalidParams:
    """Return the one answer to a state that is forged, foreign, expired, used already, or of another call."""
    return InvalidParams(f"`params.{STATE}` names no call of yours that waits", fix="call again without it")
