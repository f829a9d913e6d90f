"""Teams and accounts (users and agents), as administrators make and end them.

The edge lets holders of `keys:write` in, and nobody else. What ends, ends for good: keys, tokens and grants of before
do not come back with an account or a team that is reactivated.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mcpgw.auth.changing import Change, Changes, Document, Documents, check_may_grant, check_names, check_team
from mcpgw.auth.holders import ISSUER
from mcpgw.auth.scopes import AGENT_SCOPES, scopes_of_account
from mcpgw.auth.scopes import check_names as check_role_names
from mcpgw.domain import SYSTEM, Account, Kind, Principal, Revocation, State, Team
from mcpgw.errors import Conflict, InvalidParams, NotFound
from mcpgw.ports import Clock, Store, Worlds

HashPassword = Callable[[str], Awaitable[str]]
"""Return the Argon2id hash of a password in PHC form. Raises InvalidParams for one that is too weak."""
Ended = Callable[[Account], Awaitable[object]]
"""Drop what is kept for an account outside of the world: browser sessions, grants with their refresh tokens, tokens
towards upstreams. The world refuses all of it already."""

MAX_TITLE = 200
_CHANGEABLE = frozenset({"title", "team", "roles", "email"})
# Of another issuer: OpenID Connect Core §2 has up to 255 ASCII characters.
_FOREIGN_SUBJECT = re.compile(r"[\x21-\x7e]{1,255}")
_ISSUER = re.compile(r"https?://[\x21\x23-\x7b\x7d\x7e]{1,500}")
_EMAIL = re.compile(r"[^\s@]{1,128}@[^\s@]{1,125}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Someone who signed in at an identity provider, as that describes them. `roles` None: as they are here."""

    issuer: str
    subject: str
    title: str = ""
    email: str | None = None
    team: str | None = None
    roles: frozenset[str] | None = None


class PrincipalsService:
    """Every change is one transaction with its note, and applies in all workers before the answer leaves."""

    def __init__(
        self,
        store: Store,
        worlds: Worlds,
        clock: Clock,
        *,
        hash_password: HashPassword,
        ended: Sequence[Ended] = (),
    ) -> None:
        self._changes = Changes(store, worlds, clock)
        self._worlds = worlds
        self._clock = clock
        self._hash_password = hash_password
        self._ended = ended

    # Teams

    def teams(self) -> Documents:
        """Return every team that has been described, with the number of its accounts."""
        state = self._worlds.current.state
        return [_shown_team(team, state) for team in state.teams]

    async def create_team(self, who: Principal, name: str, title: str = "") -> Document:
        """Describe a team. Raises InvalidParams, and Conflict when it has been already."""
        check_names("a", name)
        team = Team(name=name, title=_line(title, "title"), created_by=who.selector, created_at=self._clock.time())

        def change(state: State) -> Change:
            if any(held.name == name for held in state.teams):
                raise Conflict(f"team {name} exists", fix="choose another name")
            return Change(rows=[team], action="team.create", target=name, after=_shown_team(team, state))

        return await self._changes.carry_out(who, change)

    async def update_team(self, who: Principal, name: str, title: str) -> Document:
        """Give a team another title. Raises NotFound, InvalidParams."""
        line = _line(title, "title")

        def change(state: State) -> Change:
            held = _team(state, name)
            return _team_change("team.update", held, replace(held, title=line), state)

        return await self._changes.carry_out(who, change)

    async def deactivate_team(self, who: Principal, name: str, reason: str) -> Document:
        """Refuse everyone of a team from now on, and end what they hold. A team that nobody described, too.

        Raises InvalidParams, Conflict.
        """
        check_names("a", name)
        now = self._clock.time()

        def change(state: State) -> Change:
            unknown = Team(name=name, title="", created_by=who.selector, created_at=now)
            held = next((team for team in state.teams if team.name == name), unknown)
            ended = replace(held, deactivated_at=held.deactivated_at or now)
            made = _team_change("team.deactivate", held, ended, state, reason)
            return replace(made, rows=[ended, Revocation("team", name, now)])

        shown = await self._changes.carry_out(who, change)
        await self._drop([a for a in self._worlds.current.state.accounts if a.team == name])
        return shown

    async def reactivate_team(self, who: Principal, name: str, reason: str) -> Document:
        """Let a team in again; what its members held before stays void. Raises NotFound, InsufficientScope."""

        def change(state: State) -> Change:
            held = _team(state, name)
            for account in state.accounts:
                if account.team == name:
                    check_may_grant(who, scopes_of_account(account))
            return _team_change("team.reactivate", held, replace(held, deactivated_at=None), state, reason)

        return await self._changes.carry_out(who, change)

    # Accounts

    def list(
        self, name: str | None = None, team: str | None = None, after: str | None = None, limit: int = 100
    ) -> Document:
        """Return up to `limit` accounts beyond the id `after`, in the order of their ids, which is that of their age.

        `name` is an id, a subject, or `issuer|subject`. `after` of the answer begins the next page, or is None.
        """
        found = [
            account
            for account in self._worlds.current.state.accounts
            if (after is None or account.id > after)
            and (team is None or account.team == team)
            and (name is None or name in (account.id, account.subject, f"{account.issuer}|{account.subject}"))
        ]
        shown = [shown_account(account) for account in found[:limit]]
        return {"principals": shown, "after": shown[-1]["id"] if len(found) > limit else None}

    def show(self, id: str) -> Document:
        return shown_account(_account(self._worlds.current.state, id))

    async def create(self, who: Principal, draft: Account, password: str | None = None) -> Document:
        """Create the account of a user or an agent; of `draft` its id, creator and times are ours.

        Raises InvalidParams, InsufficientScope, and Conflict when issuer and subject have one.
        """
        hashed = None if password is None else await self._hash_password(password)
        account = replace(
            draft,
            id=self._clock.new_id(),
            created_by=who.selector,
            created_at=self._clock.time(),
            deactivated_at=None,
            password=hashed,
        )
        _check(account)
        check_may_grant(who, scopes_of_account(account))

        def change(state: State) -> Change:
            if any((a.issuer, a.subject) == (account.issuer, account.subject) for a in state.accounts):
                raise Conflict(f"`{account.subject}` has an account", fix="mcpgw users list shows it")
            check_team(state, account.team)
            return Change(rows=[account], action="account.create", target=account.id, after=shown_account(account))

        return await self._changes.carry_out(who, change)

    async def update(self, who: Principal, id: str, given: Mapping[str, Any]) -> Document:
        """Change title, team, roles or email, those of them that are given.

        Raises NotFound, InvalidParams, InsufficientScope, and Conflict for the last administrator.
        """
        unknown = sorted(given.keys() - _CHANGEABLE)
        if unknown:
            raise InvalidParams(f"`{unknown[0]}` of an account does not change", fix=", ".join(sorted(_CHANGEABLE)))

        def change(state: State) -> Change:
            held = _account(state, id)
            after = replace(held, **{**given, "roles": frozenset(given.get("roles", held.roles))})
            _check(after)
            check_team(state, after.team)
            # Whoever is more than an agent is changed by those alone who could have made them.
            check_may_grant(who, scopes_of_account(held) | scopes_of_account(after))
            return _account_change("account.update", held, after)

        return await self._changes.carry_out(who, change)

    async def set_password(self, who: Principal, id: str, password: str | None) -> Document:
        """Give a user of ours a password, or none; their sessions and grants end.

        Raises NotFound, InvalidParams, InsufficientScope, Conflict.
        """
        _check_local(_account(self._worlds.current.state, id))
        hashed = None if password is None else await self._hash_password(password)

        def change(state: State) -> Change:
            held = _account(state, id)
            _check_local(held)
            check_may_grant(who, scopes_of_account(held))
            return _account_change("account.password", held, replace(held, password=hashed))

        shown = await self._changes.carry_out(who, change)
        await self._drop([_account(self._worlds.current.state, id)])
        return shown

    async def deactivate(self, who: Principal, id: str, reason: str) -> Document:
        """Refuse an account from now on, and end all that it holds. Raises NotFound, Conflict."""
        now = self._clock.time()

        def change(state: State) -> Change:
            held = _account(state, id)
            ended = replace(held, deactivated_at=held.deactivated_at or now)
            made = _account_change("account.deactivate", held, ended, reason)
            return replace(made, rows=[ended, Revocation("principal", f"{held.issuer}|{held.subject}", now)])

        shown = await self._changes.carry_out(who, change)
        await self._drop([_account(self._worlds.current.state, id)])
        return shown

    async def reactivate(self, who: Principal, id: str, reason: str) -> Document:
        """Let an account in again; what it held before stays void. Raises NotFound, InsufficientScope, Conflict."""

        def change(state: State) -> Change:
            held = _account(state, id)
            check_team(state, held.team)
            check_may_grant(who, scopes_of_account(held))
            return _account_change("account.reactivate", held, replace(held, deactivated_at=None), reason)

        return await self._changes.carry_out(who, change)

    async def signed_in(self, person: Person) -> Account:
        """Return the account of someone whom an identity provider vouches for, made when they come for the first time.

        What the provider says of them now goes into it. One that is deactivated stays so. Raises InvalidParams.
        """
        selector = person.issuer, person.subject
        held = self._worlds.current.identities.accounts.get(selector)
        if held is None or _described(held, person) != held:

            def change(state: State) -> Change:
                found = next((a for a in state.accounts if (a.issuer, a.subject) == selector), None)
                after = _described(found or self._first_seen(person), person)
                _check(after)
                action = "account.sign_in" if found else "account.create"
                return _account_change(action, found, after)

            await self._changes.carry_out(SYSTEM, change)
        return self._worlds.current.identities.accounts[selector]

    def _first_seen(self, person: Person) -> Account:
        return Account(
            id=self._clock.new_id(),
            issuer=person.issuer,
            subject=person.subject,
            kind=Kind.USER,
            roles=frozenset({"agent"}),
            created_by=SYSTEM.selector,
            created_at=self._clock.time(),
        )

    async def _drop(self, accounts: Collection[Account]) -> None:
        for account in accounts:
            for drop in self._ended:
                await drop(account)


def shown_account(account: Account) -> Document:
    """Return what may be shown of an account: all but the hash of its password."""
    return {
        "id": account.id,
        "principal": f"{account.issuer}|{account.subject}",
        "issuer": account.issuer,
        "subject": account.subject,
        "kind": account.kind.value,
        "roles": sorted(account.roles),
        "scopes": sorted(scopes_of_account(account)),
        "title": account.title,
        "team": account.team,
        "email": account.email,
        "has_password": account.password is not None,
        "created_by": account.created_by,
        "created_at": account.created_at,
        "deactivated_at": account.deactivated_at,
    }


def _shown_team(team: Team, state: State) -> Document:
    return {
        "name": team.name,
        "title": team.title,
        "accounts": sum(account.team == team.name for account in state.accounts),
        "created_by": team.created_by,
        "created_at": team.created_at,
        "deactivated_at": team.deactivated_at,
    }


def _team_change(action: str, held: Team, after: Team, state: State, reason: str | None = None) -> Change:
    return Change(
        rows=[after],
        action=action,
        target=held.name,
        reason=reason,
        before=_shown_team(held, state),
        after=_shown_team(after, state),
    )


def _account_change(action: str, held: Account | None, after: Account, reason: str | None = None) -> Change:
    return Change(
        rows=[after],
        action=action,
        target=after.id,
        reason=reason,
        before=None if held is None else shown_account(held),
        after=shown_account(after),
    )


def _described(account: Account, person: Person) -> Account:
    title = "".join(letter for letter in person.title if letter.isprintable())
    return replace(
        account,
        title=title[:MAX_TITLE],
        email=person.email if person.email is not None and _EMAIL.fullmatch(person.email) else None,
        team=person.team if person.team is not None else account.team,
        roles=account.roles if person.roles is None else person.roles,
    )


def _account(state: State, id: str) -> Account:
    found = next((account for account in state.accounts if account.id == id), None)
    if found is None:
        raise NotFound("no such account", fix="mcpgw users list shows them")
    return found


def _team(state: State, name: str) -> Team:
    found = next((team for team in state.teams if team.name == name), None)
    if found is None:
        raise NotFound("no such team", fix="mcpgw teams list shows them")
    return found


def _check_local(account: Account) -> None:
    if account.issuer != ISSUER or account.kind is not Kind.USER:
        raise InvalidParams("only a user of the gateway's own has a password here", fix="others sign in elsewhere")


def _check(account: Account) -> None:
    """Raise InvalidParams for an account that makes no sense."""
    if account.kind not in (Kind.USER, Kind.AGENT):
        raise InvalidParams("an account is a user's or an agent's", fix="kind: user, or agent")
    if account.issuer == ISSUER:
        check_names(account.subject, account.team)
    else:
        check_names("a", account.team)
        if not _ISSUER.fullmatch(account.issuer) or not _FOREIGN_SUBJECT.fullmatch(account.subject):
            raise InvalidParams("an issuer is a URL, and a subject there up to 255 ASCII characters", fix="no blanks")
    if account.password is not None:
        _check_local(account)
    check_role_names(account.roles)
    if account.kind is Kind.AGENT and not scopes_of_account(replace(account, kind=Kind.USER)) <= AGENT_SCOPES:
        raise InvalidParams("an agent cannot have a role of an administrator", fix="give it the role agent")
    _line(account.title, "title")
    if account.email is not None and not _EMAIL.fullmatch(account.email):
        raise InvalidParams("that is no email address", fix="name@example.com")


def _line(text: str, what: str) -> str:
    if len(text) > MAX_TITLE or not text.isprintable():
        raise InvalidParams(f"a {what} is one line of at most {MAX_TITLE} characters", fix="shorten it")
    return text
