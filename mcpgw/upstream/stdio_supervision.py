"""A server of the operator's configuration and a process that stands for it now."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mcpgw.config import LimitsSection, StdioServer, secret
from mcpgw.domain import Principal, Verb
from mcpgw.errors import UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from mcpgw.ports import Gate
from mcpgw.upstream.farewells import patient
from mcpgw.upstream.greeting import Greeting, Hello, Live, greeting
from mcpgw.upstream.mcp_parts import (
    LIST_CHANGED,
    ListChanged,
    Message,
    modern_meta,
    next_id,
    notification,
    request,
)
from mcpgw.upstream.stdio_exec import CANNOT_START
from mcpgw.upstream.stdio_process import StdioProcess
from mcpgw.upstream.stdio_start import Guard

log = logging.getLogger("mcpgw.stdio")

PROBE_S = 10.0  # for `server/discover`, from the start of the process on
BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
HEALTHY_S = 30.0  # a process that lived this long starts a new count of failures


@dataclass(slots=True, kw_only=True)
class Program:
    """A server as its processes are started, and what they have taught us of its manners.

    `probes`: it bears `server/discover` as its first message; `modern_only`: it has refused `initialize`.
    """

    server: StdioServer
    environment: Mapping[str, str]
    limits: LimitsSection
    guard: Guard
    on_list_changed: ListChanged
    monotonic: Callable[[], float]
    probes: bool = True
    modern_only: bool = False

    def asked_first(self, hello: Hello) -> bool:
        """Whether a process is asked which generations it speaks, before it is greeted in one of them."""
        return self.probes and (self.modern_only or not hello.legacy_first)


class Supervised:
    """Starts a process when it is needed, and again after it has died: later and later while it keeps dying.

    `owner` is whom it serves alone; None: all callers.
    """

    def __init__(self, program: Program, owner: Principal | None = None) -> None:
        self.owner = owner
        self.used_at = 0.0
        self._program = program
        self._live: Live | None = None
        self._process: StdioProcess | None = None
        self._starting: asyncio.Task[Live] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._waiting = 0
        self._over = False
        self._failures = 0
        self._not_before = 0.0

    @property
    def running(self) -> Live | None:
        """The running process; None: there is none."""
        process = self._process
        return self._live if process is not None and process.running else None

    @property
    def busy(self) -> bool:
        live = self.running
        return self._waiting > 0 or self._starting is not None or (live is not None and len(live.link.frames) > 0)

    @property
    def listened_to(self) -> bool:
        live = self.running
        return live is not None and live.link.frames.listened_to

    async def live(self, gate: Gate, hello: Hello) -> Live:
        """Return the running process, started if need be. Raises UpstreamUnreachable, UpstreamFailed, UpstreamTimeout.

        `gate` is passed before the process is started and at each of its first frames. A caller that goes away does
        not end a start: others wait for it, or will.
        """
        self._waiting += 1
        try:
            return await self._started_by(gate, hello)
        finally:
            self._waiting -= 1

    async def _started_by(self, gate: Gate, hello: Hello) -> Live:
        while (live := self.running) is None:
            if self._watch is not None:
                await asyncio.wait((self._watch,))  # until the one before is gone
            if self._over:
                raise self._stopping(gate)
            starting = self._starting
            mine = starting is None
            if starting is None:
                self._refuse_too_early()
                starting = self._starting = asyncio.get_running_loop().create_task(self._start(patient(gate), hello))
                starting.add_done_callback(self._started)
            await asyncio.wait((starting,))
            if starting.cancelled():
                raise self._stopping(gate)
            failure = starting.exception()
            if isinstance(failure, UpstreamFailed | UpstreamUnreachable | UpstreamTimeout):
                raise type(failure)(failure.message, fix=failure.fix, data=failure.data)
            if failure is not None and mine:
                raise failure  # what its own gate said; to the others it says nothing
        return live

    async def stop(self) -> None:
        """End the process; the next call starts another."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait((self._starting,))
        if self._process is not None:
            await self._process.stop()
        if self._watch is not None:
            await asyncio.wait((self._watch,))
        self._not_before = 0.0

    async def end(self) -> None:
        """End the process; there will be no other."""
        self._over = True
        await self.stop()

    def _stopping(self, gate: Gate) -> UpstreamUnreachable:
        gate()  # a process that a kill switch ends: its caller hears of that
        return UpstreamUnreachable(f"`{self._program.server.name}` is being stopped", fix="try again")

    def _refuse_too_early(self) -> None:
        wait_s = self._not_before - self._program.monotonic()
        if wait_s > 0:
            raise UpstreamUnreachable(
                f"the process of `{self._program.server.name}` has died and is not started again for {wait_s:.1f} s",
                fix="see the gateway's log",
                data={"retry_after_s": round(wait_s, 1)},
            )

    def _started(self, task: asyncio.Task[Live]) -> None:
        self._starting = None
        if not task.cancelled() and task.exception() is None:
            self._live = task.result()

    async def _start(self, gate: Gate, hello: Hello) -> Live:
        gate()
        program = self._program
        try:
            probing = program.asked_first(hello)
            try:
                return await self._attempt(gate, hello)
            except (UpstreamFailed, UpstreamUnreachable) as error:
                cause = error.data.get("cause")
                if cause == "process_ended" and probing:
                    program.probes = False  # some servers end at a first message that is not `initialize`
                elif cause == "handshake" and hello.legacy_first and not program.modern_only:
                    program.modern_only = True  # and has settled on the other era by now
                else:
                    raise
                return await self._attempt(gate, hello)
        except (UpstreamFailed, UpstreamTimeout, UpstreamUnreachable) as error:
            log.warning("%s was not started: %s", program.server.name, error.__cause__ or error)
            program.probes, program.modern_only = True, False
            self._count_failure()
            raise

    async def _attempt(self, gate: Gate, hello: Hello) -> Live:
        program = self._program
        began = program.monotonic()
        process = await StdioProcess.start(
            program.server, program.environment, program.limits, self._notified, program.guard
        )
        greeted = False
        try:
            found = await self._greet(process, gate, hello)
            greeted = True
        except (UpstreamFailed, UpstreamUnreachable):
            await process.stop()
            if process.exit_code != CANNOT_START:
                raise
            raise UpstreamUnreachable(
                f"the process of `{program.server.name}` cannot be started", fix="see the gateway's log"
            ) from None
        finally:
            if not greeted:
                await process.stop()
        self._process = process
        self._watch = asyncio.get_running_loop().create_task(self._watched(process, began))
        return Live(process, found, exclusive=program.server.per != "shared")

    async def _watched(self, process: StdioProcess, began: float) -> None:
        await process.ended()
        if process.stopped:
            return
        log.warning("the process of %s %s", self._program.server.name, process.why_ended)
        if self._program.monotonic() - began >= HEALTHY_S:
            self._failures = 0
        self._count_failure()
        await process.stop()

    def _count_failure(self) -> None:
        delay = min(BACKOFF_S * 2**self._failures, MAX_BACKOFF_S)
        self._failures = min(self._failures + 1, 10)
        self._not_before = self._program.monotonic() + delay

    async def _greet(self, process: StdioProcess, gate: Gate, hello: Hello) -> Greeting:
        """Find out which generation the process speaks, and make its acquaintance."""
        program = self._program
        if program.asked_first(hello):
            try:
                params = b'{"_meta":%b}' % modern_meta(None, b"{}")
                found = greeting(await self._ask(process, Verb.DISCOVER, params, gate, PROBE_S))
            except UpstreamTimeout:
                found, program.probes = None, False
            if found is not None and found.modern:
                return found
        answer = await self._ask(process, Verb.INITIALIZE, hello.params, gate, program.limits.first_byte_s)
        found = greeting(answer)
        if found is None or found.modern:
            raise UpstreamFailed(
                f"`{program.server.name}` is not an MCP server: it answered neither server/discover nor initialize",
                fix="check its command",
                data={"cause": "handshake"},
            )
        await process.write(notification("notifications/initialized", b"{}"), gate)
        return found

    async def _ask(self, process: StdioProcess, verb: Verb, params: bytes, gate: Gate, within_s: float) -> Message:
        pending = process.frames.expect(next_id())
        try:
            await process.write(request(pending.id, verb.value, params), gate)
            while (message := await process.frames.next(pending, within_s)).method is not None:
                pass
            return message
        finally:
            process.frames.forget(pending)

    def _notified(self, message: Message) -> None:
        kind = LIST_CHANGED.get(message.method or "")
        if kind is not None:
            self._program.on_list_changed(self._program.server.name, kind)


def environment(server: StdioServer) -> Mapping[str, str]:
    """Return the whole environment of a server's process. Raises UsageError for a reference that leads nowhere."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    configured = {
        name: secret(value) if value.startswith(("env:", "file:")) else value for name, value in server.env.items()
    }
    return inherited | configured
