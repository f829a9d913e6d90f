"""Ends the server processes of a worker that was killed: `python -I -S stdio_guard.py`, with a pipe as its input.

Lines of the pipe are process groups: `+123` has begun, `-123` is gone. When nobody can write there any more, the worker
is dead, however it died, and every group that is left gets SIGTERM, and SIGKILL half a second later.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

TERM_S = 0.5


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends after the worker, never before
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        group = int(line[1:])
        if line.startswith(b"+"):
            groups.add(group)
        else:
            groups.discard(group)
    if groups:
        _signal(groups, signal.SIGTERM)
        time.sleep(TERM_S)
        _signal(groups, signal.SIGKILL)


def _signal(groups: set[int], number: signal.Signals) -> None:
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


if __name__ == "__main__":
    main()
