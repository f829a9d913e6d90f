"""Pure verdicts: the same world, principal and action give the same answer, and nothing is counted or sent.

So lists, explanations and proposed calls ask the very rules that guard the call.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from mcpgw.domain import (
    CALL_TOOL,
    VERBS,
    Action,
    Arguments,
    Decision,
    Effect,
    Judged,
    Kind,
    Principal,
    Route,
    Selection,
    ServerVersion,
    Subject,
    Target,
    ToolPin,
    Verb,
    VerbRule,
)
from mcpgw.errors import (
    Denied,
    InsufficientScope,
    InvalidParams,
    Killed,
    Quarantined,
    Unavailable,
    UnknownName,
    UnknownSession,
)
from mcpgw.listening import listening
from mcpgw.mirrored import check_headers, mirrors
from mcpgw.obligations import redact_arguments
from mcpgw.ports import Question, World
from mcpgw.visible import seen_offers, sees_server, visible_tools

MAX_REDACTIONS = 2
_LISTED = frozenset({Verb.TOOLS_LIST, Verb.TOOLS_SEARCH})
_SELECTING = _LISTED | {Verb.INITIALIZE, Verb.DISCOVER}


async def judge(world: World, who: Principal, action: Action, *, running: bool = False) -> Judged:
    """Return the verdict on an action, which allows it. `running`: it was allowed before and is under way.

    Raises, in this order: Unavailable, UnknownSession and UnknownName (what the caller may not see does not exist),
    InsufficientScope, Killed, Quarantined, InvalidParams, HeaderMismatch, Denied.
    """
    if world.unavailable:
        raise Unavailable(world.unavailable, fix="see /readyz")
    if action.owner is not None and action.owner != who.key:
        raise UnknownSession("no such session", fix="initialize a new one")
    if action.tasks and any(task.owner != who.key for task in action.tasks):
        raise UnknownName("Unknown task")
    rule = VERBS[action.verb]
    if action.toolset is not None and who.kind is not Kind.SYSTEM:
        await _through(world, who, action, rule)
    version = _version(world, who, action)
    tool = version.tools.get(action.name or "") if version is not None and rule.subject is Subject.TOOL else None
    decision = await _seen(world, who, action, rule, version, tool)
    if rule.scope not in who.scopes:
        raise InsufficientScope(f"this needs the scope {rule.scope}", data={"scope": rule.scope})
    _not_killed(world, who, action, version, running=running)
    if version is not None and tool is not None and tool.name in version.quarantined:
        raise Quarantined(
            f"tool `{tool.name}` of `{version.server}` changed since it was approved",
            fix=f"an administrator compares and approves: mcpgw servers diff {version.server}",
        )
    arguments = action.arguments
    if rule.acts:
        _check_sent(world, action, tool)
        decision, arguments = await _settled(world, who, action, version, tool)
    visible = selection = None
    if not rule.acts and action.verb in _SELECTING and action.route is not Route.SYSTEM:
        if action.server is None:
            selection = world.catalog.selection(action.toolset)
        if action.verb in _LISTED:
            visible = await visible_tools(world, who, action)
    judged = Judged(
        principal=who,
        action=action,
        decision=decision,
        arguments=arguments,
        epoch=world.epoch,
        version=version,
        tool=tool,
        visible=visible,
        selection=selection,
    )
    return judged if rule.acts or not action.tasks else await listening(judge, world, judged, running=running)


def _check_sent(world: World, action: Action, tool: ToolPin | None) -> None:
    """Raise InvalidParams, HeaderMismatch for what a caller may not send, whatever the policy says."""
    if action.selected is not None and action.selected.overridden:
        raise _overridden(action.selected.overridden)
    if tool is not None and action.verb is Verb.TOOLS_CALL and mirrors(tool.definition):
        check_headers(action, tool, world.catalog.selection(action.toolset))


async def _settled(
    world: World, who: Principal, action: Action, version: ServerVersion | None, tool: ToolPin | None
) -> tuple[Decision, Arguments]:
    """Return the decision on the arguments as they will be sent: redacted, and judged again."""
    arguments = action.arguments
    for _ in range(MAX_REDACTIONS + 1):
        question = Question(
            phase="call",
            principal=who,
            action=action,
            version=version,
            tool=tool,
            name=action.name,
            arguments=arguments,
        )
        decision = _allowed(await world.policy.decide(question), action)
        redacted = redact_arguments(arguments, decision)
        if redacted is arguments:
            return decision, arguments
        arguments = redacted
    raise Denied("the policy's redactions do not settle", data=_data(action, decision, "redaction"))


def _version(world: World, who: Principal, action: Action) -> ServerVersion | None:
    if action.server is None or action.route is Route.LLM:
        return None
    version = world.catalog.resolve(action.server, action.version, who)
    if version is None:
        raise _unknown(action)
    return version


async def _seen(
    world: World, who: Principal, action: Action, rule: VerbRule, version: ServerVersion | None, tool: ToolPin | None
) -> Decision:
    """Return the decision by which the caller sees what the action names. Raises UnknownName."""
    if who.kind is Kind.SYSTEM:
        # The gateway's own probes see every server; they are recorded, gated and killed like any call.
        return Decision(Effect.ALLOW, ("gateway:system",), world.policy.sha256)
    if who.servers is not None and version is not None and version.server not in who.servers:
        raise await _unknown_call(world, who, action) if rule.acts else _unknown(action)
    if version is not None and rule.acts and rule.subject is Subject.TOOL and tool is None:
        raise await _unknown_call(world, who, action)
    if rule.acts:
        question = Question(phase="list", principal=who, action=action, version=version, tool=tool, name=action.name)
        decision = await world.policy.decide(question)
        if decision.effect is not Effect.ALLOW or (version is None and action.route is Route.MCP):
            raise await _unknown_call(world, who, action)
        return decision
    if version is not None:
        if not await sees_server(world, who, action, version):
            raise _unknown(action)
        await _see_references(world, who, action, version)
    return Decision(Effect.ALLOW, ("gateway:visible",), world.policy.sha256)


async def _through(world: World, who: Principal, action: Action, rule: VerbRule) -> None:
    """Raise UnknownName unless the caller sees the toolset, and it makes of a call what was made of it."""
    selection = world.catalog.selection(action.toolset)
    if rule.acts and rule.subject is Subject.TOOL:
        if selection is None or not _still_selects(selection, action):
            raise await _unknown_call(world, who, action)
        return
    apart = action.server is not None and (selection is None or not selection.takes_in(action.server))
    if apart or (not rule.acts and not await seen_offers(world, who, action)):
        raise _unknown(action)


def _still_selects(selection: Selection, action: Action) -> bool:
    """The name was looked up before the call was judged, and the call may be judged again in another world."""
    chosen = action.selected
    offer = selection.find(chosen.name) if chosen is not None else None
    if chosen is None or offer is None or selection.search != chosen.by_search:
        return False
    values = offer.binding.sha256 if offer.binding is not None else ""
    return (offer.version.server, offer.tool.name, values) == (action.server, action.name, chosen.sha256)


async def _see_references(world: World, who: Principal, action: Action, version: ServerVersion) -> None:
    """What an action names besides (what it completes, what it wants to watch) must be visible too."""
    for verb, name in _references(action):
        named = dataclasses.replace(action, verb=verb, name=name)
        question = Question(phase="list", principal=who, action=named, version=version, name=name)
        if (await world.policy.decide(question)).effect is not Effect.ALLOW:
            raise _unknown(named)
        if verb is Verb.RESOURCES_SUBSCRIBE:
            question = dataclasses.replace(question, phase="call", arguments=action.arguments)
            _allowed(await world.policy.decide(question), action)


def _references(action: Action) -> list[tuple[Verb, str]]:
    if action.verb is Verb.COMPLETE:
        ref = json.loads(action.forwarded.get("ref", b"{}"))
        # Whatever its `type` says: a server may read either member.
        members = ((Verb.PROMPTS_GET, "name"), (Verb.RESOURCES_READ, "uri"))
        if isinstance(ref, dict):
            return [(verb, ref[member]) for verb, member in members if isinstance(ref.get(member), str)]
    elif action.verb is Verb.LISTEN:
        wanted = json.loads(action.forwarded.get("notifications", b"{}"))
        uris = wanted.get("resourceSubscriptions") if isinstance(wanted, dict) else None
        if isinstance(uris, list):
            return [(Verb.RESOURCES_SUBSCRIBE, uri) for uri in uris if isinstance(uri, str)]
    return []


def _not_killed(world: World, who: Principal, action: Action, version: ServerVersion | None, *, running: bool) -> None:
    if not world.switches:
        return
    target = Target.of(action, version.version if version is not None else None)
    switch = world.switches.match(who, target, hard_only=running)
    if switch is not None:
        raise Killed.by(switch)


def _allowed(decision: Decision, action: Action) -> Decision:
    if decision.effect is Effect.ALLOW:
        return decision
    held = decision.effect is Effect.HOLD
    message = decision.message or ("this call needs an approval" if held else "the policy does not allow this call")
    raise Denied(message, data=_data(action, decision, decision.reasons[0]))


def _data(action: Action, decision: Decision, rule: str) -> dict[str, Any]:
    return {
        "decision_id": action.id,
        "effect": decision.effect.value if decision.effect is not Effect.ALLOW else Effect.DENY.value,
        "rule": rule,
        "reasons": list(decision.reasons),
        "policy_sha256": decision.policy_sha256,
        "retryable": False,
    }


_NOUN = {Subject.TOOL: "tool", Subject.PROMPT: "prompt", Subject.RESOURCE: "resource", Subject.MODEL: "model"}


def _unknown(action: Action, name: str | None = None) -> UnknownName:
    rule = VERBS[action.verb]
    if rule.acts:
        return UnknownName(f"Unknown {_NOUN[rule.subject]}: {name or action.name}")
    return UnknownName(f"Unknown server: {action.toolset or action.server}")


async def _unknown_call(world: World, who: Principal, action: Action) -> UnknownName:
    """Return the error for a name as the caller used it; an endpoint that it may not see has no search, either."""
    chosen = action.selected
    if chosen is None:
        return _unknown(action)
    seen = action.toolset is None or not chosen.by_search or bool(await seen_offers(world, who, action))
    return _unknown(action, chosen.name if seen else CALL_TOOL)


def _overridden(properties: Iterable[str]) -> InvalidParams:
    named = ", ".join(f"`{name}`" for name in properties)
    return InvalidParams(f"the toolset sets {named} itself", fix="leave out what the tool's input schema does not have")
