"""Keys and clients, as administrators make and end them. The edge lets holders of `keys:write` in, and nobody else."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mcpgw.auth import keys
from mcpgw.auth.holders import ISSUER, voided
from mcpgw.auth.scopes import AGENT_SCOPES, check_roles, kind_of, scopes_of
from mcpgw.domain import AdminNote, ApiKey, Kind, OAuthClient, Principal, Revocation, Row, State
from mcpgw.errors import Conflict, InsufficientScope, InvalidParams, NotFound
from mcpgw.ports import Clock, Store, Worlds

Document = dict[str, Any]
Documents = list[Document]
Change = tuple[Sequence[Row], AdminNote, Document]
"""The rows that a change writes, its note, and the answer to who asked for it."""

MAX_LIFE_S = 10 * 365 * 86400
_ATTEMPTS = 5
# ASCII alone, so that no name looks like another; no `|`, which separates issuer and subject.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/+-]{0,127}")
_CLIENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KINDS = ("principal", "client", "issuer")


class KeysService:
    """Every change is one transaction with its note, and applies here before the answer leaves."""

    def __init__(self, store: Store, worlds: Worlds, clock: Clock, pepper: bytes) -> None:
        self._store = store
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
    ) -> Document:
        """Create a key; `key` of the answer is its text, shown this once. Raises InvalidParams, InsufficientScope."""
        _check_names(subject, team)
        _check_may_grant(who, check_roles(roles))
        if expires_in_s is not None and not 0 < expires_in_s <= MAX_LIFE_S:
            raise InvalidParams("a key lives for more than 0 seconds and at most 10 years", fix="give expires_in_s")
        key, text = self._new_key(who, subject, roles, team, expires_in_s)
        shown = shown_key(key)
        note = self._note(who, "key.create", key.id, after=shown)
        return await self._commit(lambda state: ([key], note, {**shown, "key": text}))

    async def revoke(self, who: Principal, id: str, reason: str = "") -> Document:
        """Revoke a key for good. Raises NotFound, and Conflict for the last one that can administer keys."""

        def change(state: State) -> Change:
            held = _key(state, id)
            after = replace(held, revoked_at=held.revoked_at or self._clock.time())
            shown = shown_key(after)
            return [after], self._note(who, "key.revoke", id, reason, shown_key(held), shown), shown

        return await self._commit(change)

    async def rotate(self, who: Principal, id: str) -> Document:
        """Replace a key by a new one of the same holder, roles and lifetime; the old one ends at once.

        Raises NotFound, InsufficientScope, and Conflict for a key that has ended already.
        """

        def change(state: State) -> Change:
            held = _key(state, id)
            now = self._clock.time()
            _check_may_grant(who, held.roles)
            if _ended(held, now):
                raise Conflict(f"key {id} is revoked or has expired", fix="create a new one: mcpgw keys create")
            life_s = None if held.expires_at is None else held.expires_at - held.created_at
            fresh, text = self._new_key(who, held.subject, held.roles, held.team, life_s)
            shown = shown_key(fresh)
            note = self._note(who, "key.rotate", id, None, shown_key(held), shown)
            return [fresh, replace(held, revoked_at=now)], note, {**shown, "key": text, "replaces": id}

        return await self._commit(change)

    async def create_client(
        self, who: Principal, client_id: str | None, subject: str, roles: Collection[str], team: str | None = None
    ) -> Document:
        """Create a client of our authorization server; `client_secret` of the answer is shown this once.

        Raises InvalidParams, InsufficientScope, and Conflict when the id is taken, also by a revoked client.
        """
        _check_names(subject, team)
        _check_may_grant(who, check_roles(roles))
        if client_id is not None and not _CLIENT_ID.fullmatch(client_id):
            raise InvalidParams("a client id has up to 64 letters, digits, and . _ - within", fix="or leave it out")
        secret, _ = keys.new_secret(keys.CLIENT_LABEL)
        client = OAuthClient(
            client_id=client_id or f"client-{keys.new_id()}",
            digest=keys.digest(self._pepper, secret),
            subject=subject,
            roles=frozenset(roles),
            created_by=who.selector,
            created_at=self._clock.time(),
            team=team,
        )

        def change(state: State) -> Change:
            if any(c.client_id == client.client_id for c in state.clients):
                raise Conflict(f"client {client.client_id} exists", fix="choose another id, or leave it out")
            shown = shown_client(client)
            note = self._note(who, "client.create", client.client_id, after=shown)
            return [client], note, {**shown, "client_secret": secret}

        return await self._commit(change)

    async def revoke_client(self, who: Principal, client_id: str, reason: str = "") -> Document:
        """Revoke a client, and with it every token that it holds. Raises NotFound, Conflict."""

        def change(state: State) -> Change:
            held = next((c for c in state.clients if c.client_id == client_id), None)
            if held is None:
                raise NotFound("no such client", fix="mcpgw keys list shows them")
            after = replace(held, revoked_at=held.revoked_at or self._clock.time())
            shown = shown_client(after)
            return [after], self._note(who, "client.revoke", client_id, reason, shown_client(held), shown), shown

        return await self._commit(change)

    async def revoke_before(
        self, who: Principal, kind: str, selector: str, not_before: float, reason: str = ""
    ) -> Document:
        """Void what was issued before `not_before` (Unix seconds) to a principal, a client, or by an issuer.

        A later moment given earlier stays. Raises InvalidParams, Conflict.
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
            shown = {"kind": kind, "selector": selector, "not_before": moment}
            note = self._note(who, "credentials.revoke_before", f"{kind}:{selector}", reason, after=shown)
            return [Revocation(kind, selector, moment)], note, shown

        return await self._commit(change)

    def list(self) -> Documents:
        """Return every key, newest first, without its digest."""
        rows = self._worlds.current.state.keys
        return [shown_key(key) for key in sorted(rows, key=lambda k: k.created_at, reverse=True)]

    def clients(self) -> Documents:
        """Return every client, newest first, without its digest."""
        rows = self._worlds.current.state.clients
        return [shown_client(c) for c in sorted(rows, key=lambda c: c.created_at, reverse=True)]

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

    async def _commit(self, change: Callable[[State], Change]) -> Document:
        """Carry out `change` on the state as it is, anew when another change came between; return its answer."""
        for attempt in range(_ATTEMPTS):
            state = await self._store.state()
            rows, note, answer = change(state)
            _check_still_administered(state, rows, self._clock.time())
            try:
                epoch = await self._store.commit(rows, note, expect=state.epoch)
            except Conflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            await self._worlds.at_least(epoch)
            return answer
        raise AssertionError("unreachable")

    def _note(
        self,
        who: Principal,
        action: str,
        target: str,
        reason: str | None = None,
        before: Document | None = None,
        after: Document | None = None,
    ) -> AdminNote:
        return AdminNote(
            id=self._clock.new_id(),
            time=self._clock.time(),
            actor=who.selector,
            action=action,
            target=target,
            reason=reason,
            before=before,
            after=after,
        )


def shown_key(key: ApiKey) -> Document:
    """Return what may be shown of a key: all but its digest."""
    return {"id": key.id, **_shown(key), "expires_at": key.expires_at}


def shown_client(client: OAuthClient) -> Document:
    """Return what may be shown of a client: all but its digest."""
    return {"client_id": client.client_id, **_shown(client)}


def _shown(holder: ApiKey | OAuthClient) -> Document:
    return {
        "subject": holder.subject,
        "roles": sorted(holder.roles),
        "scopes": sorted(scopes_of(holder.roles)),
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


def _check_names(subject: str, team: str | None) -> None:
    for name in (subject, *(() if team is None else (team,))):
        if not _NAME.fullmatch(name):
            raise InvalidParams("a subject or team has up to 128 of A-Z a-z 0-9 . _ @ : / + -", fix="rename it")
    if subject == "system":
        raise InvalidParams("the subject `system` is the gateway itself", fix="choose another")


def _check_may_grant(who: Principal, roles: Collection[str]) -> None:
    """Whoever may write keys may make agents, and administrators up to their own scopes; the gateway itself, any."""
    missing = scopes_of(roles) - AGENT_SCOPES - who.scopes
    if missing and who.kind is not Kind.SYSTEM:
        raise InsufficientScope(
            "nobody can grant scopes that they do not hold",
            fix="ask an administrator who holds them",
            data={"scope": " ".join(sorted(missing))},
        )


def _check_still_administered(state: State, rows: Sequence[Row], now: float) -> None:
    """Refuse a change that takes away the last credential that could make another. Raises Conflict."""
    held = {key.id: key for key in state.keys}
    clients = {client.client_id: client for client in state.clients}
    not_before = {(row.kind, row.selector): row.not_before for row in state.revocations}
    before = _administered(held, clients, not_before, now)
    for row in rows:
        if isinstance(row, ApiKey):
            held[row.id] = row
        elif isinstance(row, OAuthClient):
            clients[row.client_id] = row
        elif isinstance(row, Revocation):
            not_before[row.kind, row.selector] = row.not_before
    if before and not _administered(held, clients, not_before, now):
        raise Conflict(
            "this would end the last credential that can administer keys",
            fix="create another administrator's key first, or rotate this one",
        )


def _administered(
    held: Mapping[str, ApiKey],
    clients: Mapping[str, OAuthClient],
    not_before: Mapping[tuple[str, str], float],
    now: float,
) -> bool:
    """Whether some credential may write keys. A client counts whatever its tokens' age: it can get a new one."""
    return any(
        "keys:write" in scopes_of(key.roles)
        and not _ended(key, now)
        and not voided(not_before, key.subject, key.id, key.created_at)
        for key in held.values()
    ) or any("keys:write" in scopes_of(c.roles) and c.revoked_at is None for c in clients.values())
