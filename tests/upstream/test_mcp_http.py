"""Real servers over streamable HTTP, each client in its own generation of the protocol."""

from __future__ import annotations

import dataclasses
import json

import anyio
import pytest

from mcpgw.domain import SYSTEM, Arguments, ClientFacts, Era, PartKind, ToolPin, Verb
from mcpgw.errors import ClientGone, Killed, WorldMoved
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_http import McpHttpUpstream
from tests.upstream.calls import (
    ALICE,
    BOB,
    LEGACY,
    LIMITS,
    MODERN,
    Caller,
    CountingGate,
    HandClock,
    mcp_http,
    permit,
    read,
    version,
)

PROGRESS = b'{"progressToken":"tok"}'


@pytest.fixture
def modern(upstream: McpHttpUpstream, dual_server: str) -> Caller:
    return Caller(upstream, version(dual_server))


@pytest.fixture
def legacy(upstream: McpHttpUpstream, dual_server: str) -> Caller:
    return Caller(upstream, version(dual_server), client=LEGACY, session="s-1")


@pytest.mark.requirement("upstream:same-era")
async def test_a_server_of_both_generations_is_spoken_to_in_that_of_the_client(modern: Caller, legacy: Caller) -> None:
    discovered = await modern.ask(Verb.DISCOVER)
    assert discovered.result["resultType"] == "complete"
    assert discovered.last.facts == {"upstream_status": 200, "era": "modern"}
    initialized = await legacy.ask(Verb.INITIALIZE)
    assert initialized.result["protocolVersion"] == "2025-11-25"
    assert initialized.last.facts == {"upstream_status": 200, "era": "legacy"}
    assert (await modern.call("test_simple_text")).result["resultType"] == "complete"
    assert "resultType" not in (await legacy.call("test_simple_text")).result


@pytest.mark.requirement("upstream:same-era")
@pytest.mark.parametrize("client", [MODERN, LEGACY], ids=["modern", "legacy"])
async def test_every_list_resource_prompt_and_completion_passes(modern: Caller, client: ClientFacts) -> None:
    caller = dataclasses.replace(modern, client=client, session="s-lists")
    assert len((await caller.ask(Verb.TOOLS_LIST)).result["tools"]) > 10
    assert (await caller.ask(Verb.PROMPTS_LIST)).result["prompts"]
    assert (await caller.ask(Verb.RESOURCE_TEMPLATES_LIST)).result["resourceTemplates"]
    resource = await caller.ask(Verb.RESOURCES_READ, name="test://static-text")
    assert resource.result["contents"][0]["uri"] == "test://static-text"
    prompt = await caller.ask(
        Verb.PROMPTS_GET,
        name="test_prompt_with_arguments",
        arguments=dataclasses.replace(
            permit(caller.target, Verb.PING).judged.arguments, raw=b'{"arg1":"x","arg2":"y"}'
        ),
    )
    assert "x" in json.dumps(prompt.result["messages"])
    completed = await caller.ask(
        Verb.COMPLETE,
        forwarded={
            "ref": b'{"type":"ref/prompt","name":"test_prompt_with_arguments"}',
            "argument": b'{"name":"arg1","value":"p"}',
        },
    )
    assert "completion" in completed.result


@pytest.mark.requirement("upstream:judged-bytes")
async def test_progress_arrives_as_events_before_the_last_part(modern: Caller, legacy: Caller) -> None:
    for caller in (modern, legacy):
        seen = await caller.known(meta=PROGRESS).call("test_tool_with_progress")
        assert seen.kinds == ["opened", "event", "event", "event", "last"]
        assert [e["params"]["progress"] for e in seen.events] == [0, 50, 100]
        assert {e["params"]["progressToken"] for e in seen.events} == {"tok"}


@pytest.mark.requirement("upstream:same-era")
async def test_log_messages_come_when_a_modern_client_names_a_level(modern: Caller) -> None:
    assert (await modern.call("test_tool_with_logging")).kinds == ["whole"]
    seen = await modern.known(log_level="info").call("test_tool_with_logging")
    assert [e["method"] for e in seen.events] == ["notifications/message"] * 3


@pytest.mark.requirement("upstream:parts")
async def test_a_failing_tool_is_marked_and_an_unknown_one_is_an_error(modern: Caller, legacy: Caller) -> None:
    for caller in (modern, legacy):
        assert (await caller.call("test_error_handling")).last.failed
        assert not (await caller.call("test_simple_text")).last.failed
        refused = (await caller.call("no_such_tool")).last
        assert refused.error_code == -32602
        assert json.loads(refused.body)["message"] == "Unknown tool: no_such_tool"


@pytest.mark.requirement("upstream:gate")
async def test_a_call_passes_the_gate_once_and_finding_out_the_era_once_more(modern: Caller) -> None:
    first, second = CountingGate(), CountingGate()
    await modern.call("test_simple_text", gate=first)
    await modern.call("test_simple_text", gate=second)
    assert (first.passed, second.passed) == (2, 1)


@pytest.mark.requirement("upstream:gate")
@pytest.mark.parametrize("closed", [Killed("killed"), WorldMoved()], ids=["killed", "moved"])
async def test_what_the_gate_raises_ends_the_call_at_any_of_its_writes(legacy: Caller, closed: BaseException) -> None:
    for writes in range(3):  # initialize, initialized, the call
        fresh = dataclasses.replace(legacy, session=f"s-gate-{type(closed).__name__}-{writes}")
        gate = CountingGate(closed=closed, closed_from=writes)
        with pytest.raises(type(closed)):
            await fresh.call("test_simple_text", gate=gate)
        assert gate.passed == writes
        assert (await fresh.call("test_simple_text")).text.startswith("This is")


@pytest.mark.requirement("upstream:own-calls")
@pytest.mark.parametrize("pinned", [Era.UNKNOWN, Era.MODERN, Era.LEGACY])
async def test_the_gateways_own_calls_use_whatever_the_server_speaks(
    upstream: McpHttpUpstream, legacy_server: str, modern_server: str, pinned: Era
) -> None:
    for url, era in ((legacy_server, "legacy"), (modern_server, "modern")):
        target = version(url, era=pinned, server=era)
        seen = await Caller(upstream, target, client=None, who=SYSTEM).ask(Verb.TOOLS_LIST)
        assert seen.last.facts["era"] == era
        assert seen.result["tools"]


@pytest.mark.requirement("upstream:era-detection")
async def test_a_wrong_era_in_the_manifest_is_found_out(upstream: McpHttpUpstream, legacy_server: str) -> None:
    pinned_modern = version(legacy_server, era=Era.MODERN)
    for client, session in ((MODERN, None), (LEGACY, "s")):
        seen = await Caller(upstream, pinned_modern, client=client, session=session).call("test_simple_text")
        assert seen.last.facts["era"] == "legacy"


@pytest.mark.requirement("upstream:resumption")
async def test_a_stream_that_the_server_closes_early_is_taken_up_again(legacy: Caller) -> None:
    gate = CountingGate()
    seen = await legacy.call("test_reconnection", gate=gate)
    assert seen.text == "The result arrived after the stream had been closed."
    assert gate.passed == 4  # initialize, initialized, the call, and the GET that resumed


@pytest.mark.requirement("upstream:server-requests")
async def test_a_server_asks_a_legacy_client_and_gets_its_answer(legacy: Caller) -> None:
    asking = legacy.known(capabilities=b'{"elicitation":{},"sampling":{},"roots":{}}')
    exchange = await asking.send(Verb.TOOLS_CALL, name="test_elicitation", arguments=Arguments(b'{"message":"who?"}'))
    parts = aiter(exchange)
    assert (await anext(parts)).kind is PartKind.OPENED
    question = json.loads((await anext(parts)).body)
    assert question["method"] == "elicitation/create"
    answer = b'{"action":"accept","content":{"username":"eve","email":"e@example.org"}}'
    told = await asking.ask(Verb.ANSWER, forwarded={"id": json.dumps(question["id"]).encode(), "result": answer})
    assert (told.kinds, told.last.body) == (["whole"], b"")
    last = await anext(parts)
    assert last.kind is PartKind.LAST
    assert b"eve" in last.body
    await exchange.aclose(None)


@pytest.mark.requirement("upstream:input-required")
async def test_a_question_to_a_modern_client_passes_and_so_does_its_answer(modern: Caller) -> None:
    able = modern.known(capabilities=b'{"elicitation":{}}')
    asked = (await able.call("test_input_required_result_elicitation")).result
    assert asked["resultType"] == "input_required"
    answers = {"user_name": {"action": "accept", "content": {"name": "Eve"}}}
    seen = await able.call(
        "test_input_required_result_elicitation",
        forwarded={"inputResponses": json.dumps(answers).encode()},
    )
    assert seen.text == "Hello, Eve!"


@pytest.mark.requirement("upstream:streams")
async def test_a_listening_modern_client_hears_under_its_own_subscription_id(
    modern: Caller, changed: list[tuple[str, str]]
) -> None:
    exchange = await modern.send(
        Verb.LISTEN, forwarded={"notifications": b'{"toolsListChanged":true}', "#id": b'"client-7"'}
    )
    parts = aiter(exchange)
    with anyio.fail_after(5):
        assert (await anext(parts)).kind is PartKind.OPENED
        acknowledged = json.loads((await anext(parts)).body)
        assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        await modern.call("test_trigger_tool_change")
        told = json.loads((await anext(parts)).body)
    assert told["method"] == "notifications/tools/list_changed"
    for message in (acknowledged, told):
        assert message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "client-7"
    assert changed == [("srv", "tools")]
    await exchange.aclose(None)


@pytest.mark.requirement("upstream:streams")
async def test_the_stream_of_a_legacy_session_carries_what_the_server_tells(
    legacy: Caller, changed: list[tuple[str, str]]
) -> None:
    await legacy.ask(Verb.INITIALIZE)
    exchange = await legacy.send(Verb.STREAM)
    parts = aiter(exchange)
    assert (await anext(parts)).kind is PartKind.OPENED
    await legacy.call("test_trigger_tool_change")
    with anyio.fail_after(5):
        told = json.loads((await anext(parts)).body)
    assert told["method"] == "notifications/tools/list_changed"
    assert changed == [("srv", "tools")]
    await exchange.aclose(ClientGone("gone"))


@pytest.mark.requirement("upstream:sessions")
async def test_sessions_are_never_shared_between_principals_or_sessions_of_a_client(legacy: Caller) -> None:
    gates = []
    for who, session in ((ALICE, "a"), (ALICE, "a"), (BOB, "a"), (ALICE, "b")):
        gate = CountingGate()
        gates.append(gate)
        await dataclasses.replace(legacy, who=who, session=f"s-own-{session}").call("test_simple_text", gate=gate)
    assert [gate.passed for gate in gates] == [3, 1, 3, 3]


@pytest.mark.requirement("upstream:sessions")
async def test_a_session_ends_upstream_when_the_client_ends_it(legacy: Caller) -> None:
    await legacy.call("test_simple_text")
    ended = await legacy.ask(Verb.END_SESSION)
    assert (ended.kinds, ended.last.body, ended.last.facts["upstream_status"]) == (["whole"], b"", 200)
    gate = CountingGate()
    await legacy.call("test_simple_text", gate=gate)
    assert gate.passed == 3  # a new session


@pytest.mark.requirement("upstream:param-headers")
async def test_mirrored_arguments_are_passed_on_and_made_anew_after_a_redaction(modern: Caller) -> None:
    tools = (await modern.ask(Verb.TOOLS_LIST)).result["tools"]
    definition = next(tool for tool in tools if tool["name"] == "test_x_mcp_header")
    pin = ToolPin("test_x_mcp_header", "", json.dumps(definition).encode())
    mirroring = modern.known(headers={"mcp-param-region": "eu-secret"})
    seen = await mirroring.call("test_x_mcp_header", b'{"region":"eu-secret"}')
    assert seen.text == "Region: eu-secret"
    # The client's header says what the redaction took out: sent as it is, the server would refuse the call.
    assert mirroring.client is not None
    right = permit(
        modern.target,
        Verb.TOOLS_CALL,
        name="test_x_mcp_header",
        client=mirroring.client,
        judged='{"region":"[rédigé]"}'.encode(),
        tool=pin,
    )
    assert (await read(await modern.upstream.send(right, {}, CountingGate()))).text == "Region: [rédigé]"


@pytest.mark.requirement("upstream:foreign-answers")
async def test_many_calls_at_once_get_their_own_answers(modern: Caller, legacy: Caller) -> None:
    async def one(caller: Caller, number: int) -> None:
        seen = await caller.call("greet", b'{"name":"n%d"}' % number)
        assert seen.text == f"Hello, n{number}!"

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(one, modern, number)
                group.start_soon(one, legacy, number)


@pytest.mark.requirement("upstream:cancellation")
async def test_letting_go_of_a_modern_stream_closes_its_connection(dual_server: str, clock: HandClock) -> None:
    http = HttpClient(LIMITS, lambda address: True)
    caller = Caller(mcp_http(http, clock), version(dual_server))
    exchange = await caller.send(Verb.LISTEN, forwarded={"notifications": b'{"toolsListChanged":true}'})
    parts = aiter(exchange)
    await anext(parts)
    await exchange.aclose(ClientGone("gone"))
    await exchange.aclose(None)
    with pytest.raises(StopAsyncIteration):
        await anext(parts)
    await http.aclose()
