"""The records of an action: written before what they promise happens."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcpgw.audit.journal import SlotJournal
from mcpgw.audit.record import leaf_of
from mcpgw.config import AuditSection
from mcpgw.domain import (
    Arguments,
    Decision,
    Effect,
    KillSwitch,
    Mode,
    Part,
    PartKind,
    Principal,
    RedactArguments,
    Route,
    Scope,
    Tag,
    ToolPin,
    Verb,
)
from mcpgw.errors import (
    ClientGone,
    Denied,
    GatewayError,
    Internal,
    Killed,
    Unauthenticated,
    Unavailable,
    Unrecorded,
    UpstreamTimeout,
    UpstreamUnreachable,
    WorldMoved,
)
from tests.audit.parts import (
    AGENT,
    DIGESTER,
    SMALL,
    NothingHeld,
    SetClock,
    a_journal,
    an_action,
    call,
    judged,
    open_gate,
    records,
    refuse,
    world,
)
from tests.audit.test_segments import files_at_most, no_room

SWITCH = KillSwitch(
    id="kill-1",
    scope=Scope.SERVER,
    selector="notes",
    mode=Mode.HARD,
    reason="drill",
    thrown_by="mcpgw|root",
    thrown_at=1.0,
)
KILLED = Killed.by(SWITCH)


@pytest.fixture(autouse=True)
def _no_receipt_yet() -> None:
    KILLED.receipt = None


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def journal(tmp_path: Path, clock: SetClock) -> Any:
    held = a_journal(tmp_path, clock)
    yield held
    held.close()


@pytest.mark.requirement("audit:two-records")
async def test_a_call_leaves_an_intent_and_an_outcome(tmp_path: Path, journal: SlotJournal, clock: SetClock) -> None:
    action = an_action(clock, trace="t1", session="s1", parent="p1")
    async with journal.entry(action, world()) as entry:
        entry.identified(AGENT)
        verdict = judged(action, tool=ToolPin("write", "d" * 64, b"{}"))
        permit = await entry.intend(verdict, NothingHeld(), open_gate)
        clock.now += 0.25
        part = await entry.answered(Part(PartKind.WHOLE, b'{"content":[]}', facts={"upstream_status": 200}))
    intent, outcome = records(tmp_path)
    assert intent == {
        "time": 1_800_000_000.0,
        "phase": "intent",
        "log": "w0",
        "index": 0,
        "previous": "0" * 64,
        "action_id": action.id,
        "epoch": 12,
        "parent": "p1",
        "route": "mcp",
        "verb": "tools/call",
        "server": "notes",
        "version": "1.0.0",
        "name": "write",
        "principal": "https://idp.example|agent|7",
        "client_id": "crawler",
        "team": "blue",
        "credential": "k_7",
        "effect": "allow",
        "reasons": ["notes.write"],
        "policy_sha256": "p" * 64,
        "arguments_digest": DIGESTER.digest(action.arguments.raw),
        "session": "s1",
        "trace": "t1",
        "source_ip": "192.0.2.7",
        "facts": {"tool_sha256": "d" * 64},
    }
    assert outcome == {
        "time": 1_800_000_000.25,
        "phase": "outcome",
        "log": "w0",
        "index": 1,
        "previous": permit.receipt.leaf,
        "action_id": action.id,
        "epoch": 12,
        "route": "mcp",
        "verb": "tools/call",
        "server": "notes",
        "version": "1.0.0",
        "name": "write",
        "principal": "https://idp.example|agent|7",
        "effect": "allow",
        "outcome": "ok",
        "duration_ms": 250.0,
        "trace": "t1",
        "facts": {"intent": 0, "bytes": 14, "upstream_status": 200},
    }
    file = next((tmp_path / "logs" / "w0").glob("*.jsonl"))
    lines = file.read_bytes().rstrip(b"\0").splitlines()
    assert part.receipt is not None
    assert (permit.receipt.leaf, part.receipt.leaf) == (leaf_of(lines[0]).hex(), leaf_of(lines[1]).hex())
    assert (part.body, part.receipt.index, permit.receipt.log) == (b'{"content":[]}', 1, "w0")


@pytest.mark.requirement("audit:write-ahead")
async def test_the_intent_is_in_the_file_when_the_right_to_send_is_handed_out(
    tmp_path: Path, journal: SlotJournal, clock: SetClock
) -> None:
    action = an_action(clock)
    async with journal.entry(action, world()) as entry:
        await entry.intend(judged(action), NothingHeld(), open_gate)
        assert [r["phase"] for r in records(tmp_path)] == ["intent"]
        await entry.answered(Part(PartKind.WHOLE))
        assert [r["phase"] for r in records(tmp_path)] == ["intent", "outcome"]


@pytest.mark.requirement("audit:gate")
async def test_a_gate_that_is_shut_leaves_no_intent(tmp_path: Path, journal: SlotJournal, clock: SetClock) -> None:
    sizes: list[int] = []

    def shut() -> None:
        sizes.append(journal.size)
        raise KILLED

    action = an_action(clock)
    with pytest.raises(Killed):
        async with journal.entry(action, world()) as entry:
            entry.identified(AGENT)
            await entry.intend(judged(action), NothingHeld(), shut)
    [refused] = records(tmp_path)
    assert sizes == [0]
    assert (refused["phase"], refused["effect"], refused["outcome"]) == ("refused", "deny", "killed")
    assert refused["reasons"] == ["killed"]
    assert refused["facts"]["switch"] == "kill-1"


@pytest.mark.requirement("audit:rejudged")
async def test_an_action_that_was_judged_again_says_which_attempt_it_was(
    tmp_path: Path, journal: SlotJournal, clock: SetClock
) -> None:
    action = an_action(clock)
    async with journal.entry(action, world()) as entry:
        await entry.intend(judged(action), NothingHeld(), open_gate)
        await entry.intend(judged(action, epoch=13), NothingHeld(), open_gate)
        await entry.answered(Part(PartKind.WHOLE))
    first, second, outcome = records(tmp_path)
    assert "facts" not in first
    assert (second["facts"], second["epoch"]) == ({"attempt": 2}, 13)
    assert outcome["facts"]["intent"] == 1


@pytest.mark.requirement("audit:stream")
async def test_a_stream_leaves_intent_opened_outcome_closed(
    tmp_path: Path, journal: SlotJournal, clock: SetClock
) -> None:
    action = an_action(clock)
    async with journal.entry(action, world()) as entry:
        await entry.intend(judged(action), NothingHeld(), open_gate)
        opened = await entry.answered(Part(PartKind.OPENED))
        event = Part(PartKind.EVENT, b"12345")
        assert await entry.answered(event) is event
        await entry.answered(event)
        last = await entry.answered(Part(PartKind.LAST, b"123"))
        assert [r["phase"] for r in records(tmp_path)] == ["intent", "opened", "outcome"]
    assert opened.receipt is None
    assert last.receipt is not None
    closed = records(tmp_path)[3]
    assert (closed["phase"], closed["outcome"]) == ("closed", "ok")
    assert closed["facts"] == {"intent": 0, "events": 2, "bytes": 13}


CUTS = {
    "killed": (KILLED, "killed", {"cut_by": "killed", "switch": "kill-1"}),
    "client gone": (ClientGone("the client went away"), "client_gone", {"cut_by": "client_gone"}),
    "timeout": (UpstreamTimeout("60 s are over"), "upstream_timeout", {"cut_by": "timeout"}),
    "cancelled": (asyncio.CancelledError(), "cancelled", {"cut_by": "cancelled"}),
    "a bug": (KeyError("secret"), "internal", {"cut_by": "internal"}),
}


@pytest.mark.requirement("audit:cut")
@pytest.mark.parametrize(("error", "code", "facts"), CUTS.values(), ids=CUTS)
async def test_a_call_cut_short_says_by_whom_and_that_it_may_have_taken_effect(
    tmp_path: Path, journal: SlotJournal, clock: SetClock, error: BaseException, code: str, facts: dict[str, str]
) -> None:
    action = an_action(clock)
    with pytest.raises(type(error)):
        async with journal.entry(action, world()) as entry:
            permit = await entry.intend(judged(action), NothingHeld(), open_gate)
            permit.spent.append(True)
            raise error
    outcome = records(tmp_path)[1]
    assert (outcome["phase"], outcome["outcome"]) == ("outcome", code)
    assert outcome["facts"] == {"intent": 0, "bytes": 0, "sent": True, **facts}
    assert "secret" not in str(records(tmp_path))
    assert len(records(tmp_path)) == 2
    if isinstance(error, GatewayError):
        assert error.receipt is not None
        assert error.receipt.index == 1


@pytest.mark.requirement("audit:cut")
@pytest.mark.parametrize("spent", [False, True])
async def test_a_call_that_was_never_sent_says_so(
    tmp_path: Path, journal: SlotJournal, clock: SetClock, spent: bool
) -> None:
    error = UpstreamUnreachable("nobody listens") if spent else KILLED
    action = an_action(clock)
    with pytest.raises(GatewayError):
        async with journal.entry(action, world()) as entry:
            permit = await entry.intend(judged(action), NothingHeld(), open_gate)
            permit.spent.extend([True] * spent)
            raise error
    assert records(tmp_path)[1]["facts"]["sent"] is False


@pytest.mark.requirement("audit:cut")
async def test_a_stream_cut_short_leaves_outcome_and_closed(
    tmp_path: Path, journal: SlotJournal, clock: SetClock
) -> None:
    action = an_action(clock)
    with pytest.raises(Killed):
        async with journal.entry(action, world()) as entry:
            await entry.intend(judged(action), NothingHeld(), open_gate)
            await entry.answered(Part(PartKind.OPENED))
            await entry.answered(Part(PartKind.EVENT, b"12345"))
            raise KILLED
    outcome, closed = records(tmp_path)[2:]
    assert (outcome["phase"], outcome["outcome"]) == ("outcome", "killed")
    assert (closed["phase"], closed["outcome"]) == ("closed", "killed")
    assert closed["facts"] == {"intent": 0, "events": 1, "bytes": 5, "cut_by": "killed", "switch": "kill-1"}


@pytest.mark.requirement("audit:cut")
async def test_an_answer_withheld_after_its_outcome_says_so(
    tmp_path: Path, journal: SlotJournal, clock: SetClock
) -> None:
    action = an_action(clock)
    with pytest.raises(Killed):
        async with journal.entry(action, world()) as entry:
            await entry.intend(judged(action), NothingHeld(), open_gate)
            await entry.answered(Part(PartKind.WHOLE, b"{}"))
            raise KILLED
    assert [(r["phase"], r.get("outcome")) for r in records(tmp_path)] == [
        ("intent", None),
        ("outcome", "ok"),
        ("closed", "killed"),
    ]


OUTCOMES = {
    "ok": Part(PartKind.WHOLE),
    "tool_error": Part(PartKind.WHOLE, failed=True),
    "-32602": Part(PartKind.LAST, error_code=-32602),
    "http_500": Part(PartKind.WHOLE, status=500),
}


@pytest.mark.requirement("audit:two-records")
@pytest.mark.parametrize(("outcome", "part"), OUTCOMES.items(), ids=OUTCOMES)
async def test_the_outcome_tells_how_it_went(
    tmp_path: Path, journal: SlotJournal, clock: SetClock, outcome: str, part: Part
) -> None:
    action = an_action(clock)
    async with journal.entry(action, world()) as entry:
        await entry.intend(judged(action), NothingHeld(), open_gate)
        await entry.answered(part)
    assert records(tmp_path)[1]["outcome"] == outcome


async def test_an_exchange_that_ends_without_a_last_part_has_an_outcome_too(
    tmp_path: Path, journal: SlotJournal, clock: SetClock
) -> None:
    action = an_action(clock, verb=Verb.STREAM)
    async with journal.entry(action, world()) as entry:
        await entry.intend(judged(action), NothingHeld(), open_gate)
        await entry.answered(Part(PartKind.OPENED))
    assert [(r["phase"], r.get("outcome")) for r in records(tmp_path)][2:] == [("outcome", "ended"), ("closed", "ok")]


@pytest.mark.requirement("audit:two-records")
async def test_an_answer_without_an_intent_is_a_bug_and_does_not_pass(
    tmp_path: Path, journal: SlotJournal, clock: SetClock
) -> None:
    with pytest.raises(Internal):
        async with journal.entry(an_action(clock), world()) as entry:
            await entry.answered(Part(PartKind.WHOLE))
    assert [(r["phase"], r["outcome"]) for r in records(tmp_path)] == [("refused", "internal")]


async def test_a_request_that_ends_without_a_word_is_recorded_too(
    tmp_path: Path, journal: SlotJournal, clock: SetClock
) -> None:
    async with journal.entry(an_action(clock), world()) as entry:
        entry.identified(AGENT)
    assert [(r["phase"], r["outcome"]) for r in records(tmp_path)] == [("refused", "internal")]


@pytest.mark.requirement("audit:refused")
async def test_a_denial_is_one_record_with_its_rules(tmp_path: Path, journal: SlotJournal, clock: SetClock) -> None:
    data = {"decision_id": "d1", "effect": "deny", "rule": "no.delete", "reasons": ["no.delete", "default"]}
    error = Denied("the policy denies delete", data=data)
    action = an_action(clock, name="delete")
    await refuse(journal, action, error, AGENT)
    [refused] = records(tmp_path)
    assert (refused["phase"], refused["effect"], refused["outcome"]) == ("refused", "deny", "denied")
    assert refused["reasons"] == ["no.delete", "default"]
    assert refused["policy_sha256"] == "p" * 64
    assert refused["principal"] == AGENT.selector
    assert refused["arguments_digest"] == DIGESTER.digest(action.arguments.raw)
    assert refused["facts"] == {"decision_id": "d1", "message": "the policy denies delete"}
    assert error.receipt is not None
    assert (error.receipt.log, error.receipt.index) == ("w0", 0)


@pytest.mark.requirement("audit:refused")
async def test_a_call_held_for_approval_is_recorded_as_held(
    tmp_path: Path, journal: SlotJournal, clock: SetClock
) -> None:
    await refuse(
        journal, an_action(clock), Denied("needs approval", data={"effect": "hold", "rule": "four.eyes"}), AGENT
    )
    [refused] = records(tmp_path)
    assert (refused["effect"], refused["reasons"]) == ("hold", ["four.eyes"])


@pytest.mark.requirement("audit:refused")
async def test_an_unauthenticated_request_is_recorded_without_a_principal(
    tmp_path: Path, journal: SlotJournal, clock: SetClock
) -> None:
    await refuse(journal, an_action(clock), Unauthenticated("unknown key"))
    [refused] = records(tmp_path)
    assert refused["outcome"] == "unauthenticated"
    assert not {"principal", "effect", "arguments_digest"} & refused.keys()


@pytest.mark.requirement("audit:shed")
async def test_strangers_beyond_a_rate_are_counted_and_told_once_a_second(tmp_path: Path, clock: SetClock) -> None:
    journal = a_journal(tmp_path, clock, AuditSection(segment_bytes=65_536, reserve_bytes=4096, refusals_per_s=3))
    for _ in range(10):
        await refuse(journal, an_action(clock), Unauthenticated("unknown key"))
    await refuse(journal, an_action(clock), Denied("no", data={"rule": "r"}), AGENT)
    journal.flush()
    assert [r["phase"] for r in records(tmp_path)] == ["refused"] * 4
    clock.now += 1
    journal.flush()
    journal.flush()
    assert [r["phase"] for r in records(tmp_path)] == ["refused"] * 4 + ["shed"]
    assert records(tmp_path)[-1]["facts"] == {"refusals": 7}
    for _ in range(5):
        await refuse(journal, an_action(clock), Unauthenticated("unknown key"))
    clock.now += 1
    await call(journal, clock)
    assert [r["phase"] for r in records(tmp_path)][5:] == ["refused"] * 3 + ["shed", "intent", "outcome"]
    for _ in range(4):
        await refuse(journal, an_action(clock), Unauthenticated("unknown key"))
    journal.close()
    assert records(tmp_path)[-1]["facts"] == {"refusals": 1}


@pytest.mark.requirement("audit:no-values")
async def test_arguments_are_recorded_as_a_keyed_digest_and_chosen_fields_only(tmp_path: Path, clock: SetClock) -> None:
    pointers = ("/title", "/list/1", "/missing", "/a~1b/c", "/list/x", "/title/deep")
    settings = AuditSection(segment_bytes=65_536, reserve_bytes=4096, fields=pointers)
    journal = a_journal(tmp_path, clock, settings)
    raw = b'{"title":"Groceries","secret":"hunter2","list":[1,{"b":2}],"a/b":{"c":null}}'
    await call(journal, clock, arguments=Arguments(raw))
    await call(journal, clock, arguments=Arguments(b'{"title":"Groceries" }'))
    await call(journal, clock, arguments=Arguments(b'{"title":"Groceries" }'))
    await call(journal, clock, verb=Verb.TOOLS_LIST, name=None)
    journal.close()
    intents = [r for r in records(tmp_path) if r["phase"] == "intent"]
    assert intents[0]["fields"] == {"/title": "Groceries", "/list/1": {"b": 2}, "/a~1b/c": None}
    assert "hunter2" not in str(intents)
    assert intents[0]["arguments_digest"] != intents[1]["arguments_digest"] == intents[2]["arguments_digest"]
    assert "arguments_digest" not in intents[3]


@pytest.mark.requirement("audit:no-values")
async def test_redacted_arguments_and_tags_are_listed_and_the_digest_is_of_what_is_sent(
    tmp_path: Path, journal: SlotJournal, clock: SetClock
) -> None:
    action = an_action(clock)
    obligations = (RedactArguments(("/text", "/deep/er")), Tag("pii"))
    sent = Arguments(b'{"text":"[redacted]"}')
    verdict = judged(action, decision=Decision(Effect.ALLOW, ("r",), "p" * 64, obligations=obligations), arguments=sent)
    async with journal.entry(action, world()) as entry:
        await entry.intend(verdict, NothingHeld(), open_gate)
        await entry.answered(Part(PartKind.WHOLE))
    intent = records(tmp_path)[0]
    assert intent["redacted"] == ["/text", "/deep/er"]
    assert intent["facts"] == {"tags": ["pii"]}
    assert intent["arguments_digest"] == DIGESTER.digest(sent.raw)


async def test_the_chain_of_actors_is_recorded(tmp_path: Path, journal: SlotJournal, clock: SetClock) -> None:
    await call(journal, clock, who=replace(AGENT, actors=("planner", "desk")))
    assert records(tmp_path)[0]["facts"]["actors"] == ["planner", "desk"]


@pytest.mark.requirement("audit:full-disk")
async def test_without_room_calls_are_refused_running_ones_are_recorded_and_refusals_counted(
    tmp_path: Path, journal: SlotJournal, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    action = an_action(clock)
    async with journal.entry(action, world()) as entry:
        await entry.intend(judged(action), NothingHeld(), open_gate)
        with files_at_most(SMALL.segment_bytes), caplog.at_level(logging.CRITICAL, "mcpgw.audit"):
            with pytest.raises(Unavailable):
                while True:
                    await call(journal, clock)
            gates: list[int] = []
            blocked = an_action(clock)
            with pytest.raises(Unavailable):
                async with journal.entry(blocked, world()) as second:
                    second.identified(AGENT)
                    await second.intend(judged(blocked), NothingHeld(), lambda: gates.append(1))
            assert gates == []
            denied = Denied("no", data={"rule": "r"})
            await refuse(journal, an_action(clock), denied, AGENT)
            while denied.receipt is not None:
                await refuse(journal, an_action(clock), denied, AGENT)
            answered = await entry.answered(Part(PartKind.WHOLE))
    assert answered.receipt is not None
    clock.now += 1
    await call(journal, clock)
    held = records(tmp_path)
    assert [r["phase"] for r in held[-3:]] == ["shed", "intent", "outcome"]
    assert held[-3]["facts"] == {"refusals": 1}
    assert [r["index"] for r in held] == list(range(len(held)))


@pytest.mark.requirement("audit:withheld")
async def test_an_answer_whose_outcome_cannot_be_written_is_withheld(
    tmp_path: Path, journal: SlotJournal, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    action = an_action(clock)
    with caplog.at_level(logging.CRITICAL, "mcpgw.audit"), pytest.raises(Unrecorded) as refused:
        async with journal.entry(action, world()) as entry:
            permit = await entry.intend(judged(action), NothingHeld(), open_gate)
            permit.spent.append(True)
            with no_room(journal.slot):
                await entry.answered(Part(PartKind.WHOLE))
    assert not refused.value.wire.retryable
    outcome = records(tmp_path)[1]
    assert (outcome["outcome"], outcome["facts"]["sent"]) == ("unrecorded", True)


@pytest.mark.requirement("audit:withheld")
async def test_a_log_that_fails_never_hides_the_error_that_ended_the_call(
    journal: SlotJournal, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    action = an_action(clock)
    with caplog.at_level(logging.CRITICAL + 1, "mcpgw.audit"), pytest.raises(Killed), ExitStack() as full:
        async with journal.entry(action, world()) as entry:
            await entry.intend(judged(action), NothingHeld(), open_gate)
            full.enter_context(no_room(journal.slot))
            raise KILLED
    assert KILLED.receipt is None


DISK = AuditSection(segment_bytes=65_536, reserve_bytes=4096, durability="disk")


@pytest.mark.requirement("audit:group-commit")
async def test_with_durability_disk_many_calls_share_a_sync_and_none_goes_on_before_it(
    tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = a_journal(tmp_path, clock, DISK)
    synced: list[int] = []  # the size of the log when each sync began
    real = os.fdatasync

    def counting(fd: int) -> None:
        synced.append(journal.size)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", counting)

    async def one() -> None:
        permit, part = await call(journal, clock)
        assert any(size > permit.receipt.index for size in synced)
        assert part.receipt is not None and max(synced) > part.receipt.index

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for _ in range(200):
                group.start_soon(one)
    assert 0 < len(synced) < 100
    journal.close()
    held = records(tmp_path)
    assert len(held) == 400
    assert len(list((tmp_path / "logs" / "w0").glob("*.jsonl"))) > 1  # through a change of files too


@pytest.mark.requirement("audit:group-commit")
async def test_a_sync_that_fails_refuses_the_call_and_all_that_follow(
    tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = a_journal(tmp_path, clock, DISK)

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(Unavailable):
            await call(journal, clock)
    with pytest.raises(Unavailable, match="cannot be relied on"):
        await call(journal, clock)
    journal.close()
    outcome = records(tmp_path)[1]
    assert (outcome["outcome"], outcome["facts"]["sent"]) == ("unavailable", False)


@pytest.mark.requirement("audit:group-commit")
async def test_a_caller_that_leaves_during_a_sync_leaves_the_others_alone(
    tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = a_journal(tmp_path, clock, DISK)
    may_sync = threading.Event()
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (may_sync.wait(5), real(fd)))
    leaving = asyncio.ensure_future(call(journal, clock))
    staying = asyncio.ensure_future(call(journal, clock))
    await anyio.lowlevel.checkpoint()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    may_sync.set()
    with anyio.fail_after(5):
        await staying
    journal.close()
    assert sorted(r["outcome"] for r in records(tmp_path) if r["phase"] == "outcome") == ["cancelled", "ok"]


@pytest.mark.requirement("audit:position")
async def test_position_and_name_of_the_log_are_known_at_any_time(journal: SlotJournal, clock: SetClock) -> None:
    assert (journal.log, journal.size) == ("w0", 0)
    await call(journal, clock)
    assert journal.size == 2


async def test_a_world_that_moved_before_the_write_can_be_judged_again_in_the_same_entry(
    tmp_path: Path, journal: SlotJournal, clock: SetClock
) -> None:
    def moved() -> None:
        raise WorldMoved

    action = an_action(clock, route=Route.LLM, verb=Verb.CHAT)
    who: Principal = AGENT
    async with journal.entry(action, world()) as entry:
        entry.identified(who)
        with pytest.raises(WorldMoved):
            await entry.intend(judged(action), NothingHeld(), moved)
        await entry.intend(judged(action, epoch=13), NothingHeld(), open_gate)
        await entry.answered(Part(PartKind.WHOLE))
    assert [(r["phase"], r["epoch"]) for r in records(tmp_path)] == [("intent", 13), ("outcome", 13)]


@pytest.mark.requirement("audit:full-disk")
async def test_whether_a_call_could_be_recorded_now_can_be_asked(journal: SlotJournal, clock: SetClock) -> None:
    journal.check()
    with files_at_most(1):
        with pytest.raises(Unavailable):
            while True:
                journal.slot.admit(clock.new_id())
        with pytest.raises(Unavailable):
            journal.check()
    journal.check()


# Calls that wait for their caller


class Rest:
    def end(self, reason: BaseException) -> None:
        """Nothing is left."""


ASKING = Part(PartKind.WHOLE, b'{"resultType":"input_required"}', facts={"asks": ["roots/list"]}, held=Rest())


@pytest.mark.requirement("held:recorded")
async def test_a_call_that_waits_has_its_record_and_one_of_how_that_ended(
    tmp_path: Path, journal: SlotJournal, clock: SetClock
) -> None:
    first, retry = an_action(clock), an_action(clock, parent="first")
    async with journal.entry(first, world()) as entry:
        permit = await entry.intend(judged(first), NothingHeld(), open_gate)
        part = await entry.answered(ASKING)
        assert part.held is ASKING.held
    async with journal.entry(retry, world()) as entry:
        await entry.intend(judged(retry), NothingHeld(), open_gate)
        clock.now += 2.5
        for _ in range(2):
            journal.released(permit, None, retry.id)
        await entry.answered(Part(PartKind.WHOLE, b"{}"))
    found = records(tmp_path)
    assert [(r["phase"], r["action_id"], r.get("outcome")) for r in found] == [
        ("intent", first.id, None),
        ("suspended", first.id, "input_required"),
        ("intent", retry.id, None),
        ("closed", first.id, "adopted"),
        ("outcome", retry.id, "ok"),
    ]
    assert part.receipt is not None
    assert part.receipt.index == 1
    assert found[1]["facts"] == {"intent": 0, "bytes": len(ASKING.body), "asks": ["roots/list"]}
    assert found[2]["parent"] == "first"
    assert found[3]["facts"] == {"intent": 0, "retry": retry.id}
    assert found[3]["duration_ms"] == 2500.0


@pytest.mark.requirement("held:recorded")
async def test_a_call_that_ended_while_it_waited_says_why(
    tmp_path: Path, journal: SlotJournal, clock: SetClock
) -> None:
    action = an_action(clock)
    with pytest.raises(ClientGone) as gone:
        async with journal.entry(action, world()) as entry:
            permit = await entry.intend(judged(action), NothingHeld(), open_gate)
            receipt = (await entry.answered(ASKING)).receipt
            raise ClientGone("gone")
    assert gone.value.receipt == receipt
    journal.released(permit, KILLED, None)
    closed = records(tmp_path)[2]
    assert (closed["phase"], closed["outcome"]) == ("closed", "killed")
    assert closed["facts"] == {"intent": 0, "cut_by": "killed", "switch": SWITCH.id}


@pytest.mark.requirement("held:recorded")
async def test_a_call_that_does_not_wait_is_not_closed_as_one(tmp_path: Path, journal: SlotJournal) -> None:
    action = an_action(SetClock())
    async with journal.entry(action, world()) as entry:
        permit = await entry.intend(judged(action), NothingHeld(), open_gate)
        journal.released(permit, KILLED, None)
        await entry.answered(Part(PartKind.WHOLE, b"{}"))
    journal.released(permit, KILLED, None)
    assert [r["phase"] for r in records(tmp_path)] == ["intent", "outcome"]


@pytest.mark.requirement("held:recorded", "audit:full-disk")
async def test_the_room_for_the_end_of_a_call_that_waits_is_kept(
    tmp_path: Path, journal: SlotJournal, clock: SetClock
) -> None:
    waits = []
    for _ in range(4):
        action = an_action(clock)
        async with journal.entry(action, world()) as entry:
            waits.append(await entry.intend(judged(action), NothingHeld(), open_gate))
            await entry.answered(ASKING)
    with files_at_most(SMALL.segment_bytes):
        with pytest.raises(Unavailable):
            while True:
                await call(journal, clock)
        denied = Denied("no", data={"rule": "r"})
        await refuse(journal, an_action(clock), denied, AGENT)
        while denied.receipt is not None:
            await refuse(journal, an_action(clock), denied, AGENT)
        for permit in waits:
            journal.released(permit, ClientGone("gone"), None)
    assert [r["outcome"] for r in records(tmp_path) if r["phase"] == "closed"] == ["client_gone"] * 4
