"""Sign-in and consent, from the request of a client to its answer, and what a user sees of their own account.

Between two requests nothing is kept here: what is asked stands sealed in the page or the URL that the browser comes
back with. Whoever follows such a URL is asked, as with the request that it was made from.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from mcpgw.auth.scopes import of_one_side, scopes_of_account
from mcpgw.auth.server import consent
from mcpgw.auth.server.authorization import Authorizations
from mcpgw.auth.server.clients import Clients
from mcpgw.auth.server.consent import Consents
from mcpgw.auth.server.forms import ANYONE, Forms
from mcpgw.auth.server.grants import Grants
from mcpgw.auth.server.local_users import EVENT, LocalUsers
from mcpgw.auth.server.redirects import destination, matches
from mcpgw.auth.server.sessions import BrowserSessions, Session
from mcpgw.auth.server.sign_in import ProviderSignIn, SignInFailed
from mcpgw.domain import Account, AuthorizationRequest, Principal
from mcpgw.errors import GatewayError, PageError, RateLimited, RedirectError, Unauthenticated
from mcpgw.ports import AuthLog, Worlds
from mcpgw.ports.front import AccountPage, Fields, Given, MessagePage, Query, Reply, SignInPage, Visitor

CONSOLE = "/console/"
SIGN_IN, REQUEST, CONSENT, SIGN_OUT, REVOKE = "sign-in", "request", "consent", "sign-out", "revoke"
"""Purposes of what a page carries."""
_ASKED_AGAIN = frozenset({"login", "select_account"})


class _Next(msgspec.Struct, frozen=True):
    """Where a sign-in leads: on with a client's request, to a path of ours, or to the user's own page."""

    request: AuthorizationRequest | None = None
    path: str = CONSOLE


class _Question(msgspec.Struct, frozen=True):
    """What a user is asked: the scopes of `request` are those on the page."""

    request: AuthorizationRequest
    account: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontParts:
    """What the front is made of. `local` or `provider` None: nobody signs in that way."""

    worlds: Worlds
    log: AuthLog
    authorizations: Authorizations
    grants: Grants
    clients: Clients
    consents: Consents
    sessions: BrowserSessions
    forms: Forms
    local: LocalUsers | None
    provider: ProviderSignIn | None


class PeopleFront:
    """Implements ports.front.Front."""

    def __init__(self, parts: FrontParts) -> None:
        self._parts = parts

    async def authorize(self, query: Query, visitor: Visitor) -> Reply:
        try:
            request = await self._parts.authorizations.check(query)
        except PageError as error:
            client_id = query.get("client_id")
            known = client_id if isinstance(client_id, str) else ""
            await self._refused("authorize", error.error, error.message, visitor, client_id=known[:256] or None)
            return self._unusable(error, known)
        except RedirectError as error:
            return await self._sent_back(error, str(query.get("client_id")), visitor)
        return await self._asked(request, visitor)

    async def resume(self, request: str, visitor: Visitor) -> Reply:
        following = self._parts.forms.read(REQUEST, ANYONE, request, AuthorizationRequest)
        return _stale() if following is None else await self._asked(following, visitor)

    async def decide(self, fields: Fields, visitor: Visitor) -> Reply:
        parts = self._parts
        session = await parts.sessions.find(visitor.session)
        question = await parts.forms.take(CONSENT, visitor.session, fields.get("form", ""), _Question)
        if session is None or question is None or question.account != session.account.id:
            await self._refused("consent", "invalid_request", "no such question was put to this browser", visitor)
            return _stale()
        request = question.request
        if not await self._still_good(request):
            return _gone()
        if fields.get("decision") != "allow":
            who = session.who.selector
            detail = {"reason": "the user said no", "resource": request.endpoint}
            await parts.log.record(
                "consent", "access_denied", principal=who, client_id=request.client_id, detail=detail
            )
            return Reply(location=parts.authorizations.refuse(request))
        await parts.consents.remember(request, session.account)
        return Reply(location=await parts.authorizations.approve(request, session.account))

    async def sign_in_page(self, visitor: Visitor) -> Reply:
        if await self._parts.sessions.find(visitor.session) is not None:
            return Reply(location=CONSOLE)
        return await self._sign_in(_Next(), visitor)

    async def sign_in_first(self, path: str, visitor: Visitor) -> Reply:
        """Ask who somebody is, and go on at a path of ours."""
        return await self._sign_in(_Next(path=path), visitor)

    async def sign_in(self, fields: Fields, visitor: Visitor) -> Reply:
        following = self._parts.forms.read(SIGN_IN, visitor.visit, fields.get("form", ""), _Next)
        if following is None or self._parts.local is None:
            await self._refused(EVENT, "invalid_request", "no such page was given to this browser", visitor)
            return _stale()
        name = fields.get("username", "")
        try:
            account = await self._parts.local.recognised(name, fields.get("password", ""), visitor.source)
        except (Unauthenticated, RateLimited) as error:
            fault = f"{error.message}: {error.fix}"
            return await self._sign_in(following, visitor, name=name, fault=fault, status=error.wire.status)
        return await self._signed_in(account, following, visitor, by="password")

    async def to_provider(self, form: str, visitor: Visitor) -> Reply:
        following = self._parts.forms.read(SIGN_IN, visitor.visit, form, _Next)
        if following is None or visitor.visit is None or self._parts.provider is None:
            return _stale()
        hint = None if following.request is None else following.request.login_hint
        try:
            location = await self._parts.provider.begin(visitor.visit, msgspec.json.encode(following), hint)
        except GatewayError as error:
            await self._refused(EVENT, error.code, error.message, visitor)
            return _failed(error)
        return Reply(location=location)

    async def from_provider(self, query: Query, visitor: Visitor) -> Reply:
        if self._parts.provider is None:
            return _stale()
        try:
            account, encoded = await self._parts.provider.finish(query, visitor.visit)
        except SignInFailed as error:
            await self._refused(EVENT, "access_denied", error.reason, visitor)
            return _failed(error)
        except GatewayError as error:
            await self._refused(EVENT, error.code, error.message, visitor)
            return _failed(error)
        return await self._signed_in(account, msgspec.json.decode(encoded, type=_Next), visitor, by="provider")

    async def sign_out(self, fields: Fields, visitor: Visitor) -> Reply:
        session = await self._parts.sessions.find(visitor.session)
        mine = self._parts.forms.read(SIGN_OUT, visitor.session, fields.get("form", ""), str)
        if session is None or mine is None:
            return _stale()
        await self._parts.sessions.end(visitor.session)
        await self._parts.log.record("sign_out", principal=session.who.selector, source=visitor.source)
        done = MessagePage(title="Signed out", text="You are signed out.", back="/oauth/sign-in", back_to="Sign in")
        return Reply(page=done, session="")

    async def account(self, visitor: Visitor) -> Reply:
        session = await self._parts.sessions.find(visitor.session)
        if session is None or visitor.session is None:
            return Reply(location="/oauth/sign-in")
        forms, account = self._parts.forms, session.account
        given = []
        for grant in await self._parts.grants.of(account.id):
            client = await self._parts.clients.find(grant.client_id)
            given.append(
                Given(
                    form=forms.made(REVOKE, visitor.session, grant.id),
                    app=(client.title if client is not None else "") or grant.client_id,
                    endpoint=consent.endpoint_in_words(grant.endpoint),
                    scopes=consent.in_words(grant.scopes),
                    since=grant.created_at,
                    until=grant.expires_at,
                )
            )
        page = AccountPage(
            form=forms.made(SIGN_OUT, visitor.session, account.id),
            user=account.title or account.subject,
            subject=account.subject,
            issuer=account.issuer,
            team=account.team,
            roles=sorted(account.roles),
            scopes=consent.in_words(scopes_of_account(account)),
            given=given,
        )
        return Reply(page=page)

    async def revoke(self, fields: Fields, visitor: Visitor) -> Reply:
        session = await self._parts.sessions.find(visitor.session)
        wanted = self._parts.forms.read(REVOKE, visitor.session, fields.get("form", ""), str)
        if session is None or wanted is None:
            return _stale()
        for grant in await self._parts.grants.of(session.account.id):
            if grant.id == wanted:
                await self._parts.consents.forget(session.account, grant.client_id)
                await self._parts.grants.revoke(wanted, actor=session.who.selector, reason="by its user")
        return Reply(location=CONSOLE)

    async def administrator(self, session: str) -> Principal | None:
        found = await self._parts.sessions.find(session)
        return None if found is None else found.who

    async def _asked(self, request: AuthorizationRequest, visitor: Visitor) -> Reply:
        session = await self._parts.sessions.find(visitor.session)
        if "none" in request.prompt:
            return await self._silently(request, session, visitor)
        if session is None or request.prompt & _ASKED_AGAIN:
            # Once signed in, the user is not asked for that again, whatever the client wanted.
            return await self._sign_in(_Next(replace(request, prompt=request.prompt - _ASKED_AGAIN)), visitor)
        return await self._consent(request, session, visitor)

    async def _silently(self, request: AuthorizationRequest, session: Session | None, visitor: Visitor) -> Reply:
        """Answer `prompt=none` (OpenID Connect Core §3.1.2.1): with a code at once, or with what stands in the way."""
        error, message = "consent_required", "the user has not agreed to this yet"
        if len(request.prompt) > 1:
            error, message = "invalid_request", "prompt none stands alone"
        elif session is None:
            error, message = "login_required", "nobody is signed in"
        else:
            narrowed = _narrowed(request, session.account)
            if await self._remembered(narrowed, session.account):
                return Reply(location=await self._parts.authorizations.approve(narrowed, session.account))
        location = self._parts.authorizations.refuse(request, error)
        refusal = RedirectError(message, error=error, location=location)
        return await self._sent_back(refusal, request.client_id, visitor)

    async def _consent(self, request: AuthorizationRequest, session: Session, visitor: Visitor) -> Reply:
        parts, account = self._parts, session.account
        client = await parts.clients.find(request.client_id)
        if client is None or visitor.session is None or not matches(client.redirect_uris, request.redirect_uri):
            return _gone()
        narrowed = _narrowed(request, account)
        if not narrowed.scopes:
            return _not_yours(client.title or client.client_id, parts.authorizations.refuse(request))
        if "consent" not in request.prompt and await self._remembered(narrowed, account):
            return Reply(location=await parts.authorizations.approve(narrowed, account))
        form = parts.forms.made(CONSENT, visitor.session, _Question(narrowed, account.id))
        servers = await consent.servers_of(parts.worlds.current, narrowed, account)
        page = consent.page(narrowed, client, account, form=form, servers=servers)
        return Reply(page=page, form_targets=[destination(request.redirect_uri).source])

    async def _remembered(self, request: AuthorizationRequest, account: Account) -> bool:
        client = await self._parts.clients.find(request.client_id)
        identities = self._parts.worlds.current.identities
        return client is not None and await self._parts.consents.remembered(request, client, account, identities)

    async def _still_good(self, request: AuthorizationRequest) -> bool:
        client = await self._parts.clients.find(request.client_id)
        return client is not None and matches(client.redirect_uris, request.redirect_uri)

    async def _sign_in(
        self, following: _Next, visitor: Visitor, *, name: str | None = None, fault: str = "", status: int = 200
    ) -> Reply:
        parts, request = self._parts, following.request
        visit = visitor.visit or secrets.token_urlsafe(24)
        client = None if request is None else await parts.clients.find(request.client_id)
        hint = None if request is None else request.login_hint
        page = SignInPage(
            form=parts.forms.made(SIGN_IN, visit, following),
            app=None if client is None else client.title or client.client_id,
            provider=None if parts.provider is None else parts.provider.title,
            local=parts.local is not None,
            name=(hint or "") if name is None else name,
            fault=fault,
        )
        # After a sign-in, consent that was given before sends the browser on at once.
        targets = [] if request is None else [destination(request.redirect_uri).source]
        return Reply(page=page, status=status, form_targets=targets, visit=visit)

    async def _signed_in(self, account: Account, following: _Next, visitor: Visitor, *, by: str) -> Reply:
        # Always a new session: one that somebody planted in this browser before stays what it was (session fixation).
        await self._parts.sessions.end(visitor.session)
        value = await self._parts.sessions.begin(account)
        who = f"{account.issuer}|{account.subject}"
        await self._parts.log.record(EVENT, principal=who, source=visitor.source, detail={"by": by})
        location = following.path
        if following.request is not None:
            location = f"/oauth/consent?request={self._parts.forms.made(REQUEST, ANYONE, following.request)}"
        return Reply(location=location, session=value)

    async def _sent_back(self, error: RedirectError, client_id: str, visitor: Visitor) -> Reply:
        """Refuse a request of a client that is known, by a redirect: RFC 6749 §4.1.2.1.

        One that anybody can make sends nobody anywhere who has not signed in here: RFC 9700 §4.11.2.
        """
        await self._refused("authorize", error.error, error.message, visitor, client_id=client_id)
        client = await self._parts.clients.find(client_id)
        if client is not None and consent.made_here(client):
            return Reply(location=error.location)
        if await self._parts.sessions.find(visitor.session) is not None:
            return Reply(location=error.location)
        where = destination(error.location.partition("?")[0]).origin
        page = MessagePage(
            title="The app asked for something that cannot be",
            text=f"What is wrong with it: {error.message}.",
            fix="Go back to the app only if you came from there.",
            back=error.location,
            back_to=f"Back to {where}",
        )
        return Reply(page=page, status=400)

    def _unusable(self, error: PageError, client_id: str) -> Reply:
        why = self._parts.clients.fault(client_id)
        text = error.message if why is None else f"{error.message}: {why.message}"
        return Reply(page=MessagePage(title="This request cannot be answered", text=text, fix=error.fix), status=400)

    async def _refused(
        self, event: str, outcome: str, reason: str, visitor: Visitor, *, client_id: str | None = None
    ) -> None:
        detail: Mapping[str, str] = {"reason": reason}
        await self._parts.log.record(event, outcome, client_id=client_id, source=visitor.source, detail=detail)


def _narrowed(request: AuthorizationRequest, account: Account) -> AuthorizationRequest:
    """Return a request for what its user can give, and no more."""
    return replace(request, scopes=of_one_side(request.scopes & scopes_of_account(account)))


def _not_yours(app: str, back: str) -> Reply:
    page = MessagePage(
        title="Your account may not do this",
        text=f"{app} asks for rights that your account does not have here.",
        fix="Ask an administrator of this gateway for a role, or sign in with another account.",
        back=back,
        back_to=f"Back to {app}",
    )
    return Reply(page=page, status=403)


def _stale() -> Reply:
    page = MessagePage(
        title="This page is too old",
        text="It was used already, was opened in another browser, or you signed in or out meanwhile.",
        fix="Start again in the app, or sign in here.",
        back="/oauth/sign-in",
        back_to="Sign in",
    )
    return Reply(page=page, status=400)


def _gone() -> Reply:
    page = MessagePage(
        title="The app is not known here any more",
        text="It was revoked, or says something else of itself than before.",
        fix="Start again in the app, or ask an administrator of this gateway.",
    )
    return Reply(page=page, status=400)


def _failed(error: GatewayError) -> Reply:
    page = MessagePage(
        title="You could not be signed in",
        text=error.message,
        fix=error.fix,
        back="/oauth/sign-in",
        back_to="Try again",
    )
    return Reply(page=page, status=403 if isinstance(error, Unauthenticated) else error.wire.status)
