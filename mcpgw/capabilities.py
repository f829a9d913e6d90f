"""What servers can do, as they say it of themselves: asked by the gateway, remembered per version."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from mcpgw.domain import Action, Era, Part, PartKind, Route, ServerVersion, Verb
from mcpgw.errors import GatewayError, Unavailable, UpstreamFailed
from mcpgw.pipeline import INTERNAL, Gateway
from mcpgw.ports import Capabilities, Clock
from mcpgw.task_ids import EXTENSION

log = logging.getLogger("mcpgw.capabilities")

FRESH_S = 600.0
RETRY_S = 15.0  # after an attempt of which nobody waited for the answer
AT_ONCE = 8
MOST_KEPT = 4096
_KINDS = ("tools", "prompts", "resources")

Key = tuple[str, str]


class _Greeted(msgspec.Struct):
    capabilities: dict[str, Any] = msgspec.field(default_factory=dict)


_greeted = msgspec.json.Decoder(_Greeted).decode


@dataclass(slots=True)
class _Learnt:
    capabilities: Capabilities
    at: float


class LearntCapabilities:
    """Implements `ports.KnownCapabilities`. `reaches` says whether this worker is the one to ask a server."""

    def __init__(self, clock: Clock, reaches: Callable[[ServerVersion], bool]) -> None:
        self._clock = clock
        self._reaches = reaches
        self._gateway: Gateway | None = None
        self._learnt: dict[Key, _Learnt] = {}
        self._tried_at: dict[Key, float] = {}
        self._asking: dict[Key, asyncio.Task[Capabilities]] = {}
        self._room = asyncio.Semaphore(AT_ONCE)

    def serve(self, gateway: Gateway) -> None:
        """Ask through this gateway, which is made of what needs the answers and so comes last."""
        self._gateway = gateway

    def known(self, version: ServerVersion) -> Capabilities | None:
        if not self._reaches(version):
            return None
        key = _key_of(version)
        held = self._learnt.get(key)
        now = self._clock.monotonic()
        if (held is None or now - held.at > FRESH_S) and now - self._tried_at.get(key, -RETRY_S) >= RETRY_S:
            self._ask(version)
        return held.capabilities if held is not None else None

    async def of(self, version: ServerVersion) -> Capabilities:
        found = self.known(version)
        if found is not None:
            return found
        # Others may wait for the same answer: who goes away does not end the question.
        return await asyncio.shield(self._ask(version))

    async def aclose(self) -> None:
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _ask(self, version: ServerVersion) -> asyncio.Task[Capabilities]:
        key = _key_of(version)
        asking = self._asking.get(key)
        if asking is None:
            self._tried_at[key] = self._clock.monotonic()
            asking = self._asking[key] = asyncio.get_running_loop().create_task(self._learn(version))
            asking.add_done_callback(lambda done: self._asked(key, done))
        return asking

    def _asked(self, key: Key, done: asyncio.Task[Capabilities]) -> None:
        del self._asking[key]
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._learnt[key] = _Learnt(done.result(), self._clock.monotonic())
            while len(self._learnt) > MOST_KEPT:
                gone = next(iter(self._learnt))
                del self._learnt[gone]
                self._tried_at.pop(gone, None)
        elif isinstance(error, GatewayError):
            log.info("what %s can do is not known: %s", key[0], error)
        else:
            log.error("what %s can do could not be asked", key[0], exc_info=error)

    async def _learn(self, version: ServerVersion) -> Capabilities:
        parts: list[Part] = []

        async def keep(part: Part) -> None:
            if part.kind in (PartKind.WHOLE, PartKind.LAST):
                parts.append(part)

        gateway = self._gateway
        if gateway is None or not self._reaches(version):
            raise Unavailable(f"`{version.server}` is not asked here", fix="its worker asks it")
        action = Action(
            id=self._clock.new_id(),
            route=Route.SYSTEM,
            verb=Verb.DISCOVER,
            resource=f"/mcp/{version.server}",
            received_at=self._clock.time(),
            server=version.server,
            version=version.version,
        )
        async with self._room:
            await gateway.handle(INTERNAL, action, keep)
        if not parts or parts[-1].error_code is not None:
            raise UpstreamFailed(f"`{version.server}` does not say what it can do", fix="check its URL and log")
        return capabilities_of(parts[-1])


def capabilities_of(part: Part) -> Capabilities:
    """Return what an answer to `initialize` or `server/discover` says. Raises UpstreamFailed."""
    try:
        stated = _greeted(part.body).capabilities
    except msgspec.DecodeError:
        raise UpstreamFailed("the server answered its handshake with something else", fix="check its log") from None
    held = {name: value for name, value in stated.items() if isinstance(value, dict)}
    return Capabilities(
        era=Era(part.facts.get("era", Era.UNKNOWN)),
        prompts="prompts" in held,
        resources="resources" in held,
        subscribe=held.get("resources", {}).get("subscribe") is True,
        completions="completions" in held,
        logging="logging" in held,
        tasks=EXTENSION in held.get("extensions", {}),
        announces=frozenset(kind for kind in _KINDS if held.get(kind, {}).get("listChanged") is True),
    )


def _key_of(version: ServerVersion) -> Key:
    return version.server, version.version
