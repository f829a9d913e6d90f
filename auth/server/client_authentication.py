"""How clients prove themselves: a secret, a signed assertion, or nothing but their PKCE (RFC 7591 §2).

Whatever is wrong, the answer is one and the same, so that nobody learns which clients there are. Of a secret, header
and form are two spellings (RFC 6749 §2.3.1): a client registered for one may use the other. Nothing else may stand in
for the method that a client is registered with, and never two at once.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping

from mcpgw.auth.keys import digest
from mcpgw.auth.server.asked import basic
from mcpgw.auth.server.authorization import Clients
from mcpgw.auth.server.backoff import Backoff
from mcpgw.auth.server.client_assertions import ClientAssertions
from mcpgw.auth.server.client_metadata import PRIVATE_KEY_JWT, SECRET_METHODS
from mcpgw.auth.server.refusals import Refused, unknown_client
from mcpgw.domain import Asked, OAuthClient
from mcpgw.ports import Clock, Worlds

NONE = "none"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_NAMED = 256
"""Characters of a client id that nobody has proved, as the log has it."""
_MAX_CLIENT_ID = 2048
# Compared in place of a client that does not exist, so that it costs the same time.
_NOBODY = OAuthClient(client_id="", digest="0" * 64, subject="", roles=frozenset(), created_by="", created_at=0.0)


class ClientAuthentication:
    """Says which client sent a form."""

    def __init__(
        self, *, clients: Clients, assertions: ClientAssertions, worlds: Worlds, clock: Clock, pepper: bytes
    ) -> None:
        self._clients = clients
        self._assertions = assertions
        self._worlds = worlds
        self._pepper = pepper
        self._backoff = Backoff(clock)

    async def client_of(self, asked: Asked, form: Mapping[str, str]) -> OAuthClient:
        """Return the client that proved itself as it is registered to. Raises Refused."""
        method, client_id, proof = _presented(asked, form)
        try:
            return await self._heard(method, client_id, proof, asked)
        except Refused as refusal:
            refusal.client_id = client_id[:MAX_NAMED]
            raise

    async def _heard(self, method: str, client_id: str, proof: str, asked: Asked) -> OAuthClient:
        """Return the client, unless it has failed too often lately."""
        if self._worlds.current.unavailable is not None:
            raise Refused(
                "temporarily_unavailable", "the gateway cannot answer now", status=503, headers={"Retry-After": "1"}
            )
        who = client_id, asked.source
        wait_s = self._backoff.wait_s(who)
        if wait_s:
            raise Refused(
                "temporarily_unavailable",
                "too many failures: wait before the next try",
                status=429,
                headers={"Retry-After": str(math.ceil(wait_s))},
            )
        try:
            client = await self._proven(method, client_id, proof, asked)
        except Refused:
            self._backoff.failed(who)
            raise
        self._backoff.succeeded(who)
        return client

    async def _proven(self, method: str, client_id: str, proof: str, asked: Asked) -> OAuthClient:
        client = await self._clients.find(client_id)
        if method in SECRET_METHODS:
            held = _NOBODY if client is None else client
            matches = hmac.compare_digest(digest(self._pepper, proof), held.digest)
            if client is None or not matches or client.auth_method not in SECRET_METHODS:
                raise unknown_client("the client is unknown or revoked, has another method, or the secret is wrong")
            return client
        if client is None or client.auth_method != method:
            raise unknown_client("the client is unknown or revoked, or is registered with another method")
        if method == PRIVATE_KEY_JWT:
            await self._assertions.verify(client, proof, asked.endpoint)
        return client


def _presented(asked: Asked, form: Mapping[str, str]) -> tuple[str, str, str]:
    """Return (method, client id, proof) of exactly one method (RFC 6749 §2.3). Raises Refused."""
    ways = (asked.authorization is not None, "client_secret" in form, "client_assertion" in form)
    if sum(ways) > 1:
        raise Refused("invalid_request", "the client authenticates in two ways at once")
    method, client_id, proof = NONE, form.get("client_id", ""), ""
    if asked.authorization is not None:
        method = "client_secret_basic"
        client_id, proof = basic(asked.authorization)
    elif "client_assertion" in form:
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise Refused("invalid_request", "client_assertion_type is missing or not known")
        method, proof = PRIVATE_KEY_JWT, form["client_assertion"]
        client_id = ClientAssertions.issuer_of(proof)
    elif "client_secret" in form:
        method, proof = "client_secret_post", form["client_secret"]
    if method != NONE and form.get("client_id", client_id) != client_id:
        raise Refused("invalid_request", "client_id is not the client that authenticates")
    if not client_id or len(client_id) > _MAX_CLIENT_ID or (method != NONE and not proof):
        raise unknown_client("the client does not say who it is, or does not prove it")
    return method, client_id, proof
