"""The HTTP/1.1 client of the request path: pooled, strict, and with the gate at its first write.

An own client, because the gate must stand in the very callback that hands the first byte to the transport, and
because a pool like this costs a third of aiohttp and a twentieth of httpx per call.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from mcpgw.config import LimitsSection
from mcpgw.dialling import connected, first_connected, tls_context
from mcpgw.errors import InvalidRequest, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable, UsageError
from mcpgw.ports import Gate
from mcpgw.upstream.health import TRIAL_S, Health
from mcpgw.upstream.http_response import Response
from mcpgw.upstream.http_wire import Connection

__all__ = ["HttpClient", "Response", "Url"]

URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?(?P<target>[/?][!-~]*)?",
    re.IGNORECASE,
)
# How getaddrinfo reads a host as a number: the last label decides (WHATWG URL §3.5).
NUMERIC_HOST = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?", re.IGNORECASE)
TARGET = re.compile(r"/[!-~]*")
METHODS = frozenset({b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})  # not HEAD: its answers have no body
WITH_CONTENT = frozenset({b"POST", b"PUT", b"PATCH"})  # RFC 9110 §8.6: these say their length, also when it is 0
# Header lines as we send them; what frames the message is written by us alone.
HEADERS = re.compile(
    rb"(?:(?!(?:host|content-length|transfer-encoding|connection|accept-encoding|te|trailer|upgrade|expect):)"
    rb"[!#$%&'*+.^_`|~0-9a-z-]+: [^\r\n\0]*\r\n)*",
    re.IGNORECASE,
)
SWEEP_S = 1.0


@dataclass(frozen=True, slots=True)
class Url:
    """An http or https URL, taken apart once; or a request target on a Unix socket."""

    scheme: str
    host: str
    port: int
    target: bytes
    authority: bytes
    socket_path: str | None = None
    text: str = field(default="", repr=False)  # all of it, as one string, or what its health is known under
    origin: str = field(default="", repr=False)  # connections to equal origins are interchangeable
    head: bytes = field(default=b"", repr=False)  # the request line after its method, and the headers always sent

    def __post_init__(self) -> None:
        place = self.socket_path or f"{self.host}:{self.port}"
        object.__setattr__(self, "origin", f"{self.scheme}://{place}")
        object.__setattr__(self, "text", self.text or self.origin + self.target.decode("ascii"))
        head = b" %b HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\n" % (self.target, self.authority)
        object.__setattr__(self, "head", head)

    @classmethod
    def parse(cls, text: str) -> Url:
        """Return the URL of `text`. Raises UsageError, which does not show it: it may hold a secret."""
        if "#" in text:
            raise UsageError("the URL has a fragment", fix="leave out `#` and what follows")
        if "@" in re.split(r"[/?]", text.partition("://")[2], maxsplit=1)[0]:
            raise UsageError("the URL holds a user name or password", fix="send credentials in a header, by reference")
        found = URL.fullmatch(text)
        if found is None:
            raise UsageError(
                "not an http or https URL of plain ASCII",
                fix="write https://host:port/path, a host of other letters in its xn-- form",
            )
        scheme, host = found["scheme"].lower(), found["host"].lower()
        default = 443 if scheme == "https" else 80
        port = int(found["port"] or default)
        if not 0 < port < 65_536:
            raise UsageError(f"port {port} does not exist", fix="use 1 to 65535")
        host = _canonical(host)
        shown = f"[{host}]" if ":" in host else host
        authority = shown if port == default else f"{shown}:{port}"
        target = found["target"] or "/"
        if target.startswith("?"):
            target = f"/{target}"
        return cls(scheme, host, port, target.encode("ascii"), authority.encode("ascii"))

    @classmethod
    def unix(cls, socket_path: str, target: str, authority: str = "localhost") -> Url:
        """Return the URL of `target` (`/path?query`) at the server that listens on `socket_path`."""
        if not TARGET.fullmatch(target) or not TARGET.fullmatch(f"/{authority}"):
            raise UsageError("not a request target", fix="write /path?query, in ASCII without spaces")
        return cls("http", "localhost", 0, target.encode("ascii"), authority.encode("ascii"), socket_path)


def _canonical(host: str) -> str:
    try:
        if host.startswith("["):
            return str(ipaddress.IPv6Address(host[1:-1]))
        if NUMERIC_HOST.fullmatch(host):
            return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise UsageError("the URL's host is not an IP address as people write it", fix="write 192.0.2.1") from None
    return host


class HttpClient:
    """The pool of one worker. `allow_address` vets every address at every connect."""

    def __init__(
        self,
        limits: LimitsSection,
        allow_address: Callable[[str], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.health = Health(monotonic)
        self._limits = limits
        self._allow_address = allow_address
        self._kept: dict[str, list[Connection]] = {}
        self._live: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._context: asyncio.Future[ssl.SSLContext] | None = None
        self._emptied: asyncio.Event | None = None

    async def request(
        self,
        method: bytes,
        url: Url,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        gate: Gate,
        *,
        first_byte_s: float | None = None,
    ) -> Response:
        """Send one request, once, and return its answer when the headers have come; read it, then `aclose` it.

        `gate` is called in the same callback as the first write, on a connected transport with an empty buffer; when
        it raises, nothing has been written. A kept connection that the peer closed is replaced before anything is
        written; a written request is never repeated. Redirects are returned as they are.

        Raises UpstreamUnreachable (nothing was sent), UpstreamFailed, UpstreamTimeout, InvalidRequest (a header that
        cannot be sent), and what `gate` raises.
        """
        request = _request(method, url, headers, body)
        within_s = first_byte_s or self._limits.first_byte_s
        if url.socket_path is not None:  # a worker of ours: whether those live is known otherwise
            return await self._send(url, request, gate, within_s)
        health, place = self.health, url.text
        if health.admit(place):
            within_s = min(within_s, TRIAL_S)
        try:
            response = await self._send(url, request, gate, within_s)
        except (UpstreamUnreachable, UpstreamFailed, UpstreamTimeout):
            health.failed(place)
            raise
        except BaseException:
            health.given_up(place)
            raise
        if response.status >= 500:
            health.failed(place)
        else:
            health.answered(place)
        return response

    async def _send(self, url: Url, request: bytes, gate: Gate, within_s: float) -> Response:
        connection = self._take(url.origin) or await self._connect(url)
        written = False
        try:
            response = connection.send(gate, request, within_s)
            written = True
        finally:
            if not written:
                self._keep(connection)
        await response.begun()
        return response

    async def aclose(self) -> None:
        """Close every connection; answers that are arriving are cut."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._emptied = asyncio.Event()
        for connection in self._live:
            connection.close()
        if self._live:
            await self._emptied.wait()

    def _take(self, origin: str) -> Connection | None:
        kept = self._kept.get(origin)
        while kept:
            connection = kept.pop()
            if connection.ready and connection.quiet:
                return connection
            connection.close()
        return None

    def _keep(self, connection: Connection) -> None:
        kept = self._kept.setdefault(connection.origin, [])
        if len(kept) >= self._limits.per_upstream or self._emptied is not None:
            connection.close()
            return
        kept.append(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for origin, kept in list(self._kept.items()):
            fresh = [c for c in kept if c.keep_until > now]
            for connection in kept:
                if connection.keep_until <= now:
                    connection.close()
            if fresh:
                self._kept[origin] = fresh
            else:
                del self._kept[origin]
        self._sweeper = loop.call_later(SWEEP_S, self._sweep) if self._kept else None

    def _lost(self, connection: Connection) -> None:
        self._live.discard(connection)
        kept = self._kept.get(connection.origin)
        if kept and connection in kept:
            kept.remove(connection)
        if self._emptied is not None and not self._live:
            self._emptied.set()

    async def _connect(self, url: Url) -> Connection:
        name = "the relayed worker" if url.socket_path else "the upstream"  # its address is not the caller's business
        try:
            async with asyncio.timeout(self._limits.connect_s):
                context = await self._tls() if url.scheme == "https" else None
                sock = await self._dial(url)
                connection = await self._establish(url, sock, context)
                if context is not None:
                    await asyncio.sleep(0)  # uvloop writes the end of the handshake when the loop turns
        except TimeoutError:
            raise UpstreamUnreachable(
                f"{name} did not accept a connection within {self._limits.connect_s:g} s", fix="check that it runs"
            ) from None
        except ssl.SSLCertVerificationError as error:
            raise UpstreamUnreachable(
                f"{name} has a certificate that is not trusted: {error.verify_message}",
                fix="check its certificate, or name its authority with SSL_CERT_FILE",
            ) from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UpstreamUnreachable(f"cannot connect to {name}: {reason}", fix="check that it runs") from None
        if not connection.ready:
            connection.close()
            raise UpstreamUnreachable(f"{name} closed the connection at once", fix="check that it runs")
        return connection

    async def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = asyncio.ensure_future(asyncio.to_thread(tls_context))
        return await asyncio.shield(self._context)

    async def _dial(self, url: Url) -> socket.socket:
        """Return a socket connected to an address that has been vetted, so that no second lookup can replace it."""
        loop = asyncio.get_running_loop()
        if url.socket_path is not None:
            return await connected(socket.AF_UNIX, url.socket_path)
        found = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        allowed = [(family, address) for family, _, _, _, address in found if self._allow_address(str(address[0]))]
        if not allowed:
            raise UpstreamUnreachable(
                f"`{url.host}` has no address that may be connected to",
                fix="list its network in registry.allow_networks, if it is meant to be private",
            )
        return await first_connected(allowed, self._limits.connect_s)

    async def _establish(self, url: Url, sock: socket.socket, context: ssl.SSLContext | None) -> Connection:
        name = "the relayed worker" if url.socket_path else "the upstream"  # its address is not the caller's business

        def protocol() -> Connection:
            return Connection(url.origin, name, sock, self._limits, (self._keep, self._lost))

        loop = asyncio.get_running_loop()
        made = False
        try:
            if url.socket_path is not None:
                _, connection = await loop.create_unix_connection(protocol, sock=sock)
            else:
                _, connection = await loop.create_connection(
                    protocol, sock=sock, ssl=context, server_hostname=url.host if context else None
                )
            made = True
        finally:
            if not made:
                sock.close()
        self._live.add(connection)
        return connection


def _request(method: bytes, url: Url, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bytes:
    if method not in METHODS:
        raise InvalidRequest("the method cannot be sent", fix="use GET, POST, PUT, PATCH, DELETE or OPTIONS")
    lines = _lines(tuple(headers))
    if body or method in WITH_CONTENT:
        return b"%b%b%bcontent-length: %d\r\n\r\n%b" % (method, url.head, lines, len(body), body)
    return b"%b%b%b\r\n" % (method, url.head, lines)


@lru_cache(maxsize=1024)
def _lines(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Return header lines; kept, since the calls of one session have the same."""
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    if not HEADERS.fullmatch(lines) or lines.count(b"\r\n") != len(headers):
        raise InvalidRequest(
            "a header for the upstream cannot be sent",
            fix="a name is a token and none of the framing headers; a value holds no line break and no NUL",
        )
    return lines
