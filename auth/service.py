"""API keys, as administrators make and end them. The edge lets holders of `keys:write` in, and nobody else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from mcpgw.auth import keys
from mcpgw.auth.changing import Change, Changes, Document, Documents, check_holder, check_may_grant, check_names
from mcpgw.auth.holders import ISSUER
from mcpgw.auth.scopes import check_roles, kind_of, scopes_of
from mcpgw.domain import ApiKey, KeyLimits, OAuthClient, Principal, Revocation, State
from mcpgw.errors import Conflict, InvalidParams, NotFound
from mcpgw.ports import Clock, Store, Worlds

MAX_LIFE_S = 10 * 365 * 86400
MAX_OVERLAP_S = 90 * 86400
MAX_RATE = 10_000
MAX_SERVERS = 256
_KINDS = ("principal", "team", "client", "issuer", "grant", "token")
UNLIMITED = KeyLimits()


class KeysService:
    """Every change is one transaction with its note, and applies in all workers before the answer leaves."""

    def __init__(self, store: Store, worlds: Worlds, clock: Clock, pepper: bytes) -> None:
        self._changes = Changes(store, worlds, clock)
        self._worlds = worlds
        self._clock = clock
        self._pepper = pepper

    async def create(
        self,
        who: Principal,
        subject: str,
        roles: Collection[str],
        team: str | None = None,
        expires_in_s: float | None = None,
        limits: KeyLimits = UNLIMITED,
    ) -> Document:
        """Create a key; `key` of the answer is its text, shown this once.

        Raises InvalidParams, InsufficientScope, and Conflict for a subject or team that is deactivated.
        """
        check_names(subject, team)
        scopes = scopes_of(check_roles(roles))
        check_may_grant(who, scopes)
        if expires_in_s is not None and not 0 < expires_in_s <= MAX_LIFE_S:
            raise InvalidParams("a key lives for more than 0 seconds and at most 10 years", fix="give expires_in_s")
        _check_limits(limits, scopes)
        key, text = self._new_key(who, subject, roles, team, expires_in_s)
        key = _limited(key, limits)
        shown = shown_key(key)

        def change(state: State) -> Change:
            check_holder(state, subject, roles, team)
            _check_servers(state, limits.servers)
            return Change(rows=[key], action="key.create", target=key.id, after=shown, answer={**shown, "key": text})

        return await self._changes.carry_out(who, change)

    async def revoke(self, who: Principal, id: str, reason: str = "") -> Document:
        """Revoke a key for good. Raises NotFound, and Conflict for the last one that can administer keys."""

        def change(state: State) -> Change:
            held = _key(state, id)
            after = replace(held, revoked_at=held.revoked_at or self._clock.time())
            return Change(
                rows=[after],
                action="key.revoke",
                target=id,
                reason=reason,
                before=shown_key(held),
                after=shown_key(after),
            )

        return await self._changes.carry_out(who, change)

    async def rotate(self, who: Principal, id: str, overlap_s: float = 0.0) -> Document:
        """Replace a key by a new one of the same holder, roles, limits and lifetime.

        The old one ends at once, or `overlap_s` seconds from now. Raises NotFound, InvalidParams, InsufficientScope,
        and Conflict for a key that has ended, or been replaced, already.
        """
        if not 0 <= overlap_s <= MAX_OVERLAP_S:
            raise InvalidParams("an old key lives on for 0 seconds to 90 days", fix="give overlap_s")

        def change(state: State) -> Change:
            held = _key(state, id)
            now = self._clock.time()
            check_may_grant(who, scopes_of(held.roles))
            _check_rotates(state, held, now)
            life_s = None if held.expires_at is None else held.expires_at - held.created_at
            fresh, text = self._new_key(who, held.subject, held.roles, held.team, life_s)
            limits = KeyLimits(
                scopes=held.scopes,
                servers=held.servers,
                calls_per_minute=held.calls_per_minute,
                concurrent=held.concurrent,
            )
            fresh = replace(_limited(fresh, limits), replaces=id)
            return Change(
                rows=[fresh, _ending(held, now, overlap_s)],
                action="key.rotate",
                target=id,
                before=shown_key(held),
                after=shown_key(fresh),
                answer={**shown_key(fresh), "key": text},
            )

        return await self._changes.carry_out(who, change)

    async def revoke_before(
        self, who: Principal, kind: str, selector: str, not_before: float, reason: str = ""
    ) -> Document:
        """Void what was issued before `not_before` (Unix seconds) to a principal, team or client, or by an issuer.

        Kind `grant`: what a user allowed a client; `token`: one token, by its `jti`. A later moment given before stays.
        Raises InvalidParams, Conflict.
        """
        if kind not in _KINDS or not selector:
            raise InvalidParams(f"revoke before a time by one of: {', '.join(_KINDS)}", fix="with its selector")
        if kind == "principal" and "|" not in selector:
            raise InvalidParams("a principal is selected as issuer|subject", fix=f"for ours: {ISSUER}|subject")
        if not 0 <= not_before <= self._clock.time():
            raise InvalidParams("what is issued in the future cannot be revoked yet", fix="give a time that has passed")

        def change(state: State) -> Change:
            held = next((r for r in state.revocations if (r.kind, r.selector) == (kind, selector)), None)
            moment = max(not_before, held.not_before) if held else not_before
            return Change(
                rows=[Revocation(kind, selector, moment)],
                action="credentials.revoke_before",
                target=f"{kind}:{selector}",
                reason=reason,
                after={"kind": kind, "selector": selector, "not_before": moment},
            )

        return await self._changes.carry_out(who, change)

    def list(self) -> Documents:
        """Return every key, newest first, without its digest."""
        rows = self._worlds.current.state.keys
        return [shown_key(key) for key in sorted(rows, key=lambda k: k.created_at, reverse=True)]

    def revocations(self) -> Documents:
        """Return what is void before a time, the latest first."""
        rows = sorted(self._worlds.current.state.revocations, key=lambda r: r.not_before, reverse=True)
        return [
            {"kind": row.kind, "selector": row.selector, "not_before": row.not_before, "over_at": row.over_at}
            for row in rows
        ]

    def _new_key(
        self, who: Principal, subject: str, roles: Collection[str], team: str | None, life_s: float | None
    ) -> tuple[ApiKey, str]:
        now = self._clock.time()
        return keys.new_key(
            self._pepper,
            subject=subject,
            roles=roles,
            created_by=who.selector,
            created_at=now,
            team=team,
            expires_at=None if life_s is None else now + life_s,
        )


def shown_key(key: ApiKey) -> Document:
    """Return what may be shown of a key: all but its digest."""
    return {
        "id": key.id,
        **shown_holder(key),
        "expires_at": key.expires_at,
        "servers": None if key.servers is None else sorted(key.servers),
        "calls_per_minute": key.calls_per_minute,
        "concurrent": key.concurrent,
        "replaces": key.replaces,
    }


def shown_holder(holder: ApiKey | OAuthClient) -> Document:
    """Return what keys and clients have in common; `scopes` are those that they have of their roles."""
    scopes = scopes_of(holder.roles)
    return {
        "subject": holder.subject,
        "roles": sorted(holder.roles),
        "scopes": sorted(scopes if holder.scopes is None else scopes & holder.scopes),
        "kind": kind_of(holder.roles).value,
        "team": holder.team,
        "created_by": holder.created_by,
        "created_at": holder.created_at,
        "revoked_at": holder.revoked_at,
    }


def _key(state: State, id: str) -> ApiKey:
    found = next((key for key in state.keys if key.id == id), None)
    if found is None:
        raise NotFound("no such key", fix="mcpgw keys list shows them")
    return found


def _ended(key: ApiKey, now: float) -> bool:
    return key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now)


def _ending(key: ApiKey, now: float, overlap_s: float) -> ApiKey:
    if not overlap_s:
        return replace(key, revoked_at=now)
    ends = now + overlap_s
    return replace(key, expires_at=ends if key.expires_at is None else min(ends, key.expires_at))


def _limited(key: ApiKey, limits: KeyLimits) -> ApiKey:
    return replace(
        key,
        scopes=limits.scopes,
        servers=limits.servers,
        calls_per_minute=limits.calls_per_minute,
        concurrent=limits.concurrent,
    )


def _check_limits(limits: KeyLimits, scopes: frozenset[str]) -> None:
    if limits.scopes is not None and (not limits.scopes or not limits.scopes <= scopes):
        held = ", ".join(sorted(scopes)) or "none at all"
        raise InvalidParams("a key cannot have a scope that its roles do not carry", fix=f"they carry: {held}")
    for number in (limits.calls_per_minute, limits.concurrent):
        if number is not None and not 1 <= number <= MAX_RATE:
            raise InvalidParams(f"a limit of calls is a number from 1 to {MAX_RATE}", fix="or leave it out")


def _check_servers(state: State, servers: frozenset[str] | None) -> None:
    if servers is None:
        return
    if not 0 < len(servers) <= MAX_SERVERS:
        raise InvalidParams(f"a key opens 1 to {MAX_SERVERS} servers", fix="leave them out for all")
    known = {server.slug for server in state.servers if server.removed_at is None}
    unknown = sorted(servers - known)
    if unknown:
        raise InvalidParams(f"there is no server `{unknown[0][:64]}`", fix="mcpgw servers list")


def _check_rotates(state: State, key: ApiKey, now: float) -> None:
    if _ended(key, now):
        raise Conflict(f"key {key.id} is revoked or has expired", fix="create a new one: mcpgw keys create")
    if any(other.replaces == key.id and not _ended(other, now) for other in state.keys):
        raise Conflict(f"key {key.id} has been replaced already", fix="rotate the one that replaces it")
    check_holder(state, key.subject, key.roles, None)
