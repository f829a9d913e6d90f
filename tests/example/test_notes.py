"""The bundled notes server, as a process over stdio, with the SDK's client of both eras."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult, TextContent

from tests.cli.parts import ROOT

MODERN, LEGACY = "2026-07-28", "2025-11-25"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=[("auto", MODERN), ("legacy", LEGACY)], ids=["modern", "legacy"])
async def notes(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    mode, version = request.param
    command = StdioServerParameters(command=sys.executable, args=["-m", "mcpgw.example.notes"], cwd=ROOT)
    with anyio.fail_after(30):
        async with Client(command, mode=mode) as client:
            assert client.protocol_version == version
            yield client


def text(result: CallToolResult) -> str:
    (only,) = result.content
    assert isinstance(only, TextContent)
    return only.text


@pytest.mark.requirement("example:eras")
async def test_notes_are_listed_read_written_and_deleted_in_both_eras(notes: Client) -> None:
    listed = await notes.list_tools()
    assert [t.name for t in listed.tools] == [
        "list_notes",
        "read_note",
        "write_note",
        "delete_note",
        "summarize_notes",
    ]
    assert text(await notes.call_tool("list_notes")) == "welcome [start]\nplan [todo]"
    await notes.call_tool("write_note", {"note_id": "new", "text": "first", "tags": ["a"]})
    await notes.call_tool("write_note", {"note_id": "new", "text": "second"})
    assert text(await notes.call_tool("read_note", {"note_id": "new"})) == "new\nsecond\ntags: a"
    wrong = await notes.call_tool("delete_note", {"note_id": "new", "confirm": {"note_id": "plan"}})
    assert wrong.is_error
    assert text(wrong).endswith("nothing deleted: confirm.note_id must be new")
    right = await notes.call_tool("delete_note", {"note_id": "new", "confirm": {"note_id": "new"}})
    assert text(right) == "deleted new"
    gone = await notes.call_tool("read_note", {"note_id": "new"})
    assert gone.is_error
    assert text(gone).endswith("no note new: list_notes shows the ids")


@pytest.mark.requirement("example:progress")
async def test_the_slow_tool_reports_progress_and_stops_when_cancelled(notes: Client) -> None:
    seen: list[tuple[float, float | None]] = []
    under_way = anyio.Event()

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total))
        under_way.set()

    summary = await notes.call_tool("summarize_notes", {"seconds": 0.5}, progress_callback=progress)
    assert text(summary).startswith("2 notes, ")
    assert seen == [(1, 2), (2, 2)]

    under_way = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def slow() -> None:
            await notes.call_tool("summarize_notes", {"seconds": 600}, progress_callback=progress)

        tasks.start_soon(slow)
        await under_way.wait()
        tasks.cancel_scope.cancel()
    # It is free again at once: the six hundred seconds are not waited for.
    with anyio.fail_after(5):
        assert not (await notes.call_tool("list_notes")).is_error
