"""The authorizations that users gave: one record each, the root of a code, of refresh tokens and of access tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from mcpgw.auth.holders import refusal_of
from mcpgw.auth.server.refusals import invalid_grant
from mcpgw.domain import Account, AdminNote, Principal, Revocation
from mcpgw.ports import Clock, Identities, Record, Records, Store, Worlds

MAX_PER_CLIENT = 50
"""Grants that one user has given one client, at most: with another the oldest ends."""
GRANT, CODE, REFRESH = "grant", "code", "refresh"
"""Kinds of records. Those of codes and refresh tokens are owned by their grant, that by its account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a user allowed a client: `scopes` at `endpoint`, until `expires_at`. `account` is an id."""

    id: str
    account: str
    client_id: str
    endpoint: str
    scopes: frozenset[str]
    created_at: float
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """In seconds: of a code, of an authorization in all, of an access token."""

    code_s: int
    grant_s: int
    token_s: int


class Grants:
    """Keeps grants. `store` is the one whose commits all workers have applied when they return."""

    def __init__(self, records: Records, store: Store, worlds: Worlds, clock: Clock, lifetimes: Lifetimes) -> None:
        self._records = records
        self._store = store
        self._worlds = worlds
        self._clock = clock
        self.lifetimes = lifetimes

    async def begin(self, account: Account, client_id: str, endpoint: str, scopes: frozenset[str]) -> Grant:
        """Return a new grant that ends with its code, unless that is redeemed."""
        now = self._clock.time()
        grant = Grant(
            id=self._clock.new_id(),
            account=account.id,
            client_id=client_id,
            endpoint=endpoint,
            scopes=scopes,
            created_at=now,
            expires_at=now + self.lifetimes.code_s,
        )
        await self._records.put(_record(grant))
        return grant

    async def extend(self, grant: Grant) -> Grant:
        """Return the grant with all of its life. Raises Refused when it was revoked meanwhile."""
        held = await self._records.get(GRANT, grant.id)
        longer = replace(grant, expires_at=grant.created_at + self.lifetimes.grant_s)
        if held is None or not await self._records.replace(replace(_record(longer), revision=held.revision)):
            raise invalid_grant("the authorization was revoked meanwhile")
        await self._make_room(longer)
        return longer

    async def _make_room(self, newest: Grant) -> None:
        mine = [held for held in await self.of(newest.account) if held.client_id == newest.client_id]
        surplus = sorted(mine, key=lambda held: (held.created_at, held.id))[:-MAX_PER_CLIENT]
        if surplus:
            await self._revoke(surplus, newest.account, "mcpgw|system", "its user gave its client many others since")

    async def find(self, grant_id: str) -> Grant | None:
        held = await self._records.get(GRANT, grant_id)
        return None if held is None else _grant(held)

    async def of(self, account_id: str) -> Sequence[Grant]:
        """Return what this user has allowed, and still allows."""
        return [_grant(held) for held in await self._records.of(GRANT, account_id)]

    async def revoke(self, grant_id: str, *, actor: str = "mcpgw|system", reason: str = "") -> bool:
        """End a grant and every token of it, in all workers before this returns. False: there was none."""
        held = await self.find(grant_id)
        if held is not None:
            await self._revoke([held], held.id, actor, reason)
        return held is not None

    async def revoke_all(self, account_id: str, *, actor: str = "mcpgw|system", reason: str = "") -> int:
        """End all grants of a user; return how many there were."""
        held = await self.of(account_id)
        if held:
            await self._revoke(held, account_id, actor, reason)
        return len(held)

    async def revoke_token(self, jti: str, expires_at: float, *, actor: str) -> None:
        """End one access token, in all workers before this returns."""
        await self._void([Revocation("token", jti, expires_at, over_at=expires_at)], "token.revoke", jti, actor, "")

    async def _revoke(self, grants: Sequence[Grant], target: str, actor: str, reason: str) -> None:
        # First what makes the tokens void, then what makes new ones: whatever happens between the two, none is good.
        # One of this grant that is being made in this moment is void too.
        until = self._clock.time() + self.lifetimes.token_s
        over_at = until + self.lifetimes.token_s
        rows = [Revocation("grant", grant.id, until, over_at=over_at) for grant in grants]
        await self._void(rows, "grant.revoke", target, actor, reason)
        for grant in grants:
            for kind in (REFRESH, CODE):
                await self._records.drop(kind, grant.id)
            await self._records.take(GRANT, grant.id)

    async def _void(self, rows: Sequence[Revocation], action: str, target: str, actor: str, reason: str) -> None:
        note = AdminNote(
            id=self._clock.new_id(),
            time=self._clock.time(),
            actor=actor,
            action=action,
            target=target,
            reason=reason or None,
        )
        await self._worlds.at_least(await self._store.commit(rows, note))


def holder_of(grant: Grant, identities: Identities) -> Account:
    """Return the user of a grant, as the world has them now. Raises Refused."""
    account = identities.accounts.get(grant.account)
    if account is None or account.deactivated_at is not None:
        raise invalid_grant("the user is gone or deactivated")
    who = Principal(
        issuer=account.issuer,
        subject=account.subject,
        client_id=grant.client_id,
        kind=account.kind,
        team=account.team,
        issued_at=grant.created_at,
        grant=grant.id,
    )
    refusal = refusal_of(who, identities)
    if refusal is not None:
        raise invalid_grant(refusal.message)
    return account


def _record(grant: Grant) -> Record:
    body = msgspec.json.encode(grant)
    return Record(kind=GRANT, id=grant.id, owner=grant.account, body=body, expires_at=grant.expires_at)


def _grant(record: Record) -> Grant:
    return msgspec.json.decode(record.body, type=Grant)
