"""A plain MCP client on one connection that it keeps: what it sends and reads is exactly what is on the wire."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.harness import GatewayProcess, until

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
_PREFIX = "io.modelcontextprotocol/"
_META = {_PREFIX + "protocolVersion": MODERN, _PREFIX + "clientCapabilities": {}}
TIMEOUT_S = 30.0
C = TypeVar("C", bound="Client")


@dataclass
class Answer:
    """`at` is the CLOCK_MONOTONIC time at which it had been read."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    at: float = field(default_factory=time.monotonic)

    @property
    def ok(self) -> bool:
        return self.status == 200 and "result" in self.body and not self.body["result"].get("isError")

    @property
    def reason(self) -> str | None:
        reason: str | None = self.body.get("error", {}).get("data", {}).get("reason")
        return reason

    @property
    def worker(self) -> str:
        """Return the log that the receipt names: that of the worker which handled the call, not of who took it in."""
        held = self.body["result"]["_meta"]["io.mcpgw/receipt"] if self.ok else self.body["error"]["data"]["receipt"]
        log: str = held["log"]
        return log


class Client:
    """Speaks 2026-07-28, or 2025-11-25 once `initialize` was called."""

    def __init__(self, base_url: str, key: str, path: str = "/mcp") -> None:
        where = urlsplit(base_url)
        self._connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT_S)
        self._key = key
        self.path = path
        self.session: str | None = None
        self.revision = LEGACY
        self._stream: Stream | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._connection.close()

    def use(self, key: str) -> None:
        """Show another key from now on, on the same connection."""
        self._key = key

    def call(self, tool: str, **arguments: Any) -> Answer:
        return self.ask("tools/call", {"name": tool, "arguments": arguments}, name=tool)

    def tools(self) -> list[str]:
        return [tool["name"] for tool in self.ask("tools/list", {}).body["result"]["tools"]]

    def initialize(self, revision: str = LEGACY, capabilities: dict[str, Any] | None = None) -> str:
        """Open a session and return its id."""
        self.revision, info = revision, {"name": "test", "version": "1"}
        given = {"protocolVersion": revision, "capabilities": capabilities or {}, "clientInfo": info}
        answer = self._exchange({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": given}, {})
        self.session = answer.headers["mcp-session-id"]
        self._exchange({"jsonrpc": "2.0", "method": "notifications/initialized"}, self._session_headers())
        return self.session

    def ask(self, method: str, params: dict[str, Any], *, name: str | None = None) -> Answer:
        return self._exchange(*self._request(method, params, name))

    def start(self, tool: str, *, id: int = 1, **arguments: Any) -> Stream:
        """Call a tool in the session and return the stream of its answer, as it arrives."""
        params = {"name": tool, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}
        headers = {**self._headers(), **self._session_headers()}
        self._connection.request("POST", self.path, json.dumps(message), headers)
        return self._streamed()

    def tell(self, message: dict[str, Any]) -> Answer:
        """Send a notification, or the answer to a request of the server."""
        return self._exchange({"jsonrpc": "2.0", **message}, self._session_headers())

    def end_session(self) -> int:
        """Return the status."""
        self._connection.request("DELETE", self.path, headers={**self._headers(), **self._session_headers()})
        return self._answer().status

    def resume(self, last_event_id: str) -> Stream:
        """Return the rest of a stream that was lost."""
        headers = {**self._session_headers(), "Accept": "text/event-stream", "Last-Event-ID": last_event_id}
        self._connection.request("GET", self.path, headers={**self._headers(), **headers})
        return self._streamed()

    def get(self, path: str) -> Answer:
        self._connection.request("GET", path, headers={"Authorization": f"Bearer {self._key}"})
        return self._answer()

    def listen(self) -> Stream:
        """Open the stream of a session, or a subscription to changes of the tools."""
        if self.session is not None:
            headers = {**self._headers(), **self._session_headers(), "Accept": "text/event-stream"}
            self._connection.request("GET", self.path, headers=headers)
        else:
            message, extra = self._request("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, None)
            self._connection.request("POST", self.path, json.dumps(message), {**self._headers(), **extra})
        return self._streamed()

    def _streamed(self) -> Stream:
        response = self._connection.getresponse()
        assert response.status == 200, response.read()
        assert response.getheader("content-type", "").startswith("text/event-stream"), response.read()
        self._stream = Stream(self._connection.sock, response)
        return self._stream

    def _request(self, method: str, params: dict[str, Any], name: str | None) -> tuple[dict[str, Any], dict[str, str]]:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        if self.session is not None:
            return message, self._session_headers()
        message["params"] = {**params, "_meta": _META}
        named = {"Mcp-Name": name} if name is not None else {}
        return message, {"MCP-Protocol-Version": MODERN, "Mcp-Method": method, **named}

    def _session_headers(self) -> dict[str, str]:
        return {"Mcp-Session-Id": self.session or "", "MCP-Protocol-Version": self.revision}

    def _headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._key}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }

    def _exchange(self, message: dict[str, Any], headers: dict[str, str]) -> Answer:
        self._connection.request("POST", self.path, json.dumps(message), {**self._headers(), **headers})
        return self._answer()

    def _answer(self) -> Answer:
        response = self._connection.getresponse()
        body = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        if headers.get("content-type", "").startswith("text/event-stream"):
            body = body.rstrip().rpartition(b"data: ")[2]
        return Answer(response.status, json.loads(body or b"{}"), headers)


class Stream:
    """An open stream of events, read in a thread of its own.

    `events` are (time, message). `last_id` is the id of the newest event, if it had one.
    """

    def __init__(self, sock: socket.socket, response: http.client.HTTPResponse) -> None:
        self._sock = sock
        self._response = response
        self._changed = threading.Condition()
        self.events: list[tuple[float, dict[str, Any]]] = []
        self.ended_at: float | None = None
        self.last_id: str | None = None
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def close(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._reader.join()

    def wait_for(self, method: str, count: int = 1) -> float:
        """Return the time at which the `count`th event of a method had arrived."""

        def arrived() -> list[float]:
            return [at for at, event in self.events if event.get("method") == method]

        with self._changed:
            assert self._changed.wait_for(lambda: len(arrived()) >= count, TIMEOUT_S), (method, self.events)
            return arrived()[count - 1]

    def wait_message(self, method: str) -> dict[str, Any]:
        """Return the first message of a method."""
        self.wait_for(method)
        return next(event for _, event in self.events if event.get("method") == method)

    def wait_answer(self) -> dict[str, Any]:
        """Return the response that ends the stream."""

        def arrived() -> list[dict[str, Any]]:
            return [event for _, event in self.events if "method" not in event]

        with self._changed:
            assert self._changed.wait_for(arrived, TIMEOUT_S), self.events
            return arrived()[0]

    def wait_end(self) -> float:
        """Return the time at which the stream ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.ended_at is not None, TIMEOUT_S), self.events
            assert self.ended_at is not None
            return self.ended_at

    def _read(self) -> None:
        try:
            for event in self._lines():
                with self._changed:
                    self.events.append((time.monotonic(), event))
                    self._changed.notify_all()
        except (OSError, http.client.HTTPException, ValueError):
            pass  # cut off: the end, all the same
        with self._changed:
            self.ended_at = time.monotonic()
            self._changed.notify_all()

    def _lines(self) -> Iterator[dict[str, Any]]:
        while line := self._response.readline():
            if line.startswith(b"id:"):
                self.last_id = line.removeprefix(b"id:").strip().decode()
            data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
            if data:
                yield json.loads(data)


def through(worker: str, at: GatewayProcess, key: str, path: str, kind: type[C] = Client) -> C:
    """Return a client whose connection this worker has accepted."""

    def connected() -> C | None:
        client = kind(at.base_url, at.admin_key, path)
        if client.get("/admin/v1/status").body["worker"] == worker:
            client.use(key)
            return client
        client.close()
        return None

    return until(connected, f"a connection to {worker}")
