"""Servers of 2026-07-28 that do what a test says, and clients of the handshake era that answer what they are asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from mcpgw.domain import Part, PartKind, Verb
from mcpgw.ports import Exchange
from tests.fixtures.raw_http import Peer
from tests.upstream.calls import Caller, Seen
from tests.upstream.scripted import ACCEPTED, STREAM, Asked, Handler, event, plain, refusal, reply, said

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
DISCOVERED = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28"],
    "capabilities": {"tools": {}},
    "ttlMs": 60_000,
    "cacheScope": "private",
    "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "scripted", "version": "1"}},
}


class Stateless:
    """Answers `server/discover`, refuses a handshake, and gives every other verb to `handlers`."""

    def __init__(self, discovered: Mapping[str, Any] = DISCOVERED, /, **handlers: Handler) -> None:
        self.discovered = discovered
        self.handlers = {name.replace("_", "/", 1): handler for name, handler in handlers.items()}

    async def __call__(self, asked: Asked, peer: Peer) -> bytes | None:
        handler = self.handlers.get(asked.verb)
        if handler is not None:
            return await handler(asked, peer)
        if asked.verb == "server/discover":
            return reply(asked, self.discovered)
        if asked.verb == "initialize":
            return refusal(-32022, "Unsupported protocol version", id=asked.id)
        if asked.id is None:
            return ACCEPTED
        return reply(asked, complete(asked.params.get("name", "")))


def complete(text: str) -> dict[str, Any]:
    return {"resultType": "complete", **plain(text)}


def wanting(*, state: str | None = None, **questions: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result that asks for input."""
    result: dict[str, Any] = {"resultType": "input_required"}
    if questions:
        result["inputRequests"] = questions
    if state is not None:
        result["requestState"] = state
    return result


def form(**properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties or {"name": {"type": "string"}}}
    params = {"mode": "form", "message": "Who are you?", "requestedSchema": schema}
    return {"method": "elicitation/create", "params": params}


def at_url(url: str) -> dict[str, Any]:
    return {"method": "elicitation/create", "params": {"mode": "url", "message": "Sign in", "url": url}}


@dataclass
class Listens:
    """Serves `subscriptions/listen`: what is put on a listen's queue, it tells. `honours` None: all that is wanted."""

    honours: Mapping[str, Any] | None = None
    queues: list[asyncio.Queue[bytes]] = field(default_factory=list)
    wanted: list[dict[str, Any]] = field(default_factory=list)
    gone: list[asyncio.Event] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, asked: Asked, peer: Peer) -> None:
        wanted = asked.params["notifications"]
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        gone = asyncio.Event()
        acknowledged = said(
            "notifications/subscriptions/acknowledged",
            notifications=wanted if self.honours is None else self.honours,
            _meta={SUBSCRIPTION: asked.id},
        )
        await peer.write(STREAM + event(acknowledged))
        self.wanted.append(wanted)
        self.queues.append(queue)
        self.gone.append(gone)
        self.changed.set()

        def closed(done: asyncio.Task[None]) -> None:
            gone.set()
            queue.put_nowait(b"")

        closing = asyncio.create_task(peer.gone())
        closing.add_done_callback(closed)
        while told := await queue.get():
            await peer.write(told)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        peer.writer.close()

    async def opened(self, count: int) -> None:
        """Return when there have been so many."""
        with anyio.fail_after(10):
            while len(self.queues) < count:
                self.changed.clear()
                await self.changed.wait()

    def tell(self, number: int, method: str, **params: Any) -> None:
        """Tell on one listen, the first being 0, what has changed."""
        params = {**params, "_meta": {SUBSCRIPTION: "any"}}
        self.queues[number].put_nowait(event(said(method, **params)))

    def end(self, number: int) -> None:
        """Close a listen without a word."""
        self.queues[number].put_nowait(b"")


async def answered(caller: Caller, exchange: Exchange, answers: Mapping[str, bytes]) -> Seen:
    """Read an exchange to its end, answering what is asked by method."""
    seen = Seen()
    ended: BaseException | None = None
    try:
        async for part in exchange:
            seen.parts.append(part)
            asked = question_in(part)
            if asked is not None:
                await answer(caller, asked["id"], answers[asked["method"]])
    except BaseException as error:
        ended = error
        raise
    finally:
        await exchange.aclose(ended)
    return seen


def question_in(part: Part) -> dict[str, Any] | None:
    """Return the request of the server that a part holds."""
    message: dict[str, Any] = json.loads(part.body) if part.kind is PartKind.EVENT and part.body else {}
    return message if "id" in message else None


async def next_question(exchange: Exchange) -> dict[str, Any]:
    async for part in exchange:
        asked = question_in(part)
        if asked is not None:
            return asked
    raise AssertionError("nothing was asked")


async def answer(caller: Caller, asked_id: Any, result: bytes, *, member: str = "result") -> Seen:
    return await caller.ask(Verb.ANSWER, forwarded={"id": json.dumps(asked_id).encode(), member: result})
