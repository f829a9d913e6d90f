"""The signed snapshot of epoch and kill switches."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from mcpgw.domain import State
from mcpgw.errors import Unavailable
from mcpgw.store import snapshot
from tests.store.rows import SERVER, SWITCH

KEY = b"k" * 32


def state(epoch: int) -> State:
    return State(
        epoch=epoch,
        servers=(SERVER,),
        switches=(replace(SWITCH, epoch=epoch), replace(SWITCH, id="kill-0", released_at=1.0)),
    )


@pytest.mark.requirement("kill:snapshot")
def test_the_snapshot_holds_the_epoch_and_the_switches_in_force(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    assert snapshot.read(path, KEY) is None
    snapshot.write(path, KEY, state(7))
    assert snapshot.read(path, KEY) == (7, (replace(SWITCH, epoch=7),))
    snapshot.write(path, KEY, state(8))
    assert snapshot.read(path, KEY) == (8, (replace(SWITCH, epoch=8),))


@pytest.mark.requirement("kill:snapshot")
def test_a_slow_worker_does_not_put_an_older_epoch_back(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    workers = [threading.Thread(target=snapshot.write, args=(path, KEY, state(n))) for n in (3, 9, 5, 8, 1, 9)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert snapshot.read(path, KEY) == (9, (replace(SWITCH, epoch=9),))


@pytest.mark.requirement("kill:snapshot")
def test_any_change_to_the_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    snapshot.write(path, KEY, state(7))
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Unavailable):
            snapshot.read(path, KEY)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Unavailable):
            snapshot.read(path, KEY)


@pytest.mark.requirement("kill:snapshot")
def test_a_snapshot_signed_with_another_key_is_refused_but_replaced_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    snapshot.write(path, b"other", state(99))
    with pytest.raises(Unavailable, match="this gateway's key"):
        snapshot.read(path, KEY)
    snapshot.write(path, KEY, state(7))
    assert snapshot.read(path, KEY) == (7, (replace(SWITCH, epoch=7),))


def test_a_snapshot_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot write"):
        snapshot.write(tmp_path / "nowhere" / "snapshot", KEY, state(7))
