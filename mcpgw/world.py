"""The current world of a worker: read from the store, swapped in one step on the loop thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mcpgw.cluster import EpochBoard
from mcpgw.domain import Decision, Effect, KillSwitch, Principal, Selection, ServerVersion, State, Switches
from mcpgw.errors import GatewayError, Unavailable
from mcpgw.ports import Catalog, Identities, PolicyEngine, Question, Store, World
from mcpgw.running import Board, Cut, Refusal

log = logging.getLogger("mcpgw.world")
REFRESH_WITHIN_S = 2.0
WATCH_EVERY_S = 0.05
CUTS_KEPT = 1000


class NoCatalog:
    """The catalogue of a world without state: nothing exists."""

    def resolve(self, server: str, version: str | None, who: Principal) -> ServerVersion | None:
        return None

    def active(self) -> tuple[ServerVersion, ...]:
        return ()

    def find(self, prefixed: str) -> tuple[str, str] | None:
        return None

    def selection(self, toolset: str | None) -> Selection | None:
        return Selection(tuple) if toolset is None else None


class NoPolicy:
    """The policy of a world without one: no."""

    sha256 = "none"

    async def decide(self, question: Question) -> Decision:
        return Decision(Effect.DENY, ("gateway:no_policy",), self.sha256)


def closed_world(reason: str, policy: PolicyEngine, epoch: int = 0, switches: tuple[KillSwitch, ...] = ()) -> World:
    """Return the world in which nothing is let through: what a worker starts from, killed as last known."""
    return World(
        epoch=epoch,
        catalog=NoCatalog(),
        switches=Switches(switches),
        policy=policy,
        identities=Identities(),
        state=State(epoch=epoch, switches=switches),
        unavailable=reason,
    )


class WorldKeeper:
    """Implements `ports.Worlds` over a store and the shared epoch of this machine.

    `catalog_of` and `policy_of` make the parts of a world; `snapshot` remembers on disk what was seen, so that neither
    a restart without the database nor a database rolled back can bring back what was killed.
    """

    def __init__(
        self,
        *,
        store: Store,
        epochs: EpochBoard,
        slot: int,
        catalog_of: Callable[[State], Catalog],
        policy_of: Callable[[State, PolicyEngine | None], Awaitable[PolicyEngine]],
        snapshot: Snapshot,
        first: World,
    ) -> None:
        self._store = store
        self._epochs = epochs
        self._slot = slot
        self._catalog_of = catalog_of
        self._policy_of = policy_of
        self._snapshot = snapshot
        self._lock = asyncio.Lock()
        self._listeners: list[Callable[[World, World], None]] = []
        self._watch: asyncio.Task[None] | None = None
        self.current = first
        self.board: Board | None = None
        self.refusal_of: Refusal = _no_refusal
        self._cuts: dict[str, Cut] = {}

    def published(self) -> int:
        return self._epochs.published()

    def on_change(self, listener: Callable[[World, World], None]) -> None:
        """Call `listener(old, new)` after each swap, on the loop thread."""
        self._listeners.append(listener)

    async def at_least(self, epoch: int) -> World:
        """Return a world of this epoch or newer. Raises Unavailable."""
        try:
            async with asyncio.timeout(REFRESH_WITHIN_S):
                while self.current.epoch < epoch:
                    await self._refresh(epoch)
        except TimeoutError:
            raise Unavailable("the gateway's state could not be read in time", fix="see /readyz") from None
        return self.current

    async def apply(self, epoch: int, switch: str | None) -> Cut:
        """Bring this worker to an epoch; return what `switch` cut here when it came into force."""
        await self.at_least(epoch)
        return self._cuts.get(switch or "", Cut())

    async def start(self) -> None:
        """Read state for the first time, then follow the published epoch."""
        try:
            await self._refresh(0, first=True)
        except GatewayError as error:
            log.error("starting closed: %s", error)
            self.current = closed_world(str(error), self.current.policy, self._snapshot.epoch, self._snapshot.switches)
        self._watch = asyncio.create_task(self._follow(), name="follow the epoch")

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    async def _follow(self) -> None:
        """Catch up with epochs whose messenger did not reach this worker."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            self._epochs.publish(self.current.epoch)  # two workers that publish at once may leave the lower number
            if self.current.epoch >= self._epochs.published() and self.current.unavailable is None:
                continue
            try:
                await self._refresh(self._epochs.published(), first=self.current.unavailable is not None)
            except GatewayError as error:
                log.warning("state could not be read: %s", error)
                await asyncio.sleep(WATCH_EVERY_S * 10)

    async def _refresh(self, epoch: int, *, first: bool = False) -> None:
        async with self._lock:
            if self.current.epoch >= epoch and not first:
                return
            published = self._epochs.published()  # before the read: what is published was committed
            state = await self._store.state()
            floor = max(self.current.epoch, self._snapshot.epoch, published)
            if state.epoch < floor:
                raise Unavailable(
                    f"the database is at epoch {state.epoch}, but epoch {floor} was seen here: it was rolled back",
                    fix="restore a newer copy; nothing is let through until then",
                )
            policy = await self._policy_of(state, None if self.current.unavailable else self.current.policy)
            await self._snapshot.remember(state)
            self._swap(
                World(
                    epoch=state.epoch,
                    catalog=self._catalog_of(state),
                    switches=Switches(state.switches),
                    policy=policy,
                    identities=Identities.of(state),
                    state=state,
                    kept=self.current.kept if policy is self.current.policy else {},
                )
            )

    def _swap(self, world: World) -> None:
        """One synchronous step: swap, cut, acknowledge."""
        old, self.current = self.current, world
        if self.board is not None and _other_holders(old.state, world.state):
            self.board.cut_ended(self.refusal_of)
        if self.board is not None and world.switches:
            for switch, cut in self.board.cut_killed(world.switches).items():
                # The first cut is the whole one: what enters later is refused before it is sent.
                self._cuts.setdefault(switch, cut)
                while len(self._cuts) > CUTS_KEPT:
                    del self._cuts[next(iter(self._cuts))]
        self._epochs.publish(world.epoch)
        self._epochs.apply(self._slot, world.epoch)
        for listener in self._listeners:
            listener(old, world)


def _no_refusal(who: Principal) -> None:
    """No credential ends, in a gateway that knows none."""


def _other_holders(old: State, new: State) -> bool:
    """Say whether a credential may have ended; of what did not change, a store reads the same rows."""
    return any(
        getattr(old, rows) is not getattr(new, rows) for rows in ("teams", "accounts", "keys", "clients", "revocations")
    )


class Snapshot:
    """What was last seen of epoch and kill switches, kept on this machine and signed.

    `read` returns the newest over all workers; `write` replaces this worker's own.
    """

    def __init__(
        self, read: Callable[[], tuple[int, tuple[KillSwitch, ...]] | None], write: Callable[[State], None]
    ) -> None:
        self._write = write
        held = read()
        self.epoch, self.switches = held if held is not None else (0, ())

    async def remember(self, state: State) -> None:
        if state.epoch > self.epoch:
            await asyncio.to_thread(self._write, state)
            self.epoch, self.switches = state.epoch, state.switches
