"""What the tokens of other issuers say, put in our terms: endpoints, scopes, roles, team, agents, actors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from mcpgw.auth.access_tokens import MAX_ACTORS, Source
from mcpgw.auth.endpoints import Endpoints, endpoint_of
from mcpgw.auth.holders import standing
from mcpgw.auth.scopes import (
    ADMIN_SCOPES,
    AGENT_SCOPES,
    check_names,
    kind_of,
    of_one_side,
    scopes_of,
    scopes_of_account,
)
from mcpgw.domain import Account, Kind, Principal
from mcpgw.errors import InvalidParams, Unauthenticated, UsageError
from mcpgw.issuer_section import ClaimRule, IssuerSection
from mcpgw.ports import Identities

MAX_NAME = 255
MAX_VALUES = 500
"""Roles, groups or scopes of one token."""
_LAST_SECOND = 2**53
# Claims of tokens that are for clients to read, or that tell of events: never access tokens.
_OF_OTHER_TOKENS = frozenset({"nonce", "at_hash", "c_hash", "s_hash", "events"})
_MISSING = object()


class ForeignFacts:
    """What a token of another issuer says, verified; as `TokenFacts` for ours.

    `who` is its holder as far as the token knows: what the world says of it comes on top, in `holder_of_foreign`.
    """

    __slots__ = (
        "admitted",
        "begins_at",
        "endpoints",
        "expires_at",
        "fresh_until",
        "generation",
        "scopes",
        "source",
        "who",
    )

    def __init__(
        self,
        who: Principal,
        *,
        endpoints: tuple[str, ...],
        scopes: frozenset[str],
        times: tuple[float, float],
        source: Source,
    ) -> None:
        self.who = who
        self.endpoints = endpoints
        self.scopes = scopes
        self.begins_at, self.expires_at = times
        self.fresh_until = self.expires_at
        self.source = source
        self.generation = source.generation
        self.admitted: tuple[Identities, Principal] | None = None


def holder_of_foreign(facts: ForeignFacts, identities: Identities) -> Principal:
    """Return who holds a token of another issuer, whose times have been checked. Raises Unauthenticated.

    Where the gateway has an account of that issuer and subject, its roles, team and kind are what counts.
    """
    who = facts.who
    account = identities.accounts.get((who.issuer, who.subject))
    if account is not None:
        who = _with_account(facts, account)
    return standing(who, identities)


def _with_account(facts: ForeignFacts, account: Account) -> Principal:
    who = facts.who
    return Principal(
        issuer=who.issuer,
        subject=who.subject,
        client_id=who.client_id,
        kind=account.kind,
        roles=account.roles,
        scopes=of_one_side(facts.scopes & scopes_of_account(account)),
        team=who.team if account.team is None else account.team,
        actors=who.actors,
        claims=who.claims,
        credential=who.credential,
        issued_at=who.issued_at,
        expires_at=who.expires_at,
        account=account.id,
    )


class Reading:
    """How the claims of one issuer are read. Raises UsageError for a configuration that cannot be."""

    def __init__(self, section: IssuerSection, endpoints: Endpoints) -> None:
        self.issuer = section.issuer
        self._section = section
        self._endpoints = endpoints
        for place in section.audiences.values():
            if endpoint_of(place) != place:
                raise UsageError(f"auth.issuers: `{place}` is no endpoint", fix="for example /mcp, /mcp/notes or /v1")
        known = AGENT_SCOPES | ADMIN_SCOPES
        for scope in chain(section.default_scopes, *section.scope_map.values()):
            if scope not in known:
                raise UsageError(f"auth.issuers: `{scope}` is no scope", fix=f"one of: {', '.join(sorted(known))}")
        try:
            check_names([*chain(section.default_roles, *section.role_map.values())])
        except InvalidParams as error:
            raise UsageError(f"auth.issuers: {section.issuer}: {error.message}", fix=error.fix) from None

    def facts(self, claims: Mapping[str, Any], digest: str, source: Source, now: float) -> ForeignFacts:
        """Return what verified claims say; `digest` stands for a token without `jti`. Raises Unauthenticated."""
        section = self._section
        # To the character: RFC 9068 §4.
        if claims.get("iss") != section.issuer:
            raise Unauthenticated("the access token is from another issuer")
        endpoints = self._opened(claims.get("aud"))
        issued_at, begins_at, expires_at = self._times(claims)
        if issued_at > now + section.leeway_s:
            raise Unauthenticated("the access token was issued in the future", fix="check the clocks")
        if "cnf" in claims:
            raise Unauthenticated("the access token is bound to a key, whose proof is not read here")  # RFC 7800
        if not _OF_OTHER_TOKENS.isdisjoint(claims):
            raise Unauthenticated("the token is no access token", fix="send an access token for this endpoint")
        for rule in section.require:
            if not holds(rule, claims):
                raise Unauthenticated("the access token lacks a claim that is required here, or has another value")
        scopes = self._scopes(claims)
        if "act" in claims:  # who acts for an administrator administers nothing
            scopes &= AGENT_SCOPES
        who = self._holder(claims, scopes, digest, (issued_at, expires_at))
        return ForeignFacts(
            who, endpoints=endpoints, scopes=scopes, times=(begins_at - section.leeway_s, expires_at), source=source
        )

    def described(self, claims: Mapping[str, Any]) -> tuple[frozenset[str], str | None]:
        """Return roles and team of the person whom verified claims describe. Raises Unauthenticated."""
        return self._roles(claims), self._team(claims)

    def _opened(self, audience: object) -> tuple[str, ...]:
        # A list counts when all of it is ours: one that is also for somebody else may come from there (RFC 9068 §5).
        # Beside ours there may be those that the operator trusts with that.
        listed = audience if isinstance(audience, list) else [audience]
        also_for = self._section.also_for
        found = [self._endpoint(entry) for entry in listed[:MAX_VALUES] if entry not in also_for]
        if not found or len(listed) > MAX_VALUES or None in found:
            raise Unauthenticated("the access token is for another audience", fix="request it for this endpoint's URL")
        return tuple(endpoint for endpoint in found if endpoint is not None)

    def _endpoint(self, audience: object) -> str | None:
        if not isinstance(audience, str):
            return None
        return self._section.audiences.get(audience) or self._endpoints.path_of(audience)

    def _times(self, claims: Mapping[str, Any]) -> tuple[float, float, float]:
        """Return when the token was issued, begins and expires (RFC 7519 §4.1)."""
        expires_at = _seconds(claims, "exp")
        issued_at = _seconds(claims, "iat")
        return issued_at, _seconds(claims, "nbf") if "nbf" in claims else issued_at, expires_at

    def _holder(
        self, claims: Mapping[str, Any], scopes: frozenset[str], digest: str, times: tuple[float, float]
    ) -> Principal:
        section = self._section
        subject, client_id = _name(claims, "sub"), _name(claims, section.client_claim)
        roles = self._roles(claims)
        held = frozenset[str]().union(*(scopes_of((role,)) for role in roles))
        if holds(section.agent, claims) if section.agent is not None else subject == client_id:
            kind, held = Kind.AGENT, held & AGENT_SCOPES
        else:
            kind = Kind.ADMIN if kind_of(roles) is Kind.ADMIN else Kind.USER
        return Principal(
            issuer=section.issuer,
            subject=subject,
            client_id=client_id,
            kind=kind,
            roles=roles,
            scopes=of_one_side(scopes & held),
            team=self._team(claims),
            actors=self._actors(claims),
            claims={name: value for name in section.claims if (value := claim(claims, name)) is not _MISSING},
            credential=_name(claims, "jti") if "jti" in claims else digest,
            issued_at=times[0],
            expires_at=times[1],
        )

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        section = self._section
        value = claim(claims, section.scope_claim)
        if value is _MISSING:
            return frozenset(section.default_scopes)
        given = value.split() if isinstance(value, str) else _texts(value)
        if not section.scope_map:
            return frozenset(given)
        return frozenset(scope for name in given for scope in section.scope_map.get(name, ()))

    def _roles(self, claims: Mapping[str, Any]) -> frozenset[str]:
        section = self._section
        value = claim(claims, section.role_claim) if section.role_claim is not None else _MISSING
        given: Iterable[str] = () if value is _MISSING else [value] if isinstance(value, str) else _texts(value)
        mapped = frozenset(role for name in given for role in section.role_map.get(name, ()))
        return mapped or frozenset(section.default_roles)

    def _team(self, claims: Mapping[str, Any]) -> str | None:
        section = self._section
        value = claim(claims, section.team_claim) if section.team_claim is not None else _MISSING
        if value is _MISSING:
            return None
        if not section.team_map:
            return _checked(value, section.team_claim or "team")
        given = [value] if isinstance(value, str) else _texts(value)
        return next((team for name, team in section.team_map.items() if name in given), None)

    def _actors(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the chain of RFC 8693 §4.1; an actor without an issuer is one of the token's."""
        act, found = claims.get("act"), list[str]()
        while act is not None:
            if not isinstance(act, dict) or len(found) == MAX_ACTORS:
                raise _unfit("act")
            issuer = _checked(act.get("iss", self.issuer), "act")
            found.append(f"{issuer}|{_checked(act.get('sub'), 'act')}")
            act = act.get("act")
        return tuple(found)


def holds(rule: ClaimRule, claims: Mapping[str, Any]) -> bool:
    """Whether the claims keep a rule. Values are compared with their type: `true` is not 1."""
    value = claim(claims, rule.claim)
    if rule.present or value is _MISSING:
        return value is not _MISSING and value is not None
    if rule.equals is not None:
        return type(value) is type(rule.equals) and value == rule.equals
    entries = value if isinstance(value, list) else [value]
    return any(type(entry) is type(wanted) and entry == wanted for entry in entries for wanted in rule.one_of)


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim by its name, or by a JSON pointer into it (RFC 6901); `_MISSING` when there is none."""
    if not name.startswith("/"):
        return claims.get(name, _MISSING)
    value: Any = claims
    for step in name[1:].split("/"):
        key = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(value, Mapping) or key not in value:
            return _MISSING
        value = value[key]
    return value


def _texts(value: object) -> Sequence[str]:
    if not isinstance(value, list) or len(value) > MAX_VALUES or not all(isinstance(entry, str) for entry in value):
        raise _unfit("scopes, roles or team")
    return value


def _name(claims: Mapping[str, Any], name: str) -> str:
    return _checked(claim(claims, name), name)


def _checked(value: object, name: str) -> str:
    # Names as the log, kill switches and consoles show them: nothing invisible, nothing that turns the line around.
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= MAX_NAME
        or not value.isprintable()
        or value != value.strip()
    ):
        raise _unfit(name)
    return value


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LAST_SECOND:  # nor NaN
        raise _unfit(name)
    return float(value)


def _unfit(name: str) -> Unauthenticated:
    return Unauthenticated(f"the access token's claim `{name}` is missing, or not of its kind")
