"""A bundle comes into force whole, or not at all."""

from __future__ import annotations

import pytest

from mcpgw.policies.apart import apart
from mcpgw.policies.warmup import check, inspect
from tests.policies.parts import ALLOW, DENY, bundle


@pytest.mark.requirement("policy:refused-whole")
@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("decision := true", "fails for tools/call in phase `list`: engine:bad_output"),
        (f'decision := {ALLOW} if input.phase == "list"\n\ndecision := 1 if input.phase == "call"', "phase `call`"),
        (f"decision := {DENY} if 1 / (input.version - 1) == 1", "engine:error"),
        (f"decision := {ALLOW}\n\ndecision := {DENY}", "engine:error"),
        ('decision := {"effect": "allow", "reasons": ["r"], "obligations": [{"type": "x"}]}', "engine:unsupported"),
        ("decision := x", "ndefined variable"),
        ("decision {", "policy.rego"),
    ],
)
def test_a_bundle_that_fails_its_first_questions_is_refused(rules: str, message: str) -> None:
    found = inspect(bundle(rules))
    assert any(message in str(finding) for finding in found), found
    assert all(finding.fix for finding in found)


@pytest.mark.parametrize("rules", [f"decision := {ALLOW} if input.nothing", f"default decision := {DENY}"])
def test_a_bundle_may_have_nothing_to_say(rules: str) -> None:
    assert inspect(bundle(rules)) == []


def test_data_that_is_no_json_object_is_refused() -> None:
    for data in ("[]", "{", '{"mcpgw": {"authz": {"decision": 1}}}'):
        assert inspect(bundle(f"decision := {DENY}", **{"data.json": data})) != [], data


@pytest.mark.requirement("policy:check-apart")
def test_a_check_apart_finds_what_a_check_here_finds() -> None:
    bad = bundle(f"decision := {ALLOW} if time.now_ns() > 0\n\nx := uuid.rfc4122(1)\n")
    assert check(bad) == inspect(bad) != []


def test_a_process_apart_gets_none_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")
    monkeypatch.setenv("PYTHONWARNINGS", "rubbish:rubbish:rubbish")
    assert apart("check", {"files": dict(bundle(f"decision := {DENY}").files)}) == []
