"""The algebra of kill switches: which call which switch stops, against a model that shares no code with it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from mcpgw.domain import Action, KillSwitch, Mode, Principal, Route, Scope, Switches, Target, Verb
from mcpgw.errors import Conflict, GatewayError, InvalidParams, Killed, NotFound
from mcpgw.judge import judge
from mcpgw.kills import KillService
from mcpgw.ports import Ack, World
from mcpgw.running import Board
from mcpgw.store.memory import MemoryStore
from tests.parts import Rules, SetClock, Shelf, action, agent, published, switch, world_of

PAIRS = 10_000
ADMIN = agent("root")

# The model: what contract.md says of each scope, in its own words.


def selected(scope: str, selector: str, who: Principal, call: Action, version: str | None) -> bool:
    llm = call.route is Route.LLM
    server = None if llm else call.server
    names = {
        "global": {"*"},
        "server": {server},
        "version": {f"{server}@{version}"} if server and version else set(),
        "tool": {f"{server}/{call.name}"} if server and call.name else set(),
        "principal": {f"{who.issuer}|{who.subject}", *who.actors},
        "client": {who.client_id},
        "team": {who.team},
        "key": {who.credential},
        "issuer": {who.issuer},
        "provider": {call.server} if llm else set(),
        "model": {call.name, f"{call.server}/{call.name}"} if llm and call.name else set(),
    }
    return selector in names[scope]


def forbidden(switches: list[KillSwitch], who: Principal, call: Action, version: str | None, hard: bool) -> bool:
    return any(
        s.released_at is None
        and (s.mode.value == "hard" or not hard)
        and selected(s.scope.value, s.selector, who, call, version)
        for s in switches
    )


# Small vocabularies, so that much of it meets, with names that read like other names.
SERVERS = ["notes", "files", "notes-2"]
VERSIONS = ["1.0.0", "2.0.0"]
NAMES = ["read", "notes", "files/read", "notes@1.0.0", "*"]
SUBJECTS = ["ada", "bob", "ada|bob"]
ISSUERS = ["https://id.example", "mcpgw"]
WORDS = ["desk", "phone", "blue", "key-1", "read", "notes"]


def any_principal(dice: random.Random) -> Principal:
    return agent(
        dice.choice(SUBJECTS),
        issuer=dice.choice(ISSUERS),
        client_id=dice.choice(WORDS),
        team=dice.choice([None, *WORDS]),
        credential=dice.choice([None, *WORDS]),
        actors=tuple(f"{dice.choice(ISSUERS)}|{dice.choice(SUBJECTS)}" for _ in range(dice.choice([0, 0, 1, 2]))),
    )


def any_call(dice: random.Random) -> Action:
    route = dice.choice([Route.MCP, Route.MCP, Route.LLM, Route.SYSTEM])
    verb = Verb.CHAT if route is Route.LLM else dice.choice([Verb.TOOLS_CALL, Verb.TOOLS_LIST, Verb.PING])
    server = dice.choice(SERVERS) if route is Route.LLM else dice.choice([None, *SERVERS])
    return action(verb, server, dice.choice([None, *NAMES]), route=route, version=dice.choice([None, *VERSIONS]))


def any_switch(dice: random.Random, mode: Mode | None = None) -> KillSwitch:
    scope = dice.choice(list(Scope))
    server, name = dice.choice(SERVERS), dice.choice(NAMES)
    selector = {
        Scope.GLOBAL: "*",
        Scope.SERVER: server,
        Scope.VERSION: f"{server}@{dice.choice(VERSIONS)}",
        Scope.TOOL: f"{server}/{name}",
        Scope.PRINCIPAL: f"{dice.choice(ISSUERS)}|{dice.choice(SUBJECTS)}",
        Scope.ISSUER: dice.choice(ISSUERS),
        Scope.PROVIDER: server,
        Scope.MODEL: dice.choice([name, f"{server}/{name}"]),
    }.get(scope, dice.choice(WORDS))
    # `global` would match everything: rare, or nothing else is ever tested.
    if scope is Scope.GLOBAL and dice.random() < 0.8:
        return any_switch(dice, mode)
    released = 1.0 if dice.random() < 0.2 else None
    return switch(scope, selector, mode or dice.choice(list(Mode)), released_at=released)


@pytest.mark.requirement("kill:algebra")
def test_ten_thousand_random_switches_and_calls_agree_with_the_model() -> None:
    dice = random.Random(8)
    matched = 0
    for _ in range(PAIRS):
        switches = [any_switch(dice) for _ in range(dice.randrange(6))]
        who, call, hard = any_principal(dice), any_call(dice), dice.random() < 0.5
        version = call.version or dice.choice([None, *VERSIONS])
        found = Switches(switches).match(who, Target.of(call, version), hard_only=hard)
        expected = forbidden(switches, who, call, version, hard)
        assert (found is not None) == expected, (switches, who, call, version)
        if found is not None:
            assert found in switches
            assert forbidden([found], who, call, version, hard)
        matched += expected
    assert PAIRS / 5 < matched < PAIRS * 4 / 5


@pytest.mark.requirement("principals:actors", "kill:algebra")
def test_a_switch_on_a_principal_stops_those_too_on_whose_behalf_it_acts() -> None:
    who = agent("ada", actors=("mcpgw|bot", "https://id.example|first"))
    for selector, stopped in (("mcpgw|bot", True), ("https://id.example|first", True), ("mcpgw|ada", False)):
        found = Switches([switch(Scope.PRINCIPAL, selector)]).match(who, Target.of(action(), "1.0.0"))
        assert (found is not None) == stopped


@pytest.mark.requirement("kill:algebra")
@pytest.mark.parametrize("scope", Scope)
def test_of_two_switches_on_the_same_thing_one_that_cuts_wins_over_one_that_drains(scope: Scope) -> None:
    dice = random.Random(scope.value)
    who, call = any_principal(dice), action()
    selector = {
        **dict.fromkeys(Scope, ""),
        Scope.GLOBAL: "*",
        Scope.SERVER: "notes",
        Scope.VERSION: "notes@1.0.0",
        Scope.TOOL: "notes/read",
        Scope.PRINCIPAL: who.selector,
        Scope.CLIENT: who.client_id,
        Scope.ISSUER: who.issuer,
    }[scope]
    drains, cuts = switch(scope, selector, Mode.DRAIN), switch(scope, selector, Mode.HARD)
    for both in ([drains, cuts], [cuts, drains]):
        found = Switches(both).match(who, Target.of(call, "1.0.0"), hard_only=True)
        assert found == (cuts if selector else None)


def test_a_switch_that_was_released_stands_no_more() -> None:
    released = switch(Scope.GLOBAL, "*", released_at=1.0)
    assert not Switches([released])
    assert Switches([released]).standing == ()


# The service: what it accepts, what it previews, what it does


class OneWorker:
    """The service on one worker whose bus is itself; the certificate is what the bus said."""

    def __init__(self, *versions: Any) -> None:
        self.store = MemoryStore()
        self.versions = versions
        self.current = world_of(*versions)
        self.clock = SetClock()
        self.board = Board(lambda: self.current.epoch, self.clock)
        self.kills = KillService(
            store=self.store,
            worlds=self,
            bus=self,
            board=self.board,
            clock=self.clock,
            certify=lambda thrown, acks, sent: {"kill": thrown.id, "epoch": thrown.epoch, "in_flight": list(sent)},
        )

    def published(self) -> int:
        return self.current.epoch

    async def at_least(self, epoch: int) -> World:
        return self.current

    async def publish(self, epoch: int, switch: str | None = None) -> tuple[list[Ack], list[str]]:
        state = await self.store.state()
        self.current = World(
            epoch=state.epoch,
            catalog=Shelf(self.versions),
            switches=Switches(state.switches),
            policy=Rules(),
            identities=self.current.identities,
            state=state,
        )
        cut = self.board.cut_killed(self.current.switches).get(switch or "")
        calls, sent = (cut.calls, cut.sent) if cut is not None else ((), ())
        return [Ack("w0", "w0", 5, epoch, calls, sent)], []

    def enter(self, dice: random.Random) -> None:
        """Put a call on the board, as if it were under way."""
        call = self.board.enter(any_principal(dice), any_call(dice))
        if call.action.server is not None and call.action.route is not Route.LLM:
            call.version = next(v for v in self.versions if v.server == call.action.server)
        call.sent = dice.random() < 0.5
        self.board.calls[call.action.id] = call


async def callable_tools(world: World, who: Principal) -> Iterator[str]:
    found = []
    for version in world.catalog.active():
        for tool in version.tools:
            try:
                await judge(world, who, action(server=version.server, name=tool))
            except Killed:
                continue
            found.append(f"{version.server}/{tool}")
    return iter(found)


@pytest.mark.requirement("kill:preview")
async def test_what_a_dry_run_previews_is_what_the_kill_then_does() -> None:
    dice = random.Random(88)
    cut = killed = 0
    for _ in range(150):
        thrown = any_switch(dice, Mode.HARD)
        worker = OneWorker(
            *(published(slug, ["read", "files/read"], version=dice.choice(VERSIONS)) for slug in SERVERS)
        )
        for _ in range(6):
            worker.enter(dice)
        everything = set(await callable_tools(worker.current, agent()))
        how = {"scope": thrown.scope.value, "selector": thrown.selector, "reason": "test"}

        preview = await worker.kills.throw(ADMIN, **how, dry_run=True)
        assert (await worker.store.state()).switches == ()
        assert all(call._cut is None for call in worker.board.calls.values())

        done = await worker.kills.throw(ADMIN, **how)
        was_cut = [id for id, call in worker.board.calls.items() if call._cut is not None]
        assert preview["running_here"] == was_cut
        assert done["cancelled"] == len(was_cut)
        assert done["may_have_taken_effect"] == sorted(id for id in was_cut if worker.board.calls[id].sent)
        # Nobody that these scopes name is in this principal, so what it loses is what everyone loses.
        stranger = agent("nobody", issuer="nowhere", client_id="none")
        gone = everything - set(await callable_tools(worker.current, stranger))
        assert set(preview["tools"]) == gone
        cut += len(was_cut)
        killed += len(gone)
    assert cut > 50
    assert killed > 50


@pytest.mark.requirement("kill:preview")
async def test_a_preview_of_a_principal_names_its_calls_and_no_one_elses() -> None:
    worker = OneWorker(published())
    for who in (agent("ada"), agent("bob")):
        call = worker.board.enter(who, action(id=who.subject))
        worker.board.calls[who.subject] = call
    preview = await worker.kills.throw(ADMIN, "principal", agent("bob").selector, reason="test", dry_run=True)
    assert preview["running_here"] == ["bob"]


@pytest.mark.requirement("kill:service")
async def test_a_kill_answers_with_all_that_was_acknowledged() -> None:
    worker = OneWorker(published())
    thrown = await worker.kills.throw(ADMIN, "server", "notes", reason=" leak ")
    assert thrown.pop("id").startswith("kill-")
    assert thrown.pop("certificate")["epoch"] == 2
    assert thrown == {
        "epoch": 2,
        "acknowledged": [{"worker": "w0", "log": "w0", "position": 5}],
        "missing": [],
        "cancelled": 0,
        "finished": 0,
        "may_have_taken_effect": [],
        "took_ms": 0.0,
    }
    [(_, epoch, note)] = await worker.store.notes(0, 10)
    assert (epoch, note.actor, note.action, note.reason) == (2, ADMIN.selector, "kill.throw", "leak")
    assert note.after is not None
    assert note.after["selector"] == "notes"


@pytest.mark.requirement("kill:service")
async def test_a_kill_that_drains_names_the_calls_that_it_lets_finish() -> None:
    worker = OneWorker(published())
    for name, sent in (("sent", True), ("waiting", False)):
        call = worker.board.calls[name] = worker.board.enter(agent(), action(id=name))
        call.sent = sent
    thrown = await worker.kills.throw(ADMIN, "server", "notes", "drain", "test")
    assert (thrown["cancelled"], thrown["finished"], thrown["may_have_taken_effect"]) == (0, 1, ["sent"])
    assert all(call._cut is None for call in worker.board.calls.values())


@pytest.mark.requirement("kill:service")
async def test_a_kill_that_expires_says_when() -> None:
    worker = OneWorker(published())
    await worker.kills.throw(ADMIN, "server", "notes", "drain", "test", expires_in_s=60.0)
    [shown] = worker.kills.list()
    assert shown["mode"] == "drain"
    assert shown["expires_at"] == worker.clock.now + 60


BAD: list[tuple[dict[str, Any], str]] = [
    ({"scope": "planet"}, "unknown kill scope `planet`"),
    ({"mode": "gently"}, "unknown kill mode `gently`"),
    ({"reason": "  "}, "needs a reason"),
    ({"scope": "global", "selector": "notes"}, "does not fit scope global"),
    ({"selector": ""}, "does not fit scope server"),
    ({"selector": "notes/read"}, "does not fit scope server"),
    ({"selector": "notes@1.0.0"}, "does not fit scope server"),
    ({"selector": "n" * 513}, "does not fit scope server"),
    ({"scope": "version", "selector": "notes"}, "does not fit scope version"),
    ({"scope": "version", "selector": "notes@1@2"}, "does not fit scope version"),
    ({"scope": "tool", "selector": "notes"}, "does not fit scope tool"),
    ({"scope": "principal", "selector": "ada"}, "does not fit scope principal"),
    ({"scope": "team", "selector": ""}, "does not fit scope team"),
    ({"scope": "client", "selector": ""}, "does not fit scope client"),
]


@pytest.mark.requirement("kill:service")
@pytest.mark.parametrize(("bad", "why"), BAD, ids=[f"{why} {bad.get('selector', '')[:12]}" for bad, why in BAD])
@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_kill_that_cannot_be_meant_is_refused_whole(bad: dict[str, Any], why: str, dry_run: bool) -> None:
    worker = OneWorker(published())
    with pytest.raises(InvalidParams) as caught:
        await worker.kills.throw(
            ADMIN, **({"scope": "server", "selector": "notes", "reason": "test"} | bad), dry_run=dry_run
        )
    assert why in str(caught.value)
    assert caught.value.fix
    assert (await worker.store.state()).epoch == 1


@pytest.mark.requirement("kill:release")
async def test_a_release_lets_calls_through_again_and_is_kept_with_its_reason() -> None:
    worker = OneWorker(published())
    thrown = await worker.kills.throw(ADMIN, "server", "notes", reason="leak")
    assert list(await callable_tools(worker.current, agent())) == []
    worker.clock.now += 5
    released = await worker.kills.release(agent("second"), thrown["id"], "fixed")
    assert released == {"id": thrown["id"], "epoch": 3, "released": True, "missing": []}
    assert len(list(await callable_tools(worker.current, agent()))) == 2
    assert worker.kills.list() == []
    [kept] = worker.kills.list(include_released=True)
    assert (kept["released_by"], kept["release_reason"]) == (agent("second").selector, "fixed")
    assert kept["released_at"] == worker.clock.now
    notes = [note for _, _, note in await worker.store.notes(0, 10)]
    assert [n.action for n in notes] == ["kill.throw", "kill.release"]
    assert notes[1].before is not None
    assert "released_at" not in notes[1].before


@pytest.mark.requirement("kill:release")
async def test_a_release_of_what_does_not_stand_or_without_a_reason_is_refused() -> None:
    worker = OneWorker(published())
    thrown = await worker.kills.throw(ADMIN, "server", "notes", reason="leak")
    cases: list[tuple[str, str, type[GatewayError]]] = [
        ("kill-0", "fixed", NotFound),
        (thrown["id"], " ", InvalidParams),
    ]
    for switch_id, reason, expected in cases:
        with pytest.raises(expected):
            await worker.kills.release(ADMIN, switch_id, reason)
    await worker.kills.release(ADMIN, thrown["id"], "fixed")
    with pytest.raises(Conflict):
        await worker.kills.release(ADMIN, thrown["id"], "again")
