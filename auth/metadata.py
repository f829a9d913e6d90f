"""What clients discover: the metadata of each endpoint (RFC 9728), of our authorization server (RFC 8414), its keys.

There is no `openid-configuration`: no ID token is issued here, and a document that says otherwise would be a lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcpgw.auth.endpoints import MCP, Endpoints, endpoint_of, scopes_at
from mcpgw.auth.scopes import ADMIN_SCOPES, AGENT_SCOPES
from mcpgw.auth.signing import SigningKeys


class Metadata:
    """The well-known documents, as JSON objects."""

    def __init__(self, endpoints: Endpoints, signing: SigningKeys) -> None:
        self._endpoints = endpoints
        self._signing = signing

    def protected_resource(self, path: str) -> Mapping[str, Any] | None:
        """Return the metadata of the endpoint at `path` ("": of `/mcp`), or None where no endpoint can be.

        A server that does not exist has the same metadata as one that does.
        """
        endpoint = path or MCP
        if endpoint_of(endpoint) != endpoint:
            return None
        return {
            "resource": self._endpoints.url(endpoint),
            "authorization_servers": [self._endpoints.base],
            "scopes_supported": sorted(scopes_at(endpoint)),
            "bearer_methods_supported": ["header"],
            "resource_name": "mcpgw",
        }

    def authorization_server(self) -> Mapping[str, Any]:
        base = self._endpoints.base
        return {
            "issuer": base,
            # No grant here uses it (it refuses every request), but the MCP SDK reads no metadata without it.
            "authorization_endpoint": f"{base}/oauth/authorize",
            "token_endpoint": f"{base}/oauth/token",
            "jwks_uri": f"{base}/.well-known/jwks.json",
            "scopes_supported": sorted(AGENT_SCOPES | ADMIN_SCOPES),
            "response_types_supported": [],
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        }

    def jwks(self) -> Mapping[str, Any]:
        return self._signing.jwks()
