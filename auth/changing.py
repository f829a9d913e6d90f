"""A change of who may do what, as one transaction with its note, and what no such change may do."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mcpgw.auth.holders import ISSUER, holder_of_key
from mcpgw.auth.scopes import AGENT_SCOPES, scopes_of, scopes_of_account
from mcpgw.domain import (
    CLIENT_CREDENTIALS,
    Account,
    AdminNote,
    ApiKey,
    Kind,
    OAuthClient,
    Principal,
    Revocation,
    Row,
    State,
    Team,
)
from mcpgw.errors import Conflict, InsufficientScope, InvalidParams, Unauthenticated
from mcpgw.ports import Clock, Identities, Store, Worlds

Document = dict[str, Any]
Documents = list[Document]
R = TypeVar("R", Team, Account, ApiKey, OAuthClient, Revocation)

MANAGES = "keys:write"
"""The scope of those who decide who may do what."""
_ATTEMPTS = 5
# ASCII alone, so that no name looks like another; no `|`, which separates issuer and subject.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/+-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The rows that a change writes, the words of its note, and the answer to who asked for it (None: `after`)."""

    rows: Sequence[Row]
    action: str
    target: str
    reason: str | None = None
    before: Document | None = None
    after: Document | None = None
    answer: Document | None = None


class Changes:
    """Every change is one transaction with its note, and applies in all workers before the answer leaves."""

    def __init__(self, store: Store, worlds: Worlds, clock: Clock) -> None:
        self._store = store
        self._worlds = worlds
        self._clock = clock

    async def carry_out(self, who: Principal, change: Callable[[State], Change]) -> Document:
        """Carry out `change` on the state as it is, anew when another change came between; return its answer.

        Raises Conflict when it would end the last administrator of keys, and what `change` raises.
        """
        for attempt in range(_ATTEMPTS):
            state = await self._store.state()
            made = change(state)
            check_still_administered(state, made.rows, self._clock.time())
            try:
                epoch = await self._store.commit(made.rows, self._note(who, made), expect=state.epoch)
            except Conflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            await self._worlds.at_least(epoch)
            return made.answer or made.after or {}
        raise AssertionError("unreachable")

    def _note(self, who: Principal, made: Change) -> AdminNote:
        return AdminNote(
            id=self._clock.new_id(),
            time=self._clock.time(),
            actor=who.selector,
            action=made.action,
            target=made.target,
            reason=made.reason,
            before=made.before,
            after=made.after,
        )


def check_names(subject: str, team: str | None) -> None:
    """Raise InvalidParams for what cannot be a subject of ours, or a team."""
    for name in (subject, *(() if team is None else (team,))):
        if not _NAME.fullmatch(name):
            raise InvalidParams("a subject or team has up to 128 of A-Z a-z 0-9 . _ @ : / + -", fix="rename it")
    if subject == "system":
        raise InvalidParams("the subject `system` is the gateway itself", fix="choose another")


def check_may_grant(who: Principal, scopes: Collection[str]) -> None:
    """Whoever may write keys may make agents, and administrators up to their own scopes; the gateway itself, any."""
    missing = frozenset(scopes) - AGENT_SCOPES - who.scopes
    if missing and who.kind is not Kind.SYSTEM:
        raise InsufficientScope(
            "nobody can grant scopes that they do not hold",
            fix="ask an administrator who holds them",
            data={"scope": " ".join(sorted(missing))},
        )


def check_holder(state: State, subject: str, roles: Collection[str], team: str | None) -> None:
    """Check what a new credential refers to: an active team, and the account of its subject, if there is one.

    Raises Conflict, InvalidParams.
    """
    check_team(state, team)
    account = next((a for a in state.accounts if (a.issuer, a.subject) == (ISSUER, subject)), None)
    if account is None:
        return
    check_team(state, account.team)
    if account.deactivated_at is not None:
        raise Conflict(f"`{subject}` is deactivated", fix="reactivate it: mcpgw users reactivate")
    if team is not None and account.team is not None and team != account.team:
        raise InvalidParams(f"`{subject}` is of team {account.team}", fix="leave the team out")
    missing = sorted(set(roles) - account.roles)
    if missing:
        raise InvalidParams(f"`{subject}` does not have the role `{missing[0]}`", fix="mcpgw users update --role")


def check_team(state: State, team: str | None) -> None:
    """Raise Conflict for a team that is deactivated. One that nobody has described is active."""
    if any(t.name == team and t.deactivated_at is not None for t in state.teams):
        raise Conflict(f"team {team} is deactivated", fix=f"reactivate it: mcpgw teams reactivate {team}")


def check_still_administered(state: State, rows: Sequence[Row], now: float) -> None:
    """Refuse a change that takes away the last who could make another. Raises Conflict."""
    after = replace(
        state,
        teams=_with(state.teams, rows, Team, lambda row: row.name),
        accounts=_with(state.accounts, rows, Account, lambda row: row.id),
        keys=_with(state.keys, rows, ApiKey, lambda row: row.id),
        clients=_with(state.clients, rows, OAuthClient, lambda row: row.client_id),
        revocations=_with(state.revocations, rows, Revocation, lambda row: (row.kind, row.selector)),
    )
    if not _administered(after, now) and _administered(state, now):
        raise Conflict(
            "this would end the last credential that can administer keys",
            fix="create another administrator's key first, or rotate this one",
        )


def _with(held: Sequence[R], rows: Sequence[Row], kind: type[R], key: Callable[[R], object]) -> tuple[R, ...]:
    changed = {key(row): row for row in rows if isinstance(row, kind)}
    return tuple(({key(row): row for row in held} | changed).values()) if changed else tuple(held)


def _administered(state: State, now: float) -> bool:
    """Whether someone may write keys whom the gateway itself can recognise: nobody else's word is needed for them.

    A client counts whatever its tokens' age, since it can get a new one; of users, those who have a password.
    """
    identities = Identities.of(state)
    return (
        any(_key_manages(key, identities, now) for key in state.keys)
        or any(_client_manages(client, identities) for client in state.clients)
        or any(
            account.password is not None
            and MANAGES in scopes_of_account(account)
            and _active(identities, account, account.team)
            for account in state.accounts
        )
    )


def _key_manages(key: ApiKey, identities: Identities, now: float) -> bool:
    if MANAGES not in scopes_of(key.roles) or (key.expires_at is not None and key.expires_at <= now):
        return False
    try:
        return MANAGES in holder_of_key(key, identities).scopes
    except Unauthenticated:
        return False


def _client_manages(client: OAuthClient, identities: Identities) -> bool:
    account = identities.accounts.get((ISSUER, client.subject))
    scopes = scopes_of(client.roles if account is None else client.roles & account.roles)
    if client.revoked_at is not None or CLIENT_CREDENTIALS not in client.grants:
        return False
    narrowed = scopes if client.scopes is None else scopes & client.scopes
    return MANAGES in narrowed and _active(identities, account, client.team)


def _active(identities: Identities, account: Account | None, team: str | None) -> bool:
    ended = account is not None and (
        account.deactivated_at is not None or (account.team is not None and account.team in identities.deactivated)
    )
    return not ended and (team is None or team not in identities.deactivated)
