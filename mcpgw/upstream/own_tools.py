"""Lists of tools as the gateway answers them: in pages, or as a search that answers calls of `find_tool`."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

import msgspec

from mcpgw.domain import CALL_TOOL, FIND_TOOL, Action, Listing, Offer, Part, PartKind
from mcpgw.errors import InvalidParams
from mcpgw.upstream.mcp_translate import legacy_tool, modern_tool

Shown = Callable[[Offer], bytes]
"""Return the definition of a tool as its endpoint shows it."""
Linked = Callable[[str, bytes], bytes]
"""Return the definition of a server's tool with the URIs that an endpoint over several servers shows."""
Find = Callable[[Listing, str, int, str | None], Awaitable[tuple[list[Offer], int]]]
"""Return the tools that match a query best, at most so many, and how many match; of one server if it is named."""

KEPT_BYTES = 262_144
"""A longer page is put together anew for each answer: sending it takes longer, and every caller may have another."""
_MARK = b"after:"
_TOLD = ("name", "title", "description", "inputSchema")
_encode = msgspec.json.encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Query(msgspec.Struct, forbid_unknown_fields=True):
    """The arguments of `find_tool`."""

    query: Annotated[str, msgspec.Meta(min_length=1)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=50)] = 10
    server: str | None = None


_query = msgspec.json.Decoder(_Query).decode

_SEARCH = [
    {
        "name": FIND_TOOL,
        "title": "Find tools",
        "description": "Find tools by what they do. Answers with the names, descriptions and input schemas of those "
        f"that match best; call one of them with {CALL_TOOL}.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "What the tool should do, in a few words."},
                "limit": {"type": "integer", "minimum": 1, "maximum": 50, "default": 10},
                "server": {"type": "string", "description": "Only tools of this server (its slug)."},
            },
            "required": ["query"],
            "additionalProperties": False,
        },
        "annotations": {"readOnlyHint": True, "openWorldHint": False},
    },
    {
        "name": CALL_TOOL,
        "title": "Call a tool",
        "description": f"Call a tool that {FIND_TOOL} has found.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": f"Its name, as {FIND_TOOL} gives it."},
                "arguments": {"type": "object", "description": "What its input schema asks for."},
            },
            "required": ["name"],
            "additionalProperties": False,
        },
    },
]


class OwnTools:
    """Answers `tools/list` and `tools/search`; pages have `page_tools` tools."""

    def __init__(self, shown: Shown, find: Find, page_tools: int, linked: Linked) -> None:
        self._shown = shown
        self._linked = linked
        self._find = find
        self._page_tools = page_tools

    def listed(self, action: Action, listing: Listing) -> Part:
        """Return the page that the cursor names. Raises InvalidParams for one that is none."""
        modern = _is_modern(action)
        after = _after(action.forwarded.get("cursor"))
        if listing.search:
            return _whole(_page([_encode(tool) for tool in _SEARCH], None, modern))
        if after or len(listing.offers) > self._page_tools:
            return _whole(self._next_page(listing, after, modern))
        held: bytes | None = listing.memo.get(("page", modern))
        if held is None:
            held = _page([self._defined(listing, offer) for offer in listing.offers], None, modern)
            if len(held) <= KEPT_BYTES:
                listing.memo["page", modern] = held
        return _whole(held)

    async def found(self, action: Action, listing: Listing) -> Part:
        """Return the result of a call of `find_tool`, or of one of `call_tool` that cannot be read."""
        if action.name != FIND_TOOL:
            return _failed(action, f"{CALL_TOOL} takes `name`, a string, and `arguments`, an object")
        try:
            asked = _query(action.arguments.raw)
        except msgspec.DecodeError as error:
            return _failed(action, f"{FIND_TOOL} takes `query`, `limit` and `server`: {error}")
        best, matches = await self._find(listing, asked.query, asked.limit, asked.server)
        tools = [_told(offer, self._shown(offer)) for offer in best]
        return _result(action, _encode({"tools": tools, "matches": matches}), failed=False)

    def _next_page(self, listing: Listing, after: str, modern: bool) -> bytes:
        """Pages go by name: whatever comes or goes meanwhile, nothing else is left out or shown twice."""
        ordered: Sequence[Offer] | None = listing.memo.get("ordered")
        if ordered is None:
            ordered = listing.memo["ordered"] = sorted(listing.offers, key=_name)
        first = bisect_right(ordered, after, key=_name)
        page = ordered[first : first + self._page_tools]
        more = first + self._page_tools < len(ordered)
        tools = [self._defined(listing, offer) for offer in page]
        return _page(tools, page[-1].name if more else None, modern)

    def _defined(self, listing: Listing, offer: Offer) -> bytes:
        definition = self._shown(offer)
        return definition if listing.selection is None else self._linked(offer.version.server, definition)


def _page(tools: Sequence[bytes], last: str | None, modern: bool) -> bytes:
    cursor = b"" if last is None else b',"nextCursor":"%b"' % base64.urlsafe_b64encode(_MARK + last.encode())
    if modern:
        # Filtered by this caller's policy, and a kill must not outlive itself in a cache.
        shown = b",".join(map(modern_tool, tools))
        return b'{"resultType":"complete","tools":[%b]%b,"ttlMs":0,"cacheScope":"private"}' % (shown, cursor)
    return b'{"tools":[%b]%b}' % (b",".join(map(legacy_tool, tools)), cursor)


def _after(cursor: bytes | None) -> str:
    """Return the name behind which a page begins; an empty cursor is that of the first one."""
    try:
        text = msgspec.json.decode(cursor, type=str) if cursor is not None else ""
        decoded = base64.b64decode(text, altchars=b"-_", validate=True)
        if text and not decoded.startswith(_MARK):
            raise ValueError("not one of ours")
        return decoded.removeprefix(_MARK).decode()
    except (msgspec.DecodeError, binascii.Error, ValueError):
        raise InvalidParams("the cursor is none of this list", fix="list again from the beginning") from None


def _told(offer: Offer, definition: bytes) -> dict[str, Any]:
    members = _members(definition)
    return {**{name: members[name] for name in _TOLD if name in members}, "server": offer.version.server}


def _failed(action: Action, text: str) -> Part:
    return _result(action, None, failed=True, text=text)


def _result(action: Action, structured: bytes | None, *, failed: bool, text: str = "") -> Part:
    """Return a tool result: the structure, and as its text the same for clients that know no structures."""
    result: dict[str, Any] = {
        "content": [{"type": "text", "text": text if structured is None else structured.decode()}],
        "isError": failed,
    }
    if structured is not None:
        result["structuredContent"] = msgspec.Raw(structured)
    if _is_modern(action):
        result["resultType"] = "complete"
    return Part(PartKind.WHOLE, _encode(result), failed=failed, bare=True)


def _whole(body: bytes) -> Part:
    return Part(PartKind.WHOLE, body, bare=True)


def _is_modern(action: Action) -> bool:
    return action.client is not None and action.client.modern


def _name(offer: Offer) -> str:
    return offer.name
