"""The board of running calls: what a kill switch cuts, and the gate that every write passes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from mcpgw.domain import Action, Mode, Presented, Principal, ServerVersion, Switches, Target
from mcpgw.errors import GatewayError, Killed, Unauthenticated, Unavailable, WorldMoved
from mcpgw.ports import Clock, Held
from mcpgw.shelf import Released, Shelf, ShelfLimits, Suspended

NOTHING_SHOWN = Presented()
Refusal = Callable[[Principal], GatewayError | None]
"""Why the credential of a principal, which was good before, counts no more; None: it does."""


class Call:
    """One action under way. Its gate is the guarantee; cancelling its task only makes things faster.

    `presented` is what its caller showed: what is done on its behalf is done with that. `stale`: it was judged again,
    and what it was permitted to send would be sent otherwise now. `delivered`: a part of its answer
    has left.
    """

    __slots__ = (
        "_board",
        "_cut",
        "_task",
        "action",
        "delivered",
        "epoch",
        "finished",
        "presented",
        "sent",
        "stale",
        "suspended",
        "version",
        "who",
    )
    waits = False

    def __init__(self, board: Board, who: Principal, action: Action, presented: Presented) -> None:
        self._board = board
        self._cut: GatewayError | None = None
        self._task: asyncio.Task[object] | None = None
        self.who = who
        self.action = action
        self.presented = presented
        self.version: ServerVersion | None = None
        self.suspended: Suspended | None = None
        self.epoch = -1
        self.sent = False
        self.stale = False
        self.delivered = False
        self.finished = False

    def gate(self) -> None:
        """Raise unless the call may go on in the world that it was judged in."""
        if self._cut is not None:
            raise self._cut
        if self._board.published() > self.epoch:
            raise WorldMoved
        expires_at = self.who.expires_at
        if expires_at is not None and self._board.clock.time() >= expires_at:
            raise Unauthenticated("the credential expired during the call", fix="request a new token")

    def sending(self) -> None:
        """The gate of the transport: passing it means that the first byte is handed over in this very step."""
        self.gate()
        if self.stale:
            raise Unavailable("the policy wants other arguments of this call than when it began", fix="call again")
        self.sent = True

    def cut(self, error: GatewayError) -> None:
        """Let nothing of this call go on; the first error stands."""
        if self._cut is None and not self.finished:
            self._cut = error
            # Not at once: a cancellation that is requested while the call's own task runs would outlive the call.
            asyncio.get_running_loop().call_soon(self._interrupt)

    def _interrupt(self) -> None:
        """Wake the call where it waits; it is suspended now, so the cancellation arrives inside it."""
        if self._task is not None and not self.finished:
            self._task.cancel()

    def __enter__(self) -> Call:
        self._task = asyncio.current_task()
        self._board.calls[self.action.id] = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.finished = True
        del self._board.calls[self.action.id]
        if self._cut is not None and isinstance(error, asyncio.CancelledError):
            if self._task is not None:
                self._task.uncancel()
            raise self._cut from None


@dataclass(frozen=True, slots=True)
class Cut:
    """The ids of calls that a switch cut in one worker, and of those it matched whose first byte had been handed over.

    A switch that drains cuts none that run: of the latter it lets all finish.
    """

    calls: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()


class Board:
    """All calls of one worker: those that run, and on `shelf` those that wait for their caller."""

    def __init__(self, published: Callable[[], int], clock: Clock, shelf_limits: ShelfLimits | None = None) -> None:
        self.published = published
        self.clock = clock
        self.calls: dict[str, Call] = {}
        self._in_place_of: dict[str, str] = {}
        self.shelf = Shelf(clock, shelf_limits or ShelfLimits())

    def enter(self, who: Principal, action: Action, presented: Presented = NOTHING_SHOWN) -> Call:
        return Call(self, who, action, presented)

    def get(self, action_id: str) -> Call | None:
        """Return the running call of an action, or of the one that repeats it."""
        while action_id in self._in_place_of:
            action_id = self._in_place_of[action_id]
        return self.calls.get(action_id)

    @contextmanager
    def in_place_of(self, action_id: str, repeating: str) -> Iterator[None]:
        """Let whoever looks for an action find the one that repeats it."""
        self._in_place_of[action_id] = repeating
        try:
            yield
        finally:
            del self._in_place_of[action_id]

    def suspend(self, call: Call, held: Held, released: Released) -> None:
        """Let a call wait for its caller; from now on it ends here, or is adopted. Raises RateLimited."""
        call.suspended = Suspended(
            who=call.who,
            action=call.action,
            version=call.version,
            presented=call.presented,
            held=held,
            released=released,
        )
        self.shelf.put(call.suspended)

    def cut_ended(self, refusal_of: Refusal) -> None:
        """Cut every call whose credential counts no more, also one that is silent and would pass no gate for long."""
        for call in (*self.calls.values(), *self.shelf):
            refusal = refusal_of(call.who)
            if refusal is not None:
                call.cut(refusal)

    def cut_killed(self, switches: Switches) -> dict[str, Cut]:
        """Cut every call that a hard switch of these matches; return what each switch found under way.

        One that waits for its caller is cut by any: it could go on by another intent only, which the switch forbids. A
        call that several switches match is named by each: every certificate tells all that it stops or lets finish.
        """
        found: dict[str, Cut] = {}
        each = [(switch, Switches((switch,))) for switch in switches.standing]
        for call in (*self.calls.values(), *self.shelf):
            target = Target.of(call.action, call.version.version if call.version is not None else None)
            if switches.match(call.who, target) is None:
                continue
            cutting = switches.match(call.who, target, hard_only=not call.waits)
            if cutting is not None:
                call.cut(Killed.by(cutting))
            if call.waits and call.action.id in self.calls:
                continue  # its answer is still being delivered: it has been named
            sent = (call.action.id,) if call.sent else ()
            for switch, alone in each:
                if alone.match(call.who, target) is not None:
                    held = found.get(switch.id, Cut())
                    cut = (call.action.id,) if call.waits or switch.mode is Mode.HARD else ()
                    found[switch.id] = Cut(held.calls + cut, held.sent + sent)
        return found
