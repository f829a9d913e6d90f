"""What a decision obliges the gateway to do: pure functions over bytes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from mcpgw.domain import (
    Arguments,
    Decision,
    KeepOnly,
    MaxResultBytes,
    Part,
    PartKind,
    RedactArguments,
    RedactResult,
    Verb,
)
from mcpgw.errors import Denied

REDACTED = "[redacted]"
_TASK_CHANGED = b'"notifications/tasks"'
_LISTED = {
    Verb.RESOURCES_LIST: ("resources", "uri"),
    Verb.RESOURCE_TEMPLATES_LIST: ("resourceTemplates", "uriTemplate"),
    Verb.PROMPTS_LIST: ("prompts", "name"),
    Verb.TOOLS_LIST: ("tools", "name"),
}


def redact_arguments(arguments: Arguments, decision: Decision) -> Arguments:
    """Return the arguments with every value that the decision names replaced; the same object when there is none.

    Raises Denied for a pointer that cannot be obeyed, also one into the result: before anything is sent.
    """
    pointers = _pointers(decision, RedactArguments)
    if not all(pointer.startswith("/") for pointer in (*pointers, *_pointers(decision, RedactResult))):
        raise Denied(
            "the policy redacts something that is not a value of an object",
            fix="an administrator writes a JSON pointer there, such as /a/0",
            data={"rule": "redaction"},
        )
    if not pointers:
        return arguments
    value = json.loads(arguments.raw)
    if not _replace(value, pointers):
        return arguments
    return Arguments(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def redacted_pointers(decision: Decision) -> tuple[str, ...]:
    """Return the pointers into arguments that the decision redacts."""
    return _pointers(decision, RedactArguments)


def obey(decision: Decision, part: Part) -> Part:
    """Return the part as the decision lets it leave. Raises Denied when it may not leave at all."""
    if not decision.obligations or part.kind is PartKind.OPENED:
        return part
    for obligation in decision.obligations:
        if isinstance(obligation, MaxResultBytes) and len(part.body) > obligation.n:
            raise Denied(
                f"the result is larger than the {obligation.n} bytes that the policy allows",
                fix="ask for less",
                data={"rule": "max_result_bytes"},
            )
    pointers = _pointers(decision, RedactResult)
    if not pointers or part.error_code is not None:
        return part
    if part.kind is not PartKind.EVENT:
        return dataclasses.replace(part, body=_redact_result(part.body, pointers))
    return dataclasses.replace(part, body=_redact_event(part.body, pointers)) if _TASK_CHANGED in part.body else part


def listed_names(verb: Verb, body: bytes) -> list[str]:
    """Return the names (URIs) in a list result, for each item that has one."""
    member, key = _LISTED[verb]
    items = json.loads(body).get(member, [])
    return [item[key] for item in items if isinstance(item, dict) and isinstance(item.get(key), str)]


def keep_only(verb: Verb, body: bytes, keep: KeepOnly) -> bytes:
    """Return a list result without the items whose name is not kept; the same bytes when all are."""
    member, key = _LISTED[verb]
    result = json.loads(body)
    items = result.get(member, [])
    kept = [item for item in items if isinstance(item, dict) and item.get(key) in keep.names]
    if len(kept) == len(items):
        return body
    result[member] = kept
    return json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode()


def _pointers(decision: Decision, kind: type[RedactArguments] | type[RedactResult]) -> tuple[str, ...]:
    return tuple(p for o in decision.obligations if isinstance(o, kind) for p in o.pointers)


def _redact_result(body: bytes, pointers: Iterable[str]) -> bytes:
    """Redact a result; of a task (SEP-2663), the one in it."""
    result = json.loads(body)
    for holder in (result, result.get("result")):
        if isinstance(holder, dict):
            _redact_content(holder, pointers)
    return json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode()


def _redact_event(body: bytes, pointers: Iterable[str]) -> bytes:
    """Redact the result in what a listener is told of a task."""
    message = json.loads(body)
    params = message.get("params")
    result = params.get("result") if isinstance(params, dict) else None
    if isinstance(result, dict):
        _redact_content(result, pointers)
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def _redact_content(result: dict[str, Any], pointers: Iterable[str]) -> None:
    """Redact `structuredContent` and every text content that is itself a JSON document."""
    if "structuredContent" in result:
        _replace(result["structuredContent"], pointers)
    content = result.get("content")
    for item in content if isinstance(content, list) else ():
        if not (isinstance(item, dict) and isinstance(item.get("text"), str)):
            continue
        try:
            document = json.loads(item["text"])
        except ValueError:
            continue
        if _replace(document, pointers):
            item["text"] = json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _replace(document: Any, pointers: Iterable[str]) -> bool:
    """Replace the value at each RFC 6901 pointer, where there is one; say whether anything changed."""
    changed = False
    for pointer in pointers:
        node, key = None, None
        inner = document
        for step in pointer.split("/")[1:]:
            node, key = inner, _key(inner, step.replace("~1", "/").replace("~0", "~"))
            if key is None:
                break
            inner = node[key]
        if node is not None and key is not None and inner != REDACTED:
            node[key] = REDACTED
            changed = True
    return changed


def _key(node: Any, step: str) -> Any:
    """Return the key or index under which an object or array has a member for `step`; None when it has none."""
    if isinstance(node, dict):
        return step if step in node else None
    if isinstance(node, list) and step.isdecimal() and int(step) < len(node):
        return int(step)
    return None
