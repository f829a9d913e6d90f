"""Sessions of people in a browser: a random cookie, of which the keyed digest alone is kept."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

import msgspec

from mcpgw.auth.holders import holder_of_session
from mcpgw.auth.keys import digest
from mcpgw.domain import Account, Principal
from mcpgw.errors import Unauthenticated
from mcpgw.ports import Clock, Record, Records, Worlds

SESSION = "session"
"""Kind of the records; their owner is the account."""
MOST = 16
"""Sessions of one account; the oldest makes room."""
_VALUE_BYTES = 32
_MAX_VALUE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session that is live now: its account as the world has it, and who that is for the admin API."""

    account: Account
    who: Principal


class _Kept(msgspec.Struct, frozen=True):
    began_at: float


class BrowserSessions:
    """Begins, finds and ends sessions. What their account may do is read from the world each time."""

    def __init__(self, records: Records, worlds: Worlds, clock: Clock, pepper: bytes, life_s: float) -> None:
        self._records = records
        self._worlds = worlds
        self._clock = clock
        self._pepper = pepper
        self._life_s = life_s

    async def begin(self, account: Account) -> str:
        """Return the cookie's value of a new session."""
        now = self._clock.time()
        held = sorted(await self._records.of(SESSION, account.id), key=lambda record: record.expires_at)
        for oldest in held[: max(0, len(held) - MOST + 1)]:
            await self._records.take(SESSION, oldest.id)
        value = secrets.token_urlsafe(_VALUE_BYTES)
        await self._records.put(
            Record(
                kind=SESSION,
                id=self._id(value),
                owner=account.id,
                body=msgspec.json.encode(_Kept(now)),
                expires_at=now + self._life_s,
            )
        )
        return value

    async def find(self, value: str | None) -> Session | None:
        """Return the session of a cookie; None when it has ended, or its account, or was revoked meanwhile."""
        if not value or len(value) > _MAX_VALUE:
            return None
        record = await self._records.get(SESSION, self._id(value))
        if record is None:
            return None
        world = self._worlds.current
        account = world.identities.accounts.get(record.owner)
        if world.unavailable is not None or account is None:
            return None
        began_at = msgspec.json.decode(record.body, type=_Kept).began_at
        try:
            who = holder_of_session(account, began_at, world.identities)
        except Unauthenticated:
            return None
        return Session(account=account, who=replace(who, credential=record.id[:16], expires_at=record.expires_at))

    async def account(self, value: str | None) -> Account | None:
        """Return whose session it is, if it is live."""
        session = await self.find(value)
        return None if session is None else session.account

    async def end(self, value: str | None) -> None:
        """End a session, if it is one."""
        if value and len(value) <= _MAX_VALUE:
            await self._records.take(SESSION, self._id(value))

    async def end_all(self, account: Account) -> int:
        """End every session of an account; return how many there were."""
        return await self._records.drop(SESSION, account.id)

    def _id(self, value: str) -> str:
        return digest(self._pepper, f"session:{value}")
