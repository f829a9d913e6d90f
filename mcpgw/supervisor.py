"""The parent of the workers and the keeper: it opens the port, forks them, and forks them again when they die."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from mcpgw.config import Settings
from mcpgw.errors import GatewayError, UsageError
from mcpgw.processes import check_vault, give_first_key, prepare, run_keeper, run_worker

log = logging.getLogger("mcpgw.supervisor")
DRAIN_S = 12.0
BACKLOG = 2048
_RESTART_AFTER_S = (0.0, 0.2, 1.0, 5.0)
_HEALTHY_AFTER_S = 30.0
MAX_FAILED_STARTS = 3
CANNOT_START = 78  # EX_CONFIG: what is wrong will be wrong again


class Child:
    """A forked process that is forked again when it ends."""

    def __init__(self, name: str, main: Callable[[], None]) -> None:
        self.name = name
        self._main = main
        self.pid = 0
        self._started = 0.0
        self._failures = 0
        self._not_before = 0.0
        self.hopeless = False

    def ended(self, status: int) -> None:
        """Plan the next start: at once the first time, later when it keeps failing."""
        now = time.monotonic()
        self._failures = 0 if now - self._started > _HEALTHY_AFTER_S else self._failures + 1
        self._not_before = now + _RESTART_AFTER_S[min(self._failures, len(_RESTART_AFTER_S) - 1)]
        self.pid = 0
        code = os.waitstatus_to_exitcode(status)
        self.hopeless = code == CANNOT_START and self._failures >= MAX_FAILED_STARTS
        log.warning("%s ended with %s", self.name, code)

    def start_if_due(self) -> None:
        if self.pid == 0 and time.monotonic() >= self._not_before:
            self.start()

    def start(self) -> None:
        self._started = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                self._main()
                code = 0
            except GatewayError as error:
                log.error("%s: %s", self.name, error)
                code = CANNOT_START
            except BaseException:
                log.exception("%s failed", self.name)
            finally:
                os._exit(code)


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. Raises UsageError when it cannot start."""
    prepare(settings)
    give_first_key(settings)
    check_vault(settings)
    # What is loaded by now never becomes garbage: no collector need look at it, nor by looking make a copy of its own.
    gc.collect()
    gc.freeze()
    with listening(settings) as listener:
        keeper = Child("keeper", partial(run_keeper, settings))
        workers = [
            Child(f"worker w{i}", partial(run_worker, settings, i, listener)) for i in range(settings.server.workers)
        ]
        return _supervise([keeper, *workers])


@contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """Open the port that all workers accept on."""
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"cannot listen on {host}:{port}: {error.strerror}", fix="choose another port: --port"
            ) from None
        listener.listen(BACKLOG)
        listener.setblocking(False)
        yield listener
    finally:
        listener.close()


def _supervise(children: list[Child]) -> int:
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending | {signal.SIGCHLD})
    for child in children:
        child.start()
    while True:
        received = signal.sigtimedwait(ending | {signal.SIGCHLD}, 0.2)
        if received is not None and received.si_signo in ending:
            return _end(children)
        for child in children:
            _reap(child)
        if not any(worker.pid for worker in children[1:]) and any(worker.hopeless for worker in children[1:]):
            log.error("no worker can be started: giving up")
            _end(children)
            return 1
        for child in children:
            child.start_if_due()


def _reap(child: Child) -> None:
    if child.pid:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            child.ended(status)


def _end(children: list[Child]) -> int:
    """Let the workers finish what they are doing, then the keeper, which signs what they wrote."""
    keeper, *workers = children
    for group in (workers, [keeper]):
        for child in group:
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + DRAIN_S
        for child in group:
            while child.pid and time.monotonic() < deadline:
                pid, _ = os.waitpid(child.pid, os.WNOHANG)
                if pid:
                    child.pid = 0
                else:
                    time.sleep(0.02)
            if child.pid:
                log.warning("%s did not end in time", child.name)
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
                child.pid = 0
    return 0
