"""Access tokens towards upstreams: at hand in memory, kept in the vault, and had anew by one worker at a time.

Whose a token is (`Place.whose`) begins with the holder's issuer and subject, each with its length: no other identity
reads alike, and what a user connected serves every client that the user has let in. What else the token says of the
caller (client, actors, roles) stands in it too, where the authorization server is told of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass

import msgspec

from mcpgw.auth.vault import UPSTREAM, Vault
from mcpgw.domain import Principal, UpstreamAuth
from mcpgw.errors import ConsentNeeded, GatewayError, UpstreamUnreachable
from mcpgw.ports import Clock, Record, Records

log = logging.getLogger("mcpgw.auth")
GATEWAY = "gateway"
"""The holder of what is the gateway's own."""
LOCK = "lock"
LOCK_S = 30.0
EARLY_S = 60.0
"""How long before its end (at most a fifth of its life) a token is replaced, while calls still use it."""
SPARE_S = 5.0
"""A token that ends sooner than this is not sent any more: it may arrive too late."""
PAUSE_S = 1.0
"""How long after an attempt failed nobody tries again."""
_POLL_S = 0.05
_MOST = 20_000


def holder(issuer: str, subject: str) -> str:
    """Return the name of a user or agent as an owner of records: no two of them read alike."""
    return f"{len(issuer)}:{len(subject)}:{issuer}|{subject}"


def holder_of(who: Principal) -> str:
    return holder(who.issuer, who.subject)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a token counts (server, and a digest of all that it was asked for with), and whose it is there.

    `owner` is who it goes away with: a `holder`, or GATEWAY.
    """

    server: str
    asked: str
    whose: str
    owner: str

    @property
    def id(self) -> str:
        return f"{self.server}/{self.asked}/{hashlib.sha256(self.whose.encode()).hexdigest()[:32]}"


def asked_with(endpoint: str, auth: UpstreamAuth) -> str:
    """Return the digest of what decides where tokens for a version come from and where they count."""
    said = (endpoint, auth.mode, auth.issuer, auth.client_id, auth.client_auth, auth.client_secret, auth.resource)
    whole = msgspec.json.encode((*said, auth.audience, auth.subject, sorted(auth.scopes)))
    return hashlib.sha256(whole).hexdigest()[:32]


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """A token as the vault keeps it, and its issuer. From `fresh_until` on it is used, but another is asked for."""

    access_token: str
    issuer: str
    fresh_until: float
    expires_at: float

    @classmethod
    def granted(cls, access_token: str, issuer: str, now: float, life_s: float) -> Kept:
        ends = now + life_s
        early_s = min(EARLY_S, life_s / 5)
        return cls(access_token, issuer, ends - early_s, ends - min(SPARE_S, early_s / 2))

    def __repr__(self) -> str:
        return f"Kept(issuer={self.issuer!r})"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"authorization": f"Bearer {self.access_token}"}


Obtain = Callable[[], Awaitable[Kept]]


class _AtHand:
    __slots__ = ("expires_at", "fresh_until", "headers")

    def __init__(self, kept: Kept) -> None:
        self.headers = kept.headers
        self.fresh_until = kept.fresh_until
        self.expires_at = kept.expires_at


class Tokens:
    """The tokens of one worker. `obtain` asks an authorization server for one, and raises GatewayError."""

    def __init__(self, vault: Vault, records: Records, clock: Clock) -> None:
        self._vault = vault
        self._records = records
        self._clock = clock
        self._held: dict[Hashable, _AtHand] = {}
        self._flying: dict[str, asyncio.Task[Kept]] = {}
        self._behind: set[asyncio.Task[None]] = set()
        self._failed: dict[str, tuple[float, GatewayError]] = {}
        self._bad: dict[str, str] = {}  # by place: the last token that its server did not accept

    def at_hand(self, key: Hashable) -> Mapping[str, str] | None:
        """Return the header fields of a token that needs no thought: one dictionary lookup."""
        held = self._held.get(key)
        if held is None or self._clock.time() >= held.fresh_until:
            return None
        return held.headers

    async def headers(self, key: Hashable, place: Place, obtain: Obtain) -> Mapping[str, str]:
        """Return the header fields of a live token, waiting only where there is none. Raises what `obtain` raises.

        `key` is what `at_hand` finds it by: it must tell apart all that `place` does.
        """
        held = self._held.get(key)
        if held is not None and self._clock.time() < held.expires_at:
            if place.id not in self._flying and not self._just_failed(place):
                self._replace_behind(key, place, obtain)
            return held.headers
        kept = await self._joined(place, obtain)
        if kept.access_token == self._bad.get(place.id):  # refused while it was being read
            kept = await self._joined(place, obtain)
        return self._keep(key, kept)

    async def refused(self, key: Hashable, place: Place, sent: Mapping[str, str]) -> None:
        """Let go of a token that its server does not accept, and of no other that has come since."""
        held = self._held.get(key)
        if held is not None and held.headers == sent:
            del self._held[key]
        bad = sent.get("authorization", "").removeprefix("Bearer ")
        while len(self._bad) >= _MOST:
            del self._bad[next(iter(self._bad))]
        self._bad[place.id] = bad
        found = await self._vault.get(UPSTREAM, place.id)
        if found is not None and _kept(found).access_token == bad:
            await self._vault.take(UPSTREAM, place.id)

    def forget(self) -> None:
        """Forget what is in memory: what still counts is in the vault."""
        self._held.clear()

    async def close(self) -> None:
        tasks = [*self._behind, *self._flying.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _keep(self, key: Hashable, kept: Kept) -> Mapping[str, str]:
        held = _AtHand(kept)
        while len(self._held) >= _MOST:
            del self._held[next(iter(self._held))]
        self._held[key] = held
        return held.headers

    def _replace_behind(self, key: Hashable, place: Place, obtain: Obtain) -> None:
        async def replace() -> None:
            try:
                self._keep(key, await self._joined(place, obtain))
            except GatewayError as error:
                log.warning("a token for %s could not be replaced before its end: %s", place.server, error)

        task = asyncio.get_running_loop().create_task(replace(), name="replace an upstream token")
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def _joined(self, place: Place, obtain: Obtain) -> Kept:
        """Return the outcome of the attempt under way for a place, or of a new one; whoever goes away leaves it."""
        task = self._flying.get(place.id)
        if task is None and (failed := self._just_failed(place)):
            raise _again(failed)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._had(place, obtain), name="have an upstream token")
            self._flying[place.id] = task
            task.add_done_callback(lambda done: self._landed(place.id, done))
        await asyncio.wait((task,))
        if task.cancelled():
            raise UpstreamUnreachable(f"no credential for `{place.server}`: the gateway is stopping", fix="try again")
        failure = task.exception()
        if isinstance(failure, GatewayError):
            raise _again(failure)
        return task.result()

    def _just_failed(self, place: Place) -> GatewayError | None:
        """Return why the last attempt failed, if that was just now: whoever is down is not asked by every call."""
        until, failure = self._failed.get(place.id, (0.0, None))
        if self._clock.time() < until:
            return failure
        self._failed.pop(place.id, None)
        return None

    def _landed(self, place_id: str, done: asyncio.Task[Kept]) -> None:
        self._flying.pop(place_id, None)
        if not done.cancelled():
            done.exception()  # seen here: nobody else may be waiting

    async def _had(self, place: Place, obtain: Obtain) -> Kept:
        """Return the vault's token, or a new one: of all workers, one asks for it."""
        for _ in range(int(2 * LOCK_S / _POLL_S)):
            kept = await self._in_vault(place)
            if kept is not None:
                return kept
            lock = Record(
                kind=LOCK,
                id=place.id,
                owner=GATEWAY,
                body=secrets.token_bytes(16),
                expires_at=self._clock.time() + LOCK_S,
            )
            if await self._records.put(lock):
                try:
                    return await self._in_vault(place) or await self._new(place, obtain)
                finally:
                    await self._unlock(lock)
            await asyncio.sleep(_POLL_S)
        raise UpstreamUnreachable(f"no credential for `{place.server}` could be had in time", fix="try again")

    async def _in_vault(self, place: Place) -> Kept | None:
        found = await self._vault.get(UPSTREAM, place.id)
        kept = None if found is None else _kept(found)
        if kept is None or kept.access_token == self._bad.get(place.id):
            return None
        return kept if self._clock.time() < kept.fresh_until else None

    async def _new(self, place: Place, obtain: Obtain) -> Kept:
        try:
            kept = await obtain()
        except ConsentNeeded:  # which may be given at any moment
            raise
        except GatewayError as failure:
            if len(self._failed) < _MOST:
                self._failed[place.id] = self._clock.time() + PAUSE_S, failure
            raise
        await self._vault.put(UPSTREAM, place.id, place.owner, msgspec.json.encode(kept), kept.expires_at)
        return kept

    async def _unlock(self, lock: Record) -> None:
        held = await self._records.get(lock.kind, lock.id)
        if held is not None and held.body == lock.body:
            await self._records.take(lock.kind, lock.id)


def _again(failure: GatewayError) -> GatewayError:
    """Each call has its own error: the journal puts a receipt on it."""
    return type(failure)(failure.message, fix=failure.fix, data=failure.data)


def _kept(text: bytes) -> Kept:
    return msgspec.json.decode(text, type=Kept)
