"""The parent of all processes: it forks them, forks them again when they die, and ends them in order."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcpgw.config import load
from mcpgw.errors import UsageError
from mcpgw.supervisor import Child, listening

ROOT = Path(__file__).parents[1]
WITHIN_S = 10.0
# Small children that write down what happens to them: `name pid` when they run, `name ended` when they are told to end.
FAMILY = """
import logging, os, signal, sys
from functools import partial
from mcpgw import supervisor
from mcpgw.errors import Unavailable

supervisor.DRAIN_S = 0.5

def note(*words):
    handle = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, (" ".join(map(str, words)) + "\\n").encode())
    os.close(handle)

def main(name, kind):
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    note(name, os.getpid(), *sorted(blocked))
    if kind == "hopeless":
        raise Unavailable("the slot is taken")
    while True:
        signal.sigwait({signal.SIGTERM} if kind != "stubborn" else {signal.SIGUSR1})
        note(name, "ended")
        return

children = [supervisor.Child(arg.split("=")[0], partial(main, *arg.split("="))) for arg in sys.argv[2:]]
sys.exit(supervisor._supervise(children))
"""


@dataclass
class Family:
    """A supervisor with its children; `notes` is what they wrote down."""

    process: subprocess.Popen[bytes]
    path: Path

    def notes(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def until(self, count: int, name: str = "") -> list[str]:
        """Return the notes of `name` once there are so many."""
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            found = [note for note in self.notes() if note.startswith(name)]
            if len(found) >= count:
                return found
            time.sleep(0.01)
        raise AssertionError(f"{name}: {self.notes()}")

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(WITHIN_S)


@contextmanager
def family(tmp_path: Path, **kinds: str) -> Iterator[Family]:
    path = tmp_path / "notes"
    arguments = [f"{name}={kind}" for name, kind in kinds.items()]
    process = subprocess.Popen(
        [sys.executable, "-c", FAMILY, str(path), *arguments],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield Family(process, path)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.requirement("supervisor:restart")
def test_a_child_that_dies_is_started_again_and_the_others_go_on(tmp_path: Path) -> None:
    with family(tmp_path, keeper="well", w0="well", w1="well") as running:
        running.until(3)
        [first] = running.until(1, "w0")
        os.kill(int(first.split()[1]), signal.SIGKILL)
        second = running.until(2, "w0")[1]
        assert second.split()[1] != first.split()[1]
        assert len(running.notes()) == 4
        assert running.process.poll() is None


@pytest.mark.requirement("supervisor:restart")
def test_a_child_blocks_no_signals(tmp_path: Path) -> None:
    with family(tmp_path, keeper="well", w0="well") as running:
        assert [len(note.split()) for note in running.until(2)] == [2, 2]


@pytest.mark.requirement("supervisor:restart")
def test_a_child_that_keeps_failing_is_started_later_each_time_and_at_once_after_a_good_while() -> None:
    child = Child("w0", lambda: None)
    delays = []
    for lived_s in (0.1, 0.1, 0.1, 0.1, 0.1, 31.0, 0.1):
        child._started = time.monotonic() - lived_s
        before = time.monotonic()
        child.ended(0)
        delays.append(round(child._not_before - before, 1))
    assert delays == [0.2, 1.0, 5.0, 5.0, 5.0, 0.0, 0.2]


@pytest.mark.requirement("supervisor:restart")
def test_when_no_worker_can_be_started_it_gives_up(tmp_path: Path) -> None:
    with family(tmp_path, keeper="well", w0="hopeless", w1="hopeless") as running:
        assert running.process.wait(WITHIN_S) == 1
        assert "keeper ended" in running.notes()


@pytest.mark.requirement("supervisor:end")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_when_told_to_end_it_ends_the_workers_and_then_the_keeper(tmp_path: Path, how: signal.Signals) -> None:
    with family(tmp_path, keeper="well", w0="well", w1="well") as running:
        running.until(3)
        assert running.end(how) == 0
        ended = [note.split()[0] for note in running.notes() if note.endswith("ended")]
        assert sorted(ended[:2]) == ["w0", "w1"]
        assert ended[2:] == ["keeper"]


@pytest.mark.requirement("supervisor:end")
def test_a_worker_that_does_not_end_is_killed_and_the_keeper_still_ends_by_itself(tmp_path: Path) -> None:
    with family(tmp_path, keeper="well", w0="stubborn", w1="well") as running:
        [stubborn] = [note.split() for note in running.until(3) if note.startswith("w0")]
        assert running.end() == 0
        assert not Path(f"/proc/{stubborn[1]}").exists()
        assert running.notes()[-1] == "keeper ended"


@pytest.mark.requirement("supervisor:port")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_is_taken_is_refused_with_a_fix(host: str) -> None:
    family_of = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family_of) as taken:
        port = taken.getsockname()[1]
        settings = load(overrides={"server": {"host": host, "port": port}}, environ={})
        with pytest.raises(UsageError, match="choose another port: --port") as caught, listening(settings):
            pass
        assert f"{host}:{port}" in str(caught.value)


@pytest.mark.requirement("supervisor:port")
def test_the_port_is_open_before_any_worker_runs_and_closed_at_the_end() -> None:
    settings = load(overrides={"server": {"port": 0}}, environ={})
    with listening(settings) as listener:
        port = listener.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
