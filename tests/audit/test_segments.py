"""The writer's end of a log: room, crashes and full disks."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mcpgw.audit import logs
from mcpgw.audit.record import OWED_LINE, Line
from mcpgw.audit.segments import ROOM, Slot
from mcpgw.audit.verify import verify
from mcpgw.config import AuditSection
from mcpgw.domain import Phase
from mcpgw.errors import Unavailable
from tests.audit.parts import SMALL, SetClock, a_journal, a_signer, a_writer_process, call, records


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def a_line(action_id: str = "a", phase: Phase = Phase.INTENT, **fields: Any) -> Line:
    return Line(time=1.0, phase=phase, action_id=action_id, epoch=1, **fields)


def claim(tmp_path: Path, clock: SetClock, settings: AuditSection = SMALL) -> Slot:
    return Slot.claim(tmp_path / "logs", "w0", settings, clock)


def newest(tmp_path: Path) -> Path:
    return sorted((tmp_path / "logs" / "w0").glob("*.jsonl"))[-1]


@pytest.mark.requirement("audit:one-writer")
def test_a_log_has_one_writer_at_a_time(tmp_path: Path, clock: SetClock) -> None:
    first = claim(tmp_path, clock)
    with pytest.raises(Unavailable, match="has a writer already"):
        claim(tmp_path, clock)
    first.append(a_line("a", Phase.REFUSED))
    first.close()
    second = claim(tmp_path, clock)
    assert (second.size, second.leaf) == (1, first.leaf)
    second.close()


@pytest.mark.requirement("audit:chain")
def test_each_record_names_its_place_and_the_hash_of_the_one_before_over_many_files(
    tmp_path: Path, clock: SetClock
) -> None:
    slot = claim(tmp_path, clock)
    receipts = []
    for i in range(300):
        slot.make_room()
        receipts.append(slot.append(a_line(f"a{i}", name="n" * 600)))
    slot.close()
    held = records(tmp_path)
    assert [r["index"] for r in held] == list(range(300)) == [r.index for r in receipts]
    assert [r["previous"] for r in held] == ["0" * 64, *(r.leaf for r in receipts[:-1])]
    files = sorted((tmp_path / "logs" / "w0").glob("*.jsonl"))
    assert len(files) > 3
    assert [int(f.stem) for f in files] == [logs_first(f) for f in files]
    assert all(b"\0" not in f.read_bytes() for f in files)
    assert all(f.stat().st_size <= SMALL.segment_bytes for f in files)


def logs_first(file: Path) -> int:
    line = file.read_bytes().split(b"\n")[0]
    return int(line.split(b'"index":')[1].split(b",")[0])


@pytest.mark.requirement("audit:tail")
def test_a_reader_sees_whole_records_only_while_the_file_is_longer_than_them(tmp_path: Path, clock: SetClock) -> None:
    slot = claim(tmp_path, clock)
    tail = logs.Tail(tmp_path / "logs" / "w0")
    assert list(tail.lines()) == []
    slot.append(a_line())
    assert newest(tmp_path).stat().st_size == SMALL.segment_bytes + SMALL.reserve_bytes
    [line] = tail.lines()
    at = tail.offset
    with newest(tmp_path).open("r+b") as file:
        file.seek(at)
        file.write(line[:40])
    assert list(tail.lines()) == []
    slot.append(a_line("b"))
    [line] = tail.lines()
    assert b'"action_id":"b"' in line
    assert logs.size_of(tmp_path, "w0") == 2
    slot.close()


def crash(slot: Slot) -> None:
    """Leave the log as a killed process does: the lock is gone, nothing else happened."""
    os.close(slot._lock)
    os.close(slot._fd)


TORN = {
    "part of a line": b'{"time":1.0,"phase":"int',
    "a line without its end": b'{"time":1.0,"phase":"intent","log":"w0"}',
    "a hole with a line behind it": b"\0" * 100 + b'{"time":1.0}\n',
}


@pytest.mark.requirement("audit:healing")
@pytest.mark.parametrize("torn", TORN.values(), ids=TORN)
def test_what_a_crash_left_behind_the_last_record_is_cut_and_told(tmp_path: Path, clock: SetClock, torn: bytes) -> None:
    slot = claim(tmp_path, clock)
    slot.append(a_line("a", Phase.REFUSED))
    with newest(tmp_path).open("r+b") as file:
        file.seek(slot._offset)
        file.write(torn)
    crash(slot)
    again = claim(tmp_path, clock)
    again.append(a_line("b", Phase.REFUSED))
    again.close()
    first, recovered, second = records(tmp_path)
    assert (first["action_id"], second["action_id"]) == ("a", "b")
    assert recovered["phase"] == "recovered"
    assert recovered["facts"]["torn_bytes"] == len(torn)
    assert [r["index"] for r in records(tmp_path)] == [0, 1, 2]


@pytest.mark.requirement("audit:unknown-effect")
def test_calls_without_outcome_are_named_when_the_writer_comes_back(tmp_path: Path, clock: SetClock) -> None:
    slot = claim(tmp_path, clock)
    for name in ("answered", "lost", "lost too"):
        slot.admit(name)
        slot.append(a_line(name))
    slot.append(a_line("answered", Phase.OUTCOME))
    slot.settle("answered")
    crash(slot)
    again = claim(tmp_path, clock)
    again.close()
    assert records(tmp_path)[-1]["facts"] == {"unfinished": 2, "unknown_effect": ["lost", "lost too"]}
    claim(tmp_path, clock).close()
    assert len(records(tmp_path)) == 5  # told once


@pytest.mark.requirement("audit:unknown-effect")
def test_a_call_begun_in_an_earlier_file_is_named_too(tmp_path: Path, clock: SetClock) -> None:
    slot = claim(tmp_path, clock)
    slot.admit("long")
    slot.append(a_line("long"))
    for i in range(200):
        slot.admit(f"a{i}")
        slot.append(a_line(f"a{i}", name="n" * 800))
        slot.append(a_line(f"a{i}", Phase.OUTCOME))
        slot.settle(f"a{i}")
    assert int(newest(tmp_path).stem) > 0
    crash(slot)
    claim(tmp_path, clock).close()
    assert records(tmp_path)[-1]["facts"]["unknown_effect"] == ["long"]


@pytest.mark.requirement("audit:healing")
def test_a_log_that_was_closed_in_order_says_nothing_when_it_is_opened(tmp_path: Path, clock: SetClock) -> None:
    for _ in range(3):
        claim(tmp_path, clock).close()
    assert records(tmp_path) == []
    assert len(list((tmp_path / "logs" / "w0").iterdir())) == 2  # one file, and who was under way: nobody


@pytest.mark.requirement("audit:healing")
def test_a_broken_chain_is_kept_as_it_is_and_told(tmp_path: Path, clock: SetClock) -> None:
    slot = claim(tmp_path, clock)
    for name in "abc":
        slot.append(a_line(name, Phase.REFUSED))
    crash(slot)
    text = newest(tmp_path).read_bytes()
    newest(tmp_path).write_bytes(text.replace(b'"action_id":"a"', b'"action_id":"x"'))
    claim(tmp_path, clock).close()
    held = records(tmp_path)
    assert [r["action_id"] for r in held[:3]] == ["x", "b", "c"]
    assert held[3]["facts"]["broken_at"] == 0


@contextmanager
def no_room(slot: Slot) -> Iterator[None]:
    """Let a file be full, and no other be had."""
    capacity, slot._capacity = slot._capacity, slot._offset
    with files_at_most(1):
        yield
    slot._capacity = capacity


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to make files larger than this: what a full disk looks like to a writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def tmpfs(path: Path, size: int) -> Iterator[None]:
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"needs the right to mount a tmpfs (run as root): {made.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(slot: Slot) -> list[str]:
    """Admit calls until there is no room, and leave all of them under way."""
    admitted: list[str] = []
    with pytest.raises(Unavailable, match="cannot be written"):
        while True:
            name = f"a{len(admitted)}"
            slot.admit(name)
            slot.append(a_line(name, name="n" * 900))
            admitted.append(name)
    return admitted


def answer(slot: Slot, admitted: list[str]) -> None:
    """Write the most that each call may owe."""
    for name in admitted:
        for phase in (Phase.OPENED, Phase.OUTCOME, Phase.CLOSED):
            slot.append(a_line(name, phase, facts={"f": "x" * 10_000}), OWED_LINE)
        slot.settle(name)


@pytest.mark.requirement("audit:full-disk")
def test_without_room_no_intent_is_admitted_and_every_outcome_still_fits(tmp_path: Path, clock: SetClock) -> None:
    slot = claim(tmp_path, clock)
    with files_at_most(SMALL.segment_bytes):
        admitted = fill(slot)
        assert len(admitted) >= 8
        answer(slot, admitted)
    slot.admit("room again")
    slot.append(a_line("room again"))
    slot.close()
    assert [r["index"] for r in records(tmp_path)] == list(range(4 * len(admitted) + 1))


@pytest.mark.requirement("audit:full-disk")
def test_a_full_file_system_stops_intents_only_and_room_lets_them_on(tmp_path: Path, clock: SetClock) -> None:
    with tmpfs(tmp_path / "small", 256 * 1024):
        slot = claim(tmp_path / "small", clock)
        ballast = tmp_path / "small" / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 4096)
        while admitted := fill(slot):
            answer(slot, admitted)
        ballast.unlink()
        slot.admit("room again")
        slot.append(a_line("room again"))
        slot.close()
        held = records(tmp_path / "small")
        assert [r["index"] for r in held] == list(range(len(held)))
        phases = [r["phase"] for r in held[:-1]]
        assert phases.count("intent") == phases.count("outcome") > 0


@pytest.mark.requirement("audit:full-disk")
def test_many_calls_at_once_get_a_file_that_holds_what_they_all_owe(tmp_path: Path, clock: SetClock) -> None:
    slot = claim(tmp_path, clock)
    under_way = [f"a{i}" for i in range(100)]
    for name in under_way:
        slot.admit(name)
        slot.append(a_line(name))
    assert newest(tmp_path).stat().st_size >= 50 * ROOM > SMALL.segment_bytes
    with files_at_most(1024 * 1024):
        answer(slot, under_way)
    slot.close()


@pytest.mark.requirement("audit:no-room-no-start")
def test_a_log_without_room_is_not_opened(tmp_path: Path, clock: SetClock) -> None:
    with files_at_most(1024), pytest.raises(Unavailable, match="cannot be written"):
        claim(tmp_path, clock)
    claim(tmp_path, clock).close()


def test_a_closed_log_takes_no_record(tmp_path: Path, clock: SetClock) -> None:
    slot = claim(tmp_path, clock)
    slot.close()
    slot.close()
    with pytest.raises(Unavailable, match="closed"):
        slot.admit("a")
    with pytest.raises(OSError):
        slot.append(a_line("a", name="n" * 100_000))
    slot._capacity = 0
    with pytest.raises(OSError, match="closed"):
        slot.append(a_line("a"))
    assert records(tmp_path) == []


@pytest.mark.requirement("audit:full-disk")
def test_a_record_for_which_there_is_no_room_is_not_there(tmp_path: Path, clock: SetClock) -> None:
    slot = claim(tmp_path, clock)
    slot.append(a_line("a"))
    with no_room(slot), pytest.raises(OSError):
        slot.append(a_line("b"))
    assert len(records(tmp_path)) == slot.size == 1
    slot.append(a_line("c"))
    slot.close()
    assert [r["action_id"] for r in records(tmp_path)] == ["a", "c"]


@pytest.mark.requirement("audit:survives-kill")
async def test_after_kill_9_every_answered_call_has_intent_and_outcome_and_the_chain_holds(
    tmp_path: Path, clock: SetClock
) -> None:
    audit = tmp_path / "audit"
    told: list[tuple[str, str]] = []
    for round_ in range(4):
        with a_writer_process(audit, round_ << 32) as writer:
            assert writer.stdout is not None
            told += [tuple(writer.stdout.readline().split()) for _ in range(60 + round_ * 41)]
            writer.send_signal(signal.SIGKILL)
            told += [tuple(line.split()) for line in writer.stdout if line.endswith("\n")]
    journal = a_journal(audit, clock)  # heals
    await call(journal, clock)
    journal.close()
    a_signer(tmp_path)
    report = verify(audit)
    assert report.findings == []
    leaves = {}
    chain = logs.Chain("w0")
    for line in logs.Tail(audit / "logs" / "w0").lines():
        leaf, head, _ = chain.follow(line)
        assert head is not None
        leaves[head.index] = (leaf.hex(), head.phase, head.action_id)
    for intent, intent_leaf, outcome, outcome_leaf in told:
        assert leaves[int(intent)][:2] == (intent_leaf, Phase.INTENT)
        assert leaves[int(outcome)][:2] == (outcome_leaf, Phase.OUTCOME)
        assert leaves[int(intent)][2] == leaves[int(outcome)][2]
