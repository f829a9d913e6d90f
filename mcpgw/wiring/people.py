"""What people see of our authorization server, and clients that make themselves known to it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute

from mcpgw.auth.claims import Reading
from mcpgw.auth.fetch import Fetcher
from mcpgw.auth.server.consent import Consents
from mcpgw.auth.server.forms import Forms
from mcpgw.auth.server.front import FrontParts, PeopleFront
from mcpgw.auth.server.local_users import LocalUsers
from mcpgw.auth.server.registration import Registrations
from mcpgw.auth.server.sessions import BrowserSessions
from mcpgw.auth.server.sign_in import ProviderSignIn, States
from mcpgw.auth.upstream.exchange import ProvidedTokens
from mcpgw.config import Settings, secret
from mcpgw.edge import console, oauth_clients, oauth_pages
from mcpgw.edge.page import Pages
from mcpgw.ports import AuthLog, Clock, Records, Store, Worlds
from mcpgw.seals import Seals

if TYPE_CHECKING:
    from mcpgw.wiring.identity import Identity

CALLBACK = "/oauth/sign-in/callback"


class People:
    """The front of our authorization server in one worker."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        worlds: Worlds,
        published: Store,
        records: Records,
        seals: Seals,
        identity: Identity,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._worlds = worlds
        self._published = published
        self._records = records
        self._seals = seals
        self._identity = identity

    @property
    def _log(self) -> AuthLog:
        return self._identity.log

    @cached_property
    def sessions(self) -> BrowserSessions:
        life_s = self._settings.auth.session_ttl_s
        return BrowserSessions(self._records, self._worlds, self._clock, self._identity.pepper, life_s)

    @cached_property
    def _forms(self) -> Forms:
        return Forms(self._seals, self._records, self._clock)

    @cached_property
    def consents(self) -> Consents:
        life_s = self._settings.auth.server.refresh_ttl_s
        return Consents(self._records, self._clock, self._identity.pepper, life_s)

    @cached_property
    def _provider(self) -> ProviderSignIn | None:
        section, identity = self._settings.auth.sign_in, self._identity
        if section is None:
            return None
        from mcpgw.auth.server.openid import OpenIdProvider  # noqa: PLC0415 - Authlib, for those who sign in there

        provider = OpenIdProvider(
            section,
            # One of its own, so that no stranger keeps it busy.
            Fetcher(self._settings.registry.allow_networks, allow_loopback=self._settings.server.loopback),
            self._clock,
            redirect_uri=identity.endpoints.base + CALLBACK,
            secret=None if section.client_secret is None else secret(section.client_secret),
        )
        return ProviderSignIn(
            section,
            provider,
            Reading(section.as_issuer(), identity.endpoints),
            States(self._records, self._forms, self._clock, identity.pepper),
            self._worlds,
            identity.principals.signed_in,
            ProvidedTokens(identity.vault) if section.keep_tokens else None,
        )

    @cached_property
    def front(self) -> PeopleFront:
        identity, auth = self._identity, self._settings.auth
        local = LocalUsers(self._worlds, identity.passwords, self._clock, self._log) if auth.local_users else None
        return PeopleFront(
            FrontParts(
                worlds=self._worlds,
                log=self._log,
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
        server = self._settings.auth.server
        if server.registration:
            registrations = Registrations(
                self._published,
                self._worlds,
                self._clock,
                self._log,
                base_url=self._identity.endpoints.base,
                pepper=self._identity.pepper,
                section=server,
            )
            routes += oauth_clients.routes(registrations)
        return routes
