"""Which failed calls are made once more."""

from __future__ import annotations

import pytest

from mcpgw.domain import Action, Era, Route, ServerVersion, Transport, Verb, VersionStatus
from mcpgw.errors import GatewayError, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from mcpgw.retries import Retries, RetryLimits
from tests.upstream.calls import HandClock

CALL = Action(
    id="first", route=Route.MCP, verb=Verb.TOOLS_CALL, resource="/mcp/w", received_at=0.0, server="w", name="get"
)
BROKEN = UpstreamFailed("the connection broke")


def version(*idempotent: str) -> ServerVersion:
    return ServerVersion(
        server="w",
        version="1.0.0",
        manifest_sha256="",
        endpoint="http://127.0.0.1:1/mcp",
        transport=Transport.HTTP,
        era=Era.DUAL,
        tools={},
        status=VersionStatus.APPROVED,
        published_by="test",
        published_at=0.0,
        idempotent=frozenset(idempotent),
    )


@pytest.mark.requirement("retries:marked")
@pytest.mark.parametrize("marks", [("get",), ("*",), ("put", "get")])
def test_a_failed_call_of_a_marked_tool_is_repeated_as_its_child(marks: tuple[str, ...]) -> None:
    retries = Retries(HandClock())
    again = retries.again(CALL, version(*marks), BROKEN, 0)
    assert again is not None
    assert (again.parent, again.name) == ("first", "get")
    third = retries.again(again, version(*marks), BROKEN, 1)
    assert third is not None
    assert len({"first", again.id, third.id}) == 3
    assert third.parent == "first"


@pytest.mark.requirement("retries:marked")
@pytest.mark.parametrize(
    ("of", "failure"),
    [
        (version(), BROKEN),
        (version("put"), BROKEN),
        (None, BROKEN),
        (version("get"), UpstreamTimeout("it did not answer in time")),
        (version("get"), UpstreamUnreachable("it is left alone", data={"cause": "ejected"})),
        (version("get"), UpstreamFailed("rubbish", data={"cause": "not_json"})),
        (version("get"), GatewayError("something else")),
    ],
)
def test_nothing_else_is_repeated(of: ServerVersion | None, failure: GatewayError) -> None:
    assert Retries(HandClock()).again(CALL, of, failure, 0) is None


@pytest.mark.requirement("retries:marked")
@pytest.mark.parametrize("verb", [v for v in Verb if v is not Verb.TOOLS_CALL])
def test_only_calls_of_tools_are_repeated(verb: Verb) -> None:
    other = Action(id="first", route=Route.MCP, verb=verb, resource="/mcp/w", received_at=0.0, server="w", name="get")
    assert Retries(HandClock()).again(other, version("*"), BROKEN, 0) is None


@pytest.mark.requirement("retries:budget")
def test_a_call_is_repeated_no_more_often_than_the_limit_says() -> None:
    retries = Retries(HandClock(), RetryLimits(most=2))
    assert [retries.again(CALL, version("*"), BROKEN, made) is not None for made in range(4)] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.requirement("retries:budget")
def test_the_budget_of_a_server_is_spent_by_all_its_calls_and_fills_with_time() -> None:
    clock = HandClock()
    retries = Retries(clock, RetryLimits(per_s=2.0))

    def granted() -> int:
        return sum(retries.again(CALL, version("*"), BROKEN, 0) is not None for _ in range(10))

    assert granted() == 2
    clock.now += 0.5
    assert granted() == 1
    clock.now += 60.0
    assert granted() == 2


@pytest.mark.requirement("retries:budget")
def test_no_budget_means_no_repetition_beyond_the_first() -> None:
    clock = HandClock()
    retries = Retries(clock, RetryLimits(per_s=0.0))
    clock.now += 3600.0
    assert retries.again(CALL, version("*"), BROKEN, 0) is None


@pytest.mark.requirement("retries:budget")
async def test_each_pause_is_about_twice_the_one_before() -> None:
    slept: list[float] = []

    async def sleep(wait_s: float) -> None:
        slept.append(wait_s)

    retries = Retries(HandClock(), RetryLimits(pause_s=0.1), sleep)
    for repeated in range(3):
        await retries.pause(repeated)
    for repeated, wait_s in enumerate(slept):
        assert 0.05 * 2**repeated <= wait_s <= 0.15 * 2**repeated
