"""The Tasks extension (SEP-2663): a modern server's own ids on its side, those of `TaskIds` on the client's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from mcpgw.domain import Action, Judged, TaskRef, Verb
from mcpgw.task_ids import EXTENSION, TASK_VERBS, TaskIds, declares_tasks, digest

TASK_CHANGED = "notifications/tasks"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
_STATUSES = frozenset({"working", "input_required", "completed", "failed", "cancelled"})
_encode = msgspec.json.encode
_members = msgspec.json.Decoder(dict[str, Raw]).decode
_texts = msgspec.json.Decoder(list[str]).decode


class Unusable(Exception):
    """What a server says of a task cannot be passed on. The argument ends a sentence that begins with the server."""


class _Task(msgspec.Struct, gc=False):
    taskId: str | None = None
    status: str | None = None


_task = msgspec.json.Decoder(_Task).decode


def addressed(judged: Judged) -> Action:
    """Return the action with its tasks among the parameters, as the server that it goes to knows them."""
    action, version = judged.action, judged.version
    if action.verb in TASK_VERBS:
        forwarded = {**action.forwarded, "taskId": _encode(action.tasks[0].id)}
        if action.verb is Verb.TASKS_UPDATE:
            forwarded["inputResponses"] = judged.arguments.raw
        return dataclasses.replace(action, forwarded=forwarded)
    here = (version.server, version.version) if version is not None else None
    ids = [task.id for task in action.tasks if (task.server, task.version) == here]
    if not ids:
        return action
    wanted = _members(action.forwarded.get("notifications", b"{}"))
    notifications = _encode({**wanted, "taskIds": ids})
    return dataclasses.replace(action, forwarded={**action.forwarded, "notifications": notifications})


def created(judged: Judged | None, ids: TaskIds | None, result: bytes) -> tuple[bytes, Mapping[str, Any]]:
    """Return a result that is a task (`resultType` "task") as its client gets it, and what the record says of it."""
    version = judged.version if judged is not None else None
    if judged is None or ids is None or version is None or not _may_have_tasks(judged.action):
        raise Unusable("made a task of a call whose client knows no tasks")
    task_id = _read(result).taskId
    if task_id is None:
        raise Unusable("made a task without an id")
    try:
        shown = ids.shown(
            server=version.server,
            version=version.version,
            tool=judged.action.name or "",
            owner=judged.principal.key,
            task_id=task_id,
        )
    except ValueError:
        raise Unusable("made a task whose id is too long") from None
    return _renamed(result, shown), {"task": digest(version.server, task_id)}


def told(task: TaskRef, result: bytes) -> tuple[bytes, Mapping[str, Any]]:
    """Return an answer about a task as its client gets it, and what the record says of it."""
    found = _read(result)
    facts = {"task": digest(task.server, task.id)}
    if found.status in _STATUSES:
        facts["task_status"] = found.status
    if found.taskId is None:
        return result, facts
    if found.taskId != task.id:
        raise Unusable("told of another task than it was asked about")
    return _renamed(result, task.shown), facts


def heard(tasks: Sequence[TaskRef], method: str, params: bytes) -> bytes | None:
    """Return the params of a notification as its listener gets them; None: of what it tells nobody has asked."""
    shown = {task.id: task.shown for task in tasks}
    if method == TASK_CHANGED:
        task_id = _read(params).taskId
        return _renamed(params, shown[task_id]) if task_id is not None and task_id in shown else None
    try:
        found = _members(params)
        honoured = _members(found.get("notifications", Raw(b"{}")))
        if "taskIds" not in honoured:
            return params
        ids = [shown[task_id] for task_id in _texts(honoured["taskIds"]) if task_id in shown]
    except msgspec.DecodeError:
        raise Unusable("acknowledged something else than a subscription") from None
    honoured["taskIds"] = Raw(_encode(ids))
    found["notifications"] = Raw(_encode(honoured))
    return _encode(found)


def without_tasks(capabilities: bytes) -> bytes:
    """Return the capabilities of a client or a server, raw, between which no tasks are passed on."""
    if EXTENSION.encode() not in capabilities:
        return capabilities
    found = _members(capabilities)
    try:
        extensions = _members(found.get("extensions", Raw(b"{}")))
    except msgspec.DecodeError:
        return capabilities  # not an object, so nothing is declared
    extensions.pop(EXTENSION, None)
    return _encode({**found, "extensions": extensions})


def _may_have_tasks(action: Action) -> bool:
    client = action.client
    return client is not None and client.modern and declares_tasks(msgspec.json.decode(client.capabilities))


def _read(holder: bytes) -> _Task:
    try:
        return _task(holder)
    except msgspec.DecodeError:
        raise Unusable("told of a task in no form that the extension has") from None


def _renamed(holder: bytes, shown: str) -> bytes:
    return _encode({**_members(holder), "taskId": shown})
