"""How a caller is told that they have to agree to something in a browser first, and how the retry is known.

Modern clients are asked by `input_required`, those of 2025-11-25 by error -32042, if they can open URLs; all others get
an error that says the URL. A retry is a new action: nothing of its answer or its state goes on to the server.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from mcpgw.domain import Action, ClientFacts, Verb
from mcpgw.domain.values import value
from mcpgw.edge.render import RECEIPT, receipt_object
from mcpgw.errors import ConsentNeeded, InvalidParams
from mcpgw.request_state import AskedRef, RequestStates

STATE, RESPONSES = "requestState", "inputResponses"
LIFE_S = 600.0
URL_REQUIRED = -32042
_URLS_SINCE = "2025-11-25"
_INTERACTIVE = frozenset({Verb.TOOLS_CALL, Verb.PROMPTS_GET, Verb.RESOURCES_READ})
_KEY = "consent"
_NO = ("decline", "cancel")
_NOBODY = ""

_encode = msgspec.json.encode
_object = msgspec.json.Decoder(dict[str, Any]).decode


@value(frozen=True, slots=True)
class Told:
    """An answer: HTTP status, the member of the JSON-RPC response, and its raw JSON."""

    status: int
    member: str
    raw: bytes


def told(wanted: ConsentNeeded, action: Action, answered: object, states: RequestStates, now: float) -> Told:
    """Return what the client of this action is told. `answered` are the `inputResponses` that it came with.

    Who has said no is not asked again, but told.
    """
    client, url = action.client, wanted.data["url"]
    question: dict[str, Any] = {"mode": "url", "message": wanted.data["message"], "url": url}
    receipt = None if wanted.receipt is None else receipt_object(wanted.receipt)
    if client is not None and _opens_urls(client) and not _said_no(answered):
        if client.modern and action.verb in _INTERACTIVE:
            ref = AskedRef.of(action, wanted.data["principal"], now + LIFE_S)
            result: dict[str, Any] = {
                "resultType": "input_required",
                "inputRequests": {_KEY: {"method": "elicitation/create", "params": question}},
                STATE: states.shown_asked(ref),
            }
            if receipt is not None:
                result["_meta"] = {RECEIPT: receipt}
            return Told(200, "result", _encode(result))
        if not client.modern and client.protocol_version >= _URLS_SINCE:
            question["elicitationId"] = wanted.data["elicitation_id"]
            return _error(200, URL_REQUIRED, wanted.message, {"elicitations": [question], "receipt": receipt})
    # A handshake-era client reads errors from a 200 alone, and a 405 says that there is no stream (yet).
    status = wanted.wire.status if client is None or client.modern else 200
    if action.verb is Verb.STREAM:
        status = 405
    data = {"reason": wanted.code, "url": url, "fix": wanted.fix, "receipt": receipt}
    return _error(status, wanted.wire.jsonrpc, f"{wanted.message}: {url}", data)


def again(action: Action, asked: AskedRef, now: float) -> Action:
    """Return a retry as an action: whose it must be is its `owner`. A state of another call is nobody's."""
    owner = asked.principal if asked.is_of(action, now) else _NOBODY
    rest = {name: raw for name, raw in action.forwarded.items() if name not in (STATE, RESPONSES)}
    return dataclasses.replace(action, parent=asked.action_id, owner=owner, forwarded=rest)


def not_asked() -> InvalidParams:
    """Return the one answer to a state that is another caller's, of another call, or expired."""
    return InvalidParams(f"`params.{STATE}` names no call of yours that waits", fix="call again without it")


def _said_no(answered: object) -> bool:
    answer = answered.get(_KEY) if isinstance(answered, dict) else None
    return isinstance(answer, dict) and answer.get("action") in _NO


def _opens_urls(client: ClientFacts) -> bool:
    try:
        declared = _object(client.capabilities).get("elicitation")
    except msgspec.DecodeError:
        return False
    return isinstance(declared, dict) and isinstance(declared.get("url"), dict)


def _error(status: int, code: int, message: str, data: dict[str, Any]) -> Told:
    known = {name: held for name, held in data.items() if held is not None}
    return Told(status, "error", _encode({"code": code, "message": message, "data": known}))
