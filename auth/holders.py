"""What the holder of a credential may do now: the rows of the world make a principal of what a credential says.

Nothing here is remembered longer than the world it was read from.
"""

from __future__ import annotations

from collections.abc import Mapping

from mcpgw.auth.access_tokens import TokenFacts
from mcpgw.auth.scopes import kind_of, scopes_of
from mcpgw.domain import Account, ApiKey, OAuthClient, Principal
from mcpgw.errors import Unauthenticated
from mcpgw.ports import Identities

ISSUER = "mcpgw"
"""The issuer of every principal of ours, whatever the URL of the gateway: a kill switch on `mcpgw|bob` holds for bob's
keys and tokens alike, also after the gateway has moved to another port or host."""


def holder_of_key(key: ApiKey, identities: Identities) -> Principal:
    """Return who holds an API key. Raises Unauthenticated."""
    if key.revoked_at is not None or voided(identities.not_before, key.subject, key.id, key.created_at):
        raise Unauthenticated("the API key is revoked", fix="ask an administrator for a new one")
    account = _active(identities, key.subject, key.team)
    scopes = scopes_of(key.roles)
    return Principal(
        issuer=ISSUER,
        subject=key.subject,
        client_id=key.id,
        kind=kind_of(key.roles),
        roles=key.roles,
        scopes=scopes if key.scopes is None else scopes & key.scopes,
        team=key.team,
        credential=key.id,
        expires_at=key.expires_at,
        servers=key.servers,
        calls_per_minute=key.calls_per_minute,
        concurrent=key.concurrent,
        account=account.id if account is not None else None,
    )


def holder_of_token(facts: TokenFacts, identities: Identities) -> Principal:
    """Return who holds one of our access tokens, whose times have been checked. Raises Unauthenticated."""
    client = identities.clients.get(facts.client_id)
    if client is None or client.revoked_at is not None:
        raise Unauthenticated("the client of this access token is unknown or revoked", fix="ask an administrator")
    if identities.not_before and voided(identities.not_before, facts.subject, facts.client_id, facts.issued_at):
        raise Unauthenticated("the access token is revoked", fix="get a new one")
    if facts.subject != client.subject:
        raise Unauthenticated("the access token is for another subject", fix="get a new one")
    return _client_itself(facts, client, identities)


def _client_itself(facts: TokenFacts, client: OAuthClient, identities: Identities) -> Principal:
    account = _active(identities, client.subject, client.team)
    return Principal(
        issuer=ISSUER,
        subject=client.subject,
        client_id=client.client_id,
        kind=kind_of(client.roles),
        roles=client.roles,
        # What the token grants and the client still holds.
        scopes=facts.scopes & scopes_of(client.roles),
        team=client.team,
        credential=facts.jti,
        expires_at=float(facts.expires_at),
        account=account.id if account is not None else None,
    )


def _active(identities: Identities, subject: str, team: str | None) -> Account | None:
    """Return the account of a principal of ours, if any. Raises Unauthenticated when it, or its team, has ended."""
    account = identities.accounts.get((ISSUER, subject))
    ended = account is not None and account.deactivated_at is not None
    if ended or (team is not None and team in identities.deactivated):
        raise Unauthenticated("the holder of this credential is deactivated", fix="ask an administrator")
    return account


def voided(not_before: Mapping[tuple[str, str], float], subject: str, client_id: str, issued_at: float) -> bool:
    """Whether a credential of ours was issued before its principal, client or issuer was revoked up to a time."""
    places = (("principal", f"{ISSUER}|{subject}"), ("client", client_id), ("issuer", ISSUER))
    return any(issued_at < not_before.get(place, 0.0) for place in places)
