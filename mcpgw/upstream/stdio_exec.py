"""Becomes a server process: `python -I -S stdio_exec.py GUARD LIMITS COMMAND...`, in its directory and environment.

It names its process group to the guard (GUARD is the file descriptor of its pipe), sets its resource limits (LIMITS is
`RLIMIT_CORE=0,…`) and executes the command. A program of its own, because nothing may run in our process between fork
and exec, where other threads may hold any lock; it imports nothing of ours, so that it costs a few milliseconds.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

CANNOT_START = 127  # as shells say it


def main() -> None:
    guard, limits, *command = sys.argv[1:]
    try:
        os.write(int(guard), b"+%d\n" % os.getpgid(0))
        os.close(int(guard))
        for limit in limits.split(","):
            name, _, value = limit.partition("=")
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            most = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
            resource.setrlimit(kind, (most, most))
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and an ignored signal stays ignored
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(command[0], command, _environment())  # noqa: S606 - no shell is what is wanted
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        sys.stderr.write(f"cannot be started: {reason}\n")
        sys.exit(CANNOT_START)


def _environment() -> dict[bytes, bytes]:
    """Return the environment as it was given: Python adds LC_CTYPE to its own where there is no locale (PEP 538)."""
    with open("/proc/self/environ", "rb") as given:
        variables = given.read().split(b"\0")
    return {name: value for name, is_one, value in (v.partition(b"=") for v in variables) if is_one}


if __name__ == "__main__":
    main()
