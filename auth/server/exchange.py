"""Token exchange (RFC 8693): a token for one who acts for another, that says so and allows no more.

The answer stands for the subject of `subject_token`, with whoever acts now in front of the chain of those who acted
before. It opens no endpoint, carries no scope and lives no second that the subject's token does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcpgw.auth.access_tokens import MAX_ACTORS, AccessTokens, NewToken
from mcpgw.auth.compact import Compact
from mcpgw.auth.endpoints import ADMIN, MCP, Endpoints, scopes_at
from mcpgw.auth.holders import ISSUER, refusal_of
from mcpgw.auth.scopes import kind_of
from mcpgw.auth.server.asked import needed
from mcpgw.auth.server.client_assertions import refuse_public
from mcpgw.auth.server.granting import ACCESS_TOKEN, Granted, asked_scopes, scope_text
from mcpgw.auth.server.refusals import Refused
from mcpgw.auth.server.revocation import facts_of
from mcpgw.domain import OAuthClient, Presented, Principal
from mcpgw.errors import Unauthenticated
from mcpgw.ports import Clock, TokenVerifier, Worlds

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - the name of a grant
_JWT = "urn:ietf:params:oauth:token-type:jwt"


class ExchangeGrant:
    """A token of ours, or of an issuer that counts here, for one of ours for whoever acts next."""

    def __init__(
        self,
        *,
        verifier: TokenVerifier,
        tokens: AccessTokens,
        endpoints: Endpoints,
        worlds: Worlds,
        clock: Clock,
        ttl_s: int,
    ) -> None:
        self._verifier = verifier
        self._tokens = tokens
        self._endpoints = endpoints
        self._worlds = worlds
        self._clock = clock
        self._ttl_s = ttl_s

    async def grant(self, client: OAuthClient, form: Mapping[str, str]) -> Granted:
        refuse_public(client)
        if form.get("requested_token_type", ACCESS_TOKEN) != ACCESS_TOKEN:
            raise Refused("invalid_request", "access tokens alone are issued here")
        subject_token = needed(form, "subject_token")
        if needed(form, "subject_token_type") not in {ACCESS_TOKEN, _JWT}:
            raise Refused("invalid_request", "subject_token is of a type that is not exchanged here")
        claims = _claims(subject_token)
        endpoint = self._endpoint(form, subject_token)
        subject = await self._verified(subject_token, endpoint, "subject_token")
        if subject.account is None:
            raise Refused("invalid_request", "the subject has no account here", reason="no account of the subject")
        actor = await self._actor(client, form, endpoint, subject)
        if actor is not None:
            self._check_may_act(claims, actor, client)
        scopes = self._scopes(client, form, subject, endpoint)
        now = self._clock.time()
        ends = [end for one in (subject, actor) if one is not None and (end := one.expires_at) is not None]
        token = NewToken(
            subject=subject.account,
            client_id=client.client_id,
            endpoint=endpoint,
            scope=scope_text(scopes),
            jti=self._clock.new_id(),
            ttl_s=min(self._ttl_s, *(max(1, int(end - now)) for end in ends)) if ends else self._ttl_s,
            grant=subject.grant,
            act=_chain(((actor.selector,) if actor is not None else ()) + subject.actors),
        )
        detail: dict[str, Any] = {"subject_token": subject.credential}
        if actor is not None:
            detail["actor"] = actor.selector
        return Granted(
            token=token, principal=subject.selector, members={"issued_token_type": ACCESS_TOKEN}, detail=detail
        )

    def _endpoint(self, form: Mapping[str, str], subject_token: str) -> str:
        """Return the endpoint asked for: by default that of the subject's token, when it is ours. Raises Refused."""
        named = {form[name] for name in ("resource", "audience") if name in form}
        found = {self._endpoints.path_of(one) for one in named}
        if None in found or len(found) > 1:
            raise Refused("invalid_target", "resource and audience name one endpoint of this gateway")
        endpoint = next(iter(found), None)
        if endpoint is None:
            facts = facts_of(self._tokens, subject_token)
            endpoint = MCP if facts is None else facts.endpoints[0]
        if endpoint == ADMIN:
            raise Refused("invalid_target", "nobody administers in another's name")
        return endpoint

    async def _verified(self, token: str, endpoint: str, name: str) -> Principal:
        """Return whom a token stands for, if it opens the endpoint now. Raises Refused, Unavailable."""
        try:
            return await self._verifier.verify(Presented(scheme="bearer", token=token), endpoint, self._worlds.current)
        except Unauthenticated as error:
            # RFC 8693 §2.2.2 has this error for a token that is invalid, or not acceptable.
            raise Refused(
                "invalid_request", f"{name} is not valid for this resource", reason=f"{name}: {error.message}"
            ) from None

    async def _actor(
        self, client: OAuthClient, form: Mapping[str, str], endpoint: str, subject: Principal
    ) -> Principal | None:
        """Return who acts now; None for a client that narrows a token of its own. Raises Refused."""
        if ("actor_token" in form) != ("actor_token_type" in form):
            raise Refused("invalid_request", "actor_token and actor_token_type come together")
        if "actor_token" in form:
            if form["actor_token_type"] not in {ACCESS_TOKEN, _JWT}:
                raise Refused("invalid_request", "actor_token is of a type that is not read here")
            actor = await self._verified(form["actor_token"], endpoint, "actor_token")
            # Somebody else's token would put their name to what this client does.
            if facts_of(self._tokens, form["actor_token"]) is None or actor.client_id != client.client_id:
                raise Refused("invalid_request", "actor_token is not one that this client was given here")
            if actor.actors:
                raise Refused("invalid_request", "actor_token stands for one who acts for another")
        elif subject.client_id == client.client_id and facts_of(self._tokens, form["subject_token"]) is not None:
            return None
        else:
            actor = self._itself(client)
        if len(subject.actors) >= MAX_ACTORS:
            raise Refused("invalid_request", f"a chain has {MAX_ACTORS} actors at most")
        return actor

    def _itself(self, client: OAuthClient) -> Principal:
        if not client.subject:
            raise Refused("invalid_request", "the client has no name of its own to act under: send an actor_token")
        actor = Principal(
            issuer=ISSUER,
            subject=client.subject,
            client_id=client.client_id,
            kind=kind_of(client.roles),
            team=client.team,
            issued_at=self._clock.time(),
        )
        refusal = refusal_of(actor, self._worlds.current.identities)
        if refusal is not None:
            raise Refused("invalid_request", "the actor may not act", reason=refusal.message)
        return actor

    def _check_may_act(self, claims: Mapping[str, Any], actor: Principal, client: OAuthClient) -> None:
        """Raise Refused when the subject's token names another who may act for the subject (RFC 8693 §4.4)."""
        if "may_act" not in claims:
            return
        named = claims["may_act"]
        allowed = (
            isinstance(named, Mapping)
            and bool({"sub", "client_id"} & named.keys())
            and named.get("sub", actor.subject) == actor.subject
            and named.get("client_id", client.client_id) == client.client_id
            and named.get("iss", actor.issuer) in {actor.issuer, self._endpoints.base}
        )
        if not allowed:
            raise Refused("invalid_request", "the subject's token lets somebody else act, and not this one")

    def _scopes(
        self, client: OAuthClient, form: Mapping[str, str], subject: Principal, endpoint: str
    ) -> frozenset[str]:
        scopes = subject.scopes & scopes_at(endpoint)
        for bound in (asked_scopes(form), client.scopes):
            scopes = scopes if bound is None else scopes & bound
        if not scopes:
            raise Refused("invalid_scope", "the subject's token has none of these scopes for this resource")
        return scopes


def _claims(token: str) -> Mapping[str, Any]:
    """Return the claims of a token that is yet to be verified. Raises Refused for one that has none to read."""
    try:
        return Compact(token).claims
    except ValueError:
        # Of an opaque token, or a key, nobody could see whom it lets act.
        raise Refused("invalid_request", "subject_token is no JWT", reason="subject_token is no JWT") from None


def _chain(actors: tuple[str, ...]) -> Mapping[str, Any] | None:
    """Return the claim `act` of actors, nearest first: RFC 8693 §4.1 nests those who acted before."""
    act: dict[str, Any] | None = None
    for actor in reversed(actors):
        issuer, _, subject = actor.partition("|")
        act = {"iss": issuer, "sub": subject, **({} if act is None else {"act": act})}
    return act
