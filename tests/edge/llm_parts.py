"""The LLM edge over the real request path, client and provider; identity, policy and log are small real parts."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import uvicorn

from mcpgw.config import LimitsSection, LlmSection, Provider, ServerSection
from mcpgw.domain import (
    Action,
    Effect,
    Judged,
    KillSwitch,
    Part,
    PartKind,
    Permit,
    Presented,
    Principal,
    Receipt,
    Target,
)
from mcpgw.edge.asgi import Receive, Scope, Send
from mcpgw.edge.guard import Guard
from mcpgw.edge.llm import LlmEdge
from mcpgw.errors import GatewayError, Unauthenticated
from mcpgw.pipeline import Gateway
from mcpgw.ports import Gate, Question, World
from mcpgw.retries import Retries
from mcpgw.running import Board
from mcpgw.upstream.http import HttpClient, Response, Url
from mcpgw.upstream.llm.openai import OpenAiUpstream
from mcpgw.upstream.llm.proposals import reviewed
from mcpgw.upstream.llm.usage import Usage
from tests.parts import Rules, SetClock, agent, world_of

KEY = "good-key"


class Held:
    def settle(self, facts: Mapping[str, Any]) -> None:
        """Nothing was counted."""

    def refund(self) -> None:
        """Nothing was counted."""


class Written:
    """The records of one action, in memory."""

    def __init__(self, records: list[tuple[str, Action, Any]], action: Action) -> None:
        self._records = records
        self._action = action

    async def __aenter__(self) -> Written:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if isinstance(error, GatewayError):
            self._records.append(("refused", self._action, error.code))

    def identified(self, who: Principal) -> None:
        """Noted with the intent."""

    async def intend(self, judged: Judged, hold: Any, gate: Gate) -> Permit:
        gate()
        self._records.append(("intent", self._action, judged.arguments.raw))
        return Permit(judged, hold, Receipt("w0", len(self._records), "leaf"))

    async def answered(self, part: Part) -> Part:
        if part.kind not in (PartKind.WHOLE, PartKind.LAST):
            return part
        self._records.append(("outcome", self._action, dict(part.facts)))
        return dataclasses.replace(part, receipt=Receipt("w0", len(self._records), "leaf"))


class Place:
    """One worker: its world, its log, its door. `records` are (phase, action, what)."""

    def __init__(self, policy: Rules, providers: tuple[Provider, ...], limits: LimitsSection) -> None:
        self.policy = policy
        self.clock = SetClock()
        self.world = world_of(policy=policy)
        self.records: list[tuple[str, Action, Any]] = []
        self.board = Board(lambda: self.world.epoch, self.clock)
        self.client = HttpClient(limits, lambda address: True)
        self.base_url = ""
        self.gateway = Gateway(
            worlds=self,
            journal=self,
            tokens=self,
            running=self.board,
            meter=self,
            broker=self,
            upstream=OpenAiUpstream(
                self.client, LlmSection(providers=providers), limits, cost=self.cost, sees=self.sees
            ),
            retries=Retries(self.clock),
            review=reviewed,
            clock=self.clock,
        )
        self.edge = LlmEdge(
            gateway=self.gateway,
            llm=LlmSection(providers=providers),
            limits=limits,
            challenge=lambda path, error: [(b"www-authenticate", b'Bearer scope="llm:use"')],
        )

    def throw(self, switch: KillSwitch) -> None:
        """What a worker does with a kill: publish, swap, cut."""
        self.world = world_of(policy=self.policy, switches=[switch], epoch=self.world.epoch + 1)
        self.board.cut_killed(self.world.switches)

    def of(self, phase: str) -> list[tuple[Action, Any]]:
        return [(action, what) for held, action, what in self.records if held == phase]

    async def post(self, body: Any, *, key: str | None = KEY, **headers: str) -> Response:
        """Ask for a completion as a client does; `body` may be bytes."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.ask(b"POST", "/v1/chat/completions", raw, key=key, **headers)

    async def ask(
        self, method: bytes, path: str, body: bytes = b"", *, key: str | None = KEY, **headers: str
    ) -> Response:
        given = {"content_type": "application/json", **headers}
        if key is not None:
            given["authorization"] = f"Bearer {key}"
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()]
        return await self.client.request(method, Url.parse(self.base_url + path), pairs, body, lambda: None)

    @property
    def current(self) -> World:
        return self.world

    def published(self) -> int:
        return self.world.epoch

    async def at_least(self, epoch: int) -> World:
        return self.world

    async def verify(self, presented: Presented, resource: str, world: World) -> Principal:
        if presented.token != KEY or resource != "/v1":
            raise Unauthenticated("no such key")
        return agent()

    async def reserve(self, judged: Judged) -> Held:
        return Held()

    async def credential_for(self, judged: Judged) -> Mapping[str, str]:
        return {"authorization": f"Bearer upstream-key-of-{judged.action.server}"}

    async def refused(self, judged: Judged, credential: Mapping[str, str], challenge: str) -> None:
        """There is no other."""

    def entry(self, action: Action, world: World) -> Written:
        return Written(self.records, action)

    @staticmethod
    def cost(provider: str, model: str, usage: Usage) -> float | None:
        return usage.prompt_tokens / 1_000_000

    async def sees(self, who: Principal, chat: Action) -> bool:
        question = Question(phase="list", principal=who, action=chat, name=chat.name)
        killed = self.world.switches.match(who, Target.of(chat))
        return killed is None and (await self.policy.decide(question)).effect is Effect.ALLOW


@asynccontextmanager
async def place(
    *providers: Provider, policy: Rules | None = None, limits: LimitsSection | None = None
) -> AsyncIterator[Place]:
    """Serve a place over real HTTP until the block ends."""
    limits = limits or LimitsSection()
    made = Place(policy or Rules(), providers, limits)
    listening = asyncio.Event()
    guards: list[Guard] = []

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        await guards[0](scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(served, port=0, log_level="error", lifespan="off", http="httptools"))
    started = server.startup

    async def startup(sockets: Any = None) -> None:
        await started(sockets)
        listening.set()

    server.startup = startup
    task = asyncio.create_task(server._serve())
    await listening.wait()
    port: int = server.servers[0].sockets[0].getsockname()[1]
    guards.append(Guard(lambda path: made.edge, ServerSection(port=port), limits))
    made.base_url = f"http://127.0.0.1:{port}"
    try:
        yield made
    finally:
        await made.client.aclose()
        server.should_exit = True
        await task
