"""Canonical JSON of a tool definition, and the digests that pin it.

Canonical: object keys sorted by code point, strings exact, numbers as the text they came as, no white space, UTF-8. So
the order of keys does not change a digest and everything else does: `1` is not `1.0`, and no integer loses digits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from mcpgw.domain import Era, ToolPin, Transport, UpstreamAuth
from mcpgw.errors import UpstreamFailed

MAX_DEPTH = 128


class Number(str):
    """A JSON number as the text it came as."""

    __slots__ = ()


def parse(raw: bytes) -> Any:
    """Return the value of a JSON text, its numbers as `Number`.

    Raises UpstreamFailed when parsers could differ on it: not UTF-8, a byte order mark, duplicate keys, NaN and
    infinities, lone surrogates, nesting beyond 128 levels.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=Number,
            parse_float=Number,
            parse_constant=_not_json,
        )
    except RecursionError:
        raise _unusable(f"it is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:  # JSONDecodeError and UnicodeDecodeError are ValueErrors; their texts quote the input
        raise _unusable("it is not valid JSON in UTF-8") from None
    if _deeper_than(value, MAX_DEPTH):
        raise _unusable(f"it is nested deeper than {MAX_DEPTH} levels")
    return value


def canonical(value: Any) -> bytes:
    """Return the canonical JSON of what `parse` returned."""
    out: list[str] = []
    _write(value, out)
    try:
        return "".join(out).encode("utf-8")
    except UnicodeEncodeError:
        raise _unusable("it has a lone surrogate") from None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pin(raw: bytes) -> ToolPin:
    """Return the pin of a tool definition as the server sent it. Raises UpstreamFailed when it cannot be pinned."""
    tool = parse(raw)
    name = tool.get("name") if isinstance(tool, dict) else None
    if not isinstance(name, str) or isinstance(name, Number) or not name:
        raise _unusable("it has no name")
    definition = canonical(tool)
    return ToolPin(name, sha256(definition), definition)


def pins(live: Sequence[bytes]) -> dict[str, ToolPin]:
    """Return the pins of a server's tools by name, in its order. Raises UpstreamFailed, also for a name given twice."""
    found: dict[str, ToolPin] = {}
    for raw in live:
        tool = pin(raw)
        if tool.name in found:
            raise _unusable("its name is given to another tool, too")
        found[tool.name] = tool
    return found


def manifest(
    server: str,
    version: str,
    endpoint: str,
    transport: Transport,
    era: Era,
    tools: Mapping[str, ToolPin],
    auth: UpstreamAuth | None = None,
) -> str:
    """Return the digest of a whole version; the order of its tools does not count."""
    whole: dict[str, Any] = {
        "endpoint": endpoint,
        "era": era.value,
        "server": server,
        "tools": {tool.name: tool.sha256 for tool in tools.values()},
        "transport": transport.value,
        "version": version,
    }
    if auth is not None:
        whole["auth"] = authorization(auth)
    return sha256(canonical(whole))


def authorization(auth: UpstreamAuth) -> dict[str, Any]:
    """Return an authorization as JSON has it, without what says nothing. No secret stands in it, only references."""
    said = {name: getattr(auth, name) for name in UpstreamAuth.__dataclass_fields__}
    said |= {"mode": auth.mode.value, "scopes": list(auth.scopes), "headers": dict(auth.headers)}
    return {name: value for name, value in said.items() if value}


def _write(value: Any, out: list[str]) -> None:
    if isinstance(value, Number):
        out.append(value)
    elif isinstance(value, dict):
        out.append("{")
        for place, key in enumerate(sorted(value)):
            out.append("," if place else "")
            out.append(json.dumps(key, ensure_ascii=False))
            out.append(":")
            _write(value[key], out)
        out.append("}")
    elif isinstance(value, list):
        out.append("[")
        for place, inner in enumerate(value):
            out.append("," if place else "")
            _write(inner, out)
        out.append("]")
    else:  # a string, true, false or null
        out.append(json.dumps(value, ensure_ascii=False))


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _unusable("it has a duplicate key")
    return found


def _not_json(_constant: str) -> NoReturn:
    raise _unusable("it is not valid JSON in UTF-8")


def _unusable(why: str) -> UpstreamFailed:
    return UpstreamFailed(f"the server lists a tool that cannot be pinned: {why}", fix="correct the tool's definition")
