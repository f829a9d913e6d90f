"""The ports of the request path, and the World that a request sees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from mcpgw.domain import (
    Account,
    Action,
    ApiKey,
    Arguments,
    Decision,
    Era,
    Judged,
    OAuthClient,
    Part,
    Permit,
    Presented,
    Principal,
    Selection,
    ServerVersion,
    State,
    Switches,
    ToolPin,
    Verb,
)
from mcpgw.domain.values import value

Gate = Callable[[], None]
"""Raises when the call may not go on: WorldMoved, Killed, Cancelled, ClientGone, Unauthenticated, Unavailable."""

Deliver = Callable[[Part], Awaitable[None]]


@value(frozen=True, slots=True, kw_only=True)
class Question:
    """What a policy is asked. Phase `list` sees principal, server and named thing only."""

    phase: str  # "list", "call" or "result"
    principal: Principal
    action: Action
    version: ServerVersion | None = None
    tool: ToolPin | None = None
    name: str | None = None
    arguments: Arguments | None = None


class PolicyEngine(Protocol):
    """One loaded bundle. Anything but a well-formed answer is a deny."""

    @property
    def sha256(self) -> str: ...

    async def decide(self, question: Question) -> Decision:
        """Return the decision; never raises: an error, a timeout or nonsense is a deny that says so in `reasons`."""
        ...


class Catalog(Protocol):
    """The servers of one world."""

    def resolve(self, server: str, version: str | None, who: Principal) -> ServerVersion | None:
        """Return the version that a call uses (None: the active one), or None when there is none to be had.

        Drafts and retired versions resolve for the system principal alone.
        """
        ...

    def active(self) -> Sequence[ServerVersion]:
        """Return the active versions in the order of their slugs."""
        ...

    def find(self, prefixed: str) -> tuple[str, str] | None:
        """Split a name of the endpoint over all servers (`notes__delete`) into slug and own tool name."""
        ...

    def selection(self, toolset: str | None) -> Selection | None:
        """Return what a toolset offers (None: the endpoint over all servers), or None when there is no such toolset."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Identities:
    """What the verification of a credential reads from the world on each call.

    `accounts` are found by their id, and by issuer and subject; `deactivated` are the names of teams.
    """

    keys: Mapping[str, ApiKey] = field(default_factory=dict)
    clients: Mapping[str, OAuthClient] = field(default_factory=dict)
    not_before: Mapping[tuple[str, str], float] = field(default_factory=dict)  # (kind, selector) -> Unix seconds
    accounts: Mapping[str | tuple[str, str], Account] = field(default_factory=dict)
    deactivated: frozenset[str] = frozenset()

    @classmethod
    def of(cls, state: State) -> Identities:
        return cls(
            keys={k.id: k for k in state.keys},
            clients={c.client_id: c for c in state.clients},
            not_before={(r.kind, r.selector): r.not_before for r in state.revocations},
            accounts={a.id: a for a in state.accounts} | {(a.issuer, a.subject): a for a in state.accounts},
            deactivated=frozenset(t.name for t in state.teams if t.deactivated_at is not None),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """Everything a decision rests on, at one epoch; immutable.

    `memo` keeps what is pure in the world (lists by caller), and dies with it. `kept` keeps what is pure in the policy
    and in what a key holds; it is handed on while the policy is the same. `unavailable` says why no call can be let
    through, or is None.
    """

    epoch: int
    catalog: Catalog
    switches: Switches
    policy: PolicyEngine
    identities: Identities
    state: State
    unavailable: str | None = None
    memo: dict[Any, Any] = field(default_factory=dict)
    kept: dict[Any, Any] = field(default_factory=dict)


class Worlds(Protocol):
    """Where the current world comes from."""

    @property
    def current(self) -> World: ...

    def published(self) -> int:
        """Return the epoch that some worker has published; never lower than before. Synchronous, nanoseconds."""
        ...

    async def at_least(self, epoch: int) -> World:
        """Return a world of this epoch or a newer one. Raises Unavailable when it cannot be had in time."""
        ...


class TokenVerifier(Protocol):
    async def verify(self, presented: Presented, resource: str, world: World) -> Principal:
        """Return who presented this credential for `resource`. Raises Unauthenticated."""
        ...


class Hold(Protocol):
    """What was reserved for a call: settled when it was sent, refunded when not; exactly once."""

    def settle(self, facts: Mapping[str, Any]) -> None: ...

    def refund(self) -> None: ...


class Meter(Protocol):
    async def reserve(self, judged: Judged) -> Hold:
        """Reserve rate, concurrency and budget. Raises RateLimited, OverBudget."""
        ...


class CredentialBroker(Protocol):
    async def credential_for(self, judged: Judged) -> Mapping[str, str]:
        """Return the header fields that prove us to the upstream; never the caller's own credential."""
        ...

    async def refused(self, judged: Judged, credential: Mapping[str, str], challenge: str) -> None:
        """Hear that the upstream does not accept this credential, in the words of its `WWW-Authenticate`.

        The next call gets another one. May raise what the caller should hear instead of the refusal.
        """
        ...


class Exchange(Protocol):
    """An answer that is arriving."""

    def __aiter__(self) -> AsyncIterator[Part]: ...

    async def aclose(self, reason: BaseException | None) -> None:
        """Let go. With a reason, or before the end: the upstream is told to stop, as its era has it. Idempotent."""
        ...


class Held(Protocol):
    """What is left of an exchange whose upstream waits for something that only the caller can say."""

    def end(self, reason: BaseException) -> None:
        """Let go of it: the upstream is told to stop, after a kill too. Synchronous, idempotent."""
        ...


class Shelf(Protocol):
    """Where such exchanges wait for a retry of their call, under the id of the action that they belong to."""

    def find(self, action_id: str) -> Held | None: ...

    def adopt(self, action_id: str, retry: Action) -> Held | None:
        """Take an exchange for good, in the name of a retry whose gate stands in the same step; None: it is gone."""
        ...


class Upstream(Protocol):
    async def send(self, permit: Permit, credential: Mapping[str, str], gate: Gate) -> Exchange:
        """Send what the permit allows, once. `gate` is called in the same callback as the first write.

        Raises UpstreamUnreachable (nothing was sent), UpstreamFailed, UpstreamTimeout, EraCrossing, and what `gate`
        raises.
        """
        ...


@value(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a server said of itself. `announces` are the lists (tools, prompts, resources) whose changes it tells of."""

    era: Era
    prompts: bool = False
    resources: bool = False
    subscribe: bool = False
    completions: bool = False
    logging: bool = False
    tasks: bool = False
    announces: frozenset[str] = frozenset()


class KnownCapabilities(Protocol):
    """What servers can do, asked by the gateway itself and remembered."""

    def known(self, version: ServerVersion) -> Capabilities | None:
        """Return what is known without waiting; None: nothing yet. What is missing or old is asked for meanwhile."""
        ...

    async def of(self, version: ServerVersion) -> Capabilities:
        """Return what is known, or what the server says now. Raises what `Gateway.handle` raises."""
        ...


class Shown(Protocol):
    """How an endpoint over several servers names what one of them has, so that no two things there have one name."""

    def uri(self, server: str, uri: str) -> str:
        """Return the URI under which clients know this resource of a server."""
        ...

    def item(self, verb: Verb, server: str, item: bytes) -> bytes:
        """Return an item of a list of prompts, resources or templates, raw JSON as the server gave it."""
        ...

    def tool(self, server: str, definition: bytes) -> bytes:
        """Return the definition of a tool, which may name a resource."""
        ...

    def event(self, server: str, message: bytes) -> bytes:
        """Return a message of a server that is not an answer."""
        ...


class Children(Protocol):
    """Actions that are carried out on behalf of another one, with what its caller presented."""

    def of(self, parent: Action, verb: Verb, server: str, forwarded: Mapping[str, bytes]) -> Action:
        """Return an action of its own on one server."""
        ...

    async def carry_out(self, child: Action, deliver: Deliver, within_s: float | None = None) -> None:
        """Do what an action made by `of` asks for, as a call of its own: judged, recorded, and killed by itself.

        Wants a task of its own, since a kill cancels it. Raises what `Gateway.handle` raises, UpstreamTimeout after
        `within_s`, and ClientGone when its parent is over.
        """
        ...


class Watches(Protocol):
    """The gateway's own streams to servers, one for each, on which it hears that their lists change."""

    def keep(self, versions: Sequence[ServerVersion]) -> None:
        """Hold streams to these, and let go of all others."""
        ...


class Entry(Protocol):
    """The records of one action. Leaving it by an exception writes the refusal, or the failed outcome."""

    async def __aenter__(self) -> Entry: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def identified(self, who: Principal) -> None: ...

    async def intend(self, judged: Judged, hold: Hold, gate: Gate) -> Permit:
        """Write the intent and return the right to send. `gate` is called in the same step as the write.

        Raises Unavailable when the record cannot be written: no intent, no call.
        """
        ...

    async def answered(self, part: Part) -> Part:
        """Record what this part makes known (opened, outcome) and return it, with its receipt on WHOLE and LAST.

        Raises Unrecorded when the outcome cannot be written: the part must not leave.
        """
        ...


class Journal(Protocol):
    def entry(self, action: Action, world: World) -> Entry: ...

    def released(self, permit: Permit, reason: BaseException | None, retry: str | None) -> None:
        """Record how the suspension of a call ended: why, or by the retry with this id. Once; for others nothing."""
        ...
