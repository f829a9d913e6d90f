"""The rules of names, numbers and states."""

from __future__ import annotations

import itertools

import pytest

from mcpgw.domain import VersionStatus
from mcpgw.errors import Conflict, InvalidParams
from mcpgw.registry import digest, lifecycle
from tests.registry.parts import pins, raw, server, version

D, A, R = VersionStatus.DRAFT, VersionStatus.APPROVED, VersionStatus.RETIRED


@pytest.mark.requirement("registry:approved-only")
@pytest.mark.parametrize(("status", "approve", "activate"), [(D, A, False), (A, None, True), (R, None, False)])
def test_a_version_goes_from_draft_to_approved_and_only_then_is_active(
    status: VersionStatus, approve: VersionStatus | None, activate: bool
) -> None:
    held = version(status=status)
    if approve is None:
        with pytest.raises(Conflict, match=f"is {status.value}"):
            lifecycle.approved(held, "ada")
    else:
        assert lifecycle.approved(held, "ada") == version(status=approve, approved_by="ada")
    if activate:
        lifecycle.check_may_be_active(held)
    else:
        with pytest.raises(Conflict, match=f"is {status.value}"):
            lifecycle.check_may_be_active(held)
    assert lifecycle.retired(held).status is R


@pytest.mark.parametrize("slug", ["a", "github-issues", "a" * 24, "0", "a--b"])
def test_a_slug_is_short_lower_case_ascii(slug: str) -> None:
    lifecycle.check_server(server(slug))


@pytest.mark.parametrize(
    "slug", ["", "a" * 25, "Notes", "no_tes", "-a", "a-", "é", "notes\n", "a.b", "\u0430dmin", "a/b"]
)
def test_anything_else_is_no_slug(slug: str) -> None:
    with pytest.raises(InvalidParams, match="a slug is"):
        lifecycle.check_server(server(slug))


@pytest.mark.parametrize("wrong", [{"title": "a\u202eb"}, {"title": "x" * 201}, {"tags": ("a b",)}, {"trust": ""}])
def test_labels_that_cannot_be_read_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidParams):
        lifecycle.check_server(server(**wrong))


@pytest.mark.requirement("registry:look-alike")
@pytest.mark.parametrize(
    ("slug", "other"),
    [
        ("paypa1", "paypal"),
        ("g00gle", "google"),
        ("git-hub", "github"),
        ("modern", "modem"),
        ("vvatch", "watch"),
        ("s5", "ss"),
    ],
)
def test_a_slug_that_looks_like_another_is_refused(slug: str, other: str) -> None:
    for one, two in ((slug, other), (other, slug)):
        with pytest.raises(Conflict, match="looks like"):
            lifecycle.check_look_alikes(one, ["unrelated", two])
    lifecycle.check_look_alikes(slug, [slug, "unrelated"])


ORDERED = [
    "0.0.1",
    "0.9.0",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.2.0",
    "1.10.0",
    "2.0.0",
]


def test_versions_sort_as_semver_says() -> None:
    """The chain of prereleases is the example of semver.org 2.0.0 §11."""
    for one, two in itertools.pairwise(ORDERED):
        assert lifecycle.order(one) < lifecycle.order(two)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "1",
        "1.0",
        "v1.0.0",
        "01.0.0",
        "1.0.0-01",
        "1.0.0+build",
        "1.0.0-",
        "1.0.0 ",
        "1.0.0\n",
        "latest",
        "1.0.0-é",
        "1." * 40,
    ],
)
def test_anything_else_is_no_version(wrong: str) -> None:
    with pytest.raises(InvalidParams, match="a version is"):
        lifecycle.order(wrong)


@pytest.mark.requirement("registry:versions")
def test_the_next_version_says_whether_tools_came_or_changed() -> None:
    one = version("1.9.3", pins("read", "write"))
    versions = [version("1.2.0", pins("a")), one, version("1.10.0-rc.1", pins("read", "write"))]
    assert lifecycle.next_version([], pins("read")) == "1.0.0"
    assert lifecycle.next_version([one], pins("read", "write", "new")) == "1.10.0"
    assert lifecycle.next_version([one], digest.pins([raw("read", title="other"), raw("write")])) == "1.10.0"
    assert lifecycle.next_version([one], pins("read")) == "1.9.4"
    assert lifecycle.next_version([one], pins("write", "read")) == "1.9.4"
    assert lifecycle.next_version(versions, pins("read")) == "1.10.0"
    assert lifecycle.next_version(versions, pins("new")) == "1.11.0"


@pytest.mark.parametrize(
    "url",
    ["https://a.example/mcp", "http://127.0.0.1:8000/mcp?x=1", "http://[::1]:80/", "HTTPS://a.example"],
)
def test_an_endpoint_is_a_plain_web_address(url: str) -> None:
    lifecycle.check_url(url)


@pytest.mark.requirement("registry:urls")
@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example",
        "/mcp",
        "ftp://a.example",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://",
        "https:///mcp",
        "https://user@a.example",
        "https://user:word@a.example",
        "https://@a.example",
        "https://a.example/#x",
        "https://a.example/#",
        "https://a.example\\@b.example",
        "https://a.ex\tample",
        "https://a.example/ x",
        "https://a.example\n",
        "https://\u24d0.example",
        "https://a.example:0/",
        "https://a.example:99999/",
        "https://a.example:x/",
        "https://[::1/",
        "https://a.example/" + "x" * 2048,
    ],
)
def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidParams):
        lifecycle.check_url(url)


@pytest.mark.requirement("registry:rollback")
@pytest.mark.parametrize(
    ("changes", "current", "usable", "expected"),
    [
        ("", None, "abc", None),
        ("a", "a", "abc", None),
        ("ab", "b", "abc", "a"),
        ("ab", "b", "bc", None),
        ("abc", "c", "ac", "a"),
        ("aba", "a", "ab", "b"),
        ("abB", "b", "ab", "a"),
        ("abA", "a", "ab", None),
        ("abcB", "b", "abc", "a"),
        ("abcBd", "d", "abcd", "b"),
        ("ab", None, "ab", "b"),
        ("abA", None, "ab", "a"),
        ("aab", "b", "ab", "a"),
    ],
)
def test_rolling_back_goes_back_step_by_step(
    changes: str, current: str | None, usable: str, expected: str | None
) -> None:
    """Lower case: activated. Upper case: rolled back to."""
    history = [(letter.isupper(), letter.lower()) for letter in changes]
    assert lifecycle.previous(history, current, set(usable)) == expected
