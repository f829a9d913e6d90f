"""Who a client id stands for: a row of the world, or the document at its URL."""

from __future__ import annotations

from collections import OrderedDict

from mcpgw.auth.server.documents import Documents, is_document
from mcpgw.domain import KillSwitch, OAuthClient, Scope
from mcpgw.errors import GatewayError
from mcpgw.ports import World, Worlds

MAX_CLIENT_ID = 2048
_REMEMBERED = 256


class Clients:
    """Finds clients. `documents` None: a client is never a URL."""

    def __init__(self, worlds: Worlds, documents: Documents | None) -> None:
        self._worlds = worlds
        self._documents = documents
        self._unusable: OrderedDict[str, GatewayError] = OrderedDict()

    async def find(self, client_id: str) -> OAuthClient | None:
        """Return a client that may be used now; None for one that is unknown, revoked or killed."""
        if not client_id or len(client_id) > MAX_CLIENT_ID:
            return None
        world = self._worlds.current
        if world.unavailable is not None or _killed(world, client_id) is not None:
            return None
        if not is_document(client_id):
            client = world.identities.clients.get(client_id)
            return None if client is None or client.revoked_at is not None else client
        return await self._documented(client_id)

    def fault(self, client_id: str) -> GatewayError | None:
        """Return why `find` lately could not use the document of a client, for the page that says so."""
        return self._unusable.get(client_id)

    async def _documented(self, url: str) -> OAuthClient | None:
        if self._documents is None:
            return None
        try:
            client = await self._documents.client(url)
        except GatewayError as error:
            self._unusable[url] = error
            while len(self._unusable) > _REMEMBERED:
                self._unusable.popitem(last=False)
            return None
        self._unusable.pop(url, None)
        # The document may have taken a while, and the world is what counts.
        return client if _killed(self._worlds.current, url) is None else None


def _killed(world: World, client_id: str) -> KillSwitch | None:
    return next((s for s in world.switches.standing if (s.scope, s.selector) == (Scope.CLIENT, client_id)), None)
