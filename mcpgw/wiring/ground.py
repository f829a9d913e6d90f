"""What everything in one worker stands on."""

from __future__ import annotations

from dataclasses import dataclass

from mcpgw.config import Settings
from mcpgw.ports import AuthLog, Clock, Records, Store, Worlds
from mcpgw.seals import Seals


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """`published` is the store whose changes the other workers hear of."""

    settings: Settings
    clock: Clock
    worlds: Worlds
    published: Store
    records: Records
    seals: Seals
    log: AuthLog
