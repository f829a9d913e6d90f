"""The keys of our tokens, as administrators rotate them. The edge lets holders of `keys:write` in, and nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mcpgw.auth.changing import Change, Changes, Document
from mcpgw.auth.signing import rotate
from mcpgw.domain import Principal
from mcpgw.ports import Clock, Store, Worlds


class SigningService:
    """Rotates the signing key of a data directory; every worker follows within a second, or at the first new token."""

    def __init__(self, data_dir: Path, store: Store, worlds: Worlds, clock: Clock) -> None:
        self._data_dir = data_dir
        self._changes = Changes(store, worlds, clock)
        self._clock = clock

    async def rotate(self, who: Principal, *, at_once: bool = False, reason: str = "") -> Document:
        """Sign with a new key; with `at_once` the old ones verify nothing any more, and every token is void."""
        kid = await asyncio.to_thread(rotate, self._data_dir, self._clock.time(), at_once=at_once)
        told = {"kid": kid, "at_once": at_once}
        return await self._changes.carry_out(
            who, lambda state: Change(rows=[], action="signing-key.rotate", target=kid, reason=reason, after=told)
        )
