"""How errors look on the wire, in each dialect. The one place that knows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from mcpgw.domain import Receipt, Verb
from mcpgw.errors import Denied, GatewayError, Internal

log = logging.getLogger("mcpgw.edge")
_encode = msgspec.json.encode

RECEIPT = "io.mcpgw/receipt"
_RECEIPT = RECEIPT.encode()
DECISION = "io.mcpgw/decision"
_DECIDED = ("decision_id", "effect", "rule", "retryable")


def as_gateway_error(error: BaseException) -> GatewayError:
    """Return the error itself, or an internal one in the place of something unforeseen, which goes to the log."""
    if isinstance(error, GatewayError):
        return error
    log.error("unforeseen error", exc_info=error)
    return Internal("the gateway failed on this request", fix="its log has the details")


def receipt_object(receipt: Receipt) -> dict[str, Any]:
    return {"log": receipt.log, "index": receipt.index, "leaf": receipt.leaf}


def jsonrpc_error(error: GatewayError) -> bytes:
    """Return the raw `error` object of an answer."""
    data: dict[str, Any] = {k: v for k, v in error.data.items() if k != "scope"}
    if error.fix:
        data["fix"] = error.fix
    if error.receipt is not None:
        data["receipt"] = receipt_object(error.receipt)
    body: dict[str, Any] = {"code": error.wire.jsonrpc, "message": error.message}
    if data:
        body["data"] = data
    return _encode(body)


def denied_result(error: Denied, *, modern: bool) -> bytes:
    """Return the raw `result` of a tool call that the policy refused: something that a model can act on."""
    text = error.message if not error.fix else f"{error.message}. {error.fix}"
    meta: dict[str, Any] = {DECISION: {k: error.data[k] for k in _DECIDED if k in error.data}}
    if error.receipt is not None:
        meta[RECEIPT] = receipt_object(error.receipt)
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": True, "_meta": meta}
    if modern:
        result["resultType"] = "complete"
    return _encode(result)


def with_receipt(result: bytes, receipt: Receipt | None, *, bare: bool = False) -> bytes:
    """Return a raw result object with the receipt under `_meta`; everything else byte for byte as it was.

    `bare` as in Part: a long list need not be looked through.
    """
    if receipt is None:
        return result
    if bare or (b"_meta" not in result and b"\\u00" not in result and result[:2] == b'{"' and result[-1:] == b"}"):
        # There is a member, and none can be called that: the receipt goes in before the closing brace.
        text = b'"_meta":{"%b":{"log":"%b","index":%d,"leaf":"%b"}}}' % (
            _RECEIPT,
            receipt.log.encode(),
            receipt.index,
            receipt.leaf.encode(),
        )
        return b"%b,%b" % (result[:-1], text)
    members = _members(result)
    if members is None:
        return result
    held = members.get("_meta")
    meta: dict[str, Any] = dict(_members(held) or {}) if held is not None else {}
    meta[RECEIPT] = receipt_object(receipt)
    return _encode({**members, "_meta": meta})


_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _members(raw: bytes | msgspec.Raw) -> Mapping[str, msgspec.Raw] | None:
    try:
        return _split(raw)
    except msgspec.DecodeError:
        return None


def envelope(request_id: bytes, member: str, raw: bytes) -> bytes:
    """Return a JSON-RPC response around a raw `result` or `error`."""
    return b'{"jsonrpc":"2.0","id":%b,"%b":%b}' % (request_id, member.encode(), raw)


def is_tool_denial(error: GatewayError, verb: Verb) -> bool:
    """A policy's refusal of a tool call is a result; everything else is an error."""
    return isinstance(error, Denied) and verb is Verb.TOOLS_CALL
