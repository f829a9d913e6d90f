"""What a call of a tool is about, on an endpoint over several servers: its server, its own name, its final arguments.

A toolset has names and argument values of its own, and an endpoint with search lists two tools that stand for all the
others. Here a call becomes what the server will get, before it is an action: that is judged, recorded and sent.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from mcpgw.domain import CALL_TOOL, FIND_TOOL, Arguments, Binding, Offer, Selected, Selection, Values, Verb
from mcpgw.domain.values import value
from mcpgw.edge.mcp_request import McpRequest
from mcpgw.ports import Catalog

_NOTHING = Binding()
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode


@value(frozen=True, slots=True, kw_only=True)
class Called:
    """What a call comes to. `server` None: there is no such tool, or the gateway itself answers (`verb`)."""

    verb: Verb = Verb.TOOLS_CALL
    server: str | None = None
    name: str
    arguments: Arguments
    selected: Selected | None = None


class _CallTool(msgspec.Struct):
    """The arguments of `call_tool`."""

    name: str
    arguments: dict[str, msgspec.Raw] | None = None


_call_tool = msgspec.json.Decoder(_CallTool).decode


def called(catalog: Catalog, toolset: str | None, request: McpRequest) -> Called:
    """Return what a call on the endpoint of a toolset (None: over all servers) comes to."""
    name, arguments = request.name or "", request.arguments
    selection = catalog.selection(toolset)
    if selection is not None and selection.search:
        if name == CALL_TOOL:
            return _by_search(catalog, selection, arguments)
        if name == FIND_TOOL:
            return Called(verb=Verb.TOOLS_SEARCH, name=name, arguments=arguments)
        return Called(name=name, arguments=arguments)  # what is not listed cannot be called
    if toolset is not None:
        offer = selection.find(name) if selection is not None else None
        return _offered(offer, name, arguments, by_search=False)
    found = catalog.find(name)
    if found is None:
        return Called(name=name, arguments=arguments)
    return Called(server=found[0], name=found[1], arguments=arguments)


def merged(arguments: bytes, defaults: Values, pinned: Values) -> bytes:
    """Return an object with the pinned members, and with the default ones that it lacks; all it has stays as it is."""
    if not defaults and not pinned:
        return arguments
    given = _members(arguments)
    added = [*pinned, *((name, raw) for name, raw in defaults if name not in given)]
    if not added:
        return arguments
    inner = arguments.strip()[1:-1].strip()
    return b"{%b}" % b",".join([*([inner] if inner else []), *_written(added)])


def _by_search(catalog: Catalog, selection: Selection, arguments: Arguments) -> Called:
    try:
        asked = _call_tool(arguments.raw)
        given = _members(arguments.raw).get("arguments", msgspec.Raw(b"{}"))
    except msgspec.DecodeError:
        return Called(verb=Verb.TOOLS_SEARCH, name=CALL_TOOL, arguments=arguments)
    inner = Arguments(bytes(given)) if asked.arguments is not None else Arguments()
    if selection.toolset is not None:
        return _offered(selection.find(asked.name), asked.name, inner, by_search=True)
    server, name = catalog.find(asked.name) or (None, asked.name)
    return Called(server=server, name=name, arguments=inner, selected=Selected(name=asked.name, by_search=True))


def _offered(offer: Offer | None, name: str, arguments: Arguments, *, by_search: bool) -> Called:
    """Return the call of a tool as a toolset offers it, with the values that the toolset has for it."""
    if offer is None:
        return Called(name=name, arguments=arguments, selected=Selected(name=name, by_search=by_search))
    bound = offer.binding or _NOTHING
    overridden: tuple[str, ...] = ()
    if bound.sha256:
        given = _members(arguments.raw)
        overridden = tuple(pinned for pinned, _ in bound.pinned if pinned in given)
        if not overridden:
            arguments = Arguments(merged(arguments.raw, bound.defaults, bound.pinned))
    return Called(
        server=offer.version.server,
        name=offer.tool.name,
        arguments=arguments,
        selected=Selected(name=name, sha256=bound.sha256, by_search=by_search, overridden=overridden),
    )


def _written(values: Iterable[tuple[str, bytes]]) -> list[bytes]:
    return [b"%b:%b" % (_encode(name), raw) for name, raw in values]
