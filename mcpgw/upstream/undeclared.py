"""What stands for servers of a kind of which the configuration declares none."""

from __future__ import annotations

from collections.abc import Mapping

from mcpgw.domain import Permit
from mcpgw.errors import UpstreamUnreachable
from mcpgw.ports import Exchange, Gate


class Undeclared:
    """Refuses what is left of servers that the configuration declared once. `key` is where it would declare one."""

    def __init__(self, key: str) -> None:
        self._key = key

    async def send(self, permit: Permit, credential: Mapping[str, str], gate: Gate) -> Exchange:
        raise UpstreamUnreachable(
            f"`{permit.judged.action.server}` is not declared in the operator's configuration",
            fix=f"add it to {self._key}",
        )
