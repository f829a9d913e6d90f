"""The journal of one worker: the records of each action, written before what they promise happens.

Everything between the gate and the write is one synchronous step on the worker's loop, so that a kill applied there
sees each call either before its intent or after it, and `size` is a definite position.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Any

from mcpgw.audit import lines
from mcpgw.audit.fields import ChosenFields
from mcpgw.audit.group import GroupCommit
from mcpgw.audit.keys import Digester
from mcpgw.audit.record import OWED_LINE, Draft, Line, Particulars
from mcpgw.audit.segments import Slot
from mcpgw.config import AuditSection
from mcpgw.domain import VERBS, Action, Arguments, Judged, Part, PartKind, Permit, Phase, Principal, Receipt
from mcpgw.errors import GatewayError, Internal, Unavailable, Unrecorded, UpstreamUnreachable
from mcpgw.obligations import redacted_pointers
from mcpgw.ports import Clock, Gate, Hold, World

log = logging.getLogger("mcpgw.audit")


class SlotJournal:
    """Implements `ports.Journal` over one slot. `flush` wants to be called once a second or so."""

    def __init__(self, slot: Slot, digester: Digester, settings: AuditSection, clock: Clock) -> None:
        self.slot = slot
        self.digester = digester
        self.fields = ChosenFields(settings.fields)
        self.clock = clock
        self.standings = lines.Standings()
        self.group = GroupCommit(slot.flush, slot.fail) if settings.durability == "disk" else None
        self._refusals_per_s = settings.refusals_per_s
        self._second = -1  # of the monotonic clock
        self._refusals = 0  # in that second
        self._shed = 0  # refusals that were counted instead of written
        self._shed_second = -1  # in which one was, or writing their number failed
        self._epoch = 0
        self._suspended: dict[str, SlotEntry] = {}  # by action id

    @property
    def log(self) -> str:
        return self.slot.log

    @property
    def size(self) -> int:
        """The position of the next record."""
        return self.slot.size

    def entry(self, action: Action, world: World) -> SlotEntry:
        self._epoch = world.epoch
        if self._shed:
            self.flush()
        return SlotEntry(self, action, world)

    def released(self, permit: Permit, reason: BaseException | None, retry: str | None) -> None:
        entry = self._suspended.pop(permit.judged.action.id, None)
        if entry is not None:
            entry.released(permit, reason, retry)

    def suspended(self, action_id: str, entry: SlotEntry) -> None:
        """Keep the entry of a call that waits for its caller, and the room for its end, until `released`."""
        self._suspended[action_id] = entry

    def check(self) -> None:
        """Raise Unavailable unless an intent could be written now."""
        self.slot.check()

    def close(self) -> None:
        self._write_shed()
        if self.group is not None:
            self.group.close()
        self.slot.close()

    def flush(self) -> None:
        """Write how many refusals were only counted, when their second is over."""
        if self._shed and self._now() != self._shed_second:
            self._write_shed()

    def refused(self, line: Line, *, stranger: bool) -> Receipt | None:
        """Write a refusal and return its receipt; or count it, when strangers send too many or there is no room."""
        if not stranger or self._may_write():
            try:
                self.slot.make_room()
                return self.slot.append(line)
            except (OSError, Unavailable) as error:
                if not self._shed:
                    log.error("refusals are counted, not recorded: %s", error)
        self._shed += 1
        self._shed_second = self._now()
        return None

    async def noted(self, line: Line) -> Receipt:
        """Write a record that belongs to no call. Raises Unavailable: what it tells of must not happen then."""
        try:
            self.slot.make_room()
            receipt = self.slot.append(line)
            if self.group is not None:
                await self.group.wait()
        except OSError as error:
            raise Unavailable(
                f"a record could not be written: {error.strerror}", fix="look at the gateway's audit directory"
            ) from error
        return receipt

    def _now(self) -> int:
        return int(self.clock.monotonic())

    def _may_write(self) -> bool:
        second = self._now()
        if second != self._second:
            self._second, self._refusals = second, 0
        self._refusals += 1
        return self._refusals <= self._refusals_per_s

    def _write_shed(self) -> None:
        if not self._shed:
            return
        clock = self.clock
        line = Line(
            time=clock.time(),
            phase=Phase.SHED,
            action_id=clock.new_id(),
            epoch=self._epoch,
            facts={"refusals": self._shed},
        )
        try:
            self.slot.make_room()
            self.slot.append(line)
            self._shed = 0
        except (OSError, Unavailable) as error:
            log.error("%d refusals are counted, not recorded: %s", self._shed, error)
            self._shed_second = self._now()


class SlotEntry:
    """Implements `ports.Entry`."""

    __slots__ = (
        "_action",
        "_attempts",
        "_bytes",
        "_events",
        "_journal",
        "_opened",
        "_outcome",
        "_permit",
        "_standing",
        "_started",
        "_suspended",
        "_who",
        "_world",
    )

    def __init__(self, journal: SlotJournal, action: Action, world: World) -> None:
        self._journal = journal
        self._action = action
        self._world = world
        self._who: Principal | None = None
        self._permit: Permit | None = None
        self._standing: lines.Standing | None = None
        self._attempts = 0
        self._opened = False
        self._outcome = False
        self._suspended: Receipt | None = None
        self._events = 0
        self._bytes = 0
        self._started = journal.clock.monotonic()

    async def __aenter__(self) -> SlotEntry:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._suspended is not None:
            if isinstance(error, GatewayError):
                error.receipt = self._suspended
            return
        try:
            receipt = self._refuse(error) if self._permit is None else self._end(self._permit, error)
            if isinstance(error, GatewayError):
                error.receipt = receipt
        except Exception:
            # Whatever is wrong with the log, the caller must get the error that ended the call, not this one.
            log.exception("the end of action %s could not be recorded", self._action.id)
        finally:
            self._journal.slot.settle(self._action.id)

    def identified(self, who: Principal) -> None:
        self._who = who

    async def intend(self, judged: Judged, hold: Hold, gate: Gate) -> Permit:
        journal = self._journal
        line = self._intent(judged)
        line.time = journal.clock.time()
        journal.slot.admit(self._action.id)
        gate()
        try:
            receipt = journal.slot.append(line)
            self._attempts += 1
            self._permit = permit = Permit(judged, hold, receipt)
            if journal.group is not None:
                await journal.group.wait()
        except OSError as error:
            raise Unavailable(
                f"the record of this call could not be written: {error.strerror}",
                fix="look at the gateway's audit directory",
            ) from error
        return permit

    def _intent(self, judged: Judged) -> Line | Draft:
        journal, action = self._journal, self._action
        digest, fields = self._digest(judged.arguments), journal.fields.of(judged.arguments.raw)
        if self._attempts or action.parent is not None or redacted_pointers(judged.decision):
            line = lines.intent(action, judged, self._attempts + 1)
            line.arguments_digest, line.fields = digest, fields
            return line
        self._standing = held = journal.standings.of(judged)
        return Draft(
            Phase.INTENT,
            action.id,
            judged.epoch,
            held.intent,
            Particulars(
                arguments_digest=digest,
                fields=fields,
                session=action.session,
                trace=action.trace,
                source_ip=action.source_ip,
                facts=held.facts,
            ),
            partial(lines.intent, action, judged, 1),
        )

    async def answered(self, part: Part) -> Part:
        permit = self._permit
        if permit is None:
            raise Internal("an answer arrived for an action without an intent")
        self._bytes += len(part.body)
        if part.kind is PartKind.EVENT:
            self._events += 1
            return part
        try:
            if part.kind is PartKind.OPENED:
                self._opened = True
                self._owed(permit, Phase.OPENED, None, part.facts)
                return part
            facts = {"bytes": self._bytes, **part.facts}
            if part.held is None:
                receipt = self._owed(permit, Phase.OUTCOME, lines.outcome_of(part), facts)
                self._outcome = True
            else:
                receipt = self._suspended = self._owed(permit, Phase.SUSPENDED, "input_required", facts)
                self._journal.suspended(self._action.id, self)
            if self._journal.group is not None:
                await self._journal.group.wait()
        except OSError as error:
            raise Unrecorded(
                "the call was carried out, but its outcome could not be recorded, so the answer is withheld",
                fix="look at what it did before doing it again",
            ) from error
        return Part(
            part.kind,
            part.body,
            part.status,
            part.error_code,
            part.failed,
            part.facts,
            receipt,
            part.bare,
            part.held,
        )

    def released(self, permit: Permit, reason: BaseException | None, retry: str | None) -> None:
        """Write how the suspension of this call ended."""
        facts = {"retry": retry} if retry is not None else lines.cut_by(reason)
        try:
            self._owed(permit, Phase.CLOSED, lines.code_of(reason) or "adopted", facts)
        except OSError as error:
            log.error("the end of action %s could not be recorded: %s", self._action.id, error)
        finally:
            self._journal.slot.settle(self._action.id)

    def _refuse(self, error: BaseException | None) -> Receipt | None:
        line = lines.refusal(self._action, self._who, self._world, error)
        if self._who is not None:  # A stranger's megabytes are not worth digesting.
            line.arguments_digest = self._digest(self._action.arguments)
        clock = self._journal.clock
        line.time = clock.time()
        line.duration_ms = round((clock.monotonic() - self._started) * 1000, 3)
        return self._journal.refused(line, stranger=self._who is None)

    def _end(self, permit: Permit, error: BaseException | None) -> Receipt | None:
        """Write what is still owed: the outcome of a call that failed, the end of a stream or of a delivery."""
        receipt = None
        cut = lines.cut_by(error)
        code = lines.code_of(error)
        if not self._outcome:
            facts: dict[str, Any] = {"bytes": self._bytes, **cut}
            if error is not None:
                # Not sent: no effect. Sent: it may have taken effect.
                facts["sent"] = bool(permit.spent) and not isinstance(error, UpstreamUnreachable)
            receipt = self._owed(permit, Phase.OUTCOME, code or "ended", facts)
        if self._opened or (self._outcome and error is not None):
            closing = {"events": self._events, "bytes": self._bytes, **cut}
            closed = self._owed(permit, Phase.CLOSED, code or "ok", closing)
            receipt = receipt or closed
        return receipt

    def _owed(self, permit: Permit, phase: Phase, outcome: str | None, facts: Mapping[str, Any]) -> Receipt:
        """Write a record that the intent has kept room for. Raises OSError."""
        clock = self._journal.clock
        duration_ms = round((clock.monotonic() - self._started) * 1000, 3)
        make = partial(lines.owed, permit, phase, outcome, facts)
        owed: Line | Draft
        if self._standing is None:
            owed = line = make()
            line.duration_ms = duration_ms
        else:
            action, facts = permit.judged.action, {"intent": permit.receipt.index, **facts}
            given = Particulars(outcome=outcome, duration_ms=duration_ms, trace=action.trace, facts=facts)
            owed = Draft(phase, action.id, permit.judged.epoch, self._standing.owed, given, make)
        owed.time = clock.time()
        return self._journal.slot.append(owed, OWED_LINE)

    def _digest(self, arguments: Arguments) -> str | None:
        return self._journal.digester.digest(arguments.raw) if VERBS[self._action.verb].acts else None
