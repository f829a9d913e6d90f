"""Between the generations of the protocol: what a server of one says, as a client of the other reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from mcpgw.domain import Part, Verb
from mcpgw.mirrored import ANNOTATION, mirrors
from mcpgw.upstream.mcp_parts import MODERN_VERSIONS, SERVER_INFO, SUBSCRIPTION_ID, encode, members

LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
CACHEABLE = frozenset(
    {
        Verb.DISCOVER,
        Verb.TOOLS_LIST,
        Verb.PROMPTS_LIST,
        Verb.RESOURCES_LIST,
        Verb.RESOURCE_TEMPLATES_LIST,
        Verb.RESOURCES_READ,
    }
)
# Where JSON Schema 2020-12 holds schemas; what stands elsewhere (`default`, `enum`) is data.
_NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
_SCHEMAS = frozenset(
    {"items", "prefixItems", "contains", "additionalProperties", "propertyNames", "unevaluatedItems"}
    | {"unevaluatedProperties", "allOf", "anyOf", "oneOf", "not", "if", "then", "else"}
)
_MODERN_MEMBERS = ("resultType", "ttlMs", "cacheScope")
_MODERN_META = (SERVER_INFO, SUBSCRIPTION_ID)
_EXTENSIONS = ("extensions", "tasks")  # of the protocol: what they add is of another shape in each generation
_NOT_FOUND = -32002  # resource not found, until 2025-11-25
_INVALID_PARAMS, _INTERNAL = -32602, -32603
# What a modern client takes for words of its own transport; from a server of the handshake era they can mean anything.
_MODERN_ERRORS = range(-32099, -32019)


def modern_answer(verb: Verb, part: Part, info: bytes) -> Part:
    """Return the answer of a server of the handshake era as a modern one gives it. `info` is its `serverInfo`, raw."""
    if part.error_code is not None:
        return _with_code(part, _modern_code(part.error_code))
    result: dict[str, Any] = members(part.body)
    result.setdefault("resultType", "complete")
    if verb in CACHEABLE:
        result.setdefault("ttlMs", 0)
        result.setdefault("cacheScope", "private")
    if info != b"{}":
        meta = members(result["_meta"]) if "_meta" in result else {}
        result["_meta"] = {SERVER_INFO: Raw(info), **meta}
    return dataclasses.replace(part, body=encode(result))


def legacy_answer(verb: Verb, part: Part) -> Part:
    """Return the complete answer of a modern server as one of the handshake era gives it."""
    if part.error_code is not None:
        return _with_code(part, _legacy_code(verb, part))
    result: dict[str, Any] = members(part.body)
    for name in _MODERN_MEMBERS:
        result.pop(name, None)
    _drop_modern_meta(result)
    structured = result.get("structuredContent")
    if structured is not None and not bytes(structured).startswith(b"{"):
        del result["structuredContent"]  # any JSON since 2026-07-28, an object before
        result["content"] = _with_text(result.get("content"), bytes(structured))
    return dataclasses.replace(part, body=encode(result))


def modern_handshake(initialized: bytes) -> bytes:
    """Return a result of `initialize` as one of `server/discover`. Raises DecodeError."""
    found: dict[str, Any] = members(initialized)
    capabilities = members(found.get("capabilities", b"{}"))
    for extension in _EXTENSIONS:
        capabilities.pop(extension, None)
    result: dict[str, Any] = {
        "resultType": "complete",
        "supportedVersions": MODERN_VERSIONS,
        "capabilities": capabilities,
        "ttlMs": 0,
        "cacheScope": "private",
    }
    if "instructions" in found:
        result["instructions"] = found["instructions"]
    if "serverInfo" in found:
        result["_meta"] = {SERVER_INFO: found["serverInfo"]}
    return encode(result)


def legacy_handshake(discovered: bytes, version: str, name: str) -> bytes:
    """Return a result of `server/discover` as one of `initialize` for a client of `version`.

    `name` is for a server that does not say what it is called. Raises DecodeError.
    """
    found: dict[str, Any] = members(discovered)
    capabilities = members(found.get("capabilities", b"{}"))
    for extension in _EXTENSIONS:
        capabilities.pop(extension, None)
    info = members(found.get("_meta", b"{}")).get(SERVER_INFO)
    result: dict[str, Any] = {
        "protocolVersion": version,
        "capabilities": capabilities,
        "serverInfo": {"name": name, "version": "unknown"} if info is None else info,
    }
    if "instructions" in found:
        result["instructions"] = found["instructions"]
    return encode(result)


@lru_cache(maxsize=4096)
def legacy_tool(definition: bytes) -> bytes:
    """Return a tool as a client of the handshake era reads it, whose `outputSchema` can describe an object only.

    Results of another type lose their structure on the way to it: their text stays.
    """
    if b'"outputSchema"' not in definition:
        return definition
    tool = members(definition)
    schema = msgspec.json.decode(tool.get("outputSchema", b"null"))
    if schema is None or (isinstance(schema, dict) and schema.get("type") == "object"):
        return definition
    del tool["outputSchema"]
    return encode(tool)


@lru_cache(maxsize=4096)
def modern_tool(definition: bytes) -> bytes:
    """Return a tool as a modern client reads it: it would drop one with a header annotation that breaks the rules.

    Without those, and without `execution`, which belongs to the tasks of 2025-11-25.
    """
    if b'"execution"' not in definition and ANNOTATION.encode() not in definition:
        return definition
    tool: dict[str, Any] = msgspec.json.decode(definition)
    changed = tool.pop("execution", None) is not None
    valid = {mirror.path for mirror in mirrors(definition)}
    return encode(tool) if _stripped(tool.get("inputSchema"), (), valid) or changed else definition


def _stripped(schema: Any, path: tuple[str, ...] | None, valid: Collection[tuple[str, ...]]) -> bool:
    """Take the annotations that count for nothing out of a schema; say whether there were any. `path` None: no path."""
    if isinstance(schema, list):
        return sum(_stripped(inner, None, valid) for inner in schema) > 0
    if not isinstance(schema, dict):
        return False
    changed = ANNOTATION in schema and path not in valid
    if changed:
        del schema[ANNOTATION]
    for key, inner in schema.items():
        if key in _NAMED_SCHEMAS and isinstance(inner, dict):
            below = path if key == "properties" else None
            for name, named in inner.items():
                changed = _stripped(named, None if below is None else (*below, name), valid) or changed
        elif key in _SCHEMAS:
            changed = _stripped(inner, None, valid) or changed
    return changed


def is_complete(part: Part) -> bool:
    """Whether a modern result is the end of its call; one without `resultType` is (basic: "Results")."""
    return bytes(members(part.body).get("resultType", b'"complete"')) == b'"complete"'


def _modern_code(code: int) -> int:
    if code == _NOT_FOUND:
        return _INVALID_PARAMS
    return _INTERNAL if code in _MODERN_ERRORS else code


def _legacy_code(verb: Verb, part: Part) -> int | None:
    code = part.error_code
    if code in _MODERN_ERRORS:
        return _INTERNAL  # between the gateway and the server: the client can do nothing about it
    if (
        code == _INVALID_PARAMS
        and verb is Verb.RESOURCES_READ
        and b'"uri"' in bytes(members(part.body).get("data", b""))
    ):
        return _NOT_FOUND
    return code


def _drop_modern_meta(result: dict[str, Any]) -> None:
    """Take out of `_meta` what only this generation puts there."""
    meta = members(result["_meta"]) if "_meta" in result else {}
    if any(meta.pop(name, None) is not None for name in _MODERN_META):
        result["_meta"] = meta
        if not meta:
            del result["_meta"]


def _with_text(content: Raw | None, text: bytes) -> list[Any]:
    """Return the content of a result whose structure was dropped: with that as text, unless it has one already."""
    blocks: list[Any] = msgspec.json.decode(content) if content is not None else []
    if any(isinstance(block, dict) and block.get("type") == "text" for block in blocks):
        return blocks
    return [*blocks, {"type": "text", "text": text.decode()}]


def _with_code(part: Part, code: int | None) -> Part:
    if code is None or code == part.error_code:
        return part
    error: dict[str, Any] = {**members(part.body), "code": code}
    return dataclasses.replace(part, body=encode(error), error_code=code)
