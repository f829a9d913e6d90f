"""Sign-in of the gateway's own users, by name and password."""

from __future__ import annotations

import math

from mcpgw.auth.holders import ISSUER
from mcpgw.auth.server.backoff import Backoff
from mcpgw.auth.server.passwords import Passwords
from mcpgw.domain import Account, Kind
from mcpgw.errors import RateLimited, Unauthenticated
from mcpgw.ports import AuthLog, Clock, Identities, Worlds

MAX_NAME = 128
EVENT = "sign_in"


class LocalUsers:
    """Recognises local users. One answer, after one span of time, for all that can be wrong."""

    def __init__(self, worlds: Worlds, passwords: Passwords, clock: Clock, log: AuthLog) -> None:
        self._worlds = worlds
        self._passwords = passwords
        self._log = log
        self._backoff = Backoff(clock)

    async def recognised(self, name: str, password: str, source: str | None) -> Account:
        """Return the account of a user who proves it. Raises Unauthenticated and RateLimited; both are recorded.

        After five failures in a row, each further one of that name from that address has to wait for longer.
        """
        name = name.strip()[:MAX_NAME]
        wait_s = self._backoff.wait_s((name, source))
        if wait_s:
            await self._refused("rate_limited", "too many failures in a row", source)
            raise RateLimited(
                "too many attempts in a row",
                fix=f"wait {math.ceil(wait_s)} seconds",
                data={"retry_after_s": math.ceil(wait_s)},
            )
        account = self._worlds.current.identities.accounts.get((ISSUER, name))
        if account is not None and account.kind is not Kind.USER and account.kind is not Kind.ADMIN:
            account = None
        fits = await self._passwords.fits(None if account is None else account.password, password)
        # The world as it is now, after the time that the look at the password took.
        identities = self._worlds.current.identities
        if not fits or account is None or ended(account, identities):
            self._backoff.failed((name, source))
            await self._refused("access_denied", "no such user, wrong password, or deactivated", source)
            raise Unauthenticated("name or password is wrong", fix="try again, or ask an administrator")
        self._backoff.succeeded((name, source))
        return account

    async def _refused(self, outcome: str, reason: str, source: str | None) -> None:
        await self._log.record(EVENT, outcome, source=source, detail={"reason": reason, "by": "password"})


def ended(account: Account, identities: Identities) -> bool:
    """Whether an account, or its team, is deactivated in this world, or the account is not the one it was."""
    held = identities.accounts.get(account.id)
    if held is None or held.deactivated_at is not None or held.password != account.password:
        return True
    return held.team is not None and held.team in identities.deactivated
