"""Proposed tool calls: decided before they leave, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.domain import Decision, Effect, Part, PartKind
from mcpgw.errors import UpstreamFailed
from mcpgw.upstream.llm.proposals import MAX_HELD_BYTES, reviewed
from mcpgw.upstream.sse import read_event

LAST = Part(PartKind.LAST, b"data: [DONE]\n\n", facts={"upstream_status": 200})


class Asked:
    """A policy that denies some tools by name, and remembers what it was asked."""

    def __init__(self, *denied: str) -> None:
        self.calls: list[tuple[str, Any]] = []
        self._denied = denied

    async def decide(self, name: str, arguments: bytes) -> Decision:
        self.calls.append((name, json.loads(arguments)))
        if name in self._denied:
            return Decision(Effect.DENY, (f"no-{name}",), "p", f"`{name}` is not for you")
        return Decision(Effect.HOLD if name == "wait" else Effect.ALLOW, ("rule",), "p")


async def review(parts: Iterable[Part], asked: Asked) -> list[Part]:
    async def arriving() -> AsyncIterator[Part]:
        for part in parts:
            yield part

    return [part async for part in reviewed(arriving(), asked.decide)]


def event(*choices: dict[str, Any], **frame: Any) -> Part:
    return Part(PartKind.EVENT, b"data: " + json.dumps({"id": "c", "choices": choices, **frame}).encode() + b"\n\n")


def delta(given: dict[str, Any], finish: str | None = None, choice: int = 0) -> Part:
    return event({"index": choice, "delta": given, "finish_reason": finish})


def call(index: int, name: str | None = None, arguments: str | None = None, choice: int = 0) -> Part:
    return delta({"tool_calls": [fragment(index, name, arguments)]}, choice=choice)


def fragment(index: int, name: str | None, arguments: str | None) -> dict[str, Any]:
    function = {k: v for k, v in (("name", name), ("arguments", arguments)) if v is not None}
    head = {"id": f"call_{index}", "type": "function"} if name is not None else {}
    return {"index": index, **head, "function": function}


def whole(message: dict[str, Any], finish: str = "tool_calls", **frame: Any) -> Part:
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": finish}
    return Part(PartKind.WHOLE, json.dumps({"id": "c", "choices": [choice], **frame}).encode())


def made(name: str, arguments: str, **more: Any) -> dict[str, Any]:
    return {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def put_together(parts: Iterable[Part]) -> dict[int, dict[str, Any]]:
    """Return by choice what a client makes of a stream: text, calls, finish reason."""
    found: dict[int, dict[str, Any]] = {}
    for part in parts:
        data = read_event(part.body).data
        if part.kind is not PartKind.EVENT or not data.startswith(b"{"):
            continue
        for choice in json.loads(data)["choices"]:
            held = found.setdefault(choice["index"], {"text": "", "calls": [], "finish": None, "role": ""})
            held["text"] += choice["delta"].get("content") or ""
            held["role"] += choice["delta"].get("role") or ""
            held["finish"] = choice["finish_reason"] or held["finish"]
            for piece in choice["delta"].get("tool_calls", []):
                assert piece["index"] <= len(held["calls"]), "a gap that clients trip over"
                if piece["index"] == len(held["calls"]):
                    held["calls"].append(["", ""])
                held["calls"][piece["index"]][0] += piece["function"].get("name", "")
                held["calls"][piece["index"]][1] += piece["function"].get("arguments", "")
    return found


@pytest.mark.requirement("llm:proposals")
async def test_a_whole_answer_whose_calls_are_all_allowed_is_the_same_bytes() -> None:
    asked = Asked()
    part = whole({"tool_calls": [made("read", ' {"a": 1.50}'), made("list", "")]})
    (passed,) = await review([part], asked)
    assert passed.body is part.body
    assert asked.calls == [("read", {"a": 1.5}), ("list", {})]
    assert passed.facts == {"proposed": 2, "refused": 0}


@pytest.mark.requirement("llm:proposals")
async def test_a_denied_call_is_replaced_by_words_and_the_others_stay() -> None:
    asked = Asked("delete")
    part = whole({"content": "Well.", "tool_calls": [made("delete", "{}"), made("read", "{}")]}, usage={"x": 1})
    (passed,) = await review([part], asked)
    answer = json.loads(passed.body)
    message = answer["choices"][0]["message"]
    assert message["tool_calls"] == [made("read", "{}")]
    assert message["content"].startswith("Well.\n\n[The gateway refused the call of tool `delete`")
    assert "no-delete" in message["content"]
    assert (answer["choices"][0]["finish_reason"], answer["usage"]) == ("tool_calls", {"x": 1})
    assert passed.facts == {"proposed": 2, "refused": 1}


@pytest.mark.requirement("llm:proposals")
async def test_when_no_call_is_left_the_answer_stops() -> None:
    (passed,) = await review([whole({"tool_calls": [made("delete", "{}")]})], Asked("delete"))
    choice = json.loads(passed.body)["choices"][0]
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


@pytest.mark.requirement("llm:proposals")
@pytest.mark.parametrize(
    "proposed",
    [
        made("read", "{"),
        made("read", "[]"),
        made("read", "null"),
        made("read", '{"a":1,"a":2}'),
        made("read", '{"a":NaN}'),
        made("read", '{"a":1e999}'),
        made("read", '{"a":"\\ud800"}'),
        made("read", '{"a":' + "[" * 20_000 + "]" * 20_000 + "}"),
        made("wait", "{}"),
        made("x", "{}", type="custom"),
        made("x", "{}", type="mcp"),
    ],
    ids=[
        "cut",
        "list",
        "null",
        "duplicate-key",
        "nan",
        "infinite",
        "surrogate",
        "deep",
        "held",
        "custom",
        "mcp",
    ],
)
async def test_what_cannot_be_judged_is_denied(proposed: dict[str, Any]) -> None:
    (passed,) = await review([whole({"tool_calls": [proposed]})], Asked())
    assert passed.facts == {"proposed": 1, "refused": 1}
    assert "tool_calls" not in json.loads(passed.body)["choices"][0]["message"]
    index = {"index": 0, **proposed}
    passed_parts = await review([delta({"tool_calls": [index]}), delta({}, "tool_calls"), LAST], Asked())
    assert put_together(passed_parts)[0]["calls"] == []
    assert put_together(passed_parts)[0]["finish"] == "stop"


@pytest.mark.requirement("llm:one-reading")
@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[{"index":0,"message":{"tool_calls":[]},"message":{"content":"x"}}]}',
        b'{"choices":[{"index":0,"MESSAGE":{"tool_calls":[]}}]}',
        b'{"choices":[{"index":0,"message":{"Tool_Calls":[{"function":{"name":"x"}}]}}]}',
        b'{"choices":[{"index":0,"message":{"\\u0054ool_calls":[{"function":{"name":"x"}}]}}]}',
        b'{"choices":[{"index":0,"message":{"function_call":{"name":"x","arguments":"{}"}}}]}',
        b'{"choices":[{"index":0,"message":{"tool_calls":[{"function":{"name":"a","Name":"b"}}]}}]}',
        b'{"choices":[{"index":0,"message":{"tool_calls":{"0":{}}}}]}',
        b'{"choices":[{"index":0,"message":{"tool_calls":[7]}}]}',
        b'{"choices":{"tool_calls":1}}',
        b'{"choices":[{"message":["tool_calls"]}]}',
        b'{"choices":[{"message":{"tool_calls":[{"function":{"name":["x"]}}]}}]}',
        b'["tool_calls"]',
        b'{"tool_calls":',
        b"tool_calls",
        b'\xff"tool_calls"',
        b'{"choices":[{"message":{"tool_calls":[{"function":{"name":"x","arguments":"\\ud800"}}]}}]}',
    ],
)
async def test_an_answer_that_clients_could_read_differently_is_withheld(body: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        await review([Part(PartKind.WHOLE, body)], Asked())
    if body.startswith(b"{"):
        streamed = b"data: " + body.replace(b'"message"', b'"delta"').replace(b"MESSAGE", b"DELTA") + b"\n\n"
        with pytest.raises(UpstreamFailed):
            await review([Part(PartKind.EVENT, streamed), LAST], Asked())


async def test_words_that_cannot_be_added_to_are_not_dropped() -> None:
    with pytest.raises(UpstreamFailed):
        await review([whole({"content": [{"type": "text"}], "tool_calls": [made("delete", "{}")]})], Asked("delete"))


async def test_a_key_written_with_escapes_is_a_proposal_too() -> None:
    asked = Asked("x")
    call_of_x = b'[{"type":"function","function":{"name":"x","arguments":"{}"}}]'
    body = b'{"choices":[{"index":0,"message":{"\\u0074ool_calls":' + call_of_x + b"}}]}"
    (passed,) = await review([Part(PartKind.WHOLE, body)], asked)
    assert asked.calls == [("x", {})]
    assert "tool_calls" not in json.loads(passed.body)["choices"][0]["message"]


async def test_answers_without_proposals_are_not_touched() -> None:
    parts = [
        Part(PartKind.WHOLE, b"not even JSON"),
        Part(PartKind.WHOLE, b'{"error":{"message":"tool_calls"}}', 400, failed=True),
        whole({"content": "tool_calls \u00e9", "tool_calls": None, "function_call": None}, "stop"),
        whole({"content": "x", "tool_calls": []}, "stop"),
        Part(PartKind.OPENED),
        delta({"content": "tool_calls \u00e9"}),
        Part(PartKind.EVENT, b": tool_calls\n\n"),
        LAST,
    ]
    assert await review(parts, Asked()) == parts


@pytest.mark.requirement("llm:stream-proposals")
async def test_text_passes_at_once_and_calls_wait_until_they_are_complete() -> None:
    asked, seen = Asked(), []
    send, receive = anyio.create_memory_object_stream[Part](100)
    parts = [delta({"role": "assistant"}), call(0, "read", ""), call(0, None, '{"a"'), delta({"content": "hm"})]
    ending = [call(0, None, ":1}"), delta({}, "tool_calls"), LAST]

    async def arriving() -> AsyncIterator[Part]:
        async with receive:
            async for part in receive:
                yield part

    result = reviewed(arriving(), asked.decide)
    async with send:
        for part in parts:
            await send.send(part)
        with anyio.fail_after(1):
            seen = [await anext(result), await anext(result)]
        assert seen == [parts[0], parts[3]]
        assert asked.calls == []
        for part in ending:
            await send.send(part)
        seen += [await anext(result) for _ in range(5)]
    assert asked.calls == [("read", {"a": 1})]
    assert [p.body for p in seen[2:]] == [parts[1].body, parts[2].body, *(p.body for p in ending)]
    assert seen[-1].facts == {"upstream_status": 200, "proposed": 1, "refused": 0}


@pytest.mark.requirement("llm:stream-proposals")
async def test_text_in_a_held_event_is_not_overtaken() -> None:
    first = delta({"content": "one ", "tool_calls": [fragment(0, "read", "{}")]})
    parts = [first, delta({"content": "two"}), delta({}, "tool_calls"), LAST]
    assert [p.body for p in await review(parts, Asked())] == [p.body for p in parts]


@pytest.mark.requirement("llm:stream-proposals")
async def test_calls_are_decided_at_the_end_when_no_finish_reason_came() -> None:
    parts = [call(0, "delete", "{}"), LAST]
    passed = await review(parts, Asked("delete"))
    assert put_together(passed)[0]["calls"] == []
    assert "refused" in put_together(passed)[0]["text"]
    assert passed[-1].kind is PartKind.LAST


@pytest.mark.requirement("llm:stream-proposals")
async def test_a_stream_that_breaks_off_lets_nothing_undecided_go() -> None:
    async def broken() -> AsyncIterator[Part]:
        yield delta({"content": "x"})
        yield call(0, "read", "{}")
        raise UpstreamFailed("cut")

    seen = []
    with pytest.raises(UpstreamFailed, match="cut"):
        async for part in reviewed(broken(), Asked().decide):
            seen.append(part)
    assert len(seen) == 1
    failed = Part(PartKind.LAST, b'data: {"error":{}}\n\n', failed=True)
    assert await review([call(0, "read", "{}"), failed], Asked()) == [failed]


@pytest.mark.requirement("llm:stream-proposals")
async def test_a_call_that_goes_on_after_it_was_decided_ends_the_stream() -> None:
    parts = [call(0, "read", ""), delta({}, "tool_calls"), call(0, None, '{"path":"/"}'), LAST]
    with pytest.raises(UpstreamFailed, match="one way only"):
        await review(parts, Asked())


async def test_what_is_held_is_bounded() -> None:
    block = "x" * (MAX_HELD_BYTES // 4)
    with pytest.raises(UpstreamFailed, match="more than"):
        await review([call(0, "read", block) for _ in range(5)], Asked())


NAMES = st.sampled_from(["read", "write", "delete", "wait"])


@pytest.mark.requirement("llm:stream-proposals")
@given(st.data())
def test_a_client_puts_together_exactly_the_allowed_calls(data: st.DataObject) -> None:
    choices = data.draw(st.integers(1, 2))
    wanted = [data.draw(st.lists(NAMES, max_size=4)) for _ in range(choices)]
    pending: list[list[Part]] = []
    for choice, names in enumerate(wanted):
        queue = [delta({"role": "assistant", "content": ""}, choice=choice)]
        for index, name in enumerate(names):
            arguments = json.dumps({"n": index})
            cut = data.draw(st.integers(0, len(arguments)))
            queue += [
                call(index, name, arguments[:cut], choice),
                delta({"content": f"t{index}"}, choice=choice),
                call(index, None, arguments[cut:], choice),
            ]
        pending.append([*queue, delta({}, "tool_calls" if names else "stop", choice)])
    parts: list[Part] = []
    while any(pending):
        queue = pending[data.draw(st.sampled_from([i for i, q in enumerate(pending) if q]))]
        parts.append(queue.pop(0))
    asked = Asked("delete")
    usage = event(usage={"prompt_tokens": 1})
    passed = anyio.run(review, [Part(PartKind.OPENED), *parts, usage, LAST], asked)
    found = put_together(passed)
    refused = sum(name in {"delete", "wait"} for names in wanted for name in names)
    for choice, names in enumerate(wanted):
        kept = [[name, json.dumps({"n": i})] for i, name in enumerate(names) if name in {"read", "write"}]
        assert found[choice]["calls"] == kept
        assert found[choice]["role"] == "assistant"
        assert found[choice]["text"].count("refused") == len(names) - len(kept)
        assert found[choice]["finish"] == ("tool_calls" if kept else "stop")
        texts = [f"t{i}" for i in range(len(names))]
        assert [t for t in texts if t in found[choice]["text"]] == texts
    assert sum(map(len, wanted)) == len(asked.calls)
    assert [p.body for p in passed[-2:]] == [usage.body, LAST.body]
    if not refused:
        assert sorted(p.body for p in passed) == sorted(p.body for p in [Part(PartKind.OPENED), *parts, usage, LAST])
