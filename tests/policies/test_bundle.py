"""A policy is its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcpgw.errors import InvalidRequest, UsageError
from mcpgw.policies import bundle as limits
from mcpgw.policies.bundle import Bundle

A, B = "package a\n", "package b\n"


@pytest.mark.requirement("policy:bundle-digest")
def test_the_order_of_the_files_does_not_change_the_digest() -> None:
    assert Bundle.of({"a.rego": A, "b.rego": B}) == Bundle.of({"b.rego": B, "a.rego": A})


@pytest.mark.requirement("policy:bundle-digest")
def test_every_other_difference_changes_the_digest() -> None:
    bundles = [
        {"a.rego": A},
        {"a.rego": B},
        {"b.rego": A},
        {"a.rego": A + "\n"},
        {"a.rego": A, "b.rego": ""},
        {"a.rego": A, "data.json": "{}"},
        {"a.rego": "", "b.rego": A},
        {"a.rego": "1", "b.rego": "2"},
        {"a.rego": "1b.rego2"},
    ]
    assert len({Bundle.of(files).sha256 for files in bundles}) == len(bundles)


def test_a_directory_is_read_with_its_data_and_without_its_tests(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "roles.rego").write_text(A)
    (tmp_path / "policy.rego").write_text(B)
    (tmp_path / "policy_test.rego").write_text("package b_test\n")
    (tmp_path / "policy.vectors.json").write_text("[]")
    (tmp_path / "data.json").write_text("{}")
    assert list(Bundle.read(tmp_path).files) == ["data.json", "lib/roles.rego", "policy.rego"]
    assert Bundle.read(tmp_path / "policy.rego") == Bundle.of({"policy.rego": B})


@pytest.mark.parametrize(
    "path", ["/etc/policy.rego", "../policy.rego", "a//b.rego", "a b.rego", "p\n.rego", ".hidden.rego", "é.rego", ""]
)
def test_a_path_that_leads_out_of_the_bundle_is_refused(path: str) -> None:
    with pytest.raises(InvalidRequest, match=r"cannot be a path"):
        Bundle.of({"policy.rego": A, path: A})


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "at least one"),
        ({"data.json": "{}"}, "at least one"),
        ({"a_test.rego": A}, "is a test"),
        ({"a.rego": A, "notes.txt": "x"}, "is not part of a policy"),
        ({"a.rego": A, "lib/data.json": "{}"}, "is not part of a policy"),
        ({"a.rego": "\ud800"}, "is not Unicode"),
        ({"a.rego": "#" * (limits.MAX_FILE_BYTES + 1)}, "larger than"),
        ({f"{n}.rego": "" for n in range(limits.MAX_FILES + 1)}, "at most"),
        ({f"{n}.rego": "#" * limits.MAX_FILE_BYTES for n in range(5)}, "at most"),
    ],
)
def test_what_is_no_policy_is_refused_with_what_to_do(files: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as refused:
        Bundle.of(files)
    assert refused.value.fix


def test_a_directory_that_is_not_there_is_a_mistake_of_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no policy at"):
        Bundle.read(tmp_path / "nowhere")
    (tmp_path / "latin.rego").write_bytes(b"# \xe9\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        Bundle.read(tmp_path)
