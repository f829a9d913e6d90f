"""The rows of the admin API about secrets towards upstreams, which it takes and never returns."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mcpgw.edge.admin_operation import Ask, Operation
from mcpgw.edge.admin_schema import Body, Nothing
from mcpgw.edge.services import Json, Services


class NewSecret(Body):
    """A secret, and URLs of the origins that it may be sent to."""

    value: Annotated[str, Meta(min_length=1, max_length=16_384)]
    origins: Annotated[list[Annotated[str, Meta(max_length=2048)]], Meta(min_length=1, max_length=32)]


async def list_secrets(to: Services, ask: Ask[Nothing]) -> Json:
    """List the named secrets and where each may be sent, never their values."""
    return {"secrets": await to.secrets.names()}


async def set_secret(to: Services, ask: Ask[NewSecret]) -> Json:
    """Keep a secret under a name, or put another in its place: calls judged from now on are sent with that."""
    return await to.secrets.put(ask.who, ask.path["name"], ask.given.value, ask.given.origins)


async def remove_secret(to: Services, ask: Ask[Nothing]) -> Json:
    """Remove a secret. Servers that need it cannot be called any more."""
    return await to.secrets.remove(ask.who, ask.path["name"])


async def rotate_vault(to: Services, ask: Ask[Nothing]) -> Json:
    """Give the vault a new key, or make the first of the operator's keys its own, while calls go on."""
    return await to.secrets.rotate(ask.who)


SECRET_OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/secrets", "audit:read", list_secrets),
    Operation("PUT", "/secrets/{name}", "servers:write", set_secret, NewSecret),
    Operation("DELETE", "/secrets/{name}", "servers:write", remove_secret),
    Operation("POST", "/vault/rotate", "keys:write", rotate_vault),
)
