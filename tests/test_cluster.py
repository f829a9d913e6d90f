"""The workers of one machine: slots, the published epoch, the barrier, and a start without the database."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mcpgw.bus import ControlServer, LocalBus, PublishingStore
from mcpgw.clock import SystemClock
from mcpgw.cluster import MAX_SLOTS, EpochBoard, Slot, live_slots
from mcpgw.domain import SYSTEM, AdminNote, Principal, Revocation, Row, Scope
from mcpgw.errors import Unauthenticated, Unavailable, UsageError
from mcpgw.kills import KillService
from mcpgw.ports import Ack, Store
from mcpgw.store import snapshot
from mcpgw.store.memory import MemoryStore
from mcpgw.store.migrations import migrate
from mcpgw.store.sql import SqlStore
from mcpgw.world import Snapshot, WorldKeeper
from tests.eventually import eventually
from tests.fixtures.processes import running, state_of
from tests.fixtures.workers import keeper_of
from tests.parts import action, agent, switch

ROOT = Path(__file__).parents[1]
KEY = b"k" * 32
NOTE = AdminNote(id="n", time=0.0, actor="root", action="kill.throw", target="t")


# Slots and the epoch


@pytest.mark.requirement("cluster:slots")
def test_a_slot_belongs_to_one_worker_as_long_as_it_lives(tmp_path: Path) -> None:
    epochs = EpochBoard(tmp_path)
    slot = Slot(tmp_path, 3, epochs)
    assert list(live_slots(tmp_path)) == [3]
    assert epochs.pid(3) == os.getpid()
    with pytest.raises(Unavailable, match="w3 is taken"):
        Slot(tmp_path, 3, epochs)
    slot.close()
    assert list(live_slots(tmp_path)) == []
    Slot(tmp_path, 3, epochs).close()


@pytest.mark.requirement("cluster:slots")
def test_who_only_looks_is_not_taken_for_a_worker_and_does_not_keep_one_from_starting(tmp_path: Path) -> None:
    epochs = EpochBoard(tmp_path)
    Slot(tmp_path, 1, epochs).close()
    looking = os.open(tmp_path / "w1.lock", os.O_RDWR)
    fcntl.flock(looking, fcntl.LOCK_SH)  # what a look holds for some microseconds
    assert list(live_slots(tmp_path)) == []
    done = threading.Timer(0.02, os.close, [looking])
    done.start()
    slot = Slot(tmp_path, 1, epochs)
    assert list(live_slots(tmp_path)) == [1]
    done.join()
    slot.close()


@pytest.mark.requirement("cluster:epoch")
def test_the_published_epoch_is_seen_by_every_process_and_never_falls(tmp_path: Path) -> None:
    ours, theirs = EpochBoard(tmp_path), EpochBoard(tmp_path)
    assert theirs.published() == 0
    for epoch, seen in ((5, 5), (3, 5), (2**40, 2**40)):
        ours.publish(epoch)
        assert theirs.published() == seen
    publish = "import sys, pathlib, mcpgw.cluster as c; c.EpochBoard(pathlib.Path(sys.argv[1])).publish(2**40 + 1)"
    subprocess.run([sys.executable, "-c", publish, str(tmp_path)], cwd=ROOT, check=True)
    assert ours.published() == 2**40 + 1
    ours.apply(MAX_SLOTS - 1, 9)
    assert theirs.applied(MAX_SLOTS - 1) == 9
    assert theirs.published() == 2**40 + 1


@pytest.mark.requirement("cluster:epoch")
def test_a_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "epoch").write_bytes(b"somebody's notes")
    with pytest.raises(UsageError, match="not ours"):
        EpochBoard(tmp_path)


# The barrier over several processes


@dataclass
class Cluster:
    """This process is worker w0, the one that changes state; `pids` are the others by index."""

    run_dir: Path
    arrivals: Path
    keeper: WorldKeeper
    store: Store
    bus: LocalBus
    kills: KillService
    pids: dict[int, int]

    async def throw(self, scope: str = "server", selector: str = "notes") -> dict[str, Any]:
        return await self.kills.throw(SYSTEM, scope, selector, reason="test")

    def arrived(self) -> bytes:
        return self.arrivals.read_bytes() if self.arrivals.exists() else b""

    async def until_each_has_sent(self) -> None:
        """Return when every worker has sent another call."""
        before = len(self.arrived())
        await eventually(lambda: {int(chr(b)) for b in self.arrived()[before:]} >= set(self.pids), within_s=10)

    async def later(self) -> None:
        """Return when every worker has gone through its loop a good many times more."""
        for _ in range(10):
            await self.bus.publish(self.keeper.current.epoch)


@asynccontextmanager
async def cluster(tmp_path: Path, workers: int, *, held: bool = False) -> AsyncIterator[Cluster]:
    """Run workers w1 … wN in processes of their own; `held`: they stay between claiming a slot and taking orders."""
    run_dir, arrivals = tmp_path / "run", tmp_path / "arrivals"
    url = f"sqlite+aiosqlite:///{tmp_path / 'state.db'}"
    await migrate(url)
    epochs = EpochBoard(run_dir)
    if held:
        (run_dir / "hold").touch()
    slot = Slot(run_dir, 0, epochs)
    store = SqlStore(url)
    keeper = keeper_of(store, epochs, 0)
    assert keeper.board is not None
    await keeper.start()
    control = ControlServer(run_dir, 0, keeper, position=lambda: 0)
    await control.start()
    bus = LocalBus(run_dir, 0, epochs, control, left_by=lambda name: (7000, ("unfinished",)))
    kills = KillService(
        store=store,
        worlds=keeper,
        bus=bus,
        board=keeper.board,
        clock=SystemClock(),
        certify=lambda thrown, acks, sent: {"kill": thrown.id, "workers": [a.worker for a in acks]},
    )
    command = [sys.executable, "-m", "tests.fixtures.workers", str(run_dir), url, str(arrivals), str(workers)]
    try:
        with running(command, log=tmp_path / "workers.log", cwd=ROOT) as started:
            pids = dict(enumerate((int(pid) for pid in started.said.split()), start=1))
            yield Cluster(run_dir, arrivals, keeper, store, bus, kills, pids)
    finally:
        await control.stop()
        await keeper.stop()
        await store.close()
        slot.close()


@pytest.mark.requirement("kill:barrier")
async def test_after_a_kill_has_returned_no_worker_sends_another_call(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as machine:
        for _ in range(5):
            await machine.until_each_has_sent()
            thrown = await machine.throw()
            at_return = machine.arrived()
            assert thrown["missing"] == []
            assert [a["worker"] for a in thrown["acknowledged"]] == ["w0", "w1", "w2", "w3"]
            assert thrown["certificate"]["workers"] == ["w0", "w1", "w2", "w3"]
            await machine.later()
            assert machine.arrived() == at_return
            await machine.kills.release(SYSTEM, thrown["id"], "test")


@pytest.mark.requirement("kill:barrier")
async def test_a_kill_names_the_calls_that_every_worker_had_under_way(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as machine:
        await machine.until_each_has_sent()
        thrown = await machine.throw()
        assert {"w1-held", "w2-held"} <= set(thrown["may_have_taken_effect"])
        assert thrown["cancelled"] >= 2
        assert [(a["log"], a["position"]) for a in thrown["acknowledged"]] == [("w0", 0), ("w1", 100), ("w2", 200)]


@pytest.mark.requirement("kill:barrier")
async def test_of_kills_thrown_at_once_the_earlier_names_what_was_under_way_and_both_hold(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as machine:
        await machine.until_each_has_sent()
        thrown = await asyncio.gather(machine.throw("global", "*"), machine.throw("tool", "notes/read"))
        at_return = machine.arrived()
        earlier = min(thrown, key=lambda kill: kill["epoch"])
        assert {"w1-held", "w2-held"} <= set(earlier["may_have_taken_effect"])
        await machine.later()
        assert machine.arrived() == at_return


@pytest.mark.requirement("kill:silent-worker")
async def test_a_stopped_worker_is_ended_and_proven_dead_before_the_kill_returns(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as machine:
        await machine.until_each_has_sent()
        os.kill(machine.pids[2], signal.SIGSTOP)
        thrown = await machine.throw()
        assert state_of(machine.pids[2]) in ("Z", "gone")
        at_return = machine.arrived()
        assert thrown["missing"] == []
        assert thrown["acknowledged"][2] == {"worker": "w2 (dead)", "log": "w2", "position": 7000}
        assert list(live_slots(machine.run_dir)) == [0, 1]
        del machine.pids[2]
        await machine.later()
        assert machine.arrived() == at_return


@pytest.mark.requirement("kill:silent-worker")
async def test_a_worker_that_cannot_be_proven_dead_is_named_as_missing_and_nothing_is_certified(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as machine:
        await machine.until_each_has_sent()
        os.kill(machine.pids[1], signal.SIGSTOP)
        # The map names a process that is gone, so the one that holds the slot cannot be found.
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        EpochBoard(machine.run_dir).occupy(1, gone.pid)
        thrown = await machine.throw()
        assert thrown["missing"] == ["w1"]
        assert thrown["certificate"] is None
        os.kill(machine.pids[1], signal.SIGCONT)


@pytest.mark.requirement("cluster:starting-worker")
async def test_a_change_waits_for_a_worker_that_is_starting_instead_of_ending_it(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2, held=True) as machine:
        publishing = asyncio.create_task(machine.throw())
        await eventually(lambda: machine.keeper.current.epoch != 1)
        (machine.run_dir / "hold").unlink()
        thrown = await publishing
        assert [a["worker"] for a in thrown["acknowledged"]] == ["w0", "w1", "w2"]
        assert machine.arrived() == b""


@pytest.mark.requirement("cluster:publish")
async def test_the_epoch_is_published_before_anyone_is_asked_to_apply_it(tmp_path: Path) -> None:
    """From then on no worker lets a call pass that was judged before, whether it has been told or not."""
    epochs = EpochBoard(tmp_path)

    class Own(ControlServer):
        def __init__(self) -> None:
            self.published: list[int] = []

        async def acknowledge(self, epoch: int, switch: str | None) -> Ack:
            self.published.append(epochs.published())
            return Ack("w0", "w0", 0, epoch)

    own = Own()
    await LocalBus(tmp_path, 0, epochs, own, left_by=lambda name: (0, ())).publish(7)
    assert own.published == [7]


@pytest.mark.requirement("cluster:publish")
async def test_a_change_of_state_is_applied_by_every_worker_when_its_commit_returns(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as machine:
        await machine.until_each_has_sent()
        epoch = await PublishingStore(machine.store, machine.bus).commit([], NOTE)
        epochs = EpochBoard(machine.run_dir)
        assert [epochs.applied(slot) for slot in (0, 1, 2)] == [epoch] * 3


@pytest.mark.requirement("cluster:publish", "principals:cut")
async def test_a_change_that_a_worker_may_not_have_applied_is_not_answered_as_done(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as machine:
        await machine.until_each_has_sent()
        os.kill(machine.pids[1], signal.SIGSTOP)
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        EpochBoard(machine.run_dir).occupy(1, gone.pid)
        before = (await machine.store.state()).epoch
        with pytest.raises(Unavailable, match="the change is made, but w1"):
            await PublishingStore(machine.store, machine.bus).commit([], NOTE)
        assert (await machine.store.state()).epoch == before + 1
        os.kill(machine.pids[1], signal.SIGCONT)


@pytest.mark.requirement("cluster:publish")
async def test_a_worker_that_no_messenger_reached_catches_up_by_the_published_epoch(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as machine:
        await machine.until_each_has_sent()
        epoch = await machine.store.commit([switch(Scope.SERVER, "notes")], NOTE)
        epochs = EpochBoard(machine.run_dir)
        epochs.publish(epoch)
        await eventually(lambda: {epochs.applied(slot) for slot in (0, 1, 2)} == {epoch})
        at_rest = machine.arrived()
        await machine.later()
        assert machine.arrived() == at_rest


@pytest.mark.requirement("cluster:epoch")
async def test_a_published_epoch_that_fell_behind_in_a_race_is_raised_again(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as machine:
        epoch = await PublishingStore(machine.store, machine.bus).commit([], NOTE)
        epochs = EpochBoard(machine.run_dir)
        epochs._words[1] = epoch - 1  # what the slower of two publishers writes last
        await eventually(lambda: epochs.published() == epoch)


# Starting from what was last known


@dataclass
class Home:
    """The files of one machine: a database and the signed snapshot."""

    path: Path

    @property
    def database(self) -> Path:
        return self.path / "state.db"

    @property
    def url(self) -> str:
        return f"sqlite+aiosqlite:///{self.database}"

    @asynccontextmanager
    async def worker(self, store: Store | None = None) -> AsyncIterator[WorldKeeper]:
        """Run a worker's keeper until the block ends."""
        epochs = EpochBoard(self.path / "run")
        slot = Slot(self.path / "run", 0, epochs)
        file = self.path / "snapshot"
        remembered = Snapshot(partial(snapshot.read, file, KEY), partial(snapshot.write, file, KEY))
        opened = SqlStore(self.url, deadline_s=0.2)
        keeper = keeper_of(store or opened, epochs, 0, remembered)
        await keeper.start()
        try:
            yield keeper
        finally:
            await keeper.stop()
            await opened.close()
            slot.close()

    @contextmanager
    def database_away(self) -> Iterator[None]:
        """Let the database answer nobody until the block ends."""
        with closing(sqlite3.connect(self.database, isolation_level=None)) as alone:
            alone.execute("PRAGMA locking_mode = EXCLUSIVE")
            alone.execute("BEGIN EXCLUSIVE")
            yield

    async def commit(self, *rows: Row) -> int:
        store = SqlStore(self.url)
        try:
            return await store.commit(rows, NOTE)
        finally:
            await store.close()


@pytest.fixture
async def home(tmp_path: Path) -> Home:
    found = Home(tmp_path)
    await migrate(found.url)
    return found


@pytest.mark.requirement("world:last-known")
async def test_a_start_without_the_database_is_closed_and_killed_as_last_known(home: Home) -> None:
    thrown = switch(Scope.SERVER, "notes")
    epoch = await home.commit(thrown)
    async with home.worker() as keeper:
        assert keeper.current.unavailable is None
    with home.database_away():
        async with home.worker() as keeper:
            world = keeper.current
            assert world.unavailable is not None
            assert world.epoch == epoch
            assert [s.id for s in world.switches.standing] == [thrown.id]
            with pytest.raises(Unavailable):
                await keeper.at_least(epoch + 1)


@pytest.mark.requirement("world:last-known")
async def test_a_worker_that_started_closed_opens_when_the_database_is_back(home: Home) -> None:
    epoch = await home.commit(switch(Scope.SERVER, "notes"))
    async with AsyncExitStack() as stack:
        with home.database_away():
            keeper = await stack.enter_async_context(home.worker())
            assert keeper.current.unavailable is not None
        await eventually(lambda: keeper.current.unavailable is None)
        assert keeper.current.epoch == epoch
        assert len(keeper.current.switches.standing) == 1


@pytest.mark.requirement("world:last-known")
async def test_a_first_start_without_the_database_lets_nothing_through(tmp_path: Path) -> None:
    async with Home(tmp_path).worker() as keeper:
        assert keeper.current.unavailable is not None
        assert keeper.current.catalog.active() == ()


@pytest.mark.requirement("world:rollback")
@pytest.mark.parametrize("forgotten", ["", "snapshot", "epoch"])
async def test_a_database_that_was_rolled_back_is_refused_by_whatever_remembers_it(home: Home, forgotten: str) -> None:
    """The signed snapshot and the shared epoch each suffice."""
    old = home.path / "old.db"
    with closing(sqlite3.connect(home.database)) as database, closing(sqlite3.connect(old)) as copy:
        database.backup(copy)
    seen = await home.commit(switch(Scope.SERVER, "notes"))
    async with home.worker() as keeper:
        assert keeper.current.epoch == seen
    for name in ("state.db-wal", "state.db-shm"):
        (home.path / name).unlink(missing_ok=True)
    shutil.copy(old, home.database)
    if forgotten == "snapshot":
        (home.path / "snapshot").unlink()
    elif forgotten == "epoch":
        (home.path / "run" / "epoch").unlink()
    async with home.worker() as keeper:
        assert keeper.current.unavailable is not None
        assert "rolled back" in keeper.current.unavailable
        assert f"epoch {seen}" in keeper.current.unavailable


@pytest.mark.requirement("world:rollback")
async def test_a_worker_that_is_offered_a_lower_epoch_keeps_what_it_knows_and_refuses_to_go_on(home: Home) -> None:
    rolling = Rolling()
    async with home.worker(rolling) as keeper:
        thrown = switch(Scope.SERVER, "notes")
        seen = await rolling.commit([thrown], NOTE)
        await keeper.at_least(seen)
        rolling.back()
        with pytest.raises(Unavailable, match="rolled back"):
            await keeper.at_least(seen + 1)
        assert keeper.current.epoch == seen
        assert [s.id for s in keeper.current.switches.standing] == [thrown.id]


class Rolling(MemoryStore):
    """A store that can be put back to its beginning."""

    def back(self) -> None:
        vars(self).update(vars(MemoryStore()))


@pytest.mark.requirement("world:swap")
async def test_those_who_follow_the_world_are_told_after_each_swap(home: Home) -> None:
    async with home.worker() as keeper:
        told: list[tuple[int, int]] = []
        keeper.on_change(lambda old, new: told.append((old.epoch, new.epoch)))
        first = keeper.current.epoch
        for _ in range(3):
            await keeper.at_least(await home.commit())
        assert told == [(first, first + 1), (first + 1, first + 2), (first + 2, first + 3)]


@pytest.mark.requirement("kill:in-flight")
async def test_what_a_switch_cut_is_told_whole_also_when_the_world_has_moved_on(home: Home) -> None:
    """The order to apply may come after the worker has seen the next change too, and after some calls have ended."""
    async with home.worker() as keeper:
        board = keeper.board
        assert board is not None
        for name in ("a", "b"):
            board.calls[name] = board.enter(agent(), action(id=name))
        thrown = switch(Scope.SERVER, "notes")
        epoch = await home.commit(thrown)
        await keeper.at_least(epoch)
        del board.calls["a"]
        await keeper.at_least(await home.commit())
        assert (await keeper.apply(epoch, thrown.id)).calls == ("a", "b")
        assert (await keeper.apply(epoch, "kill-0")).calls == ()


@pytest.mark.requirement("principals:cut")
async def test_when_a_revocation_is_acknowledged_what_ran_on_it_passes_no_gate(home: Home) -> None:
    async with home.worker() as keeper:
        board = keeper.board
        assert board is not None

        def refusal_of(who: Principal) -> Unauthenticated | None:
            revoked = ("principal", who.selector) in keeper.current.identities.not_before
            return Unauthenticated("revoked") if revoked else None

        keeper.refusal_of = refusal_of
        ada, bob = (board.enter(agent(name), action(id=name)) for name in ("ada", "bob"))
        board.calls |= {"ada": ada, "bob": bob}
        await keeper.apply(await home.commit(Revocation("principal", agent("ada").selector, 5.0)), None)
        ada.epoch = bob.epoch = keeper.current.epoch
        with pytest.raises(Unauthenticated, match="revoked"):
            ada.gate()
        bob.gate()


@pytest.mark.requirement("world:swap")
async def test_an_epoch_that_does_not_come_in_time_is_unavailable(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpgw.world.REFRESH_WITHIN_S", 0.05)
    async with home.worker() as keeper:
        with pytest.raises(Unavailable, match="in time"):
            await keeper.at_least(keeper.current.epoch + 1)
