"""Policies and inputs that mean harm: each costs its own question only, and soon."""

from __future__ import annotations

import json
import time
from typing import Any

import anyio
import pytest

from mcpgw.domain import Arguments, Effect
from mcpgw.policies import warmup
from mcpgw.policies.bundle import Bundle
from tests.policies.parts import ALLOW, DENY, asked, bundle, engine

SOON_S = 0.05
NUMBERS = json.dumps({"l": list(range(400))}).encode()

# Fifty patterns that make a backtracking engine run for ever, or a compiled one grow without bound.
CORES = [
    "(a+)+",
    "(a*)*",
    "(a|a)*",
    "(a|aa)+",
    "(a?){40}a{40}",
    "([a-z]+)*",
    "(.*)*",
    "(\\w+\\s?)*",
    "(a+){2,30}",
    "((a*)*)*",
]
PATTERNS = [
    template % core
    for core in CORES
    for template in ("^%s$", "^%sb", "%s!$", "(?i)^%s\\d$", "^(%s|c)+$")
]  # fmt: skip


async def soon(rules: str, arguments: bytes) -> Any:
    """Return the decision of a policy, which must come within SOON_S once it is loaded."""
    policy = engine(rules)
    started = time.perf_counter()
    decision = await policy.decide(asked("call", arguments))
    assert time.perf_counter() - started < SOON_S
    return decision


@pytest.mark.requirement("policy:redos")
@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_hostile_pattern_takes_no_time_and_allows_nothing(pattern: str) -> None:
    text = json.dumps({"text": "a" * 3000 + "\n?"}).encode()
    decision = await soon(f"decision := {ALLOW} if regex.match(`{pattern}`, input.arguments.text) == true\n", text)
    assert decision.effect is Effect.DENY


PAIRS = "some x in input.arguments.l; some y in input.arguments.l"
LONG = f"\n\nlong if {{ {PAIRS}; x == [y] }}"


@pytest.mark.requirement("policy:budget")
@pytest.mark.parametrize(
    "rules",
    [
        f"decision := {ALLOW} if {{ {PAIRS}; x + y == -1 }}",
        f"decision := {ALLOW} if count([1 | {PAIRS}; x + y > 0]) > 0",
        f"decision := {ALLOW} if count({{z | some z in {{[x, y] | {PAIRS}}}}}) > 0",
        f"decision := {ALLOW} if {{ l := input.arguments.l; every x in l {{ every y in l {{ x + y >= 0 }} }} }}",
        f"decision := {ALLOW} if not long{LONG}",
        f"default decision := {ALLOW}\n\ndecision := {DENY} if long{LONG}",
        f"decision := {DENY} if {{ long }} else := {ALLOW}{LONG}",
        f"decision := {ALLOW} if count(pairs) == 0\n\npairs contains [x, y] if {{ {PAIRS} }}",
        f"decision := {ALLOW} if f(input.arguments.l)\n\nf(l) if count([1 | some x in l; some y in l; x == [y]]) == 0",
    ],
)
async def test_nested_rounds_end_at_the_budget_and_deny(rules: str) -> None:
    decision = await soon(rules, NUMBERS)
    assert (decision.effect, decision.reasons) == (Effect.DENY, ("engine:exhausted",))


@pytest.mark.requirement("policy:budget")
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
async def test_an_input_ten_thousand_deep_denies(opening: bytes) -> None:
    deep = opening * 10_000 + b"1" + (b"]" if opening == b"[" else b"}") * 10_000
    policy = engine(f"decision := {ALLOW} if input.arguments.a\n")
    with anyio.fail_after(10):
        decision = await policy.decide(asked("call", b'{"a":%b}' % deep))
    assert decision.reasons == ("engine:error",)
    assert policy.evaluate(b'{"arguments":%b}' % deep).reasons == ("engine:error",)


async def test_rules_that_contradict_each_other_deny() -> None:
    rules = f"decision := {ALLOW} if input.arguments.a\n\ndecision := {DENY} if input.arguments.b\n"
    policy = engine(rules)
    assert (await policy.decide(asked("call", b'{"a":1,"b":1}'))).reasons == ("engine:error",)
    assert (await policy.decide(asked("call", b'{"a":1}'))).effect is Effect.ALLOW


@pytest.mark.parametrize("argument", ["1", "null", '["a"]', '{"a":1}', "true"])
async def test_a_value_of_another_type_cannot_make_a_rule_allow(argument: str) -> None:
    rules = f"""default decision := {DENY}

decision := {ALLOW} if secret == false

secret := startswith(input.arguments.path, "/etc")
"""
    policy = engine(rules)
    assert (await policy.decide(asked("call", b'{"path":%b}' % argument.encode()))).effect is Effect.DENY
    assert (await policy.decide(asked("call", b'{"path":"/etc/shadow"}'))).effect is Effect.DENY
    assert (await policy.decide(asked("call", b'{"path":"/srv"}'))).effect is Effect.ALLOW


TEXTS = {
    "a chain of additions": "decision := 1" + " +\n1" * 19_000,
    "a chain of indices": "decision := input" + "[0\n]" * 19_000,
    "a chain of unions": "decision := {1}" + " |\n{1}" * 19_000,
    "ever longer strings": "\n".join(
        ['x0 := "' + "a" * 64 + '"', *(f'x{n + 1} := concat("", [{", ".join([f"x{n}"] * 8)}])' for n in range(12))]
    )
    + f"\ndecision := {DENY} if count(x12) > 0",
}


@pytest.mark.requirement("policy:check-apart")
@pytest.mark.parametrize("text", list(TEXTS), ids=list(TEXTS))
def test_a_text_that_brings_the_engine_down_is_refused_and_brings_nothing_else_down(text: str) -> None:
    (finding,) = warmup.check(bundle(TEXTS[text]))
    assert "brings its engine down" in finding.message


@pytest.mark.requirement("policy:check-apart")
def test_a_text_that_takes_too_long_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpgw.policies.apart.DEADLINE_S", 0.01)
    (finding,) = warmup.check(Bundle.own("deny_all"))
    assert "takes more than 0.01 s" in finding.message


async def test_bytes_of_arguments_are_never_in_a_refusal() -> None:
    policy = engine(f'decision := {ALLOW} if startswith(input.arguments.token, "x")\n')
    decision = await policy.decide(asked("call", Arguments(b'{"token":424242}').raw))
    assert decision.reasons == ("engine:error",)
    assert "424242" not in repr(decision)
