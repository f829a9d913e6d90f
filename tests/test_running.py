"""The board of running calls: the gate, the cut, and what a switch names."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from mcpgw.domain import Mode, Scope, Switches
from mcpgw.errors import Cancelled, ClientGone, GatewayError, Killed, Unauthenticated, Unavailable, WorldMoved
from mcpgw.running import Board, Call, Cut
from tests.parts import SetClock, action, agent, published, switch


class Machine:
    """A board, its clock and its published epoch."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.epoch = 1
        self.board = Board(lambda: self.epoch, self.clock)

    def enter(self, action_id: str = "a", **who: object) -> Call:
        call = self.board.enter(agent(**who), action(id=action_id))
        call.epoch = 1
        return call


@pytest.fixture
def machine() -> Machine:
    return Machine()


async def ended(call: Call, error: GatewayError, waiting: asyncio.Event) -> BaseException | None:
    """Cut a call that waits in another task; return how that task ended."""

    async def run() -> None:
        with call:
            waiting.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await waiting.wait()
    call.cut(error)
    return (await asyncio.gather(task, return_exceptions=True))[0]


# The gate


@pytest.mark.requirement("gate:epoch")
@pytest.mark.parametrize("judged_in", [-1, 0, 1])
def test_the_gate_stops_a_call_that_was_judged_in_an_older_world(machine: Machine, judged_in: int) -> None:
    call = machine.enter()
    call.epoch = judged_in
    if judged_in == 1:
        call.gate()
    else:
        with pytest.raises(WorldMoved):
            call.gate()
    machine.epoch = 2
    with pytest.raises(WorldMoved):
        call.gate()


@pytest.mark.requirement("gate:epoch")
def test_a_published_epoch_that_fell_behind_does_not_stop_a_call_judged_in_the_newest_world(machine: Machine) -> None:
    """Two workers that publish at once may leave the lower number for a moment; the newer world is still right."""
    call = machine.enter()
    call.epoch = 7
    machine.epoch = 6
    call.gate()


@pytest.mark.requirement("gate:expiry")
def test_a_credential_that_expires_during_the_call_stops_it_at_the_next_gate(machine: Machine) -> None:
    call = machine.enter(expires_at=machine.clock.now + 10)
    machine.clock.now += 9.999
    call.gate()
    machine.clock.now += 0.001
    with pytest.raises(Unauthenticated):
        call.gate()


@pytest.mark.requirement("gate:expiry")
def test_a_credential_without_an_end_never_expires(machine: Machine) -> None:
    call = machine.enter()
    machine.clock.now += 10**9
    call.gate()


@pytest.mark.requirement("gate:sent")
async def test_passing_the_gate_of_the_transport_means_that_the_call_was_sent(machine: Machine) -> None:
    with machine.enter() as call:
        assert not call.sent
        call.gate()
        assert not call.sent
        call.sending()
        assert call.sent


@pytest.mark.requirement("gate:stale")
async def test_a_call_whose_arguments_would_be_others_now_is_answered_but_sends_nothing_more(machine: Machine) -> None:
    with machine.enter() as call:
        call.sending()
        call.stale = True
        call.gate()
        with pytest.raises(Unavailable, match="other arguments"):
            call.sending()


@pytest.mark.requirement("gate:sent")
async def test_a_call_that_does_not_pass_was_not_sent(machine: Machine) -> None:
    with machine.enter() as call:
        machine.epoch = 2
        with pytest.raises(WorldMoved):
            call.sending()
        assert not call.sent


# The cut


@pytest.mark.requirement("cut:waiting")
async def test_a_call_that_waits_is_cut_where_it_waits_and_ends_with_the_error(machine: Machine) -> None:
    error = Cancelled("by the client")
    assert await ended(machine.enter(), error, asyncio.Event()) is error
    assert machine.board.calls == {}


@pytest.mark.requirement("cut:waiting")
async def test_a_cut_call_passes_no_gate_even_before_it_is_woken(machine: Machine) -> None:
    with pytest.raises(ClientGone), machine.enter() as call:
        call.cut(ClientGone("gone"))
        call.gate()


@pytest.mark.requirement("cut:own-task")
async def test_a_call_cut_by_its_own_task_ends_at_its_next_wait_with_the_error(machine: Machine) -> None:
    reached = []
    with pytest.raises(Cancelled), machine.enter() as call:
        call.cut(Cancelled("by itself"))
        reached.append("goes on until it waits")
        await asyncio.Event().wait()
        reached.append("never")
    assert reached == ["goes on until it waits"]


@pytest.mark.requirement("cut:own-task")
async def test_the_cancellation_of_a_call_never_outlives_it(machine: Machine) -> None:
    """Cut and finished in one step: the task that carried the call is not cancelled afterwards."""
    with machine.enter() as call:
        call.cut(Cancelled("too late"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.requirement("cut:own-task")
async def test_after_a_cut_the_task_can_be_timed_and_cancelled_like_any_other(machine: Machine) -> None:
    async def run() -> str:
        try:
            with machine.enter() as call:
                call.cut(Cancelled("cut"))
                await asyncio.Event().wait()
        except Cancelled:
            pass
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"
        return "never"

    assert await asyncio.create_task(run()) == "timed out"


@pytest.mark.requirement("cut:swallowed")
async def test_a_call_that_swallows_its_cancellation_still_passes_no_gate(machine: Machine) -> None:
    """Libraries swallow cancellations; the promise rests on the gate."""

    async def run() -> None:
        with machine.enter() as call:
            call.cut(Cancelled("cut"))
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            call.gate()

    outcome = (await asyncio.gather(asyncio.create_task(run()), return_exceptions=True))[0]
    assert isinstance(outcome, Cancelled)


@pytest.mark.requirement("cut:first-stands")
async def test_the_first_cut_stands(machine: Machine) -> None:
    with pytest.raises(ClientGone), machine.enter() as call:
        call.cut(ClientGone("first"))
        call.cut(Cancelled("second"))
        await asyncio.Event().wait()


async def test_a_cancellation_from_elsewhere_stays_one(machine: Machine) -> None:
    waiting = asyncio.Event()

    async def run() -> None:
        with machine.enter():
            waiting.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert machine.board.calls == {}


async def test_an_error_of_the_call_itself_is_not_replaced(machine: Machine) -> None:
    with pytest.raises(ZeroDivisionError), machine.enter() as call:
        call.cut(Cancelled("cut"))
        raise ZeroDivisionError


async def test_a_call_is_on_the_board_as_long_as_it_lasts(machine: Machine) -> None:
    with machine.enter("a") as call:
        assert machine.board.get("a") is call
    assert machine.board.get("a") is None
    call.cut(Cancelled("too late"))


@pytest.mark.requirement("principals:cut")
async def test_calls_whose_credential_counts_no_more_are_cut_where_they_wait_and_no_others(machine: Machine) -> None:
    revoked = Unauthenticated("revoked")

    async def run(action_id: str, subject: str) -> None:
        with machine.board.enter(agent(subject), action(id=action_id)):
            waiting.release()
            await asyncio.Event().wait()

    waiting = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(run(f"a{n}", subject)) for n, subject in enumerate(("ada", "bob", "ada"))]
    for _ in tasks:
        await waiting.acquire()
    machine.board.cut_ended(lambda who: revoked if who.subject == "ada" else None)
    ended = await asyncio.gather(tasks[0], tasks[2], return_exceptions=True)
    assert ended == [revoked, revoked]
    assert list(machine.board.calls) == ["a1"]
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)


# What a switch names


async def cut_by(machine: Machine, *switches: object) -> dict[str, Cut]:
    """Enter three calls (one sent), throw, and let the cut ones end."""
    held = asyncio.Event()
    calls = [machine.enter("idle"), machine.enter("sent"), machine.enter("bob", subject="bob")]
    calls[1].sent = True
    for call in calls:
        call.version = published()

    async def run(call: Call) -> None:
        with call:
            await held.wait()

    tasks = [asyncio.create_task(run(call)) for call in calls]
    await asyncio.sleep(0)
    found = machine.board.cut_killed(Switches(switches))
    await asyncio.sleep(0)
    held.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    named = {name for cut in found.values() for name in cut.calls}
    for call, outcome in zip(calls, outcomes, strict=True):
        assert isinstance(outcome, Killed) == (call.action.id in named)
    return found


@pytest.mark.requirement("kill:in-flight")
async def test_a_hard_switch_cuts_what_it_matches_and_names_what_may_have_taken_effect(machine: Machine) -> None:
    thrown = switch(Scope.PRINCIPAL, agent().selector)
    assert await cut_by(machine, thrown) == {thrown.id: Cut(("idle", "sent"), ("sent",))}


@pytest.mark.requirement("kill:in-flight")
async def test_a_draining_switch_cuts_nothing_and_names_what_it_lets_finish(machine: Machine) -> None:
    thrown = switch(Scope.SERVER, "notes", Mode.DRAIN)
    assert await cut_by(machine, thrown) == {thrown.id: Cut((), ("sent",))}


@pytest.mark.requirement("kill:in-flight")
async def test_a_version_switch_cuts_calls_of_the_active_version(machine: Machine) -> None:
    thrown = switch(Scope.VERSION, "notes@1.0.0")
    assert await cut_by(machine, thrown, switch(Scope.VERSION, "notes@2.0.0")) == {
        thrown.id: Cut(("idle", "sent", "bob"), ("sent",))
    }


@pytest.mark.requirement("kill:in-flight")
async def test_a_call_that_several_switches_match_is_named_by_each_of_them(machine: Machine) -> None:
    """Each certificate must name every matching call that is unfinished, whoever else has cut it."""
    wide, narrow = switch(Scope.GLOBAL, "*"), switch(Scope.PRINCIPAL, "https://id.example|bob")
    same, draining = switch(Scope.GLOBAL, "*"), switch(Scope.SERVER, "notes", Mode.DRAIN)
    everything = Cut(("idle", "sent", "bob"), ("sent",))
    assert await cut_by(machine, wide, narrow, same, draining) == {
        wide.id: everything,
        same.id: everything,
        narrow.id: Cut(("bob",), ()),
        draining.id: Cut((), ("sent",)),
    }
