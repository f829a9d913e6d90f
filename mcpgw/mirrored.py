"""What headers repeat of a request's body (SEP-2243), for whoever routes by them without reading it.

Who does read the body compares the two, so that nobody is sent where a header says and judged by what the body says.
A tool's definition names the arguments that are repeated: `x-mcp-header` in its input schema.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from mcpgw.domain import Action, Offer, Selection, ToolPin
from mcpgw.errors import HeaderMismatch

PARAM_PREFIX = "mcp-param-"
ANNOTATION = "x-mcp-header"
_TYPES = frozenset({"string", "integer", "boolean"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_PLAIN = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_SENTINEL = re.compile(r"=\?base64\?(.*)\?=")
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Mirror:
    """An argument that a header repeats: the header's name in lower case, and the keys that lead to the argument."""

    header: str
    path: tuple[str, ...]

    def value_in(self, arguments: Mapping[str, Any]) -> Any:
        """Return the argument, None also when there is none: for a header both are the same."""
        found: Any = arguments
        for key in self.path:
            found = found.get(key) if isinstance(found, dict) else None
        return found


@lru_cache(maxsize=16_384)
def mirrors(definition: bytes) -> tuple[Mirror, ...]:
    """Return what headers repeat of a call of this tool, nearly always nothing.

    An annotation counts where the rules have it: a token, named once, on a string, integer or boolean that is reached
    through `properties` alone. Clients drop tools that have others.
    """
    if ANNOTATION.encode() not in definition:
        return ()
    found: list[Mirror] = []
    nodes: list[tuple[tuple[str, ...], Any]] = [((), json.loads(definition).get("inputSchema"))]
    while nodes:
        path, node = nodes.pop()
        if not isinstance(node, dict):
            continue
        name, kind = node.get(ANNOTATION), node.get("type")
        if path and isinstance(name, str) and _TOKEN.fullmatch(name) and isinstance(kind, str) and kind in _TYPES:
            found.append(Mirror(PARAM_PREFIX + name.lower(), path))
        properties = node.get("properties")
        if isinstance(properties, dict):
            nodes += [((*path, key), inner) for key, inner in properties.items()]
    named = Counter(mirror.header for mirror in found)
    return tuple(mirror for mirror in found if named[mirror.header] == 1)


def check_headers(action: Action, tool: ToolPin, selection: Selection | None) -> None:
    """Raise HeaderMismatch unless the headers of a modern client say what its arguments say.

    `selection` is what the action's endpoint offers, where that is one over several servers.
    """
    client, chosen = action.client, action.selected
    if client is None or not client.modern or (chosen is not None and chosen.by_search):
        return  # what is called by way of `call_tool` has its arguments one level deeper than any header repeats
    offer = selection.find(chosen.name) if chosen is not None and selection is not None else None
    arguments = json.loads(action.arguments.raw)
    for mirror in mirrors(tool.definition):
        header, value = client.headers.get(mirror.header), mirror.value_in(arguments)
        shown, argument = mirror.header.removeprefix(PARAM_PREFIX), ".".join(mirror.path)
        if header is not None and not _says(header, value):
            raise HeaderMismatch(
                f"the Mcp-Param-{shown} header differs from the argument `{argument}`",
                fix="send there what the arguments hold; list the tools again if their schema has changed",
            )
        if header is None and text_of(value) is not None and mirror.path[0] not in _added(offer):
            raise HeaderMismatch(
                f"the Mcp-Param-{shown} header is missing, which repeats the argument `{argument}`",
                fix="list the tools again: the input schema says which arguments headers repeat",
            )


def headers_of(definition: bytes, arguments: bytes) -> list[tuple[bytes, bytes]]:
    """Return the `Mcp-Param-*` headers of a call of this tool with these arguments."""
    found = mirrors(definition)
    if not found:
        return []
    given = json.loads(arguments)
    texts = [(mirror.header, text_of(mirror.value_in(given))) for mirror in found]
    return [(header.encode(), encoded(text)) for header, text in texts if text is not None]


def others(definition: bytes, headers: Mapping[str, str]) -> Sequence[tuple[bytes, bytes]]:
    """Return those of a client's `Mcp-Param-*` headers that repeat nothing we know of, to be forwarded as they are."""
    known = {mirror.header for mirror in mirrors(definition)}
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items() if name not in known]


def text_of(value: Any) -> str | None:
    """Return an argument as a header has it; None when none can."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value) if isinstance(value, str | int) else None


def _added(offer: Offer | None) -> frozenset[str]:
    """Return the properties whose values may be a toolset's: a client sends no header for what it did not send."""
    binding = offer.binding if offer is not None else None
    return frozenset(name for name, _ in (*binding.defaults, *binding.pinned)) if binding is not None else frozenset()


def _says(header: str, value: Any) -> bool:
    text, plain = decoded(header), text_of(value)
    if text is None or plain is None:
        return False
    if isinstance(value, bool | str) or not _DECIMAL.fullmatch(text):
        return text == plain
    return Decimal(text) == Decimal(plain)


def encoded(text: str) -> bytes:
    """Return a text as it stands in a header: in base64 where it would suffer as it is."""
    if _PLAIN.fullmatch(text) and not _SENTINEL.fullmatch(text):
        return text.encode()
    return b"=?base64?%b?=" % base64.b64encode(text.encode())


def decoded(header: str | None) -> str | None:
    """Return the text that a header stands for; None when nothing is sent like this, so that it equals nothing."""
    if header is None:
        return None
    match = _SENTINEL.fullmatch(header) if header.startswith("=?") else None
    if match is None:
        plain = header.isprintable() or header.replace("\t", " ").isprintable()
        return header if plain and header.isascii() else None
    try:
        held = base64.b64decode(match[1], validate=True)
        text = held.decode()
    except (binascii.Error, ValueError):
        return None
    return text if base64.b64encode(held).decode() == match[1] else None
