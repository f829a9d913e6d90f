"""The port of what people see of our authorization server: what a browser brings, and the page or place it gets.

What a page says is here; how it looks is the edge's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mcpgw.domain import Principal

Fields = Mapping[str, str]
Query = Mapping[str, str | Sequence[str]]
"""Parameters by name; a sequence holds what came more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """A browser as it came: the values of its cookies, and the address.

    `session` is that of somebody who has signed in, `visit` that of a browser that has seen the sign-in page.
    """

    session: str | None = field(default=None, repr=False)
    visit: str | None = field(default=None, repr=False)
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInPage:
    """Who are you? `form` goes back with the answer. `app` is the client that asks, if one does.

    `provider` is what the identity provider is called (None: there is none), `local` says that a name and a password
    will do. `fault` is why the last try failed.
    """

    form: str
    app: str | None
    provider: str | None
    local: bool
    name: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentPage:
    """May this app do this in your name?

    `app_host` is where its description comes from, for a client that is a URL; `vouched` says that an administrator
    of this gateway made the client. `goes_to` is the host (or scheme) that the answer is sent to, `on_this_device` that
    any program there could be the one that gets it. `scopes` are sentences, `servers` names; `more` were left out.
    """

    form: str
    user: str
    app: str
    app_host: str | None
    app_page: str | None
    vouched: bool
    goes_to: str
    on_this_device: bool
    elsewhere: bool
    scopes: Sequence[str]
    endpoint: str
    servers: Sequence[str]
    more: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An authorization as its user is shown it. `form` ends it."""

    form: str
    app: str
    endpoint: str
    scopes: Sequence[str]
    since: float
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPage:
    """Who you are here, what you may do, and what you have allowed. `form` signs out."""

    form: str
    user: str
    subject: str
    issuer: str
    team: str | None
    roles: Sequence[str]
    scopes: Sequence[str]
    given: Sequence[Given]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectPage:
    """May this server be called in your name? `at` is its host, `issuer` that of the authorization server to go to.

    `on_behalf_of` is the agent that it is for, when that is not the user. `form` goes on.
    """

    form: str
    user: str
    server: str
    at: str
    issuer: str
    scopes: Sequence[str]
    on_behalf_of: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """A server that is called in the user's name. `form` ends that."""

    form: str
    server: str
    issuer: str
    scopes: Sequence[str]
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionsPage:
    """Which servers are called in your name?"""

    user: str
    connected: Sequence[Connected]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePage:
    """What is wrong, or done, and what to do. `back` is a link for the user, `back_to` what it is called."""

    title: str
    text: str
    fix: str = ""
    back: str | None = None
    back_to: str = ""


Page = SignInPage | ConsentPage | AccountPage | ConnectPage | ConnectionsPage | MessagePage


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A page, or the place to go to. `session` and `visit` set these cookies ("": end them; None: leave them).

    `form_targets` are the sources, besides ourselves, that an answer to the page's form may lead to.
    """

    page: Page | None = None
    location: str | None = None
    status: int = 200
    form_targets: Sequence[str] = ()
    session: str | None = field(default=None, repr=False)
    visit: str | None = field(default=None, repr=False)


class Front(Protocol):
    """Sign-in, consent, and what a user has allowed. Every refusal is a page; nothing here raises for bad input."""

    async def authorize(self, query: Query, visitor: Visitor) -> Reply:
        """Answer an authorization request."""
        ...

    async def resume(self, request: str, visitor: Visitor) -> Reply:
        """Go on with a request, after a sign-in."""
        ...

    async def decide(self, fields: Fields, visitor: Visitor) -> Reply:
        """Carry out what the user answered on the consent page."""
        ...

    async def sign_in_page(self, visitor: Visitor) -> Reply: ...

    async def sign_in(self, fields: Fields, visitor: Visitor) -> Reply:
        """Sign in with name and password."""
        ...

    async def to_provider(self, form: str, visitor: Visitor) -> Reply:
        """Send the user to the identity provider."""
        ...

    async def from_provider(self, query: Query, visitor: Visitor) -> Reply:
        """Sign in with what the identity provider answered."""
        ...

    async def sign_out(self, fields: Fields, visitor: Visitor) -> Reply: ...

    async def account(self, visitor: Visitor) -> Reply: ...

    async def revoke(self, fields: Fields, visitor: Visitor) -> Reply:
        """End an authorization that the user gave."""
        ...

    async def administrator(self, session: str) -> Principal | None:
        """Return who administers with a session's cookie, if it is live."""
        ...


class Connecting(Protocol):
    """How a person agrees that a server is called in their name. Every refusal is a page."""

    async def page(self, slug: str, text: str, visitor: Visitor) -> Reply:
        """Show what the person is asked to agree to. `text` is the ticket that the call got."""
        ...

    async def decide(self, slug: str, fields: Fields, visitor: Visitor) -> Reply:
        """Send the person, who has pressed the button, to the authorization server."""
        ...

    async def connections(self, visitor: Visitor) -> Reply:
        """Show which servers are called in the person's name."""
        ...

    async def disconnect(self, fields: Fields, visitor: Visitor) -> Reply:
        """End that for one server."""
        ...

    async def returned(self, slug: str, query: Query, visitor: Visitor) -> Reply:
        """Carry out what the authorization server answered by way of the person's browser."""
        ...
