"""How our authorization server refuses: with the error object of RFC 6749 §5.2 and its kin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcpgw.domain import Asked
from mcpgw.errors import GatewayError
from mcpgw.ports import AuthLog

Answer = tuple[int, Mapping[str, str], Mapping[str, Any]]
"""Status, header fields, JSON object."""

NO_STORE: Mapping[str, str] = {"Cache-Control": "no-store", "Pragma": "no-cache"}  # RFC 6749 §5.1


class Refused(Exception):
    """An error answer. `description` never repeats what was sent; `reason` is for the log alone.

    `client_id` is the client that the request claimed to be from, where that is known.
    """

    def __init__(
        self,
        error: str,
        description: str,
        *,
        status: int = 400,
        headers: Mapping[str, str] | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(error)
        self.error = error
        self.client_id: str | None = None
        self.reason = reason or description
        self.answer: Answer = (
            status,
            {**NO_STORE, **(headers or {})},
            {"error": error, "error_description": description},
        )


def invalid_grant(reason: str) -> Refused:
    """Whatever is wrong with a code, a refresh token or an assertion, its bearer learns no more than this."""
    description = "the grant is not valid here, not valid any more, or another client's"
    return Refused("invalid_grant", description, reason=reason)


def unavailable(error: GatewayError) -> Refused:
    """What the gateway cannot know or record now, it refuses; a retry may succeed."""
    return Refused(
        "temporarily_unavailable",
        "the gateway cannot answer now",
        status=503,
        headers={"Retry-After": "1"},
        reason=error.message,
    )


async def refused(
    log: AuthLog, event: str, asked: Asked, refusal: Refused, detail: Mapping[str, str] | None = None
) -> Answer:
    """Return the answer of a refusal, which is in the log then."""
    told = {"reason": refusal.reason, **(detail or {})}
    await log.record(event, refusal.error, client_id=refusal.client_id, source=asked.source, detail=told)
    return refusal.answer


def unknown_client(reason: str) -> Refused:
    """The same words for a client that does not exist and for one that does not prove itself."""
    return Refused(
        "invalid_client",
        "unknown client, wrong proof, or revoked",
        status=401,
        headers={"WWW-Authenticate": 'Basic realm="mcpgw"'},
        reason=reason,
    )
