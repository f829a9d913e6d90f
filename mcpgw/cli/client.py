"""`mcpgw call` and `mcpgw tools`: a real MCP client, the SDK's, in front of the gateway."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import anyio
import httpx2
import typer
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, TextContent, Tool

from mcpgw.cli.api import Gateway
from mcpgw.cli.options import agent_command
from mcpgw.cli.terminal import Out, table
from mcpgw.errors import GatewayError, Killed, UpstreamFailed, UpstreamUnreachable, UsageError

DECISION = "io.mcpgw/decision"
TIMEOUT_S = 30.0
# A slow tool may be silent for long; the gateway has the deadlines.
READ_TIMEOUT_S = 900.0
_LISTED = "`mcpgw tools` lists what this key may use"
Legacy = Annotated[bool, typer.Option("--legacy", help="Speak the protocol as before 2026-07-28.")]
T = TypeVar("T")


@agent_command
def call(
    gateway: Gateway,
    out: Out,
    server: Annotated[str, typer.Argument(help="Its slug, or slug@version; or a toolset's.")],
    tool: str,
    arguments: Annotated[str, typer.Argument(metavar="[JSON]", help="The tool's arguments, one JSON object.")] = "{}",
    *,
    legacy: Legacy = False,
) -> None:
    """Call a tool and print its result; progress goes to standard error. Exit status 1 when the call fails."""
    given = _object(arguments)

    async def shown(progress: float, total: float | None, message: str | None) -> None:
        out.note(f"… {progress:g}" + (f" of {total:g}" if total else "") + (f": {message}" if message else ""))

    async def use(client: Client) -> CallToolResult:
        return await client.call_tool(tool, given, progress_callback=shown)

    result = _run(gateway, f"/mcp/{quote(server, safe='@')}", legacy, use)
    lines = [item.text if isinstance(item, TextContent) else f"[{item.type}]" for item in result.content]
    if not lines and result.structured_content is not None:
        lines = [json.dumps(result.structured_content, ensure_ascii=False)]
    decision = (result.meta or {}).get(DECISION)
    if result.is_error and decision is not None:
        lines.append(f"decision: {json.dumps(decision, ensure_ascii=False)}")
    out.show(result.model_dump(mode="json", by_alias=True, exclude_none=True), "\n".join(lines))
    if result.is_error:
        raise typer.Exit(1)


@agent_command
def tools(
    gateway: Gateway,
    out: Out,
    server: Annotated[str | None, typer.Argument(help="Its slug, or a toolset's; without it: of all servers.")] = None,
    *,
    legacy: Legacy = False,
) -> None:
    """List the tools that the key may use."""

    async def use(client: Client) -> list[Tool]:
        found: list[Tool] = []
        page = await client.list_tools()
        found += page.tools
        while page.next_cursor:
            page = await client.list_tools(cursor=page.next_cursor)
            found += page.tools
        return found

    found = _run(gateway, f"/mcp/{quote(server, safe='@')}" if server else "/mcp", legacy, use)
    described = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in found]
    rows = [(tool.name, (tool.description or "").strip().partition("\n")[0]) for tool in found]
    out.show({"tools": described}, table(("tool", "description"), rows) if rows else "no tool may be used")


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UsageError("the arguments are not a JSON object", fix="""for example '{"note_id": "welcome"}'""")
    return value


def _run(gateway: Gateway, path: str, legacy: bool, use: Callable[[Client], Awaitable[T]]) -> T:
    """Return what `use` makes of a connected client. Raises GatewayError for whatever goes wrong on the way."""

    async def work() -> T:
        async with _connected(gateway, path, legacy) as client:
            return await use(client)

    # The SDK logs what it also raises.
    logging.disable(logging.ERROR)
    try:
        return anyio.run(work)
    except (MCPError, httpx2.HTTPError, ValueError, RuntimeError, BaseExceptionGroup) as error:
        raise _explained(error, gateway) from None


@asynccontextmanager
async def _connected(gateway: Gateway, path: str, legacy: bool) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {gateway.key}"},
            timeout=httpx2.Timeout(TIMEOUT_S, read=READ_TIMEOUT_S),
            trust_env=False,  # as the other commands: no proxy between a person and the gateway
        ) as http,
        Client(
            streamable_http_client(gateway.base_url + path, http_client=http), mode="legacy" if legacy else "auto"
        ) as client,
    ):
        yield client


def _explained(error: BaseException, gateway: Gateway) -> GatewayError:
    """Return the one thing that went wrong as an error of ours."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, MCPError):
        data = error.data if isinstance(error.data, dict) else {}
        # A name that is hidden is answered as one that nobody has, which leaves no room for a fix.
        fix = str(data.get("fix", _LISTED if error.message.startswith("Unknown ") else ""))
        kind = Killed if data.get("reason") == "killed" else UpstreamFailed
        return kind(error.message, fix=fix, data={"jsonrpc_code": error.code, **data})
    if isinstance(error, httpx2.ConnectError):
        return UpstreamUnreachable(
            f"no gateway answers at {gateway.base_url}",
            fix="start one: `mcpgw serve` (or `mcpgw quickstart`), or give the right --url",
        )
    if isinstance(error, httpx2.HTTPError):
        return UpstreamFailed(f"the connection to {gateway.base_url} failed: {type(error).__name__}")
    if isinstance(error, ValueError | RuntimeError):
        return UpstreamFailed(f"the answer is not what the protocol wants: {str(error).partition(chr(10))[0]}")
    raise error
