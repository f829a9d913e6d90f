"""A token for each caller, for which the gateway gives what stands for them: RFC 8693, and ID-JAG in two steps.

What stands for a caller is an assertion of ours, or what the identity provider gave when they signed in; never what
they showed to us.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import msgspec

from mcpgw.auth.upstream.assertion import Assertions, said_of
from mcpgw.auth.upstream.discovery import lacks_scopes
from mcpgw.auth.upstream.requests import AuthorizationServer, Client, Discovery, TokenRequests, no_credential
from mcpgw.auth.upstream.tokens import Kept, Place, Tokens, asked_with, holder, holder_of
from mcpgw.auth.vault import PROVIDER, Vault
from mcpgw.domain import Account, AuthMode, Judged, Kind, Principal, ServerVersion, UpstreamAuth
from mcpgw.errors import UpstreamUnreachable

IDENTITY_PROVIDER = "identity_provider"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 (RFC 8693 §2.1)
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"  # RFC 7523 §2.1
_TYPE = "urn:ietf:params:oauth:token-type:"


class Provided(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an identity provider gave at a sign-in."""

    issuer: str
    id_token: str

    def __repr__(self) -> str:
        return f"Provided(issuer={self.issuer!r})"


class ProvidedTokens:
    """Keeps it for each account, sealed; it goes away with its holder."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def keep(self, account: Account, provided: Provided, expires_at: float) -> None:
        owner = holder(account.issuer, account.subject)
        await self._vault.put(PROVIDER, account.id, owner, msgspec.json.encode(provided), expires_at)

    async def of(self, owner: str) -> Provided | None:
        """Return what was given for a `holder`; None: nothing, or nothing that still counts."""
        found = await self._vault.of(PROVIDER, owner)
        return msgspec.json.decode(found[0][1], type=Provided) if found else None


ProviderClient = Callable[[str], Client | None]
"""Who the gateway is at the identity provider of this issuer; None: it is not configured."""


class Exchanged:
    """Implements `broker.Mode` for TOKEN_EXCHANGE and ID_JAG."""

    def __init__(
        self,
        tokens: Tokens,
        requests: TokenRequests,
        assertions: Assertions,
        provided: ProvidedTokens,
        discovery: Discovery,
        provider_client: ProviderClient,
    ) -> None:
        self._tokens = tokens
        self._requests = requests
        self._assertions = assertions
        self._provided = provided
        self._discovery = discovery
        self._provider_client = provider_client

    async def headers_for(self, judged: Judged, auth: UpstreamAuth) -> Mapping[str, str]:
        version, who = _version(judged), judged.principal
        key = _key(version, auth, who)
        held = self._tokens.at_hand(key)
        if held is not None:
            return held

        async def obtain() -> Kept:
            server = await self._requests.server_of(version, auth)
            client = await self._requests.client_of(auth, server)
            form = {"resource": auth.resource or version.endpoint}  # RFC 8707 §2
            if auth.scopes:
                form["scope"] = " ".join(auth.scopes)
            if auth.mode is AuthMode.ID_JAG:
                form |= {
                    "grant_type": JWT_BEARER,
                    "assertion": await self._id_jag(version, auth, who, server, client, form),
                }
            else:
                form |= await self._subject(version, auth, who, server)
            kept, _ = await self._requests.grant(version.server, server, client, form)
            return kept

        return await self._tokens.headers(key, _place(version, auth, who), obtain)

    async def refused(self, judged: Judged, auth: UpstreamAuth, sent: Mapping[str, str], challenge: str) -> None:
        if lacks_scopes(challenge):
            return  # another token would have the same
        version, who = _version(judged), judged.principal
        await self._tokens.refused(_key(version, auth, who), _place(version, auth, who), sent)

    async def _subject(
        self, version: ServerVersion, auth: UpstreamAuth, who: Principal, server: AuthorizationServer
    ) -> dict[str, str]:
        """Return the parameters of RFC 8693 §2.1 that say for whom."""
        form = {"grant_type": TOKEN_EXCHANGE, "requested_token_type": f"{_TYPE}access_token"}
        if auth.audience is not None:
            form["audience"] = auth.audience
        if auth.subject == IDENTITY_PROVIDER:
            provided = await self._provided_to(version, who)
            return form | {"subject_token": provided.id_token, "subject_token_type": f"{_TYPE}id_token"}
        return form | {
            "subject_token": self._assertions.of(who, server.issuer),
            "subject_token_type": f"{_TYPE}jwt",
        }

    async def _id_jag(
        self,
        version: ServerVersion,
        auth: UpstreamAuth,
        who: Principal,
        server: AuthorizationServer,
        client: Client,
        asked: Mapping[str, str],
    ) -> str:
        """Return an identity assertion for the authorization server: the provider's, or one of ours."""
        if auth.subject != IDENTITY_PROVIDER:
            return self._assertions.id_jag(who, server.issuer, client.id, asked["resource"], auth.scopes)
        provided = await self._provided_to(version, who)
        as_client = self._provider_client(provided.issuer)
        if as_client is None:
            raise _nothing(version, "the identity provider of the caller is not configured any more")
        form = {
            **asked,
            "grant_type": TOKEN_EXCHANGE,
            "requested_token_type": f"{_TYPE}id-jag",
            "audience": server.issuer,
            "subject_token": provided.id_token,
            "subject_token_type": f"{_TYPE}id_token",
        }
        provider = await self._discovery.of_issuer(provided.issuer)
        kept, _ = await self._requests.grant(version.server, provider, as_client, form)
        return kept.access_token

    async def _provided_to(self, version: ServerVersion, who: Principal) -> Provided:
        provided = await self._provided.of(_holder(version, who))
        if provided is None:
            raise _nothing(version, "the caller has not signed in at an identity provider, or too long ago")
        return provided


def _key(version: ServerVersion, auth: UpstreamAuth, who: Principal) -> Hashable:
    asks_itself = version.published_by if who.kind is Kind.SYSTEM else None
    return said_of(who), asks_itself, version.server, version.endpoint, auth


def _place(version: ServerVersion, auth: UpstreamAuth, who: Principal) -> Place:
    said = msgspec.json.encode((_holder(version, who), who.key, who.team, sorted(who.roles), who.actors)).decode()
    return Place(version.server, asked_with(version.endpoint, auth), said, _holder(version, who))


def _holder(version: ServerVersion, who: Principal) -> str:
    """Return who stands behind a call: behind the gateway's own, about a version's tools, whoever published it."""
    if who.kind is not Kind.SYSTEM:
        return holder_of(who)
    issuer, _, subject = version.published_by.partition("|")
    return holder(issuer, subject)


def _version(judged: Judged) -> ServerVersion:
    if judged.version is None:
        raise ValueError("a credential for no server")
    return judged.version


def _nothing(version: ServerVersion, why: str) -> UpstreamUnreachable:
    return no_credential(version.server, why, "sign in at the gateway again")
