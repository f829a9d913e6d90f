"""What a 401 and a 403 say in `WWW-Authenticate` (RFC 6750 §3, RFC 9728 §5.1)."""

from __future__ import annotations

import re

from mcpgw.auth.endpoints import MCP, Endpoints, endpoint_of, scopes_at

# RFC 6750 §3 allows these in the values of its parameters: printable ASCII without the quote and the backslash.
_FORBIDDEN = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")


class Challenges:
    """Challenges for the endpoint that a request path belongs to; a path of no endpoint is taken for `/mcp`."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    def unauthenticated(self, path: str, *, presented: bool = False) -> str:
        """Return the challenge of a 401. With `presented`, a credential came and was refused (RFC 6750 §3.1)."""
        endpoint = endpoint_of(path) or MCP
        return _bearer(
            error="invalid_token" if presented else None,
            resource_metadata=self._endpoints.metadata_url(endpoint),
            scope=" ".join(sorted(scopes_at(endpoint))),
        )

    def insufficient_scope(self, path: str, scope: str, description: str) -> str:
        """Return the challenge of a 403. `scope` names every scope that the operation needs, space separated."""
        return _bearer(
            error="insufficient_scope",
            error_description=description,
            scope=scope,
            resource_metadata=self._endpoints.metadata_url(endpoint_of(path) or MCP),
        )


def _bearer(**parameters: str | None) -> str:
    return "Bearer " + ", ".join(
        f'{name}="{_FORBIDDEN.sub("?", value)}"' for name, value in parameters.items() if value is not None
    )
