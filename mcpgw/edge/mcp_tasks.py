"""The Tasks extension (SEP-2663) at the edge: who may ask about tasks, and which ones a request names."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from mcpgw.domain import Action, Selected, TaskRef, Verb
from mcpgw.errors import GatewayError, InvalidParams, MissingCapability
from mcpgw.ports import Catalog
from mcpgw.task_ids import EXTENSION, TASK_VERBS, TaskIds, declares_tasks

ABOUT_TASKS = TASK_VERBS | {Verb.LISTEN}
MAX_LISTENED = 100  # tasks of one stream
MAY_NAME_TASKS = frozenset(verb.value for verb in ABOUT_TASKS)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode


def task_defect(method: str, params: Mapping[str, Any], capabilities: Mapping[str, Any]) -> GatewayError | None:
    """Return what is wrong with a request of a modern client (MAY_NAME_TASKS), as far as it is about tasks."""
    wrong = None
    if method == Verb.LISTEN.value:
        notifications = params.get("notifications")
        if not isinstance(notifications, dict) or "taskIds" not in notifications:
            return None
        wrong = _listened_defect(notifications["taskIds"])
    if not declares_tasks(capabilities):
        return MissingCapability(
            "this needs a client that knows tasks",
            fix=f"declare {EXTENSION} among the extensions in its capabilities",
            data={"requiredCapabilities": {"extensions": {EXTENSION: {}}}},
        )
    return wrong


def _listened_defect(ids: object) -> GatewayError | None:
    if not isinstance(ids, list) or not all(isinstance(task_id, str) for task_id in ids):
        return InvalidParams("`params.notifications.taskIds` must be a list of strings")
    if len(ids) > MAX_LISTENED:
        return InvalidParams(f"a stream tells of {MAX_LISTENED} tasks at most", fix="open another one, or poll")
    return None


def about_tasks(ids: TaskIds, catalog: Catalog, action: Action, params: Mapping[str, Any]) -> Action:
    """Return the action with the tasks that the request's parameters name.

    An action on a task is one on its tool: on the server that runs it, in the version that it was called in.
    """
    if action.verb is Verb.LISTEN:
        named = params["notifications"].get("taskIds")
        if not named:
            return action
        wanted = {k: v for k, v in _members(action.forwarded.get("notifications", b"{}")).items() if k != "taskIds"}
        forwarded = {**action.forwarded, "notifications": _encode(wanted)}
        tasks = tuple(_found(ids, catalog, action, shown) for shown in dict.fromkeys(named))
        return dataclasses.replace(action, forwarded=forwarded, tasks=tasks)
    task = _found(ids, catalog, action, params["taskId"])
    if not task.owner:
        return dataclasses.replace(action, name=None, tasks=(task,))
    return dataclasses.replace(
        action,
        server=task.server,
        version=task.version,
        name=task.tool,
        tasks=(task,),
        selected=task.selected,
    )


def servers_of_task(ids: TaskIds, verb: Verb, params: Mapping[str, Any]) -> Collection[str]:
    """Return the server of the task that a request is about, if it is about one."""
    shown = params.get("taskId") if verb in TASK_VERBS else None
    task = ids.find(shown) if isinstance(shown, str) else None
    return () if task is None else (task.server,)


def _found(ids: TaskIds, catalog: Catalog, action: Action, shown: str) -> TaskRef:
    """Return the task, or one that is nobody's: for every caller that is a task of somebody else."""
    task = ids.find(shown)
    if task is None or action.server not in (None, task.server) or action.version not in (None, task.version):
        return TaskRef(server="", version="", tool="", owner="", id="", shown=shown)
    return task if action.toolset is None else dataclasses.replace(task, selected=_selected(catalog, action, task))


def _selected(catalog: Catalog, action: Action, task: TaskRef) -> Selected | None:
    """Return how the toolset whose endpoint this is offers the tool now; None: it does not."""
    selection = catalog.selection(action.toolset)
    for offer in selection.offers if selection is not None else ():
        if selection is not None and (offer.version.server, offer.tool.name) == (task.server, task.tool):
            values = offer.binding.sha256 if offer.binding is not None else ""
            return Selected(name=offer.name, sha256=values, by_search=selection.search)
    return None
