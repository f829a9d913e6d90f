"""The rows of the admin API about servers that are called in somebody's name."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mcpgw.edge.admin_operation import Ask, Operation
from mcpgw.edge.admin_schema import Body, Slug
from mcpgw.edge.services import Json, Services

Selector = Annotated[str, Meta(min_length=3, max_length=512)]


class Whose(Body):
    """A principal, as `issuer|subject`."""

    principal: Selector


class Connected(Body):
    """A principal, as `issuer|subject`, and the server that it has connected."""

    principal: Selector
    server: Slug


async def list_connections(to: Services, ask: Ask[Whose]) -> Json:
    """List the servers that are called in a principal's name, never the tokens."""
    return {"connections": await to.connections.of(ask.given.principal)}


async def end_connection(to: Services, ask: Ask[Connected]) -> Json:
    """Disconnect a principal from a server: it has to agree anew before the next call."""
    return await to.connections.end(ask.who, ask.given.principal, ask.given.server)


CONNECTION_OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/connections", "audit:read", list_connections, Whose),
    Operation("DELETE", "/connections", "keys:write", end_connection, Connected),
)
