"""Each caller's own token for a server, which they agreed to in a browser once; kept fresh, and never another's.

What a caller agreed to (`Connection`) is kept in the vault beside the access token that came of it. The gateway's own
questions to such a server, its tools above all, are asked with the connection of whoever published the version.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import msgspec

from mcpgw.auth.server.forms import ANYONE, Forms
from mcpgw.auth.upstream.discovery import Challenge, Discovery, challenge_of
from mcpgw.auth.upstream.requests import Client, TokenRequests
from mcpgw.auth.upstream.tokens import Kept, Place, Tokens, asked_with, holder
from mcpgw.auth.vault import UPSTREAM, Vault
from mcpgw.domain import Judged, Kind, ServerVersion, UpstreamAuth
from mcpgw.errors import ConsentNeeded, GatewayError, UpstreamUnreachable
from mcpgw.ports import Clock

TICKET = "connect-ticket"
LIFE_S = 90 * 86_400.0
"""Life of a connection that is not used, and of a token of which nobody says how long it lasts."""
LOOK_S = 1.0
"""How long a worker goes without looking whether a connection still stands, and is the same."""
RENEWED_JUST_NOW_S = 60.0
MOST_IN_VAIN = 1
"""How often a person is asked again for scopes that they were asked for already, and that a server still misses."""
_MOST = 20_000
_CONNECTION = "/connection"
_DEAD = frozenset({"invalid_grant", "invalid_client", "unauthorized_client"})
_NONE: Mapping[str, str] = {}


class Connection(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one caller agreed to for one server. `requested` are the scopes that were asked for, all of them together.

    `id` is another for each agreement; `resource_metadata` and `challenged` are what the server said to whoever had no
    token. `in_vain` counts how often the last scopes were asked for again.
    """

    id: str
    server: str
    endpoint: str
    issuer: str
    resource: str
    client_id: str
    client_method: str
    requested: tuple[str, ...]
    connected_at: float
    client_secret: str | None = None
    refresh_token: str | None = None
    resource_metadata: str | None = None
    challenged: tuple[str, ...] = ()
    renewed_at: float = 0.0
    in_vain: int = 0

    def __repr__(self) -> str:
        return f"Connection(server={self.server!r}, issuer={self.issuer!r})"

    @property
    def client(self) -> Client:
        return Client(self.client_id, self.client_method, self.client_secret)


class Ticket(msgspec.Struct, frozen=True):
    """What a caller is asked to agree to: `scopes` and `resource_metadata` as the server's challenge had them."""

    id: str
    issuer: str
    subject: str
    server: str
    version: str
    endpoint: str
    auth: UpstreamAuth
    scopes: tuple[str, ...] = ()
    resource_metadata: str | None = None
    in_vain: int = 0

    @property
    def owner(self) -> str:
        return holder(self.issuer, self.subject)

    @property
    def place(self) -> Place:
        return place_of(self.server, self.endpoint, self.auth, self.owner)


def place_of(server: str, endpoint: str, auth: UpstreamAuth, owner: str) -> Place:
    return Place(server, asked_with(endpoint, auth), owner, owner)


@dataclass(frozen=True, slots=True)
class Found:
    """A connection, and the very bytes that it was read from: what is to be replaced."""

    connection: Connection
    raw: bytes


class Connections:
    """The vault's connections."""

    def __init__(self, vault: Vault, clock: Clock) -> None:
        self._vault = vault
        self._clock = clock

    async def find(self, place: Place) -> Found | None:
        raw = await self._vault.get(UPSTREAM, place.id + _CONNECTION)
        return None if raw is None else Found(msgspec.json.decode(raw, type=Connection), raw)

    async def keep(self, place: Place, connection: Connection, kept: Kept) -> None:
        """Keep what came of a new agreement, in the place of an older one."""
        until = self._clock.time() + LIFE_S
        await self._vault.put(UPSTREAM, place.id, place.owner, msgspec.json.encode(kept), kept.expires_at)
        encoded = msgspec.json.encode(connection)
        await self._vault.put(UPSTREAM, place.id + _CONNECTION, place.owner, encoded, until)

    async def change(self, place: Place, found: Found, connection: Connection) -> bool:
        """Put a connection in the place of the one found; False when that is not there any more."""
        until = self._clock.time() + LIFE_S
        encoded = msgspec.json.encode(connection)
        return await self._vault.swap(UPSTREAM, place.id + _CONNECTION, found.raw, encoded, until)

    async def end(self, place_id: str) -> None:
        """Remove a connection and its token."""
        await self._vault.take(UPSTREAM, place_id + _CONNECTION)
        await self._vault.take(UPSTREAM, place_id)

    async def of(self, owner: str) -> list[tuple[str, Connection]]:
        """Return (place, connection) of all that a caller has."""
        return [
            (id.removesuffix(_CONNECTION), msgspec.json.decode(raw, type=Connection))
            for id, raw in await self._vault.of(UPSTREAM, owner)
            if id.endswith(_CONNECTION)
        ]


class UserTokens:
    """Implements `broker.Mode`. `base` is the gateway's URL."""

    def __init__(
        self,
        tokens: Tokens,
        connections: Connections,
        requests: TokenRequests,
        discovery: Discovery,
        forms: Forms,
        clock: Clock,
        base: str,
    ) -> None:
        self._tokens = tokens
        self._connections = connections
        self._requests = requests
        self._discovery = discovery
        self._forms = forms
        self._clock = clock
        self._base = base
        self._looked: dict[Hashable, tuple[float, str]] = {}
        self._heard: dict[tuple[str, str], Challenge] = {}

    async def headers_for(self, judged: Judged, auth: UpstreamAuth) -> Mapping[str, str]:
        version, (issuer, subject) = _version(judged), _identity(judged)
        owner = holder(issuer, subject)
        key = (owner, version.server, version.endpoint, auth)
        held, looked = self._tokens.at_hand(key), self._looked.get(key)
        if held is not None and looked is not None and self._clock.time() < looked[0]:
            return held
        place = place_of(version.server, version.endpoint, auth, owner)
        found = await self._connections.find(place)
        if held is not None and (found is None or looked is None or looked[1] != found.connection.id):
            await self._tokens.refused(key, place, held)  # another agreement, or none, stands in its place
        if found is None:
            self._looked.pop(key, None)
            if judged.principal.kind is Kind.SYSTEM:
                return _NONE  # what anybody may ask is asked; otherwise the server says what it wants
            raise self._wanted(judged, auth, Challenge())
        while len(self._looked) >= _MOST:
            del self._looked[next(iter(self._looked))]
        self._looked[key] = self._clock.time() + LOOK_S, found.connection.id
        return await self._tokens.headers(key, place, partial(self._renewed, judged, auth, place))

    async def refused(self, judged: Judged, auth: UpstreamAuth, sent: Mapping[str, str], challenge: str) -> None:
        version, (issuer, subject), said = _version(judged), _identity(judged), challenge_of(challenge)
        owner = holder(issuer, subject)
        key = (owner, version.server, version.endpoint, auth)
        place = place_of(version.server, version.endpoint, auth, owner)
        found = await self._connections.find(place)
        if said.error != "insufficient_scope":
            self._hear(version, said)
        if found is None:
            raise self._wanted(judged, auth, said)
        connection = found.connection
        if said.error == "insufficient_scope":
            looked = self._looked.pop(key, None)
            if looked is not None and looked[1] != connection.id:
                return  # the caller has agreed to more meanwhile: the next call has it
            if connection.in_vain < MOST_IN_VAIN or not _asked_already(said, connection):
                raise self._wanted(judged, auth, said, connection)
            return
        await self._tokens.refused(key, place, sent)
        just_now = self._clock.time() - connection.renewed_at < RENEWED_JUST_NOW_S
        if connection.refresh_token is None or just_now:
            self._discovery.forget(connection.issuer)
            await self._connections.end(place.id)
            raise self._wanted(judged, auth, said, connection)

    async def challenge(self, version: ServerVersion, probe: Callable[[ServerVersion], Awaitable[None]]) -> Challenge:
        """Return what a server says to whoever has no token, asking it (as the gateway itself) if need be."""
        heard = self._heard.get((version.server, version.endpoint))
        if heard is None and version.auth is not None:
            issuer, _, subject = version.published_by.partition("|")
            place = place_of(version.server, version.endpoint, version.auth, holder(issuer, subject))
            found = await self._connections.find(place)
            if found is not None:
                return Challenge(found.connection.resource_metadata, found.connection.challenged)
            with suppress(GatewayError):
                await probe(version)
            heard = self._heard.get((version.server, version.endpoint))
        return heard or Challenge()

    def _hear(self, version: ServerVersion, said: Challenge) -> None:
        while len(self._heard) >= _MOST:
            del self._heard[next(iter(self._heard))]
        self._heard[version.server, version.endpoint] = said

    async def _renewed(self, judged: Judged, auth: UpstreamAuth, place: Place) -> Kept:
        """Return a new token by the refresh token, of which the new one is kept before anything else."""
        found = await self._connections.find(place)
        if found is None or found.connection.refresh_token is None:
            raise self._wanted(judged, auth, Challenge(), found.connection if found is not None else None)
        held, refresh_token = found.connection, found.connection.refresh_token
        server = await self._discovery.of_issuer(held.issuer)
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "resource": held.resource}
        try:
            kept, answer = await self._requests.grant(place.server, server, held.client, form)
        except UpstreamUnreachable as failure:
            if failure.data.get("error") not in _DEAD:
                raise
            await self._connections.end(place.id)
            raise self._wanted(judged, auth, Challenge(), held) from None
        now = self._clock.time()
        rotated = refresh_token_in(answer) or refresh_token
        fresh = msgspec.structs.replace(held, refresh_token=rotated, renewed_at=now)
        if not await self._connections.change(place, found, fresh):
            raise UpstreamUnreachable(
                f"no credential for `{place.server}`: it was connected anew, or disconnected, meanwhile",
                fix="try again",
                data={"cause": "credential", "reason": "no_credential"},
            )
        return lasting(kept, answer, now)

    def _wanted(
        self, judged: Judged, auth: UpstreamAuth, said: Challenge, held: Connection | None = None
    ) -> ConsentNeeded:
        """Return the error that asks the caller to agree: to what they agreed to before, and what is missing."""
        version, (issuer, subject) = _version(judged), _identity(judged)
        before = held.requested if held is not None else ()
        stepping_up = said.error == "insufficient_scope"
        ticket = Ticket(
            id=secrets.token_urlsafe(16),
            issuer=issuer,
            subject=subject,
            server=version.server,
            version=version.version,
            endpoint=version.endpoint,
            auth=auth,
            scopes=tuple(dict.fromkeys((*before, *said.scopes))),
            resource_metadata=said.resource_metadata,
            in_vain=held.in_vain + 1 if held is not None and stepping_up and _asked_already(said, held) else 0,
        )
        url = f"{self._base}/oauth/connect/{version.server}?ticket={self._forms.made(TICKET, ANYONE, ticket)}"
        message = f"`{version.server}` is called in your name, which you have to agree to in a browser"
        if stepping_up:
            message = f"`{version.server}` wants more rights for this, which you have to agree to in a browser"
        data = {"url": url, "elicitation_id": ticket.id, "message": message, "principal": judged.principal.key}
        return ConsentNeeded(message, fix=f"agree at {url} and call again", data=data)


def _asked_already(said: Challenge, connection: Connection) -> bool:
    return set(said.scopes) <= set(connection.requested)


def refresh_token_in(answer: Mapping[str, object]) -> str | None:
    found = answer.get("refresh_token")
    return found if isinstance(found, str) and 0 < len(found) <= 16_384 else None


def lasting(kept: Kept, answer: Mapping[str, object], now: float) -> Kept:
    """Return the token with the life that its answer gives it: where it gives none, until it is refused."""
    said = answer.get("expires_in")
    life_s = LIFE_S
    if isinstance(said, int | float) and not isinstance(said, bool) and said > 0:
        life_s = min(float(said), LIFE_S)
    return Kept.granted(kept.access_token, kept.issuer, now, life_s)


def _identity(judged: Judged) -> tuple[str, str]:
    """Return issuer and subject of the one whose token it is."""
    who, version = judged.principal, _version(judged)
    if who.kind is not Kind.SYSTEM:
        return who.issuer, who.subject
    issuer, _, subject = version.published_by.partition("|")
    return issuer, subject


def _version(judged: Judged) -> ServerVersion:
    if judged.version is None:
        raise ValueError("a credential for no server")
    return judged.version
