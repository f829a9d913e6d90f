"""The shelf of calls that wait for their caller: bounds, deadlines, and who ends them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from mcpgw.domain import Mode, Presented, Principal, Scope, Switches
from mcpgw.errors import Killed, RateLimited, RequestTimeout, Unavailable
from mcpgw.running import Board, Cut
from mcpgw.shelf import Shelf, ShelfLimits, Suspended
from tests.parts import SetClock, action, agent, published, switch

LIMITS = ShelfLimits(per_principal=2, in_all=3, ttl_s=60.0)


@dataclass
class Rest:
    """What is left of an exchange."""

    ended: list[BaseException] = field(default_factory=list)

    def end(self, reason: BaseException) -> None:
        self.ended.append(reason)


@dataclass
class Waiting:
    """One call that waits, and what it was told."""

    suspended: Suspended
    rest: Rest
    released: list[tuple[BaseException | None, str | None]]


def waiting(action_id: str, who: Principal | None = None) -> Waiting:
    rest, released = Rest(), list[tuple[BaseException | None, str | None]]()
    suspended = Suspended(
        who=who or agent(),
        action=action(id=action_id),
        version=published(),
        presented=Presented(),
        held=rest,
        released=lambda reason, retry: released.append((reason, retry)),
    )
    return Waiting(suspended, rest, released)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def shelf(clock: SetClock) -> Shelf:
    return Shelf(clock, LIMITS)


@pytest.mark.requirement("held:state")
def test_a_retry_takes_a_call_once(shelf: Shelf) -> None:
    one = waiting("a")
    shelf.put(one.suspended)
    assert shelf.find("a") is one.rest
    assert shelf.adopt("a", action(id="retry")) is one.rest
    assert shelf.find("a") is None
    assert shelf.adopt("a", action(id="another")) is None
    one.suspended.cut(Killed("too late"))
    assert one.rest.ended == []
    assert one.released[0] == (None, "retry")
    assert len(shelf) == 0


@pytest.mark.requirement("held:bounded")
def test_a_caller_with_too_many_calls_that_wait_loses_the_oldest(shelf: Shelf) -> None:
    mine = [waiting(f"mine-{n}") for n in range(3)]
    other = waiting("other", agent("bob"))
    for one in (mine[0], other, mine[1], mine[2]):
        shelf.put(one.suspended)
    assert [type(reason) for reason in mine[0].rest.ended] == [RateLimited]
    assert [s.action.id for s in shelf] == ["other", "mine-1", "mine-2"]
    assert mine[1].rest.ended == mine[2].rest.ended == other.rest.ended == []


@pytest.mark.requirement("held:bounded")
def test_when_every_place_is_taken_the_newest_call_ends(shelf: Shelf) -> None:
    for name in ("a", "b", "c"):
        shelf.put(waiting(name, agent(name)).suspended)
    late = waiting("d", agent("d"))
    with pytest.raises(RateLimited) as refused:
        shelf.put(late.suspended)
    assert late.rest.ended == [refused.value]
    assert [s.action.id for s in shelf] == ["a", "b", "c"]


@pytest.mark.requirement("held:bounded")
def test_a_call_waits_for_so_long_and_no_longer_than_its_credential_lasts(shelf: Shelf, clock: SetClock) -> None:
    patient, brief = waiting("a"), waiting("b", agent("bob", expires_at=clock.now + 10))
    shelf.put(patient.suspended)
    shelf.put(brief.suspended)
    clock.now += 10
    assert shelf.find("b") is None  # also before it is swept
    shelf.sweep()
    assert [type(reason) for reason in brief.rest.ended] == [RequestTimeout]
    clock.now += 49
    shelf.sweep()
    assert patient.rest.ended == []
    clock.now += 1
    shelf.sweep()
    assert [type(reason) for reason, _ in patient.released] == [RequestTimeout]
    assert len(shelf) == 0


@pytest.mark.requirement("held:ended")
def test_all_calls_that_wait_end_with_the_gateway(shelf: Shelf) -> None:
    both = [waiting("a"), waiting("b")]
    for one in both:
        shelf.put(one.suspended)
    shelf.close()
    assert all(isinstance(one.rest.ended[0], Unavailable) for one in both)
    assert len(shelf) == 0


# Kill switches


def board_with(*waits: Waiting) -> Board:
    clock = SetClock()
    board = Board(lambda: 1, clock, LIMITS)
    for one in waits:
        board.shelf.put(one.suspended)
    return board


@pytest.mark.requirement("held:killed")
@pytest.mark.parametrize("mode", Mode)
def test_a_switch_ends_a_call_that_waits_and_names_it(mode: Mode) -> None:
    """Also one that drains: the call could go on by another intent only, which the switch forbids."""
    mine, other = waiting("a"), waiting("b", agent("bob"))
    board = board_with(mine, other)
    thrown = switch(Scope.PRINCIPAL, agent().selector, mode)
    assert board.cut_killed(Switches([thrown])) == {thrown.id: Cut(("a",), ("a",))}
    assert mine.released == [(mine.rest.ended[0], None)]
    assert isinstance(mine.rest.ended[0], Killed)
    assert mine.rest.ended[0].data["switch"] == thrown.id
    assert (other.rest.ended, len(board.shelf)) == ([], 1)
    assert board.cut_killed(Switches([thrown])) == {}  # it is named once, by the switch that ended it


@pytest.mark.requirement("held:killed")
async def test_a_call_whose_question_is_being_delivered_is_named_once() -> None:
    board = board_with()
    rest = Rest()
    released: list[Any] = []
    with pytest.raises(Killed), board.enter(agent(), action(id="a")) as call:
        call.epoch, call.version, call.sent = 1, published(), True
        board.suspend(call, rest, lambda reason, retry: released.append(reason))
        thrown = switch(Scope.SERVER, "notes")
        assert board.cut_killed(Switches([thrown])) == {thrown.id: Cut(("a",), ("a",))}
        assert len(rest.ended) == len(released) == 1
        call.gate()
