"""How people connect servers that are called in their name: what stands behind `/oauth/connect/{server}`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cached_property, partial

from starlette.routing import BaseRoute

from mcpgw.auth.holders import ISSUER
from mcpgw.auth.server.sessions import Session
from mcpgw.auth.upstream import connect
from mcpgw.auth.upstream.registration import Registrations
from mcpgw.auth.verifier import DevVerifier
from mcpgw.domain import Account, Kind, ServerVersion
from mcpgw.edge import connect as pages
from mcpgw.wiring.ground import Ground
from mcpgw.wiring.identity import Identity


class Connecting:
    """The parts of one worker. `probe` asks a server, as the gateway itself, what it is."""

    def __init__(self, ground: Ground, identity: Identity, probe: Callable[[ServerVersion], Awaitable[None]]) -> None:
        self._ground = ground
        self._identity = identity
        self._probe = probe

    @cached_property
    def registrations(self) -> Registrations:
        identity, credentials = self._identity, self._identity.credentials
        return Registrations(
            identity.fetcher,
            credentials.vault,
            credentials.requests,
            self._ground.clock,
            identity.endpoints.base,
            self._ground.settings.auth.upstream.client_metadata_url,
        )

    @cached_property
    def connecting(self) -> connect.Connecting:
        identity, credentials = self._identity, self._identity.credentials
        return connect.Connecting(
            connect.ConnectParts(
                worlds=self._ground.worlds,
                log=identity.log,
                clock=self._ground.clock,
                vault=credentials.vault,
                forms=credentials.forms,
                people=Developer() if self._ground.settings.server.dev_no_auth else identity.people.sessions,
                sign_in_first=identity.people.front.sign_in_first,
                challenge=partial(credentials.user_tokens.challenge, probe=self._probe),
                discovery=credentials.discovery,
                registrations=self.registrations,
                requests=credentials.requests,
                connections=credentials.connections,
                disconnections=credentials.disconnections,
            )
        )

    def routes(self) -> list[BaseRoute]:
        def document(slug: str, public: bool) -> dict[str, object]:
            return dict(self.registrations.document(slug, public=public))

        return pages.routes(self.connecting, self._identity.people.pages, document)


class Developer:
    """Implements `connect.People` where everyone is the same developer: `--dev-no-auth`."""

    def __init__(self) -> None:
        who = DevVerifier().who
        account = Account(
            id="dev",
            issuer=ISSUER,
            subject=who.subject,
            kind=Kind.USER,
            roles=who.roles,
            created_by=who.selector,
            created_at=0.0,
        )
        self._session = Session(account=account, who=who)

    async def find(self, value: str | None) -> Session | None:
        return self._session
