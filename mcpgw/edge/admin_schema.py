"""The bodies and queries of the admin API, and how a request becomes one of them.

Strict: an unknown key is refused and the nearest known one named, a duplicate is refused, nothing is coerced in a body.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from mcpgw.domain import Mode, Scope
from mcpgw.edge.strict_json import JsonLimits, parse_object
from mcpgw.errors import InvalidParams, InvalidRequest

Slug = Annotated[str, Meta(pattern="^[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?$")]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Reason = Annotated[str, Meta(min_length=1, max_length=1000)]
Seconds = Annotated[float, Meta(gt=0)]
Tags = Annotated[list[Name], Meta(max_length=64)]
Roles = Annotated[list[Name], Meta(min_length=1, max_length=16)]


class Body(Struct, kw_only=True, forbid_unknown_fields=True):
    pass


class Nothing(Body):
    """No parameters."""


class NewServer(Body):
    """An HTTP server to register; stdio servers come from the operator's configuration alone."""

    slug: Slug
    url: Annotated[str, Meta(min_length=1, max_length=2048)]
    title: Annotated[str, Meta(max_length=200)] = ""
    tags: Tags = []
    trust: Name = "untrusted"
    auth: dict[str, Any] | None = None


class NewVersion(Body):
    """`version` None: the next one. `url` None: the server's own. `auth` None: as it is for that URL.

    `auth` has the members of `registry.http[].auth` of the configuration.
    """

    version: Name | None = None
    url: Annotated[str, Meta(min_length=1, max_length=2048)] | None = None
    auth: dict[str, Any] | None = None


class Approval(Body):
    force: bool = False


class Marks(Body):
    idempotent: list[Name]


class Between(Body):
    """Two versions to compare; `from` and `to` in the query."""

    from_: Name = msgspec.field(name="from")
    to: Name


class ToolsetTool(Body):
    """`tool` is `server/tool`, `server/*` or `*`; the rest is for one tool alone."""

    tool: Name
    name: Name | None = None
    description: str | None = None
    defaults: dict[str, Any] = {}
    pinned: dict[str, Any] = {}


class ToolsetGiven(Body):
    """A toolset as it shall be."""

    tools: Annotated[list[ToolsetTool], Meta(min_length=1, max_length=1000)]
    title: Annotated[str, Meta(max_length=200)] = ""
    instructions: str = ""
    search: bool = False


class NewToolset(ToolsetGiven, kw_only=True):
    """A toolset with its slug, which no server has."""

    slug: Slug


class NewPolicy(Body):
    """Rego files by path."""

    files: Annotated[dict[Name, str], Meta(min_length=1)]
    activate: bool = False
    reason: Reason | None = None


class WhyPerhaps(Body):
    reason: Reason | None = None


class PolicyQuestion(Body):
    """An input document as a policy would get it."""

    input: dict[str, Any]


class NewKill(Body):
    """`expires_in_s` None: until released. With `dry_run` nothing changes and the matches are listed."""

    scope: Scope
    selector: Annotated[str, Meta(min_length=1, max_length=512)]
    reason: Reason
    mode: Mode = Mode.HARD
    expires_in_s: Seconds | None = None
    dry_run: bool = False


class Why(Body):
    """In the body, or in the query of a DELETE."""

    reason: Reason


class KillFilter(Body):
    include_released: bool = False


class AuditFilter(Body):
    """Filters of the log; times in Unix seconds or RFC 3339."""

    principal: str | None = None
    server: str | None = None
    tool: str | None = None
    effect: str | None = None
    outcome: str | None = None
    trace: str | None = None
    since: str | None = None
    until: str | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class ProofOf(Body):
    log: Name
    index: Annotated[int, Meta(ge=0)]


B = TypeVar("B", bound=Body)


def from_body(kind: type[B], body: bytes, limits: JsonLimits) -> B:
    """Return the body as `kind`. Raises ParseError, InvalidRequest, InvalidParams."""
    return _convert(kind, parse_object(body, limits) if body else {}, strict=True)


def from_query(kind: type[B], pairs: Iterable[tuple[str, str]]) -> B:
    """Return the query as `kind`; numbers and booleans are read from their text."""
    found: dict[str, str] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidRequest(f"the query has `{key}` twice", fix="give each key once")
        found[key] = value
    return _convert(kind, found, strict=False)


def instant(text: str | None) -> float | None:
    """Return Unix seconds from a number or an RFC 3339 time. Raises InvalidParams."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise InvalidParams(
            f"`{text[:40]}` is not a time", fix="Unix seconds, or RFC 3339 with a zone: 2026-01-31T12:00:00Z"
        )
    return when.timestamp()


def _convert(kind: type[B], value: Mapping[str, Any], *, strict: bool) -> B:
    known = [f.encode_name for f in msgspec.structs.fields(kind)]
    for key in value:
        if key not in known:
            raise InvalidRequest(f"unknown key `{key[:64]}`", fix=_nearest(key, known))
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise InvalidParams(str(error), fix=_allowed(kind, str(error))) from None


def _nearest(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"known here: {', '.join(known)}" if known else "nothing is expected here"


def _allowed(kind: type[Body], problem: str) -> str:
    """Return the values that the enumeration named in a validation error allows, or where the schema stands."""
    hints = typing.get_type_hints(kind)
    for name, hint in hints.items():
        if problem.endswith(f"`$.{name}`") and isinstance(hint, type) and issubclass(hint, Enum):
            return f"one of: {', '.join(str(member.value) for member in hint)}"
    return f"its schema is {kind.__name__} in /admin/openapi.json"
