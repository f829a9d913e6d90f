"""A web site over TLS whose pages a test writes: status, header fields and body by path."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Page = tuple[int, Mapping[str, str], bytes]


def json_page(document: Any, status: int = 200, **headers: str) -> Page:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"Content-Type": "application/json", **fields}, json.dumps(document).encode()


@dataclass
class Site:
    """`base` has no trailing slash; `asked` are the requests so far, as `GET /path`."""

    base: str = ""
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    def document(self, path: str, **said: Any) -> str:
        """Put a good description of a client at a path, but for what `said` changes (None: is left out)."""
        url = self.base + path
        good = {
            "client_id": url,
            "client_name": "Notebook",
            "redirect_uris": ["https://notebook.example/callback"],
            "grant_types": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_method": "none",
        }
        self.pages[path] = json_page({name: value for name, value in {**good, **said}.items() if value is not None})
        return url

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split(" ", 2)
            self.asked.append(f"{method} {path}")
            self.heads.append(head)
            lengths = [line.split(":")[1] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
            self.bodies.append((await reader.readexactly(int(lengths[0]) if lengths else 0)).decode())
            status, headers, body = self.pages.get(path.partition("?")[0], (404, {}, b""))
            fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            writer.write(f"HTTP/1.1 {status} X\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def site(tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    """Serve a site on a free port of 127.0.0.1 until the block ends."""
    made = Site()
    server = await asyncio.start_server(made.answer, "127.0.0.1", 0, ssl=tls)
    async with server:
        made.base = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield made
