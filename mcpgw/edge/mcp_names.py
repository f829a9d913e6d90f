"""What a request names, as the server that it concerns knows it.

An endpoint over several servers shows names of its own; here they become a server and its own name again, before the
request is an action: what is judged, recorded and sent bears the server's names alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from mcpgw.domain import Arguments, Selected, Verb
from mcpgw.domain.values import value
from mcpgw.edge.mcp_own_names import OVER_ALL, own_names, prompt_of
from mcpgw.edge.mcp_prompts import PromptNames
from mcpgw.edge.mcp_request import McpRequest
from mcpgw.edge.mcp_sessions import Session
from mcpgw.edge.mcp_toolsets import called
from mcpgw.ports import Catalog
from mcpgw.request_state import RequestStates
from mcpgw.task_ids import TaskIds


@value(frozen=True, slots=True)
class ClientNames:
    """Reads what clients call things by names of the gateway's own: prompts of several servers, tasks, held calls."""

    prompts: PromptNames
    task_ids: TaskIds
    states: RequestStates


@value(frozen=True, slots=True)
class Named:
    """The server, the thing on it, and the parameters of an action. `server` None: no server alone is concerned.

    `verb` None: that of the request. `selected` as in Action.
    """

    server: str | None
    name: str | None
    arguments: Arguments
    forwarded: Mapping[str, bytes]
    verb: Verb | None = None
    selected: Selected | None = None


def named(
    catalog: Catalog,
    server: str | None,
    request: McpRequest,
    session: Session | None,
    toolset: str | None = None,
    prompts: PromptNames | None = None,
) -> Named:
    """Return what a request on the endpoint of `server` (None: of `toolset`, or else over all servers) names."""
    verb, name, forwarded = request.verb, request.name, request.forwarded
    if server is None and name is not None and verb is Verb.TOOLS_CALL:
        call = called(catalog, toolset, request)
        return Named(call.server, call.name, call.arguments, forwarded, call.verb, call.selected)
    if verb is Verb.ANSWER and session is not None and request.id in session.asked:
        server, upstream_id = session.asked[request.id]
        name, forwarded = upstream_id.decode(), {**forwarded, "id": upstream_id}
    elif server is None:
        own = own_names(request, prompts or _UNREMEMBERED, partial(_takes_in, catalog, toolset))
        server, name, forwarded = own.server, own.name, own.forwarded
    if verb is Verb.LISTEN and request.id is not None:
        forwarded = {**forwarded, "#id": request.id}
    return Named(server, name, request.arguments, forwarded)


def servers_of(catalog: Catalog, request: McpRequest, toolset: str | None, prompts: PromptNames) -> Collection[str]:
    """Return the servers that a request on an endpoint over several may come to need."""
    if request.verb in OVER_ALL:
        selection = catalog.selection(toolset) if toolset is not None else None
        named_ones = selection.servers if selection is not None else None
        return named_ones if named_ones is not None else {version.server for version in catalog.active()}
    shortened = prompts.own(prompt_of(request) or "")
    found = shortened[0] if shortened is not None else named(catalog, None, request, None, toolset, prompts).server
    return () if found is None else (found,)


_UNREMEMBERED = PromptNames()


def _takes_in(catalog: Catalog, toolset: str | None, server: str) -> bool:
    if toolset is None:
        return True
    selection = catalog.selection(toolset)
    return selection is not None and selection.takes_in(server)
