"""Tokens towards upstreams go with whoever holds them, and with the server, or the authorization, that they are for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import suppress

import msgspec

from mcpgw.auth.upstream.requests import Client, Discovery, TokenRequests
from mcpgw.auth.upstream.tokens import Tokens, asked_with, holder
from mcpgw.auth.vault import PROVIDER, UPSTREAM, Vault
from mcpgw.domain import ServerVersion, State
from mcpgw.errors import GatewayError
from mcpgw.ports import World

log = logging.getLogger("mcpgw.auth")
SWEEP_S = 3600.0
MOST_REVOKED = 500
"""How many tokens of one change are revoked at their authorization server; the others only end here."""


class _Ended(msgspec.Struct, frozen=True):
    """What the vault held: an access token, or what a user had agreed to, with the client that it was for."""

    issuer: str
    access_token: str | None = None
    refresh_token: str | None = None
    client_id: str | None = None
    client_method: str = ""
    client_secret: str | None = None


class Endings:
    """Follows the state. Of all workers one removes from the vault (`leads`); all forget what they have in memory."""

    def __init__(
        self, vault: Vault, tokens: Tokens, requests: TokenRequests, discovery: Discovery, *, leads: bool
    ) -> None:
        self._vault = vault
        self._tokens = tokens
        self._requests = requests
        self._discovery = discovery
        self._leads = leads
        self._last: asyncio.Task[None] | None = None
        self._next: State | None = None
        self._next_sweep = 0.0

    def world_changed(self, old: World, new: World) -> None:
        """Take note of a change of the world."""
        if _concerned(old.state) == _concerned(new.state):
            return
        self._tokens.forget()
        if self._leads:
            self._next = new.state
            if self._last is None or self._last.done():
                self._last = asyncio.get_running_loop().create_task(self._follow(), name="end upstream tokens")

    async def sweep(self, state: State) -> None:
        """Remove now and then what came into the vault while its holder, or its server, was going."""
        now = asyncio.get_running_loop().time()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_S
            await self.review(state)

    async def settled(self) -> None:
        """Return when what has changed so far has had its consequences."""
        if self._last is not None:
            await asyncio.wait((self._last,))

    async def close(self) -> None:
        if self._last is not None:
            self._last.cancel()
            await asyncio.gather(self._last, return_exceptions=True)

    async def _follow(self) -> None:
        while (state := self._next) is not None:
            self._next = None
            try:
                await self.review(state)
            except GatewayError as error:
                log.warning("tokens of those who have ended are still in the vault: %s", error)

    async def review(self, state: State) -> int:
        """Remove what nobody may use any more, and revoke it where it came from; return how much there was."""
        places, ended = _places(state), _ended_holders(state)
        gone = [
            (kind, id)
            for kind in (UPSTREAM, PROVIDER)
            for id, owner in await self._vault.ids(kind)
            if owner in ended or (kind == UPSTREAM and _place_of(id) not in places)
        ]
        held: list[tuple[str, bytes]] = []
        for kind, id in gone:
            with suppress(GatewayError):  # what does not open is gone all the same
                text = await self._vault.take(kind, id)
                if kind == UPSTREAM and text is not None and len(held) < MOST_REVOKED:
                    held.append((id, text))
        by_place = {(v.server, asked_with(v.endpoint, v.auth)): v for v in state.versions if v.auth is not None}
        for id, text in held:
            with suppress(GatewayError, msgspec.MsgspecError):
                await self._revoke(msgspec.json.decode(text, type=_Ended), by_place.get(_place_of(id)))
        return len(gone)

    async def _revoke(self, ended: _Ended, version: ServerVersion | None) -> None:
        if ended.client_id is not None and ended.refresh_token is not None:
            server = await self._discovery.of_issuer(ended.issuer)
            client = Client(ended.client_id, ended.client_method, ended.client_secret)
            await self._requests.revoke(server, client, ended.refresh_token, "refresh_token")
            return
        auth = version.auth if version is not None else None
        if ended.access_token is not None and version is not None and auth is not None and auth.client_id is not None:
            server = await self._requests.server_of(version, auth)
            await self._requests.revoke(server, await self._requests.client_of(auth, server), ended.access_token)


def _concerned(state: State) -> tuple[object, ...]:
    return state.servers, state.versions, state.active, state.accounts, state.teams


def _place_of(id: str) -> tuple[str, str]:
    server, _, rest = id.partition("/")
    return server, rest.partition("/")[0]


def _places(state: State) -> Collection[tuple[str, str]]:
    """Return where tokens still count: with the version that is active, with every later one, and with its equals."""
    there = {server.slug for server in state.servers if server.removed_at is None}
    versions = [v for v in state.versions if v.server in there and v.status != "retired"]
    since: Mapping[str, float] = {v.server: v.published_at for v in versions if state.active.get(v.server) == v.version}
    return {
        (v.server, asked_with(v.endpoint, v.auth))
        for v in versions
        if v.auth is not None and v.published_at >= since.get(v.server, 0.0)
    }


def _ended_holders(state: State) -> Collection[str]:
    teams = {team.name for team in state.teams if team.deactivated_at is not None}
    return {
        holder(account.issuer, account.subject)
        for account in state.accounts
        if account.deactivated_at is not None or account.team in teams
    }
