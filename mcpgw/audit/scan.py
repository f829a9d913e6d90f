"""Reading one log with suspicion: every fault is told with its place, and reading goes on behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from mcpgw.audit.checkpoint import Finding, LogHead
from mcpgw.audit.logs import Chain, Head, Tail, segments
from mcpgw.audit.tree import Frontier
from mcpgw.domain import Phase

Watch = Callable[[Head, bytes], str | None]
"""Says what is wrong with an intent, or None."""


class Calls(msgspec.Struct):
    """Intents and what became of them. `unknown_effect`: the writer died before their outcome; `open`: no word yet.

    `suspensions` are answers that asked something of the caller: the call went on as that of its retry, or ended.
    """

    intents: int = 0
    outcomes: int = 0
    refusals: int = 0
    unknown_effect: list[str] = []
    open: list[str] = []
    suspensions: int = 0


class LogScan:
    """One log, read as far as asked. `kept` holds roots by size and leaves by index that somebody outside has kept."""

    def __init__(self, directory: Path, watch: Watch | None = None) -> None:
        self.log = directory.name
        self.findings: list[Finding] = []
        self.calls = Calls()
        self.torn = 0  # bytes behind the last record: a write that a crash, or the copying, cut short
        self.kept_roots: dict[int, str] = {}
        self.kept_leaves: dict[int, str] = {}
        self._directory = directory
        self._watch = watch
        self._chain = Chain(self.log)
        self._frontier = Frontier()
        self._sound = True  # the tree is still the one that was signed
        self._signed = 0  # the size at which it last was
        self._short = False
        self._owing: dict[str, None] = {}
        self._records = self._read()

    @property
    def size(self) -> int:
        return self._frontier.size

    def compare(self, head: LogHead, when: str) -> None:
        """Read up to where `head` stands and hold the tree against it. Sizes come in order."""
        while self.size < head.size and next(self._records, None):
            pass
        self._reach(head.size, when)
        if self.size == head.size:
            self._hold_against(head.root, when)

    def finish(self) -> None:
        """Read to the end."""
        for _ in self._records:
            pass
        for size in self.kept_roots:
            self._reach(size, "the kept checkpoint")
        for index in self.kept_leaves:
            self._reach(index + 1, "a kept receipt")
        self.calls.open = list(self._owing)

    def _read(self) -> Iterator[bool]:
        """Take in record after record, over the ends of files and over gaps. The log may be growing meanwhile."""
        files = segments(self._directory)  # All that precedes the newest of these is complete.
        tail = Tail(self._directory)
        while True:
            yield from self._take_all(tail)
            later = next((first for first in files if first > tail.segment), None)
            rest = tail.rest()
            if later is None:
                if b"\n" in rest and any(self._take_all(tail)):
                    return  # It was being written.
                self.torn = len(rest)
                if b"\n" in rest:
                    self._tell(self._chain.index, "is overwritten with NULs, with records behind it")
                return
            if rest:
                self._tell(self._chain.index, "is cut off at the end of its file")
            if self._chain.index != later:
                self._tell(self._chain.index, f"should come next, but the next file begins with {later}")
                self._chain.index, self._chain.previous = later, None
            tail = Tail(self._directory, later, later)

    def _take_all(self, tail: Tail) -> Iterator[bool]:
        for line in tail.lines():
            self._take(line)
            yield True

    def _take(self, line: bytes) -> None:
        leaf, head, faults = self._chain.follow(line)
        for index, what in faults:
            self._tell(index, what)
        self._frontier.append(leaf)
        if self.kept_leaves:
            index = self._chain.index - 1
            kept = self.kept_leaves.get(index, leaf.hex())
            if kept != leaf.hex():
                self._tell(index, f"is not what a kept receipt names: leaf {leaf.hex()} here, {kept} there")
        if self.size in self.kept_roots:
            self._hold_against(self.kept_roots[self.size], "the kept checkpoint")
        if head is not None:
            self._pair(head, line)

    def _pair(self, head: Head, line: bytes) -> None:
        calls = self.calls
        if head.phase is Phase.INTENT:
            calls.intents += 1
            self._owing[head.action_id] = None
            wrong = self._watch(head, line) if self._watch is not None else None
            if wrong is not None:
                self.findings.append(Finding(self.log, head.index, wrong))
        elif head.phase is Phase.OUTCOME:
            calls.outcomes += 1
            if head.action_id in self._owing:
                del self._owing[head.action_id]
            else:
                self.findings.append(Finding(self.log, head.index, "is an outcome without an intent"))
        elif head.phase is Phase.SUSPENDED:
            calls.suspensions += 1
        elif head.phase is Phase.CLOSED:
            self._owing.pop(head.action_id, None)  # a suspended call has no outcome of its own
        elif head.phase is Phase.REFUSED:
            calls.refusals += 1
        elif head.phase is Phase.RECOVERED:
            calls.unknown_effect += self._owing
            self._owing = {}

    def _reach(self, size: int, when: str) -> None:
        if self._chain.index < size and not self._short:
            self._short = True
            self._tell(self._chain.index, f"is missing: {when} covers {size} records")

    def _hold_against(self, root: str, when: str) -> None:
        if not self._sound:
            return
        here = self._frontier.root().hex()
        if here == root:
            self._signed = self.size
            return
        place = f"or one up to {self.size - 1} " if self.size - 1 > self._signed else ""
        self._tell(self._signed, f"{place}is not what {when} covers: root {here} here, {root} there")

    def _tell(self, index: int, what: str) -> None:
        self._sound = False
        self.findings.append(Finding(self.log, index, what))
