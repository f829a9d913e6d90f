"""What somebody has connected, and the end of it: here at once, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcpgw.auth.upstream.discovery import Discovery
from mcpgw.auth.upstream.requests import TokenRequests
from mcpgw.auth.upstream.tokens import holder
from mcpgw.auth.upstream.user import Connection, Connections
from mcpgw.domain import Principal
from mcpgw.errors import GatewayError, InvalidParams, NotFound
from mcpgw.ports import AuthLog

EVENT = "disconnect"


class Disconnections:
    """Ends connections, for their holders and for administrators."""

    def __init__(self, connections: Connections, requests: TokenRequests, discovery: Discovery, log: AuthLog) -> None:
        self._connections = connections
        self._requests = requests
        self._discovery = discovery
        self._log = log

    async def of(self, principal: str) -> Sequence[Mapping[str, Any]]:
        """Return what a principal (`issuer|subject`) has connected; no token stands in it. Raises InvalidParams."""
        return [
            {
                "server": connection.server,
                "endpoint": connection.endpoint,
                "issuer": connection.issuer,
                "scopes": list(connection.requested),
                "connected_at": connection.connected_at,
            }
            for _, connection in await self._connections.of(_holder(principal))
        ]

    async def end(self, who: Principal, principal: str, server: str) -> Mapping[str, Any]:
        """Disconnect a principal from a server, as an administrator. Raises InvalidParams and NotFound."""
        held = await self._connections.of(_holder(principal))
        found = [(place, connection) for place, connection in held if connection.server == server]
        if not found:
            raise NotFound(f"that principal has not connected `{server}`", fix="list what it has connected")
        for place, connection in found:
            await self.end_one(place, connection, by=who.selector, of=principal)
        return {"ended": len(found)}

    async def end_one(self, place: str, connection: Connection, *, by: str, of: str, source: str | None = None) -> None:
        """End one connection, with a record of who did."""
        await self._connections.end(place)
        detail = {"server": connection.server, "for": of}
        await self._log.record(EVENT, principal=by, source=source, detail=detail)
        if connection.refresh_token is not None:
            try:
                server = await self._discovery.of_issuer(connection.issuer)
            except GatewayError:
                return  # a server that does not answer keeps nothing alive here
            await self._requests.revoke(server, connection.client, connection.refresh_token, "refresh_token")


def _holder(principal: str) -> str:
    issuer, mark, subject = principal.partition("|")
    if not mark:
        raise InvalidParams("a principal is named as `issuer|subject`", fix="for example: mcpgw|ada")
    return holder(issuer, subject)
