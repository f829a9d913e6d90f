"""What a modern server wants to know before it answers (`input_required`), as a handshake-era client can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from mcpgw.domain import ClientFacts, Verb
from mcpgw.upstream.mcp_parts import RESERVED, Asked, encode

MAX_QUESTIONS = 32  # at once
# A revision asks for what it has: forms came with the one, URLs and choices of several with the other.
FORMS_SINCE, URLS_SINCE = "2025-06-18", "2025-11-25"
ELICITATION, SAMPLING, ROOTS = "elicitation/create", "sampling/createMessage", "roots/list"
_INTERACTIVE = frozenset({Verb.TOOLS_CALL, Verb.PROMPTS_GET, Verb.RESOURCES_READ})
_TASKS = RESERVED + "tasks"
_SINCE_URLS = frozenset({"tools", "toolChoice"})  # of sampling
_PLAIN_CONTENT = frozenset({"text", "image", "audio"})
_FORM_FIELDS = frozenset({"string", "number", "integer", "boolean"})


class Unaskable(Exception):
    """The client cannot be asked that, or did not answer; the text says what, to a model or a person."""


class Question(msgspec.Struct, frozen=True, gc=False):
    """A request of the server, out of `inputRequests`."""

    method: str
    params: dict[str, Raw] = {}

    @property
    def url(self) -> str | None:
        """Where the server wants the user to go; None for any other question."""
        if self.method != ELICITATION or _text(self.params, "mode") != "url":
            return None
        return _text(self.params, "url")


@dataclass(frozen=True, slots=True)
class InputRequired:
    """Questions by key, and the state that goes back with the answers: raw JSON, empty when there is none."""

    questions: Mapping[str, Question]
    state: bytes


class _Result(msgspec.Struct, gc=False):
    resultType: str = "complete"
    inputRequests: dict[str, Question] | None = None
    requestState: Raw = Raw()


_result = msgspec.json.Decoder(_Result).decode
_object = msgspec.json.Decoder(dict[str, Any]).decode


def input_required(asked: Asked, result: bytes) -> InputRequired | None:
    """Return what a result asks for; None when it is complete. Raises UpstreamFailed for what is neither."""
    try:
        found = _result(result)
    except msgspec.DecodeError:
        raise asked.failed("malformed", "answered with a malformed result") from None
    if found.resultType == "complete":
        return None
    if found.resultType != "input_required" or asked.verb not in _INTERACTIVE:
        raise asked.failed("not_complete", "answered with a kind of result that does not belong to this request")
    questions, state = found.inputRequests or {}, bytes(found.requestState)
    if state not in (b"", b"null") and not state.startswith(b'"'):
        raise asked.failed("malformed", "asked for input with a state that is not a string")
    state = b"" if state == b"null" else state
    if not questions and not state:
        raise asked.failed("malformed", "asked for input without saying for which")
    if len(questions) > MAX_QUESTIONS:
        raise asked.failed("too_many_questions", f"asked for more than {MAX_QUESTIONS} inputs at once")
    return InputRequired(questions, state)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a client can be asked: of what it declared at `initialize`, what its revision has.

    `declared` is a ClientCapabilities object of 2026-07-28, `raw` the same as JSON.
    """

    version: str
    declared: Mapping[str, Any]
    raw: bytes

    def request(self, question: Question, elicitation_id: str) -> bytes:
        """Return the `params` of this question as the client reads them. Raises Unaskable."""
        params = {name: msgspec.json.decode(raw) for name, raw in question.params.items() if name != "_meta"}
        if question.method == ELICITATION:
            params = self._elicitation(params, elicitation_id)
        elif question.method == SAMPLING:
            params = self._sampling(params)
        elif question.method != ROOTS:
            raise Unaskable("the server asks for something that its clients cannot be asked")
        elif "roots" not in self.declared:
            raise Unaskable("the server asks for the client's roots, which the client did not declare")
        meta = _meta(question.params.get("_meta"))
        return encode({**params, "_meta": meta} if meta else params)

    def _elicitation(self, params: dict[str, Any], elicitation_id: str) -> dict[str, Any]:
        declared = self.declared.get("elicitation")
        if declared is None:
            raise Unaskable("the server wants to ask the user, which the client did not declare that it can")
        mode = params.get("mode", "form")
        if mode == "url":
            if "url" not in declared:
                raise Unaskable("the server wants to send the user to a URL, which the client cannot do")
            return {**params, "elicitationId": elicitation_id}
        if mode != "form" or (declared and "form" not in declared):
            raise Unaskable("the server wants to ask the user in a way that the client does not have")
        if self.version >= URLS_SINCE:
            return params
        plain = {**params, "requestedSchema": _plain_form(params.get("requestedSchema"))}
        plain.pop("mode", None)
        return plain

    def _sampling(self, params: dict[str, Any]) -> dict[str, Any]:
        declared = self.declared.get("sampling")
        if declared is None:
            raise Unaskable("the server wants to ask the client's model, which the client did not declare that it can")
        if not _SINCE_URLS.isdisjoint(params) and "tools" not in declared:
            raise Unaskable("the server wants the client's model to use tools, which the client did not declare")
        if self.version >= URLS_SINCE:
            return params
        return {**params, "messages": _plain_messages(params.get("messages"))}


def abilities(client: ClientFacts) -> Abilities:
    return _abilities(client.protocol_version, client.capabilities)


@lru_cache(maxsize=1024)
def _abilities(version: str, capabilities: bytes) -> Abilities:
    declared: dict[str, Any] = {}
    try:
        stated = _object(capabilities)
    except msgspec.DecodeError:
        stated = {}
    full = version >= URLS_SINCE
    if version >= FORMS_SINCE:  # before, servers of today would ask in ways that clients do not know
        members = (("elicitation", ("form", "url")), ("sampling", ("context", "tools")), ("roots", ()))
        for name, options in members:
            if isinstance(held := stated.get(name), dict):
                declared[name] = {o: held[o] for o in options if full and isinstance(held.get(o), dict)}
    for name in ("experimental", "extensions"):
        if isinstance(held := stated.get(name), dict):
            declared[name] = {key: value for key, value in held.items() if key != _TASKS}
    return Abilities(version, declared, encode(declared))


def _plain_form(schema: Any) -> Any:
    """Return the schema of a form in the words of 2025-06-18: one choice of several, titled by `enumNames`."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        raise Unaskable("the server shows the user a form that the client cannot read")
    return {**schema, "properties": {name: _plain_field(field) for name, field in properties.items()}}


def _plain_field(field: Any) -> Any:
    if not isinstance(field, dict) or field.get("type") not in _FORM_FIELDS or "anyOf" in field:
        raise Unaskable("the server shows the user a form with a choice that the client's revision does not have")
    choices = field.get("oneOf")
    if choices is None:
        return field
    try:
        named = {choice["const"]: choice.get("title", choice["const"]) for choice in choices}
    except (TypeError, KeyError, AttributeError):
        raise Unaskable("the server shows the user a form that the client cannot read") from None
    rest = {name: value for name, value in field.items() if name != "oneOf"}
    return {**rest, "enum": list(named), "enumNames": list(named.values())}


def _plain_messages(messages: Any) -> Any:
    """Return messages of one content each, as 2025-06-18 has them."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return messages
    plain: list[dict[str, Any]] = []
    for message in messages:
        content = message.get("content")
        each = content if isinstance(content, list) else [content]
        if not all(isinstance(one, dict) and one.get("type") in _PLAIN_CONTENT for one in each):
            raise Unaskable("the server shows the client's model something that the client's revision does not have")
        plain += [{**message, "content": one} for one in each]
    return plain


def _meta(raw: Raw | None) -> dict[str, Any]:
    """Return what of a question's `_meta` means something to the client: not the envelope, and no token of ours."""
    found = msgspec.json.decode(raw) if raw is not None else None
    if not isinstance(found, dict):
        return {}
    return {key: v for key, v in found.items() if not key.startswith(RESERVED) and key != "progressToken"}


def _text(params: Mapping[str, Raw], name: str) -> str | None:
    found = msgspec.json.decode(params[name]) if name in params else None
    return found if isinstance(found, str) else None
