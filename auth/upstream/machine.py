"""The gateway's own access tokens for a server: the client credentials grant (RFC 6749 §4.4, SEP-1046)."""

from __future__ import annotations

from collections.abc import Mapping

from mcpgw.auth.upstream.discovery import lacks_scopes
from mcpgw.auth.upstream.requests import TokenRequests
from mcpgw.auth.upstream.tokens import GATEWAY, Kept, Place, Tokens, asked_with
from mcpgw.domain import Judged, ServerVersion, UpstreamAuth


class ClientCredentials:
    """Implements `broker.Mode`."""

    def __init__(self, tokens: Tokens, requests: TokenRequests) -> None:
        self._tokens = tokens
        self._requests = requests

    async def headers_for(self, judged: Judged, auth: UpstreamAuth) -> Mapping[str, str]:
        version = _version(judged)
        key = (version.server, version.endpoint, auth)
        held = self._tokens.at_hand(key)
        if held is not None:
            return held

        async def obtain() -> Kept:
            server = await self._requests.server_of(version, auth)
            form = {"grant_type": "client_credentials", "resource": auth.resource or version.endpoint}  # RFC 8707 §2
            if auth.scopes:
                form["scope"] = " ".join(auth.scopes)
            if auth.audience is not None:
                form["audience"] = auth.audience
            client = await self._requests.client_of(auth, server)
            kept, _ = await self._requests.grant(version.server, server, client, form)
            return kept

        return await self._tokens.headers(key, _place(version, auth), obtain)

    async def refused(self, judged: Judged, auth: UpstreamAuth, sent: Mapping[str, str], challenge: str) -> None:
        if lacks_scopes(challenge):
            return  # another token would have the same
        version = _version(judged)
        await self._tokens.refused((version.server, version.endpoint, auth), _place(version, auth), sent)


def _place(version: ServerVersion, auth: UpstreamAuth) -> Place:
    return Place(version.server, asked_with(version.endpoint, auth), GATEWAY, GATEWAY)


def _version(judged: Judged) -> ServerVersion:
    if judged.version is None:
        raise ValueError("a credential for no server")
    return judged.version
