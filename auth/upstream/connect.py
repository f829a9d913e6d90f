"""How a person agrees that a server is called in their name: our page, the authorization server's, and back.

Nothing is kept until the person has pressed the button on our page (so nobody can be sent through all of it by a link),
and what is kept then is used once, within minutes, in the same browser.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode

import msgspec

from mcpgw.auth.holders import ISSUER
from mcpgw.auth.scopes import scopes_of_account
from mcpgw.auth.server.forms import ANYONE, LIFE_S, Forms
from mcpgw.auth.server.redirects import destination
from mcpgw.auth.server.sessions import Session
from mcpgw.auth.upstream import connect_pages as pages
from mcpgw.auth.upstream.disconnect import Disconnections
from mcpgw.auth.upstream.discovery import AuthorizationServer, Challenge, Discovery, host_of
from mcpgw.auth.upstream.registration import Registrations
from mcpgw.auth.upstream.requests import TokenRequests
from mcpgw.auth.upstream.tokens import holder
from mcpgw.auth.upstream.user import TICKET, Connection, Connections, Ticket, lasting, refresh_token_in
from mcpgw.auth.vault import CONNECT, Vault
from mcpgw.domain import SYSTEM, Account, Kind, ServerVersion
from mcpgw.errors import FetchFailed, GatewayError
from mcpgw.ports import AuthLog, Clock, Worlds
from mcpgw.ports.front import Connected, ConnectionsPage, ConnectPage, Fields, Query, Reply, Visitor

BUTTON, END = "connect", "disconnect"
"""Purposes of what a page carries."""
CANDIDATE = "0.0.0-probe."
"""How the versions are called that servers have while they are being published (mcpgw/probes.py)."""
EVENT = "connect"
OFFLINE = "offline_access"
_ERROR = re.compile(r"[a-z_]{1,64}")
_MAX_PARAMETER = 8192

SignInFirst = Callable[[str, Visitor], Awaitable[Reply]]
"""Ask who somebody is, and go on at a path of ours."""
ChallengeOf = Callable[[ServerVersion], Awaitable[Challenge]]
"""What a server says to whoever has no token."""


class People(Protocol):
    """Who has signed in in a browser."""

    async def find(self, value: str | None) -> Session | None: ...


class _Shown(msgspec.Struct, frozen=True):
    """What a page of ours has shown, and its button agrees to."""

    ticket: Ticket
    issuer: str
    scopes: tuple[str, ...]


class _Pending(msgspec.Struct, frozen=True):
    """An authorization under way: what its answer is compared with, and what makes a token of it."""

    ticket: Ticket
    browser: bytes
    account: str
    issuer: str
    names_itself: bool
    resource: str
    scopes: tuple[str, ...]
    verifier: str
    client_id: str
    client_method: str
    client_secret: str | None


@dataclass(frozen=True, slots=True)
class _Aim:
    """Where a person is sent, and for what."""

    server: AuthorizationServer
    authorization_endpoint: str
    resource: str
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectParts:
    """What connecting is made of."""

    worlds: Worlds
    log: AuthLog
    clock: Clock
    vault: Vault
    forms: Forms
    people: People
    sign_in_first: SignInFirst
    challenge: ChallengeOf
    discovery: Discovery
    registrations: Registrations
    requests: TokenRequests
    connections: Connections
    disconnections: Disconnections


class Connecting:
    """Implements ports.front.Connecting."""

    def __init__(self, parts: ConnectParts) -> None:
        self._parts = parts

    async def page(self, slug: str, text: str, visitor: Visitor) -> Reply:
        """Show what the person is asked to agree to."""
        ticket = self._ticket(slug, text)
        if ticket is None:
            return await self._stale("no ticket of ours, or too old", visitor)
        session = await self._parts.people.find(visitor.session)
        if session is None:
            return await self._parts.sign_in_first(f"/oauth/connect/{slug}?ticket={text}", visitor)
        if not self._may_connect(session.account, ticket):
            await self._refused(ticket, "access_denied", "another person's ticket", session.account, visitor)
            return pages.not_you()
        try:
            aim = await self._aim(ticket)
        except GatewayError as error:
            await self._refused(ticket, error.code, error.message, session.account, visitor)
            return pages.failed(slug, error)
        mine = _is(session.account, ticket)
        page = ConnectPage(
            form=self._parts.forms.made(BUTTON, visitor.session or "", _Shown(ticket, aim.server.issuer, aim.scopes)),
            user=session.account.title or session.account.subject,
            server=slug,
            at=host_of(ticket.endpoint),
            issuer=host_of(aim.server.issuer),
            scopes=aim.scopes,
            on_behalf_of=None if mine else ticket.subject,
        )
        # The authorization server may send the person on to where they sign in.
        return Reply(page=page, form_targets=[destination(aim.authorization_endpoint).source, "https:"])

    async def decide(self, slug: str, fields: Fields, visitor: Visitor) -> Reply:
        """Send the person, who has pressed the button, to the authorization server."""
        parts = self._parts
        session = await parts.people.find(visitor.session)
        shown = await parts.forms.take(BUTTON, visitor.session or "", fields.get("form", ""), _Shown)
        if session is None or shown is None or shown.ticket.server != slug:
            return await self._stale("no such page was given to this browser", visitor)
        ticket = shown.ticket
        if not self._may_connect(session.account, ticket):
            return await self._stale("the page was another person's", visitor)
        try:
            aim = await self._aim(ticket)
            if (aim.server.issuer, aim.scopes) != (shown.issuer, shown.scopes):
                return await self._stale("the server names something else than the page has shown", visitor)
            client = await parts.registrations.client_of(slug, ticket.auth, aim.server)
        except GatewayError as error:
            await self._refused(ticket, error.code, error.message, session.account, visitor)
            return pages.failed(slug, error)
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        pending = _Pending(
            ticket=ticket,
            browser=_digest(visitor.session or ""),
            account=session.account.id,
            issuer=aim.server.issuer,
            names_itself=aim.server.names_itself,
            resource=aim.resource,
            scopes=aim.scopes,
            verifier=verifier,
            client_id=client.id,
            client_method=client.method,
            client_secret=client.secret,
        )
        until = parts.clock.time() + LIFE_S
        await parts.vault.put(CONNECT, _place(state), ticket.owner, msgspec.json.encode(pending), until)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        query = {
            "response_type": "code",
            "client_id": client.id,
            "redirect_uri": parts.registrations.redirect_uri(slug),
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "resource": aim.resource,  # RFC 8707 §2.1
        }
        if aim.scopes:
            query["scope"] = " ".join(aim.scopes)
        if OFFLINE in aim.scopes:
            query["prompt"] = "consent"  # OpenID Connect Core §11
        mark = "&" if "?" in aim.authorization_endpoint else "?"
        return Reply(location=f"{aim.authorization_endpoint}{mark}{urlencode(query)}")

    async def returned(self, slug: str, query: Query, visitor: Visitor) -> Reply:
        """Carry out what the authorization server answered by way of the person's browser."""
        parts = self._parts
        said = {name: value for name, value in query.items() if isinstance(value, str) and len(value) < _MAX_PARAMETER}
        taken = await parts.vault.take(CONNECT, _place(said.get("state", "")))
        session = await parts.people.find(visitor.session)
        pending = None if taken is None else msgspec.json.decode(taken, type=_Pending)
        if pending is None or session is None or len(said) != len(query) or pending.ticket.server != slug:
            return await self._stale("no such authorization is under way", visitor)
        if pending.browser != _digest(visitor.session or "") or pending.account != session.account.id:
            return await self._stale("another browser left for the authorization server", visitor)
        ticket = pending.ticket
        # Mix-up: before anything else of the answer counts, of an error as well (RFC 9207 §2.4). A simple comparison.
        if said.get("iss", pending.issuer) != pending.issuer or ("iss" not in said and pending.names_itself):
            await self._refused(ticket, "invalid_issuer", "the answer is not its issuer's", session.account, visitor)
            return pages.mixed_up()
        if "error" in said or "code" not in said:
            named = said.get("error", "")
            outcome = named if _ERROR.fullmatch(named) else "invalid_request"
            await self._refused(ticket, outcome, "the authorization server said no", session.account, visitor)
            return pages.said_no(slug, outcome)
        try:
            await self._exchange(pending, said["code"])
        except GatewayError as error:
            if error.data.get("error") == "invalid_client":
                await parts.registrations.forget(slug, pending.issuer)
            await self._refused(ticket, error.code, error.message, session.account, visitor)
            return pages.failed(slug, error)
        await parts.log.record(
            EVENT,
            principal=f"{session.account.issuer}|{session.account.subject}",
            source=visitor.source,
            detail={"server": slug, "issuer": pending.issuer, "for": f"{ticket.issuer}|{ticket.subject}"},
        )
        return pages.done(slug)

    async def connections(self, visitor: Visitor) -> Reply:
        """Show which servers are called in the person's name."""
        parts, session = self._parts, await self._parts.people.find(visitor.session)
        if session is None:
            return await parts.sign_in_first("/oauth/connections", visitor)
        account = session.account
        connected = [
            Connected(
                form=parts.forms.made(END, visitor.session or "", connection.id),
                server=connection.server,
                issuer=host_of(connection.issuer),
                scopes=connection.requested,
                since=connection.connected_at,
            )
            for _, connection in await parts.connections.of(holder(account.issuer, account.subject))
        ]
        return Reply(page=ConnectionsPage(user=account.title or account.subject, connected=connected))

    async def disconnect(self, fields: Fields, visitor: Visitor) -> Reply:
        """End a connection of the person's own, and have what they gave revoked where it came from."""
        parts, session = self._parts, await self._parts.people.find(visitor.session)
        wanted = parts.forms.read(END, visitor.session or "", fields.get("form", ""), str)
        if session is None or wanted is None:
            return await self._stale("no such page was given to this browser", visitor)
        account = session.account
        for place_id, connection in await parts.connections.of(holder(account.issuer, account.subject)):
            if connection.id == wanted:
                who = f"{account.issuer}|{account.subject}"
                await parts.disconnections.end_one(place_id, connection, by=who, of=who, source=visitor.source)
        return Reply(location="/oauth/connections")

    async def _exchange(self, pending: _Pending, code: str) -> None:
        """Make a connection of a code. Raises GatewayError."""
        parts, ticket, now = self._parts, pending.ticket, self._parts.clock.time()
        connection = Connection(
            id=secrets.token_urlsafe(16),
            server=ticket.server,
            endpoint=ticket.endpoint,
            issuer=pending.issuer,
            resource=pending.resource,
            client_id=pending.client_id,
            client_method=pending.client_method,
            client_secret=pending.client_secret,
            requested=pending.scopes,
            connected_at=now,
            resource_metadata=ticket.resource_metadata,
            challenged=ticket.scopes,
            in_vain=ticket.in_vain,
        )
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": parts.registrations.redirect_uri(ticket.server),
            "code_verifier": pending.verifier,
            "resource": pending.resource,
        }
        server = await parts.discovery.of_issuer(pending.issuer)
        kept, answer = await parts.requests.grant(ticket.server, server, connection.client, form)
        connection = msgspec.structs.replace(connection, refresh_token=refresh_token_in(answer))
        await parts.connections.keep(ticket.place, connection, lasting(kept, answer, now))

    async def _aim(self, ticket: Ticket) -> _Aim:
        """Find out where the person is to be sent. Raises GatewayError."""
        parts, auth = self._parts, ticket.auth
        resource, challenge = auth.resource or ticket.endpoint, Challenge()
        supported: tuple[str, ...] = ()
        issuer = auth.issuer
        if issuer is None:
            challenge = await self._challenge(ticket)
            metadata = await parts.discovery.resource(ticket.endpoint, challenge)
            issuer, resource = metadata.issuers[0], auth.resource or metadata.resource
            supported = metadata.scopes
        server = await parts.discovery.of_issuer(issuer)
        if server.authorization_endpoint is None or not server.pkce:
            raise FetchFailed(
                f"{host_of(issuer)} does not offer authorization codes with PKCE (S256)", fix="the protocol wants both"
            )
        wanted = (*auth.scopes, *ticket.scopes, *challenge.scopes) or supported
        offline = (OFFLINE,) if OFFLINE in server.scopes else ()
        scopes = tuple(dict.fromkeys((*(one for one in wanted if one != OFFLINE), *offline)))
        return _Aim(server, server.authorization_endpoint, resource, scopes)

    async def _challenge(self, ticket: Ticket) -> Challenge:
        """Return what the server says to whoever has no token: as the ticket has it, or else it is asked."""
        version = self._version(ticket)
        if ticket.resource_metadata is not None or version is None:
            return Challenge(ticket.resource_metadata)
        return await self._parts.challenge(version)

    def _ticket(self, slug: str, text: str) -> Ticket | None:
        """Return a ticket that is still good: for this server, as it is published now."""
        ticket = self._parts.forms.read(TICKET, ANYONE, text, Ticket)
        if ticket is None or ticket.server != slug:
            return None
        version = self._version(ticket)
        if version is None:  # one that is just being published is nowhere yet
            return ticket if ticket.version.startswith(CANDIDATE) else None
        return ticket if (version.endpoint, version.auth) == (ticket.endpoint, ticket.auth) else None

    def _version(self, ticket: Ticket) -> ServerVersion | None:
        return self._parts.worlds.current.catalog.resolve(ticket.server, ticket.version, SYSTEM)

    def _may_connect(self, account: Account, ticket: Ticket) -> bool:
        """Whether this person is whom the ticket is for; or administers keys, and it is for an agent of ours."""
        if _is(account, ticket):
            return True
        theirs = self._parts.worlds.current.identities.accounts.get((ticket.issuer, ticket.subject))
        agent = ticket.issuer == ISSUER if theirs is None else theirs.kind is Kind.AGENT
        return agent and "keys:write" in scopes_of_account(account)

    async def _stale(self, reason: str, visitor: Visitor) -> Reply:
        await self._parts.log.record(EVENT, "invalid_request", source=visitor.source, detail={"reason": reason})
        return pages.stale()

    async def _refused(self, ticket: Ticket, outcome: str, reason: str, account: Account, visitor: Visitor) -> None:
        who = f"{account.issuer}|{account.subject}"
        detail = {"server": ticket.server, "reason": reason}
        await self._parts.log.record(EVENT, outcome, principal=who, source=visitor.source, detail=detail)


def _is(account: Account, ticket: Ticket) -> bool:
    return (account.issuer, account.subject) == (ticket.issuer, ticket.subject)


def _place(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()


def _digest(browser: str) -> bytes:
    return hashlib.sha256(browser.encode()).digest()
