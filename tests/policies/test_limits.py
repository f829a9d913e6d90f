"""What one caller and one upstream may take at once."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.config import LimitsSection
from mcpgw.domain import SYSTEM, Judged, Principal, Verb
from mcpgw.errors import RateLimited
from mcpgw.judge import judge
from mcpgw.policies.limits import REMEMBERED, ConcurrencyMeter
from mcpgw.ports import Hold
from tests.parts import SetClock, action, agent, published, world_of

WORLD = world_of(published("notes"), published("files"))


async def judged(who: Principal | None = None, server: str = "notes") -> Judged:
    return await judge(WORLD, who or agent(), action(server=server))


def key(name: str = "key-1", **limits: int) -> Principal:
    return agent(client_id=name, credential=name, **limits)


def meter(per_principal: int = 2, per_upstream: int = 3) -> ConcurrencyMeter:
    return ConcurrencyMeter(LimitsSection(per_principal=per_principal, per_upstream=per_upstream))


@pytest.mark.requirement("limits:principal")
async def test_a_caller_with_as_many_calls_as_it_may_is_told_when_to_try_again() -> None:
    counted = meter()
    held = [await counted.reserve(await judged(server=server)) for server in ("notes", "files")]
    with pytest.raises(RateLimited) as caught:
        await counted.reserve(await judged())
    assert caught.value.data == {"retry_after_s": 1}
    await counted.reserve(await judged(agent("bob")))
    held[0].settle({})
    await counted.reserve(await judged())


@pytest.mark.requirement("limits:principal")
async def test_two_clients_of_one_person_are_counted_apart() -> None:
    counted = meter(per_principal=1)
    await counted.reserve(await judged(agent(client_id="desk")))
    await counted.reserve(await judged(agent(client_id="phone")))
    with pytest.raises(RateLimited):
        await counted.reserve(await judged(agent(client_id="desk")))


@pytest.mark.requirement("limits:upstream")
async def test_an_upstream_with_as_many_calls_as_it_may_have_is_spared_and_the_others_go_on() -> None:
    counted = meter()
    for name in ("a", "b", "c"):
        await counted.reserve(await judged(agent(name)))
    with pytest.raises(RateLimited, match="`notes` has 3 calls running"):
        await counted.reserve(await judged(agent("d")))
    await counted.reserve(await judged(agent("d"), "files"))


@pytest.mark.requirement("limits:upstream")
async def test_the_gateway_itself_is_bounded_by_the_upstream_alone() -> None:
    counted = meter(per_principal=1)
    for _ in range(3):
        await counted.reserve(await judged(SYSTEM))
    with pytest.raises(RateLimited):
        await counted.reserve(await judged(SYSTEM))


@pytest.mark.requirement("limits:given-back")
async def test_a_refused_reservation_takes_nothing() -> None:
    counted = meter(per_principal=5, per_upstream=1)
    held = await counted.reserve(await judged())
    for _ in range(10):
        with pytest.raises(RateLimited):
            await counted.reserve(await judged())
    held.refund()
    for server in ("notes", "files"):
        await counted.reserve(await judged(server=server))


@pytest.mark.requirement("limits:given-back")
@given(st.lists(st.tuples(st.sampled_from(["reserve", "settle", "refund", "both"]), st.integers(0, 20)), max_size=40))
async def test_every_place_is_given_back_once_however_a_call_ends(steps: list[tuple[str, int]]) -> None:
    counted = meter(per_principal=3, per_upstream=4)
    held: list[Hold] = []
    for step, number in steps:
        if step == "reserve":
            with suppress(RateLimited):
                held.append(await counted.reserve(await judged(agent(f"caller {number % 3}"))))
        elif held:
            hold = held.pop(number % len(held))
            for end in {"settle": "s", "refund": "r", "both": "srs"}[step]:
                hold.settle({}) if end == "s" else hold.refund()
        assert counted._by_server.get("notes", 0) == len(held)
    for hold in held:
        hold.settle({})
    assert (counted._calls, counted._by_server) == ({}, {})


# Limits of one key


@pytest.mark.requirement("keys:limits")
async def test_a_key_with_as_many_calls_running_as_it_may_waits_for_one_of_its_own() -> None:
    counted = meter(per_principal=10, per_upstream=10)
    held = [await counted.reserve(await judged(key(concurrent=2))) for _ in range(2)]
    for _ in range(3):
        with pytest.raises(RateLimited, match="2 calls running") as refused:
            await counted.reserve(await judged(key(concurrent=2)))
    assert refused.value.data == {"retry_after_s": 1}
    await counted.reserve(await judged(key("key-2", concurrent=2)))
    held[0].settle({})
    await counted.reserve(await judged(key(concurrent=2)))


@pytest.mark.requirement("keys:limits")
async def test_a_key_makes_its_calls_of_a_minute_and_is_told_when_the_next_one_is_due() -> None:
    clock = SetClock(0.0)
    counted = ConcurrencyMeter(LimitsSection(per_principal=100), clock.monotonic)

    async def call() -> None:
        (await counted.reserve(await judged(key(calls_per_minute=3)))).settle({})

    for at in (0.0, 10.0, 20.0):
        clock.now = at
        await call()
    clock.now = 30.5
    with pytest.raises(RateLimited, match="3 calls in a minute") as refused:
        await call()
    assert refused.value.data == {"retry_after_s": 30}
    clock.now = 59.9
    with pytest.raises(RateLimited):
        await call()
    clock.now = 60.0
    await call()
    with pytest.raises(RateLimited) as refused:
        await call()
    assert refused.value.data == {"retry_after_s": 10}


@pytest.mark.requirement("keys:limits")
async def test_what_was_not_sent_and_what_was_refused_costs_a_key_nothing() -> None:
    counted = meter(per_principal=100, per_upstream=1)
    who = key(calls_per_minute=2, concurrent=2)
    for _ in range(5):
        (await counted.reserve(await judged(who))).refund()
    held = await counted.reserve(await judged(who))
    for _ in range(5):
        with pytest.raises(RateLimited, match="`notes` has 1 calls"):
            await counted.reserve(await judged(who))
    held.settle({})
    held.refund()
    (await counted.reserve(await judged(who))).settle({})
    with pytest.raises(RateLimited, match="in a minute"):
        await counted.reserve(await judged(who))


@pytest.mark.requirement("keys:limits")
async def test_lists_and_streams_are_not_counted_as_calls_of_a_key() -> None:
    counted = meter(per_principal=100, per_upstream=100)
    who = key(calls_per_minute=1, concurrent=1)
    for verb in (Verb.LISTEN, Verb.TOOLS_LIST, Verb.PING):
        await counted.reserve(await judge(WORLD, who, action(verb)))
    await counted.reserve(await judged(who))


@pytest.mark.requirement("keys:limits")
async def test_keys_that_made_no_call_for_a_minute_are_forgotten() -> None:
    clock = SetClock(0.0)
    counted = ConcurrencyMeter(LimitsSection(per_principal=100), clock.monotonic)
    for number in range(REMEMBERED):
        (await counted.reserve(await judged(key(f"key-{number}", calls_per_minute=1)))).settle({})
    clock.now = 61.0
    (await counted.reserve(await judged(key("another", calls_per_minute=1)))).settle({})
    assert len(counted._of_keys._made) == 1
    assert counted._of_keys._running == {}
