"""Decisions, verdicts and the right to send."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

from mcpgw.domain.action import Action, Arguments, Receipt
from mcpgw.domain.offers import Listing, Selection
from mcpgw.domain.principal import Principal
from mcpgw.domain.state import ServerVersion, ToolPin
from mcpgw.domain.values import value


class Effect(StrEnum):
    """What a policy says. There are three, so a decision has no truth value."""

    ALLOW = "allow"
    DENY = "deny"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class RedactArguments:
    """Replace the values at these JSON pointers (RFC 6901) before the call is sent."""

    pointers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RedactResult:
    """Replace the values at these JSON pointers in the result's `structuredContent`, and in JSON text content."""

    pointers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeepOnly:
    """Of a list, only these names leave."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class MaxResultBytes:
    """A result larger than `n` bytes is withheld."""

    n: int


@dataclass(frozen=True, slots=True)
class Tag:
    """Put `name` into the record of the call."""

    name: str


Obligation = RedactArguments | RedactResult | KeepOnly | MaxResultBytes | Tag


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy answered. `reasons` are rule ids, never empty."""

    effect: Effect
    reasons: tuple[str, ...]
    policy_sha256: str
    message: str | None = None
    obligations: tuple[Obligation, ...] = ()

    def __bool__(self) -> NoReturn:
        raise TypeError("a Decision has three effects, not two: compare `decision.effect`")


@value(frozen=True, slots=True, kw_only=True)
class Judged:
    """A verdict; it gives no right to send.

    `version` is the server version resolved (None where the gateway itself or a model provider is the target), `tool`
    the pinned definition of a tool call. `visible` is, for a list of tools or a search in them, what this caller may
    see; `selection`, for those and for a handshake, what an endpoint over several servers offers.
    """

    principal: Principal
    action: Action
    decision: Decision
    arguments: Arguments
    epoch: int
    version: ServerVersion | None = None
    tool: ToolPin | None = None
    visible: Listing | None = None
    selection: Selection | None = None


@value(frozen=True, slots=True)
class Permit:
    """The right to send once, to one target. Only `Entry.intend` makes one."""

    judged: Judged
    hold: Any
    receipt: Receipt
    spent: list[bool] = field(default_factory=list)
