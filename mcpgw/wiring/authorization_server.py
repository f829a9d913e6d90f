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
from mcpgw.auth.server.id_jag import JWT_BEARER, AssertionGrant
from mcpgw.auth.server.introspection import IntrospectionEndpoint
from mcpgw.auth.server.pushed import PushedRequests, PushEndpoint
from mcpgw.auth.server.refresh import RefreshTokens
from mcpgw.auth.server.revocation import RevocationEndpoint
from mcpgw.auth.server.token_endpoint import TokenEndpoint
from mcpgw.auth.server.user_grants import CodeGrant, RefreshGrant, UserTokens
from mcpgw.config import Settings
from mcpgw.domain import CLIENT_CREDENTIALS
from mcpgw.edge import oauth
from mcpgw.ports import AuthLog, Clock, Records, Worlds

if TYPE_CHECKING:
    from mcpgw.wiring.identity import Identity


class AuthorizationServer:
    """The parts of our authorization server in one worker."""

    def __init__(
        self, settings: Settings, clock: Clock, worlds: Worlds, records: Records, identity: Identity, log: AuthLog
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._worlds = worlds
        self._records = records
        self._identity = identity
        self.log = log

    @cached_property
    def clients(self) -> Clients:
        """Those who may ask."""
        documents = None
        if self._settings.auth.server.client_metadata_documents:
            server = self._settings.auth.server
            documents = Documents(
                self._identity.fetcher,
                self._clock,
                hosts=server.client_metadata_hosts,
                schemes=server.redirect_schemes,
            )
        return Clients(self._worlds, documents)

    @cached_property
    def authorizations(self) -> Authorizations:
        """What clients ask of users."""
        return Authorizations(
            clients=self.clients,
            pushed=self._pushed,
            endpoints=self._identity.endpoints,
            grants=self._identity.grants,
            codes=self._codes,
            log=self.log,
        )

    @cached_property
    def _pushed(self) -> PushedRequests:
        return PushedRequests(self._records, self._clock, self._identity.pepper)

    @cached_property
    def _codes(self) -> Codes:
        return Codes(self._records, self._identity.grants, self._identity.pepper)

    @cached_property
    def _refreshes(self) -> RefreshTokens:
        return RefreshTokens(self._records, self._identity.grants, self._identity.pepper)

    @cached_property
    def _authentication(self) -> ClientAuthentication:
        assertions = ClientAssertions(
            keys=ClientKeys(self._identity.fetcher, self._clock),
            endpoints=self._identity.endpoints,
            records=self._records,
            clock=self._clock,
            pepper=self._identity.pepper,
        )
        return ClientAuthentication(
            clients=self.clients,
            assertions=assertions,
            worlds=self._worlds,
            clock=self._clock,
            pepper=self._identity.pepper,
        )

    @cached_property
    def _grant_types(self) -> Mapping[str, GrantType]:
        endpoints, ttl_s = self._identity.endpoints, self._settings.auth.token_ttl_s
        tokens = UserTokens(self._worlds, self._clock, ttl_s)
        identity = self._identity
        grants: dict[str, GrantType] = {
            AUTHORIZATION_CODE: CodeGrant(endpoints, self._codes, self._refreshes, tokens),
            REFRESH: RefreshGrant(endpoints, self._refreshes, tokens),
            CLIENT_CREDENTIALS: ClientGrant(endpoints, self._worlds, self._clock, ttl_s),
            TOKEN_EXCHANGE: ExchangeGrant(
                verifier=identity.verifier,
                tokens=identity.tokens,
                endpoints=endpoints,
                worlds=self._worlds,
                clock=self._clock,
                ttl_s=ttl_s,
            ),
        }
        if identity.issuers is not None and self._id_jag:
            grants[JWT_BEARER] = AssertionGrant(
                issuers=identity.issuers,
                endpoints=endpoints,
                worlds=self._worlds,
                records=self._records,
                clock=self._clock,
                pepper=identity.pepper,
                first_seen=identity.principals.signed_in,
                ttl_s=ttl_s,
            )
        return grants

    @property
    def _id_jag(self) -> bool:
        return any(issuer.id_jag for issuer in self._settings.auth.issuers)

    @cached_property
    def forms(self) -> oauth.FormEndpoints:
        """The endpoints that clients send forms to."""
        return oauth.FormEndpoints(
            token=TokenEndpoint(
                authentication=self._authentication,
                grants=self._grant_types,
                tokens=self._identity.tokens,
                log=self.log,
                clock=self._clock,
            ),
            revoke=RevocationEndpoint(
                authentication=self._authentication,
                refreshes=self._refreshes,
                grants=self._identity.grants,
                tokens=self._identity.tokens,
                log=self.log,
                clock=self._clock,
            ),
            introspect=IntrospectionEndpoint(
                authentication=self._authentication,
                verifier=self._identity.verifier,
                tokens=self._identity.tokens,
                endpoints=self._identity.endpoints,
                worlds=self._worlds,
                log=self.log,
            ),
            par=PushEndpoint(
                authentication=self._authentication,
                authorizations=self.authorizations,
                requests=self._pushed,
                log=self.log,
                clock=self._clock,
            ),
        )

    @cached_property
    def metadata(self) -> Metadata:
        """What clients discover."""
        server = self._settings.auth.server
        supported = Supported(
            grants=tuple(self._grant_types),
            registration=server.registration,
            documents=server.client_metadata_documents,
            id_jag=self._id_jag,
            issuers=tuple(entry.issuer for entry in self._settings.auth.issuers),
        )
        return Metadata(self._identity.endpoints, self._identity.signing, supported)

    def routes(self) -> list[BaseRoute]:
        """Return the routes of discovery, and of the endpoints that clients themselves ask."""
        return [*oauth.routes(self.forms, self.metadata)]
