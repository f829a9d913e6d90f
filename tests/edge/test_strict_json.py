"""JSON with one meaning for every parser."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.edge.strict_json import parse_object
from mcpgw.errors import GatewayError, InvalidRequest, ParseError

DEPTH = 64


def refusal(body: bytes, max_depth: int = DEPTH) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        parse_object(body, max_depth=max_depth)
    return caught.value


@pytest.mark.requirement("json:valid")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a":1,}',
        b'{"a":01}',
        b"{'a':1}",
        b'{"a":1} {}',
        b'{"a":1}\x00',
        b'{"a":"\x01"}',
        b'{"a":"\\x"}',
        b'{"a":+1}',
        b'{"a":.5}',
        b'{"a":True}',
        b"/**/{}",
    ],
)
def test_what_is_not_json_is_a_parse_error(body: bytes) -> None:
    assert isinstance(refusal(body), ParseError)


@pytest.mark.requirement("json:valid")
@pytest.mark.parametrize("body", [b"[]", b'[{"jsonrpc":"2.0"}]', b"1", b'"a"', b"null", b"true"])
def test_what_is_json_but_no_object_is_an_invalid_request(body: bytes) -> None:
    assert isinstance(refusal(body), InvalidRequest)


@pytest.mark.requirement("json:encoding")
@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"a":1}',
        *('{"a":"ä"}'.encode(code) for code in ("latin-1", "utf-16", "utf-16-le", "utf-32")),
        b'{"a":"\xff"}',
        b'{"a":"\xc0\xaf"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00\\ud800"}',
        b'{"\\ud800":1}',
    ],
)
def test_only_utf_8_without_a_mark_and_without_half_characters_is_read(body: bytes) -> None:
    assert isinstance(refusal(body), ParseError)


@pytest.mark.requirement("json:encoding")
def test_whole_characters_are_read_however_they_are_written() -> None:
    expected = {"ä": "😀\x00/"}
    for body in ('{"ä":"😀\\u0000/"}'.encode(), b'{"\\u00e4":"\\ud83d\\ude00\\u0000\\/"}'):
        assert parse_object(body, max_depth=DEPTH) == expected


@pytest.mark.requirement("json:numbers")
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e99999999", "9" * 5000])
def test_a_number_that_parsers_read_differently_is_refused(number: str) -> None:
    assert isinstance(refusal(f'{{"a":[{number}]}}'.encode()), ParseError)


@pytest.mark.requirement("json:numbers")
@pytest.mark.parametrize(("text", "value"), [("9007199254740993", 2**53 + 1), ("1" + "0" * 30, 10**30), ("1.50", 1.5)])
def test_a_whole_number_of_any_size_keeps_its_value(text: str, value: float) -> None:
    assert parse_object(f'{{"a":{text}}}'.encode(), max_depth=DEPTH) == {"a": value}


@pytest.mark.requirement("json:duplicates")
@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"b":{"c":1,"c":2}}',
        b'{"x":[[{"c":1,"d":0,"c":2}]]}',
        b'{"a":1,"\\u0061":2}',
        b'{"a" :1,"a"\t:2}',
        b'{"a"\n:1,"b":2,"a":3}',
        b'{"":1,"":2}',
        b'{"a":"\\":","a":1}',
        b'{"q\\"":1,"q\\"":2}',
        b'{"a":1,"b":"{\\"c\\":1}","a":2}',
        b'{"x":"\\u0022:","a":1,"a":2}',
        b'{"x\\u0022:":0,"a":1,"a":2}',
        b'{"x":"\\"\\/:","a":1,"a":2}',
    ],
)
def test_a_key_given_twice_is_refused_at_any_depth_and_in_any_spelling(body: bytes) -> None:
    error = refusal(body)
    assert isinstance(error, InvalidRequest)
    assert "duplicate key" in error.message


@pytest.mark.requirement("json:duplicates")
@pytest.mark.parametrize(
    "body",
    [
        b'{"a":{"a":{"a":1}}}',
        b'{"a":[{"a":1},{"a":2}]}',
        b'{"a":"\\":\\":","b":"x\\":"}',
        b'{"a" : "a" , "b" :"b"}',
        b'{"a":"a","A":"a"}',
        b'{"q\\"":1,"q":2}',
    ],
)
def test_keys_that_only_look_alike_are_no_duplicates(body: bytes) -> None:
    assert parse_object(body, max_depth=DEPTH) == json.loads(body)


@pytest.mark.requirement("json:depth")
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_up_to_the_limit_is_read_and_beyond_it_refused(opening: str, closing: str) -> None:
    def nested(levels: int) -> bytes:
        return f'{{"a":{opening * levels}1{closing * levels}}}'.encode()

    parse_object(nested(DEPTH - 1), max_depth=DEPTH)
    error = refusal(nested(DEPTH))
    assert isinstance(error, InvalidRequest)
    assert "deeper than 64" in error.message
    assert isinstance(refusal(nested(200_000)), InvalidRequest)


@pytest.mark.requirement("json:depth")
def test_brackets_in_strings_and_side_by_side_are_not_depth() -> None:
    wide = {"a": [[1]] * 500, "b": '[{"[{\\' * 500}
    assert parse_object(json.dumps(wide).encode(), max_depth=4) == wide


@pytest.mark.requirement("json:linear")
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 65 + b'"' + b'\\"' * 400_000,
        b"[" * 65 + b'"' + b"\\\\" * 400_000 + b"\\",
        b"[" * 65 + b'""' * 400_000,
        b'{"a":"' + b'" ' * 400_000,
        b'{"a":"' + b'\\": ' * 200_000 + b'"}',
        b'{"a"' + b" " * 800_000 + b"1}",
        b"{" * 800_000,
    ],
    ids=["quotes", "backslashes", "strings", "spaced quotes", "colons", "spaces", "braces"],
)
def test_a_hostile_body_costs_no_more_than_its_length(body: bytes) -> None:
    """What is asked for before authentication must not be quadratic: 800 KB take milliseconds, not hours."""
    before = time.process_time()
    with contextlib.suppress(GatewayError):
        parse_object(body, max_depth=DEPTH)
    assert time.process_time() - before < 2.0


TEXT = st.text(st.sampled_from('ab":{}[]\\ ,\n\tä😀'), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


class Repeated(Exception):
    pass


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise Repeated
    return dict(pairs)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (1 if isinstance(value, dict | list) else 0) + max(map(depth, inner), default=0)


@pytest.mark.requirement("json:valid")
@given(
    value=st.dictionaries(TEXT, VALUES, max_size=4),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    colon=st.sampled_from([":", " :", " : "]),
    max_depth=st.integers(1, 6),
)
def test_every_object_is_read_as_it_is_up_to_the_depth_that_is_allowed(
    value: dict[str, Any], ascii_only: bool, indent: int | None, colon: str, max_depth: int
) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent, separators=(",", colon)).encode()
    if depth(value) > max_depth:
        assert isinstance(refusal(body, max_depth), InvalidRequest)
    else:
        assert parse_object(body, max_depth=max_depth) == value


PIECES = ["{", "}", "[", "]", '"a"', '"b"', '"\\u0061"', ":", ",", "1", "1e400", " ", '"', "\\", "null", "\ufeff", "-"]


@pytest.mark.requirement("json:valid")
@given(st.lists(st.sampled_from(PIECES), max_size=14).map(lambda pieces: "{" + "".join(pieces) + "}"))
def test_whatever_is_accepted_means_the_same_to_another_parser(text: str) -> None:
    try:
        value = parse_object(text.encode(), max_depth=DEPTH)
    except (ParseError, InvalidRequest):
        return
    assert json.loads(text, object_pairs_hook=unique) == value
