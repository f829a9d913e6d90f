"""Thousands of calls at once, all with the same id: each answer reaches its own caller, and each call is recorded."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import anyio
import msgspec
import pytest

from tests.e2e.client import LEGACY, MODERN
from tests.e2e.parts import MARKED, lines_of, marker_of
from tests.fixtures.processes import running
from tests.harness import ROOT, GatewayProcess, gateway, rego

PRINCIPALS = ("ada", "bob")
CONNECTIONS = 250  # of each principal; each has one call under way
CALLS = 20  # of each connection
WITHIN_S = 120.0
_META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "crowd", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Two workers, so that many calls are relayed to the one that holds their session; markers stand in the log."""
    home = tmp_path_factory.mktemp("crosstalk")
    enough = 2 * CONNECTIONS
    config = {**MARKED, "limits": {"per_principal": enough, "per_upstream": 2 * enough}}
    command = [sys.executable, "-m", "tests.fixtures.echo_server"]
    with (
        running(command, log=home / "echo.log", cwd=ROOT) as echo,
        gateway(home / "gate", config=config, policy=rego("allow_all"), workers=2) as made,
    ):
        for era in ("modern", "legacy"):
            made.publish(era, f"{echo.url}/{era}/mcp")
        yield made
        assert "Traceback" not in made.output()


@dataclass
class Caller:
    """One connection of a principal to one server, in a session of its own in the handshake era. Every id is 1."""

    url: str
    key: str
    era: str
    session: str | None = None
    reader: asyncio.StreamReader = field(init=False)
    writer: asyncio.StreamWriter = field(init=False)

    async def connect(self) -> None:
        where = urlsplit(self.url)
        self.reader, self.writer = await asyncio.open_connection(where.hostname, where.port)
        if self.era == "legacy":
            about = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "crowd", "version": "1"}}
            await self._exchange({"id": 1, "method": "initialize", "params": about})
            await self._exchange({"method": "notifications/initialized"})

    async def call(self, marker: str) -> dict[str, Any]:
        """Return the response to a call of `echo`."""
        params: dict[str, Any] = {"name": "echo", "arguments": {"marker": marker}}
        if self.era == "modern":
            params["_meta"] = _META
        return await self._exchange({"id": 1, "method": "tools/call", "params": params})

    async def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        where, body = urlsplit(self.url), msgspec.json.encode({"jsonrpc": "2.0", **message})
        headers = [
            f"POST {where.path} HTTP/1.1",
            f"Host: {where.netloc}",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            f"Authorization: Bearer {self.key}",
            f"Content-Length: {len(body)}",
        ]
        if self.era == "modern":
            headers += [f"MCP-Protocol-Version: {MODERN}", f"Mcp-Method: {message['method']}", "Mcp-Name: echo"]
        elif self.session is not None:
            headers += [f"MCP-Protocol-Version: {LEGACY}", f"Mcp-Session-Id: {self.session}"]
        self.writer.write("\r\n".join(headers).encode() + b"\r\n\r\n" + body)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        self.session = fields.get("mcp-session-id", self.session)
        text = await self._body(fields)
        if fields.get("content-type", "").startswith("text/event-stream"):
            events = [event for event in text.split(b"\n\n") if b"data: {" in event]
            assert len(events) == 1, text
            text = events[0].partition(b"data: ")[2]
        answer: dict[str, Any] = msgspec.json.decode(text) if text else {}
        return answer

    async def _body(self, fields: dict[str, str]) -> bytes:
        if "content-length" in fields:
            return await self.reader.readexactly(int(fields["content-length"]))
        body = b""
        if "transfer-encoding" in fields:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        return body


@dataclass
class Crowd:
    """The connections of one principal, and what was not as it should be."""

    name: str
    url: str
    key: str
    era: str
    where: str  # begins every marker
    wrong: list[Any] = field(default_factory=list)
    sessions: set[str | None] = field(default_factory=set)
    made: list[str] = field(default_factory=list)

    async def call_all(self) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(CONNECTIONS):
                tasks.start_soon(self._one, number)

    async def _one(self, number: int) -> None:
        caller = Caller(self.url, self.key, self.era)
        await caller.connect()
        for turn in range(CALLS):
            marker = f"{self.where}-{self.name}-{number}-{turn}"
            self.made.append(marker)
            answer = await caller.call(marker)
            result = answer.get("result", {})
            told = result.get("structuredContent", {})
            said = [block["text"] for block in result.get("content", ())]
            if (answer.get("id"), said, told.get("marker"), told.get("times")) != (1, [marker], marker, 1):
                self.wrong.append((marker, answer))
            self.sessions.add(told.get("session"))
        caller.writer.close()


@pytest.mark.requirement("ids:never-cross")
@pytest.mark.parametrize("server", ["modern", "legacy"])
@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_no_answer_reaches_another_call_though_all_have_one_id(
    gate: GatewayProcess, era: str, server: str
) -> None:
    crowds, where = [], f"{era}-{server}"
    for name in PRINCIPALS:
        _, key = gate.new_key(f"{name}-{where}")
        crowds.append(Crowd(name, gate.server_url(server), key, era, where))

    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as tasks:
            for crowd in crowds:
                tasks.start_soon(crowd.call_all)

    assert [crowd.wrong[:3] for crowd in crowds] == [[], []]
    assert sum(len(crowd.made) for crowd in crowds) == len(PRINCIPALS) * CONNECTIONS * CALLS
    if server == "legacy":  # whose sessions are never shared by two principals
        assert None not in crowds[0].sessions | crowds[1].sessions
        assert crowds[0].sessions.isdisjoint(crowds[1].sessions)
    check_records(gate, crowds, where)


def check_records(gate: GatewayProcess, crowds: list[Crowd], where: str) -> None:
    """Fail unless each call has one intent, of its own principal, and one outcome."""
    intents: dict[str, tuple[str, str]] = {}
    outcomes: Counter[str] = Counter()
    for line in lines_of(gate.audit_dir):
        if line.phase == "intent" and (marker_of(line) or "").startswith(where):
            intents[line.action_id] = (line.principal or "", marker_of(line) or "")
        elif line.phase == "outcome" and line.outcome == "ok":
            outcomes[line.action_id] += 1
    made = Counter((f"mcpgw|{crowd.name}-{where}", marker) for crowd in crowds for marker in crowd.made)
    assert Counter(intents.values()) == made
    assert {outcomes[action] for action in intents} == {1}
