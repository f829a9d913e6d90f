"""Server-sent events cut out of a stream."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.errors import UpstreamFailed
from mcpgw.upstream.sse import SseEvent, SseSplitter

STREAM = (
    b"\xef\xbb\xbfdata: first\r\n\r\n"
    b": keep-alive\n\n"
    b"event: message\nid: 7\ndata: two\ndata:lines\n\n"
    b"data: carriage\rid: \0\r\r"
    b"event: error\r\ndata:  space\r\nretry: 10\r\n\r\n"
    b"\n\n"
    b"data\n\n"
    b"data: last\n\n"
)
MEANING = [
    (b"first", "message", None),
    (b"two\nlines", "message", b"7"),
    (b"carriage", "message", None),
    (b" space", "error", None),
    (b"last", "message", None),
]


def cut(stream: bytes, sizes: list[int]) -> list[SseEvent]:
    splitter, events, start = SseSplitter(1000), [], 0
    for size in sizes:
        events += splitter.feed(stream[start : start + size])
        start += size
    return events + splitter.feed(stream[start:])


@pytest.mark.requirement("sse:split")
@given(st.lists(st.integers(0, 12), max_size=200))
def test_events_are_the_same_however_the_stream_is_cut(sizes: list[int]) -> None:
    events = cut(STREAM, sizes)
    assert b"".join(event.raw for event in events) == STREAM
    assert [(e.data, e.event, e.id) for e in events if e.data] == MEANING


@pytest.mark.requirement("sse:split")
@given(st.lists(st.sampled_from([b"\r", b"\n", b"data:", b"x", b":", b"id", b" "])), st.lists(st.integers(0, 5)))
def test_no_byte_is_lost_or_added(pieces: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(pieces)
    splitter, start = SseSplitter(1000), 0
    seen = b""
    for size in [*sizes, len(stream)]:
        seen += b"".join(e.raw for e in splitter.feed(stream[start : start + size]))
        start += size
    rest = splitter.finish()
    assert stream.removeprefix(seen).strip(b"\r\n") == (rest.raw.strip(b"\r\n") if rest else b"")
    assert stream.startswith(seen)


def test_an_event_is_complete_with_its_blank_line() -> None:
    splitter = SseSplitter(1000)
    assert splitter.feed(b"data: a\n") == []
    assert [e.data for e in splitter.feed(b"\ndata: b")] == [b"a"]
    assert splitter.finish() == SseEvent(b"data: b", b"b")
    assert splitter.finish() is None


@pytest.mark.requirement("sse:cap")
@pytest.mark.parametrize("pieces", [[b"data: " + b"x" * 200 + b"\n\n"], [b"data: ", *[b"x"] * 200]])
def test_an_event_over_the_cap_is_refused(pieces: list[bytes]) -> None:
    splitter = SseSplitter(100)
    with pytest.raises(UpstreamFailed, match="more than 100 bytes"):
        for piece in pieces:
            splitter.feed(piece)


@pytest.mark.requirement("sse:cap")
def test_an_event_that_drips_in_costs_linear_time() -> None:
    splitter = SseSplitter(20_000_000)
    started = time.process_time()
    for _ in range(10_000):
        assert splitter.feed(b"x" * 1_000) == []
    assert len(splitter.feed(b"\n\n")) == 1
    assert time.process_time() - started < 2.0  # quadratic: 50 s
