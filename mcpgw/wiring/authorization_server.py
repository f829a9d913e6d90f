"""Our authorization server, as far as clients ask it; what people see of it is composed beside."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute

from mcpgw.auth.metadata import Metadata, Supported
from mcpgw.auth.server.authorization import AUTHORIZATION_CODE, Authorizations
from mcpgw.auth.server.client_assertions import ClientAssertions
from mcpgw.auth.server.client_authentication import ClientAuthentication
from mcpgw.auth.server.client_grant import ClientGrant
from mcpgw.auth.server.client_keys import ClientKeys
from mcpgw.auth.server.client_metadata import REFRESH
from mcpgw.auth.server.clients import Clients
from mcpgw.auth.server.codes import Codes
from mcpgw.auth.server.documents import Documents
from mcpgw.auth.server.exchange import TOKEN_EXCHANGE, ExchangeGrant
from mcpgw.auth.server.granting import GrantType
from mcpgw.auth.server.id_jag import JWT_BEARER, AssertionGrant, Users
from mcpgw.auth.server.introspection import IntrospectionEndpoint
from mcpgw.auth.server.once import Once
from mcpgw.auth.server.pushed import PushedRequests, PushEndpoint
from mcpgw.auth.server.refresh import RefreshTokens
from mcpgw.auth.server.revocation import RevocationEndpoint
from mcpgw.auth.server.token_endpoint import TokenEndpoint
from mcpgw.auth.server.user_grants import CodeGrant, RefreshGrant, UserTokens
from mcpgw.domain import CLIENT_CREDENTIALS
from mcpgw.edge import oauth
from mcpgw.wiring.ground import Ground

if TYPE_CHECKING:
    from mcpgw.wiring.identity import Identity


class AuthorizationServer:
    """The parts of our authorization server in one worker."""

    def __init__(self, ground: Ground, identity: Identity) -> None:
        self._ground = ground
        self._identity = identity

    @cached_property
    def clients(self) -> Clients:
        """Those who may ask."""
        documents = None
        if self._ground.settings.auth.server.client_metadata_documents:
            server = self._ground.settings.auth.server
            documents = Documents(
                self._identity.fetcher,
                self._ground.clock,
                hosts=server.client_metadata_hosts,
                schemes=server.redirect_schemes,
            )
        return Clients(self._ground.worlds, documents)

    @cached_property
    def authorizations(self) -> Authorizations:
        """What clients ask of users."""
        return Authorizations(
            clients=self.clients,
            pushed=self._pushed,
            endpoints=self._identity.endpoints,
            grants=self._identity.grants,
            codes=self._codes,
            log=self._ground.log,
        )

    @cached_property
    def _once(self) -> Once:
        return Once(self._ground.records, self._identity.pepper)

    @cached_property
    def _pushed(self) -> PushedRequests:
        return PushedRequests(self._ground.records, self._ground.clock, self._identity.pepper)

    @cached_property
    def _codes(self) -> Codes:
        return Codes(self._ground.records, self._identity.grants, self._identity.pepper)

    @cached_property
    def _refreshes(self) -> RefreshTokens:
        return RefreshTokens(self._ground.records, self._identity.grants, self._identity.pepper)

    @cached_property
    def _authentication(self) -> ClientAuthentication:
        assertions = ClientAssertions(
            keys=ClientKeys(self._identity.fetcher, self._ground.clock),
            endpoints=self._identity.endpoints,
            once=self._once,
            clock=self._ground.clock,
        )
        return ClientAuthentication(
            clients=self.clients,
            assertions=assertions,
            worlds=self._ground.worlds,
            clock=self._ground.clock,
            pepper=self._identity.pepper,
        )

    @cached_property
    def _grant_types(self) -> Mapping[str, GrantType]:
        endpoints, ttl_s = self._identity.endpoints, self._ground.settings.auth.token_ttl_s
        tokens = UserTokens(self._ground.worlds, self._ground.clock, ttl_s)
        identity = self._identity
        grants: dict[str, GrantType] = {
            AUTHORIZATION_CODE: CodeGrant(endpoints, self._codes, self._refreshes, tokens),
            REFRESH: RefreshGrant(endpoints, self._refreshes, tokens),
            CLIENT_CREDENTIALS: ClientGrant(endpoints, self._ground.worlds, self._ground.clock, ttl_s),
            TOKEN_EXCHANGE: ExchangeGrant(
                verifier=identity.verifier,
                tokens=identity.tokens,
                endpoints=endpoints,
                worlds=self._ground.worlds,
                clock=self._ground.clock,
                ttl_s=ttl_s,
            ),
        }
        if identity.issuers is not None and self._id_jag:
            grants[JWT_BEARER] = AssertionGrant(
                issuers=identity.issuers,
                endpoints=endpoints,
                users=Users(self._ground.worlds, identity.principals.signed_in),
                once=self._once,
                clock=self._ground.clock,
                ttl_s=ttl_s,
            )
        return grants

    @property
    def _id_jag(self) -> bool:
        return any(issuer.id_jag for issuer in self._ground.settings.auth.issuers)

    @cached_property
    def forms(self) -> oauth.FormEndpoints:
        """The endpoints that clients send forms to."""
        return oauth.FormEndpoints(
            token=TokenEndpoint(
                authentication=self._authentication,
                grants=self._grant_types,
                tokens=self._identity.tokens,
                log=self._ground.log,
                clock=self._ground.clock,
            ),
            revoke=RevocationEndpoint(
                authentication=self._authentication,
                refreshes=self._refreshes,
                grants=self._identity.grants,
                tokens=self._identity.tokens,
                log=self._ground.log,
                clock=self._ground.clock,
            ),
            introspect=IntrospectionEndpoint(
                authentication=self._authentication,
                verifier=self._identity.verifier,
                tokens=self._identity.tokens,
                endpoints=self._identity.endpoints,
                worlds=self._ground.worlds,
                log=self._ground.log,
            ),
            par=PushEndpoint(
                authentication=self._authentication,
                authorizations=self.authorizations,
                requests=self._pushed,
                log=self._ground.log,
                clock=self._ground.clock,
            ),
        )

    @cached_property
    def metadata(self) -> Metadata:
        """What clients discover."""
        server = self._ground.settings.auth.server
        supported = Supported(
            grants=tuple(self._grant_types),
            registration=server.registration,
            documents=server.client_metadata_documents,
            id_jag=self._id_jag,
            issuers=tuple(entry.issuer for entry in self._ground.settings.auth.issuers),
        )
        return Metadata(self._identity.endpoints, self._identity.signing, supported)

    def routes(self) -> list[BaseRoute]:
        """Return the routes of discovery, and of the endpoints that clients themselves ask."""
        return [*oauth.routes(self.forms, self.metadata)]
