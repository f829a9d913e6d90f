"""Whatever is done to the log below a checkpoint that somebody kept is found, and where."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mcpgw.audit import logs, record
from mcpgw.audit.checkpoint import Finding, checkpoints_path
from mcpgw.audit.verify import verify
from tests.e2e.client import Client
from tests.e2e.parts import MARKED, a_witness, signed_epoch, verified
from tests.fixtures.callers import Spec, calling
from tests.harness import GatewayProcess, gateway, rego, until

CHANGES = 100
BY_COMMAND = 4  # of these, one of each kind, are verified from the command line as well
CALLS = 400
_UP_TO = re.compile(r"or one up to (\d+) ")


@dataclass(frozen=True)
class Kept:
    """A log, and the checkpoint that somebody outside has kept of it; `covered` records of each log are below it."""

    audit_dir: Path
    checkpoint: Path
    covered: Mapping[str, int]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Make a log of several files with calls, refusals and administration, and go on after the checkpoint is kept."""
    home = tmp_path_factory.mktemp("tamper")
    config = {"audit": {**MARKED["audit"], "segment_bytes": 65_536, "reserve_bytes": 8_192}}
    with a_witness(home) as witness, gateway(home, config=config, policy=rego("allow_all"), workers=2) as running:
        running.publish("alpha", witness.url("alpha"))
        spec = Spec(running.base_url, [running.agent_key], 8, [("alpha", "echo", {"text": "x"})], "load")
        with calling(spec, home):
            witness.arrivals(CALLS)
            with Client(running.base_url, "wrong", "/mcp/alpha") as stranger:
                assert stranger.call("echo", text="x").status == 401
            checkpoint = until(lambda: _checkpoint_over(running, CALLS), "a checkpoint over these calls")
            witness.arrivals(2 * CALLS)
    (home / "kept.json").write_text(json.dumps(checkpoint))
    covered = {head["id"]: head["size"] for head in checkpoint["logs"] if head["size"] > 1}
    assert covered.keys() >= {"admin", "w0", "w1"}
    # Which worker takes a connection is the kernel's choice; one of them has filled more than one file.
    assert any(len(logs.segments(logs.logs_of(running.audit_dir) / log)) > 1 for log in ("w0", "w1"))
    return Kept(running.audit_dir, home / "kept.json", covered)


def _checkpoint_over(running: GatewayProcess, calls: int) -> dict[str, Any] | None:
    # Which worker takes a connection is the kernel's choice: each of these may be the one that has had none.
    with Client(running.base_url, running.agent_key, "/mcp/alpha") as caller:
        assert caller.call("echo", text="x").status == 200
    if not signed_epoch(running.audit_dir):
        return None
    checkpoint: dict[str, Any] = running.admin.get("/audit/checkpoint")
    sizes = [head["size"] for head in checkpoint["logs"]]
    return checkpoint if sum(sizes) > 2 * calls and min(sizes) > 1 else None


Lines = list[bytes]
Change = Callable[[Lines, int, random.Random], Lines]


def edited(lines: Lines, at: int, draw: random.Random) -> Lines:
    """Change one character."""
    line = bytearray(lines[at])
    where = draw.randrange(len(line))
    line[where] = draw.choice([b for b in b"0123456789abcxyz_" if b != line[where]])
    return [*lines[:at], bytes(line), *lines[at + 1 :]]


def deleted(lines: Lines, at: int, draw: random.Random) -> Lines:
    return [*lines[:at], *lines[at + 1 :]]


def reordered(lines: Lines, at: int, draw: random.Random) -> Lines:
    """Exchange two neighbours."""
    at = max(1, at)
    return [*lines[: at - 1], lines[at], lines[at - 1], *lines[at + 1 :]]


def truncated(lines: Lines, at: int, draw: random.Random) -> Lines:
    return lines[:at]


def rewritten(lines: Lines, at: int, draw: random.Random) -> Lines:
    """Change a record and chain everything behind it anew, as whoever knows the format would."""
    held = record.decode(lines[at])
    held.time += 1.0
    changed = [*lines[:at], record.encode(held)]
    for line in lines[at + 1 :]:
        held = record.decode(line)
        held.previous = record.leaf_of(changed[-1]).hex()
        changed.append(record.encode(held))
    return changed


CHANGE: tuple[Change, ...] = (edited, deleted, reordered, truncated, rewritten)


@pytest.mark.requirement("audit:tamper")
def test_a_hundred_random_changes_below_a_kept_checkpoint_are_found_and_their_place_is_named(
    tmp_path: Path, kept: Kept
) -> None:
    assert verify(kept.audit_dir, checkpoint=kept.checkpoint).ok
    draw = random.Random(11)
    copy = tmp_path / "copy"
    for number in range(CHANGES):
        change, log = CHANGE[number % len(CHANGE)], draw.choice(sorted(kept.covered))
        at = draw.randrange(kept.covered[log])
        shutil.copytree(kept.audit_dir, copy)
        _change(logs.logs_of(copy) / log, change, at, draw)
        if number % 2:  # then only what was kept outside can tell
            checkpoints_path(copy).unlink()
        report = verify(copy, checkpoint=kept.checkpoint)
        found = [finding for finding in report.findings if finding.log == log]
        assert any(_names(finding, at) for finding in found), (change.__name__, log, at, report.findings)
        if number < BY_COMMAND:
            told = verified(copy, "--checkpoint", str(kept.checkpoint))
            assert told.returncode == 1
            assert str(found[0]).split(":")[0] in told.stdout
        shutil.rmtree(copy)


def _change(directory: Path, change: Change, at: int, draw: random.Random) -> None:
    """Change the log and put it back into as many files, each beginning where it did."""
    firsts = logs.segments(directory)
    lines = change(list(logs.Tail(directory).lines()), at, draw)
    for number, first in enumerate(firsts):
        end = firsts[number + 1] if number + 1 < len(firsts) else len(lines)
        path = logs.segment_path(directory, first)
        held = lines[first:end]
        if held:
            path.write_bytes(b"".join(line + b"\n" for line in held))
        else:
            path.unlink()


def _names(finding: Finding, at: int) -> bool:
    """Whether a finding points to record `at`, to its neighbour, or to a stretch that holds it."""
    up_to = _UP_TO.match(finding.what)
    return finding.index - 1 <= at <= max(finding.index + 1, int(up_to[1]) if up_to else 0)
