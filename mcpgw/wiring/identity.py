"""Who calls, and as whom: the parts of `auth`, made in the order of dependence."""

from __future__ import annotations

from functools import cached_property

from starlette.routing import BaseRoute

from mcpgw.auth import keys
from mcpgw.auth.access_tokens import AccessTokens
from mcpgw.auth.broker import StaticBroker
from mcpgw.auth.challenge import Challenges
from mcpgw.auth.endpoints import Endpoints
from mcpgw.auth.metadata import Metadata
from mcpgw.auth.server.token_endpoint import TokenEndpoint
from mcpgw.auth.service import KeysService
from mcpgw.auth.signing import SigningKeys
from mcpgw.auth.verifier import DevVerifier, Verifier
from mcpgw.config import Settings
from mcpgw.edge import oauth
from mcpgw.errors import GatewayError, Unauthenticated
from mcpgw.ports import Clock, CredentialBroker, Records, Store, Worlds
from mcpgw.seals import Seals


class Identity:
    """The parts of `auth` in one worker. `published` is the store whose changes other workers hear of."""

    def __init__(
        self, settings: Settings, clock: Clock, worlds: Worlds, published: Store, records: Records, seals: Seals
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._worlds = worlds
        self._published = published
        self._records = records
        self._seals = seals

    @cached_property
    def endpoints(self) -> Endpoints:
        return Endpoints(self._settings.server.base_url)

    @cached_property
    def signing(self) -> SigningKeys:
        return SigningKeys.load(self._settings.data_dir)

    @cached_property
    def tokens(self) -> AccessTokens:
        return AccessTokens(self.signing, self.endpoints)

    @cached_property
    def pepper(self) -> bytes:
        return keys.pepper(self._settings)

    @cached_property
    def verifier(self) -> Verifier | DevVerifier:
        if self._settings.server.dev_no_auth:
            return DevVerifier()
        return Verifier(pepper=self.pepper, tokens=self.tokens, endpoints=self.endpoints, clock=self._clock)

    @cached_property
    def challenges(self) -> Challenges:
        return Challenges(self.endpoints)

    @cached_property
    def broker(self) -> CredentialBroker:
        return StaticBroker(self._settings)

    @cached_property
    def keys(self) -> KeysService:
        return KeysService(self._published, self._worlds, self._clock, self.pepper)

    def routes(self) -> list[BaseRoute]:
        """Return the routes of discovery and of our authorization server."""
        tokens = TokenEndpoint(
            tokens=self.tokens,
            endpoints=self.endpoints,
            worlds=self._worlds,
            pepper=self.pepper,
            ttl_s=self._settings.auth.token_ttl_s,
            clock=self._clock,
        )
        return [*oauth.routes(tokens, Metadata(self.endpoints, self.signing))]

    async def close(self) -> None:
        """Let go of connections."""

    def challenge(self, path: str, error: GatewayError) -> str:
        """Return the value of `WWW-Authenticate` for a 401 or 403."""
        if isinstance(error, Unauthenticated):
            return self.challenges.unauthenticated(path, presented="no bearer" not in error.message)
        return self.challenges.insufficient_scope(path, str(error.data.get("scope", "")), error.message)
