"""Holding a log against a kill certificate: no intent that the switch matches stands where none may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from mcpgw.audit import certificate, logs, record
from mcpgw.audit.certificate import Certificate
from mcpgw.audit.checkpoint import Finding
from mcpgw.audit.keys import PublicKey
from mcpgw.audit.logs import Head
from mcpgw.audit.scan import Watch
from mcpgw.domain import Kind, Principal, Route, Switches, Target

RELEASE = "kill.release"  # the admin note that ends a switch


class KillProof:
    """Watches every intent from the place in its log where the switch was acknowledged, until its release.

    A log that the certificate does not name had no live writer then: there the epoch and the time of a record decide.
    """

    def __init__(self, audit_dir: Path, switch_id: str, key: PublicKey) -> None:
        self.certificate, sealed = certificate.load(audit_dir, switch_id, key)
        self.findings: list[Finding] = []
        self.checked = 0  # intents that stand where none may match
        self.forbidden = 0  # and do
        self.released_at_epoch = _released(audit_dir, switch_id)
        source = f"kills/{switch_id}.json"
        if not sealed:
            self.findings.append(Finding(source, 0, "was not signed by the key of this log"))
        if self.certificate.switch.id != switch_id:
            self.findings.append(Finding(source, 0, f"is for another switch: {self.certificate.switch.id}"))
        self._positions = {ack.log: ack.position for ack in self.certificate.acknowledged}
        self._switches = Switches([replace(self.certificate.switch, released_at=None)])

    def watch(self, log: str) -> Watch:
        """Return the watch over one log."""
        position = self._positions.get(log)

        def wrong(head: Head, line: bytes) -> str | None:
            if position is not None and head.index < position:
                return None
            if position is None and not self._later(head):
                return None
            if self.released_at_epoch is not None and head.epoch >= self.released_at_epoch:
                return None
            self.checked += 1
            try:
                return self._judge(record.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                return "is an intent that cannot be read"

        return wrong

    def finish(self, sizes: Mapping[str, int]) -> list[Finding]:
        """Return what is wrong besides the intents; a log must at least reach the place that the certificate names."""
        for log, position in sorted(self._positions.items()):
            size = sizes.get(log, 0)
            if size < position:
                self.findings.append(Finding(log, size, f"is missing: the certificate names {position} records"))
        return self.findings

    def document(self) -> dict[str, Any]:
        held: Certificate = self.certificate
        return {
            "id": held.id,
            "scope": held.switch.scope,
            "selector": held.switch.selector,
            "epoch": held.epoch,
            "time": held.time,
            "positions": self._positions,
            "may_have_taken_effect": held.may_have_taken_effect,
            "released_at_epoch": self.released_at_epoch,
            "intents_checked": self.checked,
            "forbidden": self.forbidden,
        }

    def _later(self, head: Head) -> bool:
        return head.epoch >= self.certificate.epoch or head.time > self.certificate.time

    def _judge(self, line: record.Line) -> str | None:
        if line.route not in set(Route):
            return "is an intent without a known route"
        issuer, _, subject = (line.principal or "").partition("|")
        actors = (line.facts or {}).get("actors")
        who = Principal(
            issuer=issuer,
            subject=subject,
            client_id=line.client_id or "",
            kind=Kind.AGENT,
            team=line.team,
            credential=line.credential,
            actors=tuple(map(str, actors)) if isinstance(actors, list) else (),
        )
        target = Target(Route(line.route), line.server, line.version, line.name)
        if self._switches.match(who, target) is None:
            return None
        self.forbidden += 1
        return f"is an intent that kill switch {self.certificate.id} forbids"


def _released(audit_dir: Path, switch_id: str) -> int | None:
    """Return the epoch of the switch's release, if the admin log has one."""
    for line in logs.Tail(logs.logs_of(audit_dir) / logs.ADMIN).lines():
        try:
            held = record.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if held.verb == RELEASE and held.name == switch_id:
            return held.epoch
    return None
