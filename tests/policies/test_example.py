"""The policies that come with the gateway."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mcpgw.policies.bundle import Bundle
from mcpgw.policies.testing import run, vectors_of
from mcpgw.policies.warmup import check, inspect
from tests.policies.parts import EXAMPLE, POLICIES

OWN = ["allow_all", "deny_all", "example"]


def test_the_example_does_what_its_vectors_say() -> None:
    results = run(EXAMPLE)
    assert [result for result in results if not result.passed] == []
    assert len(results) == len(vectors_of(EXAMPLE.with_name("example.vectors.json"))) >= 40


@pytest.mark.parametrize("name", OWN)
def test_they_pass_their_own_check(name: str) -> None:
    assert inspect(Bundle.own(name)) == []


def test_every_file_of_the_folder_is_one_of_them() -> None:
    assert sorted(path.stem for path in (POLICIES / "rego").glob("*.rego")) == OWN


@pytest.mark.parametrize("name", OWN)
def test_they_are_formatted_and_strict_as_opa_has_it(name: str, opa: Path) -> None:
    path = POLICIES / "rego" / f"{name}.rego"
    subprocess.run([opa, "fmt", "--fail", "--list", path], check=True, capture_output=True)
    subprocess.run([opa, "check", "--strict", path], check=True, capture_output=True)


def test_the_example_passes_its_check_in_a_process_of_its_own() -> None:
    assert check(Bundle.own("example")) == []
