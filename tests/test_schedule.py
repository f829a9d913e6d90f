"""`Gateway.handle` under schedules of its own: whatever happens at whatever await, six things stay true.

Time, store, transport and randomness are ports, so here they are one machine that throws a kill, a revocation, an
activation or a crash at the k-th await of a call (every kind at every k), and at random awaits of several calls at once
(many seeds).
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from mcpgw.domain import (
    Action,
    Arguments,
    Decision,
    Effect,
    Era,
    Judged,
    KillSwitch,
    Kind,
    Mode,
    Part,
    PartKind,
    Permit,
    Presented,
    Principal,
    Receipt,
    Route,
    Scope,
    Selection,
    ServerVersion,
    State,
    Switches,
    ToolPin,
    Transport,
    Verb,
    VersionStatus,
)
from mcpgw.errors import GatewayError, InvalidParams, Unauthenticated
from mcpgw.pipeline import Gateway
from mcpgw.ports import Gate, Identities, Question, World
from mcpgw.retries import Retries
from mcpgw.running import Board

CALLS = 4
SEEDS = 300
VERSION = ServerVersion(
    server="notes",
    version="1.0.0",
    manifest_sha256="m",
    endpoint="http://notes",
    transport=Transport.HTTP,
    era=Era.DUAL,
    tools={"read": ToolPin("read", "t", b'{"name":"read"}')},
    status=VersionStatus.APPROVED,
    published_by="a",
    published_at=0.0,
)


class Crash(BaseException):
    """The process dies here."""


class Machine:
    """Everything around the pipeline: what happens next is decided at each await."""

    def __init__(self, strike: Callable[[int], str | None], yields: Callable[[], int]) -> None:
        self._strike = strike
        self._yields = yields
        self.awaits = 0
        self.crashed = False
        self.killed = self.revoked = self.denied = False
        self.intents: dict[str, list[Receipt]] = {}
        self.outcomes: set[str] = set()
        self.writes: list[tuple[str, int]] = []
        self.holds: list[Held] = []
        self.waiting: list[Waiting] = []
        self.suspended: set[str] = set()
        self.released_by: dict[str, list[str | None]] = {}
        self.delivered: dict[str, list[bytes]] = {}
        self.epoch = 1
        self.world = self._world()
        self.board = Board(lambda: self.epoch, self)

    async def point(self) -> None:
        """Every await of every port."""
        if self.crashed:
            raise Crash
        self.awaits += 1
        match self._strike(self.awaits):
            case "kill":
                self.killed = True
                self.change()
            case "revoke":
                self.revoked = True
                self.change()
            case "deny":
                self.denied = True
                self.change()
            case "activate":
                self.change()
            case "crash":
                self.crashed = True
                raise Crash
            case _:
                pass
        for _ in range(self._yields()):
            await asyncio.sleep(0)
        if self.crashed:
            raise Crash

    def change(self) -> None:
        """What a worker does in one step: publish, swap, cut, acknowledge."""
        self.epoch += 1
        self.world = self._world()
        self.board.cut_killed(self.world.switches)

    def _world(self) -> World:
        switch = KillSwitch(
            id="k", scope=Scope.SERVER, selector="notes", mode=Mode.HARD, reason="r", thrown_by="a", thrown_at=0.0
        )
        return World(
            epoch=self.epoch,
            catalog=OneServer(),
            switches=Switches([switch] if self.killed else []),
            policy=OneRule(self),
            identities=Identities(),
            state=State(epoch=self.epoch),
        )

    # ports.Worlds
    @property
    def current(self) -> World:
        return self.world

    def published(self) -> int:
        return self.epoch

    async def at_least(self, epoch: int) -> World:
        await self.point()
        return self.world

    # ports.TokenVerifier, Meter, CredentialBroker
    async def verify(self, presented: Presented, resource: str, world: World) -> Principal:
        await self.point()
        if self.revoked:
            raise Unauthenticated("revoked")
        return Principal(
            issuer="test", subject=presented.token or "", client_id="c", kind=Kind.AGENT, scopes=frozenset({"mcp:use"})
        )

    async def reserve(self, judged: Judged) -> Held:
        await self.point()
        held = Held()
        self.holds.append(held)
        return held

    async def credential_for(self, judged: Judged) -> Mapping[str, str]:
        await self.point()
        return {}

    async def refused(self, judged: Judged, credential: Mapping[str, str], challenge: str) -> None:
        """There is no other."""

    # ports.Journal, Upstream, Clock
    def entry(self, action: Action, world: World) -> Written:
        return Written(self, action)

    def released(self, permit: Permit, reason: BaseException | None, retry: str | None) -> None:
        name = permit.judged.action.id
        if name in self.suspended and name not in self.released_by:
            self.released_by[name] = [retry]

    async def send(self, permit: Permit, credential: Mapping[str, str], gate: Gate) -> Answering:
        await self.point()
        action = permit.judged.action
        if action.parent is None:
            gate()
            self.write(permit)
            return Answering(self, permit)
        waiting = self.board.shelf.find(action.parent)
        await self.point()
        if not isinstance(waiting, Waiting) or self.board.shelf.find(action.parent) is not waiting:
            raise InvalidParams("nothing waits there")
        gate()
        assert self.board.shelf.adopt(action.parent, action) is waiting
        self.write(permit)
        waiting.adopted += 1
        return Answering(self, permit, waiting)

    def write(self, permit: Permit) -> None:
        """The first byte reaches the upstream: what must be true then."""
        action = permit.judged.action
        assert not self.killed, "a write after a kill"
        assert not self.denied, "a write that the policy in force denies"
        assert not self.revoked, "a write with a revoked credential"
        assert permit.receipt in self.intents.get(action.id, []), "a write without an intent"
        assert action.name in VERSION.tools, "a call of what is not listed"
        self.writes.append((action.id, self.epoch))

    def time(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return 0.0

    def new_id(self) -> str:
        return "child"


class OneServer:
    def resolve(self, server: str, version: str | None, who: Principal) -> ServerVersion | None:
        return VERSION if server == "notes" else None

    def active(self) -> tuple[ServerVersion, ...]:
        return (VERSION,)

    def find(self, prefixed: str) -> tuple[str, str] | None:
        return None

    def selection(self, toolset: str | None) -> Selection | None:
        return None


class OneRule:
    sha256 = "p"

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._denied = machine.denied

    async def decide(self, question: Question) -> Decision:
        await self._machine.point()
        effect = Effect.DENY if self._denied and question.phase == "call" else Effect.ALLOW
        return Decision(effect, ("rule",), "p")


class Held:
    def __init__(self) -> None:
        self.ends: list[str] = []

    def settle(self, facts: Mapping[str, Any]) -> None:
        self.ends.append("settled")

    def refund(self) -> None:
        self.ends.append("refunded")


class Written:
    """The journal: what it has taken is on disk, also when the process dies in the next step."""

    def __init__(self, machine: Machine, action: Action) -> None:
        self._machine = machine
        self._action = action

    async def __aenter__(self) -> Written:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def identified(self, who: Principal) -> None:
        return None

    async def intend(self, judged: Judged, hold: Held, gate: Gate) -> Permit:
        gate()
        written = self._machine.intents.setdefault(self._action.id, [])
        receipt = Receipt("w0", len(written), self._action.id)
        written.append(receipt)
        await self._machine.point()
        return Permit(judged, hold, receipt)

    async def answered(self, part: Part) -> Part:
        if part.held is not None:
            self._machine.suspended.add(self._action.id)
        elif part.kind in (PartKind.WHOLE, PartKind.LAST):
            self._machine.outcomes.add(self._action.id)
        await self._machine.point()
        return part


class Answering:
    """Three parts that carry the marker of the call they answer; the last of one that asks is a question."""

    def __init__(self, machine: Machine, permit: Permit, waiting: Waiting | None = None) -> None:
        self._machine = machine
        self._marker = permit.judged.arguments.raw
        self._asks = permit.judged.action.forwarded.get("ask") is not None
        self._waiting = waiting

    async def __aiter__(self) -> AsyncIterator[Part]:
        yield Part(PartKind.OPENED)
        await self._machine.point()
        yield Part(PartKind.EVENT, self._marker)
        await self._machine.point()
        held = None
        if self._asks:
            held = Waiting()
            self._machine.waiting.append(held)
        yield Part(PartKind.LAST, self._marker, held=held)

    async def aclose(self, reason: BaseException | None) -> None:
        return None


class Waiting:
    """What the upstream has of a call that waits."""

    def __init__(self) -> None:
        self.adopted = 0
        self.ended = 0

    def end(self, reason: BaseException) -> None:
        self.ended += 1


def gateway_of(machine: Machine) -> Gateway:
    return Gateway(
        worlds=machine,
        journal=machine,
        tokens=machine,
        running=machine.board,
        meter=machine,
        broker=machine,
        upstream=machine,
        retries=Retries(machine),
        review=lambda parts, decide: parts,
        clock=machine,
    )


ACTION = Action(
    id="", route=Route.MCP, verb=Verb.TOOLS_CALL, resource="/mcp/notes", received_at=0.0, server="notes", name="read"
)


async def one_call(machine: Machine, gateway: Gateway, name: str, **facts: Any) -> None:
    parts = machine.delivered.setdefault(name, [])

    async def deliver(part: Part) -> None:
        assert not machine.killed, "a part delivered after a kill"
        if part.kind is PartKind.LAST:
            assert name in machine.outcomes | machine.suspended, "an answer without a record"
        parts.append(part.body)
        await machine.point()

    action = replace(ACTION, id=name, arguments=Arguments(f'"{name}"'.encode()), **facts)
    try:
        await gateway.handle(Presented(scheme="bearer", token=name), action, deliver)
    except (GatewayError, Crash):
        return


async def asking_call(machine: Machine, gateway: Gateway, name: str) -> None:
    """A call that is asked something twice; to each question its client comes back twice over, at once."""
    asking: list[str] = [name]
    await one_call(machine, gateway, name, forwarded={"ask": b"1"})
    for round_ in ("a", "b"):
        forwarded = {"ask": b"1"} if round_ == "a" else {}
        retries = [f"{asked}-{round_}{n}" for asked in asking for n in range(2)]
        parents = [asked for asked in asking for _ in range(2)]
        await asyncio.gather(
            *(
                one_call(machine, gateway, retry, parent=parent, forwarded=forwarded)
                for retry, parent in zip(retries, parents, strict=True)
                if machine.delivered[parent]
            )
        )
        asking = [retry for retry in retries if machine.delivered.get(retry)]


async def run(machine: Machine, calls: int, *, asking: int = 0) -> None:
    gateway = gateway_of(machine)
    await asyncio.gather(
        *(one_call(machine, gateway, f"call-{i}") for i in range(calls)),
        *(asking_call(machine, gateway, f"asking-{i}") for i in range(asking)),
    )
    if not machine.crashed:
        await gateway.review_suspended()
    check(machine)


def check(machine: Machine) -> None:
    for held in machine.holds:
        assert len(held.ends) == 1, f"a hold ended {held.ends}"
    for name, bodies in machine.delivered.items():
        assert all(body in (b"", f'"{name}"'.encode()) for body in bodies), "a foreign answer"
    assert machine.board.calls == {}, "a call stayed on the board"
    waits = {suspended.action.id: suspended.held for suspended in machine.board.shelf}
    for waiting in machine.waiting:
        ends = waiting.adopted + waiting.ended + (waiting in waits.values())
        assert ends == 1 or machine.crashed, "a call that waited was not ended or gone on with exactly once"
    if not machine.crashed:
        assert machine.suspended == machine.released_by.keys() | waits.keys(), "a suspension without an end"
        assert not (machine.killed or machine.revoked) or not waits, "a call waits for what may not come"
    wrote = [name for name, _ in machine.writes]
    assert len(wrote) == len(set(wrote)), "a permit sent twice"
    refunded = sum(held.ends == ["refunded"] for held in machine.holds)
    assert len(machine.holds) - refunded == len(wrote), "settled when not sent, or refunded when sent"


@pytest.mark.requirement("pipeline:schedules")
@pytest.mark.parametrize("event", ["kill", "revoke", "deny", "activate", "crash"])
async def test_an_event_at_any_await_of_a_call_breaks_no_invariant(event: str) -> None:
    reached = 0
    for k in itertools.count(1):
        machine = Machine(lambda n, k=k: event if n == k else None, lambda: 0)
        await run(machine, 1)
        if machine.awaits < k:
            break
        reached = k
    assert reached >= 10  # verify, two decisions, reserve, credential, intent, send, parts and deliveries


@pytest.mark.requirement("pipeline:schedules", "held:recorded")
@pytest.mark.parametrize("event", ["kill", "revoke", "deny", "activate", "crash"])
async def test_an_event_at_any_await_of_a_call_that_waits_for_its_caller_breaks_no_invariant(event: str) -> None:
    reached = adopted = 0
    for k in itertools.count(1):
        machine = Machine(lambda n, k=k: event if n == k else None, lambda: 0)
        await run(machine, 0, asking=1)
        adopted += sum(waiting.adopted for waiting in machine.waiting)
        if machine.awaits < k:
            break
        reached = k
    assert reached >= 40  # a call, two retries of it, and two of the one that goes on
    assert adopted > reached / 4


@pytest.mark.requirement("pipeline:schedules", "held:recorded")
async def test_random_events_among_calls_that_wait_for_their_callers_break_no_invariant() -> None:
    adopted = ended = 0
    for seed in range(SEEDS):
        dice = random.Random(seed)

        def strike(n: int, dice: random.Random = dice) -> str | None:
            return dice.choice(["kill", "revoke", "activate", "activate", "crash"]) if dice.random() < 0.01 else None

        machine = Machine(strike, lambda dice=dice: dice.randrange(3))
        await run(machine, 1, asking=2)
        adopted += sum(waiting.adopted for waiting in machine.waiting)
        ended += sum(waiting.ended for waiting in machine.waiting)
    assert adopted > SEEDS
    assert ended > SEEDS / 20


@pytest.mark.requirement("pipeline:schedules")
async def test_random_events_among_concurrent_calls_break_no_invariant() -> None:
    finished = struck = 0
    for seed in range(SEEDS):
        dice = random.Random(seed)

        def strike(n: int, dice: random.Random = dice) -> str | None:
            return (
                dice.choice(["kill", "revoke", "deny", "activate", "activate", "crash"])
                if dice.random() < 0.02
                else None
            )

        machine = Machine(strike, lambda dice=dice: dice.randrange(3))
        await run(machine, CALLS)
        finished += len(machine.outcomes)
        struck += machine.epoch > 1 or machine.crashed
    assert finished > SEEDS
    assert struck > SEEDS / 4


@pytest.mark.requirement("pipeline:rejudge")
async def test_a_call_is_judged_again_when_the_world_moves_before_it_is_sent() -> None:
    machine = Machine(lambda n: "activate" if n == 5 else None, lambda: 0)
    await run(machine, 1)
    assert machine.writes == [("call-0", 2)]


@pytest.mark.requirement("pipeline:rejudge")
async def test_a_world_that_never_rests_ends_the_call_unsent() -> None:
    machine = Machine(lambda n: "activate", lambda: 0)
    await run(machine, 1)
    assert machine.writes == []
