"""JSON-RPC messages of MCP: written from judged bytes, read into the parts of an answer."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec
from msgspec import Raw

from mcpgw.domain import Action, ClientFacts, Judged, Part, PartKind, TaskRef, Verb
from mcpgw.errors import InvalidParams, UpstreamFailed
from mcpgw.task_ids import TASK_VERBS, TaskIds
from mcpgw.upstream.mcp_tasks import ACKNOWLEDGED, TASK_CHANGED, Unusable, created, heard, told

MODERN_VERSIONS = ("2026-07-28",)
LEGACY_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
CLIENT_INFO = b'{"name":"mcpgw","version":"1"}'  # what we call ourselves where no client stands behind a request

RESERVED = "io.modelcontextprotocol/"
SUBSCRIPTION_ID = RESERVED + "subscriptionId"
SERVER_INFO = RESERVED + "serverInfo"

ListChanged = Callable[[str, str], None]
"""Told that a list (`tools`, `prompts`, `resources`) of the server with this slug has changed."""

LIST_CHANGED: Mapping[str, str] = {
    f"notifications/{kind}/list_changed": kind for kind in ("tools", "prompts", "resources")
}
NOTIFICATIONS = frozenset({Verb.INITIALIZED, Verb.CANCELLED, Verb.PROGRESS, Verb.ROOTS_CHANGED})
# The requests that a server of the legacy era may make of its client; `ping` is answered by us.
SERVER_REQUESTS = frozenset({"elicitation/create", "sampling/createMessage", "roots/list"})

_NAMED: Mapping[Verb, bytes] = {
    Verb.TOOLS_CALL: b'"name":',
    Verb.PROMPTS_GET: b'"name":',
    Verb.RESOURCES_READ: b'"uri":',
    Verb.RESOURCES_SUBSCRIBE: b'"uri":',
    Verb.RESOURCES_UNSUBSCRIBE: b'"uri":',
}
# What is written from judged values alone: a forwarded member of this name would be a second one.
_OURS = frozenset({"name", "uri", "arguments", "_meta"})
_WITH_ARGUMENTS = frozenset({Verb.TOOLS_CALL, Verb.PROMPTS_GET})

encode = msgspec.json.encode
members = msgspec.json.Decoder(dict[str, Raw]).decode
_ids = itertools.count(1)


class _Envelope(msgspec.Struct, gc=False):
    jsonrpc: Literal["2.0"]
    id: Raw = Raw()
    method: str | None = None
    params: Raw = Raw()
    result: Raw = Raw()
    error: Raw = Raw()


@dataclass(frozen=True, slots=True)
class Message:
    """One JSON-RPC message: its text, and its members, raw; empty (None) where they are absent."""

    data: bytes
    id: bytes = b""
    method: str | None = None
    params: bytes = b""
    result: bytes = b""
    error: bytes = b""

    @property
    def has_id(self) -> bool:
        return self.id not in (b"", b"null")


class _Error(msgspec.Struct, gc=False):
    code: int
    message: str


class _Outcome(msgspec.Struct, gc=False):
    isError: bool = False
    resultType: str = ""


class _Params(msgspec.Struct, gc=False):
    meta: dict[str, Raw] = msgspec.field(name="_meta", default_factory=dict)


_envelope = msgspec.json.Decoder(_Envelope).decode
_error = msgspec.json.Decoder(_Error).decode
_outcome = msgspec.json.Decoder(_Outcome).decode
_NO_OUTCOME = _Outcome()


def next_id() -> int:
    """Return a JSON-RPC id that this process has not used: an answer can belong to one request only."""
    return next(_ids)


def read_message(data: bytes) -> Message | None:
    """Return the JSON-RPC message that these bytes are, or None when they are not one."""
    try:
        data.decode()  # msgspec does not look inside what it leaves raw
        found = _envelope(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    result, error = bytes(found.result), bytes(found.error)
    return Message(data, bytes(found.id), found.method, bytes(found.params), result, error)


@dataclass(slots=True)
class Asked:
    """A request of ours that waits for its answer. `client_id` is the client's own id, raw, where it must stand.

    `judged` and `task_ids`, where a modern client asks: it may be told of tasks.
    """

    verb: Verb
    server: str
    era: str
    id: int = field(default_factory=next_id)
    client_id: bytes | None = None
    judged: Judged | None = None
    task_ids: TaskIds | None = None

    @property
    def tasks(self) -> tuple[TaskRef, ...]:
        return self.judged.action.tasks if self.judged is not None else ()

    def failed(self, cause: str, what: str) -> UpstreamFailed:
        """Return the error for an answer that cannot be used. `cause` is one of a few words a program can test."""
        return UpstreamFailed(
            f"`{self.server}` {what}", fix="the call may have taken effect: see the server's log", data={"cause": cause}
        )

    def read(self, data: bytes) -> Message:
        """Return the message in `data`. Raises UpstreamFailed when there is none."""
        if not data.strip():
            raise self.failed("empty", "sent an empty answer")
        message = read_message(data)
        if message is None:
            raise self.failed("not_jsonrpc", "answered with something that is not a JSON-RPC message")
        return message

    def is_answered_by(self, message: Message) -> bool:
        return message.id == b"%d" % self.id

    def answer(self, message: Message, kind: PartKind, status: int | None = 200) -> Part:
        """Return the part that holds this response. Raises UpstreamFailed unless it answers this very request.

        The bytes of `result` or `error` are the server's own. `status` is the HTTP status it came with, if any.
        """
        if not self.is_answered_by(message):
            raise self.failed("foreign_id", "answered a request that was not asked")
        result, error = message.result, message.error
        facts: dict[str, Any] = {"era": self.era} if status is None else {"upstream_status": status, "era": self.era}
        if bool(result) == bool(error):
            raise self.failed("no_outcome", "answered with neither or both of a result and an error")
        try:
            if error:
                return Part(kind, error, status=status or 200, error_code=_error(error).code, facts=facts)
            outcome = _outcome(result) if self.verb is Verb.TOOLS_CALL else _NO_OUTCOME
        except msgspec.DecodeError:
            raise self.failed("malformed", "answered with a malformed result or error") from None
        if not result.startswith(b"{"):
            raise self.failed("malformed", "answered with a result that is not an object")
        if outcome.resultType == "task" or (outcome is _NO_OUTCOME and self.verb in TASK_VERBS):
            result, of_task = self._of_task(result)
            facts.update(of_task)
        if self.client_id is not None:
            result = with_subscription(result, self.client_id)
        return Part(kind, result, failed=outcome.isError, facts=facts)

    def _of_task(self, result: bytes) -> tuple[bytes, Mapping[str, Any]]:
        try:
            return told(self.tasks[0], result) if self.tasks else created(self.judged, self.task_ids, result)
        except Unusable as why:
            raise self.failed("task", str(why)) from None

    def heard(self, message: Message) -> Message | None:
        """Return a notification as the client may have it; None: it tells of a task that the client did not name."""
        if message.method != TASK_CHANGED and not (message.method == ACKNOWLEDGED and self.tasks):
            return message
        try:
            params = heard(self.tasks, message.method, message.params)
        except Unusable as why:
            raise self.failed("task", str(why)) from None
        return None if params is None else replace(message, params=params, data=notification(message.method, params))

    def event(self, message: Message) -> Part:
        """Return the part that holds a notification, or a request of the server."""
        if self.client_id is None or not message.params.startswith(b"{"):
            return Part(PartKind.EVENT, message.data)
        params = with_subscription(message.params, self.client_id)
        return Part(PartKind.EVENT, notification(message.method or "", params))


def subscription_of(params: bytes) -> bytes | None:
    """Return the subscription id, raw, that a notification carries."""
    try:
        raw = msgspec.json.decode(params, type=_Params).meta.get(SUBSCRIPTION_ID)
    except msgspec.DecodeError:
        return None
    return None if raw is None else bytes(raw)


def with_subscription(holder: bytes, raw_id: bytes) -> bytes:
    """Return an object whose `_meta` names `raw_id` as its subscription, where it names one."""
    if subscription_of(holder) is None:
        return holder
    found = members(holder)
    meta = members(found["_meta"])
    meta[SUBSCRIPTION_ID] = Raw(raw_id)
    found["_meta"] = Raw(encode(meta))
    return encode(found)


def request(own_id: int, method: str, params: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":%d,"method":%b,"params":%b}' % (own_id, encode(method), params)


def notification(method: str, params: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (encode(method), params)


def reply(raw_id: bytes, member: str, value: bytes) -> bytes:
    """Return a response to a request of the server."""
    return b'{"jsonrpc":"2.0","id":%b,"%b":%b}' % (raw_id, member.encode(), value)


def cancelled(own_id: int) -> bytes:
    return notification("notifications/cancelled", b'{"requestId":%d}' % own_id)


NOT_OFFERED = b'{"code":-32601,"message":"Method not found"}'


def own_reply(message: Message, *, relayed: bool) -> bytes | None:
    """Return what we answer to a request of the server ourselves; None when it is the client's to answer.

    `relayed`: there is a client, to whom the closed table of such requests is passed on.
    """
    if relayed and message.method in SERVER_REQUESTS:
        return None
    if message.method == "ping":
        return reply(message.id, "result", b"{}")
    return reply(message.id, "error", NOT_OFFERED)


def params_of(action: Action, arguments: bytes, meta: bytes) -> bytes:
    """Return the `params` of a request: the judged values, and what is forwarded, raw.

    A forwarded name that begins with `#` is for the adapter. `meta` is empty, or a raw object. Raises InvalidParams.
    """
    parts: list[bytes] = []
    named = _NAMED.get(action.verb)
    if named is not None and action.name is not None:
        parts.append(named + encode(action.name))
    if action.verb in _WITH_ARGUMENTS:
        parts.append(b'"arguments":' + arguments)
    for key, raw in action.forwarded.items():
        if key in _OURS:
            raise InvalidParams(f"the parameter `{key}` cannot be forwarded")
        if not key.startswith("#"):
            parts.append(encode(key) + b":" + raw)
    if meta:
        parts.append(b'"_meta":' + meta)
    return b"{" + b",".join(parts) + b"}"


def modern_meta(client: ClientFacts | None, meta: bytes) -> bytes:
    """Return the `_meta` of a modern request: what `meta` holds, and the protocol's own keys over it.

    `client` is the modern client behind the request; None: we ask, and can do nothing that a server might ask for.
    """
    found: dict[str, Any] = members(meta)
    if client is None:
        found[RESERVED + "protocolVersion"] = MODERN_VERSIONS[-1]
        found[RESERVED + "clientCapabilities"] = Raw(b"{}")
        found[RESERVED + "clientInfo"] = Raw(CLIENT_INFO)
        return encode(found)
    found[RESERVED + "protocolVersion"] = client.protocol_version
    found[RESERVED + "clientCapabilities"] = Raw(client.capabilities)
    if client.info != b"{}":
        found[RESERVED + "clientInfo"] = Raw(client.info)
    if client.log_level is not None:
        found[RESERVED + "logLevel"] = client.log_level
    return encode(found)


class Whole:
    """An exchange whose answer has arrived in full."""

    __slots__ = ("_part",)

    def __init__(self, part: Part) -> None:
        self._part: Part | None = part

    def __aiter__(self) -> AsyncIterator[Part]:
        return self

    async def __anext__(self) -> Part:
        part, self._part = self._part, None
        if part is None:
            raise StopAsyncIteration
        return part

    async def aclose(self, reason: BaseException | None) -> None:
        """There is nothing to let go of."""


def accepted(**facts: Any) -> Whole:
    """Return the answer to a notification."""
    return Whole(Part(PartKind.WHOLE, status=202, facts=facts))
