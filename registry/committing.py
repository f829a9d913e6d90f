"""A change of the registry as one transaction with its note."""

from __future__ import annotations

from collections.abc import Callable

from mcpgw.domain import AdminNote, Principal, State
from mcpgw.errors import Conflict
from mcpgw.ports import Clock, Store
from mcpgw.registry.changes import Change

ATTEMPTS = 5


async def committed(
    store: Store, clock: Clock, who: Principal, change: Callable[[State], Change]
) -> tuple[Change, int]:
    """Carry out `change` on the state as it is, anew when another change came between; return it and the epoch.

    Raises Conflict when others keep changing the state, and what `change` raises.
    """
    for attempt in range(ATTEMPTS):
        state = await store.state()
        made = change(state)
        if not made.rows:
            return made, state.epoch
        note = AdminNote(
            id=clock.new_id(),
            time=clock.time(),
            actor=who.selector,
            action=made.action,
            target=made.target,
            before=made.before,
            after=made.after,
        )
        try:
            return made, await store.commit(made.rows, note, expect=state.epoch)
        except Conflict:
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")
