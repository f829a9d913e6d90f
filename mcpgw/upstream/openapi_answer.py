"""From the answer of a REST API to the result of a tool call."""

from __future__ import annotations

import base64
import codecs
from typing import Any

import msgspec

from mcpgw.domain import Action, Part, PartKind
from mcpgw.errors import UpstreamFailed
from mcpgw.upstream.http import Response
from mcpgw.upstream.openapi_parameters import bare_type, is_json
from mcpgw.upstream.openapi_tools import Tool

ERA = "dual"
MAX_FAILURE_CHARS = 16_384  # of what an API says about a failure
# Plain texts: nothing that a decoder unfolds, and nothing that the policy could not read.
_CHARSETS = frozenset({"utf-8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "windows-1252"})
_TEXTS = frozenset({"application/xml", "application/yaml", "application/javascript", "application/graphql"})
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.encode
Content = dict[str, Any]


def told(action: Action, text: str) -> Part:
    """Return the result of a call that was not sent, because its arguments do not fit: a model can correct them."""
    return _part(action, [_text(text)], failed=True)


def result_of(action: Action, tool: Tool, response: Response, body: bytes) -> Part:
    """Return the result for an answer that has come in full. Raises UpstreamFailed for JSON that is none."""
    status = response.status
    media_type, _, parameters = response.headers.get(b"content-type", b"").decode("latin-1").partition(";")
    kind = bare_type(media_type)
    if is_json(kind) and body.strip():
        body = body.removeprefix(codecs.BOM_UTF8).strip()
        value = _json(action, body)
        if 200 <= status < 300:
            return _structured(action, tool, status, body, value)
        return _failure(action, status, body.decode())
    text = _as_text(kind, parameters, body)
    if not 200 <= status < 300:
        return _failure(action, status, text)
    if tool.outputs is not None:
        return _misfit(action, status, "no JSON", [_text(text)] if text is not None else [])
    if text is not None:
        return _part(action, [_text(text)], status=status)
    return _part(action, [_binary(action, kind, body)], status=status)


def _json(action: Action, body: bytes) -> Any:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamFailed(
            f"`{action.server}` answered with JSON that is none",
            fix="the call may have taken effect: see the API's log",
            data={"cause": "not_json"},
        ) from None


def _structured(action: Action, tool: Tool, status: int, body: bytes, value: Any) -> Part:
    content = [_text(body.decode())]
    if tool.outputs is not None and not tool.outputs.accepts(body, value):
        return _misfit(action, status, "JSON that its document does not describe", content)
    return _part(action, content, status=status, structured=body if isinstance(value, dict) else None)


def _misfit(action: Action, status: int, what: str, content: list[Content]) -> Part:
    """A tool that tells the schema of its answers must keep to it (2026-07-28, server/tools: output schema)."""
    said = f"The API carried out the call (HTTP {status}) and answered with {what}."
    return _part(action, [_text(said), *content], status=status, failed=True)


def _failure(action: Action, status: int, text: str | None) -> Part:
    redirect = ", a redirect, which is not followed" if 300 <= status < 400 else ""
    content = [_text(f"The API answered HTTP {status}{redirect}.")]
    if text and len(text) <= MAX_FAILURE_CHARS:
        content.append(_text(text))
    elif text:
        # Not cut: half a JSON text is one that no policy can redact.
        content.append(_text(f"(It explained in {len(text)} characters, which is too long to show.)"))
    return _part(action, content, status=status, failed=True)


def _as_text(kind: str, parameters: str, body: bytes) -> str | None:
    """Return a body as text, or None when it is none."""
    if not body.strip():
        return ""
    if not (kind.startswith("text/") or kind in _TEXTS or kind.endswith(("+xml", "+yaml")) or is_json(kind)):
        return None
    _, named, charset = parameters.lower().partition("charset=")
    charset = charset.partition(";")[0].strip(" \"'") if named else "utf-8"
    if charset not in _CHARSETS:
        return None
    try:
        return body.decode(charset)
    except UnicodeDecodeError:
        return None


def _binary(action: Action, kind: str, body: bytes) -> Content:
    data = base64.b64encode(body).decode()
    for family in ("image", "audio"):
        if kind.startswith(f"{family}/"):
            return {"type": family, "data": data, "mimeType": kind}
    uri = f"openapi://{action.server}/{action.name}/{action.id}"  # a name for it; there is nothing to read there
    resource = {"uri": uri, "mimeType": kind or "application/octet-stream", "blob": data}
    return {"type": "resource", "resource": resource}


def _text(text: str) -> Content:
    return {"type": "text", "text": text}


def _part(
    action: Action,
    content: list[Content],
    *,
    status: int | None = None,
    structured: bytes | None = None,
    failed: bool = False,
) -> Part:
    result: dict[str, Any] = {"content": content}
    if action.client is not None and action.client.modern:
        result = {"resultType": "complete", **result}
    if structured is not None:
        result["structuredContent"] = msgspec.Raw(structured)
    if failed:
        result["isError"] = True
    facts = {"era": ERA} if status is None else {"era": ERA, "upstream_status": status}
    return Part(PartKind.WHOLE, _encode(result), failed=failed, facts=facts)
