"""Who listens to tasks is told what asking for them would answer, so each is judged as if it were asked for."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from mcpgw.domain import Action, Arguments, Judged, Principal, Verb
from mcpgw.ports import World


class Judge(Protocol):
    """`judge.judge`."""

    async def __call__(self, world: World, who: Principal, action: Action, *, running: bool = False) -> Judged: ...


async def listening(judge: Judge, world: World, judged: Judged, *, running: bool) -> Judged:
    """Return the verdict with what each of the action's tasks obliges to. Raises what judging a `tasks/get` raises."""
    action, decision = judged.action, judged.decision
    obligations = list(decision.obligations)
    for task in action.tasks:
        asked = dataclasses.replace(
            action,
            verb=Verb.TASKS_GET,
            server=task.server,
            version=task.version,
            name=task.tool,
            arguments=Arguments(),
            forwarded={},
            tasks=(task,),
            selected=task.selected,
        )
        told = await judge(world, judged.principal, asked, running=running)
        obligations += told.decision.obligations
    held = dataclasses.replace(decision, obligations=tuple(dict.fromkeys(obligations)))
    return dataclasses.replace(judged, decision=held)
