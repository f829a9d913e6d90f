"""One hierarchy of errors and one table of how each looks on the wire.

An error carries a public message (what happened, to what), a fix, and a private cause that only the log may see.
Messages never hold a secret, a claim value or an argument value. `edge/render.py` alone turns them into answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mcpgw.domain import KillSwitch, Receipt


@dataclass(frozen=True, slots=True)
class Wire:
    """How one code looks: HTTP status, JSON-RPC code, and the error type of the LLM dialects."""

    status: int
    jsonrpc: int
    llm_type: str
    retryable: bool = False


# Our own JSON-RPC codes lie outside -32768..-32000, which belongs to the protocol.
WIRE: Mapping[str, Wire] = {
    "parse_error": Wire(400, -32700, "invalid_request_error"),
    "invalid_request": Wire(400, -32600, "invalid_request_error"),
    "invalid_params": Wire(400, -32602, "invalid_request_error"),
    "unknown_name": Wire(400, -32602, "invalid_request_error"),
    "method_not_found": Wire(404, -32601, "invalid_request_error"),
    "header_mismatch": Wire(400, -32020, "invalid_request_error"),
    "missing_capability": Wire(400, -32021, "invalid_request_error"),
    "unsupported_version": Wire(400, -32022, "invalid_request_error"),
    "era_crossing": Wire(400, -31020, "invalid_request_error"),
    "request_timeout": Wire(408, -31008, "invalid_request_error", retryable=True),
    "too_large": Wire(413, -31013, "invalid_request_error"),
    "forbidden_origin": Wire(403, -31003, "invalid_request_error"),
    "bad_host": Wire(421, -31021, "invalid_request_error"),
    "not_found": Wire(404, -31004, "invalid_request_error"),
    "conflict": Wire(409, -31009, "invalid_request_error"),
    "unsupported_media": Wire(415, -31015, "invalid_request_error"),
    "not_acceptable": Wire(406, -31006, "invalid_request_error"),
    "method_not_allowed": Wire(405, -31005, "invalid_request_error"),
    "unknown_session": Wire(404, -32600, "invalid_request_error"),
    "unauthenticated": Wire(401, -31001, "authentication_error"),
    "insufficient_scope": Wire(403, -31002, "permission_error"),
    "denied": Wire(403, -31100, "permission_error"),
    "consent_needed": Wire(403, -31042, "permission_error"),
    "killed": Wire(403, -31101, "permission_error"),
    "quarantined": Wire(403, -31102, "permission_error"),
    "rate_limited": Wire(429, -31129, "rate_limit_error", retryable=True),
    "over_budget": Wire(412, -31112, "insufficient_quota"),
    "client_gone": Wire(499, -31099, "api_error"),
    "cancelled": Wire(499, -31098, "api_error"),
    "unavailable": Wire(503, -31103, "api_error", retryable=True),
    "unrecorded": Wire(503, -31104, "api_error"),
    "upstream_unreachable": Wire(502, -31105, "api_error", retryable=True),
    "upstream_failed": Wire(502, -31106, "api_error"),
    "upstream_timeout": Wire(504, -31107, "api_error"),
    "fetch_refused": Wire(400, -31022, "invalid_request_error"),
    "fetch_failed": Wire(502, -31108, "api_error", retryable=True),
    "internal": Wire(500, -32603, "api_error"),
    "usage": Wire(400, -32602, "invalid_request_error"),
}


class GatewayError(Exception):
    """Something that ends a request (or a command), with its public words."""

    code: ClassVar[str] = "internal"

    def __init__(
        self, message: str, *, fix: str = "", data: Mapping[str, Any] | None = None, cause: BaseException | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.data: Mapping[str, Any] = data or {}
        self.receipt: Receipt | None = None
        if cause is not None:
            self.__cause__ = cause

    @property
    def wire(self) -> Wire:
        return WIRE[self.code]

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message


class ParseError(GatewayError):
    """The body is not JSON, or not as every parser reads it."""

    code = "parse_error"


class InvalidRequest(GatewayError):
    """The message or request is not of the shape that this endpoint takes."""

    code = "invalid_request"


class InvalidParams(GatewayError):
    """A parameter is missing, of another type, or out of bounds."""

    code = "invalid_params"


class UnknownName(GatewayError):
    """A name nobody has, or that this caller may not see: the two look alike on purpose."""

    code = "unknown_name"


class MethodNotFound(GatewayError):
    """No such method, or none that this endpoint offers."""

    code = "method_not_found"


class HeaderMismatch(GatewayError):
    """A header that repeats part of the body says something else."""

    code = "header_mismatch"


class MissingCapability(GatewayError):
    """The client did not declare a capability that this needs."""

    code = "missing_capability"


class UnsupportedVersion(GatewayError):
    """`data.supported` lists the protocol versions that are spoken here."""

    code = "unsupported_version"


class EraCrossing(GatewayError):
    """Client and server are of different protocol generations and the translation is missing."""

    code = "era_crossing"


class RequestTimeout(GatewayError):
    """The client was too slow to send its request."""

    code = "request_timeout"


class TooLarge(GatewayError):
    """The request is larger than a limit allows."""

    code = "too_large"


class ForbiddenOrigin(GatewayError):
    """A web page of an origin that is not listed called."""

    code = "forbidden_origin"


class BadHost(GatewayError):
    """The Host header names a host that is not served here."""

    code = "bad_host"


class NotFound(GatewayError):
    """No such thing, or path."""

    code = "not_found"


class Conflict(GatewayError):
    """The state of things forbids this change, or was changed meanwhile."""

    code = "conflict"


class UnsupportedMedia(GatewayError):
    """The body has another media type or coding than what is read here."""

    code = "unsupported_media"


class NotAcceptable(GatewayError):
    """The client does not accept what would be sent."""

    code = "not_acceptable"


class MethodNotAllowed(GatewayError):
    """The path has no such HTTP method."""

    code = "method_not_allowed"


class UnknownSession(GatewayError):
    """No such session, or another caller's: the two look alike on purpose."""

    code = "unknown_session"


class Unauthenticated(GatewayError):
    """No credential, or one that is not valid here."""

    code = "unauthenticated"


class PageError(InvalidRequest):
    """An authorization request that must not be answered by a redirect: client or redirect_uri are not to be trusted.

    The user is shown a page. `error` is the code that the log has.
    """

    def __init__(self, message: str, *, fix: str = "", error: str = "invalid_request") -> None:
        super().__init__(message, fix=fix)
        self.error = error


class RedirectError(InvalidRequest):
    """An authorization request that is refused by a redirect to the client: `location`, which has `error` and `iss`."""

    def __init__(self, message: str, *, error: str, location: str) -> None:
        super().__init__(message)
        self.error = error
        self.location = location


class InsufficientScope(GatewayError):
    """`data.scope` names every scope that the operation needs, space separated."""

    code = "insufficient_scope"


class Denied(GatewayError):
    """The policy said no. `data` holds decision_id, effect and rule."""

    code = "denied"


class ConsentNeeded(GatewayError):
    """The caller has to agree in a browser before the server can be called in their name.

    `data` holds `url`, where they do that, `elicitation_id`, which names the request, `message`, for the person, and
    `principal`, who it is for (`Principal.key`).
    """

    code = "consent_needed"


class Killed(GatewayError):
    """A kill switch stands in the way. `data` holds reason "killed" and the switch id."""

    code = "killed"

    @classmethod
    def by(cls, switch: KillSwitch) -> Killed:
        return cls(
            f"stopped by kill switch {switch.id} ({switch.scope.value} {switch.selector})",
            fix="ask the operator of this gateway; `mcpgw kills` shows the reason",
            data={"reason": "killed", "switch": switch.id},
        )


class Quarantined(GatewayError):
    """The tool changed after it was approved."""

    code = "quarantined"


class RateLimited(GatewayError):
    """`data.retry_after_s` is the time after which a retry may succeed."""

    code = "rate_limited"


class OverBudget(GatewayError):
    """The budget is used up."""

    code = "over_budget"


class ClientGone(GatewayError):
    """The client went away before its answer."""

    code = "client_gone"


class Cancelled(GatewayError):
    """The client cancelled the call."""

    code = "cancelled"


class Unavailable(GatewayError):
    """The store, the audit log or the policy cannot be relied on now: nothing is let through."""

    code = "unavailable"


class Unrecorded(GatewayError):
    """The call was carried out but its outcome could not be recorded, so the answer is withheld. Not retryable."""

    code = "unrecorded"


class UpstreamUnreachable(GatewayError):
    """Nothing was sent."""

    code = "upstream_unreachable"


class UpstreamFailed(GatewayError):
    """The upstream died, or answered rubbish, after the request was sent."""

    code = "upstream_failed"


class CredentialRefused(UpstreamFailed):
    """The upstream does not accept the credential that the gateway has for it (HTTP 401, or 403 for want of scopes).

    `challenge` is its `WWW-Authenticate`, for the broker alone.
    """

    challenge: str = ""


class UpstreamTimeout(GatewayError):
    """The upstream did not answer in time; what it did is unknown."""

    code = "upstream_timeout"


class FetchRefused(GatewayError):
    """A URL that someone else chose, and that the gateway will not ask for. Nothing was sent there."""

    code = "fetch_refused"


class FetchFailed(GatewayError):
    """A URL that someone else chose was asked, in vain: no answer, or none of the kind that was asked for."""

    code = "fetch_failed"


class Internal(GatewayError):
    """A fault of the gateway; its log has the details."""

    code = "internal"


class UsageError(GatewayError):
    """Configuration or command line that cannot be used."""

    code = "usage"


class WorldMoved(Exception):
    """Not an answer: the published epoch is newer than the verdict, which must be made again."""
