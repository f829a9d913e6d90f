"""What a server of the handshake era may ask a modern client, and how it reads there: `inputRequests`, not requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from mcpgw.domain import Action, ClientFacts, Part, Verb
from mcpgw.errors import InvalidParams
from mcpgw.upstream.mcp_parts import RESERVED, Message, encode, members

# Only of these can the answer be put off (2026-07-28, basic: "Multi Round-Trip Requests").
SUSPENDABLE = frozenset({Verb.TOOLS_CALL, Verb.PROMPTS_GET, Verb.RESOURCES_READ})
STATE, RESPONSES = "requestState", "inputResponses"
URL_REQUIRED, _MISSING_CAPABILITY, _INTERNAL = -32042, -32021, -32603
_KEY = "io.mcpgw/"
MAX_QUESTIONS = 16  # asked at once

Questions = dict[str, Any]
"""`inputRequests`: by key, what is asked."""


class _Capabilities(msgspec.Struct, gc=False):
    elicitation: dict[str, Raw] | None = None
    sampling: dict[str, Raw] | None = None
    roots: dict[str, Raw] | None = None


class _Mode(msgspec.Struct, gc=False):
    mode: str = "form"
    url: str = ""


class _Elicitation(msgspec.Struct, gc=False):
    elicitationId: str
    url: str
    message: str
    mode: str = "url"


class _Elicitations(msgspec.Struct, gc=False):
    elicitations: list[_Elicitation]


class _UrlError(msgspec.Struct, gc=False):
    data: _Elicitations


_capabilities = msgspec.json.Decoder(_Capabilities).decode
_mode = msgspec.json.Decoder(_Mode).decode
_url_error = msgspec.json.Decoder(_UrlError).decode


@dataclass(frozen=True, slots=True)
class Able:
    """What a client can be asked. `sampling` names what more than plain sampling it can do; None: not even that."""

    form: bool = False
    url: bool = False
    sampling: frozenset[str] | None = None
    roots: bool = False

    def answers(self, method: str, params: bytes) -> bool:
        """Whether the client declared what this request of a server needs."""
        if method == "roots/list":
            return self.roots
        if method == "sampling/createMessage":
            tools = b'"tools"' in params and "tools" in members(params)
            return self.sampling is not None and (not tools or "tools" in self.sampling)
        if method != "elicitation/create":
            return False
        asked = _mode(params)
        return self.url and _is_for_people(asked.url) if asked.mode == "url" else self.form


@lru_cache(maxsize=1024)
def able(capabilities: bytes) -> Able:
    """Return what a client that declares these capabilities, raw, can be asked; nothing when they make no sense."""
    try:
        found = _capabilities(capabilities)
    except msgspec.DecodeError:
        return Able()
    elicitation = found.elicitation
    return Able(
        form=elicitation is not None and ("form" in elicitation or "url" not in elicitation),  # {} means forms
        url=elicitation is not None and "url" in elicitation,
        sampling=None if found.sampling is None else frozenset(found.sampling) & {"context", "tools"},
        roots=found.roots is not None,
    )


@lru_cache(maxsize=1024)
def _declared(can: Able) -> bytes:
    declared: dict[str, Any] = {}
    if can.form or can.url:
        declared["elicitation"] = {mode: {} for mode, has in (("form", can.form), ("url", can.url)) if has and can.url}
    if can.roots:
        declared["roots"] = {}
    if can.sampling is not None:
        declared["sampling"] = {name: {} for name in sorted(can.sampling)}
    return encode(declared)


def declared(client: ClientFacts) -> bytes:
    """Return the capabilities, raw, that are declared to a server for this client: what can be carried across."""
    return _declared(able(client.capabilities))


def key_of(number: int) -> str:
    """Return the key of the question with this number, of one call."""
    return f"{_KEY}{number}"


def asked_as(message: Message, can: Able) -> Raw | None:
    """Return what a server's request asks, as one of `inputRequests`; None when it may not ask that."""
    method, params = message.method or "", message.params or b"{}"
    try:
        if not can.answers(method, params):
            return None
        found: dict[str, Any] = members(params)
        found.pop("task", None)
        found.pop("elicitationId", None)
        meta = {k: v for k, v in members(found.pop("_meta", b"{}")).items() if not _is_the_protocols(k)}
    except msgspec.DecodeError:
        return None
    if meta:
        found["_meta"] = meta
    return Raw(encode({"method": method, "params": found}))


def _is_for_people(url: str) -> bool:
    """Whether a URL leads to a web page: a client may open any other where it does harm."""
    return url.lower().startswith(("https://", "http://"))


def _is_the_protocols(key: str) -> bool:
    return key == "progressToken" or key.startswith(RESERVED)


def input_required(questions: Mapping[str, Raw | Mapping[str, Any]], state: str | None) -> bytes:
    """Return the result that asks the client; `state` None: it may come back with the answers alone."""
    result: dict[str, Any] = {"resultType": "input_required", "inputRequests": questions}
    if state is not None:
        result[STATE] = state
    return encode(result)


def urls_required(part: Part, can: Able) -> Part:
    """Return the answer in place of an error that wants URLs visited first.

    Nothing is held for it: the call has ended, and its retry is another one.
    """
    elicitations = _elicitations(part.body)
    if elicitations is None:
        error: dict[str, Any] = {**members(part.body), "code": _INTERNAL}
        return dataclasses.replace(part, body=encode(error), error_code=_INTERNAL)
    if not can.url:
        error = {
            "code": _MISSING_CAPABILITY,
            "message": "this call needs the client capability elicitation.url",
            "data": {"requiredCapabilities": {"elicitation": {"url": {}}}},
        }
        return dataclasses.replace(part, body=encode(error), error_code=_MISSING_CAPABILITY)
    questions = {
        e.elicitationId: {
            "method": "elicitation/create",
            "params": {"mode": "url", "message": e.message, "url": e.url},
        }
        for e in elicitations
    }
    return dataclasses.replace(part, body=input_required(questions, None), error_code=None, status=200)


def _elicitations(error: bytes) -> list[_Elicitation] | None:
    """Return what an error wants visited; None when it does not say, or wants what nobody should visit."""
    try:
        found = _url_error(error).data.elicitations
    except msgspec.DecodeError:
        return None
    if not 0 < len(found) <= MAX_QUESTIONS:
        return None
    return found if all(e.mode == "url" and _is_for_people(e.url) for e in found) else None


def responses(action: Action) -> Mapping[str, Raw]:
    """Return the answers that a retry brings, raw, by key. Raises InvalidParams."""
    raw = action.forwarded.get(RESPONSES)
    try:
        found: dict[str, Raw] = {} if raw is None else members(raw)
    except msgspec.DecodeError:
        found = {"": Raw(b"null")}
    if not all(bytes(answer).startswith(b"{") for answer in found.values()):
        raise InvalidParams(f"`params.{RESPONSES}` must be an object of objects")
    return found


def without_responses(action: Action) -> Action:
    """Return an action without answers to what was asked without holding the call: no server has a word for them."""
    if RESPONSES not in action.forwarded:
        return action
    rest = {name: raw for name, raw in action.forwarded.items() if name != RESPONSES}
    return dataclasses.replace(action, forwarded=rest)


def answers_ours(action: Action) -> bool:
    """Whether a request brings an answer to what a held call has asked."""
    raw = action.forwarded.get(RESPONSES)
    return raw is not None and any(key.startswith(_KEY) for key in responses(action))
