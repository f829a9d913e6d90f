"""The command line as people use it: a process in a directory, and a server in front of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from starlette.types import ASGIApp

from tests.eventually import eventually

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which nothing of the machine's own gateway is known."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MCPGW_")}
    return {**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200", **more}


async def mcpgw(*arguments: str, cwd: Path, stdin: str = "", **env: str) -> Ran:
    """Run `mcpgw …` in a directory. Whatever happens, there is no traceback."""
    command = [sys.executable, "-m", "mcpgw", *arguments]
    with anyio.fail_after(60):
        ended = await anyio.run_process(command, input=stdin.encode(), cwd=cwd, env=environment(**env), check=False)
    ran = Ran(ended.returncode, ended.stdout.decode(), ended.stderr.decode())
    assert "Traceback" not in ran.out + ran.err, ran.out + ran.err
    return ran


@asynccontextmanager
async def served(app: ASGIApp, *, lifespan: bool = False) -> AsyncIterator[str]:
    """Serve an application on a port of its own; yield its URL."""
    config = uvicorn.Config(app, port=0, lifespan="on" if lifespan else "off", log_level="error")
    server = uvicorn.Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        await eventually(lambda: server.started, within_s=10)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
