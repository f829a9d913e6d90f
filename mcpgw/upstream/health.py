"""Which upstreams have stopped answering: those are left alone for a while, so that nobody waits for them in vain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from mcpgw.errors import UpstreamUnreachable

FAILURES = 5  # in a row, after which an upstream is left alone
PAUSE_S, MAX_PAUSE_S = 1.0, 2.0
TRIAL_S = 3.0  # that the gateway's own trial waits for an answer to begin
UNTRIED_S = 2.0  # after which a call may be the trial, where the gateway makes none

_TRYING: ContextVar[bool] = ContextVar("trying an upstream that is left alone", default=False)


@contextmanager
def trial() -> Iterator[None]:
    """Let what is sent inside this block be the trial of an upstream that is left alone."""
    token = _TRYING.set(True)
    try:
        yield
    finally:
        _TRYING.reset(token)


@dataclass(slots=True)
class _Trouble:
    failures: int = 0
    pause_s: float = PAUSE_S
    until: float = 0.0
    trying: bool = False


class Health:
    """Counts what one worker sees, by URL.

    A failure is a connection that cannot be had, an answer that does not begin in time or breaks off, and a status of
    500 and more: not what a caller cancelled, and not what a server answers in the protocol.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._troubled: dict[str, _Trouble] = {}

    def admit(self, url: str) -> bool:
        """Say whether this request is a trial. Raises UpstreamUnreachable for an upstream that is left alone."""
        trouble = self._troubled.get(url)
        if trouble is None or trouble.failures < FAILURES:
            return False
        late_s = self._monotonic() - trouble.until
        if late_s >= (0.0 if _TRYING.get() else UNTRIED_S) and not trouble.trying:
            trouble.trying = True
            return True
        raise UpstreamUnreachable(
            "the upstream has stopped answering, and is left alone for a moment",
            fix="try again a little later; an operator looks at the server",
            data={"cause": "ejected", "retry_after_s": round(max(0.1, -late_s), 1)},
        )

    def failed(self, url: str) -> None:
        """Count a failure."""
        trouble = self._troubled.setdefault(url, _Trouble())
        trouble.failures += 1
        trouble.trying = False
        if trouble.failures >= FAILURES:
            trouble.until = self._monotonic() + trouble.pause_s
            trouble.pause_s = min(2 * trouble.pause_s, MAX_PAUSE_S)

    def answered(self, url: str) -> None:
        """Forget what was counted."""
        if self._troubled:
            self._troubled.pop(url, None)

    def given_up(self, url: str) -> None:
        """A request ended that says nothing about the upstream."""
        trouble = self._troubled.get(url)
        if trouble is not None:
            trouble.trying = False

    def due(self) -> Sequence[str]:
        """Return the URLs that want a trial now."""
        now = self._monotonic()
        return [url for url, t in self._troubled.items() if t.failures >= FAILURES and now >= t.until and not t.trying]
