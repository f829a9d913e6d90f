"""What a pin covers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.domain import Era, Transport
from mcpgw.errors import UpstreamFailed
from mcpgw.registry import digest
from tests.registry.parts import pins, raw

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.requirement("registry:digest")
@given(st.dictionaries(st.text(), JSON, max_size=6), st.booleans(), st.sampled_from([None, 1]))
def test_key_order_white_space_and_escapes_do_not_change_a_digest(
    fields: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    tool = {**fields, "name": "read"}
    one = json.dumps(tool, ensure_ascii=False).encode()
    other = json.dumps(shuffled(tool), ensure_ascii=ascii_only, indent=indent).encode()
    assert digest.pin(one) == digest.pin(other)
    assert json.loads(digest.pin(one).definition) == tool


@pytest.mark.requirement("registry:digest")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"1", b"1.0"),
        (b"1.0", b"1.00"),
        (b"1e5", b"100000"),
        (b"0", b"-0"),
        (b"9007199254740993", b"9007199254740992"),  # equal as floats
        (b"123456789012345678901234567890", b"123456789012345678901234567891"),
        (b'"1"', b"1"),
        (b'"\xc3\xa9"', b'"e\xcc\x81"'),  # equal in NFC
        (b"true", b"1"),
        (b"null", b"{}"),
        (b"[1,2]", b"[2,1]"),
        (b'"a"', b'"a "'),
        (b'{"a":[]}', b'{"a":{}}'),
    ],
)
def test_every_other_difference_changes_it(one: bytes, other: bytes) -> None:
    first, second = (digest.pin(b'{"name":"t","x":%b}' % value) for value in (one, other))
    assert first.sha256 != second.sha256
    assert one in first.definition and other in second.definition


@pytest.mark.requirement("registry:digest")
def test_the_digest_of_a_definition_is_the_same_in_every_release() -> None:
    tool = digest.pin(b'{ "name": "t", "b": [1.50, "\\u00e9\\n", {"z": null, "a": -0}], "a": 12345678901234567890 }')
    assert tool.definition == '{"a":12345678901234567890,"b":[1.50,"é\\n",{"a":-0,"z":null}],"name":"t"}'.encode()
    assert tool.sha256 == "971570d7a2808033ff75cd09217d4d53029f3f867bab2fd46e1a0058536da44d"


@pytest.mark.requirement("registry:unpinnable")
@pytest.mark.parametrize(
    "unusable",
    [
        b'{"name":"t","a":1,"a":2}',
        b'{"name":"t","a":1,"\\u0061":2}',
        b'{"name":"t","x":{"a":1,"a":1}}',
        b'{"name":"t","x":NaN}',
        b'{"name":"t","x":-Infinity}',
        b'{"name":"t","x":"\\ud800"}',
        b'{"name":"t","\\udfff":1}',
        b'\xef\xbb\xbf{"name":"t"}',
        '{"name":"t"}'.encode("utf-16"),
        b'{"name":"\xff"}',
        b'{"name":"t","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"name":"t","x":' + b'{"x":' * 200 + b"1" + b"}" * 200 + b"}",
        b'{"name":1}',
        b'{"name":""}',
        b'{"title":"t"}',
        b'["name"]',
        b'"name"',
        b'{"name":"t"} x',
        b"",
    ],
)
def test_a_definition_that_parsers_read_differently_cannot_be_pinned(unusable: bytes) -> None:
    with pytest.raises(UpstreamFailed, match="cannot be pinned"):
        digest.pin(unusable)


def test_two_tools_of_one_name_cannot_be_pinned() -> None:
    with pytest.raises(UpstreamFailed, match="another tool"):
        digest.pins([raw("read"), raw("read", description="other")])


@pytest.mark.requirement("registry:digest")
def test_a_manifest_covers_everything_but_the_order_of_tools() -> None:
    base: dict[str, Any] = {
        "server": "notes",
        "version": "1.0.0",
        "endpoint": "https://a.example",
        "transport": Transport.HTTP,
        "era": Era.MODERN,
        "tools": pins("a", "b"),
    }
    others = [
        {"server": "votes"},
        {"version": "1.0.1"},
        {"endpoint": "https://b.example"},
        {"transport": Transport.STDIO},
        {"era": Era.DUAL},
        {"tools": pins("a")},
        {"tools": digest.pins([raw("a"), raw("b", description="other")])},
        {"tools": {}},
    ]
    digests = [digest.manifest(**base), *(digest.manifest(**{**base, **other}) for other in others)]
    assert len(set(digests)) == len(digests)
    assert digest.manifest(**{**base, "tools": pins("b", "a")}) == digests[0]
