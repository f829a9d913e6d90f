"""What our authorization server gives out and refuses, in the journal of the worker that did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcpgw.audit.journal import SlotJournal
from mcpgw.audit.record import Line
from mcpgw.domain import Phase
from mcpgw.ports import Clock, Worlds

ROUTE = "auth"


class JournalAuthLog:
    """Implements ports.AuthLog."""

    def __init__(self, journal: SlotJournal, worlds: Worlds, clock: Clock) -> None:
        self._journal = journal
        self._worlds = worlds
        self._clock = clock

    async def record(
        self,
        event: str,
        outcome: str = "ok",
        *,
        principal: str | None = None,
        client_id: str | None = None,
        source: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        went_well = outcome == "ok"
        if client_id is not None and not self._is_known(client_id):
            # What strangers call themselves is not written down: it may be a secret in the wrong field.
            client_id = None
        line = Line(
            time=self._clock.time(),
            phase=Phase.AUTH if went_well else Phase.REFUSED,
            action_id=self._clock.new_id(),
            epoch=self._worlds.current.epoch,
            route=ROUTE,
            verb=event,
            principal=principal,
            client_id=client_id,
            outcome=outcome,
            source_ip=source,
            facts=dict(detail) if detail else None,
        )
        if went_well:
            await self._journal.noted(line)
        else:
            self._journal.refused(line, stranger=principal is None)

    def _is_known(self, client_id: str) -> bool:
        """Whether there is, or was, such a client. The URL of a document is public whatever it leads to."""
        return client_id in self._worlds.current.identities.clients or client_id.startswith("https://")
