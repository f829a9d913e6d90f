"""How server processes are started: under limits, and under a guard that outlives their worker."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mcpgw.config import ProcessLimits

log = logging.getLogger("mcpgw.stdio")

_HERE = Path(__file__).parent
# Alone: no site packages, no variables of the environment, nothing of the working directory.
_PYTHON = (sys.executable, "-I", "-S")
_RLIMITS = {
    "memory_bytes": "RLIMIT_AS",
    "cpu_s": "RLIMIT_CPU",
    "files": "RLIMIT_NOFILE",
    "processes": "RLIMIT_NPROC",
    "file_bytes": "RLIMIT_FSIZE",
}


def limited(command: Sequence[str], limits: ProcessLimits, guard_fd: int) -> Sequence[str]:
    """Return what starts this command under these limits, its group known to the guard."""
    given = {rlimit: getattr(limits, name) for name, rlimit in _RLIMITS.items()}
    # A core file would hold the server's secrets.
    wanted = ["RLIMIT_CORE=0", *(f"{rlimit}={value}" for rlimit, value in given.items() if value is not None)]
    return (*_PYTHON, str(_HERE / "stdio_exec.py"), str(guard_fd), ",".join(wanted), *command)


class Guard:
    """A process of its own, started for the first server process of a worker: it ends them all when that is killed.

    It learns of a process group from that itself, before the server's program is executed.
    """

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1

    def fd(self) -> int:
        """Return the pipe that a process to be started must get, the guard started if need be. Raises OSError."""
        if self._process is None or self._process.poll() is not None:
            if self._process is not None:
                log.warning("the guard of the server processes has ended, and is started again")
                self._close()
            self._start()
        return self._pipe

    def began(self, group: int) -> None:
        self._groups.add(group)

    def ended(self, group: int) -> None:
        """The group is gone, and its number is free for others."""
        self._groups.discard(group)
        self._tell(b"-%d\n" % group)

    def close(self) -> None:
        """End the guard, and with it what is left of the processes."""
        if self._process is not None:
            self._close()
            if not self._groups:
                self._process.wait()
            self._process = None

    def _start(self) -> None:
        source, self._pipe = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - a program of ours
                [*_PYTHON, str(_HERE / "stdio_guard.py")],
                stdin=source,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,  # what is signalled to the gateway's group is not for it
            )
        finally:
            os.close(source)
        for group in self._groups:
            self._tell(b"+%d\n" % group)

    def _tell(self, line: bytes) -> None:
        with suppress(OSError):  # it has died: the next process to start brings another
            os.write(self._pipe, line)

    def _close(self) -> None:
        with suppress(OSError):
            os.close(self._pipe)
