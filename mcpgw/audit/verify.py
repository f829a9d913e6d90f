"""Verification of a log from its files alone: a copied audit directory is enough, no gateway is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from mcpgw.audit import logs
from mcpgw.audit.checkpoint import Finding
from mcpgw.audit.keys import PublicKey
from mcpgw.audit.kill_proof import KillProof
from mcpgw.audit.scan import Calls, LogScan
from mcpgw.audit.signed import CheckpointScan
from mcpgw.domain import Receipt
from mcpgw.errors import UsageError


class LogReport(msgspec.Struct, kw_only=True):
    """How far a log is vouched for.

    `signed` records are covered by the gateway's newest checkpoint, the rest is only chained. `witnessed` ones are
    covered by what somebody outside kept. `torn_bytes` stand behind the last record: a write that was cut short.
    """

    id: str
    records: int
    signed: int
    signed_at: float | None
    witnessed: int
    torn_bytes: int
    calls: Calls


class Report(msgspec.Struct, kw_only=True):
    """What was found. `since` and `until` are the times of the first and the newest of `checkpoints`."""

    ok: bool
    findings: list[Finding]
    logs: list[LogReport]
    checkpoints: int
    since: float | None
    until: float | None
    key_id: str
    witnessed: bool
    kill: dict[str, Any] | None

    def document(self) -> dict[str, Any]:
        """Return the report as JSON has it."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document

    def text(self) -> str:
        """Return the report for people."""
        return "\n".join(_told(self))


def verify(
    audit_dir: Path, *, checkpoint: Path | None = None, kill: str | None = None, receipts: Sequence[Receipt] = ()
) -> Report:
    """Check every line, chain, file, root and signature; hold them against what was kept, and against a kill.

    `checkpoint` is a file with a checkpoint that somebody outside the gateway kept: any change below it is found.
    Raises UsageError when there is nothing to verify, or an argument cannot be read.
    """
    if not logs.logs_of(audit_dir).is_dir():
        raise UsageError(f"{audit_dir} holds no log", fix="name the gateway's `audit` directory, or a copy of it")
    key = PublicKey.load(audit_dir)
    proof = KillProof(audit_dir, kill, key) if kill is not None else None
    signed = CheckpointScan(audit_dir, key, checkpoint)
    scans = _scans(audit_dir, signed, receipts, proof)
    for held in signed.checkpoints():
        for head in held.logs:
            if head.id not in scans:
                scans[head.id] = LogScan(logs.logs_of(audit_dir) / head.id)
            scans[head.id].compare(head, "a checkpoint")
    for scan in scans.values():
        scan.finish()
    findings = [*signed.findings, *(finding for scan in scans.values() for finding in scan.findings)]
    if proof is not None:
        findings += proof.finish({name: scan.size for name, scan in scans.items()})
    return Report(
        ok=not findings,
        findings=findings,
        logs=[_log_report(scan, signed) for _, scan in sorted(scans.items())],
        checkpoints=signed.count,
        since=signed.since,
        until=signed.until,
        key_id=key.key_id,
        witnessed=checkpoint is not None or bool(receipts),
        kill=proof.document() if proof is not None else None,
    )


def _scans(
    audit_dir: Path, signed: CheckpointScan, receipts: Sequence[Receipt], proof: KillProof | None
) -> dict[str, LogScan]:
    """Return a scan of every log there is or ought to be, knowing what was kept of it."""
    kept = signed.kept.logs if signed.kept is not None else []
    names = {*logs.names(audit_dir), *(head.id for head in kept), *(receipt.log for receipt in receipts)}
    scans = {
        name: LogScan(logs.logs_of(audit_dir) / name, proof.watch(name) if proof is not None else None)
        for name in sorted(names)
    }
    for head in kept:
        if head.size:
            scans[head.id].kept_roots[head.size] = head.root
    for receipt in receipts:
        scans[receipt.log].kept_leaves[receipt.index] = receipt.leaf
    return scans


def _log_report(scan: LogScan, signed: CheckpointScan) -> LogReport:
    head, signed_at = signed.heads.get(scan.log, (None, None))
    return LogReport(
        id=scan.log,
        records=scan.size,
        signed=head.size if head is not None else 0,
        signed_at=signed_at,
        witnessed=max([0, *scan.kept_roots]),
        torn_bytes=scan.torn,
        calls=scan.calls,
    )


def _told(report: Report) -> Iterator[str]:
    count = len(report.findings)
    yield "OK: the log is whole" if report.ok else f"NOT OK: {count} {'thing is' if count == 1 else 'things are'} wrong"
    for finding in report.findings:
        yield f"  {finding}"
    for held in report.logs:
        calls = held.calls
        chained = max(0, held.records - held.signed)
        yield (
            f"log {held.id}: {held.records} records, {min(held.signed, held.records)} signed"
            f" (last {_when(held.signed_at)}), {chained} only chained; {calls.intents} intents, {calls.outcomes}"
            f" outcomes, {calls.refusals} refusals"
        )
        if calls.suspensions:
            yield f"  {calls.suspensions} answers asked something of the caller: they stand in place of outcomes"
        if calls.unknown_effect:
            yield f"  the gateway died during {len(calls.unknown_effect)} calls: their effect is unknown"
        if calls.open:
            yield f"  {len(calls.open)} calls have no outcome yet"
        if held.torn_bytes:
            yield f"  {held.torn_bytes} bytes behind the last record are none: a write was cut short, or is under way"
    yield (
        f"{report.checkpoints} checkpoints, signed by key {report.key_id}"
        f" from {_when(report.since)} to {_when(report.until)}"
    )
    if not report.witnessed:
        yield (
            "nobody outside vouches for any of it: who holds the signing key could have rewritten all."
            " Keep a checkpoint elsewhere (mcpgw audit checkpoint) and verify with --checkpoint"
        )
    elif any(held.witnessed < held.records for held in report.logs):
        yield "records beyond what you kept rest on the gateway's signature alone"
    if report.kill is not None:
        yield from _kill_told(report.kill)


def _kill_told(kill: dict[str, Any]) -> Iterator[str]:
    until = "and stands" if kill["released_at_epoch"] is None else f"released at epoch {kill['released_at_epoch']}"
    yield (
        f"kill {kill['id']} ({kill['scope']} {kill['selector']}), epoch {kill['epoch']} at {_when(kill['time'])},"
        f" {until}: {kill['intents_checked']} later intents checked, {kill['forbidden']} of them forbidden by it"
    )
    named = kill["may_have_taken_effect"]
    if named:
        yield f"  under way when it was thrown, may have taken effect: {', '.join(named)}"


def _when(time: float | None) -> str:
    if time is None:
        return "never"
    return datetime.fromtimestamp(time, UTC).isoformat(sep=" ", timespec="seconds")
