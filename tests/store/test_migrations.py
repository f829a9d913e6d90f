"""The schema in the database is the schema in the code."""

from __future__ import annotations

import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from mcpgw.errors import Unavailable
from mcpgw.store.migrations import migrate, upgrade
from mcpgw.store.sql import SqlStore, database_file, engine_of
from mcpgw.store.tables import Base
from tests.store.rows import EVERY, note


@pytest.mark.requirement("store:migrations")
def test_migrations_and_tables_agree(url: str) -> None:
    engine = engine_of(database_file(url), busy_ms=100)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, Base.metadata)
    engine.dispose()
    assert differences == []


@pytest.mark.requirement("store:migrations")
def test_the_comparison_would_find_a_difference(url: str) -> None:
    with sqlite3.connect(database_file(url)) as database:
        database.execute("ALTER TABLE servers DROP COLUMN trust")
    database.close()
    engine = engine_of(database_file(url), busy_ms=100)
    with engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata)
    engine.dispose()


async def test_upgrading_again_changes_nothing(url: str) -> None:
    store = SqlStore(url)
    await store.commit(EVERY, note())
    before = await store.state()
    await migrate(url)
    assert await store.state() == before
    await store.close()


@pytest.mark.requirement("store:migrations")
def test_starts_at_the_same_time_follow_one_another(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'state.db'}"
    failures: list[BaseException] = []
    gate = threading.Barrier(4)

    def run() -> None:
        gate.wait()
        try:
            upgrade(url)
        except Unavailable as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with sqlite3.connect(tmp_path / "state.db") as database:
        assert database.execute("SELECT id, value FROM epoch").fetchall() == [(1, 1)]
    database.close()


@pytest.mark.requirement("store:migrations")
def test_a_migration_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("CREATE TABLE outbox (in_the_way)")  # the last table that the first revision makes
    with pytest.raises(Unavailable):
        upgrade(f"sqlite+aiosqlite:///{tmp_path / 'state.db'}")
    found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    database.close()
    assert found == [("outbox",)]


@pytest.mark.requirement("store:migrations")
def test_a_database_of_a_newer_release_is_refused(url: str) -> None:
    with sqlite3.connect(database_file(url)) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(Unavailable, match="not of this release"):
        upgrade(url)


def test_only_the_owner_can_read_the_database(url: str) -> None:
    assert stat.S_IMODE(Path(database_file(url)).stat().st_mode) == 0o600
