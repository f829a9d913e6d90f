"""`mcpgw call` and `mcpgw tools` against a real MCP server over HTTP: the bundled notes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from mcpgw.example.notes import build
from tests.cli.parts import Ran, mcpgw, served

KEY = "mcpgw_the_key"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Agent:
    """Someone with an agent key."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.home = home

    async def runs(self, *arguments: str) -> Ran:
        return await mcpgw(*arguments, cwd=self.home, MCPGW_URL=self.url, MCPGW_KEY=KEY)


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    notes = build().streamable_http_app(streamable_http_path="/mcp/notes")
    async with served(notes, lifespan=True) as url:
        yield Agent(url, tmp_path)


@pytest.mark.requirement("cli:call")
@pytest.mark.parametrize("era", [(), ("--legacy",)], ids=["modern", "legacy"])
async def test_a_call_prints_the_result_and_its_progress_apart(agent: Agent, era: tuple[str, ...]) -> None:
    read = await agent.runs("call", "notes", "read_note", '{"note_id": "plan"}', *era)
    assert read.code == 0
    assert read.out.startswith("plan\n1. List the notes.")
    slow = await agent.runs("call", "notes", "summarize_notes", '{"seconds": 0.5}', *era)
    assert slow.out.startswith("2 notes, ")
    assert slow.err.splitlines() == ["… 1 of 2: read 1 of 2 parts", "… 2 of 2: read 2 of 2 parts"]


async def test_a_failed_call_is_exit_1_with_the_tools_words(agent: Agent) -> None:
    ran = await agent.runs("call", "notes", "read_note", '{"note_id": "nothing"}')
    assert ran.code == 1
    assert "no note nothing: list_notes shows the ids" in ran.out
    told = await agent.runs("call", "notes", "read_note", '{"note_id": "nothing"}', "--json")
    assert (told.code, told.json["isError"]) == (1, True)


async def test_tools_lists_what_the_server_offers(agent: Agent) -> None:
    shown = await agent.runs("tools", "notes")
    assert [line.split()[0] for line in shown.out.splitlines()[1:]] == [
        "list_notes",
        "read_note",
        "write_note",
        "delete_note",
        "summarize_notes",
    ]
    told = await agent.runs("tools", "notes", "--json", "--legacy")
    assert told.json["tools"][1]["inputSchema"]["required"] == ["note_id"]


@pytest.mark.requirement("cli:call-refused")
async def test_a_refusal_by_the_gateway_is_told_with_its_fix(tmp_path: Path) -> None:
    shown: list[str] = []

    async def refused(request: Request) -> JSONResponse:
        shown.append(request.headers["authorization"])
        data = {"reason": "killed", "switch": "kill-1", "fix": "ask the operator"}
        error = {"code": -31101, "message": "stopped by kill switch kill-1", "data": data}
        return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 403)

    async with served(Starlette(routes=[Route("/mcp/notes", refused, methods=["POST"])])) as url:
        ran = await Agent(url, tmp_path).runs("call", "notes", "read_note")
        told = await Agent(url, tmp_path).runs("call", "notes", "read_note", "--json")
    assert (ran.code, ran.err) == (1, "error: stopped by kill switch kill-1\n  fix: ask the operator\n")
    assert (told.code, told.json["error"]["code"]) == (1, "killed")
    assert told.json["error"]["data"]["switch"] == "kill-1"
    assert set(shown) == {f"Bearer {KEY}"}


@pytest.mark.requirement("cli:call-refused")
async def test_a_denial_shows_the_decision(tmp_path: Path) -> None:
    decision = {"decision_id": "d1", "effect": "deny", "rule": "default", "retryable": False}

    async def denied(request: Request) -> JSONResponse:
        asked = await request.json()
        if asked["method"] == "server/discover":
            result = {
                "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {}},
                "resultType": "complete",
                "ttlMs": 0,
                "cacheScope": "private",
            }
        elif asked["method"] == "tools/list":
            result = {"tools": [], "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
        else:
            result = {
                "content": [{"type": "text", "text": "denied by policy"}],
                "isError": True,
                "resultType": "complete",
                "_meta": {"io.mcpgw/decision": decision},
            }
        return JSONResponse({"jsonrpc": "2.0", "id": asked["id"], "result": result})

    async with served(Starlette(routes=[Route("/mcp/notes", denied, methods=["POST"])])) as url:
        ran = await Agent(url, tmp_path).runs("call", "notes", "delete_note", '{"note_id": "plan"}')
    assert ran.code == 1
    first, second = ran.out.splitlines()
    assert first == "denied by policy"
    assert json.loads(second.removeprefix("decision: ")) == decision


async def test_what_is_not_mcp_is_said_so(tmp_path: Path) -> None:
    async def page(_: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    async with served(Starlette(routes=[Route("/mcp/notes", page, methods=["GET", "POST"])])) as url:
        ran = await Agent(url, tmp_path).runs("call", "notes", "read_note")
    assert ran.code == 1
    assert ran.err.startswith("error: ")
