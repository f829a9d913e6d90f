"""What a caller may see: phase `list` of the policy, asked once for what it rests on.

As pure as the verdict, which asks here too: what is listed is what is not unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from mcpgw.domain import (
    Action,
    Effect,
    KillSwitch,
    Listing,
    Offer,
    Principal,
    Route,
    ServerVersion,
    Target,
    ToolPin,
)
from mcpgw.ports import Question, World

Identity = tuple[Any, ...]
"""All of a caller that a policy or a kill switch may go by."""

TURN = 20
"""Tools decided before other calls get their turn: some milliseconds."""
MAX_KEPT = 50_000
_ACCIDENTS = frozenset({"engine:error", "engine:exhausted", "engine:unreachable"})  # not the policy's own answer


async def visible_tools(world: World, who: Principal, action: Action) -> Listing:
    """Return the tools of the action's endpoint that this caller may see and that are not killed."""
    key = ("listed", action.server, action.version, action.toolset, _identity(who))
    held: Listing | None = world.memo.get(key)
    if held is None:
        seen = await seen_offers(world, who, action)
        if world.switches:
            seen = tuple(offer for offer in seen if _tool_killed(world, who, offer) is None)
        selection = world.catalog.selection(action.toolset) if _over_several(action) else None
        # Callers who see the same share what is made of it.
        held = world.memo.setdefault(("listing", selection, seen), Listing(seen, selection))
        world.memo[key] = held
    return held


async def seen_offers(world: World, who: Principal, action: Action) -> tuple[Offer, ...]:
    """Return the offers of the action's endpoint that phase `list` shows this caller, killed or not."""
    identity = _identity(who)
    key = ("offers", action.server, action.version, action.toolset, identity)
    held: tuple[Offer, ...] | None = world.memo.get(key)
    if held is None:
        found: list[Offer] = []
        version, names = None, frozenset[str]()
        for offer in _offers(world, who, action):
            if who.servers is not None and offer.version.server not in who.servers:
                continue
            if offer.version is not version:
                version = offer.version
                names = await _seen_tools(world, who, identity, action, version)
            if offer.tool.name in names:
                found.append(offer)
        seen = tuple(found)
        held = world.memo[key] = world.memo.setdefault(("seen", seen), seen)
    return held


def _over_several(action: Action) -> bool:
    return action.server is None or action.toolset is not None


def _offers(world: World, who: Principal, action: Action) -> Iterable[Offer]:
    if _over_several(action):
        selection = world.catalog.selection(action.toolset)
        return () if selection is None else selection.offers
    version = world.catalog.resolve(action.server or "", action.version, who)
    if version is None:
        return ()
    key = ("version", version.server, version.version)
    held: tuple[Offer, ...] | None = world.memo.get(key)
    if held is None:
        held = world.memo[key] = tuple(Offer(version, tool, tool.name) for tool in version.tools.values())
    return held


async def _seen_tools(
    world: World, who: Principal, identity: Identity, action: Action, version: ServerVersion
) -> frozenset[str]:
    """Return the names of the tools of a version that phase `list` shows this caller.

    What that rests on seldom changes with the world, and a catalogue may hold ten thousand tools: kept beyond it.
    """
    key = (version.server, version.version, version.tags, version.trust, identity)
    held: tuple[object, frozenset[str]] | None = world.kept.get(key)
    if held is not None and held[0] is version.tools:
        return held[1]
    seen, settled = set(), True
    for turn, tool in enumerate(version.tools.values()):
        if turn % TURN == 0:
            await asyncio.sleep(0)
        decision = await world.policy.decide(_listed(who, action, version, tool))
        if decision.effect is Effect.ALLOW:
            seen.add(tool.name)
        settled = settled and decision.reasons[0] not in _ACCIDENTS
    names = frozenset(seen)
    if settled:
        if len(world.kept) >= MAX_KEPT:
            world.kept.clear()
        names = world.kept.setdefault(("names", names), names)  # which many callers share
        world.kept[key] = version.tools, names
    return names


async def visible_servers(world: World, who: Principal, action: Action) -> tuple[ServerVersion, ...]:
    """Return the servers of an action over several that this caller may see and that are not killed, by their slugs."""
    key = ("servers", action.toolset, _identity(who))
    held: tuple[ServerVersion, ...] | None = world.memo.get(key)
    if held is None:
        found: list[ServerVersion] = []
        for version in _servers(world, action):
            whole = Target(Route.MCP, version.server, version.version, None)
            if await sees_server(world, who, action, version) and world.switches.match(who, whole) is None:
                found.append(version)
        held = world.memo[key] = tuple(found)
    return held


async def visible_name(world: World, who: Principal, action: Action, version: ServerVersion, name: str) -> bool:
    """Say whether one item of a list that is not pinned (a prompt, a resource) may leave."""
    question = Question(phase="list", principal=who, action=action, version=version, name=name)
    return (await world.policy.decide(question)).effect is Effect.ALLOW


async def sees_model(world: World, who: Principal, action: Action) -> bool:
    """Say whether a model (`action.server` is its provider, `action.name` the model) may stand in a list of models."""
    if world.switches.match(who, Target.of(action)) is not None:
        return False
    question = Question(phase="list", principal=who, action=action, name=action.name)
    return (await world.policy.decide(question)).effect is Effect.ALLOW


async def sees_server(world: World, who: Principal, action: Action, version: ServerVersion) -> bool:
    """A server is visible when phase `list` allows it by itself, or allows any of its tools.

    To a credential for certain servers, the others do not exist.
    """
    if who.servers is not None and version.server not in who.servers:
        return False
    key = ("server", version.server, version.version, *_identity(who))
    held = world.memo.get(key)
    if held is None:
        question = Question(phase="list", principal=who, action=action, version=version)
        held = (await world.policy.decide(question)).effect is Effect.ALLOW
        for tool in () if held else version.tools.values():
            if (await world.policy.decide(_listed(who, action, version, tool))).effect is Effect.ALLOW:
                held = True
                break
        world.memo[key] = held
    return bool(held)


def _listed(who: Principal, action: Action, version: ServerVersion, tool: ToolPin) -> Question:
    return Question(phase="list", principal=who, action=action, version=version, tool=tool, name=tool.name)


def _tool_killed(world: World, who: Principal, offer: Offer) -> KillSwitch | None:
    version = offer.version
    return world.switches.match(who, Target(Route.MCP, version.server, version.version, offer.tool.name))


def _servers(world: World, action: Action) -> Iterable[ServerVersion]:
    """Return the active versions of all servers, or of those that the action's toolset names."""
    active = world.catalog.active()
    if action.toolset is None:
        return active
    selection = world.catalog.selection(action.toolset)
    return () if selection is None else [version for version in active if selection.takes_in(version.server)]


def _identity(who: Principal) -> Identity:
    claims = repr(sorted(who.claims.items())) if who.claims else ""
    names = who.issuer, who.subject, who.client_id  # not `who.key`: joined names may read alike
    return names, who.roles, who.scopes, who.team, who.actors, who.kind, who.credential, who.servers, claims
