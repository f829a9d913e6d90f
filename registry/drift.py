"""What differs: a server's live tools from their pins, one version from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcpgw.domain import ServerVersion, ToolPin
from mcpgw.errors import UpstreamFailed
from mcpgw.registry import digest
from mcpgw.registry.digest import Number
from mcpgw.registry.scan import pointer, visible

MAX_SHOWN = 500  # characters of one value


@dataclass(frozen=True, slots=True)
class Drift:
    """A tool that is not what its pin says. `kind` is changed, gone or new; `seen_sha256` "" when it is gone."""

    tool: str
    kind: str
    seen_sha256: str


def differences(version: ServerVersion, live: Sequence[bytes]) -> list[Drift]:
    """Return how the live definitions of all tools differ from the pins of `version`, by tool name.

    Of several definitions under one name each must equal the pin. A definition that cannot be read is no definition,
    so its tool is gone.
    """
    seen: dict[str, ToolPin] = {}
    for raw in live:
        try:
            tool = digest.pin(raw)
        except UpstreamFailed:
            continue
        pinned = version.tools.get(tool.name)
        if tool.name not in seen or (pinned is not None and tool.sha256 != pinned.sha256):
            seen[tool.name] = tool
    found: list[Drift] = []
    for name in sorted({*version.tools, *seen}):
        if name not in seen:
            found.append(Drift(name, "gone", ""))
        elif name not in version.tools:
            found.append(Drift(name, "new", seen[name].sha256))
        elif seen[name].sha256 != version.tools[name].sha256:
            found.append(Drift(name, "changed", seen[name].sha256))
    return found


def summary(old: Mapping[str, ToolPin], new: Mapping[str, ToolPin]) -> dict[str, list[str]]:
    """Return the names of the tools that came, went and changed, everything that cannot be seen escaped."""
    return {
        "added": [visible(name) for name in new if name not in old],
        "removed": [visible(name) for name in old if name not in new],
        "changed": [visible(name) for name in new if name in old and new[name].sha256 != old[name].sha256],
    }


def diff(old: ServerVersion, new: ServerVersion) -> dict[str, Any]:
    """Return what changed between two versions, JSON-ready, everything that cannot be seen escaped.

    `changed` holds for each tool the places (JSON pointers) with their values `from` and `to` as JSON text; None
    where there was, or is, nothing.
    """
    return {
        "server": new.server,
        "from": old.version,
        "to": new.version,
        "settings": [
            {"where": name, "from": getattr(old, name), "to": getattr(new, name)}
            for name in ("endpoint", "transport", "era")
            if getattr(old, name) != getattr(new, name)
        ],
        **summary(old.tools, new.tools),
        "changed": [
            {"tool": visible(name), "changes": _changes(old.tools[name], new.tools[name])}
            for name in new.tools
            if name in old.tools and old.tools[name].sha256 != new.tools[name].sha256
        ],
    }


def _changes(old: ToolPin, new: ToolPin) -> list[dict[str, str | None]]:
    before, after = (_leaves(digest.parse(tool.definition)) for tool in (old, new))
    return [
        {"where": visible(where), "from": before.get(where), "to": after.get(where)}
        for where in sorted({*before, *after})
        if before.get(where) != after.get(where)
    ]


def _leaves(value: Any, where: str = "") -> dict[str, str]:
    """Return the values that hold no others, and empty objects and lists, by their places."""
    if isinstance(value, dict) and value:
        steps = [(pointer(key), inner) for key, inner in value.items()]
    elif isinstance(value, list) and value:
        steps = [(str(i), inner) for i, inner in enumerate(value)]
    else:
        text = visible(value) if isinstance(value, str) else digest.canonical(value).decode()
        shown = text if not isinstance(value, str) or isinstance(value, Number) else f'"{text}"'
        return {where: shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}… ({digest.sha256(shown.encode())})"}
    return {place: text for key, inner in steps for place, text in _leaves(inner, f"{where}/{key}").items()}
