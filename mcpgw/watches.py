"""The gateway's own ear at each server, so that streams of clients over many servers need none of their own there."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence

from mcpgw.backoff import Backoff
from mcpgw.domain import Action, Era, Part, PartKind, Route, ServerVersion, Transport, Verb
from mcpgw.errors import GatewayError, MethodNotAllowed
from mcpgw.pipeline import INTERNAL, Gateway
from mcpgw.ports import Capabilities, Clock, Deliver, KnownCapabilities

log = logging.getLogger("mcpgw.watches")

FIRST_WAIT_S, MOST_WAIT_S = 0.5, 30.0
LINGER_S = 15.0  # clients come back

Key = tuple[str, str]


class ListWatches:
    """Implements `ports.Watches` for one worker, as the system principal.

    What is said on a stream the adapters tell, as they do for every stream, to whoever wants to know of changed lists.
    What may have been said between one stream and the next is `missed`: all that the server would have told of.
    """

    def __init__(
        self,
        clock: Clock,
        capabilities: KnownCapabilities,
        reaches: Callable[[ServerVersion], bool],
        missed: Callable[[str, str], None],
    ) -> None:
        self._clock = clock
        self._capabilities = capabilities
        self._reaches = reaches
        self._missed = missed
        self._gateway: Gateway | None = None
        self._held: dict[Key, asyncio.Task[None]] = {}
        self._leaving: dict[Key, asyncio.TimerHandle] = {}

    def serve(self, gateway: Gateway) -> None:
        """Open streams through this gateway, which is made of what needs them and so comes last."""
        self._gateway = gateway

    def keep(self, versions: Sequence[ServerVersion]) -> None:
        wanted = {(version.server, version.version): version for version in versions if self._reaches(version)}
        loop = asyncio.get_running_loop()
        for key in self._held.keys() - wanted.keys() - self._leaving.keys():
            self._leaving[key] = loop.call_later(LINGER_S, self._leave, key)
        for key, version in wanted.items():
            leaving = self._leaving.pop(key, None)
            if leaving is not None:
                leaving.cancel()
            if key not in self._held:
                self._held[key] = loop.create_task(self._watch(version), name=f"watch {version.server}")

    async def aclose(self) -> None:
        for leaving in self._leaving.values():
            leaving.cancel()
        self._leaving.clear()
        held = list(self._held.values())
        self._held.clear()
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)

    def _leave(self, key: Key) -> None:
        del self._leaving[key]
        self._held.pop(key).cancel()

    async def _watch(self, version: ServerVersion) -> None:
        """Hold a stream to a server, opened again whenever it ends."""
        backoff = Backoff(self._clock.monotonic, first_s=FIRST_WAIT_S, most_s=MOST_WAIT_S)
        again = False

        async def heard(part: Part) -> None:
            if part.kind is PartKind.OPENED and again:
                for kind in able.announces:
                    self._missed(version.server, kind)

        while True:
            backoff.begin()
            try:
                able = await self._capabilities.of(version)
                if able.announces and not _tells_by_itself(version, able):
                    await self._open(version, able, heard)
            except MethodNotAllowed:
                return  # it has no stream, and nothing to say
            except GatewayError as error:
                log.info("the lists of %s are not watched: %s", version.server, error)
            again = True
            await asyncio.sleep(backoff.wait_s())

    async def _open(self, version: ServerVersion, able: Capabilities, heard: Deliver) -> None:
        gateway = self._gateway
        if gateway is None:
            return
        asked = {f"{kind}ListChanged": True for kind in sorted(able.announces)}
        modern = able.era is Era.MODERN
        action = Action(
            id=self._clock.new_id(),
            route=Route.SYSTEM,
            verb=Verb.LISTEN if modern else Verb.STREAM,
            resource=f"/mcp/{version.server}",
            received_at=self._clock.time(),
            server=version.server,
            version=version.version,
            forwarded={"notifications": json.dumps(asked).encode()} if modern else {},
        )
        await gateway.handle(INTERNAL, action, heard)


def _tells_by_itself(version: ServerVersion, able: Capabilities) -> bool:
    """A process of the handshake era has one session, in which it says everything unasked."""
    return version.transport is Transport.STDIO and able.era is not Era.MODERN
