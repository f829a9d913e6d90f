"""A server of HTTP+SSE (2024-11-05) that does what a test says, behind a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.fixtures.raw_http import Peer
from tests.upstream.scripted import ACCEPTED, END, STREAM, Asked, event, plain, result_of

Act = Callable[["Conversation", Asked], Awaitable[bytes | None]]
"""Carries out a message; returns the answer to its POST, None for the usual one."""


class Conversation:
    """One session: what came in it, and its stream."""

    def __init__(self, number: int, stream: Peer) -> None:
        self.number = number
        self.asked: list[Asked] = []
        self.over = asyncio.Event()
        self._stream = stream

    async def say(self, message: Any, *lines: str) -> None:
        await self._stream.write(event(message, *lines))

    async def answer(self, asked: Asked, result: Any) -> None:
        await self.say(result_of(asked, result))

    async def answer_of_client(self) -> Any:
        """Return the first answer that the client has posted, once it has."""
        while not (answers := [asked for asked in self.asked if asked.verb == "answer"]):
            await asyncio.sleep(0.005)
        return answers[0].message

    async def end(self) -> None:
        await self._stream.write(END)
        self._stream.writer.close()

    def reset(self) -> None:
        self._stream.reset()


class EventServer:
    """A handler for `scripted`: opens sessions and carries out what is posted to them.

    `endpoint` is where messages go, with `{n}` for the number of the session. `acts` are by tool, or by JSON-RPC method
    with `_` for its first slash; without one a call is answered with the tool's name.
    """

    def __init__(self, endpoint: str = "/messages?session={n}", version: str = "2024-11-05", **acts: Act) -> None:
        self.endpoint = endpoint
        self.version = version
        self.acts = {name.replace("_", "/", 1): act for name, act in acts.items()} | acts
        self.sessions: list[Conversation] = []

    async def __call__(self, asked: Asked, peer: Peer) -> bytes | None:
        if asked.method == "GET":
            session = Conversation(len(self.sessions), peer)
            self.sessions.append(session)
            await peer.write(STREAM + event(self.endpoint.format(n=session.number), "event: endpoint"))
            await peer.gone()
            session.over.set()
            return None
        session = self.sessions[int(asked.target.rpartition("=")[2])]
        session.asked.append(asked)
        act = self.acts.get(asked.params.get("name", "")) or self.acts.get(asked.verb) or usual(self.version)
        return await act(session, asked) or ACCEPTED


def usual(version: str) -> Act:
    async def act(session: Conversation, asked: Asked) -> None:
        if asked.verb == "initialize":
            result = {
                "protocolVersion": version,
                "capabilities": {"tools": {}, "logging": {}, "resources": {"subscribe": True}},
                "serverInfo": {"name": "events", "version": "1"},
            }
            await session.answer(asked, result)
        elif "id" in asked.message and asked.verb != "answer":
            await session.answer(asked, plain(asked.params.get("name", "")) if asked.verb == "tools/call" else {})

    return act
