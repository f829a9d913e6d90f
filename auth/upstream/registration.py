"""Who the gateway is at the authorization servers of upstreams: registered before, by a document of its own, or now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mcpgw.auth.fetch import Fetcher, Request, json_object
from mcpgw.auth.upstream.discovery import AuthorizationServer, host_of
from mcpgw.auth.upstream.requests import BASIC, NO_PROOF, POST, PRIVATE_KEY_JWT, Client, TokenRequests
from mcpgw.auth.upstream.tokens import GATEWAY
from mcpgw.auth.vault import CLIENT, NEVER, Vault
from mcpgw.domain import UpstreamAuth
from mcpgw.errors import FetchFailed, InvalidParams
from mcpgw.ports import Clock

NAME = "mcpgw"
_GRANTS = ("authorization_code", "refresh_token")
_WITH_SECRET = (BASIC, POST)
_MAX_TEXT = 4096


class _Registered(msgspec.Struct, frozen=True):
    """A registration as the vault keeps it. `expires_at` as in RFC 7591 §3.2.1: 0 is never."""

    client_id: str
    method: str
    redirect_uri: str
    secret: str | None = None
    expires_at: float = 0.0


class Registrations:
    """Registers the gateway where it has to be. `base` is its own URL.

    Each server has a redirect URI of its own, so that no answer of one authorization server is taken for another's.
    `documents` is the URL of the gateway's client metadata documents, where `{server}` stands for a slug; None: those
    that the gateway itself serves, which others can read when it has an https URL.
    """

    def __init__(
        self, fetcher: Fetcher, vault: Vault, requests: TokenRequests, clock: Clock, base: str, documents: str | None
    ) -> None:
        self._fetcher = fetcher
        self._vault = vault
        self._requests = requests
        self._clock = clock
        self._base = base
        self._documents = documents

    def redirect_uri(self, slug: str) -> str:
        return f"{self._base}/oauth/callback/{slug}"

    def document(self, slug: str, *, public: bool) -> Mapping[str, Any]:
        """Return the client metadata document for a server: one for servers that read signatures, one for others.

        The same for a server that does not exist: it tells nobody which do.
        """
        method = NO_PROOF if public else PRIVATE_KEY_JWT
        document = {"client_id": self._own_document(slug, public=public), **self._metadata(slug, method)}
        return document if public else {**document, "token_endpoint_auth_signing_alg": "ES256"}

    async def client_of(self, slug: str, auth: UpstreamAuth, server: AuthorizationServer) -> Client:
        """Return who the gateway is there, registering it if need be. Raises GatewayError."""
        if auth.client_id is not None:
            return await self._registered_before(auth, server)
        if server.reads_documents and (self._documents is not None or self._base.startswith("https:")):
            return self._by_document(slug, server)
        if server.registration_endpoint is None:
            raise InvalidParams(
                f"the gateway is not registered at {host_of(server.issuer)}, which does not let it register itself",
                fix="register it there, and publish the server with that client_id",
            )
        # By issuer: what one authorization server knows us by is nothing that another should be told.
        place = f"{slug}/{hashlib.sha256(server.issuer.encode()).hexdigest()[:32]}"
        kept = await self._kept(place)
        if kept is None or kept.redirect_uri != self.redirect_uri(slug):
            kept = await self._register(slug, server)
            await self._vault.put(CLIENT, place, GATEWAY, msgspec.json.encode(kept), kept.expires_at or NEVER)
        return Client(kept.client_id, kept.method, kept.secret)

    async def forget(self, slug: str, issuer: str) -> None:
        """Register anew next time: the authorization server does not know us any more."""
        await self._vault.take(CLIENT, f"{slug}/{hashlib.sha256(issuer.encode()).hexdigest()[:32]}")

    async def _registered_before(self, auth: UpstreamAuth, server: AuthorizationServer) -> Client:
        if auth.issuer is None:
            # Otherwise a server could name another authorization server, and have our secret sent there.
            raise InvalidParams("a registered client belongs to one issuer", fix="publish the server with that issuer")
        client = await self._requests.client_of(auth, server)
        if auth.client_auth is not None:
            return client
        methods = _WITH_SECRET if client.secret is not None else (NO_PROOF, PRIVATE_KEY_JWT)
        method = next((one for one in methods if one in server.auth_methods), methods[0])
        return Client(client.id, method, client.secret)

    def _by_document(self, slug: str, server: AuthorizationServer) -> Client:
        public = PRIVATE_KEY_JWT not in server.auth_methods
        if self._documents is not None:
            return Client(self._documents.replace("{server}", slug), NO_PROOF if public else PRIVATE_KEY_JWT)
        return Client(self._own_document(slug, public=public), NO_PROOF if public else PRIVATE_KEY_JWT)

    async def _kept(self, place: str) -> _Registered | None:
        found = await self._vault.get(CLIENT, place)
        kept = None if found is None else msgspec.json.decode(found, type=_Registered)
        return kept if kept is not None and not 0 < kept.expires_at <= self._clock.time() else None

    async def _register(self, slug: str, server: AuthorizationServer) -> _Registered:
        """Register at an authorization server (RFC 7591 §3.1). Raises FetchRefused and FetchFailed."""
        offered = (BASIC, POST, PRIVATE_KEY_JWT, NO_PROOF)
        method = next((one for one in offered if one in server.auth_methods), None)
        if method is None:
            raise FetchFailed(f"{host_of(server.issuer)} wants clients to prove themselves in another way", fix="")
        body = json.dumps(self._metadata(slug, method)).encode()
        headers = {"content-type": "application/json", "accept": "application/json"}
        response = await self._fetcher.fetch(Request(server.registration_endpoint or "", "POST", headers, body))
        if response.status not in {200, 201}:
            raise FetchFailed(
                f"{host_of(server.issuer)} does not register the gateway (HTTP {response.status})",
                fix="register it there, and publish the server with that client_id",
            )
        answer = json_object(response)
        client_id, secret = _text(answer, "client_id"), _text(answer, "client_secret")
        given = _text(answer, "token_endpoint_auth_method") or method
        if client_id is None or given not in offered or (given in _WITH_SECRET and secret is None):
            raise FetchFailed(f"{host_of(server.issuer)} answers with a registration that is none", fix="check it")
        ends = answer.get("client_secret_expires_at", 0)
        expires_at = float(ends) if isinstance(ends, int | float) and secret is not None else 0.0
        return _Registered(client_id, given, self.redirect_uri(slug), secret, expires_at)

    def _metadata(self, slug: str, method: str) -> dict[str, Any]:
        """Return what RFC 7591 §2 has for a client like this one."""
        metadata: dict[str, Any] = {
            "client_name": NAME,
            "client_uri": self._base,
            "redirect_uris": [self.redirect_uri(slug)],
            "grant_types": list(_GRANTS),
            "response_types": ["code"],
            # A web client has https redirect URIs, and none on loopback: OpenID Connect Registration §2.
            "application_type": "web" if urlsplit(self._base).scheme == "https" else "native",
            "token_endpoint_auth_method": method,
        }
        if method == PRIVATE_KEY_JWT:
            metadata["jwks_uri"] = f"{self._base}/.well-known/jwks.json"
        return metadata

    def _own_document(self, slug: str, *, public: bool) -> str:
        return f"{self._base}/oauth/client-metadata/{slug}{'.public' if public else ''}.json"


def _text(answer: Mapping[str, Any], name: str) -> str | None:
    value = answer.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_TEXT else None
