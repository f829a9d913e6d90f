"""Parts of the tests of the log: a clock that can be set, calls to record, logs to tamper with."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from mcpgw.audit import logs
from mcpgw.audit.journal import SlotJournal
from mcpgw.audit.keeper import Keeper
from mcpgw.audit.keys import Digester, Signer
from mcpgw.audit.segments import Slot
from mcpgw.config import AuditSection
from mcpgw.domain import (
    Action,
    AdminNote,
    Arguments,
    Decision,
    Effect,
    Judged,
    Kind,
    Part,
    PartKind,
    Permit,
    Principal,
    Route,
    State,
    Switches,
    Verb,
)
from mcpgw.errors import GatewayError
from mcpgw.ports import Identities, World

SMALL = AuditSection(segment_bytes=65_536, reserve_bytes=4096)
AGENT = Principal(
    issuer="https://idp.example",
    subject="agent|7",
    client_id="crawler",
    kind=Kind.AGENT,
    team="blue",
    credential="k_7",
)
DIGESTER = Digester(b"k" * 32)


@dataclass
class SetClock:
    """Implements ports.Clock; time goes on only when told to."""

    now: float = 1_800_000_000.0
    ids: Iterator[int] = field(default_factory=itertools.count)

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - 1_700_000_000.0

    def new_id(self) -> str:
        return f"0199f2b4-0000-7000-8000-{next(self.ids):012x}"


class SilentPolicy:
    sha256 = "p" * 64

    async def decide(self, question: object) -> Decision:
        raise AssertionError("the journal asks nobody")


class NoServers:
    def resolve(self, server: str, version: str | None, who: Principal) -> None:
        return None

    def active(self) -> Sequence[Any]:
        return ()

    def find(self, prefixed: str) -> None:
        return None

    def selection(self, toolset: str | None) -> None:
        return None


class NothingHeld:
    def settle(self, facts: Mapping[str, Any]) -> None: ...

    def refund(self) -> None: ...


def world(epoch: int = 12) -> World:
    return World(
        epoch=epoch,
        catalog=NoServers(),
        switches=Switches(),
        policy=SilentPolicy(),
        identities=Identities(),
        state=State(epoch=epoch),
    )


def an_action(clock: SetClock, **changes: Any) -> Action:
    action = Action(
        id=clock.new_id(),
        route=Route.MCP,
        verb=Verb.TOOLS_CALL,
        resource="/mcp/notes",
        received_at=clock.time(),
        server="notes",
        version="1.0.0",
        name="write",
        arguments=Arguments(b'{"title":"Groceries","text":"milk"}'),
        source_ip="192.0.2.7",
    )
    return replace(action, **changes)


def judged(action: Action, who: Principal = AGENT, epoch: int = 12, **changes: Any) -> Judged:
    verdict = Judged(
        principal=who,
        action=action,
        decision=Decision(Effect.ALLOW, ("notes.write",), "p" * 64),
        arguments=action.arguments,
        epoch=epoch,
    )
    return replace(verdict, **changes)


def open_gate() -> None:
    """The gate of a world that stands still."""


def a_journal(audit_dir: Path, clock: SetClock, settings: AuditSection = SMALL, log: str = "w0") -> SlotJournal:
    slot = Slot.claim(logs.logs_of(audit_dir), log, settings, clock)
    return SlotJournal(slot, DIGESTER, settings, clock)


async def call(
    journal: SlotJournal, clock: SetClock, who: Principal = AGENT, epoch: int = 12, **changes: Any
) -> tuple[Permit, Part]:
    """Carry out one allowed call as the pipeline does."""
    action = an_action(clock, **changes)
    async with journal.entry(action, world(epoch)) as entry:
        entry.identified(who)
        permit = await entry.intend(judged(action, who, epoch), NothingHeld(), open_gate)
        permit.spent.append(True)
        return permit, await entry.answered(Part(PartKind.WHOLE, b"{}"))


async def refuse(journal: SlotJournal, action: Action, error: BaseException, who: Principal | None = None) -> None:
    try:
        async with journal.entry(action, world()) as entry:
            if who is not None:
                entry.identified(who)
            raise error
    except BaseException as raised:
        assert raised is error  # The journal never puts an error of its own in its place.
        if not isinstance(raised, GatewayError):
            raise


def records(audit_dir: Path, log: str = "w0") -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in logs.Tail(logs.logs_of(audit_dir) / log).lines()]


class Outbox:
    """Notes of administrators, in place of the database's table."""

    def __init__(self) -> None:
        self.notes: list[tuple[int, int, AdminNote]] = []

    def add(self, epoch: int, action: str = "server.approve", target: str = "notes@1.0.0", **changes: Any) -> None:
        position = len(self.notes) + 1
        note = AdminNote(
            id=f"note-{position}", time=1_800_000_000.0 + position, actor="mcpgw|root", action=action, target=target
        )
        self.notes.append((position, epoch, replace(note, **changes)))

    def __call__(self, after: int, limit: int) -> Sequence[tuple[int, int, AdminNote]]:
        return [entry for entry in self.notes if entry[0] > after][:limit]


def a_signer(base: Path) -> Signer:
    return Signer.load_or_create(base / "keys", base / "audit")


def a_keeper(base: Path, clock: SetClock, outbox: Outbox | None = None, settings: AuditSection = SMALL) -> Keeper:
    return Keeper(base / "audit", a_signer(base), settings, outbox or Outbox(), clock)


WRITER = """
import asyncio, sys
from pathlib import Path
from tests.audit.parts import SetClock, a_journal, call
from mcpgw.config import AuditSection

async def main() -> None:
    clock = SetClock()
    clock.ids = iter(range(int(sys.argv[2]), 1 << 40))
    journal = a_journal(Path(sys.argv[1]), clock, AuditSection(segment_bytes=65536, reserve_bytes=4096))
    while True:
        async def one() -> None:
            permit, part = await call(journal, clock)
            print(permit.receipt.index, permit.receipt.leaf, part.receipt.index, part.receipt.leaf, flush=True)
        await asyncio.gather(*(one() for _ in range(5)))

asyncio.run(main())
"""


def a_writer_process(audit_dir: Path, first_id: int = 0) -> subprocess.Popen[str]:
    """Start a process that records calls until it is killed, and prints their receipts."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(audit_dir), str(first_id)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
