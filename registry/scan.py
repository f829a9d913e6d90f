"""A structural scan of tool definitions: text that people cannot see, schemas that hurt parsers, what leads elsewhere.

Findings do not hinder publishing; a version that has some is approved only by force. Meaning is not judged here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mcpgw.domain import ToolPin
from mcpgw.registry.digest import Number, parse
from mcpgw.registry.lifecycle import skeleton

MAX_DEFINITION_BYTES = 65_536
MAX_DESCRIPTION = 4_096
MAX_SCHEMA_DEPTH = 32
MAX_SUBSCHEMAS = 1_000
MAX_FINDINGS = 20  # of one tool
_NAME = re.compile(r"[A-Za-z0-9_./-]{1,64}")  # mcp.md 1.4: what the conformance suite accepts
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2: token
_ESCAPE = re.compile(r"\x1b|\x9b|\\(?:x1b|u001b|033|e)\[", re.IGNORECASE)
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_JOINERS = frozenset("\u200c\u200d")
_SPACING = frozenset("\n\r\t")
_HARMLESS = {"Zs", "Cn"}  # spaces that are wide or do not break; characters younger than our Unicode tables
# Drawn as nothing, though Unicode calls them letters, marks or symbols. 256 variation selectors encode any byte; those
# two that choose between text and emoji (fe0e, fe0f) are left out.
_BLANK = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
    + "".join(map(chr, range(0xFE00, 0xFE0E)))
    + "".join(map(chr, range(0xE0100, 0xE01F0)))
)

# JSON Schema 2020-12 and earlier: the keywords whose values are schemas.
_NAMED = {"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"}
_LIST = {"allOf", "anyOf", "items", "oneOf", "prefixItems"}
_ONE = {"contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then"} | {
    f"{which}{what}" for which in ("additional", "unevaluated") for what in ("Items", "Properties")
}
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in a tool. `where` is a JSON pointer into its definition."""

    tool: str
    rule: str
    where: str
    detail: str

    def shown(self) -> dict[str, str]:
        return {"tool": visible(self.tool), "rule": self.rule, "where": visible(self.where), "detail": self.detail}


def findings(tools: Mapping[str, ToolPin]) -> list[Finding]:
    """Return what there is to say about the tools of a version, tool by tool."""
    by_looks: dict[str, list[str]] = {}
    for name in tools:
        by_looks.setdefault(skeleton(name), []).append(name)
    found: list[Finding] = []
    for name, tool in tools.items():
        found += of_tool(tool)
        for other in by_looks[skeleton(name)]:
            if other != name:
                found.append(Finding(name, "look_alike", "/name", f"can be taken for `{visible(other)}`"))
    return found


@lru_cache(maxsize=4096)
def of_tool(tool: ToolPin) -> tuple[Finding, ...]:
    """Return what there is to say about one tool by itself, at most twenty findings."""
    found: list[Finding] = []
    for rule, where, detail in _rules(tool, parse(tool.definition)):
        found.append(Finding(tool.name, rule, where, detail))
        if len(found) == MAX_FINDINGS:
            break
    return tuple(found)


def visible(text: str) -> str:
    """Return the text with everything that cannot be seen escaped, so that it is safe on a terminal and in a page."""
    return "".join(c if c.isprintable() and c not in _BLANK and c != "\\" else _escaped(c) for c in text)


def _escaped(c: str) -> str:
    return c.encode("unicode_escape").decode()


def _rules(tool: ToolPin, definition: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    if not _NAME.fullmatch(tool.name):
        yield "name", "/name", "not 1 to 64 of A-Z, a-z, 0-9 and _./-"
    if len(tool.definition) > MAX_DEFINITION_BYTES:
        yield "size", "", f"{len(tool.definition)} bytes"
    for where, text in _texts(definition):
        for rule in hidden(text):
            yield rule, where, visible(text[:200])
        if where.endswith("/description") and len(text) > MAX_DESCRIPTION:
            yield "size", where, f"{len(text)} characters"
    for key in ("inputSchema", "outputSchema"):
        schema = definition.get(key)
        if isinstance(schema, dict):
            yield from _schema_rules(schema, f"/{key}")
        if key == "inputSchema" and (not isinstance(schema, dict) or schema.get("type") != "object"):
            yield "schema", f"/{key}", "is not the schema of an object"


def hidden(text: str) -> list[str]:
    """Return the rules that a text breaks by what cannot be seen in it."""
    if text.isascii() and text.isprintable() and "\\" not in text:
        return []
    rules = {"terminal_escape"} if _ESCAPE.search(text) else set()
    for i, c in enumerate(text):
        if "\U000e0000" <= c <= "\U000e007f":
            rules.add("tag_character")
        elif c in _BIDI:
            rules.add("bidirectional")
        elif c in _JOINERS:
            # At home between letters of some scripts and within emoji; between Latin letters there is no use for them.
            if text[i - 1 : i].isascii() or text[i + 1 : i + 2].isascii():
                rules.add("invisible")
        elif c in _BLANK or (not c.isprintable() and c not in _SPACING and unicodedata.category(c) not in _HARMLESS):
            rules.add("invisible")
    return sorted(rules)


def _texts(definition: Any) -> Iterator[tuple[str, str]]:
    """Return every string of a definition, keys too, with its place."""
    stack: list[tuple[str, Any]] = [("", definition)]
    while stack:
        where, value = stack.pop()
        if isinstance(value, str) and not isinstance(value, Number):
            yield where, value
        elif isinstance(value, dict):
            for key, inner in value.items():
                place = f"{where}/{pointer(key)}"
                yield place, key
                stack.append((place, inner))
        elif isinstance(value, list):
            stack += [(f"{where}/{i}", inner) for i, inner in enumerate(value)]


def pointer(key: str) -> str:
    """Return one step of a JSON pointer (RFC 6901 §3)."""
    return key.replace("~", "~0").replace("/", "~1")


def _schema_rules(root: dict[str, Any], place: str) -> Iterator[tuple[str, str, str]]:
    headers: set[str] = set()
    stack = [(place, root, 1, True)]
    count = 0
    while stack:
        where, schema, depth, direct = stack.pop()
        count += 1
        if count > MAX_SUBSCHEMAS:
            yield "schema_size", place, f"more than {MAX_SUBSCHEMAS} subschemas"
            return
        if depth > MAX_SCHEMA_DEPTH:
            yield "schema_depth", place, f"subschemas nested deeper than {MAX_SCHEMA_DEPTH}"
            return
        for key in _REFERENCES:
            target = schema.get(key)
            if target is not None and not (isinstance(target, str) and target.startswith("#")):
                yield "network_reference", f"{where}/{key}", f"leads out of the schema: {visible(str(target)[:200])}"
        if "x-mcp-header" in schema:
            yield from _header_rules(schema, where, direct, headers)
        stack += [(w, s, depth + 1, direct and d) for w, s, d in _subschemas(where, schema)]


def _subschemas(where: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Return the schemas directly within one, each with whether it is a plain property."""
    for key, value in schema.items():
        inner: Iterable[tuple[str, Any]] = ()
        if key in _NAMED and isinstance(value, dict):
            inner = ((pointer(name), of) for name, of in value.items())
        elif key in _LIST and isinstance(value, list):
            inner = ((str(i), of) for i, of in enumerate(value))
        elif key in _ONE and isinstance(value, dict):
            inner = (("", value),)
        for name, of in inner:
            if isinstance(of, dict):
                yield f"{where}/{pointer(key)}/{name}".removesuffix("/"), of, key == "properties"


def _header_rules(
    schema: dict[str, Any], where: str, direct: bool, headers: set[str]
) -> Iterator[tuple[str, str, str]]:
    """Clients drop a tool whose parameters are mirrored into headers against the rules (SEP-2243)."""
    name = schema["x-mcp-header"]
    if not isinstance(name, str) or isinstance(name, Number) or not _HEADER.fullmatch(name):
        yield "header", where, "x-mcp-header is not a header name"
        return
    if name.casefold() in headers:
        yield "header", where, "x-mcp-header names a header twice"
    headers.add(name.casefold())
    if not direct or schema.get("type") not in ("string", "integer", "boolean"):
        yield "header", where, "x-mcp-header stands on something else than a plain string, integer or boolean"
