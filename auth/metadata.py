"""What clients discover: the metadata of each endpoint (RFC 9728), of our authorization server (RFC 8414), its keys.

`openid-configuration` is the same document, for clients that look there first. It names nothing of OpenID Connect: no
ID token is issued here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcpgw.auth.compact import ALGORITHMS
from mcpgw.auth.endpoints import MCP, Endpoints, endpoint_of, scopes_at
from mcpgw.auth.scopes import ADMIN_SCOPES, AGENT_SCOPES
from mcpgw.auth.signing import SigningKeys

ID_JAG_PROFILE = "urn:ietf:params:oauth:grant-profile:id-jag"
_METHODS = ("client_secret_basic", "client_secret_post", "private_key_jwt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Supported:
    """What differs from one gateway to another: `documents` are clients that are URLs, `id_jag` as in auth.issuers.

    `issuers` are the others whose access tokens count here.
    """

    grants: tuple[str, ...] = ("client_credentials",)
    registration: bool = False
    documents: bool = False
    id_jag: bool = False
    issuers: tuple[str, ...] = ()


class Metadata:
    """The well-known documents, as JSON objects."""

    def __init__(self, endpoints: Endpoints, signing: SigningKeys, supported: Supported | None = None) -> None:
        self._endpoints = endpoints
        self._signing = signing
        self._supported = supported or Supported()

    def protected_resource(self, path: str) -> Mapping[str, Any] | None:
        """Return the metadata of the endpoint at `path` ("": of `/mcp`), or None where no endpoint can be.

        A server that does not exist has the same metadata as one that does.
        """
        endpoint = path or MCP
        if endpoint_of(endpoint) != endpoint:
            return None
        return {
            "resource": self._endpoints.url(endpoint),
            "authorization_servers": [self._endpoints.base, *self._supported.issuers],
            "scopes_supported": sorted(scopes_at(endpoint)),
            "bearer_methods_supported": ["header"],
            "resource_name": "mcpgw",
        }

    def authorization_server(self) -> Mapping[str, Any]:
        base, supported = self._endpoints.base, self._supported
        document: dict[str, Any] = {
            "issuer": base,
            "authorization_endpoint": f"{base}/oauth/authorize",
            "token_endpoint": f"{base}/oauth/token",
            "jwks_uri": f"{base}/.well-known/jwks.json",
            "revocation_endpoint": f"{base}/oauth/revoke",
            "introspection_endpoint": f"{base}/oauth/introspect",
            "pushed_authorization_request_endpoint": f"{base}/oauth/par",
            "scopes_supported": sorted(AGENT_SCOPES | ADMIN_SCOPES),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": sorted(supported.grants),
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
            "client_id_metadata_document_supported": supported.documents,
            **_methods("token", public=True),
            **_methods("revocation", public=True),
            **_methods("introspection", public=False),
        }
        if supported.registration:
            document["registration_endpoint"] = f"{base}/oauth/register"
        if supported.id_jag:
            document["authorization_grant_profiles_supported"] = [ID_JAG_PROFILE]
        return document

    def jwks(self) -> Mapping[str, Any]:
        return self._signing.jwks()


def _methods(endpoint: str, *, public: bool) -> Mapping[str, list[str]]:
    """Return how clients prove themselves at an endpoint (RFC 8414 §2)."""
    return {
        f"{endpoint}_endpoint_auth_methods_supported": [*_METHODS, *(["none"] if public else [])],
        f"{endpoint}_endpoint_auth_signing_alg_values_supported": sorted(ALGORITHMS),
    }
