"""Who may do what at each route: the table that docs/reference/access.md shows and tests/e2e/test_access.py asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mcpgw.auth.scopes import BUILT_IN
from mcpgw.edge.admin import PREFIX
from mcpgw.edge.admin_routes import OPERATIONS
from mcpgw.edge.llm import METHODS as LLM_METHODS

NOBODY, OTHER_TEAM = "no credential", "agent of another team"
CREDENTIALS = (NOBODY, "agent", "auditor", "operator", "admin", OTHER_TEAM)
YES, OPEN, EMPTY, UNKNOWN, NONE = "yes", "open", "empty", "unknown", "none"
UNAUTHENTICATED, FORBIDDEN = "401", "403"


@dataclass(frozen=True)
class Row:
    """One route, and what each credential gets there. `open_status` is that of an open route without any content."""

    method: str
    path: str
    gets: Mapping[str, str]
    needs: str
    open_status: int = 0


def _row(method: str, path: str, needs: str, *gets: str) -> Row:
    return Row(method, path, dict(zip(CREDENTIALS, (UNAUTHENTICATED, *gets), strict=True)), needs)


def _for_agents(method: str, path: str, needs: str, other_team: str) -> Row:
    return _row(method, path, needs, YES, FORBIDDEN, FORBIDDEN, FORBIDDEN, other_team)


def _open(method: str, path: str, why: str, status: int) -> Row:
    return Row(method, path, dict.fromkeys(CREDENTIALS, OPEN), why, status)


USING: Sequence[Row] = (
    _for_agents("POST", "/mcp", "`mcp:use`", EMPTY),
    _for_agents("POST", "/mcp/{server}", "`mcp:use`", UNKNOWN),
    _for_agents("POST", "/mcp/{server}@{version}", "`mcp:use`", UNKNOWN),
    _for_agents("POST", "/mcp/{toolset}", "`mcp:use`", UNKNOWN),
    _row("POST", "/mcp/{nobody's}", "", *[UNKNOWN] * 5),
    *(
        _row(method, path, "`mcp:use`, and the agent's own session", YES, *[UNKNOWN] * 4)
        for path in ("/mcp", "/mcp/{server}")
        for method in ("GET", "DELETE")
    ),
    *(
        _for_agents(method, path.decode(), "`llm:use`", EMPTY if method == "GET" else UNKNOWN)
        for path, method in LLM_METHODS.items()
    ),
)

ADMINISTERING: Sequence[Row] = (
    *(
        _row(
            row.method,
            PREFIX + row.path,
            f"`{row.scope}`",
            *(
                YES if row.scope in BUILT_IN[role] else FORBIDDEN
                for role in ("agent", "auditor", "operator", "admin", "agent")
            ),
        )
        for row in OPERATIONS
    ),
    _row("GET", PREFIX + "/{anything else}", "", *[NONE] * 5),
)

_ALIVE = "tells nothing of any server or caller"
_DISCOVERY = "how a client finds out where to get a token; the same for servers that do not exist"
_CLIENT = "the client proves itself in the request, as the standard has it"
_REGISTRATION = "where `auth.server.registration` is on; what is registered may do nothing without a person's consent"
_OWN_TOKEN = "the registration access token of that client"
_PAGE = "a page: a browser's session, a password, or a value sealed for that person says who it is"
_POSTED = "the same, from our own page alone"
ENTERING: Sequence[Row] = (
    _open("GET", "/healthz", _ALIVE, 200),
    _open("GET", "/readyz", _ALIVE, 200),
    _open("GET", "/admin/openapi.json", "describes the admin API", 200),
    _open("GET", "/.well-known/oauth-protected-resource", _DISCOVERY, 200),
    _open("GET", "/.well-known/oauth-protected-resource/{path:path}", _DISCOVERY, 404),
    _open("GET", "/.well-known/oauth-authorization-server", _DISCOVERY, 200),
    _open("GET", "/.well-known/openid-configuration", _DISCOVERY, 200),
    _open("GET", "/.well-known/jwks.json", "public keys", 200),
    _open("POST", "/oauth/token", _CLIENT, 400),
    _open("POST", "/oauth/par", _CLIENT, 400),
    _open("POST", "/oauth/introspect", _CLIENT, 400),
    _open("POST", "/oauth/revoke", _CLIENT, 400),
    _open("POST", "/oauth/register", _REGISTRATION, 400),
    *(_open(method, "/oauth/register/{client_id}", _OWN_TOKEN, 401) for method in ("GET", "PUT", "DELETE")),
    _open("GET", "/oauth/authorize", _PAGE, 400),
    _open("GET", "/oauth/consent", _PAGE, 400),
    _open("POST", "/oauth/consent", _POSTED, 403),
    _open("GET", "/oauth/sign-in", _PAGE, 200),
    _open("POST", "/oauth/sign-in", _POSTED, 403),
    _open("GET", "/oauth/sign-in/provider", _PAGE, 400),
    _open("GET", "/oauth/sign-in/callback", _PAGE, 400),
    _open("POST", "/oauth/sign-out", _POSTED, 403),
    _open("GET", "/oauth/style.css", "how the pages look", 200),
    _open("GET", "/oauth/connect/{slug:str}", _PAGE, 400),
    _open("POST", "/oauth/connect/{slug:str}", _POSTED, 403),
    _open("GET", "/oauth/callback/{slug:str}", _PAGE, 400),
    _open("GET", "/oauth/connections", _PAGE, 200),
    _open("POST", "/oauth/connections", _POSTED, 403),
    _open("GET", "/oauth/client-metadata/{slug:str}.json", "what the gateway says of itself to others", 200),
    _open("GET", "/console", _PAGE, 303),
    _open("GET", "/console/", _PAGE, 303),
    _open("POST", "/console/revoke", _POSTED, 403),
    Row("GET", "/{anything else}", dict.fromkeys(CREDENTIALS, NONE), "", 404),
)


def rows() -> Iterator[Row]:
    """Yield every row."""
    yield from (*USING, *ADMINISTERING, *ENTERING)
