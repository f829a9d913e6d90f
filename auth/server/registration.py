"""Clients that register themselves (RFC 7591), and what they may change of it (RFC 7592). Off unless it is configured.

Anyone can do this, so everything about it is bounded, and what comes of it may do nothing until a user agrees.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mcpgw.auth import keys
from mcpgw.auth.changing import Change, Changes
from mcpgw.auth.clients import shown_client
from mcpgw.auth.holders import ISSUER
from mcpgw.auth.server.client_metadata import SECRET_METHODS, BadMetadata, Described, described
from mcpgw.auth.server.rates import Rate
from mcpgw.auth.server.refusals import NO_STORE, Answer, Refused
from mcpgw.auth.strict_object import read_object
from mcpgw.auth_section import AuthorizationServerSection
from mcpgw.domain import Asked, Kind, OAuthClient, Principal, State
from mcpgw.errors import Conflict
from mcpgw.ports import AuthLog, Clock, Store, Worlds

EVENT = "registration"
MAX_BYTES = 32_768
PER_SOURCE, PER_WORKER = 10, 60
"""Changes per minute: of one address, and of all."""
_SOURCES = 1024
_LABEL = "manage"
"""Stands in the place of the id in a registration access token; shorter than any id."""
_REGISTRANT = Principal(issuer=ISSUER, subject="registration", client_id="registration", kind=Kind.SYSTEM)
# RFC 7592 §2.2: what we said of a client is not for it to say.
_OURS = ("registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at")


class Registrations:
    """Answers requests to `/oauth/register`, and to the places of single clients below it."""

    def __init__(
        self,
        store: Store,
        worlds: Worlds,
        clock: Clock,
        log: AuthLog,
        *,
        base_url: str,
        pepper: bytes,
        section: AuthorizationServerSection,
    ) -> None:
        self._changes = Changes(store, worlds, clock)
        self._worlds = worlds
        self._clock = clock
        self._log = log
        self._base_url = base_url
        self._pepper = pepper
        self._section = section
        self._rate = Rate(clock, PER_WORKER, 60.0)
        self._rates: OrderedDict[str, Rate] = OrderedDict()

    async def respond(self, method: str, client_id: str | None, asked: Asked) -> Answer:
        """Return the answer to a POST (`client_id` None), or to a GET, PUT or DELETE of one client."""
        try:
            if client_id is None:
                return await self._register(asked)
            client = self._proven(client_id, asked)
            if method == "GET":
                return 200, NO_STORE, self._document(client, None)
            self._admit(asked)
            return await (self._end(client, asked) if method == "DELETE" else self._update(client, asked))
        except Refused as refusal:
            await self._refused(refusal.error, refusal.reason, client_id, asked)
            return refusal.answer
        except BadMetadata as fault:
            await self._refused(fault.error, fault.description, client_id, asked)
            return 400, NO_STORE, {"error": fault.error, "error_description": fault.description}

    async def _register(self, asked: Asked) -> Answer:
        self._admit(asked)
        said = self._described(_metadata(asked))
        token, _ = keys.new_secret(_LABEL)
        secret = _new_secret() if said.auth_method in SECRET_METHODS else None
        client = said.client(
            f"client-{keys.new_id()}",
            created_by=_REGISTRANT.selector,
            created_at=self._clock.time(),
            digest=self._digest(secret),
            registration=keys.digest(self._pepper, token),
        )

        def change(state: State) -> Change:
            live = sum(c.registration is not None and c.revoked_at is None for c in state.clients)
            if live >= self._section.registration_limit:
                raise _busy("as many clients as may be have registered themselves", 3600)
            return Change(rows=[client], action="client.register", target=client.client_id, after=shown_client(client))

        await self._changes.carry_out(_REGISTRANT, change)
        await self._log.record(EVENT, client_id=client.client_id, source=asked.source)
        return 201, NO_STORE, {**self._document(client, secret), "registration_access_token": token}

    async def _update(self, client: OAuthClient, asked: Asked) -> Answer:
        metadata = _metadata(asked)
        if metadata.get("client_id") != client.client_id or any(name in metadata for name in _OURS):
            raise BadMetadata(
                "invalid_client_metadata", "client_id is another, or a member is there that is ours to say"
            )
        given = metadata.get("client_secret")
        if given is not None and not (isinstance(given, str) and self._is_secret(given, client)):
            raise BadMetadata("invalid_client_metadata", "client_secret is not the one that the client has")
        said = self._described(metadata)
        needs_secret = said.auth_method in SECRET_METHODS
        secret = _new_secret() if needs_secret and not client.digest else None
        digest = self._digest(secret) or (client.digest if needs_secret else "")
        after = replace(
            said.client(client.client_id, client.created_by, client.created_at, digest=digest),
            registration=client.registration,
        )
        await self._changed("client.update", client, after)
        await self._log.record(EVENT, client_id=client.client_id, source=asked.source, detail={"changed": "metadata"})
        return 200, NO_STORE, self._document(after, secret)

    async def _end(self, client: OAuthClient, asked: Asked) -> Answer:
        await self._changed("client.revoke", client, replace(client, revoked_at=self._clock.time()))
        await self._log.record(EVENT, client_id=client.client_id, source=asked.source, detail={"changed": "ended"})
        return 204, NO_STORE, {}

    async def _changed(self, action: str, held: OAuthClient, after: OAuthClient) -> None:
        def change(state: State) -> Change:
            if held not in state.clients:
                raise Conflict("the client was changed meanwhile", fix="read it again")
            return Change(
                rows=[after], action=action, target=held.client_id, before=shown_client(held), after=shown_client(after)
            )

        await self._changes.carry_out(_REGISTRANT, change)

    def _described(self, metadata: Mapping[str, Any]) -> Described:
        return described(metadata, schemes=self._section.redirect_schemes, default_method="client_secret_basic")

    def _proven(self, client_id: str, asked: Asked) -> OAuthClient:
        """Return the client whose registration access token came. Raises Refused, the same for all that is wrong."""
        scheme, _, token = (asked.authorization or "").partition(" ")
        client = self._worlds.current.identities.clients.get(client_id)
        expected = "" if client is None or client.registration is None else client.registration
        given = keys.digest(self._pepper, token.strip())
        proven = hmac.compare_digest(given, expected or "0" * 64)
        if scheme.lower() != "bearer" or client is None or not expected or not proven or client.revoked_at is not None:
            raise Refused(
                "invalid_token",
                "no such client, or not its registration access token",
                status=401,
                headers={"WWW-Authenticate": 'Bearer realm="mcpgw", error="invalid_token"'},
            )
        return client

    def _admit(self, asked: Asked) -> None:
        """Count a change. Raises Refused when there are too many."""
        rate = self._rates.pop(asked.source or "", None) or Rate(self._clock, PER_SOURCE, 60.0)
        self._rates[asked.source or ""] = rate
        while len(self._rates) > _SOURCES:
            self._rates.popitem(last=False)
        if not rate.admits() or not self._rate.admits():
            raise _busy("too many registrations", 60)

    def _document(self, client: OAuthClient, secret: str | None) -> dict[str, Any]:
        """Return the client information response (RFC 7591 §3.2.1)."""
        document = {
            **client.about,
            "client_id": client.client_id,
            "client_id_issued_at": int(client.created_at),
            "client_name": client.title,
            "redirect_uris": list(client.redirect_uris),
            "grant_types": sorted(client.grants),
            "response_types": ["code"],
            "token_endpoint_auth_method": client.auth_method,
            "registration_client_uri": f"{self._base_url}/oauth/register/{client.client_id}",
            "scope": None if client.scopes is None else " ".join(sorted(client.scopes)),
            "jwks": client.jwks,
            "jwks_uri": client.jwks_uri,
            "client_secret": secret,
            "client_secret_expires_at": None if secret is None else 0,
        }
        return {name: value for name, value in document.items() if value not in (None, "")}

    def _digest(self, secret: str | None) -> str:
        return "" if secret is None else keys.digest(self._pepper, secret)

    def _is_secret(self, given: str, client: OAuthClient) -> bool:
        return hmac.compare_digest(keys.digest(self._pepper, given), client.digest)

    async def _refused(self, outcome: str, reason: str, client_id: str | None, asked: Asked) -> None:
        known = client_id[:128] if client_id is not None else None
        await self._log.record(EVENT, outcome, client_id=known, source=asked.source, detail={"reason": reason})


def _metadata(asked: Asked) -> Mapping[str, Any]:
    if (asked.content_type or "").partition(";")[0].strip().lower() != "application/json":
        raise BadMetadata("invalid_client_metadata", "send application/json")
    try:
        return read_object(asked.body)
    except ValueError:
        raise BadMetadata("invalid_client_metadata", "the body is not one JSON object") from None


def _new_secret() -> str:
    return keys.new_secret(keys.CLIENT_LABEL)[0]


def _busy(description: str, wait_s: int) -> Refused:
    return Refused("temporarily_unavailable", description, status=429, headers={"Retry-After": str(wait_s)})
