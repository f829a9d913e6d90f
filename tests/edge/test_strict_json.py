"""JSON with one meaning for every parser."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.domain import Effect
from mcpgw.edge.strict_json import JsonLimits, parse_object
from mcpgw.errors import GatewayError, InvalidRequest, ParseError
from tests.edge import reference_json
from tests.policies.parts import ALLOW, DENY, asked, engine

DEPTH = 64
LIMITS = JsonLimits(depth=DEPTH)


def refusal(body: bytes, max_depth: int = DEPTH) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        parse_object(body, JsonLimits(depth=max_depth))
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
        assert parse_object(body, LIMITS) == expected


@pytest.mark.requirement("json:numbers")
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e99999999", "9" * 5000])
def test_a_number_that_parsers_read_differently_is_refused(number: str) -> None:
    assert isinstance(refusal(f'{{"a":[{number}]}}'.encode()), ParseError)


NUMBERS = [
    ("9007199254740993", 2**53 + 1),
    ("18446744073709551615", 2**64 - 1),
    ("-9223372036854775808", -(2**63)),
    ("-0", 0),
    ("1.50", 1.5),
    ("1e22", 1e22),
    ("0.1000000000000000055511151231257827", 0.1),
    ('"12345678901234567890123"', "12345678901234567890123"),
]


@pytest.mark.requirement("json:numbers")
@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_a_number_within_64_bits_keeps_its_value(text: str, value: float | str) -> None:
    (found,) = parse_object(f'{{"a":{text}}}'.encode(), LIMITS).values()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.requirement("json:numbers")
@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "1" + "0" * 30, "9" * 4000])
@pytest.mark.parametrize("body", ['{"a":%s}', '{"a":[[{"b":%s}],1]}', '{"a":"1","b" : [ %s ]}'])
def test_a_whole_number_that_a_policy_would_round_is_refused(body: str, number: str) -> None:
    error = refusal((body % number).encode())
    assert isinstance(error, InvalidRequest)
    assert "beyond 64 bits" in error.message


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
    assert parse_object(body, LIMITS) == json.loads(body)


@pytest.mark.requirement("json:depth")
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_up_to_the_limit_is_read_and_beyond_it_refused(opening: str, closing: str) -> None:
    def nested(levels: int) -> bytes:
        return f'{{"a":{opening * levels}1{closing * levels}}}'.encode()

    parse_object(nested(DEPTH - 1), LIMITS)
    error = refusal(nested(DEPTH))
    assert isinstance(error, InvalidRequest)
    assert "deeper than 64" in error.message
    assert isinstance(refusal(nested(200_000)), InvalidRequest)


@pytest.mark.requirement("json:depth")
def test_brackets_in_strings_and_side_by_side_are_not_depth() -> None:
    wide = {"a": [[1]] * 500, "b": '[{"[{\\' * 500}
    assert parse_object(json.dumps(wide).encode(), JsonLimits(depth=4)) == wide


@pytest.mark.requirement("json:numbers")
@pytest.mark.parametrize("number", [2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1])
async def test_the_policy_sees_the_very_whole_number_that_is_accepted(number: int) -> None:
    rule = f"default decision := {DENY}\n\ndecision := {ALLOW} if input.arguments.n == {number}\n"
    neighbours = [n for n in (number - 1, number, number + 1) if -(2**63) <= n < 2**64]
    for n in neighbours:
        body = b'{"n":%d}' % n
        assert parse_object(body, LIMITS) == {"n": n}
        decision = await engine(rule).decide(asked("call", body))
        assert (decision.effect is Effect.ALLOW) is (n == number), n


SPELLINGS = ['{"a%d":0}', '{"a%d" : 0}', '{"\\"{%d":":,"}', '{"\\\\%d":""}']


@pytest.mark.requirement("json:size")
@pytest.mark.parametrize("member", SPELLINGS)
def test_a_body_has_as_many_keys_as_are_allowed_and_no_more(member: str) -> None:
    def body(keys: int) -> bytes:
        return f'{{"":[{",".join(member % i for i in range(keys - 1))}]}}'.encode()

    assert len(parse_object(body(10_000), LIMITS)[""]) == 9_999
    error = refusal(body(10_001))
    assert isinstance(error, InvalidRequest)
    assert "more than 10000 keys" in error.message


@pytest.mark.requirement("json:size")
def test_colons_and_quotation_marks_in_strings_are_no_keys() -> None:
    body = json.dumps({"a": [': "":'] * 20_000}).encode()
    assert parse_object(body, LIMITS) == json.loads(body)


@pytest.mark.requirement("json:size")
@pytest.mark.parametrize("text", ["a", "\\n", "ä", '\\"', "\\\\"])
def test_a_string_is_as_long_as_is_allowed_and_no_longer(text: str) -> None:
    size = len(text.encode())
    limits = JsonLimits(string_bytes=1200)

    def body(times: int) -> bytes:
        return f'{{"before":"{text}","{text * times}":"after"}}'.encode()

    assert len(parse_object(body(1200 // size), limits)) == 2
    with pytest.raises(InvalidRequest, match="longer than 1200 bytes"):
        parse_object(body(1200 // size + 1), limits)


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
        b"[" + b",".join([b"[" * 63 + b"]" * 63] * 6_000) + b"]",
        b"{}" * 400_000,
        b'{"a":' + b"9" * 800_000 + b"}",
    ],
    ids=[
        "quotes",
        "backslashes",
        "strings",
        "spaced quotes",
        "colons",
        "spaces",
        "braces",
        "deep and wide",
        "pairs",
        "digits",
    ],
)
def test_a_hostile_body_costs_no_more_than_its_length(body: bytes) -> None:
    """What is asked for before authentication must not be quadratic: 800 KB take milliseconds, not hours."""
    before = time.process_time()
    with contextlib.suppress(GatewayError):
        parse_object(body, LIMITS)
    assert time.process_time() - before < 2.0


TEXT = st.text(st.sampled_from('ab":{}[]\\ ,\n\tä😀'), max_size=6)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


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
        assert parse_object(body, JsonLimits(depth=max_depth)) == value


# What a hostile client would put together: keys that are alike in another spelling, numbers at every edge, halves of
# characters and of escapes.
PIECES = [
    *'{}[]:,"\\ \t\n-0ä\ufeff',
    *('"a"', '"\\u0061"', '"\\u0022"', '"\\""', '"\\\\"', '"b":', '"\\ud83d\\ude00"', '"\\udc00"', "\\ud83d"),
    *("1", "-1", "01", "1.5", "1e5", "1e400", "-0", "null", "true", "NaN", "-Infinity", "'a'", "/**/"),
    *("9007199254740993", "18446744073709551615", "18446744073709551616", "-9223372036854775809", "0.1e-400"),
]
SMALL = JsonLimits(depth=3, keys=3, string_bytes=8)


def same(body: bytes, limits: JsonLimits) -> None:
    """Both parsers refuse a body, or both read the same in it."""
    try:
        expected = reference_json.read(body, limits)
    except reference_json.Refused as reason:
        try:
            found = parse_object(body, limits)
        except (ParseError, InvalidRequest):
            return
        raise AssertionError(f"{body!r} is {found}, should be refused: {reason}") from None
    # `repr` tells 1 from 1.0 and from true, and keeps the order of keys.
    assert repr(parse_object(body, limits)) == repr(expected)


@pytest.mark.requirement("json:valid")
@given(st.lists(st.sampled_from(PIECES), max_size=14).map(lambda pieces: "{" + "".join(pieces) + "}"))
def test_whatever_is_put_together_means_the_same_to_a_parser_that_follows_the_grammar(text: str) -> None:
    for limits in (LIMITS, SMALL):
        same(text.encode(), limits)


@pytest.mark.requirement("json:valid")
@given(
    value=st.dictionaries(TEXT, VALUES, max_size=4),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 2), st.sampled_from(PIECES)), max_size=3),
)
def test_a_document_with_a_few_changes_means_the_same_to_both(
    value: dict[str, Any], ascii_only: bool, indent: int | None, edits: list[tuple[int, int, str]]
) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    for at, cut, piece in edits:
        place = at % (len(body) + 1)
        body = body[:place] + piece.encode() + body[place + cut :]
    for limits in (LIMITS, SMALL):
        same(body, limits)
