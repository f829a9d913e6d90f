"""The embedded engine: it always answers, it denies what it cannot answer, and it remembers only what it may."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from mcpgw.config import Settings
from mcpgw.domain import Arguments, Effect
from mcpgw.errors import InvalidRequest
from mcpgw.policies import local
from mcpgw.policies.bundle import Bundle
from mcpgw.policies.local import LocalEngine, compile_bundle, compiled
from mcpgw.ports import PolicyEngine
from tests.parts import agent
from tests.policies.parts import ALLOW, DENY, MAX_INPUT_BYTES, asked, bundle, engine

READS_ARGUMENTS = f"default decision := {DENY}\n\ndecision := {ALLOW} if input.arguments.go == true\n"
READS_ROLES = f'default decision := {DENY}\n\ndecision := {ALLOW} if "agent" in input.principal.roles\n'


async def test_a_bundle_is_compiled_off_the_loop_and_decides_on_it() -> None:
    source = await compile_bundle(bundle(READS_ROLES), Settings())
    policy: PolicyEngine = LocalEngine(source)
    assert policy.sha256 == bundle(READS_ROLES).sha256
    decision = await policy.decide(asked("list"))
    assert (decision.effect, decision.reasons, decision.policy_sha256) == (Effect.ALLOW, ("rule",), policy.sha256)
    nobody = replace(asked("list"), principal=agent(roles=frozenset()))
    assert (await policy.decide(nobody)).effect is Effect.DENY


@pytest.mark.requirement("policy:undefined-denies")
@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (f"decision := {ALLOW} if input.nothing", "engine:undefined"),
        (f"decision := {ALLOW} if input.arguments.a > 0\ndecision := {DENY} if input.arguments.a > 0", "engine:error"),
        (f"decision := d if some d in [{DENY}, {ALLOW}]", "engine:error"),
        (f"decision := {ALLOW} if startswith(input.arguments.a, 1)", "engine:error"),
        (f"decision := {ALLOW} if 1 / (input.arguments.a - 1)", "engine:error"),
        ("decision := true", "engine:bad_output"),
        ('decision := "<undefined>"', "engine:undefined"),
        ('decision := {"effect": "allow"}', "engine:bad_output"),
        ('decision := {"effect": "allow", "reasons": {}}', "engine:bad_output"),
    ],
)
async def test_what_is_no_clear_answer_denies_and_says_which(rules: str, reason: str) -> None:
    decision = await engine(rules).decide(asked("call", b'{"a":1}'))
    assert (decision.effect, decision.reasons) == (Effect.DENY, (reason,))
    assert decision.message


async def test_hold_is_an_effect_of_its_own() -> None:
    decision = await engine('decision := {"effect": "hold", "reasons": {"b", "a"}}').decide(asked("call"))
    assert (decision.effect, decision.reasons) == (Effect.HOLD, ("a", "b"))


@pytest.mark.requirement("policy:never-raises")
@pytest.mark.parametrize("raw", [b"", b"{", b'{"a":\xff}', b'{"a":NaN}', b'{"a":1e400}', b"[" * 200 + b"]" * 200])
async def test_arguments_that_are_no_json_deny(raw: bytes) -> None:
    policy = engine(READS_ARGUMENTS)
    assert (await policy.decide(asked("call", raw))).reasons == ("engine:error",)
    assert (await policy.decide(asked("call", b'{"go":true}'))).effect is Effect.ALLOW
    assert (await policy.decide(asked("call"))).reasons == ("rule",)


@pytest.mark.requirement("policy:never-raises")
async def test_a_question_that_cannot_be_written_down_denies() -> None:
    assert (await engine(READS_ARGUMENTS).decide(asked("result"))).reasons == ("engine:error",)


@pytest.mark.requirement("policy:input-cap")
async def test_an_input_above_the_cap_is_denied_unless_the_policy_does_not_look_at_it() -> None:
    large = Arguments(b'{"go":true,"x":"%b"}' % (b"x" * 5000))
    question = replace(asked("call"), arguments=large)
    assert (await engine(READS_ARGUMENTS, 4096).decide(question)).reasons == ("engine:input_too_large",)
    assert (await engine(READS_ARGUMENTS, 8192).decide(question)).effect is Effect.ALLOW
    assert (await engine(READS_ROLES, 4096).decide(question)).effect is Effect.ALLOW


@pytest.mark.requirement("policy:memo")
@pytest.mark.parametrize(
    ("rules", "reads_call"),
    [
        (READS_ROLES, False),
        (f'decision := {ALLOW} if {{ input.tool.name == "x"; input.server.trust == "high"; input.verb }}', False),
        (f"decision := {ALLOW} if input.version == 1", False),
        (READS_ARGUMENTS, True),
        (f"decision := {ALLOW} if input.context.source_ip", True),
        (f"decision := {ALLOW} if input.usage.calls_1m < 3", True),
        (f"decision := {ALLOW} if input.request.meta", True),
        (f"decision := {ALLOW} if input.result", True),
        (f"decision := {ALLOW} if input[input.phase]", True),
        (f"decision := {ALLOW} if count(input) > 3", True),
        (f'decision := {ALLOW} if object.get(input, ["arguments", "x"], 1)', True),
    ],
)
def test_only_decisions_that_do_not_rest_on_the_call_are_kept(rules: str, reads_call: bool) -> None:
    assert compiled(bundle(rules), MAX_INPUT_BYTES).reads_call is reads_call


@pytest.mark.requirement("policy:memo")
async def test_what_is_kept_is_kept_for_one_caller_and_one_thing() -> None:
    policy = engine(READS_ROLES)
    question = asked("call")
    for _ in range(2):
        assert (await policy.decide(question)).effect is Effect.ALLOW
        nobody = replace(question, principal=agent(roles=frozenset()))
        assert (await policy.decide(nobody)).effect is Effect.DENY
        elsewhere = replace(question, action=replace(question.action, arguments=Arguments(b'{"other":1}')))
        assert await policy.decide(elsewhere) is await policy.decide(question)


@pytest.mark.requirement("policy:memo")
async def test_a_list_is_kept_even_where_calls_are_not() -> None:
    policy = engine(f'decision := {ALLOW} if input.phase == "list"\n\ndecision := {DENY} if input.arguments.x == 1\n')
    question = asked("list")
    assert await policy.decide(question) is await policy.decide(replace(question, action=asked("list").action))
    assert (await policy.decide(asked("call", b'{"x":1}'))).effect is Effect.DENY
    assert (await policy.decide(asked("call", b'{"x":2}'))).reasons == ("engine:undefined",)


@pytest.mark.requirement("policy:memo")
async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_MEMO", 3)
    policy = engine(f'decision := {ALLOW} if input.principal.subject != "s1"\n')
    for n in range(10):
        question = replace(asked("call"), principal=agent(f"s{n}"))
        assert ((await policy.decide(question)).effect is Effect.ALLOW) is (n != 1)
        assert len(policy._memo) <= 3


@pytest.mark.requirement("policy:two-evaluators")
@pytest.mark.parametrize(
    "rules",
    [
        "{ secret := data.secrets[input.arguments.id]; not secret.hidden }",
        "{ x := input.arguments.missing; not x == 1 }",
        "{ every x in input.arguments.list { known[x] } }\n\nknown contains 3",
        "count({1 | y := input.arguments.missing; not y == 3}) == 1",
    ],
)
async def test_what_only_the_compiled_program_would_allow_is_denied(rules: str) -> None:
    policy = engine(f"decision := {ALLOW} if {rules}\n", **{"data.json": '{"secrets": {"a": {"hidden": true}}}'})
    decision = await policy.decide(asked("call", b'{"id":"unknown","list":[1]}'))
    assert decision.effect is Effect.DENY


@pytest.mark.requirement("policy:two-evaluators")
async def test_what_only_the_interpreter_would_allow_is_denied_as_a_disagreement() -> None:
    policy = engine(f"decision := {ALLOW} if r == 5\n\nr := input.arguments.x if true else := 5\n")
    assert (await policy.decide(asked("call"))).reasons == ("engine:disagreement",)


def elsewhere(work: Callable[[], Any]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.requirement("policy:thread-bound")
async def test_an_engine_used_on_another_thread_denies_and_goes_on_on_its_own(
    capfd: pytest.CaptureFixture[str],
) -> None:
    policy = engine(READS_ARGUMENTS)
    decisions = []
    elsewhere(lambda: decisions.append(anyio.run(policy.decide, asked("call", b'{"go":true}'))))
    assert [d.reasons for d in decisions] == [("engine:error",)]
    assert (await policy.decide(asked("call", b'{"go":true}'))).effect is Effect.ALLOW


@contextmanager
def made_elsewhere(rules: str) -> Iterator[list[Any]]:
    """Evaluators of another thread, which takes them back: to use them here is what makes the engine panic."""
    source = compiled(bundle(rules), MAX_INPUT_BYTES)
    held: list[Any] = []
    made, done = threading.Event(), threading.Event()

    def own() -> None:
        held.append(local._Evaluators(source))
        made.set()
        done.wait(10)
        held.clear()

    owner = threading.Thread(target=own)
    owner.start()
    made.wait(10)
    yield held
    done.set()
    owner.join()


@pytest.mark.requirement("policy:thread-bound")
@pytest.mark.parametrize("rules", [READS_ARGUMENTS, READS_ROLES])
async def test_after_a_panic_the_evaluators_are_made_anew(rules: str, capfd: pytest.CaptureFixture[str]) -> None:
    policy = engine(rules)
    question = asked("call", b'{"go":true}')
    with made_elsewhere(rules) as held:
        policy._evaluators = held[0]
        assert (await policy.decide(question)).reasons == ("engine:error",)
        assert policy._evaluators is not held[0]
        assert (await policy.decide(question)).effect is Effect.ALLOW


@pytest.mark.requirement("policy:thread-bound")
async def test_an_engine_let_go_on_another_thread_is_dropped_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    held = [engine(READS_ARGUMENTS)]
    elsewhere(held.clear)
    await anyio.sleep(0)
    await anyio.sleep(0)
    gc.collect()
    assert unraisable == []


@pytest.mark.requirement("policy:refused-whole")
def test_a_bundle_that_does_not_compile_is_refused_with_every_finding() -> None:
    with pytest.raises(InvalidRequest) as refused:
        compiled(bundle(f"decision := {ALLOW} if http.send({{}})\n\nx := uuid.rfc4122(1)\n"), MAX_INPUT_BYTES)
    found = refused.value.data["findings"]
    assert [(f["file"], f["line"]) for f in found] == [("policy.rego", 3), ("policy.rego", 5)]
    assert all(f["fix"] for f in found)


def test_a_rule_too_big_for_the_program_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    values = ",\n".join(f"input.x{n}" for n in range(300))
    with pytest.raises(InvalidRequest, match="Register overflow"):
        compiled(bundle(f"decision := [\n{values}\n]\n"), MAX_INPUT_BYTES)


@pytest.mark.parametrize(("name", "effect"), [("deny_all", Effect.DENY), ("allow_all", Effect.ALLOW)])
async def test_the_policies_of_the_gateway_say_what_they_are_called(name: str, effect: Effect) -> None:
    policy = LocalEngine(compiled(Bundle.own(name), MAX_INPUT_BYTES))
    for phase in ("list", "call"):
        assert (await policy.decide(asked(phase))).effect is effect
