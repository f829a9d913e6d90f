"""SQLite: what is on disk survives, processes do not lose each other's changes, a failure is Unavailable."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcpgw.domain import ActiveVersion, VersionStatus
from mcpgw.errors import Unavailable, UsageError
from mcpgw.store.sql import SqlStore, database_file, read_notes
from tests.store.rows import BUNDLE, EVERY, KEY, SERVER, SWITCH, VERSION, note

WRITER = """
    import asyncio, sys
    from mcpgw.store.sql import SqlStore
    from tests.store.rows import SERVER, note

    async def main(url, name):
        store = SqlStore(url)
        print("ready", flush=True)
        sys.stdin.readline()
        for n in range(40):
            await store.commit([SERVER], note(n, name))
        await store.close()

    asyncio.run(main(*sys.argv[1:]))
"""
CRASHER = """
    import asyncio, os, signal, sys
    from sqlalchemy import Engine, event
    from mcpgw.store.sql import SqlStore
    from tests.store.rows import EVERY, note

    async def main(url, survived):
        store = SqlStore(url)
        await store.state()
        left = int(survived)

        @event.listens_for(Engine, "after_cursor_execute")
        def crash(*_):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        await store.commit(EVERY, note())
        await store.close()
        print("done")

    asyncio.run(main(*sys.argv[1:]))
"""


def start(source: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(source), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def pragma(url: str, name: str) -> object:
    with sqlite3.connect(database_file(url)) as database:
        (value,) = database.execute(f"PRAGMA {name}").fetchone()
    database.close()
    return value


@pytest.mark.requirement("store:epoch")
async def test_two_processes_that_commit_at_once_lose_no_epoch(url: str, sql: SqlStore) -> None:
    first = (await sql.state()).epoch
    writers = [start(WRITER, url, name) for name in ("a", "b")]
    for writer in writers:
        assert writer.stdout and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=30)
        assert writer.returncode == 0
    notes = await sql.notes(0, 1000)
    assert [epoch for _, epoch, _ in notes] == list(range(first + 1, first + 81))
    assert {(n.action, n.id) for _, _, n in notes} == {(a, f"n{i}") for a in "ab" for i in range(40)}
    assert (await sql.state()).epoch == first + 80


@pytest.mark.requirement("store:atomic")
async def test_a_process_that_dies_between_statements_leaves_all_or_nothing(url: str, sql: SqlStore) -> None:
    before = await sql.state()
    survived = 0
    while True:
        crasher = start(CRASHER, url, str(survived))
        out, _ = crasher.communicate(timeout=30)
        if out == "done\n":
            break
        assert await sql.state() == before
        assert await sql.notes(0, 10) == []
        survived += 3
    assert survived >= 9
    assert len(await sql.notes(0, 10)) == 1
    assert (await sql.state()).versions == (VERSION,)


@pytest.mark.requirement("store:durable")
async def test_a_commit_is_synced_to_a_write_ahead_log(url: str, sql: SqlStore) -> None:
    with sql._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    assert pragma(url, "journal_mode") == "wal"


@pytest.mark.requirement("store:snapshot-read")
async def test_a_state_is_one_snapshot_while_others_commit(sql: SqlStore) -> None:
    """Server, version and pointer change together, so no state may hold one without the others."""
    await sql.commit([SERVER, VERSION, ActiveVersion("notes", "1.0.0")], note())

    async def write() -> None:
        for n in range(1, 30):
            version = replace(VERSION, version=f"1.0.{n}", published_at=float(n))
            await sql.commit([replace(SERVER, title=str(n)), version, ActiveVersion("notes", f"1.0.{n}")], note(n))

    writing = asyncio.create_task(write())
    titles = set()
    while not writing.done():
        for state in await asyncio.gather(sql.state(), sql.state(), sql.state()):
            title = state.servers[0].title
            if title != "Notes":
                titles.add(title)
                assert state.active == {"notes": f"1.0.{title}"}
                assert len(state.versions) == int(title) + 1
                assert all(len(v.tools) == 2 for v in state.versions)
    await writing
    assert titles


async def test_a_reader_with_an_older_snapshot_does_not_see_what_another_read_later(url: str, sql: SqlStore) -> None:
    """The rows kept from the last reading may be of a later epoch than the snapshot of a reader that was slower."""
    epoch = await sql.commit([SWITCH], note())
    early = SqlStore(url)
    try:
        await early.state()
        await sql.commit([replace(SWITCH, released_at=9.0)], note())
        await sql.state()
        early._seen = sql._seen
        with sqlite3.connect(database_file(url)) as database:  # the database of before, as a slow reader sees it
            database.execute("UPDATE kill_switches SET released_at = NULL, epoch = ?", (epoch,))
            database.execute("UPDATE epoch SET value = ?, kill_switches = ?", (epoch, epoch))
        database.close()
        assert [s.released_at for s in (await early.state()).switches] == [None]
    finally:
        await early.close()


async def test_what_another_process_changed_is_seen(url: str, sql: SqlStore) -> None:
    await sql.commit(EVERY, note())
    await sql.state()
    other = SqlStore(url)
    try:
        await other.commit(
            [
                replace(VERSION, status=VersionStatus.APPROVED, approved_by="bob"),
                replace(KEY, revoked_at=2.0),
                replace(SWITCH, id="kill-2"),
                replace(BUNDLE, active=False),
            ],
            note(),
        )
        assert await sql.state() == await other.state()
        state = await sql.state()
        assert (state.versions[0].approved_by, state.keys[0].revoked_at, state.bundle) == ("bob", 2.0, None)
        assert [s.id for s in state.switches] == ["kill-1", "kill-2"]
    finally:
        await other.close()


@pytest.mark.requirement("store:unavailable")
async def test_a_database_locked_by_another_is_unavailable_within_the_deadline(url: str) -> None:
    store = SqlStore(url, deadline_s=0.2)
    holder = sqlite3.connect(database_file(url), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with anyio.fail_after(1), pytest.raises(Unavailable, match="did not answer"):
            await store.commit([SERVER], note())
        assert (await store.state()).servers == ()  # readers go on
        holder.execute("ROLLBACK")
        await store.commit([SERVER], note())
    finally:
        holder.close()
        await store.close()


@pytest.mark.requirement("store:unavailable")
async def test_a_database_that_hangs_is_unavailable_within_the_deadline(url: str) -> None:
    store = SqlStore(url, deadline_s=4)  # waits three seconds for a lock, which is to hang
    store._deadline_s = 0.2
    holder = sqlite3.connect(database_file(url), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with anyio.fail_after(2), pytest.raises(Unavailable, match="did not answer"):
            await store.commit([SERVER], note())
    finally:
        holder.execute("ROLLBACK")
        holder.close()
        await store.close()


@pytest.mark.requirement("store:unavailable")
@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.state(),
        lambda store: store.commit([KEY], note()),
        lambda store: store.notes(0, 10),
    ],
    ids=["state", "commit", "notes"],
)
async def test_a_broken_database_is_unavailable_and_tells_nothing_of_itself(
    tmp_path: Path, call: Callable[[SqlStore], Awaitable[object]]
) -> None:
    for name, content in (("empty.db", b""), ("rubbish.db", b"no database" * 1000)):
        (tmp_path / name).write_bytes(content)
        store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / name}")
        with pytest.raises(Unavailable) as refused:
            await call(store)
        assert str(refused.value) == "the state database did not answer (check its disk, and who else has it open)"
        assert KEY.digest not in str(refused.value.__cause__)
        await store.close()
    missing = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'no' / 'state.db'}")
    with pytest.raises(Unavailable):
        await call(missing)


@pytest.mark.requirement("store:unavailable")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE server_versions SET status = 'half-approved'",
        "UPDATE servers SET tags = 'not json'",
        "DELETE FROM epoch",
    ],
)
async def test_a_value_that_nobody_knows_makes_the_state_unavailable(url: str, sql: SqlStore, statement: str) -> None:
    await sql.commit([SERVER, VERSION], note())
    with sqlite3.connect(database_file(url)) as database:
        database.execute(statement)
    database.close()
    with pytest.raises(Unavailable):
        await sql.state()


@pytest.mark.requirement("store:finishes")
async def test_a_commit_whose_caller_is_cancelled_goes_to_its_end(url: str, sql: SqlStore) -> None:
    holder = sqlite3.connect(database_file(url), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sql.commit, [SWITCH], note())
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
        holder.execute("ROLLBACK")
    holder.close()
    assert [s.id for s in (await sql.state()).switches] == ["kill-1"]


@pytest.mark.requirement("store:outbox")
async def test_the_outbox_is_read_without_an_event_loop(url: str, sql: SqlStore) -> None:
    for n in range(3):
        await sql.commit([], note(n))
    assert read_notes(url, 0, 10) == await sql.notes(0, 10)
    assert [n.id for _, _, n in read_notes(url, 1, 1)] == ["n1"]


@pytest.mark.requirement("store:unavailable")
def test_reading_the_outbox_of_no_database_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        read_notes(f"sqlite+aiosqlite:///{tmp_path / 'state.db'}", 0, 10)
    assert not (tmp_path / "state.db").exists()


@pytest.mark.parametrize(
    "wrong",
    ["postgresql+asyncpg://u:secret@h/d", "sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:", "nonsense", ""],
)
def test_a_url_that_names_no_sqlite_file_is_refused_without_showing_it(wrong: str) -> None:
    with pytest.raises(UsageError) as refused:
        SqlStore(wrong)
    assert "secret" not in str(refused.value)
