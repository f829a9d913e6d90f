"""From an HTTP request to what an MCP client asks: pure ladders, the first rung that fails decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mcpgw.domain import Arguments, ClientFacts, Verb
from mcpgw.edge.asgi import Headers
from mcpgw.edge.mcp_tasks import MAY_NAME_TASKS, task_defect
from mcpgw.edge.strict_json import JsonLimits, parse_object
from mcpgw.errors import (
    GatewayError,
    HeaderMismatch,
    InvalidParams,
    InvalidRequest,
    MethodNotFound,
    NotAcceptable,
    UnsupportedMedia,
    UnsupportedVersion,
)
from mcpgw.mirrored import PARAM_PREFIX, decoded

MODERN = ("2026-07-28",)
HANDSHAKE = ("2025-11-25", "2025-06-18", "2025-03-26")
DEFAULT_LEGACY = "2025-03-26"
_PREFIX = "io.modelcontextprotocol/"
VERSION_KEY, CAPABILITIES_KEY = _PREFIX + "protocolVersion", _PREFIX + "clientCapabilities"
INFO_KEY, LOG_LEVEL_KEY = _PREFIX + "clientInfo", _PREFIX + "logLevel"
_ENVELOPE_KEYS = frozenset({VERSION_KEY, CAPABILITIES_KEY, INFO_KEY, LOG_LEVEL_KEY})

# What the `Mcp-Name` header repeats, by method.
_NAMED = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
_MODERN_VERBS = {
    v.value: v
    for v in (
        Verb.DISCOVER,
        Verb.TOOLS_LIST,
        Verb.TOOLS_CALL,
        Verb.RESOURCES_LIST,
        Verb.RESOURCE_TEMPLATES_LIST,
        Verb.RESOURCES_READ,
        Verb.PROMPTS_LIST,
        Verb.PROMPTS_GET,
        Verb.COMPLETE,
        Verb.LISTEN,
        Verb.TASKS_GET,
        Verb.TASKS_UPDATE,
        Verb.TASKS_CANCEL,
    )
}
_LEGACY_VERBS = {
    v.value: v
    for v in (
        Verb.INITIALIZE,
        Verb.PING,
        Verb.TOOLS_LIST,
        Verb.TOOLS_CALL,
        Verb.RESOURCES_LIST,
        Verb.RESOURCE_TEMPLATES_LIST,
        Verb.RESOURCES_READ,
        Verb.RESOURCES_SUBSCRIBE,
        Verb.RESOURCES_UNSUBSCRIBE,
        Verb.PROMPTS_LIST,
        Verb.PROMPTS_GET,
        Verb.COMPLETE,
        Verb.SET_LEVEL,
    )
}
_LEGACY_NOTIFICATIONS = {v.value: v for v in (Verb.INITIALIZED, Verb.CANCELLED, Verb.PROGRESS, Verb.ROOTS_CHANGED)}

# The parameters of each verb that are passed on; any other member of `params` is dropped.
_FORWARDED: Mapping[Verb, frozenset[str]] = {
    Verb.TOOLS_LIST: frozenset({"cursor"}),
    Verb.RESOURCES_LIST: frozenset({"cursor"}),
    Verb.RESOURCE_TEMPLATES_LIST: frozenset({"cursor"}),
    Verb.PROMPTS_LIST: frozenset({"cursor"}),
    Verb.TOOLS_CALL: frozenset({"inputResponses", "requestState"}),
    Verb.PROMPTS_GET: frozenset({"inputResponses", "requestState"}),
    Verb.RESOURCES_READ: frozenset({"inputResponses", "requestState"}),
    Verb.COMPLETE: frozenset({"ref", "argument", "context"}),
    Verb.SET_LEVEL: frozenset({"level"}),
    Verb.LISTEN: frozenset({"notifications"}),
    Verb.INITIALIZE: frozenset({"protocolVersion", "capabilities", "clientInfo"}),
    Verb.CANCELLED: frozenset({"requestId", "reason"}),
    Verb.PROGRESS: frozenset({"progressToken", "progress", "total", "message"}),
}
_NAME_OF: Mapping[Verb, str] = {
    Verb.TOOLS_CALL: "name",
    Verb.PROMPTS_GET: "name",
    Verb.RESOURCES_READ: "uri",
    Verb.RESOURCES_SUBSCRIBE: "uri",
    Verb.RESOURCES_UNSUBSCRIBE: "uri",
    Verb.TASKS_GET: "taskId",
    Verb.TASKS_UPDATE: "taskId",
    Verb.TASKS_CANCEL: "taskId",
}
# Where the object stands that is judged as the arguments.
_ARGUMENTS_OF: Mapping[Verb, str] = {
    Verb.TOOLS_CALL: "arguments",
    Verb.PROMPTS_GET: "arguments",
    Verb.TASKS_UPDATE: "inputResponses",
}


class _Params(msgspec.Struct, gc=False):
    params: dict[str, msgspec.Raw] = {}


_params = msgspec.json.Decoder(_Params).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode


@dataclass(slots=True, kw_only=True)
class McpRequest:
    """One JSON-RPC message of a client. `id` is raw JSON, None for a notification.

    `client` is what a modern client says of itself, `meta` the raw `_meta` of a legacy one, whose session has the rest.
    `defect` is what is wrong with its content, to be told only to an authenticated caller.
    """

    verb: Verb
    modern: bool
    id: bytes | None = None
    name: str | None = None
    arguments: Arguments = field(default_factory=Arguments)
    forwarded: Mapping[str, bytes] = field(default_factory=dict)
    client: ClientFacts | None = None
    meta: bytes | None = None
    defect: GatewayError | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


def read_request(headers: Headers, body: bytes, limits: JsonLimits) -> McpRequest:
    """Return what the client asks. Raises ParseError and InvalidRequest for its shape; `check_media` comes before."""
    message = parse_object(body, limits)
    if message.get("jsonrpc") != "2.0":
        raise InvalidRequest('`jsonrpc` must be "2.0"')
    request_id = _request_id(message, body)
    if "method" not in message:
        return _answer(headers, message, _members(body), request_id)
    method, params = message["method"], message.get("params", {})
    if not isinstance(method, str):
        raise InvalidRequest("`method` must be a string")
    in_header = headers.get("mcp-protocol-version")
    if not isinstance(params, dict):
        defect = InvalidParams("`params` must be an object")
        return McpRequest(verb=Verb.PING, modern=in_header in MODERN, id=request_id, defect=defect)
    raw_params = _params(body).params
    meta = params.get("_meta")
    in_body = meta.get(VERSION_KEY) if isinstance(meta, dict) else None
    # A handshake-era header alone proves nothing, and neither does a missing one: the envelope decides.
    unknown_header = in_header is not None and in_header not in HANDSHAKE
    modern = in_body is not None or in_header in MODERN or (unknown_header and method != Verb.INITIALIZE.value)
    if modern:
        return _modern(headers, method, params, raw_params, request_id)
    return _legacy(method, params, raw_params, request_id)


def check_media(headers: Headers) -> None:
    """Raise UnsupportedMedia or NotAcceptable for what a client must say of its message and of its answer."""
    if headers.get("content-type", "").split(";", 1)[0].strip().lower() != "application/json":
        raise UnsupportedMedia("the content type is not application/json", fix="send JSON with that content type")
    accept = headers.get("accept", "").lower()
    if "*/*" not in accept and not ("application/json" in accept and "text/event-stream" in accept):
        raise NotAcceptable(
            "Accept must list application/json and text/event-stream", fix="Accept: application/json, text/event-stream"
        )


def _request_id(message: Mapping[str, Any], body: bytes) -> bytes | None:
    value = message.get("id")
    if type(value) is int:
        return b"%d" % value
    if isinstance(value, str):
        return bytes(_members(body)["id"])
    if "id" in message:
        raise InvalidRequest("`id` must be a string or an integer")
    return None


def _answer(
    headers: Headers, message: Mapping[str, Any], raw: Mapping[str, msgspec.Raw], request_id: bytes | None
) -> McpRequest:
    """A legacy client's response to a request of the server; modern clients never send one."""
    member = "result" if "result" in message else "error"
    if request_id is None or member not in message or headers.get("mcp-protocol-version") in MODERN:
        raise InvalidRequest("a message needs a `method`")
    return McpRequest(verb=Verb.ANSWER, modern=False, id=request_id, forwarded={member: bytes(raw[member])})


def _modern(
    headers: Headers,
    method: str,
    params: Mapping[str, Any],
    raw_params: Mapping[str, msgspec.Raw],
    request_id: bytes | None,
) -> McpRequest:
    verb = _MODERN_VERBS.get(method)
    defect = _modern_defect(headers, method, params)
    if defect is None and verb is None:
        # No notification of a client is defined on this wire: it is accepted and dropped.
        known = request_id is None and method.startswith("notifications/")
        verb, defect = Verb.PROGRESS, None if known else MethodNotFound(f"Method not found: {method[:80]}")
    if defect is not None or verb is None:
        return McpRequest(verb=verb or Verb.PING, modern=True, id=request_id, defect=defect)
    if request_id is None:
        return McpRequest(verb=Verb.PROGRESS, modern=True)
    meta = params["_meta"]
    raw_meta = _members(raw_params["_meta"])
    facts = ClientFacts(
        protocol_version=meta[VERSION_KEY],
        modern=True,
        capabilities=bytes(raw_meta[CAPABILITIES_KEY]),
        info=bytes(raw_meta.get(INFO_KEY, b"{}")),
        meta=_own_meta(raw_meta),
        log_level=meta.get(LOG_LEVEL_KEY),
        headers=_param_headers(headers),
    )
    return _request(verb, params, raw_params, request_id, facts)


def _modern_defect(headers: Headers, method: str, params: Mapping[str, Any]) -> GatewayError | None:
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        return InvalidParams("`_meta` is missing", fix=f"send {VERSION_KEY} and {CAPABILITIES_KEY} in it")
    missing = [key for key in (VERSION_KEY, CAPABILITIES_KEY) if key not in meta]
    if missing:
        return InvalidParams(f"`_meta` lacks {', '.join(missing)}")
    version = meta[VERSION_KEY]
    in_header = headers.get("mcp-protocol-version")
    if in_header != version:
        return HeaderMismatch("the MCP-Protocol-Version header differs from the version in `_meta`")
    if headers.get("mcp-method") != method:
        return HeaderMismatch("the Mcp-Method header differs from `method`")
    named = _NAMED.get(method)
    if named is not None and params.get(named) is not None and decoded(headers.get("mcp-name")) != params[named]:
        return HeaderMismatch(f"the Mcp-Name header differs from `params.{named}`")
    if version not in MODERN:
        return UnsupportedVersion(
            "Unsupported protocol version", data={"supported": list(MODERN), "requested": str(version)[:40]}
        )
    if not isinstance(meta[CAPABILITIES_KEY], dict) or not isinstance(meta.get(INFO_KEY, {}), dict):
        return InvalidParams("client capabilities and client info are objects")
    level = meta.get(LOG_LEVEL_KEY)
    if level is not None and level not in LOG_LEVELS:
        return InvalidParams("unknown logLevel", fix=f"one of: {', '.join(LOG_LEVELS)}")
    return task_defect(method, params, meta[CAPABILITIES_KEY]) if method in MAY_NAME_TASKS else None


LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


def _legacy(
    method: str,
    params: Mapping[str, Any],
    raw_params: Mapping[str, msgspec.Raw],
    request_id: bytes | None,
) -> McpRequest:
    if request_id is None:
        # Others are accepted and dropped, as JSON-RPC has it: `initialized` goes no further than the gateway.
        verb = _LEGACY_NOTIFICATIONS.get(method, Verb.INITIALIZED)
        return _request(verb, params, raw_params, None, None)
    found = _LEGACY_VERBS.get(method)
    if found is None:
        defect: GatewayError = MethodNotFound(f"Method not found: {method[:80]}")
        return McpRequest(verb=Verb.PING, modern=False, id=request_id, defect=defect)
    meta = params.get("_meta", {})
    if not isinstance(meta, dict):
        return McpRequest(verb=found, modern=False, id=request_id, defect=InvalidParams("`_meta` must be an object"))
    request = _request(found, params, raw_params, request_id, None)
    if "_meta" in raw_params:
        request.meta = bytes(raw_params["_meta"])
    return request


def _request(
    verb: Verb,
    params: Mapping[str, Any],
    raw_params: Mapping[str, msgspec.Raw],
    request_id: bytes | None,
    facts: ClientFacts | None,
) -> McpRequest:
    defect: GatewayError | None = None
    name = None
    key = _NAME_OF.get(verb)
    if key is not None:
        name = params.get(key)
        if not isinstance(name, str):
            defect, name = InvalidParams(f"`params.{key}` must be a string"), None
    arguments = Arguments()
    held = _ARGUMENTS_OF.get(verb)
    if held is not None:
        if isinstance(params.get(held), dict):
            arguments = Arguments(bytes(raw_params[held]))
        elif params.get(held) is not None or verb is Verb.TASKS_UPDATE:
            defect = defect or InvalidParams(f"`params.{held}` must be an object")
    if verb is Verb.LISTEN and not isinstance(params.get("notifications"), dict):
        defect = InvalidParams("`params.notifications` must be an object")
    passed = _FORWARDED.get(verb)
    forwarded = {k: bytes(raw_params[k]) for k in passed if k in raw_params} if passed else {}
    return McpRequest(
        verb=verb,
        modern=facts.modern if facts is not None else False,
        id=request_id,
        name=name,
        arguments=arguments,
        forwarded=forwarded,
        client=facts,
        defect=defect,
        params=params,
    )


def _own_meta(raw_meta: Mapping[str, msgspec.Raw]) -> bytes:
    own = {k: v for k, v in raw_meta.items() if k not in _ENVELOPE_KEYS}
    return _encode(own) if own else b"{}"


def _param_headers(headers: Headers) -> Mapping[str, str]:
    return {name: value for name, value in headers.items() if name.startswith(PARAM_PREFIX)}
