"""What a modern server says of tasks: sealed, checked against what was asked, and never of anyone else's."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import anyio
import pytest

from mcpgw.domain import Arguments, Era, TaskRef, Verb
from mcpgw.errors import UpstreamFailed
from mcpgw.task_ids import EXTENSION, digest
from mcpgw.upstream.mcp_http import McpHttpUpstream
from mcpgw.upstream.mcp_tasks import without_tasks
from tests.fixtures.raw_http import Peer
from tests.upstream.calls import ALICE, LEGACY, MODERN, TASK_IDS, Caller, Seen, permit, read, version
from tests.upstream.scripted import END, STREAM, Asked, Handler, Handshaking, event, reply, result_of, said, scripted
from tests.upstream.stateless import SUBSCRIPTION, Stateless

KNOWING = json.dumps({"extensions": {EXTENSION: {}}}).encode()
TIMES = {"createdAt": "2026-11-21T10:00:00Z", "lastUpdatedAt": "2026-11-21T10:00:00Z", "ttlMs": 60000}
OWN_ID = "own-786512e2"


def made(**members: Any) -> dict[str, Any]:
    return {"resultType": "task", "taskId": OWN_ID, "status": "working", **TIMES, **members}


SHOWN = TASK_IDS.shown(server="srv", version="1.0.0", tool="slow", owner=ALICE.key, task_id=OWN_ID)
MINE = TaskRef(server="srv", version="1.0.0", tool="slow", owner=ALICE.key, id=OWN_ID, shown=SHOWN)


def answering(result: dict[str, Any]) -> Handler:
    async def handler(asked: Asked, peer: Peer) -> bytes:
        return reply(asked, result)

    return handler


@pytest.mark.requirement("tasks:sealed")
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_new_task_gets_an_id_that_holds_all_it_is_bound_to(upstream: McpHttpUpstream, streamed: bool) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        if not streamed:
            return reply(asked, made(vendor=[1]))
        return (
            STREAM
            + event(said("notifications/progress", progressToken=1, progress=1))
            + event(result_of(asked, made(vendor=[1])))
            + END
        )

    async with scripted(Stateless(tools_call=call)) as server:
        seen = await Caller(upstream, version(server.url)).known(capabilities=KNOWING).call("slow")
    shown = seen.result["taskId"]
    assert seen.result == made(vendor=[1], taskId=shown)
    assert seen.last.facts["task"] == digest("srv", OWN_ID)
    found = TASK_IDS.find(shown)
    assert found is not None
    assert (found.server, found.version, found.tool, found.owner, found.id) == (
        "srv",
        "1.0.0",
        "slow",
        ALICE.key,
        OWN_ID,
    )


@pytest.mark.requirement("tasks:rubbish")
@pytest.mark.parametrize(
    "result",
    [
        made(taskId=None),
        made(taskId=7),
        made(taskId=""),
        made(taskId="x" * 1025),
        {k: v for k, v in made().items() if k != "taskId"},
        made(status=[]),
    ],
)
async def test_a_task_that_nobody_could_ask_about_fails_its_call(
    upstream: McpHttpUpstream, result: dict[str, Any]
) -> None:
    async with scripted(Stateless(tools_call=answering(result))) as server:
        caller = Caller(upstream, version(server.url)).known(capabilities=KNOWING)
        with pytest.raises(UpstreamFailed) as failed:
            await caller.call("slow")
    assert failed.value.data == {"cause": "task"}
    assert OWN_ID not in failed.value.message


@pytest.mark.requirement("tasks:rubbish")
@pytest.mark.parametrize("capabilities", [b"{}", b'{"extensions":{}}', b'{"extensions":{"%b":1}}' % EXTENSION.encode()])
async def test_a_task_for_a_client_that_knows_none_fails_its_call(
    upstream: McpHttpUpstream, capabilities: bytes
) -> None:
    async with scripted(Stateless(tools_call=answering(made()))) as server:
        caller = Caller(upstream, version(server.url)).known(capabilities=capabilities)
        with pytest.raises(UpstreamFailed, match="knows no tasks"):
            await caller.call("slow")
        # A client of the handshake era cannot declare what its era has not, whatever it says.
        with pytest.raises(UpstreamFailed, match="knows no tasks"):
            await Caller(upstream, version(server.url), client=LEGACY, session="s").call("slow")


@pytest.mark.requirement("tasks:rubbish")
async def test_a_server_of_the_handshake_era_makes_no_tasks(upstream: McpHttpUpstream) -> None:
    async with scripted(Handshaking(tools_call=answering(made()))) as server:
        with pytest.raises(UpstreamFailed, match="knows no tasks"):
            await Caller(upstream, version(server.url), client=LEGACY, session="s").call("slow")


async def ask_about(caller: Caller, verb: Verb, arguments: bytes = b"{}", judged: bytes | None = None) -> Seen:
    assert caller.client is not None
    right = permit(
        caller.target,
        verb,
        name="slow",
        client=caller.client,
        tasks=(MINE,),
        arguments=Arguments(arguments),
        judged=judged,
    )
    return await read(await caller.upstream.send(right, {}, lambda: None))


@pytest.mark.requirement("tasks:headers")
async def test_a_server_is_asked_by_its_own_id_and_gets_the_judged_answers(upstream: McpHttpUpstream) -> None:
    working = {"resultType": "complete", "taskId": OWN_ID, "status": "working", **TIMES}
    acknowledged = {"resultType": "complete"}
    script = Stateless(
        tasks_get=answering(working), tasks_update=answering(acknowledged), tasks_cancel=answering(acknowledged)
    )
    async with scripted(script) as server:
        caller = Caller(upstream, version(server.url, era=Era.MODERN)).known(capabilities=KNOWING)
        seen = await ask_about(caller, Verb.TASKS_GET)
        assert seen.result == {**working, "taskId": SHOWN}
        assert dict(seen.last.facts) | {"task": digest("srv", OWN_ID), "task_status": "working"} == seen.last.facts
        assert (await ask_about(caller, Verb.TASKS_UPDATE, b'{"q":1}', b'{"q":"[redacted]"}')).result == acknowledged
        assert (await ask_about(caller, Verb.TASKS_CANCEL)).result == acknowledged
    asked = [one for one in server.asked if one.verb.startswith("tasks/")]
    assert [one.headers["mcp-name"] for one in asked] == [OWN_ID] * 3
    assert [one.headers["mcp-method"] for one in asked] == ["tasks/get", "tasks/update", "tasks/cancel"]
    assert [one.params["taskId"] for one in asked] == [OWN_ID] * 3
    assert [one.params.get("inputResponses") for one in asked] == [None, {"q": "[redacted]"}, None]
    assert all("name" not in one.params and "arguments" not in one.params for one in asked)


@pytest.mark.requirement("tasks:rubbish")
async def test_an_answer_about_another_task_fails(upstream: McpHttpUpstream) -> None:
    script = Stateless(tasks_get=answering({"resultType": "complete", "taskId": "another", "status": "working"}))
    async with scripted(script) as server:
        caller = Caller(upstream, version(server.url, era=Era.MODERN)).known(capabilities=KNOWING)
        with pytest.raises(UpstreamFailed, match="another task"):
            await ask_about(caller, Verb.TASKS_GET)


@pytest.mark.requirement("tasks:listen")
async def test_a_listener_hears_of_its_own_tasks_alone(upstream: McpHttpUpstream) -> None:
    """Of two tasks that are asked for one is as of another version: that is not this server's to tell of."""
    meta = {SUBSCRIPTION: 1}
    state = {"status": "working", **TIMES, "_meta": meta}

    async def listen(asked: Asked, peer: Peer) -> bytes:
        honoured = {"taskIds": [OWN_ID, "another"], "toolsListChanged": True}
        return (
            STREAM
            + event(said("notifications/subscriptions/acknowledged", notifications=honoured, _meta=meta))
            + event(said("notifications/tasks", taskId="another", **state))
            + event(said("notifications/tasks", **state))
            + event(said("notifications/tasks", taskId=OWN_ID, **state))
            + event(result_of(asked, {"resultType": "complete", "_meta": meta}))
            + END
        )

    old = replace(MINE, version="0.9.0", id="old", shown="another id")
    async with scripted(Stateless(subscriptions_listen=listen)) as server:
        caller = Caller(upstream, version(server.url, era=Era.MODERN)).known(capabilities=KNOWING)
        with anyio.fail_after(10):
            seen = await caller.ask(
                Verb.LISTEN, tasks=(MINE, old), forwarded={"notifications": b'{"toolsListChanged":true}', "#id": b'"l"'}
            )
    (asked,) = server.of("subscriptions/listen")
    assert asked.params["notifications"] == {"toolsListChanged": True, "taskIds": [OWN_ID]}
    acknowledged, changed = seen.events
    assert acknowledged["params"]["notifications"] == {"taskIds": [SHOWN], "toolsListChanged": True}
    assert changed["params"] == {"taskId": SHOWN, **state, "_meta": {SUBSCRIPTION: "l"}}


@pytest.mark.requirement("tasks:rubbish")
@pytest.mark.parametrize("ids", ["own", [1], {}])
async def test_an_acknowledgement_that_makes_no_sense_ends_the_stream(upstream: McpHttpUpstream, ids: Any) -> None:
    async def listen(asked: Asked, peer: Peer) -> bytes:
        return STREAM + event(said("notifications/subscriptions/acknowledged", notifications={"taskIds": ids})) + END

    async with scripted(Stateless(subscriptions_listen=listen)) as server:
        caller = Caller(upstream, version(server.url, era=Era.MODERN)).known(capabilities=KNOWING)
        with pytest.raises(UpstreamFailed) as failed:
            await caller.ask(Verb.LISTEN, tasks=(MINE,), forwarded={"notifications": b"{}", "#id": b"1"})
    assert failed.value.data == {"cause": "task"}


@pytest.mark.requirement("tasks:rubbish")
async def test_what_is_told_of_tasks_on_other_streams_is_dropped(upstream: McpHttpUpstream) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        changed = said("notifications/tasks", taskId=OWN_ID, status="completed", result={"content": []}, **TIMES)
        return STREAM + event(changed) + event(result_of(asked, {"resultType": "complete", "content": []})) + END

    async with scripted(Stateless(tools_call=call)) as server:
        seen = await Caller(upstream, version(server.url), client=MODERN).known(capabilities=KNOWING).call("slow")
    assert seen.events == []
    assert seen.result == {"resultType": "complete", "content": []}


@pytest.mark.requirement("tasks:negotiated")
@pytest.mark.parametrize(
    ("declared", "left"),
    [
        (
            {"extensions": {EXTENSION: {}, "x": {"a": 1}}, "sampling": {}},
            {"extensions": {"x": {"a": 1}}, "sampling": {}},
        ),
        ({"extensions": {EXTENSION: {}}}, {"extensions": {}}),
        ({"extensions": EXTENSION, "tools": {}}, {"extensions": EXTENSION, "tools": {}}),
        ({"experimental": {EXTENSION: {}}}, {"experimental": {EXTENSION: {}}, "extensions": {}}),
        ({"tools": {}}, {"tools": {}}),
    ],
)
def test_where_tasks_are_not_passed_on_they_are_not_declared(declared: Any, left: Any) -> None:
    assert json.loads(without_tasks(json.dumps(declared).encode())) == left
