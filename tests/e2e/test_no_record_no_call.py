"""No record, no call: the log's disk is full, or refuses to take a record."""

from __future__ import annotations

import ctypes
import os
import resource
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mcpgw.audit.verify import verify
from mcpgw.domain import Phase
from tests.e2e.client import Answer, Client, through
from tests.e2e.parts import MARKED, Witness, a_witness, lines_of, marker_of, signed_epoch
from tests.harness import GatewayProcess, gateway, rego, until

SEGMENT = 65_536
ROOM_BYTES = 4 * 1024 * 1024
FILE_LIMIT = 512 * 1024  # above the state database, below a file of the log
SHORT_FILES = {"audit": {**MARKED["audit"], "segment_bytes": FILE_LIMIT}}  # with its reserve it is too large
CALLS = 2_000  # more than fit into the room that is left
REFUSED_WITHIN_S = 0.25


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    with a_witness(tmp_path) as found:
        yield found


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """Mount a file system of ROOM_BYTES at `path`."""
    libc = ctypes.CDLL(None, use_errno=True)
    path.mkdir(parents=True)
    if libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, b"size=%d" % ROOM_BYTES):
        pytest.skip(f"mounting a tmpfs: {os.strerror(ctypes.get_errno())}; run as root, in a container --privileged")
    try:
        yield
    finally:
        libc.umount2(os.fsencode(path), 2)  # MNT_DETACH


def fill(path: Path) -> Path:
    """Use up the file system of `path`; return the file that does."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return filler


def call_until_refused(client: Client) -> list[str]:
    """Call until there is no room for another record; return the markers of the calls that were answered."""
    answered: list[str] = []
    for number in range(CALLS):
        marker = f"{id(client)}-{number}"
        answer = client.call("echo", text="x", marker=marker)
        if answer.status == 503:
            return answered
        assert answer.ok, answer
        answered.append(marker)
    raise AssertionError(f"{CALLS} calls found room")


def check_refusals(clients: list[Client], witness: Witness) -> None:
    """Every worker refuses, at once, and nothing goes out."""
    before = len(witness.arrivals())
    took = []
    for client in clients * 10:
        started = time.monotonic()
        assert client.call("echo", text="x", marker="unrecorded").status == 503
        took.append(time.monotonic() - started)
    assert statistics.median(took) < REFUSED_WITHIN_S
    assert len(witness.arrivals()) == before


def slow_call(pool: ThreadPoolExecutor, at: GatewayProcess, worker: str, seconds: float) -> Future[Answer]:
    """Begin a call through a worker that is answered after a time."""
    client = through(worker, at, at.agent_key, "/mcp/alpha")

    def call() -> Answer:
        with client:
            return client.call("slow", seconds=seconds, marker=f"slow-{worker}")

    return pool.submit(call)


@pytest.mark.requirement("audit:no-record-no-call", "audit:room-for-outcomes", "kill:no-room")
def test_on_a_full_disk_nothing_goes_out_what_runs_is_recorded_and_a_kill_works(
    tmp_path: Path, witness: Witness
) -> None:
    config = {"audit": {**MARKED["audit"], "segment_bytes": SEGMENT, "reserve_bytes": SEGMENT}}
    home = tmp_path / "gateway"
    with (
        small_disk(home / "data" / "audit"),
        ThreadPoolExecutor() as pool,
        ExitStack() as opened,
        gateway(home, config=config, policy=rego("allow_all"), workers=2) as running,
    ):
        running.publish("alpha", witness.url("alpha"))
        under_way = [slow_call(pool, running, worker, 2.0) for worker in ("w0", "w1")]
        witness.arrivals(2)
        filler = fill(running.audit_dir)
        clients = [opened.enter_context(through(w, running, running.agent_key, "/mcp/alpha")) for w in ("w0", "w1")]
        answered = [marker for client in clients for marker in call_until_refused(client)]
        check_refusals(clients, witness)
        assert all(call.result().ok for call in under_way)
        kill = running.admin.post("/kill-switches", {"scope": "tool", "selector": "alpha/slow", "reason": "drill"})
        assert kill["missing"] == []
        filler.unlink()
        until(lambda: all(client.call("echo", text="x", marker="again").ok for client in clients), "room again", 2.0)
        assert [client.call("slow", seconds=0).reason for client in clients] == ["killed", "killed"]
        until(lambda: signed_epoch(running.audit_dir) >= kill["epoch"], "a checkpoint over the kill")
        until((running.audit_dir / "kills" / f"{kill['id']}.json").exists, "its certificate is stored")
        report = verify(running.audit_dir, kill=kill["id"])
        assert report.ok, report.findings
        lines = lines_of(running.audit_dir)
    actions = {marker: line.action_id for line in lines if (marker := marker_of(line)) is not None}
    outcomes = {line.action_id for line in lines if line.phase is Phase.OUTCOME}
    assert {arrival.marker for arrival in witness.arrivals()} == actions.keys()
    assert {actions[marker] for marker in (*answered, "slow-w0", "slow-w1", "again")} <= outcomes


@pytest.mark.requirement("ready:audit-sink")
def test_a_gateway_that_cannot_record_says_that_it_is_not_ready(tmp_path: Path, witness: Witness) -> None:
    with gateway(tmp_path / "gateway", config=SHORT_FILES, policy=rego("allow_all")) as running:
        running.publish("alpha", witness.url("alpha"))
        with no_growth(running), Client(running.base_url, running.agent_key, "/mcp/alpha") as client:
            call_until_refused(client)
            assert client.get("/readyz").status == 503
        with Client(running.base_url, running.agent_key, "/mcp/alpha") as client:
            assert client.call("echo", text="x").ok
            assert client.get("/readyz").status == 200


@contextmanager
def no_growth(at: GatewayProcess) -> Iterator[None]:
    """Let the kernel refuse the workers every file of more than FILE_LIMIT: no log can go on in another one."""
    pids = at.pids()
    before = [resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids]
    for pid, (_, hard) in zip(pids, before, strict=True):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILE_LIMIT, hard))
    try:
        yield
    finally:
        for pid, limits in zip(pids, before, strict=True):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@pytest.mark.requirement("audit:no-record-no-call", "audit:room-for-outcomes")
def test_when_no_record_can_be_written_no_call_goes_out_and_what_runs_still_has_room_for_its_own(
    tmp_path: Path, witness: Witness
) -> None:
    with (
        ThreadPoolExecutor() as pool,
        ExitStack() as opened,
        gateway(tmp_path / "gateway", config=SHORT_FILES, policy=rego("allow_all"), workers=2) as running,
    ):
        running.publish("alpha", witness.url("alpha"))
        clients = [opened.enter_context(through(w, running, running.agent_key, "/mcp/alpha")) for w in ("w0", "w1")]
        with no_growth(running):
            under_way = slow_call(pool, running, "w1", 8.0)
            witness.arrivals(1)
            for client in clients:
                call_until_refused(client)
            check_refusals(clients, witness)
            kill = running.admin.post("/kill-switches", {"scope": "server", "selector": "beta", "reason": "drill"})
            assert kill["missing"] == []
            assert under_way.result().ok
        assert all(client.call("echo", text="x", marker="again").ok for client in clients)
    report = verify(running.audit_dir, kill=kill["id"])
    assert report.ok, report.findings
    lines = lines_of(running.audit_dir)
    actions = {marker: line.action_id for line in lines if (marker := marker_of(line)) is not None}
    assert {arrival.marker for arrival in witness.arrivals()} <= actions.keys()
    assert actions["slow-w1"] in {line.action_id for line in lines if line.phase is Phase.OUTCOME}
