"""The row of the admin API about the keys that our tokens are signed with."""

from __future__ import annotations

from mcpgw.edge.admin_operation import Ask, Operation
from mcpgw.edge.admin_schema import Body, Reason
from mcpgw.edge.services import Json, Services


class Rotation(Body):
    """`at_once`: the old keys verify nothing any more, for a key that others may have. Every token is void then."""

    at_once: bool = False
    reason: Reason | None = None


async def rotate_signing_key(to: Services, ask: Ask[Rotation]) -> Json:
    """Sign tokens with a new key; the old ones verify until what they signed has expired."""
    return await to.signing.rotate(ask.who, at_once=ask.given.at_once, reason=ask.given.reason or "")


SIGNING_OPERATIONS: tuple[Operation, ...] = (
    Operation("POST", "/signing-key/rotate", "keys:write", rotate_signing_key, Rotation),
)
