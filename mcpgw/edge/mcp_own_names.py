"""Prompts and resources that a request on an endpoint over several servers names, as their server knows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mcpgw.domain import Verb
from mcpgw.domain.values import value
from mcpgw.edge.mcp_prompts import PromptNames
from mcpgw.edge.mcp_request import McpRequest
from mcpgw.edge.mcp_uris import own_uri

OVER_ALL = frozenset(
    {
        Verb.INITIALIZE,
        Verb.DISCOVER,
        Verb.PROMPTS_LIST,
        Verb.RESOURCES_LIST,
        Verb.RESOURCE_TEMPLATES_LIST,
        Verb.LISTEN,
    }
)
"""What concerns every server of such an endpoint at once."""

TakesIn = Callable[[str], bool]
"""Whether the endpoint is over this server too."""

_BY_URI = frozenset({Verb.RESOURCES_READ, Verb.RESOURCES_SUBSCRIBE, Verb.RESOURCES_UNSUBSCRIBE})
_encode = msgspec.json.encode


@value(frozen=True, slots=True)
class OwnNames:
    """`server` None: nothing that there is, or nothing of one server alone."""

    server: str | None
    name: str | None
    forwarded: Mapping[str, bytes]


def own_names(request: McpRequest, prompts: PromptNames, takes_in: TakesIn) -> OwnNames:
    """Return what a request names; its forwarded parameters name the same things."""
    verb, name, forwarded = request.verb, request.name, request.forwarded
    if verb is Verb.COMPLETE:
        return _completed(request, prompts, takes_in)
    if verb is Verb.LISTEN:
        return OwnNames(None, None, _watched(request, takes_in))
    found: tuple[str, str | None] | None = None
    if name is not None and verb in _BY_URI:
        found = own_uri(name)
    elif name is not None and verb is Verb.PROMPTS_GET:
        found = prompts.own(name)
    if found is None or found[1] is None or not takes_in(found[0]):
        return OwnNames(None, name, forwarded)
    return OwnNames(*found, forwarded)


def prompt_of(request: McpRequest) -> str | None:
    """Return the prompt that a request names, under the name that it uses."""
    named = request.name if request.verb is Verb.PROMPTS_GET else _ref(request).get("name")
    return named if isinstance(named, str) else None


def shown_name(request: McpRequest) -> str | None:
    """Return what a request names, or what it completes, as it does."""
    ref = _ref(request)
    found = request.name if request.verb is not Verb.COMPLETE else ref.get("name", ref.get("uri"))
    return found if isinstance(found, str) else None


def _ref(request: McpRequest) -> Mapping[str, Any]:
    ref = request.params.get("ref") if request.verb is Verb.COMPLETE else None
    return ref if isinstance(ref, dict) else {}


def _completed(request: McpRequest, prompts: PromptNames, takes_in: TakesIn) -> OwnNames:
    """A reference has a prompt's name or a resource's URI; should it have both, they are of one server."""
    ref = _ref(request)
    servers: set[str | None] = set()
    own: dict[str, Any] = {}
    for member, resolve in (("name", prompts.own), ("uri", own_uri)):
        shown = ref.get(member)
        if shown is None:
            continue
        server, found = (resolve(shown) if isinstance(shown, str) else None) or (None, None)
        servers.add(server if found is not None else None)
        own[member] = found
    server = servers.pop() if len(servers) == 1 else None
    if server is None or not takes_in(server):
        return OwnNames(None, None, request.forwarded)
    return OwnNames(server, None, {**request.forwarded, "ref": _encode({**ref, **own})})


def _watched(request: McpRequest, takes_in: TakesIn) -> Mapping[str, bytes]:
    """Return the parameters of a subscription: the URIs that it is for stand apart, as each server's own."""
    wanted = request.params.get("notifications")
    if not isinstance(wanted, dict) or "resourceSubscriptions" not in wanted:
        return request.forwarded
    watched: dict[str, list[str]] = {}
    uris = wanted["resourceSubscriptions"]
    for shown in uris if isinstance(uris, list) else ():
        found = own_uri(shown) if isinstance(shown, str) else None
        if found is not None and takes_in(found[0]):
            watched.setdefault(found[0], []).append(found[1])
    lists = {name: asked for name, asked in wanted.items() if name != "resourceSubscriptions"}
    return {**request.forwarded, "notifications": _encode(lists), "#watched": _encode(watched)}
