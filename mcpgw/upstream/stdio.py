"""MCP servers that the gateway runs as processes and speaks to over their standard input and output."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence

from mcpgw.config import LimitsSection, StdioServer
from mcpgw.domain import Judged, Part, PartKind, Permit, Verb
from mcpgw.errors import Internal, RateLimited, UpstreamTimeout, UpstreamUnreachable
from mcpgw.ports import Exchange, Gate
from mcpgw.upstream.farewells import Farewells
from mcpgw.upstream.mcp_parts import NOTIFICATIONS, Asked, ListChanged, Whole, accepted, cancelled, request
from mcpgw.upstream.stdio_bridge import answer, answered_here, call_params, own_token, refuse
from mcpgw.upstream.stdio_supervision import Live, Supervised

_NOBODY_TO_TELL = NOTIFICATIONS | {Verb.ANSWER, Verb.END_SESSION}  # the session is the gateway's


class StdioServers:
    """Implements `ports.Upstream` for servers with Transport.STDIO: the processes of the operator's configuration.

    Each server is one process with one session, which is the gateway's own; the calls of all callers go through it
    under ids and progress tokens of ours. So nothing that a process sends outside of a call can belong to a caller:
    its log messages and resource updates are dropped, its requests answered "method not found"; of a changed list
    `on_list_changed` is told. A caller of the other generation of the protocol gets a plain translation.
    """

    def __init__(
        self,
        servers: Sequence[StdioServer],
        limits: LimitsSection,
        on_list_changed: ListChanged,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._servers = {s.name: Supervised(s, limits, on_list_changed, monotonic) for s in servers}
        self._farewells = Farewells()

    async def send(self, permit: Permit, credential: Mapping[str, str], gate: Gate) -> Exchange:
        """Send what the permit allows. `credential` is not used: a process has its own environment."""
        judged = permit.judged
        action, version = judged.action, judged.version
        if version is None:
            raise Internal("a call without a server version reached the stdio upstream")
        supervised = self._servers.get(version.endpoint)
        if supervised is None:
            raise UpstreamUnreachable(
                f"`{version.endpoint}` is not declared in the operator's configuration", fix="add it to registry.stdio"
            )
        if action.verb in _NOBODY_TO_TELL:
            return accepted()
        live = await supervised.live(gate)
        known = answered_here(live.greeting, action)
        if known is not None:
            return Whole(known)
        refuse(live.greeting, action, version.server)
        if len(live.process) >= self._limits.per_upstream:
            raise RateLimited(f"`{version.server}` has as many running calls as it may", data={"retry_after_s": 1})
        return await self._ask(live, judged, gate)

    async def stop(self, name: str) -> None:
        """End the process of a server and all it has started; the next call starts another."""
        supervised = self._servers.get(name)
        if supervised is not None:
            await supervised.stop()

    async def aclose(self) -> None:
        """End all processes."""
        await asyncio.gather(*(supervised.stop() for supervised in self._servers.values()))
        await self._farewells.aclose()

    async def _ask(self, live: Live, judged: Judged, gate: Gate) -> StdioExchange:
        exchange = StdioExchange(live, judged, gate, self._limits, self._farewells)
        try:
            async with asyncio.timeout(self._limits.call_s):
                await exchange.write()
        except TimeoutError:
            failure = UpstreamTimeout(f"`{live.process.name}` does not read its input", fix="see the gateway's log")
            await exchange.aclose(failure)
            raise failure from None
        except BaseException as error:
            await exchange.aclose(error)
            raise
        return exchange


class StdioExchange:
    """The answer of a process to one call."""

    def __init__(self, live: Live, judged: Judged, gate: Gate, limits: LimitsSection, farewells: Farewells) -> None:
        action = judged.action
        client_id = action.forwarded.get("#id") if action.verb is Verb.LISTEN else None
        self._asked = asked = Asked(action.verb, live.process.name, live.greeting.era, client_id=client_id)
        params, self._token = call_params(live.greeting, action, judged.arguments.raw, asked.id)
        self._frame = request(asked.id, action.verb.value, params)
        self._action = action
        self._live = live
        self._gate = gate
        self._limits = limits
        self._farewells = farewells
        self._owed = False  # an answer, by the process
        self._pending = live.process.expect(asked.id)
        self._parts = self._read()

    async def write(self) -> None:
        def gate() -> None:
            self._gate()
            self._owed = True

        await self._live.process.write(self._frame, gate)

    def __aiter__(self) -> AsyncIterator[Part]:
        return self._parts

    async def aclose(self, reason: BaseException | None) -> None:
        await self._parts.aclose()
        self._live.process.forget(self._pending)
        if self._owed:
            self._owed = False
            process, body = self._live.process, cancelled(self._asked.id)
            self._farewells.say(lambda gate: process.write(body, gate), self._gate, reason)

    async def _read(self) -> AsyncGenerator[Part, None]:
        limits, asked, process = self._limits, self._asked, self._live.process
        now = asyncio.get_running_loop().time
        opened = False
        until = now() + limits.stream_s
        within_s = limits.stream_s if asked.verb is Verb.LISTEN else limits.call_s
        while True:
            message = await process.next(self._pending, min(within_s, until - now()))
            if message.method is None:
                self._owed = False
                last = asked.answer(message, PartKind.LAST if opened else PartKind.WHOLE, None)
                yield answer(self._live.greeting, self._action, asked, last)
                return
            if not opened:
                opened = True
                yield Part(PartKind.OPENED, facts={"era": asked.era})
                if asked.verb is not Verb.LISTEN:
                    within_s = limits.stream_idle_s
            if self._token is not None and message.method == "notifications/progress":
                message = own_token(message, self._token)
            yield asked.event(message)
