"""A worker with one server process and that one's child: `python -m tests.upstream.stdio_worker`, ended by kill -9.

It prints the ids of both, and of their guard; for each line of its input it kills the guard and starts another process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from mcpgw.clock import SystemClock
from mcpgw.config import StdioServer
from mcpgw.domain import Transport
from mcpgw.upstream.stdio import StdioServers
from tests.upstream.calls import LEGACY, LIMITS, Caller, version

LINES = Path(__file__).with_name("line_server.py")


def guard() -> int:
    """Return the process whose command says that it is the guard."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    [found] = [pid for pid in children if b"stdio_guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return int(found)


async def main() -> None:
    command = (sys.executable, "-IS", str(LINES), "legacy", "stubborn")
    entry = StdioServer(name="srv", command=command, per="session")
    servers = StdioServers([entry], LIMITS, SystemClock(), lambda name, kind: None)
    for session in ("s-1", "s-2"):
        caller = Caller(servers, version("srv", transport=Transport.STDIO), client=LEGACY, session=session)
        leader = json.loads((await caller.call("about")).text)["pid"]
        child = json.loads((await caller.call("child")).text)["pid"]
        print(json.dumps({"leader": leader, "child": child, "guard": guard()}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        killed = guard()
        os.kill(killed, signal.SIGKILL)
        os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)


if __name__ == "__main__":
    asyncio.run(main())
