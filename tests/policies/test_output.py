"""What a policy answers: read strictly, denied otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from mcpgw.domain import Effect, KeepOnly, MaxResultBytes, RedactArguments, RedactResult, Tag
from mcpgw.policies import output

ALLOW: dict[str, Any] = {"effect": "allow", "reasons": ["r"]}


@pytest.mark.requirement("policy:output")
@pytest.mark.parametrize("effect", list(Effect))
def test_an_effect_with_reasons_and_message_is_passed_on(effect: Effect) -> None:
    decision = output.read({"effect": effect.value, "reasons": ["b", "a"], "message": "why"}, "sha")
    assert (decision.effect, decision.reasons, decision.message) == (effect, ("b", "a"), "why")
    assert decision.policy_sha256 == "sha"


@pytest.mark.requirement("policy:output")
@pytest.mark.parametrize(
    "answer",
    [
        None,
        True,
        "allow",
        [],
        {},
        {"effect": "allow"},
        {"reasons": ["r"]},
        {"effect": "allow", "reasons": []},
        {"effect": "allow", "reasons": "r"},
        {"effect": "allow", "reasons": [""]},
        {"effect": "allow", "reasons": [1]},
        {"effect": "allow", "reasons": ["r" * 129]},
        {"effect": "allow", "reasons": ["r"] * 17},
        {"effect": "Allow", "reasons": ["r"]},
        {"effect": True, "reasons": ["r"]},
        {**ALLOW, "message": 1},
        {**ALLOW, "message": "m" * 2001},
        {**ALLOW, "obligations": {}},
        {**ALLOW, "obligations": ["tag"]},
        {**ALLOW, "obligations": [{}]},
        {**ALLOW, "obligations": [{"type": 1}]},
        {**ALLOW, "obligations": [{"type": "tag"}]},
        {**ALLOW, "obligations": [{"type": "tag", "name": "x", "more": 1}]},
        {**ALLOW, "obligations": [{"type": "redact_arguments", "pointers": ["a"]}]},
        {**ALLOW, "obligations": [{"type": "redact_arguments", "pointers": "/a"}]},
        {**ALLOW, "obligations": [{"type": "max_result_bytes", "n": -1}]},
        {**ALLOW, "obligations": [{"type": "max_result_bytes", "n": "9"}]},
        {**ALLOW, "granted": True},
    ],
)
def test_an_answer_of_another_shape_denies(answer: Any) -> None:
    decision = output.read(answer, "sha")
    assert (decision.effect, decision.reasons) == (Effect.DENY, ("engine:bad_output",))
    assert decision.message


@pytest.mark.requirement("policy:obligations")
def test_the_obligations_that_the_gateway_fulfils_are_its_own_types() -> None:
    obligations = [
        {"type": "redact_arguments", "pointers": ["/a/b", ""]},
        {"type": "redact_result", "pointers": ["/c"], "detectors": []},
        {"type": "keep_only", "names": ["b", "a"]},
        {"type": "max_result_bytes", "n": 10},
        {"type": "tag", "name": "pii"},
    ]
    decision = output.read({**ALLOW, "obligations": obligations}, "sha")
    assert decision.obligations == (
        RedactArguments(("/a/b", "")),
        RedactResult(("/c",)),
        KeepOnly(frozenset({"a", "b"})),
        MaxResultBytes(10),
        Tag("pii"),
    )
    again = output.read({k: v for k, v in output.shown(decision).items() if v is not None}, "sha")
    assert again == decision


@pytest.mark.requirement("policy:obligations")
@pytest.mark.parametrize(
    "obligation",
    [
        {"type": "rate_limit", "key": "k", "limit": 1, "per": "1m"},
        {"type": "charge_budget", "budget": "b"},
        {"type": "require_approval", "approvers": ["a"], "expires_s": 60},
        {"type": "redact_result", "pointers": [], "detectors": ["email"]},
        {"type": "send_flowers"},
    ],
)
def test_an_obligation_that_the_gateway_cannot_fulfil_denies(obligation: dict[str, Any]) -> None:
    for effect in Effect:
        answer = {"effect": effect.value, "reasons": ["r"], "obligations": [{"type": "tag", "name": "x"}, obligation]}
        decision = output.read(answer, "sha")
        assert (decision.effect, decision.reasons) == (Effect.DENY, ("engine:unsupported_obligation",))


def test_an_answer_that_is_no_json_denies() -> None:
    assert output.read_text("{", "sha").reasons == ("engine:bad_output",)
    assert output.read_text("[" * 100_000, "sha").reasons == ("engine:bad_output",)
