"""Tasks, end to end: an id that is of use to its owner alone, and every word about a task judged like its call."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcpgw.places import Places
from mcpgw.seals import Seals
from mcpgw.task_ids import EXTENSION, TaskIds
from tests.e2e.client import Answer, Client, Stream
from tests.e2e.parts import lines_of
from tests.e2e.wire import META, PREFIX
from tests.harness import ROOT, GatewayProcess, gateway, until

KNOWS_TASKS = {**META, PREFIX + "clientCapabilities": {"extensions": {EXTENSION: {}}, "elicitation": {}}}
SERVER = ROOT / "tests" / "fixtures" / "everything_server.py"
LONG = {"seconds": 600, "label": "long"}
YES = {"confirm": {"action": "accept", "content": {"confirm": True}}}
NO = {"confirm": {"action": "accept", "content": {"confirm": False}}}
TERMINAL = frozenset({"completed", "failed", "cancelled"})
TASK_METHODS: dict[str, dict[str, Any]] = {"tasks/get": {}, "tasks/update": {"inputResponses": {}}, "tasks/cancel": {}}


class TaskClient(Client):
    """A client of 2026-07-28 that knows tasks, unless `meta` says otherwise."""

    meta: dict[str, Any] = KNOWS_TASKS

    def begin(self, tool: str, **arguments: Any) -> str:
        """Call a tool; return the id of the task that it made."""
        answer = self.call(tool, **arguments)
        assert answer.ok, answer
        assert answer.body["result"]["resultType"] == "task"
        return str(answer.body["result"]["taskId"])

    def about(self, method: str, task_id: str, **params: Any) -> Answer:
        return self.ask(method, {"taskId": task_id, **params}, name=task_id)

    def state(self, task_id: str) -> dict[str, Any]:
        """Return what is said of a task, which has the id that it was asked for by."""
        answer = self.about("tasks/get", task_id)
        assert answer.ok, answer
        found: dict[str, Any] = answer.body["result"]
        assert (found["taskId"], found["resultType"]) == (task_id, "complete")
        return found

    def wait_for(self, task_id: str, *statuses: str) -> dict[str, Any]:
        return until(lambda: found if (found := self.state(task_id))["status"] in statuses else None, f"{statuses}")

    def listen_to(self, *task_ids: str, **others: Any) -> Stream:
        """Open a stream that tells of tasks, and wait for its acknowledgement."""
        message, extra = self._request("subscriptions/listen", {"notifications": {**others, "taskIds": task_ids}}, None)
        self._connection.request("POST", self.path, json.dumps(message), {**self._headers(), **extra})
        response = self._connection.getresponse()
        assert response.status == 200, response.read()
        self._stream = Stream(self._connection.sock, response)
        self._stream.wait_for("notifications/subscriptions/acknowledged")
        return self._stream

    def _request(self, method: str, params: dict[str, Any], name: str | None) -> tuple[dict[str, Any], dict[str, str]]:
        message, headers = super()._request(method, params, name)
        if self.session is not None:
            return message, headers
        return {**message, "params": {**message["params"], "_meta": self.meta}}, headers


Connect = Callable[..., TaskClient]


@pytest.fixture(scope="module")
def gate(everything_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    policy = {"tasks.rego": Path(__file__).with_name("tasks.rego").read_text(encoding="utf-8")}
    piped = {"name": "piped", "command": [sys.executable, str(SERVER), "--stdio", "--era", "modern"]}
    config = {"registry": {"stdio": [piped]}}
    with gateway(tmp_path_factory.mktemp("gateway"), config=config, policy=policy, workers=2) as made:
        for slug in ("everything", "other"):
            made.publish(slug, everything_url)
        made.publish("piped")
        yield made
        assert "Traceback" not in made.output()


@pytest.fixture
def connect(gate: GatewayProcess) -> Iterator[Connect]:
    """Return a client on a connection of its own, of the gateway's agent unless a key is given."""
    made: list[TaskClient] = []

    def client(path: str = "/mcp/everything", key: str | None = None) -> TaskClient:
        made.append(TaskClient(gate.base_url, key or gate.agent_key, path))
        return made[-1]

    yield client
    for one in made:
        one.close()


def opened(gate: GatewayProcess, shown: str) -> Any:
    """Return what a client's id holds, as only the gateway can read it."""
    return TaskIds(Seals(Places(gate.data_dir).secret("session.key"), 0)).find(shown)


def told(answer: Answer, task_id: str) -> tuple[int, Any]:
    """Return what an answer tells, apart from the id that was asked for, and from its own place in the log."""
    body = json.loads(json.dumps(answer.body).replace(task_id, "ID"))
    body.get("error", {}).get("data", {}).pop("receipt", None)
    return answer.status, body


@pytest.mark.requirement("tasks:lifecycle", "stdio:tasks")
@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("/mcp/everything", ""),
        ("/mcp/everything@1.0.0", ""),
        ("/mcp", "everything__"),
        ("/mcp/piped", ""),
        ("/mcp", "piped__"),
    ],
)
def test_a_task_runs_from_its_call_to_its_result_under_one_id(connect: Connect, path: str, prefix: str) -> None:
    client = connect(path)
    task = client.begin(prefix + "confirm_delete", filename="a.txt")
    asked = client.wait_for(task, "input_required")
    assert asked["inputRequests"]["confirm"]["method"] == "elicitation/create"
    # Each on a connection of its own: whichever worker accepts it can read the id.
    for _ in range(6):
        assert connect(path).state(task)["status"] == "input_required"
    assert connect(path).about("tasks/update", task, inputResponses=YES).body["result"]["resultType"] == "complete"
    done = client.wait_for(task, *TERMINAL)
    assert done["status"] == "completed"
    assert done["result"]["content"][0]["text"] == 'a.txt: action=accept, content={"confirm": true}'

    running = client.begin(prefix + "slow_compute", **LONG)
    assert running != task
    assert client.about("tasks/cancel", running).ok
    assert client.wait_for(running, *TERMINAL)["status"] == "cancelled"


@pytest.mark.requirement("tasks:lifecycle")
def test_a_task_outlives_the_gateway_that_passed_its_call_on(everything_url: str, tmp_path: Path) -> None:
    policy = {"tasks.rego": Path(__file__).with_name("tasks.rego").read_text(encoding="utf-8")}
    with gateway(tmp_path, policy=policy) as first:
        first.publish("everything", everything_url)
        before = TaskClient(first.base_url, first.agent_key, "/mcp/everything")
        task = before.begin("confirm_delete", filename="b.txt")
        before.close()
    with gateway(tmp_path, resume=first) as second:
        after = TaskClient(second.base_url, second.agent_key, "/mcp/everything")
        after.wait_for(task, "input_required")
        assert after.about("tasks/update", task, inputResponses=YES).ok
        assert after.wait_for(task, *TERMINAL)["status"] == "completed"
        after.close()


@pytest.mark.requirement("tasks:sealed")
def test_an_id_does_not_show_what_it_holds_and_no_other_opens(gate: GatewayProcess, connect: Connect) -> None:
    client = connect()
    task = client.begin("slow_compute", **LONG)
    held = opened(gate, task)
    assert (held.server, held.version, held.tool) == ("everything", "1.0.0", "slow_compute")
    unknown = told(client.about("tasks/get", "no-such-task"), "no-such-task")
    assert unknown[0] == 400
    assert unknown[1]["error"]["code"] == -32602
    # The server would know this one. Through the gateway it is nothing.
    assert told(client.about("tasks/get", held.id), held.id) == unknown
    for forged in (task[:-1], task[:40] + ("A" if task[40] != "A" else "B") + task[41:], task + task, ""):
        for method, params in TASK_METHODS.items():
            assert client.about(method, forged, **params).body["error"]["code"] == -32602
    client.about("tasks/cancel", task)


@pytest.mark.requirement("tasks:owner")
@pytest.mark.parametrize("path", ["/mcp/everything", "/mcp"])
def test_anothers_task_is_answered_like_one_that_never_was(gate: GatewayProcess, connect: Connect, path: str) -> None:
    task = connect(path).begin("slow_compute" if path != "/mcp" else "everything__slow_compute", **LONG)
    stranger = connect(path, gate.new_key("stranger")[1])
    for method, params in TASK_METHODS.items():
        never = told(stranger.about(method, "never-was", **params), "never-was")
        assert told(stranger.about(method, task, **params), task) == never
        assert never[0] == 400
    listening = {"notifications": {"taskIds": [task]}}
    assert stranger.ask("subscriptions/listen", listening).body["error"]["code"] == -32602
    assert connect(path).state(task)["status"] == "working"
    connect(path).about("tasks/cancel", task)


@pytest.mark.requirement("tasks:owner")
def test_a_task_is_known_only_where_its_server_is(connect: Connect) -> None:
    task = connect().begin("slow_compute", **LONG)
    unknown = told(connect().about("tasks/get", "never-was"), "never-was")
    for path in ("/mcp/other", "/mcp/everything@9.9.9", "/mcp/nothing"):
        elsewhere = connect(path)
        assert elsewhere.about("tasks/get", task).body["error"]["code"] == -32602
    assert told(connect("/mcp/other").about("tasks/get", task), task) == unknown
    assert connect("/mcp").about("tasks/cancel", task).ok


@pytest.mark.requirement("tasks:owner")
@pytest.mark.parametrize("search", [False, True], ids=["listed", "searched"])
def test_a_task_is_known_in_a_toolset_that_offers_its_tool(
    gate: GatewayProcess, connect: Connect, search: bool
) -> None:
    offered = {"tool": "everything/slow_compute", "name": "compute", "pinned": {"label": "pinned"}}
    gate.admin.put("/toolsets/desk", {"tools": [offered], "search": search})
    client = connect("/mcp/desk")
    given = {"name": "compute", "arguments": {"seconds": 0}}
    task = client.begin("call_tool", **given) if search else client.begin("compute", seconds=0)
    assert client.wait_for(task, *TERMINAL)["result"]["structuredContent"] == {"label": "pinned"}
    stream = connect("/mcp/desk").listen_to(task)
    assert stream.events[0][1]["params"]["notifications"]["taskIds"] == [task]

    other = connect().begin("confirm_delete", filename="z.txt")
    unknown = told(client.about("tasks/get", "never-was"), "never-was")
    assert told(client.about("tasks/get", other), other) == unknown
    gate.admin.put("/toolsets/desk", {"tools": [{"tool": "everything/greet"}]})
    assert told(client.about("tasks/get", task), task)[1]["error"]["code"] == -32602
    assert connect().about("tasks/cancel", other).ok
    gate.admin.delete("/toolsets/desk")


@pytest.mark.requirement("tasks:negotiated")
def test_who_does_not_declare_the_extension_is_told_so_before_anything_else(connect: Connect) -> None:
    client = connect()
    task = client.begin("slow_compute", **LONG)
    client.meta = META
    needed: dict[str, Any] = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
    for method, params in TASK_METHODS.items():
        for asked in (task, "never-was"):
            answer = client.about(method, asked, **params)
            assert (answer.status, answer.body["error"]["code"]) == (400, -32021)
            assert needed.items() <= answer.body["error"]["data"].items()
    answer = client.ask("subscriptions/listen", {"notifications": {"taskIds": []}})
    assert (answer.status, answer.body["error"]["code"]) == (400, -32021)
    # The tool answers at once then, and its server says what a tool needs that cannot.
    assert client.call("slow_compute", label="now").body["result"]["content"][0]["text"] == "Computed now."
    refused = client.call("failing_job")
    assert (refused.status, refused.body["error"]["code"]) == (400, -32021)
    client.meta = KNOWS_TASKS
    assert client.about("tasks/cancel", task).ok


@pytest.mark.requirement("tasks:negotiated")
@pytest.mark.parametrize("path", ["/mcp/everything", "/mcp"])
def test_the_extension_is_announced_to_modern_clients_alone(connect: Connect, path: str) -> None:
    client = connect(path)
    until(
        lambda: EXTENSION in client.ask("server/discover", {}).body["result"]["capabilities"].get("extensions", {}),
        "the servers to have said what they can do",
    )
    client.initialize()
    for method in TASK_METHODS:
        assert client.about(method, "any").body["error"]["code"] == -32601


@pytest.mark.requirement("tasks:negotiated", "stdio:tasks")
def test_a_shared_process_is_told_by_each_request_whether_its_client_knows_tasks(connect: Connect) -> None:
    client = connect("/mcp/piped")
    assert EXTENSION in client.ask("server/discover", {}).body["result"]["capabilities"]["extensions"]
    task = client.begin("slow_compute", **LONG)
    unknowing = connect("/mcp/piped")
    unknowing.meta = META
    assert unknowing.call("slow_compute", label="now").body["result"]["content"][0]["text"] == "Computed now."
    assert unknowing.call("failing_job").body["error"]["code"] == -32021
    assert client.about("tasks/cancel", task).ok


@pytest.mark.requirement("tasks:headers")
def test_a_header_that_names_another_task_is_refused(connect: Connect) -> None:
    client = connect()
    task = client.begin("slow_compute", **LONG)
    for name in (None, "another", task[:-1]):
        answer = client.ask("tasks/get", {"taskId": task}, name=name)
        assert (answer.status, answer.body["error"]["code"]) == (400, -32020)
    # The fixture compares, too: it gets its own id in both places.
    assert client.about("tasks/cancel", task).ok


@pytest.mark.requirement("tasks:headers")
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tasks/get", {}),
        ("tasks/get", {"taskId": 7}),
        ("tasks/update", {"taskId": "x"}),
        ("tasks/update", {"taskId": "x", "inputResponses": []}),
        ("subscriptions/listen", {"notifications": {"taskIds": "x"}}),
        ("subscriptions/listen", {"notifications": {"taskIds": [1]}}),
        ("subscriptions/listen", {"notifications": {"taskIds": ["x"] * 101}}),
        ("tasks/list", {}),
        ("tasks/result", {"taskId": "x"}),
    ],
)
def test_a_malformed_question_about_tasks_is_refused(connect: Connect, method: str, params: dict[str, Any]) -> None:
    name = params.get("taskId")
    answer = connect().ask(method, params, name=name if isinstance(name, str) else None)
    expected = (404, -32601) if method in {"tasks/list", "tasks/result"} else (400, -32602)
    code = answer.body["error"]["code"]
    assert (answer.status, code) == expected or (method, name, code) == ("tasks/get", 7, -32020)


@pytest.mark.requirement("tasks:judged")
def test_a_caller_that_no_longer_sees_the_tool_has_no_task_of_it(gate: GatewayProcess, connect: Connect) -> None:
    mine = gate.new_key("changing", "agent")[1]
    task = connect(key=mine).begin("slow_compute", **LONG)
    blind = connect(key=gate.new_key("changing", "agent", "blind")[1])
    unknown = told(blind.about("tasks/get", "never-was"), "never-was")
    assert told(blind.about("tasks/get", task), task) == unknown
    assert blind.ask("subscriptions/listen", {"notifications": {"taskIds": [task]}}).body["error"]["code"] == -32602
    assert connect(key=mine).about("tasks/cancel", task).ok


@pytest.mark.requirement("tasks:judged")
def test_the_policy_decides_on_answers_as_on_arguments(connect: Connect) -> None:
    client = connect()
    task = client.begin("confirm_delete", filename="c.txt")
    client.wait_for(task, "input_required")
    denied = client.about("tasks/update", task, inputResponses=NO)
    assert (denied.status, denied.body["error"]["code"]) == (403, -31100)
    assert client.state(task)["status"] == "input_required"
    noted = {"confirm": {"action": "accept", "content": {"confirm": True, "note": "secret"}}}
    assert client.about("tasks/update", task, inputResponses=noted).ok
    done = client.wait_for(task, *TERMINAL)["result"]["content"][0]["text"]
    assert done == 'c.txt: action=accept, content={"confirm": true, "note": "[redacted]"}'


@pytest.mark.requirement("tasks:judged")
def test_a_result_is_redacted_in_its_task_and_for_its_listeners(gate: GatewayProcess, connect: Connect) -> None:
    key = gate.new_key("guest", "agent", "guest")[1]
    client = connect(key=key)
    task = client.begin("confirm_delete", filename="for-insiders.txt")
    client.wait_for(task, "input_required")
    stream = connect(key=key).listen_to(task)
    assert client.about("tasks/update", task, inputResponses=YES).ok
    assert client.wait_for(task, *TERMINAL)["result"]["structuredContent"] == {"label": "[redacted]"}
    stream.wait_for("notifications/tasks", 2)
    last = [event["params"] for _, event in stream.events if event.get("method") == "notifications/tasks"][-1]
    assert (last["status"], last["result"]["structuredContent"]) == ("completed", {"label": "[redacted]"})


@pytest.mark.requirement("tasks:listen")
@pytest.mark.parametrize("path", ["/mcp/everything", "/mcp"])
def test_a_listener_is_told_of_its_tasks_under_their_ids(connect: Connect, path: str) -> None:
    client = connect(path)
    tool = "confirm_delete" if path != "/mcp" else "everything__confirm_delete"
    mine, other = client.begin(tool, filename="d.txt"), client.begin(tool, filename="e.txt")
    client.wait_for(mine, "input_required")
    client.wait_for(other, "input_required")
    stream = connect(path).listen_to(mine, toolsListChanged=True)
    acknowledged = stream.events[0][1]
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"]["notifications"]["taskIds"] == [mine]
    for task in (other, mine):
        assert client.about("tasks/update", task, inputResponses=YES).ok
        client.wait_for(task, "completed")
    stream.wait_for("notifications/tasks", 2)
    heard = [event["params"] for _, event in stream.events if event.get("method") == "notifications/tasks"]
    assert [(one["taskId"], one["status"]) for one in heard] == [(mine, "working"), (mine, "completed")]
    assert heard[1]["result"]["content"][0]["text"].startswith("d.txt: action=accept")
    assert all(one["_meta"]["io.modelcontextprotocol/subscriptionId"] == 1 for one in heard)


@pytest.mark.requirement("tasks:killed")
def test_a_killed_tools_tasks_are_refused_and_their_listeners_cut(gate: GatewayProcess, connect: Connect) -> None:
    client = connect()
    task = client.begin("confirm_delete", filename="f.txt")
    client.wait_for(task, "input_required")
    stream = connect().listen_to(task)
    kill = {"scope": "tool", "selector": "everything/confirm_delete", "mode": "hard", "reason": "drill"}
    thrown = gate.admin.post("/kill-switches", kill)
    for method, params in TASK_METHODS.items():
        answer = client.about(method, task, **params)
        assert (answer.status, answer.reason) == (403, "killed")
    refused = client.ask("subscriptions/listen", {"notifications": {"taskIds": [task]}})
    assert (refused.status, refused.reason) == (403, "killed")
    stream.wait_end()
    assert stream.events[-1][1]["error"]["data"]["reason"] == "killed"
    assert gate.admin.delete(f"/kill-switches/{thrown['id']}", {"reason": "drill"})["missing"] == []
    # The server has not been told: its work goes on, and is there when the switch is gone.
    assert client.state(task)["status"] == "input_required"
    assert client.about("tasks/cancel", task).ok


@pytest.mark.requirement("tasks:record")
def test_records_name_the_tool_and_one_digest_of_the_task_and_never_its_id(
    gate: GatewayProcess, connect: Connect
) -> None:
    key = gate.new_key("recorded")[1]
    client = connect(key=key)
    task = client.begin("confirm_delete", filename="g.txt")
    client.wait_for(task, "input_required")
    assert client.about("tasks/update", task, inputResponses=YES).ok
    assert client.wait_for(task, *TERMINAL)["status"] == "completed"
    lines = [line for line in lines_of(gate.audit_dir) if line.principal == "mcpgw|recorded"]
    assert {line.verb for line in lines} == {"tools/call", "tasks/get", "tasks/update"}
    assert {(line.server, line.version, line.name) for line in lines} == {("everything", "1.0.0", "confirm_delete")}
    outcomes = [dict(line.facts or {}) for line in lines if line.phase == "outcome"]
    digests = {facts["task"] for facts in outcomes}
    assert len(digests) == 1
    assert outcomes[-1]["task_status"] == "completed"
    logged = b"".join(path.read_bytes() for path in gate.audit_dir.rglob("*") if path.is_file())
    for secret in (task, opened(gate, task).id):
        assert secret.encode() not in logged
        assert secret not in gate.output()


@pytest.mark.requirement("tasks:lifecycle")
def test_what_is_asked_before_a_task_is_made_is_not_part_of_it(connect: Connect) -> None:
    client = connect()
    asked = client.call("test_tool_with_task")
    assert asked.body["result"]["resultType"] == "input_required"
    retry = {
        "name": "test_tool_with_task",
        "arguments": {},
        "requestState": asked.body["result"].get("requestState"),
        "inputResponses": {"user_name": {"action": "accept", "content": {"name": "Ada"}}},
    }
    made = client.ask("tools/call", {k: v for k, v in retry.items() if v is not None}, name="test_tool_with_task")
    assert made.body["result"]["resultType"] == "task"
    assert not {"requestState", "inputRequests"} & made.body["result"].keys()
    done = client.wait_for(made.body["result"]["taskId"], *TERMINAL)
    assert done["result"]["content"][0]["text"] == "Hello, Ada!"
