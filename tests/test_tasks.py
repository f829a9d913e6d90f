"""Tasks in the verdict, and the ids that lead to them: whose they are, and what every word about them obliges to."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.domain import (
    Action,
    Arguments,
    Effect,
    MaxResultBytes,
    Mode,
    Part,
    PartKind,
    Principal,
    RedactArguments,
    RedactResult,
    Scope,
    TaskRef,
    Verb,
)
from mcpgw.errors import Denied, GatewayError, Killed, Quarantined, UnknownName
from mcpgw.judge import judge
from mcpgw.obligations import obey
from mcpgw.ports import Question, World
from mcpgw.seals import Seals
from mcpgw.task_ids import MAX_ID, TaskIds, declares_tasks, digest
from tests.parts import Rules, action, agent, decision, published, switch, world_of

ADA, BOB = agent("ada"), agent("bob")
TASK_VERBS = [Verb.TASKS_GET, Verb.TASKS_UPDATE, Verb.TASKS_CANCEL]


def ref(tool: str = "read", owner: Principal = ADA, version: str = "1.0.0") -> TaskRef:
    return TaskRef(server="notes", version=version, tool=tool, owner=owner.key, id="own", shown="shown")


def about(verb: Verb, task: TaskRef, arguments: bytes = b"{}") -> Action:
    return action(verb, name=task.tool, version=task.version, tasks=(task,), arguments=Arguments(arguments))


def listen(*tasks: TaskRef) -> Action:
    return action(Verb.LISTEN, name=None, tasks=tasks, forwarded={"notifications": b"{}"})


async def refusal(world: World, who: Principal, what: Action, **how: bool) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        await judge(world, who, what, **how)
    return refused.value


@pytest.mark.requirement("tasks:owner")
@pytest.mark.parametrize("who", [BOB, replace(ADA, client_id="another"), replace(ADA, issuer="https://other.example")])
async def test_only_the_principal_of_its_call_has_a_task(who: Principal) -> None:
    world = world_of(switches=[switch(Scope.GLOBAL, "*")])
    nobodys = TaskRef(server="", version="", tool="", owner="", id="", shown="never-was")
    for what in (*(about(verb, ref()) for verb in TASK_VERBS), listen(ref())):
        # Before a kill: whether there is something to kill is not for others to know.
        unknown = await refusal(world, who, replace(what, tasks=(nobodys,), name=None))
        found = await refusal(world, who, what)
        assert isinstance(found, UnknownName)
        assert (found.message, found.fix, found.data) == (unknown.message, unknown.fix, unknown.data)


@pytest.mark.requirement("tasks:judged")
@pytest.mark.parametrize("verb", TASK_VERBS)
async def test_a_question_about_a_task_is_one_about_its_tool(verb: Verb) -> None:
    policy = Rules()
    judged = await judge(world_of(policy=policy), ADA, about(verb, ref(), b'{"q":1}'))
    assert judged.tool is not None
    assert (judged.tool.name, judged.arguments.raw) == ("read", b'{"q":1}')
    assert [(q.phase, q.tool and q.tool.name, q.action.verb) for q in policy.asked] == [
        ("list", "read", verb),
        ("call", "read", verb),
    ]
    hidden = Rules(lambda question: Effect.DENY if question.phase == "list" else Effect.ALLOW)
    assert isinstance(await refusal(world_of(policy=hidden), ADA, about(verb, ref())), UnknownName)
    denying = Rules(lambda question: Effect.DENY if question.phase == "call" else Effect.ALLOW)
    assert isinstance(await refusal(world_of(policy=denying), ADA, about(verb, ref())), Denied)
    retired = ref(version="0.1.0")
    assert isinstance(await refusal(world_of(), ADA, about(verb, retired)), UnknownName)


@pytest.mark.requirement("tasks:judged")
async def test_a_redaction_reaches_the_answers_to_a_task() -> None:
    policy = Rules(lambda question: decision(Effect.ALLOW, RedactArguments(("/q/content/pin",))))
    update = about(Verb.TASKS_UPDATE, ref(), b'{"q":{"content":{"pin":1234,"ok":true}}}')
    judged = await judge(world_of(policy=policy), ADA, update)
    assert json.loads(judged.arguments.raw) == {"q": {"content": {"pin": "[redacted]", "ok": True}}}


@pytest.mark.requirement("tasks:killed")
@pytest.mark.parametrize("selector", ["notes/read", "notes", "notes@1.0.0"])
async def test_a_kill_stands_before_every_question_about_a_task(selector: str) -> None:
    scope = {0: Scope.SERVER, 1: Scope.TOOL}["/" in selector] if "@" not in selector else Scope.VERSION
    world = world_of(switches=[switch(scope, selector)])
    for what in (*(about(verb, ref()) for verb in TASK_VERBS), listen(ref())):
        assert isinstance(await refusal(world, ADA, what), Killed)
    draining = world_of(switches=[switch(scope, selector, Mode.DRAIN)])
    assert isinstance(await refusal(draining, ADA, listen(ref())), Killed)
    assert (await judge(draining, ADA, listen(ref()), running=True)).action.tasks == (ref(),)


@pytest.mark.requirement("tasks:judged")
async def test_a_quarantined_tools_tasks_wait_for_its_approval() -> None:
    world = world_of(published(quarantined=frozenset({"read"})))
    for what in (*(about(verb, ref()) for verb in TASK_VERBS), listen(ref())):
        assert isinstance(await refusal(world, ADA, what), Quarantined)
    assert (await judge(world, ADA, listen(ref("write")))).decision.effect is Effect.ALLOW


@pytest.mark.requirement("tasks:judged")
async def test_who_listens_is_obliged_to_what_asking_would_oblige_to() -> None:
    redact, cap = RedactResult(("/secret",)), MaxResultBytes(1000)

    def rule(question: Question) -> Any:
        asked = question.tool.name if question.tool is not None and question.action.verb is Verb.TASKS_GET else None
        return decision(Effect.ALLOW, *{"read": (redact,), "write": (redact, cap)}.get(asked or "", ()))

    judged = await judge(world_of(policy=Rules(rule)), ADA, listen(ref(), ref("write")))
    assert set(judged.decision.obligations) == {redact, cap}
    assert (await judge(world_of(policy=Rules(rule)), ADA, listen())).decision.obligations == ()
    for effect in (Effect.DENY, Effect.HOLD):

        def denied(question: Question, effect: Effect = effect) -> Effect:
            return effect if question.phase == "call" and question.name == "write" else Effect.ALLOW

        assert isinstance(await refusal(world_of(policy=Rules(denied)), ADA, listen(ref(), ref("write"))), Denied)
    assert isinstance(await refusal(world_of(), ADA, listen(ref(), ref("gone"))), UnknownName)


@pytest.mark.requirement("tasks:judged")
def test_the_result_in_a_task_is_redacted_wherever_it_is_told() -> None:
    made = {
        "content": [{"type": "text", "text": '{"secret":1,"open":2}'}],
        "structuredContent": {"secret": 1, "open": 2},
    }
    left = {
        "content": [{"type": "text", "text": '{"secret":"[redacted]","open":2}'}],
        "structuredContent": {"secret": "[redacted]", "open": 2},
    }
    task = {"resultType": "complete", "taskId": "t", "status": "completed"}
    obliging = decision(Effect.ALLOW, RedactResult(("/secret",)))

    answered = obey(obliging, Part(PartKind.WHOLE, json.dumps({**task, "result": made}).encode()))
    assert json.loads(answered.body) == {**task, "result": left}
    message = {"jsonrpc": "2.0", "method": "notifications/tasks", "params": {**task, "result": made}}
    told = obey(obliging, Part(PartKind.EVENT, json.dumps(message).encode()))
    assert json.loads(told.body) == {**message, "params": {**task, "result": left}}
    # What has no result stays as it is, to the byte where it is of something else.
    for body in (
        b'{"jsonrpc":"2.0","method":"notifications/tasks"}',
        b'{"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"t","error":{"code":1}}}',
        b'{"jsonrpc":"2.0","method":"notifications/tasks","params":{"result":[1]}}',
    ):
        assert json.loads(obey(obliging, Part(PartKind.EVENT, body)).body) == json.loads(body)
    progress = Part(PartKind.EVENT, b'{"method": "notifications/progress", "params": {"result": {"secret": 1}}}')
    assert obey(obliging, progress) is progress
    with pytest.raises(Denied):
        obey(decision(Effect.ALLOW, MaxResultBytes(10)), told)


# Ids

IDS = TaskIds(Seals(b"k" * 32, 0))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@pytest.mark.requirement("tasks:sealed")
@given(server=TEXT, version=TEXT, tool=TEXT, owner=TEXT, task_id=TEXT)
def test_an_id_holds_what_it_is_bound_to_for_every_worker(
    server: str, version: str, tool: str, owner: str, task_id: str
) -> None:
    bound = {"server": server, "version": version, "tool": tool, "owner": owner}
    shown = IDS.shown(**bound, task_id=task_id)
    assert TaskIds(Seals(b"k" * 32, 7)).find(shown) == TaskRef(**bound, id=task_id, shown=shown, selected=None)
    assert TaskIds(Seals(b"x" * 32, 0)).find(shown) is None
    assert shown.isascii() and shown.isprintable() and " " not in shown


@pytest.mark.requirement("tasks:sealed")
@given(st.binary(max_size=200), st.integers(0, 400))
def test_nothing_else_opens(noise: bytes, place: int) -> None:
    shown = IDS.shown(server="notes", version="1.0.0", tool="read", owner="ada", task_id="own")
    at = place % len(shown)
    changed = shown[:at] + noise.decode("latin-1") + shown[at + len(noise) :]
    found = IDS.find(changed)
    # Some last characters of base64 say the same as others: then it is the same task.
    assert found is None or replace(found, shown=shown) == IDS.find(shown)
    assert IDS.find(noise.decode("latin-1")) is None
    # What is sealed for another purpose is no task.
    assert IDS.find(Seals(b"k" * 32, 0).seal(b"session", noise)) is None
    assert IDS.find(shown * 100) is None


@pytest.mark.requirement("tasks:sealed")
@pytest.mark.parametrize("task_id", ["", "x" * (MAX_ID + 1)])
def test_an_id_that_has_no_place_in_a_header_is_refused(task_id: str) -> None:
    with pytest.raises(ValueError):
        IDS.shown(server="notes", version="1.0.0", tool="read", owner="ada", task_id=task_id)
    with pytest.raises(ValueError):
        IDS.shown(server="notes", version="1.0.0", tool="read", owner="a" * 9000, task_id="own")


@pytest.mark.requirement("tasks:record")
def test_a_digest_is_of_one_task_of_one_server() -> None:
    assert digest("notes", "own") == digest("notes", "own")
    assert len({digest("notes", "own"), digest("note", "sown"), digest("notes", "other")}) == 3
    assert "own" not in digest("notes", "own")


@pytest.mark.requirement("tasks:negotiated")
@pytest.mark.parametrize(
    ("capabilities", "declared"),
    [
        ({"extensions": {"io.modelcontextprotocol/tasks": {}}}, True),
        ({"extensions": {"io.modelcontextprotocol/tasks": {"any": 1}, "x": {}}}, True),
        ({"extensions": {"io.modelcontextprotocol/tasks": None}}, False),
        ({"extensions": {"io.modelcontextprotocol/tasks": True}}, False),
        ({"extensions": []}, False),
        ({"tasks": {}}, False),
        ({}, False),
        ([], False),
        (None, False),
    ],
)
def test_the_extension_is_declared_by_an_object_under_its_name(capabilities: Any, declared: bool) -> None:
    assert declares_tasks(capabilities) is declared
