"""The ASGI application: the two fast edges before the router, everything else behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from mcpgw.config import LimitsSection, ServerSection
from mcpgw.edge.asgi import App, Receive, Scope, Send
from mcpgw.edge.guard import Guard


def create_app(
    *,
    mcp: App,
    llm: App,
    routes: Sequence[BaseRoute],
    server: ServerSection,
    limits: LimitsSection,
    start: Callable[[], Awaitable[None]],
    stop: Callable[[], Awaitable[None]],
) -> App:
    """Return the guarded application. `start` and `stop` run with the server's own start and stop."""
    rest = Starlette(routes=routes)

    def app_of(path: str) -> App:
        if path == "/mcp" or path.startswith("/mcp/"):
            return mcp
        return llm if path.startswith("/v1/") else rest

    guard = Guard(app_of, server, limits)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send, start, stop)
        elif scope["type"] == "http":
            await guard(scope, receive, send)

    return application


async def _lifespan(
    receive: Receive, send: Send, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]
) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await start()
            await send({"type": "lifespan.startup.complete"})
        else:
            await stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
