"""How a worker is: for people, and for whoever decides whether to send it requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from mcpgw import __version__
from mcpgw.domain import Mode
from mcpgw.errors import Unavailable
from mcpgw.ports import Worlds
from mcpgw.running import Board


class WorkerStatus:
    """Implements `edge.services.Status`."""

    def __init__(
        self,
        worker: str,
        worlds: Worlds,
        board: Board,
        audit: tuple[str, Callable[[], None]],
        configured: Collection[str],
    ) -> None:
        """`audit` is its durability, and a check that raises Unavailable when the next record could not be written.

        `configured` are the slugs of servers that the operator declares: until they are registered, nothing is ready.
        """
        self._worker = worker
        self._worlds = worlds
        self._board = board
        self._durability, self._check_log = audit
        self._configured = frozenset(configured)
        self._since = time.time()

    def status(self) -> Mapping[str, Any]:
        world = self._worlds.current
        switches = world.switches.standing
        return {
            "version": __version__,
            "worker": self._worker,
            "since": self._since,
            "epoch": world.epoch,
            "servers": [
                {"slug": v.server, "version": v.version, "tools": len(v.tools)} for v in world.catalog.active()
            ],
            "policy_sha256": world.policy.sha256,
            "kill_switches": {mode.value: sum(s.mode is mode for s in switches) for mode in Mode},
            "running_calls_here": len(self._board.calls),
            "suspended_calls_here": len(self._board.shelf),
            "audit_durability": self._durability,
            "unavailable": world.unavailable,
        }

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        """Say whether a call would be served now."""
        world = self._worlds.current
        missing = self._configured - {server.slug for server in world.state.servers}
        behind = self._worlds.published() - world.epoch
        log = "ok"
        try:
            self._check_log()
        except Unavailable as error:
            log = error.message
        parts = {
            "state": world.unavailable or "ok",
            "log": log,
            "servers": "ok" if not missing else f"not registered yet: {', '.join(sorted(missing))}",
            "policy": world.policy.sha256[:12],
            "epoch": world.epoch,
            "behind": behind,
        }
        return world.unavailable is None and log == "ok" and not missing, parts
