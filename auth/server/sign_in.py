"""Sign-in at an OpenID provider: the way there and back, and the account of whoever comes back."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from mcpgw.auth.claims import Reading, holds
from mcpgw.auth.keys import digest
from mcpgw.auth.principals import Person
from mcpgw.auth.server.forms import LIFE_S, Forms
from mcpgw.auth.server.rates import Rate
from mcpgw.auth.upstream.exchange import Provided, ProvidedTokens
from mcpgw.domain import Account
from mcpgw.errors import InvalidParams, RateLimited, Unauthenticated
from mcpgw.ports import Clock, Record, Records, Worlds
from mcpgw.sign_in_section import SignInSection

STATE = "signin"
"""Kind of the records of sign-ins that are under way."""
BEGUN_PER_MINUTE = 300
_MAX_STATE = 64

SignedIn = Callable[[Person], Awaitable[Account]]
"""Return the account of someone whom the provider vouches for, made or brought up to date. Raises InvalidParams."""


class SignInFailed(Unauthenticated):
    """Nobody is signed in. `reason` is for the log alone."""

    def __init__(self, message: str, *, fix: str = "", reason: str = "") -> None:
        super().__init__(message, fix=fix)
        self.reason = reason or message


class Provider(Protocol):
    """An OpenID provider. Every method raises GatewayError when it cannot be asked."""

    async def authorization_url(self, *, state: str, nonce: str, verifier: str, hint: str | None) -> str:
        """Return where the user goes to sign in."""
        ...

    async def check_answer(self, query: Mapping[str, str]) -> str:
        """Return the code of an authorization response. Raises SignInFailed."""
        ...

    async def tokens(self, code: str, verifier: str) -> Mapping[str, Any]:
        """Return what the provider gives for a code."""
        ...

    async def claims(self, tokens: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        """Return what the ID token says, and the provider beyond it. Raises SignInFailed."""
        ...


class Begun(msgspec.Struct, frozen=True):
    """What must come back with an answer. `following` is what the user goes on with then."""

    nonce: str
    verifier: str
    following: bytes


class States:
    """Sign-ins that are under way: each is found once, by the browser that began it."""

    def __init__(self, records: Records, forms: Forms, clock: Clock, pepper: bytes) -> None:
        self._records = records
        self._forms = forms
        self._clock = clock
        self._pepper = pepper
        self._rate = Rate(clock, BEGUN_PER_MINUTE, 60.0)

    async def keep(self, visit: str, begun: Begun) -> str:
        """Return the state of a sign-in that begins. `visit` is the browser's cookie. Raises RateLimited."""
        if not self._rate.admits():
            raise RateLimited("too many people sign in at this moment", fix="try again in a minute")
        state = secrets.token_urlsafe(32)
        sealed = self._forms.made(STATE, visit, begun).encode()
        expires_at = self._clock.time() + LIFE_S
        await self._records.put(Record(kind=STATE, id=self._id(state), owner="", body=sealed, expires_at=expires_at))
        return state

    async def take(self, state: str, visit: str | None) -> Begun:
        """Return the sign-in that a state is of. Raises SignInFailed."""
        record = await self._records.take(STATE, self._id(state)) if 0 < len(state) <= _MAX_STATE else None
        begun = None if record is None else self._forms.read(STATE, visit, record.body.decode(), Begun)
        if begun is None:
            raise SignInFailed(
                "this answer was used before, came too late, or belongs to another browser",
                fix="sign in again",
                reason="unknown state, or of another browser",
            )
        return begun

    def _id(self, state: str) -> str:
        return digest(self._pepper, f"signin:{state}")


class ProviderSignIn:
    """Sends people to the provider and takes them in again. `provided` None: what it gives is not kept."""

    def __init__(
        self,
        section: SignInSection,
        provider: Provider,
        reading: Reading,
        states: States,
        worlds: Worlds,
        signed_in: SignedIn,
        provided: ProvidedTokens | None,
    ) -> None:
        self.title = section.title or urlsplit(section.issuer).netloc
        self._section = section
        self._provider = provider
        self._reading = reading
        self._states = states
        self._worlds = worlds
        self._signed_in = signed_in
        self._provided = provided

    async def begin(self, visit: str, following: bytes, hint: str | None) -> str:
        """Return where the user goes; `following` comes back with them. `visit` is the browser's cookie.

        Raises GatewayError.
        """
        begun = Begun(secrets.token_urlsafe(24), secrets.token_urlsafe(48), following)
        state = await self._states.keep(visit, begun)
        return await self._provider.authorization_url(
            state=state, nonce=begun.nonce, verifier=begun.verifier, hint=hint
        )

    async def finish(self, query: Mapping[str, str | Sequence[str]], visit: str | None) -> tuple[Account, bytes]:
        """Return who came back, and what they were to go on with. Raises SignInFailed, GatewayError."""
        said = {name: value for name, value in query.items() if isinstance(value, str)}
        begun = await self._states.take(said.get("state", ""), visit)
        if len(said) != len(query):
            raise SignInFailed("the identity provider's answer says something twice", fix="sign in again")
        code = await self._provider.check_answer(said)
        tokens = await self._provider.tokens(code, begun.verifier)
        claims = await self._provider.claims(tokens, begun.nonce)
        try:
            account = await self._signed_in(self._person(claims))
        except SignInFailed:
            raise
        except (Unauthenticated, InvalidParams) as error:
            raise SignInFailed(
                "what the identity provider says of you does not fit here",
                fix="ask an administrator",
                reason=str(error),
            ) from None
        self._check_active(account)
        if self._provided is not None:
            id_token = Provided(issuer=self._section.issuer, id_token=str(tokens["id_token"]))
            await self._provided.keep(account, id_token, float(claims["exp"]))
        return account, begun.following

    def _person(self, claims: Mapping[str, Any]) -> Person:
        section = self._section
        verified = claims.get("email_verified") is True
        if section.verified_email and not verified:
            raise SignInFailed("the identity provider has not verified your email address", fix="verify it there")
        if not all(holds(rule, claims) for rule in section.require):
            raise SignInFailed("your account at the identity provider is not let in here", fix="ask an administrator")
        roles, team = self._reading.described(claims)
        if section.role_claim is not None and not roles:
            raise SignInFailed("your account at the identity provider has no role here", fix="ask an administrator")
        email, title = claims.get("email"), claims.get("name") or claims.get("preferred_username")
        return Person(
            issuer=section.issuer,
            subject=str(claims["sub"]),
            title=title if isinstance(title, str) else "",
            email=email if verified and isinstance(email, str) else None,
            team=team,
            roles=None if section.role_claim is None else roles,
        )

    def _check_active(self, account: Account) -> None:
        identities = self._worlds.current.identities
        held = identities.accounts.get(account.id)
        if held is None or held.deactivated_at is not None or held.team in identities.deactivated:
            raise SignInFailed("your account here is deactivated", fix="ask an administrator")
