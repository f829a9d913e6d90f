"""Refresh tokens: each is used once, and one that comes back ends its whole family (RFC 9700 §4.14.2).

A token is `<grant>.<number>.<mac>`. One record a grant holds the number that is good now; the mac, keyed with the
pepper and a salt of the record, tells a token that was ours from one that never was, so that nobody can end a grant
whose id they know. There is no grace for a client that lost the answer and tries again: a thief would have it too, and
nothing here tells the two apart.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from dataclasses import replace

import msgspec

from mcpgw.auth.server.grants import REFRESH, Grant, Grants
from mcpgw.auth.server.refusals import invalid_grant
from mcpgw.domain import OAuthClient
from mcpgw.ports import Record, Records

_TOKEN = re.compile(r"([A-Za-z0-9-]{1,64})\.([1-9][0-9]{0,9})\.([A-Za-z0-9_-]{43})")


class _Family(msgspec.Struct, frozen=True):
    salt: str
    number: int = 1


class RefreshTokens:
    """Makes refresh tokens and exchanges them for their successors."""

    def __init__(self, records: Records, grants: Grants, pepper: bytes) -> None:
        self._records = records
        self._grants = grants
        self._pepper = pepper

    async def begin(self, grant: Grant) -> str:
        """Return the first refresh token of a grant; it and its successors live as long as the grant."""
        family = _Family(secrets.token_hex(32))
        await self._records.put(
            Record(
                kind=REFRESH,
                id=grant.id,
                owner=grant.id,
                body=msgspec.json.encode(family),
                expires_at=grant.expires_at,
            )
        )
        return self._text(grant.id, family)

    async def find(self, token: str) -> Grant | None:
        """Return the grant of a refresh token that is or was ours, used or not."""
        found = await self._family(token)
        return None if found is None else await self._grants.find(found[0].owner)

    async def owner(self, token: str, client: OAuthClient) -> Grant:
        """Return the grant of a token that this client may use now; nothing has happened to it yet. Raises Refused."""
        found = await self._family(token)
        if found is None:
            raise invalid_grant("the refresh token is unknown or has expired")
        record, family, number = found
        grant = await self._grants.find(record.owner)
        if grant is None or grant.client_id != client.client_id:
            raise invalid_grant("the refresh token is another client's, or its authorization has ended")
        if number != family.number:
            await self._reused(grant)
        return grant

    async def rotate(self, token: str, grant: Grant) -> str:
        """Return the successor of a token; of all who present it, one gets it, and any other ends the grant.

        Raises Refused.
        """
        found = await self._family(token)
        if found is None:
            raise invalid_grant("the authorization was revoked meanwhile")
        record, family, number = found
        successor = msgspec.structs.replace(family, number=family.number + 1)
        if number != family.number or not await self._records.replace(
            replace(record, body=msgspec.json.encode(successor))
        ):
            await self._reused(grant)
        return self._text(grant.id, successor)

    async def _reused(self, grant: Grant) -> None:
        await self._grants.revoke(grant.id, reason="one of its refresh tokens was used twice")
        raise invalid_grant("the refresh token was used before: the authorization is revoked")

    async def _family(self, token: str) -> tuple[Record, _Family, int] | None:
        """Return the record of a token that is ours, and the number that the token has."""
        match = _TOKEN.fullmatch(token)
        record = None if match is None else await self._records.get(REFRESH, match[1])
        if match is None or record is None:
            return None
        family, number = msgspec.json.decode(record.body, type=_Family), int(match[2])
        if not hmac.compare_digest(self._mac(match[1], number, family.salt), match[3]):
            return None
        return record, family, number

    def _text(self, grant_id: str, family: _Family) -> str:
        return f"{grant_id}.{family.number}.{self._mac(grant_id, family.number, family.salt)}"

    def _mac(self, grant_id: str, number: int, salt: str) -> str:
        mac = hmac.digest(self._pepper, f"refresh:{grant_id}:{number}:{salt}".encode(), "sha256")
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
