"""The endpoints that a token can be for, as paths and as the URLs that clients know."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from mcpgw.auth.scopes import ADMIN_SCOPES
from mcpgw.errors import UsageError

MCP = "/mcp"
LLM = "/v1"
ADMIN = "/admin/v1"

_UNDER = {MCP: "/mcp/", LLM: "/v1/", ADMIN: "/admin/v1/"}
_ONE_SERVER = re.compile(r"/mcp/[a-z0-9](?:[a-z0-9-]{0,22}[a-z0-9])?(?:@[0-9A-Za-z.+-]{1,64})?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def endpoint_of(path: str) -> str | None:
    """Return the endpoint that a request path belongs to, or None.

    By its shape alone: whether a server of that name exists is for those to know who may see it.
    """
    for root in (LLM, ADMIN):
        if path == root or path.startswith(_UNDER[root]):
            return root
    return path if path == MCP or _ONE_SERVER.fullmatch(path) else None


def opens(audience: str, path: str) -> bool:
    """Whether a token for the endpoint `audience` opens `path`: `/mcp` opens `/mcp/notes`, never the reverse."""
    if audience == path:
        return True
    under = _UNDER.get(audience)
    return under is not None and path.startswith(under)


def scopes_at(endpoint: str) -> frozenset[str]:
    """Return the scopes that mean something at an endpoint."""
    if endpoint == ADMIN:
        return ADMIN_SCOPES
    return frozenset({"llm:use" if endpoint == LLM else "mcp:use"})


class Endpoints:
    """The endpoints of the gateway at `base_url`, which is also its issuer identifier (RFC 8414 §2)."""

    def __init__(self, base_url: str) -> None:
        self.base = base_url.rstrip("/")
        parts = urlsplit(self.base)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.path or parts.query or parts.fragment:
            # Well-known documents live at the root of a host (RFC 8615 §3), where a gateway below a path has no say.
            raise UsageError(
                f"server.public_url {base_url} is not the root of a host",
                fix="use a host of its own: https://mcp.example",
            )
        self._origin = _origin(parts)

    def url(self, endpoint: str) -> str:
        return self.base + endpoint

    def path_of(self, url: str) -> str | None:
        """Return the endpoint that `url` names, or None. Case counts in the path alone (RFC 3986 §6.2.2.1)."""
        try:
            parts = urlsplit(url)
            ours = _origin(parts) == self._origin
        except ValueError:
            return None
        if not ours or parts.query or "#" in url or "?" in url:
            return None
        return parts.path if endpoint_of(parts.path) == parts.path else None

    def metadata_url(self, endpoint: str) -> str:
        """Return where RFC 9728 §3.1 has the metadata of an endpoint."""
        return f"{self.base}/.well-known/oauth-protected-resource{endpoint}"


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    if "@" in parts.netloc:
        raise ValueError("a URL with a user name")
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
