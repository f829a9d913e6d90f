"""The index and what is read through it."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcpgw.audit import tree
from mcpgw.audit.index import Index
from mcpgw.audit.keeper import Keeper
from mcpgw.audit.reader import AuditReader, Reading
from mcpgw.config import AuditSection
from mcpgw.domain import Principal
from mcpgw.errors import Denied, Internal, InvalidRequest, NotFound
from tests.audit.parts import (
    AGENT,
    SMALL,
    Outbox,
    SetClock,
    a_journal,
    a_keeper,
    a_signer,
    an_action,
    call,
    records,
    refuse,
)

OTHER = Principal(issuer="mcpgw", subject="bob", client_id="cli", kind=AGENT.kind)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def a_reading(tmp_path: Path) -> Reading:
    return Reading(Index(tmp_path / "audit-index.db", tmp_path / "audit"))


async def write_some(tmp_path: Path, clock: SetClock) -> None:
    """Six records of two logs: two calls of AGENT, one refusal of OTHER, one note."""
    first, second = (a_journal(tmp_path / "audit", clock, log=log) for log in ("w0", "w1"))
    await call(first, clock, trace="t1")
    clock.now += 10
    await call(second, clock, server="tickets", name="close")
    clock.now += 10
    await refuse(first, an_action(clock, name="delete"), Denied("no", data={"rule": "r"}), OTHER)
    clock.now += 10
    outbox = Outbox()
    outbox.add(3, time=clock.now)
    keeper = a_keeper(tmp_path, clock, outbox)
    keeper.tick()
    for held in (first, second, keeper):
        held.close()


def places(answer: dict[str, Any]) -> list[tuple[str, int]]:
    return [(r["log"], r["index"]) for r in answer["records"]]


T = 1_800_000_000
QUERIES: dict[str, tuple[dict[str, Any], list[tuple[str, int]]]] = {
    "everything, newest first": ({}, [("admin", 0), ("w0", 2), ("w1", 1), ("w1", 0), ("w0", 1), ("w0", 0)]),
    "principal": ({"principal": "mcpgw|bob"}, [("w0", 2)]),
    "server": ({"server": "tickets"}, [("w1", 1), ("w1", 0)]),
    "server and tool": ({"server": "notes", "tool": "delete"}, [("w0", 2)]),
    "effect": ({"effect": "deny"}, [("w0", 2)]),
    "outcome": ({"outcome": "ok"}, [("w1", 1), ("w0", 1)]),
    "trace": ({"trace": "t1"}, [("w0", 1), ("w0", 0)]),
    "phase": ({"phase": "admin"}, [("admin", 0)]),
    "since": ({"since": T + 20.0}, [("admin", 0), ("w0", 2)]),
    "until": ({"until": str(T + 10)}, [("w0", 1), ("w0", 0)]),
    "between, as ISO 8601": (
        {"since": "2027-01-15T08:00:05Z", "until": "2027-01-15T09:00:15+01:00"},
        [("w1", 1), ("w1", 0)],
    ),
    "nothing": ({"principal": "mcpgw|eve"}, []),
    "not a pattern": ({"server": "%"}, []),
}


@pytest.mark.requirement("audit:query")
@pytest.mark.parametrize(("filters", "found"), QUERIES.values(), ids=QUERIES)
async def test_records_are_found_by_what_is_asked(
    tmp_path: Path, clock: SetClock, filters: dict[str, Any], found: list[tuple[str, int]]
) -> None:
    await write_some(tmp_path, clock)
    answer = a_reading(tmp_path).query(filters)
    assert places(answer) == found
    assert answer["cursor"] is None


WRONG = {
    "unknown filter": {"colour": "red"},
    "no time": {"since": "yesterday"},
    "no limit": {"limit": "0"},
    "too many": {"limit": 1001},
    "no number": {"limit": "ten"},
    "no cursor": {"cursor": "'; DROP TABLE records"},
}


@pytest.mark.requirement("audit:query")
@pytest.mark.parametrize("filters", WRONG.values(), ids=WRONG)
def test_a_query_that_makes_no_sense_is_refused_with_the_fix(tmp_path: Path, filters: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        a_reading(tmp_path).query(filters)
    assert refused.value.fix


@pytest.mark.requirement("audit:query")
async def test_a_cursor_gives_every_record_once_whatever_is_written_meanwhile(tmp_path: Path, clock: SetClock) -> None:
    journal = a_journal(tmp_path / "audit", clock)
    reading = a_reading(tmp_path)
    for _ in range(10):
        await call(journal, clock)
        clock.now += 1
    seen: list[tuple[str, int]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = reading.query({"limit": 3, **cursor})
        seen += places(answer)
        if answer["cursor"] is None:
            break
        cursor = {"cursor": answer["cursor"]}
        await call(journal, clock)
        (tmp_path / "audit-index.db").unlink()  # a rebuilt index has the same pages
    assert seen == [("w0", i) for i in range(19, -1, -1)]
    journal.close()


@pytest.mark.requirement("audit:query")
async def test_a_query_sees_the_call_that_was_just_answered(tmp_path: Path, clock: SetClock) -> None:
    journal = a_journal(tmp_path / "audit", clock)
    reader = AuditReader(tmp_path / "audit", tmp_path / "audit-index.db")
    for i in range(3):
        _, part = await call(journal, clock)
        assert part.receipt is not None
        newest = (await reader.query({"limit": 1}))["records"][0]
        assert (newest["index"], newest["leaf"]) == (2 * i + 1, part.receipt.leaf)
    journal.close()


@pytest.mark.requirement("audit:query")
async def test_all_records_of_one_action(tmp_path: Path, clock: SetClock) -> None:
    journal = a_journal(tmp_path / "audit", clock)
    await call(journal, clock)
    await call(journal, clock)
    reader = AuditReader(tmp_path / "audit", tmp_path / "audit-index.db")
    action_id = records(tmp_path / "audit")[2]["action_id"]
    held = (await reader.of(action_id))["records"]
    assert [(r["index"], r["phase"]) for r in held] == [(2, "intent"), (3, "outcome")]
    with pytest.raises(NotFound):
        await reader.of("nobody's")
    journal.close()


@pytest.mark.requirement("audit:index-disposable")
@pytest.mark.parametrize("damage", ["rubbish", "half", "another version", "ahead of the log"])
async def test_an_index_that_is_damaged_is_made_anew(tmp_path: Path, clock: SetClock, damage: str) -> None:
    await write_some(tmp_path, clock)
    reading, path = a_reading(tmp_path), tmp_path / "audit-index.db"
    before = places(reading.query({}))
    if damage == "rubbish":
        path.write_bytes(b"not a database at all" * 1000)
    elif damage == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 99" if damage == "another version" else "UPDATE logs SET at = 1 << 30")
        db.close()
    assert places(reading.query({})) == before


@pytest.mark.requirement("audit:index-disposable")
async def test_many_readers_at_once_index_every_record_once(tmp_path: Path, clock: SetClock) -> None:
    journal = a_journal(tmp_path / "audit", clock, AuditSection(reserve_bytes=4096))
    for _ in range(400):
        await call(journal, clock)
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(len(a_reading(tmp_path).query({"limit": 1000})["records"])))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [800] * 5
    journal.close()


@pytest.mark.requirement("audit:index-disposable")
async def test_an_unreadable_record_is_shown_as_such(tmp_path: Path, clock: SetClock) -> None:
    await write_some(tmp_path, clock)
    path = next((tmp_path / "audit" / "logs" / "w1").glob("*.jsonl"))
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first.replace(b'"phase"', b'"phase'))
    path.write_bytes(path.read_bytes() + second)
    held = a_reading(tmp_path).query({"log": "w1"})["records"]
    assert [(r["index"], r["phase"]) for r in held] == [(1, "outcome"), (0, "unreadable")]


@pytest.mark.requirement("audit:proof")
async def test_a_proof_shows_without_the_gateway_that_a_record_was_signed(tmp_path: Path, clock: SetClock) -> None:
    journal = a_journal(tmp_path / "audit", clock, AuditSection(reserve_bytes=4096))
    keeper = Keeper(tmp_path / "audit", a_signer(tmp_path), SMALL, Outbox(), clock)
    receipts = []
    for _ in range(330):
        _, part = await call(journal, clock)
        receipts.append(part.receipt)
    keeper.tick()
    await call(journal, clock)
    reading = a_reading(tmp_path)
    for receipt in receipts[::37]:
        assert receipt is not None
        proof = reading.proof("w0", receipt.index)
        leaf = hashlib.sha256(b"\x00" + proof["line"].encode()).digest()
        head = next(h for h in proof["checkpoint"]["logs"] if h["id"] == "w0")
        assert leaf.hex() == proof["leaf"] == receipt.leaf
        assert (head["size"], head["root"]) == (proof["size"], proof["root"]) == (660, proof["root"])
        path = [bytes.fromhex(p) for p in proof["path"]]
        assert tree.includes(bytes.fromhex(head["root"]), 660, receipt.index, leaf, path)
        assert proof["record"] == msgspec.json.decode(proof["line"])
    for log, index in (("w0", 660), ("w9", 0), ("w0", -1)):
        with pytest.raises(NotFound):
            reading.proof(log, index)
    journal.close()
    keeper.close()


@pytest.mark.requirement("audit:proof")
async def test_no_proof_is_given_for_a_log_that_is_not_what_was_signed(tmp_path: Path, clock: SetClock) -> None:
    await write_some(tmp_path, clock)
    path = next((tmp_path / "audit" / "logs" / "w0").glob("*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b'"verb":"tools/call"', b'"verb":"tools/carl"', 1))
    with pytest.raises(Internal, match="not what was signed"):
        a_reading(tmp_path).proof("w0", 1)
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(Internal, match="not what was signed"):
        a_reading(tmp_path).proof("w0", 0)


async def test_the_newest_checkpoint_is_shown_whole(tmp_path: Path, clock: SetClock) -> None:
    reader = AuditReader(tmp_path / "audit", tmp_path / "audit-index.db")
    with pytest.raises(NotFound):
        await reader.checkpoint()
    await write_some(tmp_path, clock)
    held = await reader.checkpoint()
    assert list(held)[-1] == "signature"
    assert {h["id"]: h["size"] for h in held["logs"]} == {"admin": 1, "w0": 3, "w1": 2}
