"""Requests written by hand, well-formed or not, and answers read as they came."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
PREFIX = "io.modelcontextprotocol/"
META = {PREFIX + "protocolVersion": MODERN, PREFIX + "clientCapabilities": {}}
TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Reply:
    """One answer. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Return the body, or the last message of a stream of events."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            return json.loads(self.body.rstrip().rpartition(b"data: ")[2])
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error

    @property
    def code(self) -> int:
        """Return the JSON-RPC error code."""
        code: int = self.error["code"]
        return code


@dataclass(frozen=True)
class Wire:
    """Where requests go, and with which key."""

    base_url: str
    key: str | None = None
    path: str = "/mcp"

    def send(
        self,
        body: bytes | str = b"",
        headers: Mapping[str, str | None] | None = None,
        *,
        method: str = "POST",
        path: str | None = None,
    ) -> Reply:
        """Send one request. `headers` go over those that every client sends; None leaves one out."""
        given: dict[str, str | None] = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Authorization": f"Bearer {self.key}" if self.key is not None else None,
            **(headers or {}),
        }
        where = urlsplit(self.base_url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT_S)
        try:
            sent = {name: value for name, value in given.items() if value is not None}
            raw = body.encode() if isinstance(body, str) else body
            connection.request(method, path or self.path, raw or None, sent)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())
        finally:
            connection.close()

    def modern(
        self, method: str, params: Mapping[str, Any] | None = None, headers: Mapping[str, str | None] | None = None
    ) -> Reply:
        """Ask as a client of 2026-07-28."""
        message = request(method, {**(params or {}), "_meta": META})
        return self.send(json.dumps(message), {**modern_headers(method, params or {}), **(headers or {})})

    def legacy(
        self, session: str, method: str, params: Mapping[str, Any] | None = None, request_id: int | None = 1
    ) -> Reply:
        """Ask as a client of 2025-11-25; without an id it is a notification."""
        headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY}
        return self.send(json.dumps(request(method, params, request_id)), headers)

    def initialize(self) -> Reply:
        given = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        return self.send(json.dumps(request("initialize", given)))

    def session(self) -> str:
        """Open a session and return its id."""
        session = self.initialize().headers["mcp-session-id"]
        assert self.legacy(session, "notifications/initialized", request_id=None).status == 202
        return session


def request(method: str, params: Mapping[str, Any] | None = None, request_id: int | None = 1) -> dict[str, Any]:
    numbered = {} if request_id is None else {"id": request_id}
    return {"jsonrpc": "2.0", **numbered, "method": method, "params": dict(params or {})}


def modern_headers(method: str, params: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the headers that repeat a body of 2026-07-28."""
    name = params.get("uri", params.get("name"))
    return {"MCP-Protocol-Version": MODERN, "Mcp-Method": method, "Mcp-Name": name}
