"""Modern clients that a handshake-era server asks something, through a gateway: nothing is done twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from mcp_types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent
from pydantic import FileUrl

from mcpgw.domain import Phase
from tests import tools
from tests.e2e.agents import MODERN, RECEIPT, agent, text_of
from tests.e2e.client import Answer, Client, through
from tests.e2e.parts import lines_of, signed_epoch, verified
from tests.fixtures.processes import running
from tests.fixtures.raw_http import Peer
from tests.harness import ROOT, GatewayProcess, end, gateway, kill_all, rego, until
from tests.upstream.inquiring import ACCEPT, Inquirer, form
from tests.upstream.scripted import Asked, Scripted, event, reply, said, scripted

# The library warns of what it does for the handshake era.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

WORKERS = ("w0", "w1")
HELD_S = 3.0
AT_ONCE_S = 1.0
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
_TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("t", "other")]


class AbleClient(Client):
    """A plain client that can be asked to fill in forms."""

    def _request(self, method: str, params: dict[str, Any], name: str | None) -> tuple[dict[str, Any], dict[str, str]]:
        message, headers = super()._request(method, params, name)
        message["params"]["_meta"] = {**message["params"]["_meta"], CAPABILITIES: {"elicitation": {}}}
        return message, headers

    def retry(self, asked: Answer, tool: str = "t", **arguments: Any) -> Answer:
        """Come back with an answer to each question."""
        result = asked.body["result"]
        answers = dict.fromkeys(result["inputRequests"], ACCEPT)
        given = {"inputResponses": answers, "requestState": result["requestState"]}
        return self.ask("tools/call", {"name": tool, "arguments": arguments, **given}, name=tool)


@dataclass(frozen=True)
class Held:
    """The gateway, and the server behind it that asks."""

    gate: GatewayProcess
    server: Scripted

    @contextmanager
    def client(self, key: str | None = None, worker: str | None = None) -> Iterator[AbleClient]:
        key, path = key or self.gate.agent_key, "/mcp/inquirer"
        client = AbleClient(self.gate.base_url, key, path)
        if worker is not None:
            client = through(worker, self.gate, key, path, AbleClient)
        with client:
            yield client

    def calls(self) -> int:
        return len(self.server.of("tools/call"))

    def cancelled(self) -> list[Any]:
        return [a.params["requestId"] for a in self.server.of("notifications/cancelled")]

    def wait_cancelled(self, call: Asked, within_s: float = 10.0) -> None:
        until(lambda: call.id in self.cancelled(), "the server was told", within_s)

    def records(self, answer: Answer) -> list[Mapping[str, Any]]:
        """Return the records of the call that was answered like this."""
        receipt = answer.body["result"]["_meta"][RECEIPT]
        place = receipt["log"], receipt["index"]
        action = next(r.action_id for r in lines_of(self.gate.audit_dir) if (r.log, r.index) == place)
        found: list[Mapping[str, Any]] = self.gate.admin.get(f"/audit/{action}")["records"]
        return found


async def _tools(asked: Asked, peer: Peer) -> bytes:
    return reply(asked, {"tools": _TOOLS})


@contextmanager
def inquiring(directory: Path, inquirer: Inquirer, **limits: Any) -> Iterator[Held]:
    inquirer.handlers["tools/list"] = _tools
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(scripted(inquirer)) as server:
        config = {"limits": limits, "registry": {"drift_check_s": 3600}}
        with gateway(directory, config=config, policy=rego("allow_all"), workers=len(WORKERS)) as gate:
            gate.publish("inquirer", server.url)
            yield Held(gate, server)
            assert "Traceback" not in gate.output()


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    with inquiring(tmp_path_factory.mktemp("held"), Inquirer([form("who?")], [form("and?")])) as found:
        yield found


def asks(answer: Answer) -> str:
    """Return what an answer asks."""
    assert answer.status == 200, answer
    assert answer.body["result"]["resultType"] == "input_required", answer
    [asked] = answer.body["result"]["inputRequests"].values()
    message: str = asked["params"]["message"]
    return message


# What it looks like to a program


@pytest.mark.requirement("held:recorded")
def test_the_log_tells_what_waited_and_how_it_went_on(held: Held) -> None:
    with held.client() as client:
        first = client.call("t", x=1)
        assert asks(first) == "who?"
        second = client.retry(first, x=1)
        assert asks(second) == "and?"
        last = client.retry(second, x=1)
        assert last.ok, last
    told = [held.records(answer) for answer in (first, second, last)]
    assert [[(r["phase"], r.get("outcome")) for r in records] for records in told] == [
        [("intent", None), ("suspended", "input_required"), ("closed", "adopted")],
        [("intent", None), ("suspended", "input_required"), ("closed", "adopted")],
        [("intent", None), ("outcome", "ok")],
    ]
    ids = [records[0]["action_id"] for records in told]
    assert [records[0].get("parent") for records in told] == [None, *ids[:2]]
    assert [records[-1]["facts"].get("retry") for records in told[:2]] == ids[1:]
    assert len({records[0]["arguments_digest"] for records in told}) == 1
    report = verified(held.gate.data_dir)
    assert report.returncode == 0, report.stdout


@pytest.mark.requirement("held:state")
def test_a_state_is_of_use_to_nobody_else_and_not_twice(held: Held) -> None:
    _, foreign_key = held.gate.new_key("somebody-else")
    with held.client() as client, held.client(foreign_key) as foreign:
        asked = client.call("t", x=1)
        before = held.calls()
        stolen = foreign.retry(asked, x=1)
        changed = client.retry(asked, x=2)
        other = client.retry(asked, "other", x=1)
        second = client.retry(asked, x=1)
        replayed = client.retry(asked, x=1)
        assert asks(second) == "and?"
        assert client.retry(second, x=1).ok
        late = client.retry(second, x=1)
        unknown = client.ask("tools/call", {"name": "t", "arguments": {"x": 1}, "requestState": "x"}, name="t")
        for refused in (stolen, changed, other, replayed, late, unknown):
            assert (refused.status, refused.body["error"]["code"]) == (400, -32602)
        assert len({refused.body["error"]["message"] for refused in (stolen, changed, other, replayed, unknown)}) == 1
        assert held.calls() == before


@pytest.mark.requirement("held:workers")
def test_a_retry_finds_its_call_through_any_worker(held: Held) -> None:
    for asking in WORKERS:
        for answering in WORKERS:
            with held.client(worker=asking) as first, held.client(worker=answering) as second:
                asked = first.call("t")
                again = second.retry(asked)
                last = first.retry(again)
                assert last.ok, last
                assert {answer.worker for answer in (asked, again, last)} == {asking}


# What ends a call that waits


@pytest.mark.requirement("held:killed")
@pytest.mark.parametrize("mode", ["hard", "drain"])
def test_a_kill_ends_a_call_that_waits_and_tells_the_server_at_once(held: Held, mode: str) -> None:
    with held.client() as client:
        asked = client.call("t")
        call = held.server.of("tools/call")[-1]
        thrown = {"scope": "tool", "selector": "inquirer/t", "mode": mode, "reason": "drill"}
        kill = held.gate.admin.post("/kill-switches", thrown)
        try:
            held.wait_cancelled(call, AT_ONCE_S)
            [action] = kill["may_have_taken_effect"]
            assert (kill["cancelled"], kill["finished"]) == (1, 0)
            refused = client.retry(asked)
            assert (refused.status, refused.reason) == (403, "killed")
        finally:
            released = held.gate.admin.delete(f"/kill-switches/{kill['id']}", {"reason": "drill"})
        assert client.retry(asked).body["error"]["code"] == -32602
        records = held.records(asked)
        assert records[0]["action_id"] == action
        assert (records[-1]["phase"], records[-1]["outcome"]) == ("closed", "killed")
        assert records[-1]["facts"]["switch"] == kill["id"]
        until(lambda: signed_epoch(held.gate.audit_dir) >= released["epoch"], "a checkpoint")
        report = verified(held.gate.data_dir, "--kill", kill["id"])
        assert report.returncode == 0, report.stdout


@pytest.mark.requirement("held:revoked")
def test_a_call_does_not_wait_for_a_key_that_was_revoked(held: Held) -> None:
    key_id, key = held.gate.new_key("soon-revoked")
    with held.client(key) as client:
        asked = client.call("t")
        call = held.server.of("tools/call")[-1]
        held.gate.admin.delete(f"/keys/{key_id}", {"reason": "drill"})
        held.wait_cancelled(call)
        assert client.retry(asked).status == 401
    assert until(lambda: held.records(asked)[2:], "its end")[0]["outcome"] == "unauthenticated"


@pytest.mark.requirement("held:bounded", "held:ended")
def test_a_call_that_nobody_answers_ends_in_time(tmp_path: Path) -> None:
    with inquiring(tmp_path, Inquirer([form("who?")]), held_s=HELD_S, held_per_principal=2) as held:
        with held.client() as client:
            asked = [client.call("t", n=n) for n in range(3)]
            calls = held.server.of("tools/call")
            assert len({a.params["arguments"]["n"] for a in calls}) == 3
            held.wait_cancelled(calls[0])  # its place was taken
            held.wait_cancelled(calls[1])
            held.wait_cancelled(calls[2])
            for n, question in enumerate(asked):
                assert client.retry(question, n=n).body["error"]["code"] == -32602
            assert held.calls() == 3
        ends = [held.records(question)[-1]["outcome"] for question in asked]
        assert ends == ["rate_limited", "request_timeout", "request_timeout"]


@pytest.mark.requirement("held:never-twice")
def test_a_server_that_died_while_its_call_waited_is_an_error(tmp_path: Path) -> None:
    class Mortal(Inquirer):
        async def converse(self, asked: Asked, peer: Peer) -> None:
            method, params = form("who?")
            await peer.write(event({**said(method, **params), "id": "q1"}))
            raise ConnectionError("dead")

    with inquiring(tmp_path, Mortal()) as held, held.client() as client:
        asked = client.call("t")
        failed = client.retry(asked)
        assert (failed.status, failed.body["error"]["code"]) == (502, -31106)
        assert client.retry(asked).body["error"]["code"] == -32602
        assert held.calls() == 1


@pytest.mark.requirement("held:never-twice", "held:ended")
@pytest.mark.parametrize("ending", [end, kill_all], ids=["stopped", "killed"])
def test_a_call_that_waited_when_the_gateway_ended_is_lost_and_not_made_again(tmp_path: Path, ending: Any) -> None:
    inquirer = Inquirer([form("who?")], **{"tools/list": _tools})
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(scripted(inquirer)) as server:
        with gateway(tmp_path, policy=rego("allow_all")) as gate:
            gate.publish("inquirer", server.url)
            held = Held(gate, server)
            with held.client() as client:
                asked = client.call("t")
            ending(gate.process)
        with gateway(tmp_path, resume=gate) as again, Held(again, server).client() as client:
            lost = client.retry(asked)
            assert (lost.status, lost.body["error"]["code"]) == (400, -32602)
            assert held.calls() == 1
            [intent, suspended, *closed] = Held(again, server).records(asked)
            if ending is end:
                assert [record["outcome"] for record in closed] == ["unavailable"]
            else:
                [recovered] = [r for r in lines_of(again.audit_dir) if r.phase is Phase.RECOVERED and r.log == "w0"]
                assert recovered.facts is not None
                assert recovered.facts["unknown_effect"] == [intent["action_id"]]
            assert suspended["phase"] == "suspended"
            assert verified(again.data_dir).returncode == 0


# What it looks like to the SDK's client


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway in front of a server made with the SDK of the handshake era."""
    try:
        python = tools.python("sdk-1")
    except tools.Missing as reason:
        pytest.skip(str(reason))
    home = tmp_path_factory.mktemp("legacy")
    fixture = ROOT / "tests" / "fixtures" / "legacy_everything_server.py"
    with (
        running([python, fixture, "--port", "0"], log=home / "server.log") as server,
        gateway(home / "gateway", policy=rego("allow_all"), workers=len(WORKERS)) as gate,
    ):
        gate.publish("everything", server.url)
        yield gate
        assert "Traceback" not in gate.output()


class Person:
    """Who answers what the SDK's client is asked."""

    def __init__(self, action: str = "accept") -> None:
        self.action = action
        self.asked: list[str] = []

    @property
    def callbacks(self) -> dict[str, Any]:
        return {
            "elicitation_callback": self.elicited,
            "sampling_callback": self.sampled,
            "list_roots_callback": self.rooted,
        }

    async def elicited(self, context: Any, params: Any) -> ElicitResult:
        self.asked.append(params.message)
        content = {"username": "ada", "email": "ada@example", "name": "Ada", "color": "blue", "context": "a test"}
        wanted = params.requested_schema["properties"]
        given = {name: value for name, value in content.items() if name in wanted}
        return ElicitResult(action=self.action, content=given if self.action == "accept" else None)

    async def sampled(self, context: Any, params: Any) -> CreateMessageResult:
        self.asked.append(params.messages[0].content.text)
        return CreateMessageResult(role="assistant", content=TextContent(text="Paris"), model="test")

    async def rooted(self, context: Any) -> ListRootsResult:
        self.asked.append("roots")
        return ListRootsResult(roots=[Root(uri=FileUrl("file:///work"), name="work")])


@pytest.mark.requirement("held:sdk")
@pytest.mark.parametrize(("path", "prefix"), [("/mcp/everything", ""), ("/mcp", "everything__")])
async def test_the_sdks_client_answers_whatever_the_server_asks(legacy: GatewayProcess, path: str, prefix: str) -> None:
    person = Person()
    async with agent(legacy.base_url + path, legacy.agent_key, mode=MODERN, **person.callbacks) as client:
        user = await client.call_tool(f"{prefix}test_elicitation", {"message": "Who are you?"})
        model = await client.call_tool(f"{prefix}test_sampling", {"prompt": "The capital of France?"})
        all_three = await client.call_tool(f"{prefix}test_input_required_result_multiple_inputs")
        twice = await client.call_tool(f"{prefix}test_input_required_result_multi_round")
    assert '"username": "ada"' in text_of(user)
    assert "action=accept" in text_of(user)
    assert text_of(model) == "LLM response: Paris"
    assert text_of(all_three) == "Paris Ada has 1 root(s)."
    assert text_of(twice) == "Ada likes blue."
    assert person.asked[:2] == ["Who are you?", "The capital of France?"]
    assert sorted(person.asked[2:5]) == ["Generate a greeting", "What is your name?", "roots"]
    assert [question[:6] for question in person.asked[5:]] == ["Step 1", "Step 2"]


@pytest.mark.requirement("held:sdk")
@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_what_a_person_refuses_is_told_to_the_server(legacy: GatewayProcess, action: str) -> None:
    person = Person(action)
    url = legacy.server_url("everything")
    async with agent(url, legacy.agent_key, mode=MODERN, **person.callbacks) as client:
        told = text_of(await client.call_tool("test_elicitation", {"message": "Who are you?"}))
    assert f"action={action}" in told


@pytest.mark.requirement("held:sdk")
async def test_a_client_that_can_be_asked_nothing_is_asked_nothing(legacy: GatewayProcess) -> None:
    async with agent(legacy.server_url("everything"), legacy.agent_key, mode=MODERN) as client:
        result = await client.call_tool("test_sampling", {"prompt": "hello"})
        assert result.is_error
        assert "did not declare" in text_of(result)
        said = await client.call_tool("test_simple_text")
        assert text_of(said) == "This is a simple text response for testing."


@pytest.mark.requirement("for-modern:listens")
async def test_the_sdks_client_hears_that_a_resource_was_updated(legacy: GatewayProcess) -> None:
    watched = "test://watched-resource"
    async with (
        agent(legacy.server_url("everything"), legacy.agent_key, mode=MODERN) as client,
        client.listen(resource_subscriptions=[watched], tools_list_changed=True) as heard,
    ):
        await client.call_tool("test_trigger_tool_change")
        events = [await anext(heard), await anext(heard)]
    assert {type(event).__name__ for event in events} == {"ResourceUpdated", "ToolsListChanged"}
