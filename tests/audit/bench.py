"""What recording a call costs, and reading a large log: `python -m tests.audit.bench [records]`. Not a test."""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mcpgw.audit.index import Index
from mcpgw.audit.journal import SlotJournal
from mcpgw.audit.reader import Reading
from mcpgw.audit.verify import verify
from mcpgw.config import AuditSection
from tests.audit.parts import (
    AGENT,
    NothingHeld,
    Part,
    PartKind,
    SetClock,
    a_journal,
    a_keeper,
    an_action,
    judged,
    open_gate,
    world,
)


async def calls(journal: SlotJournal, clock: SetClock, count: int, at_once: int) -> float:
    """Return CPU microseconds of a call: intent and outcome. The verdict is made beforehand, as it is not ours."""
    action, held, here = an_action(clock), NothingHeld(), world()
    verdict, part = judged(action), Part(PartKind.WHOLE, b"x" * 500, facts={"upstream_status": 200})

    async def one() -> None:
        async with journal.entry(action, here) as entry:
            entry.identified(AGENT)
            await entry.intend(verdict, held, open_gate)
            await entry.answered(part)

    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(count // at_once):
            if at_once == 1:
                await one()
            else:
                await asyncio.gather(*(one() for _ in range(at_once)))
        best = min(best, (time.process_time() - began) / count * 1e6)
    return best


def timed(what: str, work: Callable[[], object]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{what}: {cpu:.3f} s of CPU, {wall:.3f} s, {peak} MB at most")


def main() -> None:
    clock = SetClock()
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    for durability, at_once, count in (("process", 1, 20_000), ("process", 32, 20_000), ("disk", 32, 3_200)):
        settings = AuditSection.model_validate({"durability": durability})
        with tempfile.TemporaryDirectory() as base:
            journal = a_journal(Path(base), clock, settings)
            cost = asyncio.run(calls(journal, clock, count, at_once))
            journal.close()
        print(f"intent + outcome, {durability}, {at_once} at once: {cost:.1f} us of CPU")
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        keeper = a_keeper(base, clock, settings=AuditSection())
        journal = a_journal(base / "audit", clock, AuditSection())
        asyncio.run(calls(journal, clock, records // 10, 1))
        journal.close()
        timed(f"keeper, {records} records", keeper.tick)
        keeper.close()
        index = Index(base / "audit-index.db", base / "audit")
        timed(f"index, {records} records", index.catch_up)
        reading = Reading(index)
        timed("query of 100", lambda: reading.query({}))
        timed("inclusion proof", lambda: reading.proof("w0", records // 3))
        timed(f"verify, {records} records", lambda: verify(base / "audit"))


if __name__ == "__main__":
    main()
