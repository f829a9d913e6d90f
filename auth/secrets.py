"""Named secrets (`vault:NAME`), as administrators set them; nobody reads them again. And the vault's own key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mcpgw.auth.changing import Change, Changes
from mcpgw.auth.upstream.static import Named, origin_of
from mcpgw.auth.vault import NEVER, SECRET, Vault
from mcpgw.domain import Principal, State
from mcpgw.errors import InvalidParams, NotFound
from mcpgw.ports import Clock, Store, Worlds

OWNER = "gateway"
MAX_CHARACTERS = 16_384
MOST = 1000
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

Document = dict[str, Any]


class SecretsService:
    """Each change is in the outbox, and a new epoch: whoever is judged from then on is sent with the new secret."""

    def __init__(self, vault: Vault, store: Store, worlds: Worlds, clock: Clock) -> None:
        self._vault = vault
        self._changes = Changes(store, worlds, clock)

    async def put(self, who: Principal, name: str, value: str, urls: Sequence[str]) -> Document:
        """Keep a secret under a name, in the place of what it held; it is sent to the origins of `urls` alone.

        So whoever may register servers cannot have the secrets of others sent to theirs. Raises InvalidParams.
        """
        _check(name, value)
        named = Named(value, tuple(sorted({_origin(url) for url in urls})))
        if not named.origins:
            raise InvalidParams("a secret is for one origin at least", fix="say where it may be sent: --for URL")
        held = await self._vault.get(SECRET, name)
        if held is None and len(await self._vault.ids(SECRET)) >= MOST:
            raise InvalidParams(f"there are {MOST} secrets", fix="remove those that nothing refers to")
        await self._vault.put(SECRET, name, OWNER, msgspec.json.encode(named), NEVER)
        return await self._noted(who, "secrets.set", {"name": name, "origins": list(named.origins)})

    async def remove(self, who: Principal, name: str) -> Document:
        """Remove a secret; servers that need it are not called any more. Raises NotFound."""
        if await self._vault.take(SECRET, name) is None:
            raise NotFound("no such secret", fix="mcpgw secrets list")
        return await self._noted(who, "secrets.remove", {"name": name})

    async def names(self) -> Sequence[Document]:
        """Return the names, and where each may be sent."""
        held = [(name, msgspec.json.decode(text, type=Named)) for name, text in await self._vault.of(SECRET, OWNER)]
        return [{"name": name, "origins": list(named.origins)} for name, named in sorted(held, key=lambda one: one[0])]

    async def rotate(self, who: Principal) -> Document:
        """Give the vault a new key while calls go on (Vault.rotate)."""
        done = await self._vault.rotate()
        told = {"key": done.key_id, "records": done.records}
        return await self._changes.carry_out(
            who, lambda state: Change(rows=[], action="vault.rotate", target="vault", after=told)
        )

    async def _noted(self, who: Principal, action: str, told: Document) -> Document:
        def change(_: State) -> Change:
            return Change(rows=[], action=action, target=told["name"], after=told)

        return await self._changes.carry_out(who, change)


def _check(name: str, value: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidParams("the name of a secret is 1 to 64 of a-z 0-9 . _ -", fix="for example: github-token")
    if not value.strip() or len(value) > MAX_CHARACTERS or not value.isprintable():
        raise InvalidParams("a secret is one line of text that can be seen", fix=f"up to {MAX_CHARACTERS} characters")


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme in {"https", "http"} and parts.hostname and "@" not in parts.netloc and parts.port != 0:
            return origin_of(url)
    except ValueError:
        pass
    raise InvalidParams("a secret is for http and https origins", fix="for example: https://mcp.example.com")
