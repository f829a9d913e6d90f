"""The keeper: signs where all logs stand, and takes administrators' notes into the log exactly once."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import threading
from pathlib import Path

import msgspec
import pytest

from mcpgw.audit import logs, seal, tree
from mcpgw.audit.checkpoint import Checkpoint, checkpoints_path, decode
from mcpgw.audit.keeper import Keeper
from mcpgw.audit.keys import PublicKey
from mcpgw.audit.record import leaf_of
from mcpgw.audit.verify import verify
from mcpgw.domain import AdminNote
from mcpgw.errors import Unavailable, UsageError
from tests.audit.parts import Outbox, SetClock, a_journal, a_keeper, a_signer, a_writer_process, call, records
from tests.audit.test_segments import crash as crash_slot
from tests.audit.test_segments import files_at_most


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def signed(base: Path) -> list[Checkpoint]:
    return [decode(line) for line in checkpoints_path(base / "audit").read_bytes().splitlines()]


def sizes(checkpoint: Checkpoint) -> dict[str, int]:
    return {head.id: head.size for head in checkpoint.logs}


@pytest.mark.requirement("audit:checkpoint")
async def test_a_checkpoint_commits_to_every_log_and_verifies_with_the_public_key(
    tmp_path: Path, clock: SetClock
) -> None:
    keeper = a_keeper(tmp_path, clock)
    journals = [a_journal(tmp_path / "audit", clock, log=log) for log in ("w0", "w1")]
    for journal in journals:
        for _ in range(3):
            await call(journal, clock, epoch=40)
    line = keeper.tick()
    assert line is not None
    held = msgspec.json.decode(line)
    assert list(held) == ["version", "time", "epoch", "logs", "previous", "key_id", "signature"]
    assert (held["version"], held["time"], held["epoch"], held["previous"]) == (1, clock.now, 40, "0" * 64)
    key = PublicKey.load(tmp_path / "audit")
    assert held["key_id"] == key.key_id
    assert seal.is_sealed(line, key)
    assert not seal.is_sealed(line.replace(b'"size":6', b'"size":5'), key)
    for head in held["logs"]:
        frontier = tree.Frontier()
        for text in logs.Tail(tmp_path / "audit" / "logs" / head["id"]).lines():
            frontier.append(leaf_of(text))
        assert (head["size"], head["root"]) == (frontier.size, frontier.root().hex())
    assert [head["id"] for head in held["logs"]] == ["admin", "w0", "w1"]
    keeper.close()


@pytest.mark.requirement("audit:checkpoint")
async def test_one_is_signed_only_when_something_changed_and_names_the_one_before(
    tmp_path: Path, clock: SetClock
) -> None:
    keeper = a_keeper(tmp_path, clock)
    journal = a_journal(tmp_path / "audit", clock)
    first = keeper.tick()
    assert keeper.tick() is None
    await call(journal, clock)
    second = keeper.tick()
    assert first is not None and second is not None
    assert decode(second).previous == hashlib.sha256(first).hexdigest()
    assert checkpoints_path(tmp_path / "audit").read_bytes() == first + b"\n" + second + b"\n"
    keeper.close()


@pytest.mark.requirement("audit:checkpoint")
async def test_what_is_signed_is_on_the_disk_first(
    tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = a_keeper(tmp_path, clock)
    journal = a_journal(tmp_path / "audit", clock)
    keeper.tick()
    for _ in range(60):
        await call(journal, clock)
    segments = set((tmp_path / "audit" / "logs" / "w0").glob("*.jsonl"))
    assert len(segments) > 1
    synced: list[str] = []
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def sync(fd: int, real: object = real) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{fd}"))
            real(fd)

        monkeypatch.setattr(os, name, sync)
    keeper.tick()
    assert {str(s) for s in segments} < set(synced)
    assert synced[-1] == str(checkpoints_path(tmp_path / "audit"))
    keeper.close()


@pytest.mark.requirement("audit:checkpoint")
def test_a_log_that_is_being_written_is_followed_and_verified_without_alarm(tmp_path: Path, clock: SetClock) -> None:
    a_signer(tmp_path)
    keeper = a_keeper(tmp_path, clock)
    with a_writer_process(tmp_path / "audit") as writer:
        assert writer.stdout is not None
        for round_ in range(12):
            for _ in range(40):
                writer.stdout.readline()
            keeper.tick()
            if round_ % 3 == 0:
                report = verify(tmp_path / "audit")
                assert report.ok, report.text()
        writer.kill()
    a_journal(tmp_path / "audit", clock).close()  # heals
    keeper.tick()
    keeper.close()
    assert len(signed(tmp_path)) > 3
    assert all(checkpoint.alarm == [] for checkpoint in signed(tmp_path))
    assert len(list((tmp_path / "audit" / "logs" / "w0").glob("*.jsonl"))) > 5
    report = verify(tmp_path / "audit")
    assert report.ok and report.logs[1].signed == report.logs[1].records


@pytest.mark.requirement("audit:admin-notes")
async def test_every_note_is_in_the_log_exactly_once_whatever_crash(tmp_path: Path, clock: SetClock) -> None:
    outbox = Outbox()
    for epoch in range(1, 4):
        outbox.add(epoch, reason="reviewed", before={"status": "draft"}, after={"status": "approved"})
    keeper = a_keeper(tmp_path, clock, outbox)
    keeper._admin.drain()  # noted, not signed: then the process dies
    crash(keeper)
    for epoch in range(4, 300):
        outbox.add(epoch)
    keeper = a_keeper(tmp_path, clock, outbox)
    keeper.tick()
    crash(keeper)
    again = a_keeper(tmp_path, clock, outbox)
    again.tick()
    again.close()
    notes = [r for r in records(tmp_path / "audit", "admin") if r["phase"] == "admin"]
    assert [n["facts"]["position"] for n in notes] == list(range(1, 300))
    assert notes[0] == {
        "time": 1_800_000_001.0,
        "phase": "admin",
        "log": "admin",
        "index": 0,
        "previous": "0" * 64,
        "action_id": "note-1",
        "epoch": 1,
        "route": "admin",
        "verb": "server.approve",
        "name": "notes@1.0.0",
        "principal": "mcpgw|root",
        "facts": {
            "position": 1,
            "reason": "reviewed",
            "before": {"status": "draft"},
            "after": {"status": "approved"},
        },
    }
    assert signed(tmp_path)[-1].epoch == 299


def crash(keeper: Keeper) -> None:
    crash_slot(keeper._admin._slot)


@pytest.mark.requirement("audit:admin-notes")
@pytest.mark.parametrize("kept", [0, 2, 9])
async def test_notes_of_a_database_that_was_replaced_or_restored_are_neither_lost_nor_doubled(
    tmp_path: Path, clock: SetClock, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    outbox, other = Outbox(), Outbox()
    for epoch in range(5):
        outbox.add(epoch)
    keeper = a_keeper(tmp_path, clock, outbox)
    keeper.tick()
    keeper.close()
    other.notes = outbox.notes[:kept]
    for epoch in range(7):
        other.add(epoch, id=f"other-{epoch}")
    with caplog.at_level(logging.CRITICAL, "mcpgw.audit"):
        for _ in range(2):
            keeper = a_keeper(tmp_path, clock, other)
            keeper.tick()
            keeper.close()
    notes = [r["action_id"] for r in records(tmp_path / "audit", "admin") if r["phase"] == "admin"]
    assert notes == [f"note-{i}" for i in range(1, 6)] + [f"other-{i}" for i in range(7)]


@pytest.mark.requirement("audit:admin-notes")
async def test_a_database_that_does_not_answer_does_not_stop_the_signing(
    tmp_path: Path, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    def away(after: int, limit: int) -> list[tuple[int, int, AdminNote]]:
        raise Unavailable("the database does not answer")

    keeper = a_keeper(tmp_path, clock, away)
    journal = a_journal(tmp_path / "audit", clock)
    await call(journal, clock)
    with caplog.at_level(logging.CRITICAL, "mcpgw.audit"):
        assert keeper.tick() is not None
    assert sizes(signed(tmp_path)[0])["w0"] == 2
    keeper.close()


@pytest.mark.requirement("audit:full-disk")
async def test_a_note_is_recorded_although_there_is_no_room_for_another_file(
    tmp_path: Path, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox()
    keeper = a_keeper(tmp_path, clock, outbox)
    with files_at_most(65_536 + 4096), caplog.at_level(logging.CRITICAL, "mcpgw.audit"):
        keeper._admin._slot._capacity = keeper._admin._slot._offset + 4096  # all but the reserve is used
        with files_at_most(65_536):
            outbox.add(1, "kill.throw", "kill-1")
            keeper.tick()
    assert records(tmp_path / "audit", "admin")[-1]["verb"] == "kill.throw"
    keeper.close()


@pytest.mark.requirement("audit:resume")
async def test_a_keeper_that_comes_back_goes_on_where_it_stopped(tmp_path: Path, clock: SetClock) -> None:
    journal = a_journal(tmp_path / "audit", clock)
    keeper = a_keeper(tmp_path, clock)
    for _ in range(70):
        await call(journal, clock)
    keeper.tick()
    keeper.close()
    await call(journal, clock)
    first_file = sorted((tmp_path / "audit" / "logs" / "w0").glob("*.jsonl"))[0]
    hidden = first_file.rename(tmp_path / "hidden")  # what was signed is not read again
    again = a_keeper(tmp_path, clock)
    again.tick()
    again.close()
    hidden.rename(first_file)
    assert sizes(signed(tmp_path)[-1])["w0"] == 142
    assert signed(tmp_path)[-1].alarm == []


@pytest.mark.requirement("audit:resume")
@pytest.mark.parametrize("damage", ["gone", "rubbish", "another tree", "too far", "another place"])
async def test_a_bookmark_that_is_lost_or_wrong_costs_time_only(tmp_path: Path, clock: SetClock, damage: str) -> None:
    journal = a_journal(tmp_path / "audit", clock)
    keeper = a_keeper(tmp_path, clock)
    await call(journal, clock)
    keeper.tick()
    await call(journal, clock)
    keeper.tick()
    keeper.close()
    path = tmp_path / "audit" / "bookmarks.json"
    held = msgspec.json.decode(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        changes = {
            "rubbish": {"size": 5},
            "another tree": {"peaks": ["00" * 32]},
            "too far": {"size": 8, "peaks": ["00" * 32]},
            "another place": {"offset": 3},
        }
        held["w0"] |= changes[damage]
        path.write_bytes(msgspec.json.encode(held))
    await call(journal, clock)
    again = a_keeper(tmp_path, clock)
    again.tick()
    again.close()
    assert sizes(signed(tmp_path)[-1])["w0"] == 6
    assert signed(tmp_path)[-1].alarm == []


async def broken_log(tmp_path: Path, clock: SetClock, old: bytes, new: bytes) -> None:
    """Sign a log of one call, let another be written, then change the file, before the keeper reads on."""
    journal = a_journal(tmp_path / "audit", clock)
    keeper = a_keeper(tmp_path, clock)
    await call(journal, clock)
    keeper.tick()
    await call(journal, clock)
    await call(journal, clock)
    path = next((tmp_path / "audit" / "logs" / "w0").glob("*.jsonl"))
    text = path.read_bytes()
    assert old in text
    with path.open("r+b") as file:
        file.write(text.replace(old, new))
    keeper.tick()
    await call(journal, clock)
    keeper.tick()
    keeper.close()


@pytest.mark.requirement("audit:alarm")
async def test_a_broken_chain_is_alarmed_and_never_signed_over(
    tmp_path: Path, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL, "mcpgw.audit"):
        await broken_log(tmp_path, clock, b'"index":3', b'"index":7')
    assert "ALARM: log w0 3" in caplog.text
    first, second = signed(tmp_path)
    assert second.head("w0") == first.head("w0")
    assert [(a.log, a.index) for a in second.alarm] == [("w0", 3)]
    # It stays, also for a keeper that starts anew.
    again = a_keeper(tmp_path, clock)
    assert again.tick() is None
    again.close()


@pytest.mark.requirement("audit:alarm")
async def test_a_log_that_lost_signed_records_is_alarmed(
    tmp_path: Path, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    journal = a_journal(tmp_path / "audit", clock)
    keeper = a_keeper(tmp_path, clock)
    await call(journal, clock)
    await call(journal, clock)
    keeper.tick()
    keeper.close()
    journal.close()
    path = next((tmp_path / "audit" / "logs" / "w0").glob("*.jsonl"))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    again = a_keeper(tmp_path, clock)
    with caplog.at_level(logging.CRITICAL, "mcpgw.audit"):
        again.tick()
    journal = a_journal(tmp_path / "audit", clock)
    await call(journal, clock)
    again.tick()
    again.close()
    assert [(a.log, a.index) for a in signed(tmp_path)[-1].alarm] == [("w0", 3)]
    assert sizes(signed(tmp_path)[-1])["w0"] == 4


@pytest.mark.requirement("audit:alarm")
async def test_a_log_that_is_gone_is_alarmed(tmp_path: Path, clock: SetClock, caplog: pytest.LogCaptureFixture) -> None:
    journal = a_journal(tmp_path / "audit", clock)
    keeper = a_keeper(tmp_path, clock)
    await call(journal, clock)
    keeper.tick()
    keeper.close()
    shutil.rmtree(tmp_path / "audit" / "logs" / "w0")
    again = a_keeper(tmp_path, clock)
    with caplog.at_level(logging.CRITICAL, "mcpgw.audit"):
        again.tick()
    again.close()
    assert [(a.log, a.index) for a in signed(tmp_path)[-1].alarm] == [("w0", 0)]


@pytest.mark.requirement("audit:alarm")
async def test_a_checkpoint_that_this_gateway_did_not_sign_is_alarmed(
    tmp_path: Path, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = a_keeper(tmp_path, clock)
    keeper.tick()
    keeper.close()
    path = checkpoints_path(tmp_path / "audit")
    path.write_bytes(path.read_bytes().replace(b'"epoch":0', b'"epoch":9'))
    with caplog.at_level(logging.CRITICAL, "mcpgw.audit"):
        again = a_keeper(tmp_path, clock)
    again.tick()
    again.close()
    assert [a.log for a in signed(tmp_path)[-1].alarm] == ["checkpoints.jsonl"]


@pytest.mark.requirement("audit:healing")
async def test_a_checkpoint_that_a_crash_cut_short_is_cut_off(tmp_path: Path, clock: SetClock) -> None:
    keeper = a_keeper(tmp_path, clock)
    first = keeper.tick()
    keeper.close()
    with checkpoints_path(tmp_path / "audit").open("ab") as file:
        file.write(b'{"version":1,"time":')
    again = a_keeper(tmp_path, clock)
    await call(a_journal(tmp_path / "audit", clock), clock)
    again.tick()
    again.close()
    assert first is not None
    assert signed(tmp_path)[1].previous == hashlib.sha256(first).hexdigest()


@pytest.mark.requirement("audit:one-writer")
def test_there_is_one_keeper(tmp_path: Path, clock: SetClock) -> None:
    keeper = a_keeper(tmp_path, clock)
    with pytest.raises(Unavailable):
        a_keeper(tmp_path, clock)
    keeper.close()


@pytest.mark.requirement("audit:checkpoint")
async def test_the_loop_signs_what_is_left_before_it_ends(tmp_path: Path, clock: SetClock) -> None:
    outbox = Outbox()
    outbox.add(1)
    stop = threading.Event()
    stop.set()
    a_keeper(tmp_path, clock, outbox).run(stop)
    assert sizes(signed(tmp_path)[0]) == {"admin": 1}
    a_keeper(tmp_path, clock, outbox).close()


@pytest.mark.requirement("audit:keys")
def test_private_keys_are_for_the_owner_only_and_made_once(tmp_path: Path) -> None:
    first = a_signer(tmp_path)
    path = tmp_path / "keys" / "audit-signing.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert a_signer(tmp_path).key_id == first.key_id
    path.chmod(0o640)
    with pytest.raises(UsageError, match="can be read by others"):
        a_signer(tmp_path)
    path.chmod(0o600)
    path.write_text("not a key")
    with pytest.raises(UsageError, match="not an Ed25519 key"):
        a_signer(tmp_path)


@pytest.mark.requirement("audit:keys")
def test_another_key_does_not_go_on_signing_the_same_log(tmp_path: Path) -> None:
    a_signer(tmp_path)
    (tmp_path / "keys" / "audit-signing.pem").unlink()
    with pytest.raises(UsageError, match="not the public half"):
        a_signer(tmp_path)
