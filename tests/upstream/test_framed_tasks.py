"""Tasks of processes that speak 2026-07-28: under sealed ids, for clients that know tasks."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from mcpgw.config import StdioServer
from mcpgw.domain import TaskRef, Transport, Verb
from mcpgw.errors import UpstreamFailed
from mcpgw.task_ids import EXTENSION, digest
from mcpgw.upstream.stdio import StdioServers
from tests.upstream.calls import ALICE, LEGACY, LIMITS, MODERN, TASK_IDS, Caller, HandClock, permit, read, version
from tests.upstream.test_stdio import LINES

KNOWING = json.dumps({"extensions": {EXTENSION: {}}}).encode()
Serve = Callable[..., Caller]


@pytest.fixture
async def serve(clock: HandClock) -> AsyncIterator[Serve]:
    """Declare a line server and return a caller of it that knows tasks; its processes end with the test."""
    async with AsyncExitStack() as stack:

        def declare(era: str = "modern", per: str = "shared") -> Caller:
            entry = StdioServer.model_validate(
                {"name": "srv", "command": (sys.executable, "-IS", str(LINES), era), "per": per}
            )
            servers = StdioServers([entry], LIMITS, clock, lambda name, kind: None, task_ids=TASK_IDS)
            stack.push_async_callback(servers.aclose)
            return Caller(servers, version("srv", transport=Transport.STDIO)).known(capabilities=KNOWING)

        yield declare


@pytest.mark.requirement("stdio:tasks")
@pytest.mark.parametrize("per", ["shared", "principal", "session"])
async def test_a_task_is_asked_about_by_the_processs_own_id_and_told_under_its_sealed_one(
    serve: Serve, per: str
) -> None:
    caller = serve(per=per)
    made = await caller.call("task")
    shown = made.result["taskId"]
    assert (made.result["resultType"], made.last.facts["task"]) == ("task", digest("srv", "own-1"))
    task = TASK_IDS.find(shown)
    assert task is not None
    assert (task.server, task.tool, task.owner, task.id) == ("srv", "task", ALICE.key, "own-1")
    asked = await about(caller, Verb.TASKS_GET, task)
    assert (asked["taskId"], asked["status"]) == (shown, "completed")
    told = json.loads((await caller.call("requests")).text)
    assert [r["params"]["taskId"] for r in told if r["method"] == "tasks/get"] == ["own-1"]


@pytest.mark.requirement("stdio:tasks")
async def test_a_listener_is_told_of_its_task_under_the_sealed_id(serve: Serve) -> None:
    caller = serve()
    shown = (await caller.call("task")).result["taskId"]
    task = TASK_IDS.find(shown)
    assert task is not None
    forwarded = {"notifications": b"{}", "#id": b'"mine"'}
    exchange = await caller.send(Verb.LISTEN, forwarded=forwarded, tasks=(task,))
    parts = aiter(exchange)
    with anyio.fail_after(5):
        await anext(parts)
        acknowledged = json.loads((await anext(parts)).body)["params"]
        await about(caller, Verb.TASKS_GET, task)
        told = json.loads((await anext(parts)).body)
    await exchange.aclose(None)
    assert acknowledged["notifications"]["taskIds"] == [shown]
    assert (told["method"], told["params"]["taskId"]) == ("notifications/tasks", shown)
    assert told["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": "mine"}


@pytest.mark.requirement("stdio:tasks")
async def test_the_extension_is_announced_between_those_that_speak_2026_07_28(serve: Serve) -> None:
    modern = serve()
    assert EXTENSION in (await modern.ask(Verb.DISCOVER)).result["capabilities"]["extensions"]
    told = json.loads((await modern.call("requests")).text)[-1]["params"]["_meta"]
    assert EXTENSION in told["io.modelcontextprotocol/clientCapabilities"]["extensions"]
    crossing = Caller(modern.upstream, modern.target, client=LEGACY, session="s-1")
    assert "extensions" not in (await crossing.ask(Verb.INITIALIZE)).result["capabilities"]
    older = serve("legacy")
    assert "extensions" not in (await older.ask(Verb.DISCOVER)).result["capabilities"]


@pytest.mark.requirement("stdio:tasks")
async def test_a_task_for_who_knows_none_fails_its_call(serve: Serve) -> None:
    for caller in (
        serve().known(capabilities=b"{}"),
        serve("legacy"),
        Caller(serve().upstream, version("srv", transport=Transport.STDIO), client=MODERN),
    ):
        with pytest.raises(UpstreamFailed) as failed:
            await caller.call("task")
        assert failed.value.data == {"cause": "task"}
    crossing = Caller(serve().upstream, version("srv", transport=Transport.STDIO), client=LEGACY, session="s-1")
    with pytest.raises(UpstreamFailed):
        await crossing.call("task")


async def about(caller: Caller, verb: Verb, task: TaskRef) -> dict[str, Any]:
    """Ask about a task, as the judged action names it."""
    right = permit(caller.target, verb, name="task", client=caller.client, tasks=(task,))
    return (await read(await caller.upstream.send(right, {}, lambda: None))).result
