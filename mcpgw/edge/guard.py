"""What stands in front of every route: one valid Host, known origins, bounded headers, nothing said twice.

The HTTP parser below accepts several Host headers, unknown codings and a great many headers; this does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from mcpgw.config import LimitsSection, ServerSection
from mcpgw.edge.asgi import HEADERS, KNOWN, RELAYED, App, Receive, Scope, Send, respond
from mcpgw.edge.http_exchange import HEAD, Head
from mcpgw.errors import (
    BadHost,
    ForbiddenOrigin,
    GatewayError,
    HeaderMismatch,
    InvalidRequest,
    TooLarge,
    UnsupportedMedia,
)

MAX_HEADERS = 64
MAX_HEADER_BYTES = 8192
_ONCE = frozenset(
    {
        b"host",
        b"authorization",
        b"content-type",
        b"content-length",
        b"origin",
        b"mcp-protocol-version",
        b"mcp-method",
        b"mcp-name",
        b"mcp-session-id",
        b"last-event-id",
    }
)

_NAMES = {name: name.decode() for name in (*_ONCE, b"accept", b"accept-encoding", b"connection", b"user-agent")}


class Guard:
    """Raw ASGI middleware; leaves the headers as a mapping in the scope for whoever is inside.

    `app_of` returns the application of a path. The verdict rests on the head of a request alone: it is noted in a head
    that the connection may see again, and such requests go to their application at once.
    """

    def __init__(self, app_of: Callable[[str], App], server: ServerSection, limits: LimitsSection) -> None:
        self._app_of = app_of
        self._header_bytes = limits.header_bytes
        self._hosts = frozenset(_hosts(server))
        self._origins = frozenset(o.lower() for o in server.allowed_origins) | {
            f"{scheme}://{host}" for host in self._hosts for scheme in ("http", "https")
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault(RELAYED, False)
        try:
            scope[HEADERS] = self._checked(scope)
        except GatewayError as error:
            body = {"jsonrpc": "2.0", "id": None, "error": {"code": error.wire.jsonrpc, "message": str(error)}}
            await respond(send, error.wire.status, msgspec.json.encode(body))
            return
        app = self._app_of(scope["path"])
        head: Head | None = scope.pop(HEAD, None)
        if head is not None:
            head.scope[HEADERS], head.scope[RELAYED] = scope[HEADERS], scope[RELAYED]
            head.scope[KNOWN] = scope[KNOWN] = {}
            head.app = app
        else:
            scope[KNOWN] = {}
        await app(scope, receive, send)

    def _checked(self, scope: Scope) -> dict[str, str]:
        headers = _mapping(scope["headers"], self._header_bytes)
        if not scope["raw_path"].startswith(b"/"):
            raise InvalidRequest("the request target is not a path", fix="send the path alone (origin form)")
        host = headers.get("host")
        if host is None:
            raise InvalidRequest("the Host header is missing")
        if host.lower() not in self._hosts and not scope[RELAYED]:
            raise BadHost("this Host is not served here", fix="add it to server.allowed_hosts")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in self._origins:
            raise ForbiddenOrigin("this Origin may not call", fix="add it to server.allowed_origins")
        if headers.get("content-encoding", "identity") != "identity":
            raise UnsupportedMedia("compressed request bodies are not accepted", fix="send it uncompressed")
        if headers.get("transfer-encoding", "chunked").lower() != "chunked":
            raise InvalidRequest("the transfer coding is not known", fix="send chunked, or a length")  # RFC 9112 §6.1
        return headers


def _mapping(pairs: Iterable[tuple[bytes, bytes]], limit: int) -> dict[str, str]:
    headers: dict[str, str] = {}
    count = size = 0
    for name, value in pairs:
        count += 1
        length = len(value)
        size += len(name) + length
        key = _NAMES.get(name) or name.decode("latin-1")
        if length > MAX_HEADER_BYTES:
            raise TooLarge(f"the header {key[:64]} is larger than {MAX_HEADER_BYTES} bytes")
        text = value.decode("latin-1").strip(" \t")  # the parser leaves trailing white space
        if key in headers:
            if name in _ONCE or name.startswith(b"mcp-param-"):
                kind = HeaderMismatch if name.startswith(b"mcp-") else InvalidRequest
                raise kind(f"the header {key} is given more than once", fix="send it once")
            text = f"{headers[key]}, {text}"  # lines of one list (RFC 9110 §5.3)
        headers[key] = text
    if count > MAX_HEADERS:
        raise TooLarge(f"more than {MAX_HEADERS} headers")
    if size > limit:
        raise TooLarge(f"more than {limit} bytes of headers")
    return headers


def _hosts(server: ServerSection) -> Iterable[str]:
    """Every spelling of our own name; while we listen on loopback, of loopback."""
    yield from (h.lower() for h in server.allowed_hosts)
    bound = f"[{server.host}]" if ":" in server.host else server.host.lower()
    names = ["127.0.0.1", "localhost", "[::1]"] if server.loopback else [bound]
    for name in names:
        yield f"{name}:{server.port}"
        if server.port in {80, 443}:
            yield name
    if server.public_url:
        yield server.public_url.split("://", 1)[-1].split("/", 1)[0].lower()
