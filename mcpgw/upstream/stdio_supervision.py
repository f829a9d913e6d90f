"""A server of the operator's configuration and the process that stands for it now."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mcpgw.config import LimitsSection, StdioServer, secret
from mcpgw.domain import Verb
from mcpgw.errors import UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from mcpgw.ports import Gate
from mcpgw.upstream.farewells import patient
from mcpgw.upstream.mcp_parts import (
    LIST_CHANGED,
    ListChanged,
    Message,
    modern_meta,
    next_id,
    notification,
    request,
)
from mcpgw.upstream.stdio_bridge import Greeting, greeting, initialize_params
from mcpgw.upstream.stdio_process import StdioProcess

log = logging.getLogger("mcpgw.stdio")

PROBE_S = 10.0  # for `server/discover`, from the start of the process on
BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
HEALTHY_S = 30.0  # a process that lived this long starts a new count of failures


@dataclass(frozen=True, slots=True)
class Live:
    """A process that has been greeted."""

    process: StdioProcess
    greeting: Greeting


class Supervised:
    """Starts the process when it is needed, and again after it has died: later and later while it keeps dying."""

    def __init__(
        self,
        server: StdioServer,
        limits: LimitsSection,
        on_list_changed: ListChanged,
        monotonic: Callable[[], float],
    ) -> None:
        self.server = server
        self._environment = environment(server)
        self._limits = limits
        self._monotonic = monotonic
        self._on_list_changed = on_list_changed
        self._live: Live | None = None
        self._starting: asyncio.Task[Live] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._probes = True
        self._failures = 0
        self._not_before = 0.0

    async def live(self, gate: Gate) -> Live:
        """Return the running process, started if need be. Raises UpstreamUnreachable, UpstreamFailed, UpstreamTimeout.

        `gate` is passed before the process is started and at each of its first frames. A caller that goes away does
        not end a start: others wait for it, or will.
        """
        while self._live is None or not self._live.process.running:
            if self._watch is not None:
                await asyncio.wait((self._watch,))  # until the one before is gone
            starting = self._starting
            mine = starting is None
            if starting is None:
                self._refuse_too_early()
                starting = self._starting = asyncio.get_running_loop().create_task(self._start(patient(gate)))
                starting.add_done_callback(self._started)
            await asyncio.wait((starting,))
            if starting.cancelled():
                raise UpstreamUnreachable(f"`{self.server.name}` is being stopped", fix="try again")
            failure = starting.exception()
            if isinstance(failure, UpstreamFailed | UpstreamUnreachable | UpstreamTimeout):
                raise type(failure)(failure.message, fix=failure.fix, data=failure.data)
            if failure is not None and mine:
                raise failure  # what its own gate said; to the others it says nothing
        return self._live

    async def stop(self) -> None:
        """End the process; the next call starts another."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait((self._starting,))
        if self._live is not None:
            await self._live.process.stop()
        if self._watch is not None:
            await asyncio.wait((self._watch,))
        self._not_before = 0.0

    def _refuse_too_early(self) -> None:
        wait_s = self._not_before - self._monotonic()
        if wait_s > 0:
            raise UpstreamUnreachable(
                f"the process of `{self.server.name}` has died and is not started again for {wait_s:.1f} s",
                fix="see the gateway's log",
                data={"retry_after_s": round(wait_s, 1)},
            )

    def _started(self, task: asyncio.Task[Live]) -> None:
        self._starting = None
        if not task.cancelled() and task.exception() is None:
            self._live = task.result()

    async def _start(self, gate: Gate) -> Live:
        gate()
        try:
            try:
                return await self._attempt(gate)
            except (UpstreamFailed, UpstreamUnreachable) as error:
                if not self._probes or error.data.get("cause") != "process_ended":
                    raise
                # Some servers end at a first message that is not `initialize`.
                self._probes = False
                return await self._attempt(gate)
        except (UpstreamFailed, UpstreamTimeout, UpstreamUnreachable) as error:
            log.warning("%s was not started: %s", self.server.name, error.__cause__ or error)
            self._probes = True
            self._count_failure()
            raise

    async def _attempt(self, gate: Gate) -> Live:
        began = self._monotonic()
        process = await StdioProcess.start(self.server, self._environment, self._limits, self._notified)
        greeted = False
        try:
            found = await self._greet(process, gate)
            greeted = True
        finally:
            if not greeted:
                await process.stop()
        self._watch = asyncio.get_running_loop().create_task(self._watched(process, began))
        return Live(process, found)

    async def _watched(self, process: StdioProcess, began: float) -> None:
        await process.ended()
        if process.stopped:
            return
        log.warning("the process of %s %s", self.server.name, process.why_ended)
        if self._monotonic() - began >= HEALTHY_S:
            self._failures = 0
        self._count_failure()
        await process.stop()

    def _count_failure(self) -> None:
        delay = min(BACKOFF_S * 2**self._failures, MAX_BACKOFF_S)
        self._failures = min(self._failures + 1, 10)
        self._not_before = self._monotonic() + delay

    async def _greet(self, process: StdioProcess, gate: Gate) -> Greeting:
        """Find out which generation the process speaks, and make its acquaintance."""
        if self._probes:
            try:
                params = b'{"_meta":%b}' % modern_meta(None, b"{}")
                found = greeting(await self._ask(process, Verb.DISCOVER, params, gate, PROBE_S))
            except UpstreamTimeout:
                found, self._probes = None, False
            if found is not None and found.modern:
                return found
        answer = await self._ask(process, Verb.INITIALIZE, initialize_params(), gate, self._limits.first_byte_s)
        found = greeting(answer)
        if found is None or found.modern:
            raise UpstreamFailed(
                f"`{self.server.name}` is not an MCP server: it answered neither server/discover nor initialize",
                fix="check its command",
                data={"cause": "handshake"},
            )
        await process.write(notification("notifications/initialized", b"{}"), gate)
        return found

    async def _ask(self, process: StdioProcess, verb: Verb, params: bytes, gate: Gate, within_s: float) -> Message:
        pending = process.expect(next_id())
        try:
            await process.write(request(pending.id, verb.value, params), gate)
            while (message := await process.next(pending, within_s)).method is not None:
                pass
            return message
        finally:
            process.forget(pending)

    def _notified(self, message: Message) -> None:
        kind = LIST_CHANGED.get(message.method or "")
        if kind is not None:
            self._on_list_changed(self.server.name, kind)


def environment(server: StdioServer) -> Mapping[str, str]:
    """Return the whole environment of a server's process. Raises UsageError for a reference that leads nowhere."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    configured = {
        name: secret(value) if value.startswith(("env:", "file:")) else value for name, value in server.env.items()
    }
    return inherited | configured
