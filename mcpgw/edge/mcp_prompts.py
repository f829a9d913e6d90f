"""Names of prompts on an endpoint over several servers: `{server}__{name}`, by the rules that tools have there.

Prompts are not pinned, so a name must be found again by whoever is asked: a plain one says all itself, a shortened one
(`{server}__{stem}_{8 hex digits}`) is remembered from the last list, or looked for in a new one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import OrderedDict

import msgspec

from mcpgw.domain import Action, Arguments, Part, PartKind, Presented, Verb
from mcpgw.errors import UpstreamFailed
from mcpgw.pipeline import Gateway

MAX_NAME = 64
SEPARATOR = "__"  # a slug has no underscore, so the first one ends it
REMEMBERED = 10_000
MOST_PAGES = 50
_HEX = 8
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,23}")
_FITS = re.compile(r"[A-Za-z0-9_-]+")
_MISFITS = re.compile(r"[^A-Za-z0-9_-]+")
_SHORTENED = re.compile(r".+_[0-9a-f]{8}")

_encode = msgspec.json.encode


class _Prompt(msgspec.Struct):
    name: str


class _Page(msgspec.Struct):
    prompts: list[_Prompt] = []
    nextCursor: str | None = None


_page = msgspec.json.Decoder(_Page).decode


class PromptNames:
    """Shown names and own ones. What is remembered was said by servers, and gives nobody a right to anything."""

    def __init__(self) -> None:
        self._remembered: OrderedDict[str, str] = OrderedDict()

    def shown(self, server: str, name: str) -> str:
        """Return the name under which a client knows this prompt of a server."""
        plain = f"{server}{SEPARATOR}{name}"
        # A plain name never reads like a shortened one, so that no prompt can take the place of another.
        if len(plain) <= MAX_NAME and _FITS.fullmatch(name) and not _SHORTENED.fullmatch(name):
            return plain
        room = MAX_NAME - len(server) - len(SEPARATOR) - 1 - _HEX
        stem = _MISFITS.sub("-", name)[:room].strip("-") or "prompt"
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        shown = f"{server}{SEPARATOR}{stem}_{digest[:_HEX]}"
        self._remember(shown, name)
        return shown

    def own(self, shown: str) -> tuple[str, str | None] | None:
        """Return server and own name of what a client names; the name is None when a list must be asked for it.

        None: no server can have it.
        """
        server, separator, name = shown.partition(SEPARATOR)
        if not separator or not name or not _SLUG.fullmatch(server):
            return None
        return server, self._remembered.get(shown) if _SHORTENED.fullmatch(name) else name

    def _remember(self, shown: str, name: str) -> None:
        self._remembered[shown] = name
        self._remembered.move_to_end(shown)
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)


async def look_up(gateway: Gateway, names: PromptNames, shown: str, asked: Action, presented: Presented) -> None:
    """List the prompts of the server that a shortened name is of, until the name is remembered or no more come.

    The list is an action of its own, a child of `asked`, for the same caller. Raises what `Gateway.handle` raises.
    """
    found = names.own(shown)
    if found is None or found[1] is not None:
        return
    server, cursor = found[0], None
    for _ in range(MOST_PAGES):
        page = await _listed(gateway, server, cursor, asked, presented)
        for prompt in page.prompts:
            names.shown(server, prompt.name)
        cursor = page.nextCursor
        known = names.own(shown)
        if cursor is None or (known is not None and known[1] is not None):
            return


async def _listed(gateway: Gateway, server: str, cursor: str | None, asked: Action, presented: Presented) -> _Page:
    parts: list[Part] = []

    async def keep(part: Part) -> None:
        if part.kind in (PartKind.WHOLE, PartKind.LAST):
            parts.append(part)

    action = dataclasses.replace(
        asked,
        id=gateway.clock.new_id(),
        parent=asked.id,
        verb=Verb.PROMPTS_LIST,
        server=server,
        name=None,
        arguments=Arguments(),
        forwarded={} if cursor is None else {"cursor": _encode(cursor)},
    )
    await gateway.handle(presented, action, keep)
    try:
        return _page(parts[-1].body) if parts and parts[-1].error_code is None else _Page()
    except msgspec.DecodeError:
        raise UpstreamFailed(f"`{server}` answered prompts/list without a list", fix="check the server") from None
