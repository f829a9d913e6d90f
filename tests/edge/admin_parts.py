"""The admin API in front of real parts: store, worlds, bus, kill switches, keys and credentials."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request

from mcpgw.auth.access_tokens import AccessTokens
from mcpgw.auth.challenge import Challenges
from mcpgw.auth.clients import ClientsService
from mcpgw.auth.endpoints import ADMIN, Endpoints
from mcpgw.auth.grants import GrantsService
from mcpgw.auth.keys import new_key
from mcpgw.auth.principals import PrincipalsService
from mcpgw.auth.server.grants import Grants, Lifetimes
from mcpgw.auth.server.passwords import Passwords
from mcpgw.auth.service import KeysService
from mcpgw.auth.signing import SigningKeys
from mcpgw.auth.verifier import Verifier
from mcpgw.bus import ControlServer, LocalBus
from mcpgw.clock import SystemClock
from mcpgw.cluster import EpochBoard, Slot
from mcpgw.domain import SYSTEM, Account, AdminNote, Decision, Effect, KillSwitch, Presented, Principal
from mcpgw.edge.admin import Door, routes
from mcpgw.edge.services import Json, Services
from mcpgw.errors import GatewayError, InsufficientScope, NotFound
from mcpgw.kills import KillService
from mcpgw.ports import Ack, Question
from mcpgw.running import Board
from mcpgw.store.memory import MemoryStore
from mcpgw.store.records import MemoryRecords
from mcpgw.world import NoCatalog, Snapshot, WorldKeeper, closed_world

BASE = "http://127.0.0.1:8080"
PEPPER = b"a pepper that is long enough for all"
MAX_BODY = 4096


class DenyAll:
    sha256 = "0" * 64

    async def decide(self, question: Question) -> Decision:
        return Decision(Effect.DENY, ("default",), self.sha256)


class Noted:
    """Stands where the registry, the policies and the log stand: keeps what it was asked, answers with it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[object, ...], dict[str, object]]] = []

    def __getattr__(self, name: str) -> Any:
        async def asked(*args: object, **given: object) -> Json:
            self.asked.append((name, args, given))
            return {"did": name}

        return asked

    def list(self) -> Sequence[Json]:
        return [{"slug": "notes"}]

    def show(self, name: str) -> Json:
        if name == "broken":
            raise RuntimeError("the secret of the machine room")
        if name != "notes":
            raise NotFound(f"no server `{name}`", fix="mcpgw servers list")
        return {"slug": name, "active": "1.0.0"}

    def diff(self, slug: str, a: str, b: str) -> Json:
        return {"slug": slug, "between": [a, b]}


class Standing:
    """How the gateway is, as the test sets it."""

    def __init__(self) -> None:
        self.is_ready = True

    def status(self) -> Json:
        return {"epoch": 1, "since": 0.0, "servers": []}

    def ready(self) -> tuple[bool, Json]:
        return self.is_ready, {"store": "ok" if self.is_ready else "does not answer"}


class Gateway:
    """One worker without its data path."""

    def __init__(self, home: Path) -> None:
        run = home / "run"
        self.clock = SystemClock()
        self.store = MemoryStore()
        self.epochs = EpochBoard(run)
        self.slot = Slot(run, 0, self.epochs)
        self.worlds = WorldKeeper(
            store=self.store,
            epochs=self.epochs,
            slot=0,
            catalog_of=lambda _: NoCatalog(),
            policy_of=self._policy,
            snapshot=Snapshot(lambda: None, lambda _: None),
            first=closed_world("starting", DenyAll()),
        )
        board = self.worlds.board = Board(self.worlds.published, self.clock)
        self.control = ControlServer(run, 0, self.worlds, lambda: 7)
        bus = LocalBus(run, 0, self.epochs, self.control, lambda _: 0)
        endpoints = Endpoints(BASE)
        tokens = AccessTokens(SigningKeys.load(home / "keys"), endpoints)
        self.verifier = Verifier(pepper=PEPPER, tokens=tokens, endpoints=endpoints, clock=self.clock)
        self.challenges = Challenges(endpoints)
        self.noted, self.standing = Noted(), Standing()
        self.refusals: list[tuple[str, str | None, str]] = []
        lifetimes = Lifetimes(code_s=60, grant_s=86400, token_s=900)
        self.grants = Grants(MemoryRecords(self.clock), self.store, self.worlds, self.clock, lifetimes)
        self.services = Services(
            servers=self.noted,
            toolsets=self.noted,
            policies=self.noted,
            kills=KillService(
                store=self.store, worlds=self.worlds, bus=bus, board=board, clock=self.clock, certify=certificate
            ),
            keys=KeysService(self.store, self.worlds, self.clock, PEPPER),
            clients=ClientsService(self.store, self.worlds, self.clock, PEPPER),
            principals=PrincipalsService(
                self.store, self.worlds, self.clock, hash_password=Passwords().hashed, ended=[self._drop_grants]
            ),
            grants=GrantsService(self.grants, self.worlds),
            secrets=self.noted,
            connections=self.noted,
            signing=self.noted,
            audit=self.noted,
            status=self.standing,
        )
        self.door = Door(
            authenticate=self._authenticate, challenge=self._challenge, refused=self._refused, max_body_bytes=MAX_BODY
        )

    async def _drop_grants(self, account: Account) -> None:
        await self.grants.revoke_all(account.id)

    async def _policy(self, *_: object) -> DenyAll:
        return DenyAll()

    async def _authenticate(self, request: Request) -> Principal:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        presented = Presented(scheme=scheme.lower() or None, token=token or None)
        return await self.verifier.verify(presented, ADMIN, self.worlds.current)

    def _challenge(self, request: Request, error: GatewayError) -> str:
        if isinstance(error, InsufficientScope):
            return self.challenges.insufficient_scope(request.url.path, error.data["scope"], error.message)
        return self.challenges.unauthenticated(request.url.path)

    async def _refused(self, request: Request, who: Principal | None, error: GatewayError) -> None:
        self.refusals.append((request.url.path, who.subject if who else None, error.code))

    async def key_for(self, *roles: str, subject: str = "someone") -> str:
        """Create a key as the bootstrap does: without a caller who could be asked for scopes."""
        key, text = new_key(PEPPER, subject=subject, roles=roles, created_by="test", created_at=self.clock.time())
        note = AdminNote(id=self.clock.new_id(), time=0.0, actor=SYSTEM.selector, action="key.create", target=key.id)
        await self.worlds.at_least(await self.store.commit([key], note))
        return text

    def application(self, **door: Any) -> Starlette:
        changed = {name: door.get(name, getattr(self.door, name)) for name in self.door.__slots__}
        return Starlette(routes=routes(self.services, Door(**changed)))

    def client(self, key: str | None = None, **door: Any) -> httpx2.AsyncClient:
        app = self.application(**door)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=BASE, headers=headers)


def certificate(switch: KillSwitch, acks: Sequence[Ack], sent: Sequence[str]) -> Json:
    return {"switch": switch.id, "positions": [a.position for a in acks], "sent": list(sent)}


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[Gateway]:
    """Start the parts that run by themselves, and stop them."""
    made = Gateway(home)
    await made.control.start()
    await made.worlds.start()
    try:
        yield made
    finally:
        await made.worlds.stop()
        await made.control.stop()
        made.slot.close()
