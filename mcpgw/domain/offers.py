"""The tools that an endpoint offers, and what of them a caller may see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mcpgw.domain.state import ServerVersion, ToolPin, Toolset

FIND_TOOL, CALL_TOOL = "find_tool", "call_tool"
"""The two tools that an endpoint with search lists."""

Values = tuple[tuple[str, bytes], ...]
"""Values of arguments, raw JSON by property."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a toolset makes of a tool: `description` None leaves its own, `defaults` and `pinned` as in ToolsetEntry.

    `sha256` is the digest of the values in hex, "" when there are none.
    """

    description: str | None = None
    defaults: Values = ()
    pinned: Values = ()
    sha256: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """A tool of an active version as an endpoint offers it: under `name`, and bound."""

    version: ServerVersion
    tool: ToolPin
    name: str
    binding: Binding | None = None

    @property
    def shown(self) -> tuple[str, str, Binding | None]:
        """All that the offer's definition, as callers see it, rests on."""
        return self.name, self.tool.sha256, self.binding


class Selection:
    """What an endpoint over several servers offers in one world, before any policy: in order, each name once.

    `toolset` None: the endpoint over all servers. `search`: callers list only how to find and call tools. The offers
    are made when they are first asked for. `memo` keeps what is pure in them.
    """

    def __init__(
        self, offers: Callable[[], Iterable[Offer]], toolset: Toolset | None = None, *, search: bool = False
    ) -> None:
        self._make = offers
        self.toolset = toolset
        self.search = search
        self.memo: dict[Any, Any] = {}

    @cached_property
    def offers(self) -> tuple[Offer, ...]:
        return tuple(self._make())

    @cached_property
    def servers(self) -> frozenset[str] | None:
        """The servers that a toolset names, whatever it takes of them; None: all."""
        named = frozenset(entry.server for entry in self.toolset.entries) if self.toolset is not None else {"*"}
        return None if "*" in named else frozenset(named)

    def takes_in(self, server: str | None) -> bool:
        """Whether it is over this server, with its prompts and resources."""
        return self.servers is None or server in self.servers

    @cached_property
    def _named(self) -> Mapping[str, Offer]:
        return {offer.name: offer for offer in self.offers}

    def find(self, name: str) -> Offer | None:
        return self._named.get(name)


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """The offers of an endpoint that a caller may see and that are not killed, in order.

    `selection` is where they come from, None on the endpoint of one server. `memo` keeps what is pure in them.
    """

    offers: tuple[Offer, ...] = ()
    selection: Selection | None = None
    memo: dict[Any, Any] = field(default_factory=dict)

    @property
    def search(self) -> bool:
        return self.selection is not None and self.selection.search

    @property
    def shown(self) -> tuple[object, ...]:
        """What a client's list rests on: while it is equal, no list has changed."""
        if self.search:
            return FIND_TOOL, CALL_TOOL
        held: tuple[object, ...] | None = self.memo.get("shown")
        if held is None:
            held = self.memo["shown"] = tuple(offer.shown for offer in self.offers)
        return held
