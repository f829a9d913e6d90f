"""What proves us to upstreams: the vault, and one mode of the broker for each way to have a credential."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from mcpgw.auth.broker import Broker, Mode
from mcpgw.auth.secrets import SecretsService
from mcpgw.auth.server.forms import Forms
from mcpgw.auth.upstream.assertion import Assertions, SignedAssertion
from mcpgw.auth.upstream.configured import ConfiguredHeaders
from mcpgw.auth.upstream.disconnect import Disconnections
from mcpgw.auth.upstream.discovery import Discovery
from mcpgw.auth.upstream.endings import Endings
from mcpgw.auth.upstream.exchange import Exchanged, ProvidedTokens
from mcpgw.auth.upstream.machine import ClientCredentials
from mcpgw.auth.upstream.requests import BASIC, NO_PROOF, Client, TokenRequests
from mcpgw.auth.upstream.static import References, StaticHeaders
from mcpgw.auth.upstream.tokens import Tokens
from mcpgw.auth.upstream.user import Connections, UserTokens
from mcpgw.auth.vault import Vault
from mcpgw.auth.vault_keys import VaultKeys
from mcpgw.config import secret
from mcpgw.domain import AuthMode
from mcpgw.wiring.ground import Ground

if TYPE_CHECKING:
    from mcpgw.wiring.identity import Identity

LEADER = 0


class Credentials:
    """The parts of one worker that have to do with credentials towards upstreams."""

    def __init__(self, ground: Ground, identity: Identity) -> None:
        self._ground = ground
        self._identity = identity

    @cached_property
    def vault(self) -> Vault:
        return Vault(self._ground.records, VaultKeys.load(self._ground.settings))

    @cached_property
    def references(self) -> References:
        return References(self.vault)

    @cached_property
    def discovery(self) -> Discovery:
        return Discovery(self._identity.fetcher, self._ground.clock)

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens(self.vault, self._ground.records, self._ground.clock)

    @cached_property
    def requests(self) -> TokenRequests:
        return TokenRequests(
            self._identity.fetcher, self.discovery, self._identity.signing, self.references, self._ground.clock
        )

    @cached_property
    def connections(self) -> Connections:
        return Connections(self.vault, self._ground.clock)

    @cached_property
    def disconnections(self) -> Disconnections:
        return Disconnections(self.connections, self.requests, self.discovery, self._identity.log)

    @cached_property
    def forms(self) -> Forms:
        return Forms(self._ground.seals, self._ground.records, self._ground.clock)

    @cached_property
    def user_tokens(self) -> UserTokens:
        base = self._identity.endpoints.base
        return UserTokens(
            self.tokens, self.connections, self.requests, self.discovery, self.forms, self._ground.clock, base
        )

    @cached_property
    def endings(self) -> Endings:
        leads = self._ground.seals.worker == LEADER
        return Endings(self.vault, self.tokens, self.requests, self.discovery, leads=leads)

    @cached_property
    def secrets(self) -> SecretsService:
        return SecretsService(self.vault, self._ground.published, self._ground.worlds, self._ground.clock)

    @cached_property
    def broker(self) -> Broker:
        return Broker(ConfiguredHeaders(self._ground.settings, self.references), self._modes())

    def _modes(self) -> dict[AuthMode, Mode]:
        clock, identity = self._ground.clock, self._identity
        assertions = Assertions(identity.signing, identity.endpoints, clock)
        exchanged = Exchanged(
            self.tokens, self.requests, assertions, ProvidedTokens(self.vault), self.discovery, self._client_at_provider
        )
        return {
            AuthMode.STATIC: StaticHeaders(self.references),
            AuthMode.CLIENT_CREDENTIALS: ClientCredentials(self.tokens, self.requests),
            AuthMode.USER: self.user_tokens,
            AuthMode.TOKEN_EXCHANGE: exchanged,
            AuthMode.ID_JAG: exchanged,
            AuthMode.ASSERTION: SignedAssertion(assertions, clock),
        }

    def _client_at_provider(self, issuer: str) -> Client | None:
        section = self._ground.settings.auth.sign_in
        if section is None or section.issuer != issuer:
            return None
        if section.client_secret is None:
            return Client(section.client_id, NO_PROOF)
        return Client(section.client_id, BASIC, secret(section.client_secret))

    async def close(self) -> None:
        """Let go of what is under way."""
        await self.endings.close()
        await self.tokens.close()
