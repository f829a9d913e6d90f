"""Large inputs are evaluated where they can be ended."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
from collections.abc import Iterator

import anyio
import pytest

from mcpgw.domain import Effect
from mcpgw.policies import aside
from mcpgw.policies.local import LocalEngine
from tests.policies.parts import ALLOW, DENY, asked, engine

RULES = f"""default decision := {DENY}

decision := {ALLOW} if {{
	input.arguments.go
	given := input.arguments.a
	every x in given {{
		x in input.arguments.b
	}}
}}
"""


def arguments(a: int, b: int, go: bool = True) -> bytes:
    """Return arguments with two lists, of which each element of the first is the last one of the second."""
    return json.dumps({"go": go, "a": [1] * a, "b": [2] * b + [1]}).encode()


def process(policy: LocalEngine) -> subprocess.Popen[bytes]:
    return policy._aside._running[0]


@pytest.fixture
def policy() -> Iterator[LocalEngine]:
    made = engine(RULES)
    yield made
    aside._end(made._aside._running)


@pytest.mark.requirement("policy:killable")
async def test_a_large_input_is_decided_like_a_small_one(policy: LocalEngine) -> None:
    small, large = arguments(3, 3), arguments(3, 2000)
    assert len(small) < aside.ON_LOOP_BYTES < len(large)
    assert (await policy.decide(asked("call", small))).effect is Effect.ALLOW
    assert policy._aside._running == []
    assert await policy.decide(asked("call", large)) == await policy.decide(asked("call", small))
    assert (await policy.decide(asked("call", arguments(3, 2000, go=False)))).reasons == ("rule",)
    assert process(policy).poll() is None


@pytest.mark.requirement("policy:killable")
async def test_an_evaluation_that_takes_too_long_is_ended_and_the_loop_goes_on(policy: LocalEngine) -> None:
    await policy.decide(asked("call", arguments(1, 2000)))
    first, turns = process(policy), 0
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:

            async def other_calls() -> None:
                nonlocal turns
                while True:
                    await anyio.sleep(0.01)
                    turns += 1

            tasks.start_soon(other_calls)
            decision = await policy.decide(asked("call", arguments(4000, 70_000)))
            tasks.cancel_scope.cancel()
    assert decision.reasons == ("engine:exhausted",)
    assert first.poll() == -signal.SIGKILL
    assert turns > 5
    assert (await policy.decide(asked("call", arguments(3, 2000)))).effect is Effect.ALLOW


@pytest.mark.requirement("policy:killable")
async def test_a_process_that_dies_denies_once_and_is_started_again(policy: LocalEngine) -> None:
    await policy.decide(asked("call", arguments(1, 2000)))
    process(policy).kill()
    process(policy).wait(5)
    assert (await policy.decide(asked("call", arguments(1, 2000)))).reasons == ("engine:error",)
    assert (await policy.decide(asked("call", arguments(1, 2000)))).effect is Effect.ALLOW


async def test_large_inputs_wait_for_each_other(policy: LocalEngine) -> None:
    decisions = []

    async def decide(go: bool) -> None:
        decision = await policy.decide(asked("call", arguments(2, 2000, go)))
        decisions.append((go, decision.effect))

    async with anyio.create_task_group() as tasks:
        for n in range(10):
            tasks.start_soon(decide, n % 2 == 0)
    assert sorted(decisions) == [(False, Effect.DENY)] * 5 + [(True, Effect.ALLOW)] * 5


async def test_the_process_ends_with_its_engine() -> None:
    made = engine(RULES)
    await made.decide(asked("call", arguments(1, 2000)))
    left = process(made)
    del made
    gc.collect()
    assert left.wait(5) == -signal.SIGKILL


async def test_the_process_ends_when_nobody_asks_any_more(policy: LocalEngine) -> None:
    await policy.decide(asked("call", arguments(1, 2000)))
    stdin = process(policy).stdin
    assert stdin is not None
    stdin.close()
    assert process(policy).wait(5) == 0
