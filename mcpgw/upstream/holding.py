"""Calls whose server has asked something, on their way to wait for a retry and back from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Raw

from mcpgw.domain import Action, Judged, Part, PartKind
from mcpgw.errors import InvalidParams
from mcpgw.ports import Clock, Gate, Held, Shelf
from mcpgw.request_state import HeldRef, RequestStates
from mcpgw.upstream.mcp_for_modern_questions import STATE, input_required


@dataclass(frozen=True, slots=True)
class Question:
    """A request of a server, by its raw id, and as it is asked the client."""

    id: bytes
    method: str
    asked: Raw


class Asking(Held, Protocol):
    """A call that waits: by key the questions in it that the client has not answered."""

    @property
    def questions(self) -> Mapping[str, Question]: ...


A = TypeVar("A", bound=Asking)


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

    def suspend(self, judged: Judged, held: Asking, **facts: Any) -> Part:
        """Return the answer that asks the client of this call."""
        ends, until = judged.principal.expires_at, self._clock.time() + self._held_s
        ref = HeldRef.of(judged, until if ends is None else min(until, ends))
        questions = {key: question.asked for key, question in held.questions.items()}
        body = input_required(questions, self._states.shown(ref))
        asks = sorted({question.method for question in held.questions.values()})
        return Part(PartKind.LAST, body, facts={**facts, "asks": asks}, held=held)

    def find(self, judged: Judged, gate: Gate, kind: type[A]) -> Adoption[A]:
        """Return the way to the call that this retry, of a state of ours, belongs to. Raises InvalidParams."""
        ref = self._states.find(judged.action.forwarded[STATE])
        if ref is None or not ref.is_of(judged, self._clock.time()):
            raise not_waiting()
        held = self._shelf.find(ref.action_id)
        if not isinstance(held, kind):
            raise not_waiting()
        return Adoption(self._shelf, ref.action_id, held, judged, gate)


@dataclass(slots=True)
class Adoption(Generic[A]):
    """A retry on its way to the call that it goes on with. Called, it is the gate of the retry's first write."""

    shelf: Shelf
    action_id: str
    held: A
    judged: Judged
    gate: Gate
    done: bool = False

    def __call__(self) -> None:
        if self.shelf.find(self.action_id) is not self.held:
            raise not_waiting()
        self.gate()
        self.shelf.adopt(self.action_id, self.judged.action)
        self.done = True


def not_waiting() -> InvalidParams:
    """Return the one answer to a state that is forged, foreign, expired, used already, or of another call."""
    return InvalidParams(f"`params.{STATE}` names no call of yours that waits", fix="call again without it")
