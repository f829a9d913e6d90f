"""What stands behind the port `Upstream`: one adapter for each kind of target."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from mcpgw.addresses import vetted
from mcpgw.config import LimitsSection, Provider
from mcpgw.domain import Action, Principal, ServerVersion, Switches, Target, Transport
from mcpgw.openapi_section import OpenApiServer
from mcpgw.ports import Upstream
from mcpgw.registry import digest
from mcpgw.registry.search import ToolSearch
from mcpgw.registry.selection import shown
from mcpgw.request_state import RequestStates
from mcpgw.running import Board
from mcpgw.shelf import ShelfLimits
from mcpgw.task_ids import TaskIds
from mcpgw.upstream.aggregate import Aggregate
from mcpgw.upstream.holding import Holding
from mcpgw.upstream.http import HttpClient, Url
from mcpgw.upstream.llm.openai import OpenAiUpstream
from mcpgw.upstream.llm.usage import Usage
from mcpgw.upstream.mcp_http import McpHttpUpstream
from mcpgw.upstream.mcp_sse import SseServers
from mcpgw.upstream.merged import Cursors, MergedLists
from mcpgw.upstream.notices import Notices
from mcpgw.upstream.own import OwnUpstream
from mcpgw.upstream.own_tools import OwnTools
from mcpgw.upstream.router import Router
from mcpgw.upstream.sight import Sight
from mcpgw.upstream.stdio import StdioServers
from mcpgw.upstream.streams import Streams
from mcpgw.upstream.undeclared import Undeclared
from mcpgw.visible import visible_servers, visible_tools
from mcpgw.wiring.ground import Ground
from mcpgw.wiring.together import Together

if TYPE_CHECKING:
    from mcpgw.upstream.llm.prices import Prices

ListChanged = Callable[[str, str], None]
SeesModel = Callable[[Principal, Action], Awaitable[bool]]


class Upstreams:
    """The adapters of one worker. `on_list_changed` is told which list of which server has changed."""

    def __init__(
        self,
        ground: Ground,
        board: Board,
        *,
        leads: bool,
        on_list_changed: ListChanged,
        sees_model: SeesModel,
    ) -> None:
        settings, clock, seals = ground.settings, ground.clock, ground.seals
        limits, shelf = settings.limits, board.shelf
        self.seals = seals
        self.together = together = Together(board, clock, leads=leads, on_list_changed=on_list_changed)
        self.http = HttpClient(
            limits, vetted(settings.registry.allow_networks, allow_loopback=settings.server.loopback)
        )
        self.prices = _prices(settings.llm.providers)
        sight = Sight(current=lambda: ground.worlds.current, tools=visible_tools, servers=visible_servers)
        self.notices = Notices(sight, together.capabilities, together.watches)
        self.streams = Streams(self.notices, together.children, together.shown)
        holding = Holding(RequestStates(seals), shelf, clock, limits.held_s)
        task_ids = TaskIds(seals)
        self.mcp_http = McpHttpUpstream(self.http, limits, clock, on_list_changed, holding, task_ids)
        self.sse = SseServers(self.http, limits, clock, on_list_changed, holding)
        self.stdio = StdioServers(settings.registry.stdio, limits, clock, on_list_changed, holding, task_ids)
        self.router: Upstream = Router(
            own=OwnUpstream(
                self.streams,
                OwnTools(shown, ToolSearch().find, limits.page_tools, together.shown.tool),
                Aggregate(self._lists(sight, limits.list_s), self._servers_of),
            ),
            streams=self.streams,
            http=self.mcp_http,
            sse=self.sse,
            stdio=self.stdio,
            openapi=_openapi(settings.registry.openapi, self.http),
            llm=OpenAiUpstream(self.http, settings.llm, limits, cost=self.prices.cost_usd, sees=sees_model),
        )
        self._providers = settings.llm.providers

    def _servers_of(self, client_session: str) -> frozenset[str]:
        open_with = (self.mcp_http, self.sse, self.stdio)
        return frozenset().union(*(adapter.servers_of(client_session) for adapter in open_with))

    def _lists(self, sight: Sight, within_s: float) -> MergedLists:
        return MergedLists(
            sight=sight,
            capabilities=self.together.capabilities,
            children=self.together.children,
            shown=self.together.shown,
            cursors=Cursors(self.seals),
            within_s=within_s,
        )

    async def start(self) -> None:
        await self.prices.learn([(p.name, model) for p in self._providers for model in p.models])

    def left_alone(self, versions: Iterable[ServerVersion]) -> Sequence[ServerVersion]:
        """Return those of these versions that had stopped answering, and want a trial now."""
        due = set(self.http.health.due())
        remote = (v for v in versions if v.transport in {Transport.HTTP, Transport.SSE}) if due else ()
        return [v for v in remote if Url.parse(v.endpoint).text in due]

    def end_session(self, client_session: str) -> None:
        """Forget what was opened with servers for a session of a client that is over."""
        self.mcp_http.end_session(client_session)
        self.sse.end_session(client_session)
        self.stdio.end_session(client_session)
        self.streams.end_session(client_session)

    async def end_killed(self, thrown: Switches, target: Target) -> None:
        """End the processes and sessions of the target's server that can serve nobody else than these switches stop."""
        await asyncio.gather(self.sse.end_killed(thrown, target), self.stdio.end_killed(thrown, target))

    def sweep(self) -> None:
        """End what has been idle for long."""
        self.sse.sweep()
        self.stdio.sweep()

    async def aclose(self) -> None:
        await self.together.aclose()
        await self.mcp_http.aclose()
        await self.sse.aclose()
        await self.stdio.aclose()
        await self.http.aclose()


class _NoPrices:
    """What stands where no provider is configured: the price list is large."""

    async def learn(self, models: Sequence[tuple[str, str]]) -> None:
        """There is nothing to learn."""

    def cost_usd(self, provider: str, model: str, usage: Usage) -> float | None:
        return None


def _prices(providers: Sequence[Provider]) -> Prices | _NoPrices:
    if not providers:
        return _NoPrices()
    from mcpgw.upstream.llm.prices import Prices  # noqa: PLC0415 - some ten megabytes

    return Prices(providers)


def _openapi(entries: Sequence[OpenApiServer], http: HttpClient) -> Upstream:
    """Return the adapter of REST APIs, whose libraries are loaded only where there are some."""
    if not entries:
        return Undeclared("registry.openapi")
    from mcpgw.upstream.openapi import OpenApiServers  # noqa: PLC0415 - as the docstring says

    return OpenApiServers(entries, http, digest.pin)


def shelf_limits(limits: LimitsSection) -> ShelfLimits:
    return ShelfLimits(per_principal=limits.held_per_principal, in_all=limits.held, ttl_s=limits.held_s)
