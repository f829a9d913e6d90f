"""Schema changes, in order: one module a revision (`r0001_…`), all applied in one transaction at the start.

A revision that alters a table on SQLite uses `op.batch_alter_table`. There is no way back: restore a backup.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from mcpgw.errors import Unavailable
from mcpgw.store.sql import answering, database_file, engine_of
from mcpgw.store.tables import Base

HERE = Path(__file__).parent
# Another process may be migrating the same database; a table of some million rows takes seconds.
WAIT_MS = 30_000


async def migrate(url: str) -> None:
    """Do what `upgrade` does, off the event loop."""
    await anyio.to_thread.run_sync(upgrade, url)


def upgrade(url: str) -> None:
    """Bring the database to the newest revision, creating its file (mode 0600) if need be.

    Processes that start together follow one another. All or nothing. Raises UsageError for a URL that cannot be used,
    Unavailable when the database does not answer, or is newer than this release.
    """
    file = database_file(url)
    with answering(), _locked(file):
        engine = engine_of(file, WAIT_MS).execution_options(writes=True)
        try:
            with engine.begin() as connection:
                _run(connection)
        except CommandError as error:
            raise Unavailable(
                "the state database is not of this release", fix="start the release that wrote it", cause=error
            ) from error
        finally:
            engine.dispose()


def _run(connection: Connection) -> None:
    script = ScriptDirectory(HERE, version_locations=[HERE])

    def revisions(current: Any, _context: object) -> Any:
        return script._upgrade_revs("head", current)  # what alembic's own `command.upgrade` passes

    with EnvironmentContext(Config(), script, fn=revisions, destination_rev="head") as environment:
        environment.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
        environment.run_migrations()


@contextmanager
def _locked(file: str) -> Iterator[None]:
    """Hold a lock beside the database: to turn on WAL, SQLite needs the file alone and does not wait for it."""
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite would make it readable for others
    lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
