"""The tool calls that a model proposes, decided before they leave.

An answer without proposals passes as the bytes it came in, and so does one whose proposals are all allowed. A denied
proposal is taken out, and text in its place says so.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from mcpgw.domain import Decision, Effect, Part, PartKind
from mcpgw.errors import UpstreamFailed
from mcpgw.upstream.sse import read_event

Decide = Callable[[str, bytes], Awaitable[Decision]]
"""Decide on a tool's name and the JSON object of its arguments."""

MAX_HELD_BYTES = 10 * 1024 * 1024
# The keys that make a proposal. Some clients read keys without regard to case, so there is one spelling of each.
KEYS = frozenset(
    {"choices", "index", "message", "delta", "tool_calls", "function_call", "function", "type", "name", "arguments"}
)
SHOWN_NAME = 64


@dataclass(slots=True)
class Proposal:
    """One proposed call, put together from its fragments. `refusal` is the text in its place, once denied."""

    kind: str = "function"
    name: str = ""
    arguments: str = ""
    refusal: str | None = None

    def add(self, fragment: Mapping[str, Any]) -> None:
        function = fragment.get("function")
        if self.kind == "function":
            self.kind = _text(fragment.get("type")) or self.kind
        if isinstance(function, dict):
            # Clients put fragments together by appending, names too.
            self.name += _text(function.get("name"))
            self.arguments += _text(function.get("arguments"))
        elif function is not None:
            raise _malformed()

    async def decide(self, decide: Decide) -> None:
        if self.kind != "function":
            self.refusal = _refusal(self.name, "gateway:tool-type", "only function tools may be called")
            return
        # Some providers send nothing where the function has no parameters.
        arguments = self.arguments or "{}"
        if not _is_object(arguments):
            self.refusal = _refusal(self.name, "gateway:arguments", "its arguments are not a JSON object")
            return
        decision = await decide(self.name, arguments.encode())
        if decision.effect is not Effect.ALLOW:
            message = decision.message or "the policy does not allow this call"
            self.refusal = _refusal(self.name, decision.reasons[0], message)


async def reviewed(parts: AsyncIterator[Part], decide: Decide) -> AsyncIterator[Part]:
    """Yield the parts of a completion, each proposal in them decided.

    Of a stream, text passes at once; what proposes is held until the calls are complete and decided. Raises
    UpstreamFailed for an answer that could be read in more than one way, and when more than MAX_HELD_BYTES are held.
    """
    stream = _Stream(decide)
    async for part in parts:
        if part.kind is PartKind.WHOLE:
            yield await _whole(part, decide)
        elif part.kind is PartKind.EVENT:
            if not stream.held and not _may_propose(part.body):
                yield part
                continue
            for passed in await stream.take(part):
                yield passed
        else:
            if not part.failed:
                for passed in await stream.release():
                    yield passed
            yield replace(part, facts={**part.facts, **stream.facts}) if stream.facts else part


async def _whole(part: Part, decide: Decide) -> Part:
    if part.failed or not _may_propose(part.body):
        return part
    answer = _parsed(part.body)
    proposals: list[Proposal] = []
    for choice in _choices(answer):
        message = _member(choice, "message")
        made = []
        for fragment in _calls(message):
            proposal = Proposal()
            proposal.add(fragment)
            await proposal.decide(decide)
            made.append((fragment, proposal))
        proposals += [proposal for _, proposal in made]
        refusals = [p.refusal for _, p in made if p.refusal is not None]
        if not refusals:
            continue
        said = _text(message.get("content"))
        message["content"] = "\n\n".join([said, *refusals] if said else refusals)
        message["tool_calls"] = [fragment for fragment, p in made if p.refusal is None]
        if not message["tool_calls"]:
            del message["tool_calls"]
            choice["finish_reason"] = "stop"
    facts = _facts(proposals)
    if facts.get("refused"):
        return replace(part, body=_dumped(answer), facts={**part.facts, **facts})
    return replace(part, facts={**part.facts, **facts}) if facts else part


@dataclass(slots=True)
class _Stream:
    """What is held back of one stream. Proposals are kept by (choice, index)."""

    decide: Decide
    held: list[tuple[Part, dict[str, Any]]] = field(default_factory=list)
    facts: dict[str, int] = field(default_factory=dict)
    _proposals: dict[tuple[int, int], Proposal] = field(default_factory=dict)
    _finished: set[int] = field(default_factory=set)
    _all: bool = False
    _size: int = 0

    async def take(self, part: Part) -> list[Part]:
        """Return what may leave now that this event has come."""
        data = read_event(part.body).data
        event = _parsed(data) if b'"' in data else {}
        proposes = ends = False
        for choice in _choices(event):
            index, delta = _index(choice), _member(choice, "delta")
            for fragment in _calls(delta):
                if index in self._finished:
                    raise _malformed()  # what was decided would not be what the client puts together
                proposes = True
                self._proposals.setdefault((index, _index(fragment)), Proposal()).add(fragment)
            if choice.get("finish_reason") is not None:
                self._finished.add(index)
                ends = True
            # Text in an event that is held must not be overtaken by later text.
            self._all = self._all or (proposes and bool(delta.get("content")))
        if not (self.held and (ends or self._all)) and not proposes:
            return [part]
        self.held.append((part, event))
        self._size += len(part.body)
        if self._size > MAX_HELD_BYTES:
            raise UpstreamFailed(f"the model proposed tool calls of more than {MAX_HELD_BYTES} bytes")
        if self._finished >= {index for index, _ in self._proposals}:
            return await self.release()
        return []

    async def release(self) -> list[Part]:
        """Decide what is held, and return what is left of it."""
        held, proposals = self.held, self._proposals
        if not held:
            return []
        self.held, self._proposals, self._size, self._all = [], {}, 0, False
        for place in sorted(proposals):
            await proposals[place].decide(self.decide)
        for name, count in _facts(proposals.values()).items():
            self.facts[name] = self.facts.get(name, 0) + count
        if all(p.refusal is None for p in proposals.values()):
            return [part for part, _ in held]
        return list(_rewritten(held, proposals))


def _rewritten(
    held: list[tuple[Part, dict[str, Any]]], proposals: Mapping[tuple[int, int], Proposal]
) -> Iterator[Part]:
    """Yield the events without the denied proposals; their refusals stand before the choice's end, or at the end."""
    allowed: dict[int, list[int]] = {}
    refusals: dict[int, list[str]] = {}
    for (place, number), proposal in sorted(proposals.items()):
        if proposal.refusal is None:
            allowed.setdefault(place, []).append(number)
        else:
            refusals.setdefault(place, []).append(proposal.refusal)
    for part, event in held:
        for choice in _choices(event):
            index = _index(choice)
            if choice.get("finish_reason") is None:
                continue
            if index in refusals:
                yield _refusing(event, index, refusals.pop(index))
            if choice["finish_reason"] == "tool_calls" and index not in allowed:
                choice["finish_reason"] = "stop"
        if not _choices(event):
            yield part
        elif _without_denied(event, allowed):
            yield _event(event)
    for index, texts in refusals.items():
        yield _refusing(held[-1][1], index, texts)


def _without_denied(event: dict[str, Any], allowed: Mapping[int, list[int]]) -> bool:
    """Take denied fragments out of an event, number the others anew; say whether anything is left of it."""
    left = False
    for choice in _choices(event):
        delta = _member(choice, "delta")
        kept = []
        for fragment in _calls(delta):
            numbers = allowed.get(_index(choice), [])
            if _index(fragment) in numbers:
                kept.append({**fragment, "index": numbers.index(_index(fragment))})
        if kept:
            delta["tool_calls"] = kept
        else:
            delta.pop("tool_calls", None)
        left = left or bool(delta) or choice.get("finish_reason") is not None
    return left


def _refusing(like: Mapping[str, Any], choice: int, texts: list[str]) -> Part:
    delta = {"content": "\n\n".join(texts)}
    frame = {key: value for key, value in like.items() if key not in {"choices", "usage"}}
    return _event({**frame, "choices": [{"index": choice, "delta": delta, "finish_reason": None}]})


def _event(event: Mapping[str, Any]) -> Part:
    return Part(PartKind.EVENT, b"data: %b\n\n" % _dumped(event))


def _may_propose(body: bytes) -> bool:
    # Keys may be written with escapes, and some clients read them without regard to case.
    lower = body.lower()
    return b"tool_calls" in lower or b"function_call" in lower or b"\\u" in lower


def _facts(proposals: Iterable[Proposal]) -> dict[str, int]:
    refused = [p.refusal is not None for p in proposals]
    return {"proposed": len(refused), "refused": sum(refused)} if refused else {}


def _refusal(name: str, rule: str, message: str) -> str:
    shown = "".join(c if c.isprintable() else "?" for c in name[:SHOWN_NAME])
    return f"[The gateway refused the call of tool `{shown}`: {message} (rule {rule}). Do not try it again unchanged.]"


def _choices(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices = answer.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise _malformed()
    return choices


def _member(choice: Mapping[str, Any], name: str) -> dict[str, Any]:
    member = choice.get(name)
    if member is None:
        return {}
    if not isinstance(member, dict):
        raise _malformed()
    return member


def _calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    if message.get("function_call") is not None:
        raise UpstreamFailed("the model proposed a function call in the form that was retired, which nobody offered")
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise _malformed()
    return calls


def _index(member: Mapping[str, Any]) -> int:
    index = member.get("index", 0)
    if not isinstance(index, int):
        raise _malformed()
    return index


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _malformed()
    return value


def _is_object(text: str) -> bool:
    try:
        _read(text.encode(), _unique)
    except UpstreamFailed:
        return False
    return True


def _parsed(text: bytes) -> dict[str, Any]:
    return _read(text, _one_spelling)


def _read(text: bytes, hook: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> dict[str, Any]:
    """Return an object that every parser reads alike: no duplicate keys, no NaN, no lone surrogates, numbers exact."""
    try:
        msgspec.json.decode(text)
        value = json.loads(text, object_pairs_hook=hook)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise _malformed() from None
    if not isinstance(value, dict):
        raise _malformed()
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _malformed()
    return found


def _one_spelling(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if any(key not in KEYS and key.lower() in KEYS for key, _ in pairs):
        raise _malformed()
    return _unique(pairs)


def _dumped(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _malformed() -> UpstreamFailed:
    return UpstreamFailed("the model's answer cannot be read in one way only")
