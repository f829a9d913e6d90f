"""Authorization codes: presented once, whatever comes of it (OAuth 2.1 §4.1.3)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

import msgspec
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from mcpgw.auth.keys import digest
from mcpgw.auth.server.grants import CODE, Grant, Grants
from mcpgw.auth.server.refusals import Refused, invalid_grant
from mcpgw.domain import AuthorizationRequest, OAuthClient
from mcpgw.ports import Record, Records

CODE_BYTES = 32
_VERIFIER = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 7636 §4.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Redemption:
    """What a token request says about its code."""

    code: str
    verifier: str
    redirect_uri: str | None = None
    endpoint: str | None = None


class _Bound(msgspec.Struct, frozen=True):
    """What a code is bound to, besides its grant."""

    redirect_uri: str
    redirect_given: bool
    challenge: str
    spent: bool = False


class Codes:
    """Makes and takes codes. Of a code the keyed digest alone is kept."""

    def __init__(self, records: Records, grants: Grants, pepper: bytes) -> None:
        self._records = records
        self._grants = grants
        self._pepper = pepper

    async def issue(self, grant: Grant, request: AuthorizationRequest) -> str:
        """Return a code for a grant that has just begun."""
        code = secrets.token_urlsafe(CODE_BYTES)
        bound = _Bound(request.redirect_uri, request.redirect_given, request.challenge)
        await self._records.put(
            Record(
                kind=CODE,
                id=self._id(code),
                owner=grant.id,
                body=msgspec.json.encode(bound),
                expires_at=grant.expires_at,
            )
        )
        return code

    async def redeem(self, client: OAuthClient, given: Redemption) -> Grant:
        """Return the grant of a code that this client may redeem; it is spent now, also when this refuses.

        A code that comes a second time was stolen, before or after: its grant ends with every token. Raises Refused.
        """
        record = await self._records.get(CODE, self._id(given.code))
        if record is None:
            raise invalid_grant("the code is unknown or has expired")
        bound = msgspec.json.decode(record.body, type=_Bound)
        if bound.spent or not await self._spend(record, bound):
            await self._grants.revoke(record.owner, reason="its authorization code was presented twice")
            raise invalid_grant("the code was presented before: the authorization is revoked")
        grant = await self._grants.find(record.owner)
        if grant is None or grant.client_id != client.client_id:
            raise invalid_grant("the code is another client's, or its authorization was revoked")
        _check(bound, given)
        if given.endpoint is not None and given.endpoint != grant.endpoint:
            raise Refused("invalid_target", "resource is not the one that the user was asked about")  # RFC 8707 §2.2
        return await self._grants.extend(grant)

    async def _spend(self, record: Record, bound: _Bound) -> bool:
        """Leave a mark in the place of the code, for as long as something of its grant may live; one caller does."""
        mark = msgspec.json.encode(msgspec.structs.replace(bound, spent=True))
        expires_at = record.expires_at + self._grants.lifetimes.grant_s
        return await self._records.replace(replace(record, body=mark, expires_at=expires_at))

    def _id(self, code: str) -> str:
        return digest(self._pepper, f"code:{code}")


def _check(bound: _Bound, given: Redemption) -> None:
    if given.redirect_uri is None:
        if bound.redirect_given:
            raise invalid_grant("redirect_uri is missing")
    elif given.redirect_uri != bound.redirect_uri:
        raise invalid_grant("redirect_uri is another than the code went to")
    if not 43 <= len(given.verifier) <= 128 or not _VERIFIER.issuperset(given.verifier):
        raise invalid_grant("code_verifier is not one of RFC 7636")
    if not secrets.compare_digest(create_s256_code_challenge(given.verifier), bound.challenge):
        raise invalid_grant("code_verifier does not fit the code_challenge")
