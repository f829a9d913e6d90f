"""Clients of the handshake era, the SDK's and one written by hand, through two workers to a server of 2026-07-28."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync
from mcp import MCPError
from mcp_types import (
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    PromptListChangedNotification,
    ResourceUpdatedNotification,
    Root,
    TextContent,
    ToolListChangedNotification,
)
from pydantic import FileUrl

from tests.e2e.agents import agent, text_of
from tests.e2e.client import Client, Stream, through
from tests.fixtures.processes import running
from tests.harness import ROOT, GatewayProcess, gateway, rego, until

# The library warns of what it does for the handshake era.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

SERVER = ROOT / "tests" / "fixtures" / "everything_server.py"
WATCHED = "test://watched-resource"
PATH = "/mcp/everything"
IN_USE_S = 20.0
ABLE: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
ASKING = "test_input_required_result_elicitation"
REDACTING = """package mcpgw.authz

default decision := {"effect": "allow", "reasons": ["all"]}

decision := {
	"effect": "allow",
	"reasons": ["no-messages"],
	"obligations": [{"type": "redact_arguments", "pointers": ["/message"]}],
} if {
	input.phase == "call"
	input.tool.name == "test_elicitation"
}
"""


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    home = tmp_path_factory.mktemp("crossing")
    with (
        running([sys.executable, SERVER, "--port", "0", "--era", "modern"], log=home / "server.log") as server,
        gateway(home / "gate", policy=rego("allow_all"), workers=2) as made,
    ):
        made.publish("everything", server.url)
        yield made
        assert "Traceback" not in made.output()


def legacy(gate: GatewayProcess, path: str = PATH, **options: Any) -> Any:
    return agent(gate.base_url + path, gate.agent_key, mode="legacy", **options)


async def accepts(context: Any, params: Any) -> ElicitResult:
    return ElicitResult(action="accept", content={"name": "Ada", "color": "blue", "context": "a test"})


async def samples(context: Any, params: Any) -> CreateMessageResult:
    return CreateMessageResult(role="assistant", content=TextContent(text="Hi"), model="test")


async def has_roots(context: Any) -> ListRootsResult:
    return ListRootsResult(roots=[Root(uri=FileUrl("file:///work"), name="work")])


class Thinking:
    """A user who has been asked, and does not answer before being told to."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.may_answer = anyio.Event()

    async def __call__(self, context: Any, params: Any) -> ElicitResult:
        self.asked.set()
        await self.may_answer.wait()
        return ElicitResult(action="accept", content={"name": "Ada"})


# The SDK's client


@pytest.mark.requirement("for-legacy:clients")
@pytest.mark.parametrize("path", ["/mcp", PATH])
async def test_a_server_asks_the_user_the_model_and_the_client_of_another_era(gate: GatewayProcess, path: str) -> None:
    prefix = "everything__" if path == "/mcp" else ""
    able = {"elicitation_callback": accepts, "sampling_callback": samples, "list_roots_callback": has_roots}
    async with legacy(gate, path, **able) as client:
        assert client.protocol_version == "2025-11-25"
        at_once = await client.call_tool(prefix + "test_input_required_result_multiple_inputs")
        in_turn = await client.call_tool(prefix + "test_input_required_result_multi_round")
        stateful = await client.call_tool(prefix + "test_input_required_result_request_state")
        mirrored = await client.call_tool(prefix + "test_x_mcp_header", {"region": "Zoë ✓"})
    assert text_of(at_once) == "Hi Ada has 1 root(s)."
    assert text_of(in_turn) == "Ada likes blue."
    assert "state-ok" in text_of(stateful)
    assert text_of(mirrored) == "Region: Zoë ✓"


@pytest.mark.requirement("for-legacy:clients")
async def test_prompts_resources_and_completions_cross_too(gate: GatewayProcess) -> None:
    async with legacy(gate, elicitation_callback=accepts) as client:
        prompt = await client.get_prompt("test_input_required_result_prompt")
        resource = await client.read_resource("test://static-text")
        with pytest.raises(MCPError) as missing:
            await client.read_resource("test://nothing")
    assert prompt.messages[0].content.text == "Use this context: a test"
    assert resource.contents[0].text.startswith("This is")
    assert missing.value.error.code == -32002


@pytest.mark.requirement("for-legacy:clients")
async def test_a_user_who_declines_is_believed(gate: GatewayProcess) -> None:
    async def declines(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="decline")

    async with legacy(gate, elicitation_callback=declines) as client:
        assert text_of(await client.call_tool(ASKING)) == "Hello, decline!"


@pytest.mark.requirement("for-legacy:clients")
async def test_a_client_that_declared_nothing_is_asked_nothing(gate: GatewayProcess) -> None:
    async with legacy(gate) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool(ASKING)
        careful = await client.call_tool("test_input_required_result_capabilities")
    assert refused.value.error.code == -32603
    assert "capability" in refused.value.error.message
    assert text_of(careful) == "The client can be asked nothing."


@pytest.mark.requirement("for-legacy:clients")
async def test_progress_and_messages_arrive_on_the_way(gate: GatewayProcess) -> None:
    steps: list[float] = []
    levels: list[str] = []

    async def noted(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async def logged(params: Any) -> None:
        levels.append(params.level)

    async with legacy(gate, logging_callback=logged, elicitation_callback=accepts) as client:
        await client.call_tool("test_logging_tool")
        await client.set_logging_level("error")
        await client.call_tool("test_logging_tool")
        asked = await client.call_tool("test_streaming_elicitation", progress_callback=noted)
    assert levels == ["error", "critical", "alert", "emergency"]
    assert steps == [1, 2]
    assert text_of(asked) == "Hello, Ada!"


class Hearing:
    """A client that hears of changes. `kinds` are the notifications since the last time."""

    def __init__(self) -> None:
        self.kinds: list[type] = []
        self._arrived = anyio.Event()

    async def __call__(self, message: Any) -> None:
        self.kinds.append(type(message))
        if ToolListChangedNotification in self.kinds and isinstance(message, PromptListChangedNotification):
            self._arrived.set()

    async def changes(self, client: Any, *, within_s: float = IN_USE_S) -> list[type]:
        """Have the tools change, then the prompts; return what is told of both, and of what changed with them."""
        self.kinds, self._arrived = [], anyio.Event()
        await client.call_tool("test_trigger_tool_change")
        await client.call_tool("test_trigger_prompt_change")
        with anyio.move_on_after(within_s):
            await self._arrived.wait()
            await client.call_tool("test_simple_text")
        return self.kinds


@pytest.mark.requirement("for-legacy:clients")
async def test_updates_and_changed_lists_arrive_until_the_client_unsubscribes(gate: GatewayProcess) -> None:
    hearing = Hearing()
    async with legacy(gate, message_handler=hearing) as client:
        with anyio.fail_after(IN_USE_S):
            while not await hearing.changes(client, within_s=0.5):
                """The SDK opens its stream in its own time."""
            await client.subscribe_resource(WATCHED)
            subscribed = await hearing.changes(client)
            await client.unsubscribe_resource(WATCHED)
            unsubscribed = await hearing.changes(client)
    assert subscribed == [
        ToolListChangedNotification,
        ResourceUpdatedNotification,
        PromptListChangedNotification,
        ResourceUpdatedNotification,
    ]
    assert unsubscribed == [ToolListChangedNotification, PromptListChangedNotification]


@pytest.mark.requirement("for-legacy:clients")
async def test_a_call_that_its_client_cancels_while_it_is_asked_is_over(gate: GatewayProcess) -> None:
    thinking = Thinking()
    async with legacy(gate, elicitation_callback=thinking) as client:
        with anyio.fail_after(IN_USE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.call_tool, ASKING)
                await thinking.asked.wait()
                tasks.cancel_scope.cancel()
            assert text_of(await client.call_tool("test_simple_text")).startswith("This is")
    record = await run_sync(until, partial(newest, gate, "cancelled"), "the record of the cancellation")
    assert record["facts"]["sent"] is True


def newest(gate: GatewayProcess, outcome: str) -> dict[str, Any] | None:
    """Return the newest outcome of this kind of the asking tool."""
    records: list[dict[str, Any]] = gate.admin.get("/audit", tool=ASKING, outcome=outcome)["records"]
    return next((record for record in records if record["phase"] == "outcome"), None)


@pytest.mark.requirement("for-legacy:clients")
async def test_a_call_that_is_killed_while_its_client_is_asked_is_answered_as_killed(gate: GatewayProcess) -> None:
    thinking = Thinking()
    refused: list[MCPError] = []

    async def call(client: Any) -> None:
        with pytest.raises(MCPError) as error:
            await client.call_tool(ASKING)
        refused.append(error.value)

    async with legacy(gate, elicitation_callback=thinking) as client:
        with anyio.fail_after(IN_USE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, client)
                await thinking.asked.wait()
                kill = await run_sync(thrown, gate, "tool", f"everything/{ASKING}")
            thinking.may_answer.set()
            assert text_of(await client.call_tool("test_simple_text")).startswith("This is")
    await run_sync(released, gate, kill)
    assert refused[0].error.code == -31101
    assert refused[0].error.data["reason"] == "killed"
    assert len(kill["may_have_taken_effect"]) == 1


def thrown(gate: GatewayProcess, scope: str, selector: str) -> dict[str, Any]:
    kill = {"scope": scope, "selector": selector, "mode": "hard", "reason": "drill"}
    answer: dict[str, Any] = gate.admin.post("/kill-switches", kill)
    return answer


def released(gate: GatewayProcess, kill: dict[str, Any]) -> None:
    gate.admin.delete(f"/kill-switches/{kill['id']}", {"reason": "drill"})


# A client written by hand


class Two:
    """Two connections of one client in one session: one reads a stream, the other tells what it has to."""

    def __init__(self, gate: GatewayProcess, stack: ExitStack, workers: tuple[str, str] = ("w0", "w1")) -> None:
        self.reading, self.telling = (
            stack.enter_context(through(worker, gate, gate.agent_key, PATH)) for worker in workers
        )

    def opened(self, revision: str = "2025-11-25") -> Two:
        self.telling.session = self.reading.initialize(revision, ABLE)
        self.telling.revision = revision
        return self

    def answer(self, question: dict[str, Any], **content: Any) -> int:
        """Return the status."""
        result = {"action": "accept", "content": content}
        return self.telling.tell({"id": question["id"], "result": result}).status


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def question_on(stream: Stream) -> dict[str, Any]:
    return stream.wait_message("elicitation/create")


@pytest.mark.requirement("for-legacy:clients")
@pytest.mark.parametrize("workers", [("w0", "w1"), ("w1", "w0")])
def test_an_answer_finds_its_call_whichever_worker_takes_it_in(
    gate: GatewayProcess, stack: ExitStack, workers: tuple[str, str]
) -> None:
    client = Two(gate, stack, workers).opened()
    stream = client.reading.start(ASKING)
    assert client.answer(question_on(stream), name="Ada") == 202
    assert stream.wait_answer()["result"]["content"][0]["text"] == "Hello, Ada!"
    assert client.answer(question_on(stream), name="Eve") == 400  # answered already


@pytest.mark.requirement("for-legacy:clients")
def test_nobody_else_can_answer(gate: GatewayProcess, stack: ExitStack) -> None:
    client = Two(gate, stack).opened()
    stream = client.reading.start(ASKING)
    question = question_on(stream)
    _, foreign = gate.new_key("somebody-else")
    thief = stack.enter_context(Client(gate.base_url, foreign, PATH))
    stolen = {"id": question["id"], "result": {"action": "accept", "content": {"name": "Eve"}}}
    thief.session = client.telling.session
    assert thief.tell(stolen).status == 404
    thief.initialize(capabilities=ABLE)
    assert thief.tell(stolen).status == 400
    other = stack.enter_context(Client(gate.base_url, gate.agent_key, PATH))
    other.initialize(capabilities=ABLE)
    assert other.tell(stolen).status == 400
    assert client.answer(question, name="Ada") == 202
    assert stream.wait_answer()["result"]["content"][0]["text"] == "Hello, Ada!"


@pytest.mark.requirement("for-legacy:clients")
def test_two_sessions_that_are_asked_under_one_id_get_their_own_answers(gate: GatewayProcess, stack: ExitStack) -> None:
    ada, bob = Two(gate, stack).opened(), Two(gate, stack).opened()
    streams = [client.reading.start(ASKING) for client in (ada, bob)]
    first, second = (question_on(stream) for stream in streams)
    assert first["id"] == second["id"]
    assert bob.answer(second, name="Bob") == 202
    assert ada.answer(first, name="Ada") == 202
    said = [stream.wait_answer()["result"]["content"][0]["text"] for stream in streams]
    assert said == ["Hello, Ada!", "Hello, Bob!"]


@pytest.mark.requirement("for-legacy:clients")
def test_a_client_of_2025_06_18_is_asked_as_it_knows_it(gate: GatewayProcess, stack: ExitStack) -> None:
    client = Two(gate, stack).opened("2025-06-18")
    stream = client.reading.start(ASKING)
    question = question_on(stream)
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    assert question["params"] == {"message": "What is your name?", "requestedSchema": schema}
    assert stream.last_id is None
    assert client.answer(question, name="Ada") == 202
    assert stream.wait_answer()["result"]["content"][0]["text"] == "Hello, Ada!"
    unaskable = client.telling.call("test_elicitation_sep1330_enums").body["result"]
    assert unaskable["isError"]
    assert "choice" in unaskable["content"][0]["text"]


@pytest.mark.requirement("for-legacy:clients")
def test_a_client_of_2025_03_26_is_told_that_it_cannot_be_asked(gate: GatewayProcess, stack: ExitStack) -> None:
    client = stack.enter_context(Client(gate.base_url, gate.agent_key, PATH))
    client.initialize("2025-03-26", ABLE)
    assert client.call("test_simple_text").ok
    assert client.call(ASKING).body["error"]["code"] == -32603


@pytest.mark.requirement("for-legacy:clients")
def test_a_client_that_lost_its_stream_while_it_was_asked_comes_back_and_answers(
    gate: GatewayProcess, stack: ExitStack
) -> None:
    client = Two(gate, stack).opened()
    stream = client.reading.start("test_input_required_result_multi_round")
    first = question_on(stream)
    last_id = stream.last_id
    assert last_id is not None
    client.reading.close()
    assert client.answer(first, name="Ada") == 202
    third = stack.enter_context(Client(gate.base_url, gate.agent_key, PATH))
    third.session = client.telling.session
    rest = third.resume(last_id)
    assert client.answer(question_on(rest), color="blue") == 202
    assert rest.wait_answer()["result"]["content"][0]["text"] == "Ada likes blue."


@pytest.mark.requirement("for-legacy:clients")
def test_a_session_that_ends_takes_its_calls_and_its_stream_with_it(gate: GatewayProcess, stack: ExitStack) -> None:
    client = Two(gate, stack).opened()
    third = stack.enter_context(Client(gate.base_url, gate.agent_key, PATH))
    third.session = client.telling.session
    asking, listening = client.reading.start(ASKING), third.listen()
    question = question_on(asking)
    assert client.telling.end_session() == 200
    asking.wait_end()
    listening.wait_end()
    assert not [event for _, event in listening.events if "error" in event]
    assert client.answer(question, name="Ada") == 404
    until(partial(newest, gate, "client_gone"), "the record of the call that ended with its session")


@pytest.mark.requirement("for-legacy:clients")
def test_a_kill_of_the_server_ends_the_stream_of_a_session(gate: GatewayProcess, stack: ExitStack) -> None:
    client = Two(gate, stack).opened()
    stream = client.reading.listen()
    assert client.telling.ask("resources/subscribe", {"uri": WATCHED}).body["result"] == {}
    client.telling.call("test_trigger_tool_change")
    stream.wait_for("notifications/resources/updated")
    kill = thrown(gate, "server", "everything")
    stream.wait_end()
    released(gate, kill)
    assert stream.wait_answer()["error"]["data"]["reason"] == "killed"
    again = stack.enter_context(Client(gate.base_url, gate.agent_key, PATH))
    again.session = client.telling.session
    stream = again.listen()
    client.telling.call("test_trigger_tool_change")
    stream.wait_for("notifications/resources/updated")


@pytest.mark.requirement("for-legacy:clients", "gate:stale")
def test_a_retry_does_not_send_what_the_policy_has_come_to_redact(gate: GatewayProcess, stack: ExitStack) -> None:
    client = Two(gate, stack).opened()
    stream = client.reading.start("test_elicitation", message="my secret")
    question = question_on(stream)
    gate.admin.post("/policies", {"files": {"redacting.rego": REDACTING}, "activate": True})
    try:
        assert client.answer(question, username="ada", email="a@example.org") == 202
        assert stream.wait_answer()["error"]["code"] == -31103
        fresh = stack.enter_context(Client(gate.base_url, gate.agent_key, PATH))
        fresh.session = client.telling.session
        again = fresh.start("test_elicitation", id=2, message="my secret")
        assert question_on(again)["params"]["message"] == "[redacted]"
        client.telling.end_session()
    finally:
        gate.admin.post("/policies/rollback")
