"""An upstream that has stopped answering costs its own callers a moment, and comes back by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from mcpgw.addresses import vetted
from mcpgw.config import LimitsSection
from mcpgw.errors import UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from mcpgw.upstream.health import FAILURES, MAX_PAUSE_S, PAUSE_S, UNTRIED_S, Health, trial
from mcpgw.upstream.http import HttpClient, Url
from tests.upstream.calls import HandClock

URL = "http://127.0.0.1:1/mcp"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def health(clock: HandClock) -> Health:
    return Health(clock.monotonic)


def left_alone(health: Health) -> bool:
    try:
        health.admit(URL)
    except UpstreamUnreachable as error:
        assert error.data["cause"] == "ejected" and error.data["retry_after_s"] > 0
        return True
    return False


@pytest.mark.requirement("health:ejection")
def test_failures_in_a_row_and_no_others_leave_an_upstream_alone(health: Health) -> None:
    for _ in range(3):
        for _ in range(FAILURES - 1):
            health.failed(URL)
        assert not left_alone(health)
        health.answered(URL)
    for _ in range(FAILURES):
        health.failed(URL)
    assert left_alone(health)
    health.admit("http://127.0.0.1:1/other")  # of the same origin


@pytest.mark.requirement("health:recovery")
def test_one_trial_at_a_time_finds_out_and_waits_longer_each_time_up_to_a_bound(
    health: Health, clock: HandClock
) -> None:
    for _ in range(FAILURES):
        health.failed(URL)
    pause_s = PAUSE_S
    for _ in range(5):
        assert health.due() == []
        clock.now += pause_s - 0.01
        with trial(), pytest.raises(UpstreamUnreachable):
            health.admit(URL)
        clock.now += 0.02
        assert health.due() == [URL]
        with trial():
            assert health.admit(URL)
            assert left_alone(health)
        assert left_alone(health) and health.due() == []
        health.failed(URL)
        pause_s = min(2 * pause_s, MAX_PAUSE_S)
    clock.now += pause_s
    with trial():
        assert health.admit(URL)
    health.answered(URL)
    assert not left_alone(health)


@pytest.mark.requirement("health:recovery")
def test_where_the_gateway_tries_nothing_a_call_is_the_trial_and_a_cancelled_one_says_nothing(
    health: Health, clock: HandClock
) -> None:
    for _ in range(FAILURES):
        health.failed(URL)
    clock.now += PAUSE_S
    assert left_alone(health)
    clock.now += UNTRIED_S
    assert health.admit(URL)
    assert left_alone(health)
    health.given_up(URL)
    assert health.admit(URL)
    health.answered(URL)
    assert not health.admit(URL)


class Fault:
    """What a raw upstream does with the next requests."""

    def __init__(self) -> None:
        self.hangs = False
        self.status = 200
        self.asked = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked += 1
                if self.hangs:
                    await reader.read()
                    break
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\n{}" % self.status)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def upstream() -> AsyncIterator[Fault]:
    fault = Fault()
    server = await asyncio.start_server(fault.serve, "127.0.0.1", 0)
    fault.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
    try:
        yield fault
    finally:
        server.close()


def gate() -> None:
    """Always open."""


async def asked(client: HttpClient, url: Url) -> int:
    response = await client.request(b"POST", url, [], b"{}", gate)
    await response.aclose()
    return response.status


@pytest.mark.requirement("health:ejection")
async def test_a_hung_upstream_is_not_asked_any_more_and_answers_again_as_soon_as_it_is_well(clock: HandClock) -> None:
    limits = LimitsSection(first_byte_s=0.1)
    client = HttpClient(limits, vetted([], allow_loopback=True), clock.monotonic)
    with anyio.fail_after(20):
        async with upstream() as fault:
            url = Url.parse(fault.url)
            assert await asked(client, url) == 200
            fault.hangs = True
            for _ in range(FAILURES):
                with pytest.raises(UpstreamTimeout):
                    await asked(client, url)
            before = fault.asked
            for _ in range(3):
                with pytest.raises(UpstreamUnreachable, match="stopped answering"):
                    await asked(client, url)
            assert fault.asked == before
            clock.now += PAUSE_S
            with trial(), pytest.raises(UpstreamTimeout):
                await asked(client, url)
            fault.hangs = False
            clock.now += 2 * PAUSE_S
            with trial():
                assert await asked(client, url) == 200
            assert await asked(client, url) == 200
        await client.aclose()


@pytest.mark.requirement("health:ejection")
@pytest.mark.parametrize("status, alone", [(500, True), (503, True), (404, False), (429, False), (200, False)])
async def test_errors_of_the_server_itself_count_and_those_of_the_protocol_do_not(status: int, alone: bool) -> None:
    client = HttpClient(LimitsSection(), vetted([], allow_loopback=True))
    with anyio.fail_after(20):
        async with upstream() as fault:
            fault.status = status
            url = Url.parse(fault.url)
            for _ in range(FAILURES):
                assert await asked(client, url) == status
            if alone:
                with pytest.raises(UpstreamUnreachable, match="stopped answering"):
                    await asked(client, url)
            else:
                assert await asked(client, url) == status
        await client.aclose()


@pytest.mark.requirement("health:ejection")
async def test_a_server_that_is_gone_is_left_alone_too() -> None:
    async with upstream() as fault:
        url = Url.parse(fault.url)
    client = HttpClient(LimitsSection(), vetted([], allow_loopback=True))
    with anyio.fail_after(20):
        for _ in range(FAILURES):
            with pytest.raises((UpstreamUnreachable, UpstreamFailed), match="cannot connect"):
                await asked(client, url)
        with pytest.raises(UpstreamUnreachable, match="stopped answering"):
            await asked(client, url)
    await client.aclose()
