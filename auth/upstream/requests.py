"""Requests to the token endpoints of other authorization servers, in which the gateway is the client."""

from __future__ import annotations

import base64
import re
import secrets
from collections import defaultdict
from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote_plus, urlencode, urlsplit

import anyio

from mcpgw.auth.fetch import AT_ONCE_PER_HOST, Fetcher, Request, Response, json_object
from mcpgw.auth.signing import SigningKeys
from mcpgw.auth.upstream.static import References
from mcpgw.auth.upstream.tokens import PAUSE_S, Kept
from mcpgw.domain import ServerVersion, UpstreamAuth
from mcpgw.errors import FetchFailed, FetchRefused, GatewayError, UpstreamUnreachable
from mcpgw.ports import Clock

BASIC, POST, PRIVATE_KEY_JWT = "client_secret_basic", "client_secret_post", "private_key_jwt"
NO_PROOF = "none"
CLIENT_AUTH = frozenset({BASIC, POST, PRIVATE_KEY_JWT})
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523 §2.2
PROOF_S = 60
UNSAID_LIFE_S = 300.0
"""Life of a token whose answer does not say `expires_in`."""
MAX_LIFE_S = 86_400.0
QUEUE_S = 10.0
KNOWN_S = 300.0
"""How long the metadata of an authorization server is believed."""

_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")
_ERROR = re.compile(r"[a-z_]{1,64}")
_FORM = "application/x-www-form-urlencoded"


class AuthorizationServer(Protocol):
    """What its metadata says (RFC 8414 §2); the issuer equals the one that was asked for."""

    @property
    def issuer(self) -> str: ...

    @property
    def token_endpoint(self) -> str: ...

    @property
    def revocation_endpoint(self) -> str | None: ...


class Discovery(Protocol):
    """Where authorization servers are."""

    async def of_issuer(self, issuer: str) -> AuthorizationServer:
        """Return the metadata of an issuer. Raises GatewayError."""
        ...

    async def of_resource(self, url: str) -> AuthorizationServer:
        """Return the metadata of the issuer that a server's own metadata names (RFC 9728). Raises GatewayError."""
        ...


@dataclass(frozen=True, slots=True)
class Client:
    """Who the gateway is at an authorization server, and how it proves that."""

    id: str
    method: str
    secret: str | None = None

    def __repr__(self) -> str:
        return f"Client(id={self.id!r}, method={self.method!r})"


class TokenRequests:
    """Asks for tokens, as the client that a version's `auth` names. Of one host few at once; others wait in line."""

    def __init__(
        self, fetcher: Fetcher, discovery: Discovery, signing: SigningKeys, references: References, clock: Clock
    ) -> None:
        self._fetcher = fetcher
        self._discovery = discovery
        self._signing = signing
        self._references = references
        self._clock = clock
        self._lines: defaultdict[str, anyio.CapacityLimiter] = defaultdict(
            lambda: anyio.CapacityLimiter(max(1, AT_ONCE_PER_HOST - 1))
        )
        self._asking: defaultdict[Hashable, anyio.Lock] = defaultdict(anyio.Lock)
        self._known: dict[Hashable, tuple[float, AuthorizationServer | GatewayError]] = {}

    async def server_of(self, version: ServerVersion, auth: UpstreamAuth) -> AuthorizationServer:
        """Return the authorization server of a version, remembered for a while. Raises UpstreamUnreachable."""
        place = auth.issuer is None, auth.issuer or version.endpoint
        async with self._asking[place]:
            until, found = self._known.get(place, (0.0, None))
            if found is None or self._clock.monotonic() >= until:
                ask = self._discovery.of_resource if auth.issuer is None else self._discovery.of_issuer
                try:
                    found = await ask(place[1])
                except (FetchFailed, FetchRefused) as failure:
                    found = failure  # those who waited for this answer do not ask again one after another
                life_s = PAUSE_S if isinstance(found, GatewayError) else KNOWN_S
                self._known[place] = self._clock.monotonic() + life_s, found
        if isinstance(found, GatewayError):
            raise no_credential(version.server, found.message, found.fix)
        return found

    async def client_of(self, auth: UpstreamAuth, server: AuthorizationServer) -> Client:
        """Return who the gateway is there for a version. Raises Unavailable."""
        reference = auth.client_secret
        secret = None if reference is None else await self._references.value(reference, server.issuer)
        return Client(auth.client_id or "", auth.client_auth or (PRIVATE_KEY_JWT if secret is None else BASIC), secret)

    async def grant(
        self, name: str, server: AuthorizationServer, client: Client, form: Mapping[str, str]
    ) -> tuple[Kept, dict[str, Any]]:
        """Return the token that a grant is answered with, and the whole answer. Raises UpstreamUnreachable.

        `name` is what the errors call the upstream; nothing has been sent to that.
        """
        try:
            response = await self._ask(server.token_endpoint, server, client, form)
            answer = json_object(response) if response.body else {}
        except (FetchFailed, FetchRefused) as failure:
            raise no_credential(name, failure.message, failure.fix) from None
        if response.status != 200:
            said = str(answer.get("error", ""))
            what = said if _ERROR.fullmatch(said) else f"HTTP {response.status}"
            fix = "compare client, scopes and secret"
            raise no_credential(name, f"the authorization server refuses: {what}", fix, error=what)
        token, kind, life_s = answer.get("access_token"), answer.get("token_type"), answer.get("expires_in")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise no_credential(name, "the authorization server answers without a token", "check its answer")
        if not isinstance(kind, str) or kind.lower() not in {"bearer", "n_a"}:  # RFC 8693 §2.2.1 has N_A
            raise no_credential(name, "the authorization server answers with a token that is no bearer token", "")
        if isinstance(life_s, bool) or not isinstance(life_s, int | float) or not life_s > 0:
            life_s = UNSAID_LIFE_S
        kept = Kept.granted(token, server.issuer, self._clock.time(), min(float(life_s), MAX_LIFE_S))
        return kept, answer

    async def revoke(self, server: AuthorizationServer, client: Client, token: str, kind: str = "access_token") -> None:
        """Revoke a token where that can be done (RFC 7009); a server that does not answer keeps nothing alive here."""
        if server.revocation_endpoint is not None:
            form = {"token": token, "token_type_hint": kind}
            with suppress(GatewayError):
                await self._ask(server.revocation_endpoint, server, client, form)

    async def _ask(self, url: str, server: AuthorizationServer, client: Client, form: Mapping[str, str]) -> Response:
        headers = {"content-type": _FORM, "accept": "application/json"}
        fields = dict(form)
        if client.method == BASIC:
            headers["authorization"] = f"Basic {_basic(client)}"
        else:
            fields["client_id"] = client.id
        if client.method == POST:
            fields["client_secret"] = client.secret or ""
        elif client.method == PRIVATE_KEY_JWT:
            fields["client_assertion_type"] = ASSERTION_TYPE
            fields["client_assertion"] = self._proof(client, server)
        request = Request(url, "POST", headers, urlencode(fields).encode())
        try:
            with anyio.fail_after(QUEUE_S):
                async with self._lines[urlsplit(url).netloc]:
                    return await self._fetcher.fetch(request)
        except TimeoutError:
            raise FetchFailed("the authorization server did not answer in time", fix="try again later") from None

    def _proof(self, client: Client, server: AuthorizationServer) -> str:
        """Return a client assertion (RFC 7523 §3): its audience is the issuer and nothing else (RFC 7523bis §4)."""
        now = int(self._clock.time())
        claims = {
            "iss": client.id,
            "sub": client.id,
            "aud": server.issuer,
            "jti": secrets.token_urlsafe(16),
            "iat": now,
            "exp": now + PROOF_S,
        }
        return self._signing.sign({"typ": "JWT"}, claims)


def _basic(client: Client) -> str:
    """RFC 6749 §2.3.1: both parts are form-encoded before they are joined."""
    joined = f"{quote_plus(client.id)}:{quote_plus(client.secret or '')}"
    return base64.b64encode(joined.encode()).decode()


def no_credential(name: str, what: str, fix: str, *, error: str | None = None) -> UpstreamUnreachable:
    """Return the error of a call that was not sent: there is nothing to prove the gateway with.

    `error` is the code of the authorization server, if it answered with one.
    """
    data = {"cause": "credential", "reason": "no_credential", **({} if error is None else {"error": error})}
    return UpstreamUnreachable(f"no credential for `{name}`: {what}", fix=fix, data=data)
