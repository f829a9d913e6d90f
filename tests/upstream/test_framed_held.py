"""Modern clients in front of processes and sessions of the handshake era that ask them something."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from mcpgw.config import StdioServer
from mcpgw.domain import Arguments, Part, Presented, Transport, Verb
from mcpgw.errors import Cancelled, InvalidParams, Killed, UpstreamFailed, WorldMoved
from mcpgw.ports import Gate
from mcpgw.request_state import RequestStates
from mcpgw.seals import Seals
from mcpgw.shelf import Shelf, ShelfLimits, Suspended
from mcpgw.upstream.holding import Holding
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_sse import SseServers
from mcpgw.upstream.stdio import StdioServers
from tests.upstream.calls import BOB, LIMITS, MODERN, Caller, CountingGate, HandClock, Seen, permit, version
from tests.upstream.scripted import Asked, plain, scripted
from tests.upstream.sse_server import Conversation, EventServer
from tests.upstream.test_stdio import LINES

ABLE = dataclasses.replace(MODERN, capabilities=b'{"elicitation":{},"roots":{}}')
HELD_S = 300.0


@dataclass
class Client:
    """A modern client, and the shelf on which the pipeline lets its calls wait."""

    caller: Caller
    shelf: Shelf
    ended: list[tuple[BaseException | None, str | None]] = field(default_factory=list)

    async def call(
        self, tool: str, *, gate: Gate | None = None, answers: Any = None, state: Any = None, **facts: Any
    ) -> Seen:
        """Call a tool and read its answer, as the pipeline does."""
        caller = self.caller
        forwarded: dict[str, bytes] = {}
        if answers is not None:
            forwarded["inputResponses"] = json.dumps(answers).encode()
        if state is not None:
            forwarded["requestState"] = json.dumps(state).encode()
        given = {"client": caller.client, "session": None, "arguments": Arguments(b"{}"), **facts}
        right = permit(caller.target, Verb.TOOLS_CALL, who=caller.who, name=tool, forwarded=forwarded, **given)
        exchange = await caller.upstream.send(right, {}, gate or CountingGate())
        seen, ended = Seen(), None
        try:
            async for part in exchange:
                if part.held is not None:
                    self._suspend(right.judged.action, part)
                seen.parts.append(part)
        except BaseException as error:
            ended = error
            raise
        finally:
            await exchange.aclose(ended)
        return seen

    def _suspend(self, action: Any, part: Part) -> None:
        self.shelf.put(
            Suspended(
                who=self.caller.who,
                action=action,
                version=self.caller.target,
                presented=Presented(),
                held=part.held,
                released=lambda reason, retry: self.ended.append((reason, retry)),
            )
        )

    def by(self, **facts: Any) -> Client:
        return dataclasses.replace(self, caller=dataclasses.replace(self.caller, **facts))


@pytest.fixture
def shelf(clock: HandClock) -> Shelf:
    return Shelf(clock, ShelfLimits(ttl_s=HELD_S))


@pytest.fixture
def holding(clock: HandClock, shelf: Shelf) -> Holding:
    return Holding(RequestStates(Seals(bytes(32), 0)), shelf, clock, HELD_S)


@pytest.fixture
async def client(clock: HandClock, shelf: Shelf, holding: Holding) -> AsyncIterator[Client]:
    """A client of a process that serves its principal alone."""
    command = (sys.executable, "-IS", str(LINES), "legacy")
    entry = StdioServer(name="srv", command=command, per="principal")
    servers = StdioServers([entry], LIMITS, clock, lambda name, kind: None, holding)
    yield Client(Caller(servers, version("srv", transport=Transport.STDIO), client=ABLE), shelf)
    await servers.aclose()


def asked(seen: Seen) -> tuple[str, dict[str, Any], str]:
    """Return the key, the request and the state of an answer that asks one thing."""
    assert seen.result["resultType"] == "input_required"
    [(key, request)] = seen.result["inputRequests"].items()
    return key, request, seen.result["requestState"]


async def requests_of(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((await client.call("requests")).text)
    return found


def calls_of(requests: list[dict[str, Any]], tool: str) -> int:
    return sum(request.get("params", {}).get("name") == tool for request in requests)


@pytest.mark.requirement("stdio:held")
async def test_a_modern_client_is_asked_by_the_answer_and_its_retry_goes_on_with_the_call(client: Client) -> None:
    first = await client.call("ask")
    assert (first.kinds, first.last.facts) == (["whole"], {"era": "legacy", "asks": ["elicitation/create"]})
    key, request, state = asked(first)
    assert request == {"method": "elicitation/create", "params": {}}
    assert len(client.shelf) == 1
    second = await client.call("ask", answers={key: {"action": "accept", "content": {"x": 1}}}, state=state)
    assert second.result["resultType"] == "complete"
    assert json.loads(second.text) == {"q1": {"action": "accept", "content": {"x": 1}}, "q2": {}}
    assert (len(client.shelf), [reason for reason, _ in client.ended]) == (0, [None])
    requests = await requests_of(client)
    assert requests[1]["params"]["capabilities"] == {"elicitation": {}, "roots": {}}
    assert calls_of(requests, "ask") == 1
    assert [r for r in requests if r.get("method") == "notifications/cancelled"] == []


@pytest.mark.requirement("stdio:held")
async def test_a_call_may_ask_more_than_once_and_each_turn_has_its_own_progress(client: Client) -> None:
    first = await client.by(client=dataclasses.replace(ABLE, meta=b'{"progressToken":"one"}')).call("twice")
    key, request, state = asked(first)
    assert request["params"] == {"message": "t1", "requestedSchema": {}, "_meta": {"com.example/x": 1}}
    again = client.by(client=dataclasses.replace(ABLE, meta=b'{"progressToken":"two"}'))
    second = await again.call("twice", answers={key: {"action": "accept"}}, state=state)
    assert second.kinds == ["opened", "event", "last"]
    assert second.events[0]["params"] == {"progressToken": "two", "progress": 1}
    next_key, request, next_state = asked(second)
    assert request["params"]["message"] == "t2"
    assert (next_key, next_state) != (key, state)
    third = await client.call("twice", answers={next_key: {"action": "decline"}}, state=next_state)
    assert json.loads(third.text) == [{"action": "accept"}, {"action": "decline"}]


@pytest.mark.requirement("stdio:held")
async def test_a_retry_without_the_answer_is_asked_again(client: Client) -> None:
    key, request, state = asked(await client.call("ask"))
    again = await client.call("ask", answers={"another": {}}, state=state)
    assert asked(again)[:2] == (key, request)
    with pytest.raises(InvalidParams, match="names no call of yours that waits"):
        await client.call("ask", answers={key: {"action": "accept"}}, state=state)  # which has been used
    last = await client.call("ask", answers={key: {"action": "accept"}}, state=asked(again)[2])
    assert json.loads(last.text)["q1"] == {"action": "accept"}


@pytest.mark.requirement("stdio:held")
async def test_a_state_is_good_for_its_own_call_of_its_own_principal_in_time(client: Client, clock: HandClock) -> None:
    key, _, state = asked(await client.call("ask"))
    answers = {key: {"action": "accept"}}
    for stranger, tool, given in (
        (client.by(who=BOB), "ask", state),
        (client, "echo", state),
        (client, "ask", state[:-1]),
        (client, "ask", 7),
        (client, "ask", None),
    ):
        with pytest.raises(InvalidParams, match="names no call of yours that waits"):
            await stranger.call(tool, answers=answers, state=given)
    with pytest.raises(InvalidParams, match="names no call of yours that waits"):
        await client.call("ask", answers=answers, state=state, arguments=Arguments(b'{"other":1}'))
    clock.now += HELD_S
    with pytest.raises(InvalidParams, match="names no call of yours that waits"):
        await client.call("ask", answers=answers, state=state)


@pytest.mark.requirement("stdio:held")
@pytest.mark.parametrize("closed", [Killed("killed"), WorldMoved()], ids=["killed", "moved"])
async def test_a_retry_passes_the_gate_before_anything_is_taken_over(client: Client, closed: BaseException) -> None:
    key, _, state = asked(await client.call("ask"))
    for answers in ({key: {"action": "accept"}}, {}):
        with pytest.raises(type(closed)):
            await client.call("ask", answers=answers, state=state, gate=CountingGate(closed=closed))
    assert (len(client.shelf), client.ended) == (1, [])
    last = await client.call("ask", answers={key: {"action": "accept"}}, state=state)
    assert json.loads(last.text)["q1"] == {"action": "accept"}


@pytest.mark.requirement("stdio:held")
@pytest.mark.parametrize("reason", [Killed("killed"), Cancelled("cancelled")])
async def test_a_call_that_is_not_waited_for_any_more_is_cancelled(client: Client, reason: BaseException) -> None:
    key, _, state = asked(await client.call("leave"))
    [suspended] = client.shelf
    suspended.cut(reason)
    await anyio.wait_all_tasks_blocked()
    requests = await requests_of(client)
    left = next(request for request in requests if request.get("params", {}).get("name") == "leave")
    cancelled = [r["params"] for r in requests if r.get("method") == "notifications/cancelled"]
    assert cancelled == [{"requestId": left["id"]}]
    with pytest.raises(InvalidParams):
        await client.call("leave", answers={key: {"action": "accept"}}, state=state)


@pytest.mark.requirement("stdio:held")
async def test_a_question_withdrawn_meanwhile_needs_no_answer(client: Client) -> None:
    assert (await client.call("withdraw")).text == '"done"'  # at once: nobody needs to be asked
    key, _, state = asked(await client.call("retract"))
    assert (await client.call("echo")).text == '"meanwhile"'
    assert (await client.call("retract", answers={key: {"action": "accept"}}, state=state)).text == '"done"'


@pytest.mark.requirement("stdio:held")
async def test_what_is_asked_at_once_is_asked_together_and_may_be_answered_one_by_one(client: Client) -> None:
    first = (await client.call("both")).result
    keys = {request["params"]["message"]: key for key, request in first["inputRequests"].items()}
    assert keys.keys() == {"b1", "b2"}
    answers = {keys["b2"]: {"action": "decline"}}
    key, request, state = asked(await client.call("both", answers=answers, state=first["requestState"]))
    assert (key, request["params"]["message"]) == (keys["b1"], "b1")
    last = await client.call("both", answers={key: {"action": "accept"}}, state=state)
    assert json.loads(last.text) == {"b1": {"action": "accept"}, "b2": {"action": "decline"}}
    first = (await client.call("both")).result
    both = {key: {"action": "accept"} for key in first["inputRequests"]}
    last = await client.call("both", answers=both, state=first["requestState"])
    assert json.loads(last.text) == {"b1": {"action": "accept"}, "b2": {"action": "accept"}}


@pytest.mark.requirement("stdio:held")
async def test_a_process_that_dies_takes_the_calls_that_wait_with_it(client: Client) -> None:
    key, _, state = asked(await client.call("leave"))
    with pytest.raises(UpstreamFailed):
        await client.call("die")
    with pytest.raises(UpstreamFailed, match="exit status 3"):
        await client.call("leave", answers={key: {"action": "accept"}}, state=state)
    assert len(client.shelf) == 0


@pytest.mark.requirement("stdio:held")
async def test_a_client_is_asked_what_it_declared_alone(client: Client) -> None:
    refused = await client.call("url")
    assert json.loads(refused.text)["code"] == -32601
    unable = client.by(who=BOB, client=MODERN)
    assert json.loads((await unable.call("ask")).text)["q1"]["code"] == -32601


@pytest.mark.requirement("stdio:held")
async def test_urls_that_must_be_visited_first_are_asked_for_without_holding_anything(client: Client) -> None:
    able = client.by(client=dataclasses.replace(MODERN, capabilities=b'{"elicitation":{"url":{}}}'))
    wanted = (await able.call("visit")).result
    assert wanted["inputRequests"] == {
        "e-1": {
            "method": "elicitation/create",
            "params": {"mode": "url", "message": "please", "url": "https://example.com/consent"},
        }
    }
    assert "requestState" not in wanted
    assert len(able.shelf) == 0


@pytest.mark.requirement("sse:held")
async def test_a_session_over_http_sse_holds_calls_likewise(clock: HandClock, shelf: Shelf, holding: Holding) -> None:
    async def ask(session: Conversation, asked: Asked) -> None:
        await session.say({"jsonrpc": "2.0", "id": 7, "method": "roots/list"})
        asyncio.get_running_loop().create_task(finish(session, asked))

    async def finish(session: Conversation, asked: Asked) -> None:
        await session.answer(asked, plain(json.dumps(await session.answer_of_client())))

    http = HttpClient(LIMITS, lambda address: True)
    servers = SseServers(http, LIMITS, clock, lambda name, kind: None, holding)
    async with scripted(EventServer(ask=ask)) as server:
        client = Client(Caller(servers, version(server.url, transport=Transport.SSE), client=ABLE), shelf)
        with anyio.fail_after(5):
            key, request, state = asked(await client.call("ask"))
            assert request == {"method": "roots/list", "params": {}}
            second = await client.call("ask", answers={key: {"roots": []}}, state=state)
        assert json.loads(second.text) == {"jsonrpc": "2.0", "id": 7, "result": {"roots": []}}
        assert [a.params["name"] for a in server.of("tools/call")] == ["ask"]
        await servers.aclose()
        await http.aclose()
