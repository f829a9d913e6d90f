"""Servers of the handshake era that ask their clients something, and modern clients whose calls wait meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from mcpgw.config import LimitsSection
from mcpgw.domain import Arguments, ClientFacts, Permit, Presented, Verb
from mcpgw.ports import Gate
from mcpgw.shelf import Shelf, ShelfLimits, Suspended
from mcpgw.upstream.http import HttpClient
from tests.fixtures.raw_http import Peer
from tests.upstream.calls import LIMITS, MODERN, Caller, CountingGate, HandClock, Seen, mcp_http, permit, version
from tests.upstream.scripted import ACCEPTED, END, STREAM, Asked, Handler, Handshaking, event, plain, result_of, said

HELD_S = 300.0
SOON_S = 5
ABLE = dataclasses.replace(
    MODERN, capabilities=b'{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{},"extensions":{"x":{}}}'
)
ACCEPT: Mapping[str, Any] = {"action": "accept", "content": {"name": "Eve"}}

Question = tuple[str, Mapping[str, Any]]
"""Method and params."""


def form(message: str, **params: Any) -> Question:
    return "elicitation/create", {"message": message, "requestedSchema": {"type": "object", "properties": {}}, **params}


@dataclass(frozen=True, slots=True)
class Questions:
    """An answer that asks: by key what is asked, and the state to come back with."""

    asked: Mapping[str, Any]
    state: str

    @classmethod
    def of(cls, seen: Seen) -> Questions:
        assert seen.result["resultType"] == "input_required", seen.result
        return cls(seen.result["inputRequests"], seen.result["requestState"])

    @property
    def key(self) -> str:
        [key] = self.asked
        return key

    @property
    def only(self) -> dict[str, Any]:
        """The one request."""
        found: dict[str, Any] = self.asked[self.key]
        return found


class Inquirer(Handshaking):
    """A server whose calls ask `rounds` of questions, all of one round at once, and say what was answered.

    A question with the method "" is any message, sent as it is.
    """

    def __init__(self, *rounds: Sequence[Question], session: str | None = "session-1", **handlers: Handler) -> None:
        super().__init__(session=session, **{"answer": self._answered, "tools_call": self._called, **handlers})
        self.rounds = rounds
        self.answers: dict[str, dict[str, Any]] = {}
        self.cut = asyncio.Event()
        self._news = asyncio.Condition()
        self._asked = 0

    async def answered(self, *ids: str) -> None:
        """Return when these questions have been answered."""
        async with self._news:
            await self._news.wait_for(lambda: all(i in self.answers for i in ids))

    async def _answered(self, asked: Asked, peer: Peer) -> bytes:
        async with self._news:
            self.answers[asked.id] = asked.message
            self._news.notify_all()
        return ACCEPTED

    async def _called(self, asked: Asked, peer: Peer) -> None:
        watch = asyncio.create_task(self._watch(peer))
        try:
            await peer.write(STREAM)
            await self.converse(asked, peer)
            await peer.write(event(result_of(asked, plain(json.dumps(self.answers)))) + END)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def converse(self, asked: Asked, peer: Peer) -> None:
        for questions in self.rounds:
            ids = []
            for method, params in questions:
                if not method:
                    await peer.write(event(params))
                    continue
                self._asked += 1
                ids.append(f"q{self._asked}")
                await peer.write(event({**said(method, **params), "id": ids[-1]}))
            await self.answered(*ids)

    async def _watch(self, peer: Peer) -> None:
        await peer.gone()
        self.cut.set()


@dataclass
class Client:
    """A modern client; what its calls leave behind waits on `shelf`, as the pipeline has it."""

    caller: Caller
    shelf: Shelf
    ended: list[tuple[BaseException | None, str | None]] = field(default_factory=list)

    def permit(self, verb: Verb = Verb.TOOLS_CALL, **facts: Any) -> Permit:
        return permit(self.caller.target, verb, who=self.caller.who, client=self.caller.client, **facts)

    async def call(
        self,
        tool: str = "t",
        arguments: bytes = b"{}",
        *,
        verb: Verb = Verb.TOOLS_CALL,
        gate: Gate | None = None,
        **f: Any,
    ) -> Seen:
        """Make a call and read its answer to the end."""
        return await self.read(self.permit(verb, name=tool, arguments=Arguments(arguments), **f), gate)

    async def retry(
        self, questions: Questions, answers: Mapping[str, Any] | None = None, tool: str = "t", **facts: Any
    ) -> Seen:
        """Come back with answers, by key; None: with the one that accepts everything."""
        given = dict.fromkeys(questions.asked, ACCEPT) if answers is None else answers
        forwarded = {
            "inputResponses": json.dumps(given).encode(),
            "requestState": json.dumps(questions.state).encode(),
        }
        return await self.call(tool, forwarded=forwarded, **facts)

    async def read(self, right: Permit, gate: Gate | None = None) -> Seen:
        exchange = await self.caller.upstream.send(right, self.caller.credential, gate or CountingGate())
        seen, ended = Seen(), None
        try:
            async for part in exchange:
                if part.held is not None:
                    self._suspend(right, part.held)
                seen.parts.append(part)
        except BaseException as error:
            ended = error
            raise
        finally:
            await exchange.aclose(ended)
        return seen

    def known(self, **facts: Any) -> Client:
        """Return the same client saying other things of itself."""
        return dataclasses.replace(self, caller=self.caller.known(**facts))

    def by(self, **facts: Any) -> Client:
        """Return another caller, of the same shelf."""
        return dataclasses.replace(self, caller=dataclasses.replace(self.caller, **facts))

    def end(self, reason: BaseException) -> None:
        """End all calls that wait, as the board does it."""
        for suspended in self.shelf:
            suspended.cut(reason)

    def _suspend(self, right: Permit, held: Any) -> None:
        judged = right.judged
        suspended = Suspended(
            who=judged.principal,
            action=judged.action,
            version=judged.version,
            presented=Presented(),
            held=held,
            released=lambda reason, retry: self.ended.append((reason, retry)),
        )
        self.shelf.put(suspended)


@asynccontextmanager
async def a_client(
    url: str, clock: HandClock, facts: ClientFacts = ABLE, limits: LimitsSection = LIMITS
) -> AsyncIterator[Client]:
    """Yield a client of the server at `url`, with an upstream of its own."""
    http = HttpClient(limits, lambda address: True)
    shelf = Shelf(clock, ShelfLimits(ttl_s=HELD_S))
    upstream = mcp_http(http, clock, limits, shelf=shelf)
    try:
        yield Client(Caller(upstream, version(url), client=facts), shelf)
    finally:
        with anyio.fail_after(SOON_S):
            await upstream.aclose()
            await http.aclose()
