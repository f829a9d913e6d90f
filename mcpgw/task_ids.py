"""Ids of tasks (the Tasks extension, SEP-2663) as clients carry them.

A server may take the id of a task for a right to it, so clients never have it: they have a sealed value that holds it,
with the tool, its version and the principal that the task runs for. No worker has to remember a task, and a task may
outlive all of them.
"""

from __future__ import annotations

import hashlib

import msgspec

from mcpgw.domain import TaskRef, Verb
from mcpgw.seals import Seals

EXTENSION = "io.modelcontextprotocol/tasks"
TASK_VERBS = frozenset({Verb.TASKS_GET, Verb.TASKS_UPDATE, Verb.TASKS_CANCEL})
MAX_ID = 1024  # characters of a server's own id
MAX_SHOWN = 8192  # what a header holds, which repeats it
_KIND = b"mcp-task"
_Bound = tuple[str, str, str, str, str]
_encode = msgspec.json.encode
_bound = msgspec.json.Decoder(_Bound).decode


class TaskIds:
    """Makes and reads the ids that clients have."""

    def __init__(self, seals: Seals) -> None:
        self._seals = seals

    def shown(self, *, server: str, version: str, tool: str, owner: str, task_id: str) -> str:
        """Return the id of a new task for its client. Raises ValueError for an id that has no place in a header."""
        if not 0 < len(task_id) <= MAX_ID:
            raise ValueError("a task id has 1 to 1024 characters")
        shown = self._seals.seal(_KIND, _encode((server, version, tool, owner, task_id)))
        if len(shown) > MAX_SHOWN:
            raise ValueError("what the id is bound to is too long")
        return shown

    def find(self, shown: str) -> TaskRef | None:
        """Return the task that a client names; None for an id that is not one of ours."""
        opened = self._seals.open(_KIND, shown) if len(shown) <= MAX_SHOWN else None
        if opened is None:
            return None
        server, version, tool, owner, task_id = _bound(opened.payload)
        return TaskRef(server=server, version=version, tool=tool, owner=owner, id=task_id, shown=shown)


def digest(server: str, task_id: str) -> str:
    """Return what stands for a task in records: the same from its beginning to its end, and of no use to a reader."""
    return hashlib.sha256(f"{server}\0{task_id}".encode()).hexdigest()[:32]


def declares_tasks(capabilities: object) -> bool:
    """Say whether a client that declares these capabilities, as JSON has them, speaks the extension."""
    extensions = capabilities.get("extensions") if isinstance(capabilities, dict) else None
    return isinstance(extensions, dict) and isinstance(extensions.get(EXTENSION), dict)
