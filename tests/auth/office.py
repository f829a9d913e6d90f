"""Where administrators make and end keys, clients, teams and accounts: the services over one store."""

from __future__ import annotations

from typing import Any

from mcpgw.auth.clients import ClientsService
from mcpgw.auth.principals import PrincipalsService
from mcpgw.auth.scopes import scopes_of
from mcpgw.auth.server.grants import Grants, Lifetimes
from mcpgw.auth.service import KeysService
from mcpgw.domain import Account, AdminNote, Kind, Principal, Server
from mcpgw.store.memory import MemoryStore
from mcpgw.store.records import MemoryRecords
from tests.auth.parts import PEPPER, Identity, StoreWorlds


def administrator(*roles: str) -> Principal:
    return Principal(
        issuer="mcpgw", subject="root", client_id="k", kind=Kind.ADMIN, roles=frozenset(roles), scopes=scopes_of(roles)
    )


ADMIN = administrator("admin")
WRITER = Principal(
    issuer="mcpgw", subject="w", client_id="w", kind=Kind.ADMIN, scopes=frozenset({"keys:write", "audit:read"})
)
"""One who may make agents and auditors, and nobody who may do more."""


class Office:
    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.clock = identity.clock
        self.store = MemoryStore()
        self.worlds = StoreWorlds(self.store)
        self.records = MemoryRecords(self.clock)
        self.keys = KeysService(self.store, self.worlds, self.clock, PEPPER)
        self.clients = ClientsService(self.store, self.worlds, self.clock, PEPPER)
        lifetimes = Lifetimes(code_s=60, grant_s=86400, token_s=900)
        self.grants = Grants(self.records, self.store, self.worlds, self.clock, lifetimes)
        self.dropped: list[str] = []
        self.principals = PrincipalsService(
            self.store, self.worlds, self.clock, hash_password=self._hashed, ended=[self._dropped]
        )

    def who(self, text: str, resource: str = "/mcp") -> Principal:
        return self.identity.who(text, resource, self.worlds.current)

    def refused(self, text: str, resource: str = "/mcp") -> str:
        return self.identity.refused(text, resource, self.worlds.current)

    async def last_note(self) -> AdminNote:
        return (await self.store.notes(0, 1000))[-1][2]

    async def register(self, slug: str) -> None:
        note = AdminNote(id=self.clock.new_id(), time=0.0, actor="mcpgw|root", action="server.add", target=slug)
        server = Server(slug=slug, title=slug, created_by="mcpgw|root", created_at=0.0)
        await self.worlds.at_least(await self.store.commit([server], note))

    async def account(self, subject: str, password: str | None = None, **facts: Any) -> Account:
        """Create the account of a user of ours with the role agent, unless `facts` say otherwise."""
        facts = {"roles": frozenset({"agent"}), "issuer": "mcpgw", "kind": Kind.USER, **facts}
        draft = Account(id="", subject=subject, created_by="", created_at=0.0, **facts)
        made = await self.principals.create(ADMIN, draft, password)
        return self.worlds.current.identities.accounts[made["id"]]

    async def _hashed(self, password: str) -> str:
        return f"hash of {len(password)} characters"

    async def _dropped(self, account: Account) -> None:
        self.dropped.append(account.id)
        await self.grants.revoke_all(account.id)
