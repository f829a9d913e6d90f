"""What counts once: the numbers (`jti`) of assertions, remembered until these have expired."""

from __future__ import annotations

from mcpgw.auth.keys import digest
from mcpgw.ports import Record, Records

ONCE = "once"


class Once:
    """Remembers what was used, for all workers."""

    def __init__(self, records: Records, pepper: bytes) -> None:
        self._records = records
        self._pepper = pepper

    async def first(self, what: str, owner: str, jti: str, expires_at: float) -> bool:
        """Whether nobody has used the number of this owner's before; it is used now. `what` tells uses apart."""
        number = digest(self._pepper, f"{what}:{owner}:{jti}")
        return await self._records.put(Record(kind=ONCE, id=number, owner=owner, body=b"", expires_at=expires_at))
