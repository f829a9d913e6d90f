"""What a server says of its resources and prompts, as a client of an endpoint over several servers is shown it.

Only the places where the protocol has a resource's URI or a prompt's name are written anew; all other bytes stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import msgspec
from msgspec import Raw

from mcpgw.domain import Part, PartKind, Verb
from mcpgw.edge.mcp_prompts import PromptNames
from mcpgw.edge.mcp_uris import shown_uri

# What ends the members `uri` and `resourceUri`, and next to no prose: without it there is nothing to look for.
_MARK = b'ri"'
_UPDATED = b"notifications/resources/updated"
_TASK_CHANGED = b'"notifications/tasks"'
_APP_KEY = "ui/resourceUri"  # of MCP Apps before 2026-01-26; since then `ui.resourceUri`

Members = dict[str, Raw]
Rewrite = Callable[[Raw], Raw]

_encode = msgspec.json.encode
_members = msgspec.json.Decoder(Members).decode
_items = msgspec.json.Decoder(list[Raw]).decode
_text = msgspec.json.Decoder(str).decode


class ShownNames:
    """Implements `ports.Shown`."""

    def __init__(self, prompts: PromptNames) -> None:
        self._prompts = prompts

    def uri(self, server: str, uri: str) -> str:
        return shown_uri(server, uri)

    def item(self, verb: Verb, server: str, item: bytes) -> bytes:
        if verb is Verb.PROMPTS_LIST:
            return bytes(_within(Raw(item), "name", _rewritten(partial(self._prompts.shown, server))))
        member = "uriTemplate" if verb is Verb.RESOURCE_TEMPLATES_LIST else "uri"
        return bytes(_within(Raw(item), member, _uri_of(server)))

    def tool(self, server: str, definition: bytes) -> bytes:
        return _shown_tool(server, definition) if _MARK in definition else definition

    def event(self, server: str, message: bytes) -> bytes:
        return shown_event(server, message)


def shown_part(server: str, verb: Verb, part: Part) -> bytes:
    """Return the body of a part of this server's answer with the URIs under which the client knows its resources."""
    body = part.body
    if _MARK not in body:
        return body
    if part.kind is PartKind.EVENT:
        return shown_event(server, body)
    if part.error_code is not None:
        return bytes(_within(Raw(body), "data", partial(_within, member="uri", rewrite=_uri_of(server))))
    return bytes(_result(server, verb, Raw(body)))


def shown_event(server: str, message: bytes) -> bytes:
    """Return a message of this server; of notifications updates name a resource, and the result of a task may."""
    if _TASK_CHANGED in message:
        return bytes(_within(Raw(message), "params", partial(_result, server, Verb.TASKS_GET)))
    if _UPDATED not in message:
        return message
    return bytes(_within(Raw(message), "params", partial(_within, member="uri", rewrite=_uri_of(server))))


@lru_cache(maxsize=4096)
def _shown_tool(server: str, definition: bytes) -> bytes:
    return bytes(_app(server, Raw(definition)))


def _result(server: str, verb: Verb, result: Raw) -> Raw:
    uri = _uri_of(server)
    if verb is Verb.RESOURCES_READ:
        return _within(result, "contents", partial(_each, rewrite=partial(_within, member="uri", rewrite=uri)))
    content = partial(_content, uri=uri)
    if verb is Verb.PROMPTS_GET:
        message = partial(_within, member="content", rewrite=partial(_one_or_each, rewrite=content))
        return _within(result, "messages", partial(_each, rewrite=message))
    if verb is Verb.TASKS_GET:
        return _within(result, "result", partial(_result, server, Verb.TOOLS_CALL))
    if verb is Verb.TOOLS_CALL:
        return _app(server, _within(result, "content", partial(_each, rewrite=content)))
    return result


def _content(block: Raw, uri: Rewrite) -> Raw:
    """A resource link has its URI, an embedded resource the resource's."""
    block = _within(block, "resource", partial(_within, member="uri", rewrite=uri))
    return _within(block, "uri", uri)


def _app(server: str, holder: Raw) -> Raw:
    uri = _uri_of(server)
    ui = partial(_within, member="ui", rewrite=partial(_within, member="resourceUri", rewrite=uri))
    return _within(holder, "_meta", lambda meta: ui(_within(meta, _APP_KEY, uri)))


def _uri_of(server: str) -> Rewrite:
    return _rewritten(partial(shown_uri, server))


def _rewritten(shown: Callable[[str], str]) -> Rewrite:
    def rewrite(value: Raw) -> Raw:
        try:
            return Raw(_encode(shown(_text(value))))
        except msgspec.DecodeError:  # not a string
            return value

    return rewrite


def _within(holder: Raw, member: str, rewrite: Rewrite) -> Raw:
    """Return the object with one member written anew; as it is when it has none, or is no object."""
    found = _object(holder)
    if found is None or member not in found:
        return holder
    return Raw(_encode({**found, member: rewrite(found[member])}))


def _each(holder: Raw, rewrite: Rewrite) -> Raw:
    try:
        return Raw(_encode([rewrite(item) for item in _items(holder)]))
    except msgspec.DecodeError:
        return holder


def _one_or_each(holder: Raw, rewrite: Rewrite) -> Raw:
    return rewrite(holder) if _object(holder) is not None else _each(holder, rewrite)


def _object(holder: Raw) -> Mapping[str, Raw] | None:
    try:
        return _members(holder)
    except msgspec.DecodeError:
        return None
