"""Offline verification: whatever is changed below what was kept is found, and where."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from mcpgw.audit import certificate, logs
from mcpgw.audit.checkpoint import checkpoints_path, decode
from mcpgw.audit.keys import PublicKey
from mcpgw.audit.record import leaf_of
from mcpgw.audit.seal import seal
from mcpgw.audit.verify import Report, verify
from mcpgw.domain import KillSwitch, Mode, Part, PartKind, Principal, Receipt, Route, Scope, Verb
from mcpgw.errors import Killed, UsageError
from mcpgw.ports import Ack
from tests.audit.parts import (
    AGENT,
    NothingHeld,
    Outbox,
    SetClock,
    a_journal,
    a_keeper,
    a_signer,
    an_action,
    call,
    judged,
    open_gate,
    records,
    world,
)
from tests.audit.test_segments import crash

CALLS = 120
KEPT = 2 * CALLS  # records of w0 that the kept checkpoint covers


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("written")
    anyio.run(write, base)
    return base


async def write(base: Path) -> None:
    """Write a log of two workers and the administrators, keep a checkpoint, and write some more of everything."""
    clock = SetClock()
    outbox = Outbox()
    first, second = (a_journal(base / "audit", clock, log=log) for log in ("w0", "w1"))
    keeper = a_keeper(base, clock, outbox)
    for i in range(CALLS):
        await call(first, clock)
        clock.now += 1
        if i % 20 == 0:
            await call(second, clock)
            outbox.add(i)
            keeper.tick()
    keeper.tick()
    (base / "kept.json").write_bytes(checkpoints_path(base / "audit").read_bytes().splitlines()[-1])
    for _ in range(10):
        await call(first, clock)
        clock.now += 1
    keeper.tick()
    await call(first, clock)
    for held in (first, second, keeper):
        held.close()


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written / "audit", tmp_path / "audit")
    shutil.copytree(written / "keys", tmp_path / "keys")
    shutil.copy(written / "kept.json", tmp_path)
    return tmp_path


def check(base: Path, **kept: Any) -> Report:
    return verify(base / "audit", checkpoint=base / "kept.json", **kept)


def found(report: Report) -> list[tuple[str, int]]:
    return [(f.log, f.index) for f in report.findings]


def files_of(base: Path, log: str = "w0") -> list[Path]:
    return sorted((base / "audit" / "logs" / log).glob("*.jsonl"))


def rewrite(base: Path, change: Callable[[list[bytes]], list[bytes]], log: str = "w0") -> None:
    """Change the lines of a log and put them back into files that begin where they began."""
    files = files_of(base, log)
    lines = b"".join(f.read_bytes() for f in files).splitlines(keepends=True)
    lines = change(lines)
    firsts = [int(f.stem) for f in files] + [len(lines)]
    for file, begin, end in zip(files, firsts[:-1], firsts[1:], strict=True):
        file.write_bytes(b"".join(lines[begin : max(begin, end)]))
    files[-1].write_bytes(b"".join(lines[firsts[-2] :]))


@pytest.mark.requirement("audit:verify")
def test_an_untouched_log_verifies_and_says_how_far(copy: Path) -> None:
    report = check(copy)
    assert report.findings == []
    assert report.ok
    w0 = next(held for held in report.logs if held.id == "w0")
    assert (w0.records, w0.signed, w0.witnessed, w0.torn_bytes) == (262, 260, KEPT, 0)
    assert (w0.calls.intents, w0.calls.outcomes, w0.calls.unknown_effect) == (131, 131, [])
    assert (report.checkpoints, report.since, report.until) == (8, 1_800_000_001.0, 1_800_000_130.0)
    text = report.text()
    assert "OK: the log is whole" in text
    assert "log w0: 262 records, 260 signed (last 2027-01-15 08:02:10+00:00), 2 only chained" in text
    assert "rest on the gateway's signature alone" in text
    assert json.loads(json.dumps(report.document()))["ok"] is True


@pytest.mark.requirement("audit:verify")
def test_without_anything_kept_the_report_says_that_nobody_outside_vouches(copy: Path) -> None:
    report = verify(copy / "audit")
    assert report.ok and not report.witnessed
    assert "nobody outside vouches" in report.text()


@pytest.mark.requirement("audit:verify")
def test_a_kept_checkpoint_may_be_laid_out_anew(copy: Path) -> None:
    kept = copy / "kept.json"
    kept.write_text(json.dumps(json.loads(kept.read_bytes()), indent=2))
    assert check(copy).ok


def edited(lines: list[bytes], at: int, dice: random.Random) -> list[bytes]:
    line = bytearray(lines[at])
    byte = dice.randrange(len(line))
    line[byte] = dice.choice([b for b in range(256) if b != line[byte]])
    return [*lines[:at], bytes(line), *lines[at + 1 :]]


def deleted(lines: list[bytes], at: int, dice: random.Random) -> list[bytes]:
    return lines[:at] + lines[at + 1 :]


def swapped(lines: list[bytes], at: int, dice: random.Random) -> list[bytes]:
    other = dice.randrange(at + 1, KEPT)
    lines[at], lines[other] = lines[other], lines[at]
    return lines


def doubled(lines: list[bytes], at: int, dice: random.Random) -> list[bytes]:
    return [*lines[:at], lines[at], *lines[at:]]


def truncated(lines: list[bytes], at: int, dice: random.Random) -> list[bytes]:
    return lines[:at]


def cut_within(lines: list[bytes], at: int, dice: random.Random) -> list[bytes]:
    return [*lines[:at], lines[at][: dice.randrange(1, len(lines[at]))]]


def retimed(lines: list[bytes], at: int, dice: random.Random) -> list[bytes]:
    return [*lines[:at], lines[at].replace(b'{"time":18', b'{"time":17'), *lines[at + 1 :]]


TAMPERINGS = [edited, edited, edited, deleted, swapped, doubled, truncated, cut_within, retimed, edited]


@pytest.mark.requirement("audit:tamper")
@pytest.mark.parametrize("seed", range(100))
def test_any_change_below_a_kept_checkpoint_is_found_with_its_place(copy: Path, seed: int) -> None:
    dice = random.Random(seed)
    tamper = TAMPERINGS[seed % len(TAMPERINGS)]
    at = dice.randrange(KEPT - 1)
    rewrite(copy, lambda lines: tamper(lines, at, dice))
    report = check(copy)
    assert not report.ok
    near = {("w0", at)} if tamper in {deleted, swapped, truncated, cut_within} else {("w0", at + d) for d in (-1, 0, 1)}
    assert near & set(found(report)), report.text()
    assert min(index for log, index in found(report) if log == "w0") >= at - 1, report.text()


def rechained(lines: list[bytes], at: int) -> list[bytes]:
    """Change one record, and every `previous` behind it: the chain holds again."""
    lines[at] = lines[at].replace(b'"tools/call"', b'"tools/carl"')
    for i in range(at + 1, len(lines)):
        before = leaf_of(lines[i - 1].removesuffix(b"\n")).hex().encode()
        head, _, rest = lines[i].partition(b'"previous":"')
        lines[i] = head + b'"previous":"' + before + rest[64:]
    return lines


@pytest.mark.requirement("audit:tamper")
@pytest.mark.parametrize("at", [0, 41, 130, KEPT - 1])
def test_a_chain_made_anew_is_found_by_the_roots(copy: Path, at: int) -> None:
    rewrite(copy, lambda lines: rechained(lines, at))
    without = verify(copy / "audit")
    [finding] = without.findings
    checkpoints = [decode(line) for line in checkpoints_path(copy / "audit").read_bytes().splitlines()]
    sizes = [0, *(head.size for c in checkpoints if (head := c.head("w0")) is not None)]
    begin = max(size for size in sizes if size <= at)
    end = min(size for size in sizes if size > at)
    assert (finding.log, finding.index) == ("w0", begin)
    assert f"one up to {end - 1} is not what a checkpoint covers" in finding.what
    # The checkpoints gone as well: what was kept still tells.
    checkpoints_path(copy / "audit").unlink()
    report = check(copy)
    assert found(report) == [("checkpoints.jsonl", 0), ("w0", 0)]
    assert f"one up to {KEPT - 1} is not what the kept checkpoint covers" in report.findings[1].what


@pytest.mark.requirement("audit:equivocation")
def test_a_history_signed_anew_with_the_same_key_is_found_with_both_roots(copy: Path, clock: SetClock) -> None:
    rewrite(copy, lambda lines: rechained(lines, 41))
    checkpoints_path(copy / "audit").unlink()
    (copy / "audit" / "bookmarks.json").unlink()
    keeper = a_keeper(copy, clock)
    keeper.tick()
    keeper.close()
    assert verify(copy / "audit").ok  # to whoever kept nothing it is a sound log
    report = check(copy)
    kept = decode((copy / "kept.json").read_bytes()).head("w0")
    assert kept is not None
    told = next(f for f in report.findings if f.log == "w0")
    assert kept.root in told.what and "here" in told.what


@pytest.mark.requirement("audit:equivocation")
def test_two_checkpoints_of_one_size_with_different_roots_are_both_shown(copy: Path, clock: SetClock) -> None:
    path = checkpoints_path(copy / "audit")
    *before, last = path.read_bytes().splitlines()
    forged = decode(last)
    heads = [msgspec.structs.replace(h, root="ab" * 32) if h.id == "w0" else h for h in forged.logs]
    path.write_bytes(b"\n".join(before) + b"\n")
    from_the_key = seal(msgspec.json.encode(msgspec.structs.replace(forged, logs=heads)), a_signer(copy))
    path.write_bytes(path.read_bytes() + last + b"\n" + from_the_key + b"\n")
    report = verify(copy / "audit")
    true = next(h.root for h in forged.logs if h.id == "w0")
    told = [f.what for f in report.findings if f.log == "checkpoints.jsonl"]
    assert any("ab" * 32 in what and true in what for what in told)
    (copy / "kept.json").write_bytes(from_the_key)
    path.write_bytes(b"\n".join(before) + b"\n" + last + b"\n")
    told = [f.what for f in check(copy).findings if f.log == "checkpoints.jsonl"]
    assert any("ab" * 32 in what and true in what and "kept" in what for what in told)


CHECKPOINT_TAMPERINGS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "one changed": lambda lines: [*lines[:3], lines[3].replace(b'"size":8', b'"size":9', 1), *lines[4:]],
    "one removed": lambda lines: lines[:3] + lines[4:],
    "two swapped": lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    "one put in": lambda lines: [*lines[:3], lines[2], *lines[3:]],
    "rubbish": lambda lines: [*lines[:3], b"rubbish", *lines[3:]],
    "no signature": lambda lines: [*lines[:3], lines[3].partition(b',"signature"')[0] + b"}", *lines[4:]],
}


@pytest.mark.requirement("audit:tamper")
@pytest.mark.parametrize("change", CHECKPOINT_TAMPERINGS.values(), ids=CHECKPOINT_TAMPERINGS)
def test_a_change_of_the_checkpoints_is_found_with_its_line(
    copy: Path, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    path = checkpoints_path(copy / "audit")
    path.write_bytes(b"".join(line + b"\n" for line in change(path.read_bytes().splitlines())))
    assert {("checkpoints.jsonl", 3), ("checkpoints.jsonl", 4)} & set(found(verify(copy / "audit")))


@pytest.mark.requirement("audit:tamper")
def test_checkpoints_cut_below_the_kept_one_are_found(copy: Path) -> None:
    path = checkpoints_path(copy / "audit")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    assert ("checkpoints.jsonl", 4) in found(check(copy))


@pytest.mark.requirement("audit:tamper")
def test_a_kept_checkpoint_of_another_key_is_refused(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    kept = msgspec.json.decode((copy / "kept.json").read_bytes())
    del kept["signature"]
    (copy / "kept.json").write_bytes(seal(msgspec.json.encode(kept), a_signer(other)))
    assert ("kept checkpoint", 0) in found(check(copy))


@pytest.mark.requirement("audit:tamper")
@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_file_that_is_gone_is_found(copy: Path, which: int) -> None:
    files = files_of(copy)
    first = int(files[which].stem)
    files[which].unlink()
    assert ("w0", first) in found(verify(copy / "audit"))


@pytest.mark.requirement("audit:tamper")
def test_a_log_that_is_gone_is_found(copy: Path) -> None:
    shutil.rmtree(copy / "audit" / "logs" / "w1")
    assert ("w1", 0) in found(verify(copy / "audit"))
    checkpoints_path(copy / "audit").unlink()
    assert ("w1", 0) in found(check(copy))


@pytest.mark.requirement("audit:tamper")
def test_records_overwritten_with_nuls_are_found(copy: Path) -> None:
    file = files_of(copy)[-1]
    lines = file.read_bytes().splitlines(keepends=True)
    lines[3] = b"\0" * len(lines[3])
    file.write_bytes(b"".join(lines))
    assert ("w0", int(file.stem) + 3) in found(verify(copy / "audit"))


@pytest.mark.requirement("audit:receipt")
def test_a_kept_receipt_is_a_witness_of_its_record(copy: Path) -> None:
    held = records(copy / "audit")
    receipts = [Receipt("w0", i - 1, held[i]["previous"]) for i in (1, 100, 261)]
    assert verify(copy / "audit", receipts=receipts).ok
    # Behind the last checkpoint nothing but the receipt would tell.
    rewrite(copy, lambda lines: rechained(lines, 260))
    assert verify(copy / "audit").ok
    assert found(verify(copy / "audit", receipts=receipts)) == [("w0", 260)]
    rewrite(copy, lambda lines: lines[:260])
    assert found(verify(copy / "audit", receipts=receipts)) == [("w0", 260)]


@pytest.mark.requirement("audit:verify")
def test_what_was_cut_short_behind_the_last_record_is_no_change(copy: Path) -> None:
    with files_of(copy)[-1].open("ab") as file:
        file.write(b'{"time":1' + b"\0" * 500)
    with checkpoints_path(copy / "audit").open("ab") as file:
        file.write(b'{"version":1')
    report = check(copy)
    assert report.ok
    assert "9 bytes behind the last record are none" in report.text()


@pytest.mark.requirement("audit:pairs")
async def test_calls_of_unknown_effect_and_calls_under_way_are_told_apart(tmp_path: Path, clock: SetClock) -> None:
    journal = a_journal(tmp_path / "audit", clock)
    await call(journal, clock)
    lost = an_action(clock)
    entry = journal.entry(lost, world())
    await entry.intend(judged(lost), NothingHeld(), open_gate)
    crash(journal.slot)
    journal = a_journal(tmp_path / "audit", clock)
    running = an_action(clock)
    entry = journal.entry(running, world())
    await entry.intend(judged(running), NothingHeld(), open_gate)
    a_signer(tmp_path)
    report = verify(tmp_path / "audit")
    assert report.ok
    assert (report.logs[0].calls.unknown_effect, report.logs[0].calls.open) == ([lost.id], [running.id])
    journal.close()


@pytest.mark.requirement("held:recorded")
async def test_calls_that_wait_end_once_and_those_of_a_dead_writer_have_an_unknown_effect(
    tmp_path: Path, clock: SetClock
) -> None:
    journal = a_journal(tmp_path / "audit", clock)
    waits = []
    for _ in range(3):
        action = an_action(clock)
        async with journal.entry(action, world()) as entry:
            waits.append(await entry.intend(judged(action), NothingHeld(), open_gate))
            await entry.answered(Part(PartKind.WHOLE, b"{}", held=object()))
    adopted, ended, lost = waits
    journal.released(adopted, None, "retry")
    journal.released(ended, Killed("killed"), None)
    report = verify_with_key(tmp_path)
    assert report.ok
    assert report.logs[0].calls.open == [lost.judged.action.id]
    assert report.logs[0].calls.suspensions == 3
    assert "3 answers asked something of the caller" in report.text()
    crash(journal.slot)
    a_journal(tmp_path / "audit", clock).close()
    assert records(tmp_path / "audit")[-1]["facts"]["unknown_effect"] == [lost.judged.action.id]
    report = verify_with_key(tmp_path)
    assert (report.ok, report.logs[0].calls.unknown_effect) == (True, [lost.judged.action.id])


def verify_with_key(base: Path) -> Report:
    a_signer(base)
    return verify(base / "audit")


@pytest.mark.requirement("audit:verify")
def test_what_cannot_be_verified_says_why(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(UsageError, match="holds no log"):
        verify(tmp_path / "nowhere")
    (copy / "kept.json").write_text("[]")
    with pytest.raises(UsageError, match="not a signed JSON object"):
        check(copy)
    (copy / "kept.json").write_text("{}")
    with pytest.raises(UsageError, match="not a checkpoint"):
        check(copy)
    with pytest.raises(UsageError, match="no certificate"):
        verify(copy / "audit", kill="kill-9")
    with pytest.raises(UsageError, match="not the id"):
        verify(copy / "audit", kill="../../etc/passwd")
    (copy / "audit" / "public-key.pem").unlink()
    with pytest.raises(UsageError, match="public-key"):
        verify(copy / "audit")


# Kill certificates

SWITCH = KillSwitch(
    id="kill-1",
    scope=Scope.TOOL,
    selector="notes/delete",
    mode=Mode.HARD,
    reason="drill",
    thrown_by="mcpgw|root",
    thrown_at=1_800_000_000.0,
    epoch=20,
)


async def killed(base: Path, clock: SetClock, switch: KillSwitch = SWITCH) -> Any:
    """Write calls of `delete` in two workers, throw the switch, and return a journal to go on with."""
    outbox = Outbox()
    keeper = a_keeper(base, clock, outbox)
    first, second = (a_journal(base / "audit", clock, log=log) for log in ("w0", "w1"))
    for journal in (first, second):
        await call(journal, clock, name="delete", epoch=19)
    outbox.add(20, "kill.throw", switch.id)
    acks = [
        Ack(worker="w0", log="w0", position=first.size, epoch=20, cut=("a1", "a2"), may_have_taken_effect=("a1",)),
        Ack(worker="w1", log="w1", position=second.size, epoch=20),
    ]
    made = certificate.certify(a_signer(base), switch, 20, acks, ["a1"], clock.time())
    path = certificate.store(base / "audit", made)
    assert path == base / "audit" / "kills" / "kill-1.json"
    assert msgspec.json.decode(path.read_bytes()) == made
    clock.now += 1
    await call(first, clock, name="write", epoch=20)
    keeper.tick()
    second.close()
    return first, keeper, outbox


@pytest.mark.requirement("audit:kill-proof")
async def test_a_kill_that_was_obeyed_is_proven(tmp_path: Path, clock: SetClock) -> None:
    journal, keeper, _ = await killed(tmp_path, clock)
    report = verify(tmp_path / "audit", kill="kill-1")
    assert report.findings == []
    assert report.kill is not None
    assert report.kill["positions"] == {"w0": 2, "w1": 2}
    assert report.kill["may_have_taken_effect"] == ["a1"]
    assert (report.kill["intents_checked"], report.kill["forbidden"]) == (1, 0)
    assert "1 later intents checked, 0 of them forbidden" in report.text()
    journal.close()
    keeper.close()


@pytest.mark.requirement("audit:kill-proof")
async def test_a_forbidden_intent_is_named_until_the_release(tmp_path: Path, clock: SetClock) -> None:
    journal, keeper, outbox = await killed(tmp_path, clock)
    await call(journal, clock, name="delete", epoch=20)
    report = verify(tmp_path / "audit", kill="kill-1")
    assert found(report) == [("w0", 4)]
    assert "forbids" in report.findings[0].what
    outbox.add(21, "kill.release", "kill-2")
    outbox.add(22, "kill.release", "kill-1")
    keeper.tick()
    await call(journal, clock, name="delete", epoch=21)
    await call(journal, clock, name="delete", epoch=22)
    report = verify(tmp_path / "audit", kill="kill-1")
    assert found(report) == [("w0", 4), ("w0", 6)]
    assert report.kill is not None and report.kill["released_at_epoch"] == 22
    journal.close()
    keeper.close()


@pytest.mark.requirement("audit:kill-proof")
async def test_a_log_that_did_not_acknowledge_is_held_against_the_epoch_and_the_time(
    tmp_path: Path, clock: SetClock
) -> None:
    journal, keeper, _ = await killed(tmp_path, clock)
    hidden = a_journal(tmp_path / "audit", clock, log="w7")
    clock.now -= 10
    await call(hidden, clock, name="delete", epoch=19)  # before the kill
    clock.now += 20
    await call(hidden, clock, name="delete", epoch=19)  # after it, in an older world
    clock.now -= 10
    await call(hidden, clock, name="delete", epoch=20)
    hidden.close()
    assert found(verify(tmp_path / "audit", kill="kill-1")) == [("w7", 2), ("w7", 4)]
    journal.close()
    keeper.close()


CERTIFICATE_TAMPERINGS: dict[str, Callable[[dict[str, Any]], object]] = {
    "position": lambda held: held["acknowledged"][0].update(position=5),
    "selector": lambda held: held["switch"].update(selector="notes/other"),
    "in flight": lambda held: held.update(may_have_taken_effect=["a1", "a9"]),
    "signature": lambda held: held.update(signature=held["signature"][::-1]),
}


@pytest.mark.requirement("audit:kill-proof")
@pytest.mark.parametrize("change", CERTIFICATE_TAMPERINGS.values(), ids=CERTIFICATE_TAMPERINGS)
async def test_a_changed_certificate_is_not_believed(
    tmp_path: Path, clock: SetClock, change: Callable[[dict[str, Any]], object]
) -> None:
    journal, keeper, _ = await killed(tmp_path, clock)
    path = tmp_path / "audit" / "kills" / "kill-1.json"
    held = json.loads(path.read_bytes())
    path.write_text(json.dumps(held, indent=1))  # laid out anew it is the same
    assert verify(tmp_path / "audit", kill="kill-1").ok
    change(held)
    path.write_text(json.dumps(held))
    assert ("kills/kill-1.json", 0) in found(verify(tmp_path / "audit", kill="kill-1"))
    journal.close()
    keeper.close()


@pytest.mark.requirement("audit:kill-proof")
async def test_a_log_shorter_than_the_certificate_says_is_found(tmp_path: Path, clock: SetClock) -> None:
    journal, keeper, _ = await killed(tmp_path, clock)
    journal.close()
    keeper.close()
    checkpoints_path(tmp_path / "audit").unlink()
    rewrite(tmp_path, lambda lines: lines[:1], "w1")
    assert ("w1", 1) in found(verify(tmp_path / "audit", kill="kill-1"))


SCOPES: dict[Scope, tuple[str, bool]] = {
    Scope.GLOBAL: ("*", True),
    Scope.SERVER: ("notes", True),
    Scope.VERSION: ("notes@1.0.0", True),
    Scope.TOOL: ("notes/read", False),
    Scope.PRINCIPAL: (AGENT.selector, True),
    Scope.CLIENT: ("crawler", True),
    Scope.TEAM: ("red", False),
    Scope.KEY: ("k_7", True),
    Scope.ISSUER: ("https://idp.example", True),
    Scope.PROVIDER: ("openai", True),
    Scope.MODEL: ("openai/gpt", True),
}


@pytest.mark.requirement("audit:kill-proof")
@pytest.mark.parametrize(("scope", "selector", "matches"), [(s, *v) for s, v in SCOPES.items()], ids=str)
async def test_every_scope_is_matched_from_what_the_record_says(
    tmp_path: Path, clock: SetClock, scope: Scope, selector: str, matches: bool
) -> None:
    journal, keeper, _ = await killed(tmp_path, clock, replace(SWITCH, scope=scope, selector=selector))
    other = Principal(issuer="x", subject="y", client_id="z", kind=AGENT.kind)
    llm = {"route": Route.LLM, "verb": Verb.CHAT, "server": "openai", "name": "gpt", "version": None}
    if scope in {Scope.PROVIDER, Scope.MODEL}:
        await call(journal, clock, who=other, epoch=20, **llm)
    else:
        await call(journal, clock, epoch=20)
    expected = [("w0", 4)] if matches else []
    assert [place for place in found(verify(tmp_path / "audit", kill="kill-1")) if place != ("w0", 2)] == expected
    journal.close()
    keeper.close()


def test_the_public_key_is_named_by_its_hash(copy: Path) -> None:
    assert PublicKey.load(copy / "audit").key_id == a_signer(copy).key_id
    assert logs.names(copy / "audit") == ["admin", "w0", "w1"]


@pytest.mark.requirement("audit:kill-proof", "principals:actors")
async def test_an_intent_of_one_who_acts_for_another_is_forbidden_by_a_switch_on_either(
    tmp_path: Path, clock: SetClock
) -> None:
    on_the_agent = replace(SWITCH, scope=Scope.PRINCIPAL, selector="mcpgw|bot")
    journal, keeper, _ = await killed(tmp_path, clock, on_the_agent)
    for actors in (("mcpgw|other",), ("mcpgw|first", "mcpgw|bot")):
        await call(journal, clock, replace(AGENT, actors=actors), name="read", epoch=20)
    report = verify(tmp_path / "audit", kill="kill-1")
    assert [(finding.log, "forbids" in finding.what) for finding in report.findings] == [("w0", True)]
    journal.close()
    keeper.close()
