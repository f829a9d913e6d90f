"""Who calls, and as whom: the parts of `auth`, made in the order of dependence."""

from __future__ import annotations

from functools import cached_property

from starlette.routing import BaseRoute

from mcpgw.auth import keys, scopes
from mcpgw.auth.access_tokens import AccessTokens
from mcpgw.auth.challenge import Challenges
from mcpgw.auth.clients import ClientsService
from mcpgw.auth.endpoints import Endpoints
from mcpgw.auth.fetch import Fetcher
from mcpgw.auth.holders import expired_at, refusal_of
from mcpgw.auth.issuers import Issuers
from mcpgw.auth.principals import PrincipalsService
from mcpgw.auth.server.grants import Grants, Lifetimes
from mcpgw.auth.server.passwords import Passwords
from mcpgw.auth.server.sessions import SESSION
from mcpgw.auth.service import KeysService
from mcpgw.auth.signing import SigningKeys
from mcpgw.auth.vault import Vault
from mcpgw.auth.verifier import DevVerifier, Verifier
from mcpgw.domain import Account, Principal
from mcpgw.errors import GatewayError, Unauthenticated
from mcpgw.ports import CredentialBroker
from mcpgw.wiring.authorization_server import AuthorizationServer
from mcpgw.wiring.credentials import Credentials
from mcpgw.wiring.ground import Ground
from mcpgw.wiring.people import People
from mcpgw.wiring.trust import configured_issuers, fetcher_of


class Identity:
    """The parts of `auth` in one worker."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.log = ground.log
        scopes.declare(ground.settings.auth.roles)

    @cached_property
    def endpoints(self) -> Endpoints:
        return Endpoints(self._ground.settings.server.base_url)

    @cached_property
    def fetcher(self) -> Fetcher:
        """The one that asks for URLs of clients and servers."""
        return fetcher_of(self._ground.settings)

    @cached_property
    def signing(self) -> SigningKeys:
        return SigningKeys.load(self._ground.settings.data_dir)

    @cached_property
    def tokens(self) -> AccessTokens:
        return AccessTokens(self.signing, self.endpoints)

    @cached_property
    def pepper(self) -> bytes:
        return keys.pepper(self._ground.settings)

    @cached_property
    def verifier(self) -> Verifier | DevVerifier:
        if self._ground.settings.server.dev_no_auth:
            return DevVerifier()
        return Verifier(
            pepper=self.pepper,
            tokens=self.tokens,
            endpoints=self.endpoints,
            clock=self._ground.clock,
            issuers=self.issuers,
        )

    @cached_property
    def issuers(self) -> Issuers | None:
        return configured_issuers(self._ground.settings, self._ground.clock)

    def refusal_of(self, who: Principal) -> Unauthenticated | None:
        """Return why a call that runs may not go on in the current world, or None."""
        return self.expired(who) or refusal_of(who, self._ground.worlds.current.identities)

    def expired(self, who: Principal) -> Unauthenticated | None:
        """Return why a call that runs may not go on because time has passed, or None."""
        ended = expired_at(self._ground.clock.time(), who, self._ground.worlds.current.identities)
        return ended if ended is not None or self.issuers is None else self.issuers.refusal_of(who)

    @cached_property
    def challenges(self) -> Challenges:
        return Challenges(self.endpoints)

    @cached_property
    def credentials(self) -> Credentials:
        """What proves us to upstreams."""
        return Credentials(self._ground, self)

    @property
    def vault(self) -> Vault:
        return self.credentials.vault

    @property
    def broker(self) -> CredentialBroker:
        return self.credentials.broker

    @cached_property
    def keys(self) -> KeysService:
        return KeysService(self._ground.published, self._ground.worlds, self._ground.clock, self.pepper)

    @cached_property
    def clients(self) -> ClientsService:
        return ClientsService(self._ground.published, self._ground.worlds, self._ground.clock, self.pepper)

    @cached_property
    def passwords(self) -> Passwords:
        return Passwords()

    @cached_property
    def principals(self) -> PrincipalsService:
        return PrincipalsService(
            self._ground.published,
            self._ground.worlds,
            self._ground.clock,
            hash_password=self.passwords.hashed,
            ended=[self._drop_sessions, self._drop_grants],
        )

    @cached_property
    def grants(self) -> Grants:
        auth = self._ground.settings.auth
        lifetimes = Lifetimes(
            code_s=auth.server.code_ttl_s, grant_s=auth.server.refresh_ttl_s, token_s=auth.token_ttl_s
        )
        return Grants(self._ground.records, self._ground.published, self._ground.worlds, self._ground.clock, lifetimes)

    @cached_property
    def server(self) -> AuthorizationServer:
        return AuthorizationServer(self._ground, self)

    @cached_property
    def people(self) -> People:
        return People(self._ground, self)

    async def _drop_sessions(self, account: Account) -> None:
        await self._ground.records.drop(SESSION, account.id)

    async def _drop_grants(self, account: Account) -> None:
        await self.grants.revoke_all(account.id, reason="the account has ended, or has another password")

    def routes(self) -> list[BaseRoute]:
        """Return the routes of discovery and of our authorization server."""
        return [*self.server.routes(), *self.people.routes()]

    def each_second(self) -> None:
        """Follow what has changed on the disk, and let go of what has expired."""
        self.signing.refresh(self._ground.clock.time())

    async def sweep(self) -> None:
        """Remove expired records, and tokens that nobody may use any more; for one worker of all."""
        await self._ground.records.sweep()
        await self.credentials.endings.sweep(self._ground.worlds.current.state)

    async def close(self) -> None:
        """Let go of connections."""
        await self.credentials.close()

    def challenge(self, path: str, error: GatewayError) -> str:
        """Return the value of `WWW-Authenticate` for a 401 or 403."""
        if isinstance(error, Unauthenticated):
            return self.challenges.unauthenticated(path, presented="no bearer" not in error.message)
        return self.challenges.insufficient_scope(path, str(error.data.get("scope", "")), error.message)
