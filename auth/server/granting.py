"""What the grants of the token endpoint have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mcpgw.auth.access_tokens import NewToken
from mcpgw.auth.endpoints import MCP, Endpoints
from mcpgw.auth.server.refusals import Refused
from mcpgw.domain import OAuthClient

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - the name of a kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A token that may be issued now. `principal` is whom it will stand for, as `issuer|subject`.

    `members` are what the answer has besides (RFC 8693 §2.2.1), `detail` what the log has.
    """

    token: NewToken
    principal: str
    refresh_token: str | None = field(default=None, repr=False)
    members: Mapping[str, Any] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)


class GrantType(Protocol):
    """One grant of the token endpoint, for clients that have proved themselves and may use it."""

    async def grant(self, client: OAuthClient, form: Mapping[str, str]) -> Granted:
        """Return what the form entitles to. Raises Refused, and GatewayError when that cannot be known now."""
        ...


def endpoint_asked(endpoints: Endpoints, form: Mapping[str, str]) -> str | None:
    """Return the path of the endpoint that `resource` names, None when it is left out. Raises Refused."""
    if "resource" not in form:
        return None
    endpoint = endpoints.path_of(form["resource"])
    if endpoint is None:
        raise Refused("invalid_target", "resource is not an endpoint of this gateway")  # RFC 8707 §2
    return endpoint


def endpoint_or_all(endpoints: Endpoints, form: Mapping[str, str]) -> str:
    """Return the endpoint that is asked for: the one over all servers when the form names none."""
    return endpoint_asked(endpoints, form) or MCP


def scope_text(scopes: frozenset[str]) -> str:
    return " ".join(sorted(scopes))


def asked_scopes(form: Mapping[str, str]) -> frozenset[str] | None:
    return frozenset(form["scope"].split()) if "scope" in form else None
