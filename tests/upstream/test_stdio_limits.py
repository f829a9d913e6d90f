"""Server processes that take more than they should, and that nobody is left to end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import anyio
import pytest

from mcpgw.config import LimitsSection, ProcessLimits, StdioServer
from mcpgw.domain import Transport, Verb
from mcpgw.errors import UpstreamFailed
from mcpgw.upstream import stdio_exec
from mcpgw.upstream.stdio import StdioServers
from tests.fixtures.processes import state_of
from tests.harness import ROOT, until
from tests.upstream.calls import LIMITS, Caller, HandClock, version
from tests.upstream.test_stdio import LINES, about, servers_of, until_gone

Serve = Callable[..., Caller]
GONE_S = 2.0  # after the worker


@pytest.fixture
async def serve(clock: HandClock) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        def declare(*, limits: LimitsSection = LIMITS, **process: int) -> Caller:
            command = (sys.executable, "-IS", str(LINES), "legacy")
            entry = StdioServer(name="lines", command=command, limits=ProcessLimits(**process))
            servers = StdioServers([entry], limits, clock, lambda name, kind: None)
            stack.push_async_callback(servers.aclose)
            return Caller(servers, version("lines", transport=Transport.STDIO))

        yield declare


@pytest.mark.requirement("stdio:resources")
async def test_a_process_has_sound_limits_and_those_of_its_entry(serve: Serve) -> None:
    sound = await about(serve())
    assert (sound["limits"]["RLIMIT_CORE"], sound["limits"]["RLIMIT_NOFILE"]) == ([0, 0], [1024, 1024])
    assert sound["open"] == [0, 1, 2]
    own = {"memory_bytes": 2**40, "cpu_s": 1000, "files": 100, "processes": 90, "file_bytes": 5000}
    limits = (await about(serve(**own)))["limits"]
    assert limits == {
        "RLIMIT_CORE": [0, 0],
        "RLIMIT_NOFILE": [100, 100],
        "RLIMIT_AS": [2**40, 2**40],
        "RLIMIT_CPU": [1000, 1000],
        "RLIMIT_NPROC": [90, 90],
        "RLIMIT_FSIZE": [5000, 5000],
    }


@pytest.mark.requirement("stdio:resources")
async def test_a_limit_above_that_of_the_gateway_is_the_gateways(serve: Serve) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert (await about(serve(files=hard * 2)))["limits"]["RLIMIT_NOFILE"] == [hard, hard]


@pytest.mark.requirement("stdio:resources")
async def test_a_fork_bomb_stops_at_the_limit_and_is_ended_whole(serve: Serve) -> None:
    caller = serve(processes=8)
    pid = (await about(caller))["pid"]
    with anyio.fail_after(10):
        bomb = json.loads((await caller.call("fork")).text)
    assert bomb["refused"]
    assert bomb["started"] < 8
    members = group_of(pid)
    assert len(members) == bomb["started"] + 1
    with anyio.fail_after(5):
        await servers_of(caller).stop("lines")
    for member in members:
        await until_gone(member)


def group_of(pid: int) -> list[int]:
    """Return the processes of a group."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == pid:
            found.append(int(path.parent.name))
    return found


@pytest.mark.requirement("stdio:resources")
async def test_memory_files_and_processor_time_have_an_end(serve: Serve, clock: HandClock, tmp_path: Path) -> None:
    hoarding = await serve(memory_bytes=500_000_000).call("hoard")
    assert hoarding.text == '"no memory"'
    too_long = tmp_path / "too-long"
    with pytest.raises(UpstreamFailed, match="ended"):
        await serve(file_bytes=5000).call("write", json.dumps({"path": str(too_long)}).encode())
    assert too_long.stat().st_size <= 5000
    with anyio.fail_after(20), pytest.raises(UpstreamFailed, match="ended by signal"):
        await serve(cpu_s=1).call("spin")


@pytest.mark.requirement("stdio:limits")
async def test_a_line_of_a_gigabyte_does_not_fill_the_memory(serve: Serve) -> None:
    caller = serve(limits=LIMITS.model_copy(update={"result_bytes": 1_000_000}))
    await about(caller)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with anyio.fail_after(10), pytest.raises(UpstreamFailed, match="line of more than 1000000 bytes"):
        await caller.call("gigabyte")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


@pytest.mark.requirement("stdio:limits")
async def test_a_process_that_complains_for_ever_is_stopped_like_any_other(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpgw.upstream.stdio_log.BYTES_PER_S", 10_000)
    caplog.set_level(logging.INFO, "mcpgw.stdio")
    caller, sane = serve(), serve()
    pid = (await about(caller))["pid"]
    exchange = await caller.send(Verb.TOOLS_CALL, name="endless")
    with anyio.fail_after(10):
        while "again and again" not in caplog.text:
            await asyncio.sleep(0.01)
        assert (await sane.call("echo")).text == "{}"
        await servers_of(caller).stop("lines")
    await until_gone(pid)
    await exchange.aclose(None)
    assert len(caplog.text) < 10_000_000


@pytest.mark.requirement("stdio:process")
def test_the_program_finds_nothing_of_what_started_it() -> None:
    """No signal is ignored, no variable there that nobody gave, the guard's pipe is closed."""
    assert b"SigIgn:\t0000000000000000" in executed("cat", "/proc/self/status")
    given = {"PATH": os.environ["PATH"], "ODD": "a=b", "EMPTY": ""}
    variables = executed("cat", "/proc/self/environ", env=given).decode().rstrip("\0").split("\0")
    assert dict(variable.split("=", 1) for variable in variables) == given
    assert executed("ls", "/proc/self/fd").split() == [b"0", b"1", b"2", b"3"]  # the last one is the directory
    assert executed("printf", "%s|", "two words", "*", "$HOME", "") == b"two words|*|$HOME||"


def executed(*command: str, env: Mapping[str, str] | None = None) -> bytes:
    """Return the output of a command that was started as a server is; its group was made known before."""
    source, pipe = os.pipe()
    with os.fdopen(source, "rb") as guard:
        with os.fdopen(pipe, "wb", 0):
            ran = subprocess.run(
                [sys.executable, "-I", "-S", stdio_exec.__file__, str(pipe), "RLIMIT_CORE=0", *command],
                env=env or {"PATH": os.environ["PATH"]},
                pass_fds=(pipe,),
                start_new_session=True,
                capture_output=True,
                check=True,
                timeout=20,
            )
        assert guard.readline().startswith(b"+")
    return ran.stdout


@contextmanager
def a_worker(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (directory / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.upstream.stdio_worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    with worker:
        try:
            yield worker
        finally:
            worker.kill()


def told_by(worker: subprocess.Popen[bytes]) -> dict[str, int]:
    assert worker.stdout is not None
    found: dict[str, int] = json.loads(worker.stdout.readline())
    return found


def all_gone(pids: list[int]) -> bool:
    return all(state_of(pid) in {"gone", "Z"} for pid in pids)


@pytest.mark.requirement("stdio:ending")
def test_what_a_killed_worker_leaves_behind_is_ended_with_its_children(tmp_path: Path) -> None:
    with a_worker(tmp_path) as worker:
        pids = list(told_by(worker).values())
        worker.kill()
        worker.wait()
        until(lambda: all_gone(pids), "the processes of a killed worker end", GONE_S)


@pytest.mark.requirement("stdio:ending")
def test_a_guard_that_died_is_replaced_by_one_that_knows_all_processes(tmp_path: Path) -> None:
    with a_worker(tmp_path) as worker:
        first = told_by(worker)
        assert worker.stdin is not None
        worker.stdin.write(b"\n")
        worker.stdin.flush()
        second = told_by(worker)
        assert second["guard"] != first["guard"]
        assert state_of(first["leader"]) != "gone"
        worker.kill()
        worker.wait()
        until(lambda: all_gone([*first.values(), *second.values()]), "the processes of both guards end", GONE_S)
