"""What stands behind the port `Upstream`: one adapter for each kind of target."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mcpgw.config import Settings
from mcpgw.domain import Action, Principal
from mcpgw.judge import visible_tools
from mcpgw.ports import Clock, Upstream
from mcpgw.registry.catalog import prefixed_definition
from mcpgw.seals import Seals
from mcpgw.upstream.addresses import vetted
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.llm.openai import OpenAiUpstream
from mcpgw.upstream.llm.prices import Prices
from mcpgw.upstream.mcp_http import McpHttpUpstream
from mcpgw.upstream.own import Notices, OwnUpstream
from mcpgw.upstream.router import Router
from mcpgw.upstream.stdio import StdioServers

ListChanged = Callable[[str, str], None]
SeesModel = Callable[[Principal, Action], Awaitable[bool]]


class Upstreams:
    """The adapters of one worker. `on_list_changed` is told which list of which server has changed."""

    def __init__(
        self, settings: Settings, clock: Clock, seals: Seals, *, on_list_changed: ListChanged, sees_model: SeesModel
    ) -> None:
        limits = settings.limits
        self.seals = seals
        self.http = HttpClient(
            limits, vetted(settings.registry.allow_networks, allow_loopback=settings.server.loopback)
        )
        self.prices = Prices(settings.llm.providers)
        self.notices = Notices(visible_tools)
        self.mcp_http = McpHttpUpstream(self.http, limits, clock, on_list_changed)
        self.stdio = StdioServers(settings.registry.stdio, limits, on_list_changed)
        self.router: Upstream = Router(
            own=OwnUpstream(self.notices, prefixed_definition),
            http=self.mcp_http,
            stdio=self.stdio,
            llm=OpenAiUpstream(self.http, settings.llm, limits, cost=self.prices.cost_usd, sees=sees_model),
        )
        self._providers = settings.llm.providers

    async def start(self) -> None:
        await self.prices.learn([(p.name, model) for p in self._providers for model in p.models])

    def end_session(self, client_session: str) -> None:
        """Forget what was opened with servers for a session of a client that is over."""
        self.mcp_http.end_session(client_session)

    async def aclose(self) -> None:
        await self.mcp_http.aclose()
        await self.stdio.aclose()
        await self.http.aclose()
