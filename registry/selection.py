"""What an endpoint over several servers offers: which tools, under which names, with which definitions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from mcpgw.domain import Binding, Offer, ServerVersion, ToolPin, Toolset, ToolsetEntry, Values
from mcpgw.registry.digest import sha256

ALL = "*"
Active = Mapping[str, ServerVersion]
"""The active versions by slug, in the order of their slugs."""
NameOf = Callable[[str, str], str]
"""Return the name over all servers of a tool (slug, own name)."""

_members = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.encode


class _Schema(msgspec.Struct):
    properties: dict[str, Raw] = {}


class _Definition(msgspec.Struct):
    inputSchema: _Schema = msgspec.field(default_factory=_Schema)


_definition = msgspec.json.Decoder(_Definition).decode


def everything(active: Active, name_of: NameOf) -> Iterator[Offer]:
    """Yield every active tool, each under its name over all servers."""
    for slug, version in active.items():
        for tool in version.tools.values():
            yield Offer(version, tool, name_of(slug, tool.name))


def selected(toolset: Toolset, active: Active, name_of: NameOf) -> Iterator[Offer | str]:
    """Yield what a toolset offers, in the order of its entries; as text, what it would offer and why it does not.

    A tool with an entry of its own is offered by that alone, even when it does not fit: what is pinned there must not
    be open elsewhere.
    """
    alone = {(entry.server, entry.tool) for entry in toolset.entries}
    done: set[tuple[str, str]] = set()
    for entry in toolset.entries:
        if entry.tool != ALL:
            yield _one(entry, active, name_of)
            continue
        for slug in active if entry.server == ALL else (entry.server,):
            version = active.get(slug)
            if version is None:
                yield f"no version of `{slug}` is active"
                continue
            for tool in version.tools.values():
                if (slug, tool.name) not in alone and (slug, tool.name) not in done:
                    done.add((slug, tool.name))
                    yield Offer(version, tool, name_of(slug, tool.name))


def misfits(entry: ToolsetEntry, tool: ToolPin) -> list[str]:
    """Return the properties for which an entry has values and the tool's input schema has no place."""
    try:
        known = _definition(tool.definition).inputSchema.properties
    except msgspec.DecodeError:
        known = {}
    return [name for name in (*entry.pinned, *entry.defaults) if name not in known]


def shown(offer: Offer) -> bytes:
    """Return the definition of a tool as the endpoint shows it."""
    if offer.binding is None and offer.name == offer.tool.name:
        return offer.tool.definition
    return _shown(offer.tool.definition, offer.name, offer.binding)


def _one(entry: ToolsetEntry, active: Active, name_of: NameOf) -> Offer | str:
    version = active.get(entry.server)
    if version is None:
        return f"no version of `{entry.server}` is active"
    tool = version.tools.get(entry.tool)
    if tool is None:
        return f"`{entry.server}` {version.version} has no tool `{entry.tool}`"
    apart = misfits(entry, tool)
    if apart:
        named = ", ".join(f"`{name}`" for name in apart)
        return f"the input schema of `{entry.server}/{entry.tool}` has no property {named}"
    return Offer(version, tool, entry.name or name_of(entry.server, entry.tool), _binding(entry))


def _binding(entry: ToolsetEntry) -> Binding | None:
    if not entry.defaults and not entry.pinned:
        return None if entry.description is None else Binding(entry.description)
    defaults, pinned = _raw(entry.defaults), _raw(entry.pinned)
    return Binding(entry.description, defaults, pinned, sha256(_encode([dict(defaults), dict(pinned)])))


def _raw(values: Mapping[str, Any]) -> Values:
    # Not msgspec: an integer may have any number of digits.
    return tuple(
        (name, json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()) for name, value in values.items()
    )


# Kept from world to world, since pins are the same bytes.
@lru_cache(maxsize=16_384)
def _shown(definition: bytes, name: str, binding: Binding | None) -> bytes:
    members = _members(definition)
    members["name"] = Raw(_encode(name))
    if binding is not None and binding.description is not None:
        members["description"] = Raw(_encode(binding.description))
    if binding is not None and binding.sha256:
        members["inputSchema"] = Raw(_encode(_schema(members["inputSchema"], binding)))
    return _encode(members)


def _schema(schema: Raw, binding: Binding) -> Mapping[str, Raw]:
    """Return an input schema without the pinned properties, in which the others with a value are not required."""
    members = _members(schema)
    properties = _members(members["properties"])
    for name, _ in binding.pinned:
        del properties[name]
    for name, value in binding.defaults:
        properties[name] = Raw(_encode({**_object(properties[name]), "default": Raw(value)}))
    members["properties"] = Raw(_encode(properties))
    given = {name for name, _ in (*binding.pinned, *binding.defaults)}
    required = [name for name in _required(members) if name not in given]
    members.pop("required", None)
    return {**members, "required": Raw(_encode(required))} if required else members


def _object(schema: Raw) -> Mapping[str, Raw]:
    """A property's schema may be `true`, which is that of everything."""
    try:
        return _members(schema)
    except msgspec.DecodeError:
        return {}


def _required(members: Mapping[str, Raw]) -> list[str]:
    try:
        return msgspec.json.decode(members.get("required", Raw(b"[]")), type=list[str])
    except msgspec.DecodeError:
        return []
