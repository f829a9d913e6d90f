"""`mcpgw policy test`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from mcpgw.errors import InvalidRequest, UsageError
from mcpgw.policies.testing import Result, run
from tests.policies.parts import ALLOW, DENY, PACKAGE

POLICY = f"{PACKAGE}default decision := {DENY}\n\ndecision := {ALLOW} if input.go\n"
TESTS = """package mcpgw.authz_test

import data.mcpgw.authz

test_go if {
	authz.decision.effect == "allow" with input as {"go": true}
}

test_no_go if {
	authz.decision.effect == "deny" with input as {}
}

test_wrong if {
	authz.decision.effect == "allow" with input as {}
}

helper if true
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "policy.rego").write_text(POLICY)
    (tmp_path / "policy_test.rego").write_text(TESTS)
    return tmp_path


def vectors(directory: Path, *entries: tuple[str, object, object]) -> None:
    written = [{"name": name, "input": given, "expect": wanted} for name, given, wanted in entries]
    (directory / "policy.vectors.json").write_text(json.dumps(written))


@pytest.mark.requirement("policy:test")
def test_the_test_rules_of_a_directory_are_run(directory: Path) -> None:
    name = "mcpgw.authz_test.test_"
    assert run(directory) == [
        Result("policy_test.rego", f"{name}go", True),
        Result("policy_test.rego", f"{name}no_go", True),
        Result("policy_test.rego", f"{name}wrong", False, 'it is "<undefined>", and must be true'),
    ]
    assert run(directory / "policy.rego") == run(directory)


@pytest.mark.requirement("policy:test")
def test_opa_itself_says_the_same_of_these_tests(directory: Path, opa: Path) -> None:
    done = subprocess.run([opa, "test", directory, "--format", "json"], capture_output=True, check=False)
    theirs = {test["name"]: not test.get("fail", False) for test in json.loads(done.stdout)}
    assert theirs == {result.name.split(".")[-1]: result.passed for result in run(directory)}


@pytest.mark.requirement("policy:test")
def test_vectors_are_compared_in_what_they_name(directory: Path) -> None:
    (directory / "policy_test.rego").unlink()
    vectors(
        directory,
        ("allowed", {"go": True}, {"effect": "allow", "reasons": ["rule"], "obligations": []}),
        ("only the effect", {}, {"effect": "deny"}),
        ("wrong effect", {}, {"effect": "allow"}),
        ("wrong reason", {"go": True}, {"effect": "allow", "reasons": ["other"]}),
    )
    results = run(directory)
    assert [result.passed for result in results] == [True, True, False, False]
    assert results[2].why == "effect is deny, not allow"
    assert results[3].why == "reasons is ['rule'], not ['other']"


def test_a_policy_that_would_be_refused_is_not_tested(directory: Path) -> None:
    (directory / "policy.rego").write_text(f"{PACKAGE}decision := {ALLOW} if time.now_ns() > 0\n")
    with pytest.raises(InvalidRequest, match=r"time\.now_ns"):
        run(directory)


@pytest.mark.parametrize("text", ["package t\n\ntest_a if {", "package t\n\ntest_a if test_a\n"])
def test_tests_that_cannot_be_run_are_refused(directory: Path, text: str) -> None:
    (directory / "policy_test.rego").write_text(text)
    with pytest.raises(InvalidRequest):
        run(directory)


def test_vectors_of_another_shape_are_a_mistake_of_use(directory: Path) -> None:
    for text in (
        "{",
        "{}",
        '[{"name": "x", "input": {}}]',
        '[{"name": "x", "input": {}, "expect": {"efect": "allow"}}]',
    ):
        (directory / "policy.vectors.json").write_text(text)
        with pytest.raises(UsageError, match=r"vectors\.json"):
            run(directory)
