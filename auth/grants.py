"""What users have allowed clients to do in their name, as administrators see and end it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from mcpgw.auth.changing import Document
from mcpgw.auth.server.grants import Grant, Grants
from mcpgw.domain import Account, Principal
from mcpgw.errors import NotFound
from mcpgw.ports import Worlds

Forget = Callable[[Account, str], Awaitable[None]]
"""Ask a user about a client, by its id, anew."""


class GrantsService:
    """Shows and ends grants. The edge lets holders of `keys:write` end them, and nobody else."""

    def __init__(self, grants: Grants, worlds: Worlds, forget: Sequence[Forget] = ()) -> None:
        self._grants = grants
        self._worlds = worlds
        self._forget = forget

    async def of(self, account: str) -> Sequence[Document]:
        """Return what a user has allowed, and still allows. Raises NotFound."""
        if account not in self._worlds.current.identities.accounts:
            raise NotFound("no such account", fix="mcpgw users list shows them")
        return [_shown(grant) for grant in await self._grants.of(account)]

    async def revoke(self, who: Principal, grant: str, reason: str = "") -> Document:
        """End a grant, and every token of it, everywhere. Raises NotFound."""
        held = await self._grants.find(grant)
        account = None if held is None else self._worlds.current.identities.accounts.get(held.account)
        if held is not None and account is not None:
            # First, or the client would have the next grant before anyone is asked.
            for forget in self._forget:
                await forget(account, held.client_id)
        if held is None or not await self._grants.revoke(grant, actor=who.selector, reason=reason):
            raise NotFound("no such grant", fix="mcpgw users grants shows those of a user")
        return {**_shown(held), "revoked": True}


def _shown(grant: Grant) -> Document:
    return {
        "id": grant.id,
        "account": grant.account,
        "client_id": grant.client_id,
        "endpoint": grant.endpoint,
        "scopes": sorted(grant.scopes),
        "created_at": grant.created_at,
        "expires_at": grant.expires_at,
    }
