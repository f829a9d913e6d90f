"""A terminal in a directory, where `mcpgw` is this checkout's: for what the documents and examples show."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tests.cli.parts import environment
from tests.harness import end, until

WITHIN_S = 60.0
MARK = "-- the prompt is back:"
IN_BACKGROUND = re.compile(r"2> (\S+) &$")


def with_mcpgw(directory: Path, **more: str) -> dict[str, str]:
    """Return an environment in which `mcpgw` runs this checkout with this Python."""
    program = directory / "bin" / "mcpgw"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m mcpgw "$@"\n')
    program.chmod(0o755)
    return environment(PATH=f"{program.parent}{os.pathsep}{os.environ['PATH']}", **more)


@contextmanager
def quickstart(home: Path, env: Mapping[str, str], *arguments: str) -> Iterator[dict[str, Any]]:
    """Run `mcpgw quickstart --json` in a directory; the block is entered with what it says when it is ready."""
    command = ["mcpgw", "quickstart", "--json", *arguments]
    process = subprocess.Popen(command, cwd=home, env=env, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    watchdog = threading.Timer(WITHIN_S, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    try:
        said = process.stdout.readline()
        watchdog.cancel()
        yield json.loads(said)
    finally:
        watchdog.cancel()
        end(process)
        process.stdout.close()


class Terminal:
    """A shell that stays: what one command sets or leaves running, the next one finds."""

    def __init__(self, home: Path, env: Mapping[str, str]) -> None:
        self._home = home
        self._shell = subprocess.Popen(
            ["sh"],
            cwd=home,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[list[str], int]:
        """Return the lines that a command prints, and its exit status.

        A call that is sent to the background with `2> FILE &` is waited for until it is under way: its progress is in
        the file.
        """
        shell = self._shell
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(f"{command}\nprintf '\\n%s %s\\n' '{MARK}' \"$?\"\n")
        shell.stdin.flush()
        watchdog = threading.Timer(WITHIN_S, os.killpg, (shell.pid, signal.SIGKILL))
        watchdog.start()
        printed = ""
        for line in shell.stdout:
            if line.startswith(MARK):
                break
            printed += line
        else:
            raise AssertionError(f"`{command}` did not end: {printed}")
        watchdog.cancel()
        background = IN_BACKGROUND.search(command)
        if background is not None:
            log = self._home / background[1]
            until(lambda: log.is_file() and "…" in log.read_text(), f"`{command}` is under way")
        return printed.removesuffix("\n").splitlines(), int(line.split()[-1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.close()
        os.killpg(self._shell.pid, signal.SIGTERM)
        self._shell.wait()
        self._shell.stdout.close()
