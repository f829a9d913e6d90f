"""What people see of our authorization server, and clients that make themselves known to it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute

from mcpgw.auth.claims import Reading
from mcpgw.auth.server.consent import Consents
from mcpgw.auth.server.forms import Forms
from mcpgw.auth.server.front import FrontParts, PeopleFront
from mcpgw.auth.server.local_users import LocalUsers
from mcpgw.auth.server.registration import Registrations
from mcpgw.auth.server.sessions import BrowserSessions
from mcpgw.auth.server.sign_in import ProviderSignIn, States
from mcpgw.auth.upstream.exchange import ProvidedTokens
from mcpgw.config import secret
from mcpgw.edge import console, oauth_clients, oauth_pages
from mcpgw.edge.page import Pages
from mcpgw.wiring.ground import Ground
from mcpgw.wiring.trust import fetcher_of

if TYPE_CHECKING:
    from mcpgw.wiring.identity import Identity

CALLBACK = "/oauth/sign-in/callback"


class People:
    """The front of our authorization server in one worker."""

    def __init__(self, ground: Ground, identity: Identity) -> None:
        self._ground = ground
        self._identity = identity

    @cached_property
    def sessions(self) -> BrowserSessions:
        life_s = self._ground.settings.auth.session_ttl_s
        return BrowserSessions(
            self._ground.records, self._ground.worlds, self._ground.clock, self._identity.pepper, life_s
        )

    @cached_property
    def _forms(self) -> Forms:
        return Forms(self._ground.seals, self._ground.records, self._ground.clock)

    @cached_property
    def consents(self) -> Consents:
        life_s = self._ground.settings.auth.server.refresh_ttl_s
        return Consents(self._ground.records, self._ground.clock, self._identity.pepper, life_s)

    @cached_property
    def _provider(self) -> ProviderSignIn | None:
        section, identity = self._ground.settings.auth.sign_in, self._identity
        if section is None:
            return None
        from mcpgw.auth.server.openid import OpenIdProvider  # noqa: PLC0415 - Authlib, for those who sign in there

        provider = OpenIdProvider(
            section,
            # One of its own, so that no stranger keeps it busy.
            fetcher_of(self._ground.settings),
            self._ground.clock,
            redirect_uri=identity.endpoints.base + CALLBACK,
            secret=None if section.client_secret is None else secret(section.client_secret),
        )
        return ProviderSignIn(
            section,
            provider,
            Reading(section.as_issuer(), identity.endpoints),
            States(self._ground.records, self._forms, self._ground.clock, identity.pepper),
            self._ground.worlds,
            identity.principals.signed_in,
            ProvidedTokens(identity.vault) if section.keep_tokens else None,
        )

    @cached_property
    def front(self) -> PeopleFront:
        identity, auth = self._identity, self._ground.settings.auth
        local = None
        if auth.local_users:
            local = LocalUsers(self._ground.worlds, identity.passwords, self._ground.clock, self._ground.log)
        return PeopleFront(
            FrontParts(
                worlds=self._ground.worlds,
                log=self._ground.log,
                authorizations=identity.server.authorizations,
                grants=identity.grants,
                clients=identity.server.clients,
                consents=self.consents,
                sessions=self.sessions,
                forms=self._forms,
                local=local,
                provider=self._provider,
            )
        )

    @cached_property
    def pages(self) -> Pages:
        return Pages(self._identity.endpoints.base)

    def routes(self) -> list[BaseRoute]:
        """Return the routes of the pages, of the console, and of registration where that is on."""
        routes = [*oauth_pages.routes(self.front, self.pages), *console.routes(self.front, self.pages)]
        server = self._ground.settings.auth.server
        if server.registration:
            registrations = Registrations(
                self._ground.published,
                self._ground.worlds,
                self._ground.clock,
                self._ground.log,
                base_url=self._identity.endpoints.base,
                pepper=self._identity.pepper,
                section=server,
            )
            routes += oauth_clients.routes(registrations)
        return routes
