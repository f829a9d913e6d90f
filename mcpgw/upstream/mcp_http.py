"""MCP servers over streamable HTTP: every call in the generation of the protocol that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping

from mcpgw.config import LimitsSection
from mcpgw.domain import Permit, Verb
from mcpgw.ports import Clock, Exchange, Gate
from mcpgw.task_ids import TaskIds
from mcpgw.upstream.era import Eras, Spoken
from mcpgw.upstream.flights import Flights
from mcpgw.upstream.holding import Holding
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_for_legacy import ModernForLegacy
from mcpgw.upstream.mcp_for_modern import LegacyForModern
from mcpgw.upstream.mcp_legacy import LegacyWire, NoHandshake
from mcpgw.upstream.mcp_modern import ModernWay, ModernWire, NotModern
from mcpgw.upstream.mcp_parts import NOTIFICATIONS, ListChanged, Whole, accepted
from mcpgw.upstream.mcp_wire import Sending


class McpHttpUpstream:
    """Implements `ports.Upstream` for servers with Transport.HTTP.

    A server of both generations is spoken to in the client's own, one of the other alone through a translation. The
    gateway's own calls (no client behind them) use whichever generation the server speaks, 2026-07-28 if both.
    """

    def __init__(
        self,
        http: HttpClient,
        limits: LimitsSection,
        clock: Clock,
        on_list_changed: ListChanged,
        holding: Holding,
        task_ids: TaskIds | None = None,
    ) -> None:
        self._eras = Eras(clock.monotonic)
        self._probing: Flights[Spoken | None] = Flights()
        self._modern = ModernWire(http, limits, on_list_changed, task_ids)
        self._legacy = LegacyWire(http, limits, clock, on_list_changed, self._eras)
        self._modern_for_legacy = ModernForLegacy(limits, clock)
        self._legacy_for_modern = LegacyForModern(self._legacy, holding)

    async def send(self, permit: Permit, credential: Mapping[str, str], gate: Gate) -> Exchange:
        """Send what the permit allows. What finds out the server's era passes the gate too.

        Raises MethodNotAllowed (no stream offered) besides what every upstream raises.
        """
        sending = Sending(permit, credential, gate)
        client = sending.action.client
        if sending.own:
            return await self._send_own(sending)
        if client is not None and client.modern:
            return await self._send_modern(sending)
        return await self._send_legacy(sending)

    def servers_of(self, client_session: str) -> frozenset[str]:
        """Return the servers with which something is open for a session of a client."""
        return self._legacy.servers_of(client_session) | self._modern_for_legacy.servers_of(client_session)

    def end_session(self, client_session: str) -> None:
        """Forget what was opened with servers for a session of a client that is over."""
        self._legacy.end_session(client_session)
        self._modern_for_legacy.end_session(client_session)

    async def aclose(self) -> None:
        """Drop what is still to be said to servers."""
        await self._legacy_for_modern.aclose()
        await self._legacy.aclose()

    async def _send_modern(self, sending: Sending) -> Exchange:
        if sending.action.forwarded and self._legacy_for_modern.holds(sending):
            return await self._cross_to_legacy(sending)
        spoken = self._eras.of(sending.version)
        if spoken.modern is None:
            spoken = await self._probe(sending) or spoken
        if spoken.modern is False:
            return await self._cross_to_legacy(sending)
        try:
            return await self._modern.ask(sending)
        except NotModern as contradiction:
            probed = await self._probe(sending)
            if probed is not None and not probed.modern:
                return await self._cross_to_legacy(sending)
            raise contradiction.failure from None

    async def _cross_to_legacy(self, sending: Sending) -> Exchange:
        try:
            return await self._legacy_for_modern.ask(sending)
        except NoHandshake as refused:
            probed = await self._probe(sending)
            if probed is None or not probed.modern:
                raise refused.failure from None
        try:
            return await self._modern.ask(sending)
        except NotModern as contradiction:
            raise contradiction.failure from None

    async def _send_legacy(self, sending: Sending) -> Exchange:
        spoken = self._eras.of(sending.version)
        if spoken.legacy is False or (spoken.modern and self._modern_for_legacy.holds(sending)):
            return await self._cross_to_modern(sending)
        try:
            return await self._legacy.ask(sending)
        except NoHandshake as refused:
            probed = await self._probe(sending)
            if probed is not None and probed.modern:
                self._eras.learn(sending.version, legacy=False)
                return await self._cross_to_modern(sending)
            if refused.refusal is not None and sending.action.verb is Verb.INITIALIZE:
                return Whole(refused.refusal)
            raise refused.failure from None

    async def _cross_to_modern(self, sending: Sending) -> Exchange:
        try:
            return await self._modern_for_legacy.send(ModernWay(self._modern, sending))
        except NotModern as contradiction:
            probed = await self._probe(sending)
            if probed is None or probed.modern:
                raise contradiction.failure from None
        self._modern_for_legacy.forget(sending)
        try:
            return await self._legacy.ask(sending)
        except NoHandshake as refused:
            raise refused.failure from None

    async def _send_own(self, sending: Sending) -> Exchange:
        if sending.action.verb in NOTIFICATIONS:
            return accepted()  # nobody stands behind it, so there is nobody to notify for
        spoken = self._eras.of(sending.version)
        if spoken.modern is None and not spoken.legacy:
            spoken = await self._probe(sending) or spoken
        if spoken.modern:
            try:
                return await self._modern.ask(sending)
            except NotModern as contradiction:
                probed = await self._probe(sending)
                if probed is not None and probed.modern:
                    raise contradiction.failure from None
        try:
            return await self._legacy.ask(sending)
        except NoHandshake as refused:
            probed = await self._probe(sending)
            if probed is not None and not probed.modern:
                raise refused.failure from None
        try:  # a server that does not say what it is may say what it wants: a credential
            return await self._modern.ask(sending)
        except NotModern as contradiction:
            raise contradiction.failure from None

    async def _probe(self, sending: Sending) -> Spoken | None:
        """Ask the server for its era; None: it did not say. Calls that wait for the same answer ask once."""

        async def attempt() -> Spoken | None:
            found = await self._modern.probe(sending)
            if found is None:
                return None
            return self._eras.learn(sending.version, modern=found[0], versions=found[1])

        return await self._probing.join(sending.version.endpoint, attempt)
