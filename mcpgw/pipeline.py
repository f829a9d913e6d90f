"""The one request path: everything an agent does passes `Gateway.handle`, and nothing else may reach an upstream."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from mcpgw.domain import (
    SYSTEM,
    VERBS,
    Action,
    Arguments,
    Decision,
    Effect,
    Judged,
    KeepOnly,
    Part,
    PartKind,
    Permit,
    Presented,
    Principal,
    Verb,
)
from mcpgw.errors import (
    CredentialRefused,
    Denied,
    GatewayError,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
    UpstreamUnreachable,
    WorldMoved,
)
from mcpgw.judge import judge
from mcpgw.obligations import keep_only, listed_names, obey
from mcpgw.ports import (
    Clock,
    CredentialBroker,
    Deliver,
    Entry,
    Exchange,
    Journal,
    Meter,
    TokenVerifier,
    Upstream,
    World,
    Worlds,
)
from mcpgw.retries import Retries
from mcpgw.running import Board, Call
from mcpgw.visible import visible_name

MAX_WORLDS = 3
INTERNAL = Presented(scheme="internal")
"""Shown by the gateway itself for probes and drift checks; recognised by identity, so no request can hold it."""

Decide = Callable[[str, bytes], Awaitable[Decision]]
Review = Callable[[AsyncIterator[Part], Decide], AsyncIterator[Part]]
"""Decides each tool call that a model proposes before the part that holds it leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The request path over its ports."""

    worlds: Worlds
    journal: Journal
    tokens: TokenVerifier
    running: Board
    meter: Meter
    broker: CredentialBroker
    upstream: Upstream
    review: Review
    retries: Retries
    clock: Clock

    async def handle(
        self,
        presented: Presented,
        action: Action,
        deliver: Deliver,
        *,
        defect: GatewayError | None = None,
        repeated: int = 0,
    ) -> None:
        """Carry out an action and deliver the parts of its answer; raises GatewayError when it is refused or fails.

        `defect` is what the edge found wrong with the request; it counts only once the caller is authenticated.
        `repeated` counts the failed attempts before this one, each an action of its own.
        """
        world = self.worlds.current
        call = None
        try:
            async with self.journal.entry(action, world) as entry:
                if world.unavailable:  # nobody can be recognised in a world without state
                    raise Unavailable(world.unavailable, fix="see /readyz")
                who = await self._who(presented, action, world)
                entry.identified(who)
                if defect is not None:
                    raise defect
                with self.running.enter(who, action, presented) as call:
                    permit, exchange, credential = await self._send(presented, call, entry, world)
                    ended: BaseException | None = None
                    try:
                        await self._answer(presented, call, permit, exchange, entry, deliver)
                    except BaseException as error:
                        ended = error
                        if isinstance(error, CredentialRefused):
                            await self.broker.refused(permit.judged, credential, error.challenge)
                        raise
                    finally:
                        permit.hold.settle({})
                        await exchange.aclose(ended)
                        if ended is not None and call.suspended is not None:
                            call.suspended.cut(ended)
                return
        except (UpstreamUnreachable, UpstreamFailed) as failure:
            again = None
            if call is not None and not call.delivered:
                again = self.retries.again(action, call.version, failure, repeated)
            if again is None:
                raise
        await self.retries.pause(repeated)
        with self.running.in_place_of(action.id, again.id):
            await self.handle(presented, again, deliver, repeated=repeated + 1)

    async def review_suspended(self) -> None:
        """End the calls that wait for callers whose credential does not count any more."""
        for suspended in self.running.shelf:
            try:
                await self._who(suspended.presented, suspended.action, self.worlds.current)
            except (Unauthenticated, Unavailable) as refusal:  # nobody can say that it still counts
                suspended.cut(refusal)

    async def _who(self, presented: Presented, action: Action, world: World) -> Principal:
        if presented is INTERNAL:
            return SYSTEM
        return await self.tokens.verify(presented, action.resource, world)

    async def _send(
        self, presented: Presented, call: Call, entry: Entry, world: World
    ) -> tuple[Permit, Exchange, Mapping[str, str]]:
        """Judge, reserve, record and send; again in the new world when it moved before the first byte."""
        for _ in range(MAX_WORLDS):
            try:
                judged = await judge(world, call.who, call.action)
                call.epoch, call.version = world.epoch, judged.version
                hold = await self.meter.reserve(judged)
                try:
                    credential = await self.broker.credential_for(judged)
                    permit = await entry.intend(judged, hold, call.gate)
                    return permit, await self.upstream.send(permit, credential, call.sending), credential
                except BaseException as error:
                    if call.sent:
                        hold.settle({})
                    else:
                        hold.refund()
                    if isinstance(error, CredentialRefused):
                        await self.broker.refused(judged, credential, error.challenge)
                    raise
            except WorldMoved:
                if call.sent:
                    raise Unavailable("the gateway's state changed while the call was being sent") from None
                world = await self.worlds.at_least(self.worlds.published())
                call.who = await self._who(presented, call.action, world)
        raise Unavailable("the gateway's state changes too fast to judge this call", fix="try again") from None

    async def _answer(
        self,
        presented: Presented,
        call: Call,
        permit: Permit,
        exchange: Exchange,
        entry: Entry,
        deliver: Deliver,
    ) -> None:
        judged = permit.judged
        parts = aiter(exchange)
        if call.action.verb is Verb.CHAT:
            parts = self.review(parts, self._proposals(call))
        async for arrived in parts:
            if arrived.held is not None:
                self.running.suspend(call, arrived.held, partial(self.journal.released, permit))
            part = await self._obey_after(judged, call, arrived)
            part = await entry.answered(part)
            while True:
                try:
                    call.gate()
                    break
                except WorldMoved:
                    judged = await self._judge_again(presented, call, permit)
            call.delivered = True
            await deliver(part)

    async def _judge_again(self, presented: Presented, call: Call, permit: Permit) -> Judged:
        """The world moved under a running call: what may not go on in the new one ends here."""
        world = await self.worlds.at_least(self.worlds.published())
        call.who = await self._who(presented, call.action, world)
        judged = await judge(world, call.who, call.action, running=True)
        call.epoch, call.version = world.epoch, judged.version
        call.stale = judged.arguments.raw != permit.judged.arguments.raw
        return judged

    async def _obey_after(self, judged: Judged, call: Call, part: Part) -> Part:
        rule = VERBS[judged.action.verb]
        if rule.lists and judged.version is not None and judged.action.verb is not Verb.TOOLS_LIST:
            part = await self._filtered(judged, part)
        return obey(judged.decision, part)

    async def _filtered(self, judged: Judged, part: Part) -> Part:
        """Leave in a list only what the caller may see."""
        if part.kind not in (PartKind.WHOLE, PartKind.LAST) or part.error_code is not None or judged.version is None:
            return part
        verb, world, who = judged.action.verb, self.worlds.current, judged.principal
        kept = [
            name
            for name in listed_names(verb, part.body)
            if await visible_name(world, who, judged.action, judged.version, name)
        ]
        return dataclasses.replace(part, body=keep_only(verb, part.body, KeepOnly(frozenset(kept))))

    def _proposals(self, call: Call) -> Decide:
        """Return the decision on a tool call that the model proposes: a child action, judged and recorded."""

        async def decide(tool: str, arguments: bytes) -> Decision:
            world = self.worlds.current
            child = dataclasses.replace(
                call.action,
                id=self.clock.new_id(),
                parent=call.action.id,
                verb=Verb.TOOLS_PROPOSE,
                name=tool,
                arguments=Arguments(arguments),
            )
            try:
                async with self.journal.entry(child, world) as entry:
                    entry.identified(call.who)
                    judged = await judge(world, call.who, child)
                    await entry.intend(judged, NOTHING_HELD, _open)
                    await entry.answered(Part(PartKind.WHOLE, facts={"proposed": True}))
                    return judged.decision
            except GatewayError as refusal:
                reasons = refusal.data.get("reasons") or (refusal.code,)
                message = refusal.message if isinstance(refusal, Denied) else None
                return Decision(Effect.DENY, tuple(reasons), world.policy.sha256, message)

        return decide


class _NothingHeld:
    def settle(self, facts: object) -> None:
        """Nothing was reserved."""

    def refund(self) -> None:
        """Nothing was reserved."""


NOTHING_HELD = _NothingHeld()


def _open() -> None:
    """The gate of what is not sent anywhere: a proposal leaves with the part that holds it, which has its own gate."""
