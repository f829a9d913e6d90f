"""The rules of servers and versions, as functions of what is: names, numbers, draft -> approved -> retired."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from mcpgw.domain import Server, ServerVersion, ToolPin, VersionStatus
from mcpgw.errors import Conflict, InvalidParams

FIRST = "1.0.0"
MAX_URL = 2048
_SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}")
_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
_PRERELEASE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
# semver.org 2.0.0 without build metadata, which has no order and so cannot tell versions apart.
_SEMVER = re.compile(rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_PRERELEASE}(?:\.{_PRERELEASE})*))?")
_LOOKS_LIKE = (("0", "o"), ("1", "l"), ("5", "s"), ("rn", "m"), ("vv", "w"), ("-", ""))

Order = tuple[int, int, int, tuple[tuple[int, int, str], ...]]


def check_server(server: Server) -> None:
    """Raise InvalidParams unless slug, title, tags, trust and marks are well formed."""
    check_names(server.slug, server.title)
    if not all(_LABEL.fullmatch(label) for label in (*server.tags, server.trust)):
        raise InvalidParams("tags and trust are 1 to 64 of A-Z, a-z, 0-9 and ._:/-", fix="for example: internal")
    if len(server.idempotent) > 1000 or not all(0 < len(name) <= 128 for name in server.idempotent):
        raise InvalidParams("idempotent tools are named as the server names them", fix="up to 1000 names, or *")


def check_names(slug: str, title: str) -> None:
    """Raise InvalidParams unless these can name a server, or a toolset."""
    if not _SLUG.fullmatch(slug):
        raise InvalidParams(
            "a slug is 1 to 24 of a-z, 0-9 and -, with no hyphen at either end", fix="for example: github-issues"
        )
    if len(title) > 200 or not title.isprintable():
        raise InvalidParams("a title is at most 200 characters that can be seen", fix="shorten it")


def skeleton(name: str) -> str:
    """Return what a name looks like at a glance: names with equal skeletons are taken for each other (UTS 39)."""
    looks = unicodedata.normalize("NFKC", name).casefold()
    for seen, taken_for in _LOOKS_LIKE:
        looks = looks.replace(seen, taken_for)
    return looks


def check_look_alikes(slug: str, others: Iterable[str]) -> None:
    """Raise Conflict when `slug` can be taken for one of the others."""
    looks = skeleton(slug)
    for other in others:
        if other != slug and skeleton(other) == looks:
            raise Conflict(f"`{slug}` looks like `{other}`", fix="choose a slug that cannot be mistaken")


def check_url(url: str) -> None:
    """Raise InvalidParams unless this is a plain http or https URL without user, password and fragment.

    What parsers disagree on is refused before one of them is asked: `urlsplit` drops tabs and newlines silently.
    """
    if len(url) > MAX_URL or not re.fullmatch(r"[!-\[\]-~]+", url):  # visible ASCII, no backslash
        raise InvalidParams("a URL is at most 2048 visible ASCII characters, without `\\`", fix="percent-encode it")
    try:
        parts = urlsplit(url)
        port_is_usable = parts.port != 0
    except ValueError:
        raise InvalidParams("this is not a URL", fix="for example: https://tools.example/mcp") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_usable:
        raise InvalidParams("an endpoint is an http or https URL with a host", fix="https://tools.example/mcp")
    if "@" in parts.netloc or "#" in url:
        raise InvalidParams(
            "an endpoint has no user, password or fragment", fix="put credentials into the operator's configuration"
        )


def order(version: str) -> Order:
    """Return the key by which versions sort (semver.org 2.0.0 §11). Raises InvalidParams when it is none."""
    match = _SEMVER.fullmatch(version) if len(version) <= 64 else None
    if match is None:
        raise InvalidParams("a version is MAJOR.MINOR.PATCH, without build metadata", fix="for example: 1.2.0")
    major, minor, patch, prerelease = match.groups()
    # A release sorts after its prereleases; numbers sort before words.
    words = tuple((0, int(w), "") if w.isdigit() else (1, 0, w) for w in prerelease.split(".")) if prerelease else ()
    return int(major), int(minor), int(patch), words or ((2, 0, ""),)


def newest(versions: Iterable[ServerVersion]) -> ServerVersion | None:
    return max(versions, key=lambda v: order(v.version), default=None)


def next_version(versions: Iterable[ServerVersion], tools: Mapping[str, ToolPin]) -> str:
    """Return a number above all of `versions`: the next minor one when tools came or changed, else the next patch."""
    last = newest(versions)
    if last is None:
        return FIRST
    major, minor, patch, words = order(last.version)
    known = {tool.name: tool.sha256 for tool in last.tools.values()}
    if any(known.get(tool.name) != tool.sha256 for tool in tools.values()):
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + (words == ((2, 0, ''),))}"


def approved(version: ServerVersion, by: str) -> ServerVersion:
    """Return the version as approved. Raises Conflict unless it is a draft."""
    if version.status is not VersionStatus.DRAFT:
        raise Conflict(
            f"`{version.server}` {version.version} is {version.status.value}", fix="only a draft can be approved"
        )
    return replace(version, status=VersionStatus.APPROVED, approved_by=by)


def retired(version: ServerVersion) -> ServerVersion:
    """Return the version as retired; from any status, for good."""
    return replace(version, status=VersionStatus.RETIRED)


def check_may_be_active(version: ServerVersion) -> None:
    """Raise Conflict unless calls may use this version."""
    if version.status is not VersionStatus.APPROVED:
        name = f"`{version.server}` {version.version}"
        fix = f"mcpgw servers approve {version.server} {version.version}"
        if version.status is VersionStatus.RETIRED:
            fix = f"publish a new one: mcpgw servers publish {version.server}"
        raise Conflict(f"{name} is {version.status.value}; only an approved version can be active", fix=fix)


def previous(changes: Iterable[tuple[bool, str]], current: str | None, usable: Collection[str]) -> str | None:
    """Return the version to roll back to: the last one active before `current` that is still usable, or None.

    `changes` are the versions as they became active, in order, each with whether that was a rollback. A rollback
    forgets what it left, so that another one goes further back.
    """
    history: list[str] = []
    for rolled_back, version in changes:
        if rolled_back and version in history:
            while history[-1] != version:
                history.pop()
        elif history[-1:] != [version]:
            history.append(version)
    if current in history:
        while history.pop() != current:
            pass
    return next((version for version in reversed(history) if version in usable and version != current), None)
