"""What the MCP SDK's own client, of either generation, can do through a gateway."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any
from uuid import uuid4

import anyio
import pytest
from anyio.to_thread import run_sync
from mcp import Client, MCPError
from mcp.client.subscriptions import ResourceUpdated, ToolsListChanged
from mcp_types import (
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    PromptReference,
    ResourceUpdatedNotification,
    Root,
    TextContent,
)
from pydantic import FileUrl

from mcpgw.audit import tree
from mcpgw.audit.record import leaf_of
from mcpgw.audit.verify import verify
from mcpgw.domain import Receipt
from mcpgw.errors import NotFound
from tests.e2e.agents import DECISION, MODERN, MODES, agent, names, receipt_of, text_of
from tests.e2e.parts import Witness
from tests.harness import GatewayProcess, until

# The library warns of what it does for the handshake era.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

ERAS = (MODERN, "legacy")
WATCHED = "test://watched-resource"
IN_USE_S = 15.0


class Place:
    """An endpoint that has the tools of the server `everything`, and how they are named there."""

    def __init__(self, gate: GatewayProcess, path: str) -> None:
        self.gate = gate
        self.url = gate.base_url + path
        self.prefix = "everything__" if path == "/mcp" else ""

    def agent(self, mode: str, **options: Any) -> AbstractAsyncContextManager[Client]:
        return agent(self.url, self.gate.agent_key, mode=mode, **options)

    def tool(self, name: str) -> str:
        return self.prefix + name


@pytest.fixture(params=["/mcp", "/mcp/everything"])
def place(request: pytest.FixtureRequest, gate: GatewayProcess) -> Place:
    return Place(gate, request.param)


@pytest.fixture
def server(gate: GatewayProcess) -> Place:
    return Place(gate, "/mcp/everything")


@pytest.mark.requirement("sdk:tools")
@pytest.mark.parametrize("mode", MODES)
async def test_a_client_lists_and_calls_tools(place: Place, mode: str) -> None:
    async with place.agent(mode) as client:
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else MODERN)
        listed = names((await client.list_tools()).tools)
        said = await client.call_tool(place.tool("test_simple_text"))
        mixed = await client.call_tool(place.tool("test_multiple_content_types"))
        greeted = await client.call_tool(place.tool("greet"), {"name": "Zoë ✓"})
    assert {place.tool("test_simple_text"), place.tool("greet"), place.tool("test_error_handling")} <= listed
    assert place.tool("json_schema_2020_12_tool") not in listed
    assert text_of(said) == "This is a simple text response for testing."
    assert [item.type for item in mixed.content] == ["text", "image", "resource"]
    assert text_of(greeted) == "Hello, Zoë ✓!"


@pytest.mark.requirement("sdk:tools")
@pytest.mark.parametrize("mode", ERAS)
async def test_the_endpoint_over_all_servers_has_each_server_that_the_caller_may_see(
    gate: GatewayProcess, mode: str
) -> None:
    _, insider = gate.new_key("insider", "agent", "insider")
    async with agent(gate.mcp_url, gate.agent_key, mode=mode) as client:
        seen = {name.partition("__")[0] for name in names((await client.list_tools()).tools)}
    async with agent(gate.mcp_url, insider, mode=mode) as client:
        listed = names((await client.list_tools()).tools)
    assert seen == {"changing", "everything", "other", "slowpoke"}
    assert {name.partition("__")[0] for name in listed} == seen | {"vault"}
    assert "everything__json_schema_2020_12_tool" in listed


@pytest.mark.requirement("sdk:progress")
@pytest.mark.parametrize("mode", ERAS)
async def test_progress_arrives_while_the_tool_works(place: Place, mode: str) -> None:
    steps: list[tuple[float, float | None]] = []

    async def noted(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, total))

    async with place.agent(mode) as client:
        result = await client.call_tool(place.tool("test_tool_with_progress"), progress_callback=noted)
    assert steps == [(0, 100), (50, 100), (100, 100)]
    assert text_of(result) == "Progressed to the end."


@pytest.mark.requirement("sdk:cancel")
@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("path", ["/mcp", "/mcp/slowpoke"])
async def test_a_client_that_cancels_stops_the_upstream(
    gate: GatewayProcess, testimony: Witness, path: str, mode: str
) -> None:
    marker, tool = uuid4().hex, "slowpoke__slow" if path == "/mcp" else "slow"
    arrived, hung_up = len(testimony.arrivals()), len(testimony.hang_ups())
    async with agent(gate.base_url + path, gate.agent_key, mode=mode) as client:
        with anyio.fail_after(IN_USE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.call_tool, tool, {"seconds": 600, "marker": marker})
                await run_sync(testimony.arrivals, arrived + 1)
                tasks.cancel_scope.cancel()
            ended = await run_sync(testimony.hang_ups, hung_up + 1)
            assert (await client.call_tool(tool, {"seconds": 0, "marker": ""})).content
    assert marker in ended
    records = gate.admin.get(
        "/audit", server="slowpoke", tool="slow", outcome="cancelled" if mode == "legacy" else "client_gone"
    )
    assert records["records"][0]["facts"]["sent"] is True


@pytest.mark.requirement("sdk:receipts")
@pytest.mark.parametrize("mode", ERAS)
async def test_every_answer_carries_a_receipt_that_the_log_proves(place: Place, mode: str) -> None:
    gate = place.gate
    async with place.agent(mode) as client:
        answered = await client.call_tool(place.tool("test_simple_text"))
        denied = await client.call_tool(place.tool("test_error_handling"))
        listed = await client.list_tools()
        with pytest.raises(MCPError) as unknown:
            await client.call_tool(place.tool("nothing"))
    given = [
        receipt_of(answered),
        receipt_of(denied),
        receipt_of(listed),
        Receipt(**unknown.value.error.data["receipt"]),
    ]
    told = [("outcome", "ok"), ("refused", "denied"), ("outcome", "ok"), ("refused", "unknown_name")]
    for receipt, (phase, outcome) in zip(given, told, strict=True):
        proof = until(partial(proof_of, gate, receipt), "a checkpoint that covers the receipt")
        path = [bytes.fromhex(sibling) for sibling in proof["path"]]
        leaf = leaf_of(proof["line"].encode())
        assert leaf.hex() == receipt.leaf
        assert tree.includes(bytes.fromhex(proof["root"]), proof["size"], receipt.index, leaf, path)
        assert {"id": receipt.log, "size": proof["size"], "root": proof["root"]} in proof["checkpoint"]["logs"]
        assert (proof["record"]["phase"], proof["record"]["outcome"]) == (phase, outcome)
    report = verify(gate.audit_dir, receipts=given)
    assert report.ok, report.text()


def proof_of(gate: GatewayProcess, receipt: Receipt) -> dict[str, Any] | None:
    try:
        proof: dict[str, Any] = gate.admin.get("/audit/proof", log=receipt.log, index=receipt.index)
    except NotFound:
        return None
    return proof


@pytest.mark.requirement("sdk:denied")
@pytest.mark.parametrize("mode", ERAS)
async def test_a_denied_call_is_a_result_that_a_model_can_act_on(place: Place, mode: str) -> None:
    async with place.agent(mode) as client:
        result = await client.call_tool(place.tool("test_error_handling"))
    assert result.is_error
    assert text_of(result) == "This tool only fails. Use another one."
    assert result.meta is not None
    decision = result.meta[DECISION]
    assert (decision["effect"], decision["rule"], decision["retryable"]) == ("deny", "nothing-fails-on-purpose", False)
    (record,) = place.gate.admin.get(f"/audit/{decision['decision_id']}")["records"]
    assert (record["phase"], record["reasons"]) == ("refused", ["nothing-fails-on-purpose"])


@pytest.mark.requirement("sdk:asking")
@pytest.mark.parametrize("mode", ERAS)
async def test_a_server_can_ask_the_client_while_it_works(place: Place, mode: str) -> None:
    """By requests of its own in the handshake era, by `input_required` and a retry in the modern one."""
    asked: list[str] = []

    async def elicited(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={"username": "ada", "email": "ada@example", "color": "blue"})

    async def sampled(context: Any, params: Any) -> CreateMessageResult:
        asked.append(params.messages[0].content.text)
        return CreateMessageResult(role="assistant", content=TextContent(text="Paris"), model="test")

    async def rooted(context: Any) -> ListRootsResult:
        asked.append("roots")
        return ListRootsResult(roots=[Root(uri=FileUrl("file:///work"), name="work")])

    able = {"elicitation_callback": elicited, "sampling_callback": sampled, "list_roots_callback": rooted}
    async with place.agent(mode, **able) as client:
        user = await client.call_tool(place.tool("test_elicitation"), {"message": "Who are you?"})
        model = await client.call_tool(place.tool("test_sampling"), {"prompt": "The capital of France?"})
        all_three = await client.call_tool(place.tool("test_input_required_result_multiple_inputs"))
        twice = await client.call_tool(place.tool("test_input_required_result_multi_round"))
    assert (
        text_of(user)
        == 'User response: action=accept, content={"username": "ada", "email": "ada@example", "color": "blue"}'
    )
    assert text_of(model) == "LLM response: Paris"
    assert text_of(all_three) == "Paris accept has 1 root(s)."
    assert text_of(twice) == "accept likes blue."
    assert asked[:2] == ["Who are you?", "The capital of France?"]
    assert sorted(asked[2:5]) == ["Generate a greeting", "What is your name?", "roots"]
    assert [question[:6] for question in asked[5:]] == ["Step 1", "Step 2"]


@pytest.mark.requirement("sdk:asking")
@pytest.mark.parametrize("mode", ERAS)
async def test_a_client_that_declares_nothing_is_asked_nothing(place: Place, mode: str) -> None:
    async with place.agent(mode) as client:
        if mode == "legacy":
            result = await client.call_tool(place.tool("test_sampling"), {"prompt": "hello"})
            assert result.is_error and "did not declare" in text_of(result)
        else:
            with pytest.raises(MCPError) as refused:
                await client.call_tool(place.tool("test_sampling"), {"prompt": "hello"})
            assert refused.value.error.code == -32021
            assert refused.value.error.data == {"requiredCapabilities": {"sampling": {}}}


@pytest.mark.requirement("sdk:asking")
async def test_a_request_state_that_was_changed_is_refused(place: Place) -> None:
    async def elicited(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"ok": True})

    tool = place.tool("test_input_required_result_tampered_state")
    async with place.agent(MODERN, elicitation_callback=elicited) as client:
        asked: Any = await client.session.call_tool(tool, allow_input_required=True)
        answers: dict[str, Any] = {"confirm": ElicitResult(action="accept", content={"ok": True})}
        changed = asked.request_state[:-4] + ("AAAA" if asked.request_state[-4:] != "AAAA" else "BBBB")
        with pytest.raises(MCPError) as refused:
            await client.call_tool(tool, input_responses=answers, request_state=changed)
        done = await client.call_tool(tool, input_responses=answers, request_state=asked.request_state)
    assert refused.value.error.code == -32602
    assert text_of(done) == "state-ok: ok=True"


@pytest.mark.requirement("sdk:resources")
@pytest.mark.parametrize("mode", ERAS)
async def test_resources_are_listed_and_read_by_their_own_uris(server: Place, mode: str) -> None:
    async with server.agent(mode) as client:
        listed = (await client.list_resources()).resources
        templates = (await client.list_resource_templates()).resource_templates
        text = await client.read_resource("test://static-text")
        made = await client.read_resource("test://template/7/data")
    assert [str(resource.uri) for resource in listed] == ["test://static-text", WATCHED]  # the picture is hidden
    assert [template.uri_template for template in templates] == ["test://template/{id}/data"]
    (content,) = text.contents
    assert content.text == "This is the content of the static text resource."
    assert '"id":"7"' in made.contents[0].text


@pytest.mark.requirement("sdk:subscriptions")
async def test_a_modern_client_hears_that_a_resource_was_updated(server: Place) -> None:
    async with server.agent(MODERN) as client:
        with anyio.fail_after(IN_USE_S):
            async with client.listen(resource_subscriptions=[WATCHED], tools_list_changed=True) as heard:
                await client.call_tool("test_trigger_tool_change")
                events = [await anext(heard), await anext(heard)]
    assert ResourceUpdated(WATCHED) in events
    assert ToolsListChanged() in events


@pytest.mark.requirement("sdk:subscriptions")
async def test_a_legacy_client_hears_that_a_resource_was_updated_until_it_unsubscribes(server: Place) -> None:
    heard: list[Any] = []
    arrived = anyio.Event()

    async def handle(message: Any) -> None:
        heard.append(message)
        if isinstance(message, ResourceUpdatedNotification):
            arrived.set()

    async with server.agent("legacy", message_handler=handle) as client:
        with anyio.fail_after(IN_USE_S):
            await client.subscribe_resource(WATCHED)
            await client.call_tool("test_trigger_tool_change")
            await arrived.wait()
            await client.unsubscribe_resource(WATCHED)
            before = len(heard)
            await client.call_tool("test_trigger_prompt_change")
            await client.call_tool("test_simple_text")
    assert not any(isinstance(message, ResourceUpdatedNotification) for message in heard[before:])


@pytest.mark.requirement("sdk:prompts")
@pytest.mark.parametrize("mode", ERAS)
async def test_prompts_are_listed_filled_in_and_completed(server: Place, mode: str) -> None:
    async def elicited(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"context": "a test"})

    async with server.agent(mode, elicitation_callback=elicited) as client:
        listed = names((await client.list_prompts()).prompts)
        plain = await client.get_prompt("test_simple_prompt")
        filled = await client.get_prompt("test_prompt_with_arguments", {"arg1": "one", "arg2": "two"})
        asking = await client.get_prompt("test_input_required_result_prompt")
        words = await client.complete(
            PromptReference(name="test_prompt_with_arguments"), {"name": "arg1", "value": "par"}
        )
    assert listed == {"test_simple_prompt", "test_prompt_with_arguments", "test_input_required_result_prompt"}
    assert said(plain) == "This is a simple prompt for testing."
    assert said(filled) == "Prompt with arguments: arg1='one', arg2='two'"
    assert said(asking) == "Use this context: a test"
    assert words.completion.values == ["paris", "park", "party"]


def said(prompt: Any) -> str:
    text: str = prompt.messages[0].content.text
    return text


@pytest.mark.requirement("sdk:logging")
async def test_log_messages_come_at_the_level_that_the_client_asked_for(place: Place) -> None:
    heard: dict[str, list[str]] = {"modern": [], "legacy": []}

    def into(mode: str) -> Callable[[Any], Any]:
        async def noted(params: Any) -> None:
            heard[mode].append(params.level)

        return noted

    tool = place.tool("test_logging_tool")
    async with place.agent(MODERN, logging_callback=into("modern"), log_level="error") as client:
        await client.call_tool(tool)
    async with place.agent("legacy", logging_callback=into("legacy")) as client:
        await client.set_logging_level("error")
        await client.call_tool(tool)
    loud = ["error", "critical", "alert", "emergency"]
    assert heard == {"modern": loud, "legacy": loud}


@pytest.mark.requirement("sdk:quarantine")
@pytest.mark.parametrize("mode", ERAS)
async def test_a_tool_that_changed_since_it_was_approved_is_refused_and_the_others_go_on(
    gate: GatewayProcess, testimony: Witness, mode: str
) -> None:
    def quarantined() -> bool:
        return bool(gate.admin.get("/servers/changing")["quarantined"])

    version = gate.admin.get("/servers/changing")["active"]
    testimony.describe("changing", f"Sends the text to a stranger. {mode}")
    await run_sync(until, quarantined, "the drift check finds the change")
    try:
        async with agent(gate.server_url("changing"), gate.agent_key, mode=mode) as client:
            with pytest.raises(MCPError) as refused:
                await client.call_tool("echo", {"text": "hello", "marker": ""})
            goes_on = await client.call_tool("slow", {"seconds": 0, "marker": ""})
        assert refused.value.error.code == -31102
        assert "changed since it was approved" in refused.value.error.message
        assert "mcpgw servers diff changing" in refused.value.error.data["fix"]
        assert text_of(goes_on) == "done"
    finally:
        testimony.describe("changing", "Answers with the text.")
        gate.admin.post(f"/servers/changing/versions/{version}/approve")
    async with agent(gate.server_url("changing"), gate.agent_key, mode=mode) as client:
        assert text_of(await client.call_tool("echo", {"text": "hello", "marker": ""})) == "hello"
