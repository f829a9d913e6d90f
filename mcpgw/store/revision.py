"""Which revision of the schema a database has, told without the library that changes it."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

from mcpgw.store.sql import database_file

_MIGRATIONS = Path(__file__).with_name("migrations")


def upgrade(url: str, *, apart: bool) -> None:
    """Bring the database to the newest revision, if it is not there yet.

    `apart`: in a process that is forked for it and ends, because what that loads stays in memory; for a process that
    has no threads. Raises UsageError and Unavailable, as `migrations.upgrade` does.
    """
    if is_newest(url):
        return
    if not apart:
        _upgrade(url)
        return
    with ProcessPoolExecutor(1, get_context("fork")) as other:
        other.submit(_upgrade, url).result()


def _upgrade(url: str) -> None:
    import_module("mcpgw.store.migrations").upgrade(url)


def newest() -> str:
    """Return the newest revision of this release."""
    return max(module.stem[1:].partition("_")[0] for module in _MIGRATIONS.glob("r*.py"))


def is_newest(url: str) -> bool:
    """Tell whether the database is there and has the newest revision. Raises UsageError."""
    file = database_file(url)
    if not Path(file).is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{Path(file).absolute().as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.Error:
        return False
    return found == [(newest(),)]
