"""The board of running calls: what a kill switch cuts, and the gate that every write passes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from mcpgw.domain import Action, Mode, Principal, ServerVersion, Switches, Target
from mcpgw.errors import GatewayError, Killed, Unauthenticated, WorldMoved
from mcpgw.ports import Clock


class Call:
    """One action under way. Its gate is the guarantee; cancelling its task only makes things faster."""

    __slots__ = ("_board", "_cut", "_task", "action", "epoch", "finished", "sent", "version", "who")

    def __init__(self, board: Board, who: Principal, action: Action) -> None:
        self._board = board
        self._cut: GatewayError | None = None
        self._task: asyncio.Task[object] | None = None
        self.who = who
        self.action = action
        self.version: ServerVersion | None = None
        self.epoch = -1
        self.sent = False
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

    A switch that drains cuts none: of the latter it lets all finish.
    """

    calls: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()


class Board:
    """All running calls of one worker."""

    def __init__(self, published: Callable[[], int], clock: Clock) -> None:
        self.published = published
        self.clock = clock
        self.calls: dict[str, Call] = {}

    def enter(self, who: Principal, action: Action) -> Call:
        return Call(self, who, action)

    def get(self, action_id: str) -> Call | None:
        return self.calls.get(action_id)

    def cut_killed(self, switches: Switches) -> dict[str, Cut]:
        """Cut every call that a hard switch of these matches; return what each switch found under way.

        A call that several switches match is named by each: every certificate tells all that it stops or lets finish.
        """
        found: dict[str, Cut] = {}
        each = [(switch, Switches((switch,))) for switch in switches.standing]
        for call in list(self.calls.values()):
            target = Target.of(call.action, call.version.version if call.version is not None else None)
            if switches.match(call.who, target) is None:
                continue
            cutting = switches.match(call.who, target, hard_only=True)
            if cutting is not None:
                call.cut(Killed.by(cutting))
            sent = (call.action.id,) if call.sent else ()
            for switch, alone in each:
                if alone.match(call.who, target) is not None:
                    held = found.get(switch.id, Cut())
                    cut = (call.action.id,) if switch.mode is Mode.HARD else ()
                    found[switch.id] = Cut(held.calls + cut, held.sent + sent)
        return found
