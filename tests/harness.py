"""A real gateway in its own processes, with keys, a policy and servers: what end-to-end tests start."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mcpgw.cli.api import Api, request
from mcpgw.cli.api import Gateway as Address
from mcpgw.cluster import EpochBoard
from mcpgw.config import load
from mcpgw.errors import GatewayError
from mcpgw.processes import bootstrap
from tests.fixtures.processes import free_port

ROOT = Path(__file__).parents[1]
READY_S = 30.0
POLL_S = 0.01
T = TypeVar("T")


def until(found: Callable[[], T | None], what: str, within_s: float = 10.0) -> T:
    """Return the first true value of `found`, for what cannot tell by itself that it has come."""
    deadline = time.monotonic() + within_s
    while not (value := found()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        time.sleep(POLL_S)
    return value


def rego(name: str) -> Mapping[str, str]:
    """Return a bundled policy: `example`, `allow_all` or `deny_all`."""
    return {f"{name}.rego": (files("mcpgw.policies") / "rego" / f"{name}.rego").read_text(encoding="utf-8")}


@dataclass
class GatewayProcess:
    """A running gateway. `admin` is a client of its admin API with the admin key."""

    base_url: str
    data_dir: Path
    agent_key: str
    admin_key: str
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)
    workers: int = 1

    @property
    def audit_dir(self) -> Path:
        return self.data_dir / "audit"

    @property
    def admin(self) -> Api:
        return Api(Address(self.base_url, self.admin_key))

    @property
    def mcp_url(self) -> str:
        return f"{self.base_url}/mcp"

    def server_url(self, slug: str) -> str:
        return f"{self.base_url}/mcp/{slug}"

    def publish(self, slug: str, url: str | None = None, *, version: str | None = None) -> str:
        """Register (when a URL is given), publish, approve and activate; return the version."""
        if url is not None:
            self.admin.post("/servers", {"slug": slug, "url": url})
        published: str = self.admin.post(f"/servers/{slug}/versions", {"version": version})["version"]
        self.admin.post(f"/servers/{slug}/versions/{published}/approve")
        self.admin.post(f"/servers/{slug}/versions/{published}/activate")
        return published

    def new_key(self, subject: str, *roles: str) -> tuple[str, str]:
        """Return the id and the text of a new key, of an agent when no role is named."""
        made = self.admin.post("/keys", {"subject": subject, "roles": list(roles or ("agent",))})
        return made["id"], made["key"]

    def pids(self) -> list[int]:
        """Return the process of each worker that is up to date, by slot."""
        board = EpochBoard(self.data_dir / "run")
        slots = range(self.workers)
        return [board.pid(i) for i in slots if board.applied(i) >= max(1, board.published())]

    def cli(self, *arguments: str, key: str | None = None, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command as an operator would, against this gateway."""
        env = {**os.environ, "MCPGW_URL": self.base_url, "MCPGW_KEY": key or self.admin_key, "NO_COLOR": "1"}
        command = [sys.executable, "-m", "mcpgw", *arguments]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=check)

    def output(self) -> str:
        return self.log.read_text(errors="replace")


@contextmanager
def gateway(
    directory: Path,
    *,
    config: Mapping[str, Any] | None = None,
    policy: Mapping[str, str] | None = None,
    workers: int = 1,
    dev_no_auth: bool = False,
    resume: GatewayProcess | None = None,
    closed: bool = False,
) -> Iterator[GatewayProcess]:
    """Run a gateway on a data directory below `directory`; `resume`: the same data and keys once more.

    The block is entered when all workers are ready; with `closed`: as soon as one says that it is not.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    data_dir = directory / "data"
    tree: dict[str, Any] = {"data_dir": str(data_dir), **(config or {})}
    tree["server"] = {**tree.get("server", {}), "port": port, "workers": workers, "dev_no_auth": dev_no_auth}
    path = directory / "mcpgw.yaml"
    path.write_text(yaml.safe_dump(tree))
    if resume is None:
        made = asyncio.run(bootstrap(load(path, environ={}), policy or rego("example")))
        agent_key, admin_key = made.agent_key, made.admin_key
    else:
        agent_key, admin_key = resume.agent_key, resume.admin_key
    log = directory / "gateway.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mcpgw", "serve", "--config", str(path)],
            cwd=ROOT,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    running = GatewayProcess(f"http://127.0.0.1:{port}", data_dir, agent_key, admin_key, log, process, workers)
    try:
        _wait_ready(running, 503 if closed else 200)
        if not closed:
            until(lambda: len(running.pids()) == workers, "all workers ready")
        yield running
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a gateway as an operator would, and whatever is left of it by force."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(15)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """`kill -9` every process of a gateway at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_ready(running: GatewayProcess, wanted: int) -> None:
    deadline = time.monotonic() + READY_S
    last: object = None
    while time.monotonic() < deadline:
        if running.process.poll() is not None:
            raise RuntimeError(f"the gateway ended at its start:\n{running.output()}")
        try:
            status, last = request(running.base_url, "GET", "/readyz")
            if status == wanted:
                return
        except GatewayError as error:
            last = error
        time.sleep(POLL_S)
    raise RuntimeError(f"the gateway does not say {wanted}: {last}\n{running.output()}")
