"""What proves us to upstreams: the gateway's own credentials, or one that is the caller's there; never what the caller
showed to us."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mcpgw.auth.upstream.configured import NONE, ConfiguredHeaders
from mcpgw.domain import OWN_UNTIL_CONNECTED, OWN_VERBS, AuthMode, Judged, Route, UpstreamAuth
from mcpgw.errors import Unavailable


class Mode(Protocol):
    """One way in which a credential is had. Whose it is stands in `judged.principal`, where it goes in
    `judged.version`."""

    async def headers_for(self, judged: Judged, auth: UpstreamAuth) -> Mapping[str, str]:
        """Return header fields by lower-case name; without waiting where they are at hand.

        Raises UpstreamUnreachable when the credential cannot be had, and ConsentNeeded.
        """
        ...

    async def refused(self, judged: Judged, auth: UpstreamAuth, sent: Mapping[str, str], challenge: str) -> None:
        """Hear that the server did not accept `sent` (what `headers_for` returned), in the words of its challenge.

        It must not be returned again. May raise ConsentNeeded.
        """
        ...


class Broker:
    """Implements `ports.CredentialBroker`: one mode for each server version, as it was published.

    A version without `auth` gets what the operator's configuration has for its URL.
    """

    def __init__(self, configured: ConfiguredHeaders, modes: Mapping[AuthMode, Mode]) -> None:
        self._configured = configured
        self._modes = modes

    async def credential_for(self, judged: Judged) -> Mapping[str, str]:
        """Return header fields by lower-case name. Raises UpstreamUnreachable, Unavailable, ConsentNeeded."""
        version = judged.version
        if version is None or version.auth is None or judged.action.route is Route.LLM:
            found = self._configured.at_hand(judged)
            return found if found is not None else await self._configured.in_vault(judged)
        auth = version.auth
        # What the gateway answers itself needs no credential, and nobody's consent.
        own = OWN_UNTIL_CONNECTED if auth.mode is AuthMode.USER else OWN_VERBS
        if auth.mode is AuthMode.NONE or (judged.action.verb in own and judged.action.route is not Route.SYSTEM):
            return NONE
        return await self._mode(auth).headers_for(judged, auth)

    async def refused(self, judged: Judged, credential: Mapping[str, str], challenge: str) -> None:
        """Let go of a credential that the upstream does not accept. Raises ConsentNeeded."""
        version = judged.version
        if version is None or version.auth is None:
            return
        # Without one, the gateway itself asked in the name of nobody: what it would take stands in the challenge.
        if credential or version.auth.mode is AuthMode.USER:
            await self._mode(version.auth).refused(judged, version.auth, credential, challenge)

    def _mode(self, auth: UpstreamAuth) -> Mode:
        mode = self._modes.get(auth.mode)
        if mode is None:
            raise Unavailable(
                f"credentials of the mode {auth.mode.value} cannot be had here", fix="see its limitations"
            )
        return mode
