"""Reading what a client sends to an endpoint of our authorization server: a form, and perhaps HTTP Basic."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote_plus

from mcpgw.auth.server.refusals import Refused, unknown_client
from mcpgw.domain import Asked

MAX_FIELDS = 32


def form_of(asked: Asked) -> dict[str, str]:
    """Return the parameters that have a value; one without counts as left out (RFC 6749 §3.2). Raises Refused."""
    if (asked.content_type or "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise Refused("invalid_request", "send application/x-www-form-urlencoded")
    try:
        fields = parse_qsl(asked.body.decode("ascii"), max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError:
        raise Refused("invalid_request", "the form cannot be read") from None
    repeated = {name for name, count in Counter(name for name, _ in fields).items() if count > 1}
    if repeated and repeated <= {"resource", "audience"}:
        raise Refused("invalid_target", "name one resource")  # RFC 8707 §2 allows several, and a token here has one
    if repeated:
        raise Refused("invalid_request", "a parameter is there twice")
    return dict(fields)


def needed(form: Mapping[str, str], name: str) -> str:
    """Return a parameter that must be there. Raises Refused."""
    if name not in form:
        raise Refused("invalid_request", f"{name} is missing")
    return form[name]


def basic(authorization: str) -> tuple[str, str]:
    """Return id and secret of HTTP Basic as RFC 6749 §2.3.1 has it. Raises Refused."""
    scheme, _, encoded = authorization.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")
        if not colon:
            raise ValueError
        # Both are form-encoded before they are joined.
        return unquote_plus(client_id, errors="strict"), unquote_plus(secret, errors="strict")
    except ValueError:
        raise unknown_client("the Authorization header is not HTTP Basic as RFC 6749 has it") from None
