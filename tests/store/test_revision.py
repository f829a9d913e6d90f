"""Which revision a database has, and that it is brought to the newest one by whoever starts."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from mcpgw.errors import Unavailable, UsageError
from mcpgw.store.migrations import HERE
from mcpgw.store.revision import is_newest, newest, upgrade
from tests.harness import ROOT

APART = """
import sys
from mcpgw.store.revision import upgrade
upgrade(sys.argv[1], apart=True)
assert "alembic" not in sys.modules
"""


@pytest.mark.requirement("store:migrations")
def test_the_newest_revision_is_the_one_that_the_migrations_end_with() -> None:
    assert newest() == ScriptDirectory(HERE, version_locations=[HERE]).get_current_head()


@pytest.mark.requirement("store:migrations")
def test_a_database_is_brought_to_the_newest_revision_by_a_process_that_ends(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'state.db'}"
    assert not is_newest(url)
    for _ in range(2):
        subprocess.run([sys.executable, "-c", APART, url], cwd=ROOT, check=True, timeout=60)
        assert is_newest(url)


@pytest.mark.requirement("store:migrations")
def test_what_is_no_database_of_ours_is_not_the_newest_and_the_error_is_the_migrations_own(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE alembic_version (version_num)")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")
        database.commit()
    assert not is_newest(f"sqlite:///{file}")
    with pytest.raises(Unavailable, match="not of this release"):
        upgrade(f"sqlite:///{file}", apart=False)
    with pytest.raises(UsageError):
        is_newest("postgresql://x/y")
