"""One record is one line, whatever is in it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.audit import record
from mcpgw.audit.record import FIRST, MAX_LINE, OWED_LINE, Draft, Line, Particulars, decode, encode, leaf_of
from mcpgw.domain import Phase

ORDER = [
    *("time", "phase", "log", "index", "previous", "action_id", "epoch", "parent", "route", "verb", "server"),
    *("version", "name", "principal", "client_id", "team", "credential", "effect", "reasons", "policy_sha256"),
    *("outcome", "arguments_digest", "fields", "redacted", "duration_ms", "session", "trace", "source_ip", "facts"),
]


def a_line(**fields: Any) -> Line:
    return Line(
        **{"time": 1.5, "phase": Phase.INTENT, "log": "w0", "index": 7, "previous": FIRST, "action_id": "a", "epoch": 3}
        | fields
    )


@pytest.mark.requirement("audit:canonical")
def test_fields_stand_in_an_order_that_never_changes_and_what_is_absent_is_left_out() -> None:
    assert list(Line.__struct_fields__) == ORDER
    assert encode(a_line(verb="ping", reasons=("r",))) == (
        b'{"time":1.5,"phase":"intent","log":"w0","index":7,"previous":"' + b"0" * 64 + b'","action_id":"a",'
        b'"epoch":3,"verb":"ping","reasons":["r"]}'
    )


@pytest.mark.requirement("audit:canonical")
def test_a_leaf_is_the_hash_of_the_stored_bytes() -> None:
    text = encode(a_line())
    assert leaf_of(text) == hashlib.sha256(b"\x00" + text).digest()


HOSTILE = {
    "nul": "a\x00b",
    "line breaks": "a\r\nb\x0b\x0c\x85\u2028\u2029",
    "ansi": "\x1b[2J\x9b31m",
    "del": "\x7f",
    "reversed text": "\u202etxt.exe\u2066",
    "lone surrogate": "a\ud800b",
    "surrogate pair": "\ud83d\ude00",
    "one megabyte": "x" * 1_000_000,
    "one megabyte of escapes": "\x01" * 1_000_000,
    "quote": '","phase":"admin',
}
SHOWN_IN_TERMINALS = {*range(0x20), 0x7F, *range(0x80, 0xA0), 0x2028, 0x2029, 0x202E, 0x2066}


@pytest.mark.requirement("audit:hostile")
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("limit", [MAX_LINE, OWED_LINE])
def test_hostile_text_in_every_field_gives_one_line_that_parses(value: str, limit: int) -> None:
    everywhere = dict.fromkeys(ORDER[7:18] + ORDER[19:22] + ORDER[25:28], value)
    line = a_line(
        **everywhere, reasons=(value,) * 3, redacted=(value,), fields={value: value}, facts={"deep": [{value: [value]}]}
    )
    text = encode(line, limit)
    assert len(text) <= limit
    assert not SHOWN_IN_TERMINALS & set(map(ord, text.decode()))
    assert len(text.decode().splitlines()) == 1
    held = json.loads(text)
    assert (held["phase"], held["index"], held["previous"]) == ("intent", 7, FIRST)


@pytest.mark.requirement("audit:hostile")
def test_a_long_name_is_cut_with_a_mark_and_who_called_is_not() -> None:
    held = decode(encode(a_line(name="n" * 1_000_000, principal="p" * 512, facts={"f": ["x" * 400] * 500})))
    assert held.name == "n" * 512 + "…"
    assert held.principal == "p" * 512


@pytest.mark.requirement("audit:hostile")
def test_a_line_within_its_room_is_not_cut() -> None:
    assert decode(encode(a_line(name="n" * 1500))).name == "n" * 1500


@pytest.mark.requirement("audit:hostile")
def test_values_that_json_cannot_hold_are_named_by_their_type() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    facts = {"big": 10**5000, "nan": float("nan"), "object": object(), "deep": nested, "bytes": b"\xff", 3: {1, 2}}
    held = json.loads(encode(a_line(facts=facts)))["facts"]
    assert held["object"] == "object"
    assert held["nan"] is None
    assert held["big"].startswith("0x")
    assert sorted(held["3"]) == [1, 2]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=50),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(st.characters(), max_size=9), inner, max_size=5)
    ),
    max_leaves=20,
)


@pytest.mark.requirement("audit:hostile")
@given(name=st.text(st.characters()), facts=st.dictionaries(st.text(st.characters(), max_size=9), plain, max_size=5))
def test_whatever_is_recorded_is_one_line_within_its_limit(name: str, facts: dict[str, Any]) -> None:
    text = encode(a_line(name=name, facts=facts), OWED_LINE)
    assert len(text) <= OWED_LINE
    assert b"\n" not in text and b"\x00" not in text
    assert msgspec.json.decode(text)["action_id"] == "a"


# Records of which a part is kept from call to call


@pytest.mark.requirement("audit:canonical")
@pytest.mark.parametrize("standing", [
    {"route": "mcp", "verb": "tools/call", "server": "notes", "name": "read", "reasons": ("x", "y")},
    {"route": "mcp", "name": 'a "quoted" name, "epoch":0', "principal": "\u202e|\x7f", "policy_sha256": "0" * 64},
    {"route": "llm", "name": "n" * 3000, "principal": "p" * 3000},
])  # fmt: skip
def test_a_record_put_together_from_kept_parts_is_the_very_bytes_of_the_whole_one(standing: dict[str, Any]) -> None:
    given: dict[str, Any] = {
        "arguments_digest": "d" * 64, "session": "s", "trace": 'a "trace" \u2028\x7f', "source_ip": "::1",
    }  # fmt: skip
    place: dict[str, Any] = {"time": 1_800_000_000.25, "log": "w0", "index": 7, "previous": "p" * 64}
    line = Line(phase=Phase.INTENT, action_id="an-id", epoch=3, **place, **standing, **given, facts={"a": 1.5})
    kept = record.standing(Line(time=0.0, phase=Phase.INTENT, action_id="", epoch=0, **standing))

    def whole() -> Line:
        less = {name: value for name, value in given.items() if name != "arguments_digest"}
        return Line(time=0.0, phase=Phase.INTENT, action_id="an-id", epoch=3, **standing, **less, facts={"a": 1.5})

    draft = Draft(Phase.INTENT, "an-id", 3, kept, Particulars(**given, facts=msgspec.Raw(b'{"a":1.5}')), whole)
    draft.time, draft.log, draft.index, draft.previous = place.values()
    assert encode(draft) == encode(line)
