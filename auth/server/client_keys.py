"""The keys that clients prove themselves with: registered with them, or published at their `jwks_uri`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from mcpgw.auth.compact import Key
from mcpgw.auth.fetch import Fetcher
from mcpgw.auth.jwks import IssuerKeys, keys_of
from mcpgw.domain import OAuthClient
from mcpgw.issuer_section import IssuerSection
from mcpgw.ports import Clock

REMEMBERED = 256
_TRIED = 8


class ClientKeys:
    """Finds keys of clients. What was fetched is kept as HTTP allows, for the latest 256 addresses."""

    def __init__(self, fetcher: Fetcher, clock: Clock) -> None:
        self._fetcher = fetcher
        self._clock = clock
        self._published: OrderedDict[str, IssuerKeys] = OrderedDict()

    async def fitting(self, client: OAuthClient, kid: object, algorithm: str) -> Sequence[Key]:
        """Return the client's keys for this algorithm, of this id where one is given.

        Raises ValueError, and GatewayError when they cannot be had.
        """
        if client.jwks is not None:
            held = keys_of({"keys": [{"kid": "", **key} for key in client.jwks["keys"]]})
            named = {id: keys for id, keys in held.items() if kid is None or id == kid}
            return [one.key for keys in named.values() for one in keys if one.fits(algorithm)][:_TRIED]
        if client.jwks_uri is None or not isinstance(kid, str):
            raise ValueError("a client whose keys are published names the one that it uses")
        return [await self._at(client.jwks_uri).find(kid, algorithm)]

    def _at(self, uri: str) -> IssuerKeys:
        keys = self._published.get(uri)
        if keys is None:
            section = IssuerSection(issuer=uri.partition("?")[0], jwks_uri=uri)
            keys = self._published[uri] = IssuerKeys(section, self._fetcher.fetch, self._clock)
            if len(self._published) > REMEMBERED:
                self._published.popitem(last=False)
        self._published.move_to_end(uri)
        return keys
