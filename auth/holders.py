"""What the holder of a credential may do now: the rows of the world make a principal of what a credential says.

Nothing here is remembered longer than the world it was read from.
"""

from __future__ import annotations

from collections.abc import Iterator

from mcpgw.auth.access_tokens import TokenFacts
from mcpgw.auth.scopes import ADMIN_SCOPES, kind_of, of_one_side, scopes_of, scopes_of_account
from mcpgw.domain import Account, ApiKey, Kind, OAuthClient, Principal
from mcpgw.errors import Unauthenticated
from mcpgw.ports import Identities

ISSUER = "mcpgw"
"""The issuer of every principal of ours, whatever the URL of the gateway: a kill switch on `mcpgw|bob` holds for bob's
keys and tokens alike, also after the gateway has moved to another port or host."""
CONSOLE = "console"
"""The client of people who have signed in at the gateway itself with a browser."""


def holder_of_key(key: ApiKey, identities: Identities) -> Principal:
    """Return who holds an API key. Raises Unauthenticated."""
    account = identities.accounts.get((ISSUER, key.subject))
    roles = key.roles if account is None else key.roles & account.roles
    scopes = scopes_of(roles)
    if account is not None:
        scopes &= scopes_of_account(account)
    who = Principal(
        issuer=ISSUER,
        subject=key.subject,
        client_id=key.id,
        kind=kind_of(roles),
        roles=roles,
        scopes=scopes if key.scopes is None else scopes & key.scopes,
        team=_team(account, key.team),
        credential=key.id,
        issued_at=key.created_at,
        expires_at=key.expires_at,
        servers=key.servers,
        calls_per_minute=key.calls_per_minute,
        concurrent=key.concurrent,
        account=account.id if account is not None else None,
    )
    return standing(who, identities)


def holder_of_token(facts: TokenFacts, identities: Identities) -> Principal:
    """Return who holds one of our access tokens, whose times have been checked. Raises Unauthenticated."""
    client = identities.clients.get(facts.client_id)
    # A client that is the URL of a document about it has no row.
    if client is None and "://" not in facts.client_id:
        raise Unauthenticated("the client of this access token is unknown or revoked", fix="ask an administrator")
    if facts.grant is None and client is not None and facts.subject == client.subject:
        return standing(_client_itself(facts, client, identities), identities)
    account = identities.accounts.get(facts.subject)
    if account is None:
        raise Unauthenticated("the access token is for another subject", fix="get a new one")
    return standing(_user(facts, client, account), identities)


def holder_of_session(account: Account, began_at: float, identities: Identities) -> Principal:
    """Return who signed in with a browser at a time (Unix seconds), with an administrator's scopes at most.

    `account` as it is in these identities. Raises Unauthenticated.
    """
    who = Principal(
        issuer=account.issuer,
        subject=account.subject,
        client_id=CONSOLE,
        kind=account.kind,
        roles=account.roles,
        scopes=scopes_of_account(account) & ADMIN_SCOPES,
        team=account.team,
        issued_at=began_at,
        account=account.id,
    )
    return standing(who, identities)


def standing(who: Principal, identities: Identities) -> Principal:
    """Return a principal as a credential makes it, unless the world says that it has ended. Raises Unauthenticated."""
    refusal = refusal_of(who, identities)
    if refusal is not None:
        raise refusal
    return who


def refusal_of(who: Principal, identities: Identities) -> Unauthenticated | None:
    """Return why a credential that was good counts no more, or None: asked on each call, and of calls that run."""
    if who.kind is Kind.SYSTEM:
        return None
    key = identities.keys.get(who.credential) if _is_key(who) and who.credential else None
    if key is not None and key.revoked_at is not None:
        return Unauthenticated("the API key is revoked", fix="ask an administrator for a new one")
    client = identities.clients.get(who.client_id)
    if client is not None and client.revoked_at is not None:
        return Unauthenticated(
            "the client of this access token is unknown or revoked", fix="ask an administrator for another"
        )
    if identities.not_before:
        issued_at = who.issued_at or 0.0
        if any(issued_at < identities.not_before.get(place, 0.0) for place in _places(who)):
            what, fix = ("API key", "ask an administrator for a new one") if key else ("access token", "get a new one")
            return Unauthenticated(f"the {what} is revoked", fix=fix)
    return _deactivated(who, identities)


def expired_at(now: float, who: Principal, identities: Identities) -> Unauthenticated | None:
    """Return that the credential of a call that runs has expired at `now`: the end of a key may have come nearer."""
    key = identities.keys.get(who.credential) if _is_key(who) and who.credential else None
    expires_at = who.expires_at if key is None else key.expires_at
    if expires_at is None or now < expires_at:
        return None
    return Unauthenticated("the credential expired during the call", fix="request a new token")


def _client_itself(facts: TokenFacts, client: OAuthClient, identities: Identities) -> Principal:
    account = identities.accounts.get((ISSUER, client.subject))
    roles = client.roles if account is None else client.roles & account.roles
    scopes = scopes_of(roles)
    if account is not None:
        scopes &= scopes_of_account(account)
    return Principal(
        issuer=ISSUER,
        subject=client.subject,
        client_id=client.client_id,
        kind=kind_of(roles),
        roles=roles,
        # What the token grants and the client still holds.
        scopes=facts.scopes & (scopes if client.scopes is None else scopes & client.scopes),
        team=_team(account, client.team),
        actors=facts.actors,
        credential=facts.jti,
        issued_at=float(facts.issued_at),
        expires_at=float(facts.expires_at),
        account=account.id if account is not None else None,
    )


def _user(facts: TokenFacts, client: OAuthClient | None, account: Account) -> Principal:
    scopes = of_one_side(facts.scopes & scopes_of_account(account))
    return Principal(
        issuer=account.issuer,
        subject=account.subject,
        client_id=facts.client_id,
        kind=account.kind,
        roles=account.roles,
        scopes=scopes if client is None or client.scopes is None else scopes & client.scopes,
        team=account.team,
        actors=facts.actors,
        credential=facts.jti,
        issued_at=float(facts.issued_at),
        expires_at=float(facts.expires_at),
        account=account.id,
        grant=facts.grant,
    )


def _team(account: Account | None, team: str | None) -> str | None:
    """The team of an account goes before that of its keys and clients."""
    return team if account is None or account.team is None else account.team


def _is_key(who: Principal) -> bool:
    return who.issuer == ISSUER and who.credential == who.client_id


def _places(who: Principal) -> Iterator[tuple[str, str]]:
    """Yield the kinds and selectors of revocations that hold for a principal, and for those who act for it."""
    yield "principal", who.selector
    yield "client", who.client_id
    yield "issuer", who.issuer
    if who.team is not None:
        yield "team", who.team
    if who.grant is not None:
        yield "grant", who.grant
        yield "issuer", ISSUER  # it is our token, whoever knows the user
    if who.credential is not None:
        yield "token", who.credential
    for actor in who.actors:
        yield "principal", actor


def _deactivated(who: Principal, identities: Identities) -> Unauthenticated | None:
    ended = who.team is not None and who.team in identities.deactivated
    if identities.accounts and not ended:
        for selector in (who.selector, *who.actors):
            issuer, _, subject = selector.partition("|")
            account = identities.accounts.get((issuer, subject))
            ended = ended or (account is not None and _has_ended(account, identities))
    if not ended:
        return None
    return Unauthenticated("the holder of this credential is deactivated", fix="ask an administrator")


def _has_ended(account: Account, identities: Identities) -> bool:
    return account.deactivated_at is not None or (account.team is not None and account.team in identities.deactivated)
