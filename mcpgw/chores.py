"""What the gateway does on its own account: compare live tools with their pins, end what has expired."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from mcpgw.domain import SYSTEM, Mode, Route, ServerVersion, Switches, Target
from mcpgw.errors import GatewayError
from mcpgw.ports import Clock, World, Worlds

log = logging.getLogger("mcpgw.chores")
TICK_S = 1.0
SWEEP_S = 60.0
Compare = Callable[[ServerVersion], Awaitable[None]]
"""Ask a server for its tools and quarantine those that differ from their pins."""
Release = Callable[[str, str], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What there is to do: by the leader, and by every worker.

    Every worker does `always` each second, `try_again` too, unless the last one still runs (it asks the upstreams that
    are left alone whether they are well again), and `review` in each new world. The leader does `sweep` every minute.
    """

    compare: Compare
    release: Release
    end_killed: Callable[[Switches, Target], Awaitable[None]]
    always: Callable[[], None]
    review: Callable[[], Coroutine[Any, Any, None]]
    try_again: Callable[[], Coroutine[Any, Any, None]]
    sweep: Callable[[], Awaitable[object]]


class Chores:
    """The periodic work of one worker; most of it is done by the one that leads."""

    def __init__(self, worlds: Worlds, clock: Clock, work: Work, *, drift_check_s: float, leads: bool) -> None:
        self._worlds = worlds
        self._clock = clock
        self._work = work
        self._drift_check_s = drift_check_s
        self._leads = leads
        self._next_drift_check = clock.monotonic() + drift_check_s
        self._next_sweep = clock.monotonic() + SWEEP_S
        self._tasks: set[asyncio.Task[None]] = set()
        self._trying: asyncio.Task[None] | None = None
        self._comparing: set[str] = set()

    def start(self) -> None:
        self._spawn(self._run())

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def world_changed(self, old: World, new: World) -> None:
        """A hard kill also ends the processes and sessions of a server that can serve nobody else than it stops."""
        self._spawn(self._work.review())
        before = {switch.id for switch in old.switches.standing}
        thrown = Switches(s for s in new.switches.standing if s.id not in before and s.mode is Mode.HARD)
        if thrown:
            for version in new.catalog.active():
                self._spawn(self._ended(thrown, Target(Route.MCP, version.server, version.version, None)))

    def list_changed(self, server: str) -> None:
        """A server says that its tools changed: compare now, unless that is being done already."""
        for version in self._worlds.current.catalog.active():
            if version.server == server and server not in self._comparing:
                self._comparing.add(server)
                self._spawn(self._compared(version)).add_done_callback(lambda _: self._comparing.discard(server))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._work.always()
            if self._trying is None or self._trying.done():
                self._trying = self._spawn(self._work.try_again())
            if not self._leads:
                continue
            await self._release_expired()
            if self._clock.monotonic() >= self._next_sweep:
                await self._swept()
                self._next_sweep = self._clock.monotonic() + SWEEP_S
            if self._clock.monotonic() >= self._next_drift_check:
                for version in self._worlds.current.catalog.active():
                    await self._compared(version)
                self._next_drift_check = self._clock.monotonic() + self._drift_check_s

    async def _release_expired(self) -> None:
        now = self._clock.time()
        for switch in self._worlds.current.switches.standing:
            if switch.expires_at is not None and switch.expires_at <= now:
                try:
                    await self._work.release(switch.id, "expired")
                except GatewayError as error:
                    log.warning("kill switch %s expired but stands: %s", switch.id, error)

    async def _swept(self) -> None:
        try:
            await self._work.sweep()
        except GatewayError as error:
            log.warning("what has expired could not be swept: %s", error)

    async def _ended(self, thrown: Switches, target: Target) -> None:
        await self._work.end_killed(thrown, target)

    async def _compared(self, version: ServerVersion) -> None:
        try:
            await self._work.compare(version)
        except GatewayError as error:
            log.info("tools of %s %s could not be compared: %s", version.server, version.version, error)


def release_by_system(release: Callable[..., Awaitable[object]]) -> Release:
    """Return a release in the gateway's own name."""

    async def released(switch_id: str, reason: str) -> object:
        return await release(SYSTEM, switch_id, reason)

    return released
