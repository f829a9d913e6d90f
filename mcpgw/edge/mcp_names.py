"""What a request names, as the server that it concerns knows it.

An endpoint over several servers shows names of its own; here they become a server and its own name again, before the
request is an action: what is judged, recorded and sent bears the server's names alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from mcpgw.domain import VERBS, Arguments, Subject, Verb
from mcpgw.domain.values import value
from mcpgw.edge.mcp_request import McpRequest
from mcpgw.edge.mcp_sessions import Session
from mcpgw.ports import Catalog


@value(frozen=True, slots=True)
class Named:
    """The server, the thing on it, and the parameters of an action. `server` None: no server alone is concerned."""

    server: str | None
    name: str | None
    arguments: Arguments
    forwarded: Mapping[str, bytes]


def named(catalog: Catalog, server: str | None, request: McpRequest, session: Session | None) -> Named:
    """Return what a request on the endpoint of `server` (None: over all servers) names."""
    verb, name, forwarded = request.verb, request.name, request.forwarded
    if server is None and name is not None and VERBS[verb].subject is Subject.TOOL:
        found = catalog.find(name)
        if found is not None:
            server, name = found
    elif verb is Verb.ANSWER and session is not None and request.id in session.asked:
        server, upstream_id = session.asked[request.id]
        name, forwarded = upstream_id.decode(), {**forwarded, "id": upstream_id}
    elif verb is Verb.LISTEN and request.id is not None:
        forwarded = {**forwarded, "#id": request.id}
    return Named(server, name, request.arguments, forwarded)
