"""What a decision obliges the gateway to do to bytes."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.domain import (
    Arguments,
    Effect,
    KeepOnly,
    MaxResultBytes,
    Part,
    PartKind,
    RedactArguments,
    RedactResult,
    Tag,
    Verb,
)
from mcpgw.errors import Denied
from mcpgw.obligations import REDACTED, keep_only, listed_names, obey, redact_arguments, redacted_pointers
from tests.parts import decision

DOCUMENT: dict[str, Any] = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
    "~1": 9,
    "deep": {"list": [{"ssn": "078"}, {"ssn": None}], "no": False, "empty": []},
}
# RFC 6901 §5, and some of our own. To each pointer the steps that it means.
POINTERS: dict[str, list[str | int]] = {
    "/foo": ["foo"],
    "/foo/0": ["foo", 0],
    "/": [""],
    "/a~1b": ["a/b"],
    "/c%d": ["c%d"],
    "/e^f": ["e^f"],
    "/g|h": ["g|h"],
    "/i\\j": ["i\\j"],
    '/k"l': ['k"l'],
    "/ ": [" "],
    "/m~0n": ["m~n"],
    "/~01": ["~1"],
    "/deep/list/0/ssn": ["deep", "list", 0, "ssn"],
    "/deep/list/1/ssn": ["deep", "list", 1, "ssn"],
    "/deep/list/1": ["deep", "list", 1],
    "/deep/no": ["deep", "no"],
    "/deep/empty": ["deep", "empty"],
}


def redacted(document: Any, *pointers: str) -> Any:
    raw = json.dumps(document).encode()
    return json.loads(redact_arguments(Arguments(raw), decision(Effect.ALLOW, RedactArguments(pointers))).raw)


@pytest.mark.requirement("obligations:redact")
@pytest.mark.parametrize("pointer", POINTERS)
def test_a_pointer_names_exactly_one_value(pointer: str) -> None:
    expected = copy.deepcopy(DOCUMENT)
    *way, last = POINTERS[pointer]
    node: Any = expected
    for step in way:
        node = node[step]
    node[last] = REDACTED
    assert redacted(DOCUMENT, pointer) == expected


@pytest.mark.requirement("obligations:redact")
@pytest.mark.parametrize(
    "pointer", ["/absent", "/foo/2", "/foo/-", "/foo/bar", "/foo/0/x", "/deep/list/1/ssn/x", "/a/b"]
)
def test_a_pointer_to_nothing_leaves_the_very_bytes(pointer: str) -> None:
    held = Arguments(b'{ "foo":["bar","baz"], "deep":{"list":[{},{"ssn":null}]}, "n":1.50 }')
    assert redact_arguments(held, decision(Effect.ALLOW, RedactArguments((pointer,)))) is held


@pytest.mark.requirement("obligations:redact")
@pytest.mark.parametrize("pointer", ["", "ssn", "#/ssn", "$.ssn"])
def test_a_pointer_that_cannot_be_obeyed_denies(pointer: str) -> None:
    """The whole document cannot be replaced and stay an object; the others are no pointers at all."""
    for obligation in (RedactArguments((pointer,)), RedactResult((pointer,))):
        with pytest.raises(Denied) as caught:
            redact_arguments(Arguments(b'{"ssn":"078"}'), decision(Effect.ALLOW, obligation))
        assert caught.value.data["rule"] == "redaction"


@pytest.mark.requirement("obligations:redact")
def test_what_is_redacted_already_stays_the_very_bytes() -> None:
    held = Arguments(b'{"ssn" : "[redacted]"}')
    assert redact_arguments(held, decision(Effect.ALLOW, RedactArguments(("/ssn",)))) is held


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~0", max_size=2), inner, max_size=3),
    max_leaves=12,
)


def places(node: Any, pointer: str = "") -> list[str]:
    """Every place in a document, as a pointer."""
    if isinstance(node, dict):
        steps = [(key.replace("~", "~0").replace("/", "~1"), value) for key, value in node.items()]
    elif isinstance(node, list):
        steps = [(str(index), value) for index, value in enumerate(node)]
    else:
        return []
    return [p for step, value in steps for p in (f"{pointer}/{step}", *places(value, f"{pointer}/{step}"))]


@pytest.mark.requirement("obligations:redact")
@given(document=st.dictionaries(st.text("ab/~0", max_size=2), JSON, min_size=1, max_size=4), data=st.data())
def test_any_place_of_any_document_can_be_redacted_and_nothing_else_changes(document: Any, data: st.DataObject) -> None:
    pointer = data.draw(st.sampled_from(places(document)))
    result = redacted(document, pointer)
    *way, last = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    before, after = document, result
    for step in way:
        key: Any = int(step) if isinstance(before, list) else step
        before, after = before[key], after[key]
    key = int(last) if isinstance(before, list) else last
    assert after[key] == REDACTED
    before[key] = REDACTED
    assert result == document


def test_the_record_can_say_what_was_redacted() -> None:
    obliged = decision(Effect.ALLOW, RedactArguments(("/a", "/b")), Tag("t"), RedactArguments(("/c",)))
    assert redacted_pointers(obliged) == ("/a", "/b", "/c")


# Results


def result_of(body: Any, *pointers: str, kind: PartKind = PartKind.WHOLE, **facts: Any) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return obey(decision(Effect.ALLOW, RedactResult(pointers)), Part(kind, raw, **facts)).body


@pytest.mark.requirement("obligations:redact-result")
@pytest.mark.parametrize("kind", [PartKind.WHOLE, PartKind.LAST])
def test_a_result_is_redacted_in_its_structure_and_in_text_that_is_json(kind: PartKind) -> None:
    body = {
        "content": [
            {"type": "text", "text": '{"ssn": "078", "name": "Ä"}'},
            {"type": "text", "text": "in words"},
            {"type": "image", "data": "AAAA"},
        ],
        "structuredContent": {"ssn": "078", "name": "Ä"},
        "_meta": {"kept": True},
    }
    result = json.loads(result_of(body, "/ssn", kind=kind))
    assert result["structuredContent"] == {"ssn": REDACTED, "name": "Ä"}
    assert json.loads(result["content"][0]["text"]) == {"ssn": REDACTED, "name": "Ä"}
    assert result["content"][1:] == body["content"][1:]
    assert result["_meta"] == body["_meta"]


@pytest.mark.requirement("obligations:redact-result")
def test_a_null_value_is_redacted_like_any_other() -> None:
    result = json.loads(result_of({"content": [], "structuredContent": {"hiv": None}}, "/hiv"))
    assert result["structuredContent"] == {"hiv": REDACTED}


@pytest.mark.requirement("obligations:redact-result")
@pytest.mark.parametrize("kind", [PartKind.OPENED, PartKind.EVENT])
def test_the_messages_of_a_stream_before_its_last_pass(kind: PartKind) -> None:
    message = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}'
    assert result_of(message, "/ssn", kind=kind) == message


def test_an_error_has_no_result_to_redact() -> None:
    body = b'{"code":-32602,"message":"no"}'
    assert result_of(body, "/message", error_code=-32602) == body


@pytest.mark.requirement("obligations:max-result")
@pytest.mark.parametrize("kind", [PartKind.WHOLE, PartKind.EVENT, PartKind.LAST])
def test_a_result_larger_than_allowed_is_withheld(kind: PartKind) -> None:
    obliged = decision(Effect.ALLOW, MaxResultBytes(10))
    assert obey(obliged, Part(kind, b"x" * 10)).body == b"x" * 10
    with pytest.raises(Denied) as caught:
        obey(obliged, Part(kind, b"x" * 11))
    assert caught.value.data["rule"] == "max_result_bytes"


def test_without_obligations_a_part_leaves_as_it_came() -> None:
    part = Part(PartKind.WHOLE, b"not even json")
    assert obey(decision(Effect.ALLOW), part) is part


# Lists


LISTS = {
    Verb.TOOLS_LIST: ("tools", "name"),
    Verb.PROMPTS_LIST: ("prompts", "name"),
    Verb.RESOURCES_LIST: ("resources", "uri"),
    Verb.RESOURCE_TEMPLATES_LIST: ("resourceTemplates", "uriTemplate"),
}


@pytest.mark.requirement("obligations:keep-only")
@pytest.mark.parametrize("verb", LISTS)
def test_a_list_keeps_the_items_that_are_named_and_everything_around_them(verb: Verb) -> None:
    member, key = LISTS[verb]
    items = [{key: "a", "n": 1}, {key: "b"}, {"nameless": True}, "rubbish"]
    body = json.dumps({"nextCursor": "c", member: items, "ttlMs": 5}).encode()
    assert listed_names(verb, body) == ["a", "b"]
    kept = json.loads(keep_only(verb, body, KeepOnly(frozenset({"a"}))))
    assert kept == {"nextCursor": "c", member: [{key: "a", "n": 1}], "ttlMs": 5}


@pytest.mark.requirement("obligations:keep-only")
@pytest.mark.parametrize("verb", LISTS)
def test_a_list_of_which_everything_is_kept_is_the_very_bytes(verb: Verb) -> None:
    member, key = LISTS[verb]
    body = b'{ "%b":[ {"%b":"a"} ] }' % (member.encode(), key.encode())
    assert keep_only(verb, body, KeepOnly(frozenset({"a"}))) is body
    assert keep_only(verb, b"{}", KeepOnly(frozenset())) == b"{}"
