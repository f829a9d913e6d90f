"""The vetted fetcher: the only way in which the gateway asks for a URL that someone else chose.

A URL is read once (auth/web_url.py) and resolved once; every address of the answer must be one that may be connected
to, and the connection goes to one of those very addresses, with the host as SNI and Host. So there is no second
reading and no second lookup that could mean something else (security: attacks 10 and 11). No proxy, cookie or
credential of the environment takes part.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urljoin

from mcpgw.addresses import opened_by, vetted
from mcpgw.auth.http_once import Answer, Wire, request_head
from mcpgw.auth.strict_object import read_object
from mcpgw.auth.web_url import WebUrl
from mcpgw.dialling import Place, first_connected, tls_context
from mcpgw.errors import FetchFailed, FetchRefused

CONNECT_S = 2.0
TOTAL_S = 5.0
AT_ONCE = 64
AT_ONCE_PER_HOST = 4
MAX_BYTES = 65_536
JSON = "application/json"

Resolve = Callable[[str, int], Awaitable[Sequence[Place]]]

_METHODS = frozenset({"GET", "POST", "PUT", "DELETE"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NAME = re.compile(
    r"(?!(?:host|content-length|transfer-encoding|connection|accept-encoding|te|upgrade|expect)$)[a-z0-9-]+"
)
_VALUE = re.compile(r"[\x20-\x7e\t]*")


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask for.

    The body of a successful answer has one of the media types `types` (none: any; `application/json` stands for
    `application/…+json` too) and at most `max_bytes`. Up to `redirects` are followed, for GET alone.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    max_bytes: int = MAX_BYTES
    types: tuple[str, ...] = (JSON,)
    redirects: int = 0


@dataclass(frozen=True, slots=True)
class Response:
    """What was answered. `headers` by lower-case name; `url` is where the answer came from.

    The body of an answer that is no success (2xx) and of another type than those asked for is left out.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    url: str = field(repr=False)


async def resolve(host: str, port: int) -> Sequence[Place]:
    """Return the places that a name stands for, in the order of preference. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


class Fetcher:
    """Fetches what others name, from public addresses over https, and from those that the operator has opened.

    `allow_networks` and `allow_loopback` as for upstreams; http goes to addresses that they open, and to no others.
    Of the `AT_ONCE` requests that may be under way, one host gets `per_host`: if it is slow, it is so for itself.
    """

    def __init__(
        self,
        allow_networks: Sequence[str],
        *,
        allow_loopback: bool,
        resolve: Resolve = resolve,
        per_host: int = AT_ONCE_PER_HOST,
    ) -> None:
        self._allowed = vetted(allow_networks, allow_loopback)
        self._opened = opened_by(allow_networks, allow_loopback)
        self._opens_some = allow_loopback or bool(allow_networks)
        self._resolve = resolve
        self._per_host = per_host
        self._running: Counter[str] = Counter()
        self._context: asyncio.Future[ssl.SSLContext] | None = None

    def check(self, url: str) -> None:
        """Refuse at once what `fetch` would never ask for: all that the URL alone tells. Raises FetchRefused."""
        self._checked(url)

    async def vet(self, url: str) -> None:
        """Refuse what `fetch` would never ask for, by its addresses too; a name that has none now passes.

        For what is connected to by others, who vet each address once more. Raises FetchRefused.
        """
        target = self._checked(url)
        with suppress(OSError, FetchFailed):
            async with asyncio.timeout(CONNECT_S):
                await self._places(target)

    async def fetch(self, request: Request) -> Response:
        """Return the answer, of whatever status. Raises FetchRefused (nothing was sent) and FetchFailed."""
        url = self._checked(request.url)
        _check_request(request)
        try:
            async with asyncio.timeout(TOTAL_S):
                return await self._followed(request, url)
        except TimeoutError:
            raise FetchFailed(f"`{url.host}` did not answer within {TOTAL_S:g} s", fix="try again later") from None

    async def _followed(self, request: Request, url: WebUrl) -> Response:
        for left in range(request.redirects, -1, -1):
            answer = await self._once(request, url)
            if answer.status not in _REDIRECTS:
                return _response(answer, url, request.types)
            if not left or request.method != "GET" or "location" not in answer.headers:
                break
            request, url = self._next(request, url, answer.headers["location"])
        raise FetchFailed(f"`{url.host}` redirects, which is not followed", fix="name the URL that it redirects to")

    def _next(self, request: Request, url: WebUrl, location: str) -> tuple[Request, WebUrl]:
        try:
            target = self._checked(urljoin(str(url), location))
        except ValueError:
            raise FetchRefused(f"`{url.host}` redirects to what is no URL", fix="name another one") from None
        if url.scheme == "https" and target.scheme != "https":
            raise FetchRefused(f"`{url.host}` redirects from https to http", fix="serve it over https")
        if target.origin != url.origin:  # what was meant for one host is none of another's business
            request = replace(request, headers={n: v for n, v in request.headers.items() if n.lower() == "accept"})
        return request, target

    def _checked(self, text: str) -> WebUrl:
        url = WebUrl.parse(text)
        if url.address is not None:
            self._vet(url, url.address)
        elif url.host == "localhost" or url.host.endswith(".localhost"):  # RFC 6761 §6.3
            self._vet(url, "127.0.0.1")
        elif url.scheme == "http" and not self._opens_some:
            raise _plain(url)
        return url

    def _vet(self, url: WebUrl, address: str) -> None:
        if not self._allowed(address):
            raise FetchRefused(
                f"`{url.host}` has an address that may not be connected to",
                fix="list its network in registry.allow_networks, if it is meant to be private",
            )
        if url.scheme == "http" and not self._opened(address):
            raise _plain(url)

    async def _once(self, request: Request, url: WebUrl) -> Answer:
        headers = {"accept": ", ".join(request.types) or "*/*"}
        headers.update((name.lower(), value) for name, value in request.headers.items())
        head = request_head(request.method, url.authority, url.target, headers, len(request.body))
        with self._place(url.host):
            try:
                wire = await self._connect(url)
                try:
                    return await wire.exchange(head, request.body, request.max_bytes)
                finally:
                    wire.close()
            except ssl.SSLCertVerificationError as error:
                raise FetchFailed(
                    f"`{url.host}` has a certificate that is not trusted: {error.verify_message}",
                    fix="check its certificate, or name its authority with SSL_CERT_FILE",
                ) from None
            except OSError as error:
                reason = error.strerror or type(error).__name__
                raise FetchFailed(f"cannot connect to `{url.host}`: {reason}", fix="check that it runs") from None

    async def _connect(self, url: WebUrl) -> Wire:
        try:
            async with asyncio.timeout(CONNECT_S):
                places = await self._places(url)
                tls = await self._tls() if url.scheme == "https" else None
                return await Wire.open(await first_connected(places, CONNECT_S), url.host, tls)
        except TimeoutError:
            raise FetchFailed(
                f"`{url.host}` did not accept a connection within {CONNECT_S:g} s", fix="check that it runs"
            ) from None

    async def _places(self, url: WebUrl) -> Sequence[Place]:
        """Return what a host stands for, all of it vetted: a name with one bad address among good ones is a trap."""
        places = await self._resolve(url.host, url.port)
        if not places:
            raise FetchFailed(f"`{url.host}` has no address", fix="check its name")
        for _, address in places:
            self._vet(url, str(address[0]))
        return places

    async def _tls(self) -> ssl.SSLContext:
        # It holds all authorities in memory: made when it is first needed.
        if self._context is None:
            self._context = asyncio.ensure_future(asyncio.to_thread(tls_context))
        return await asyncio.shield(self._context)

    @contextmanager
    def _place(self, host: str) -> Iterator[None]:
        if self._running.total() >= AT_ONCE or self._running[host] >= self._per_host:
            raise FetchFailed(f"too many requests to `{host}` or others are under way", fix="try again later")
        self._running[host] += 1
        try:
            yield
        finally:
            self._running[host] -= 1
            if not self._running[host]:
                del self._running[host]


def json_object(response: Response) -> dict[str, Any]:
    """Return the JSON object of a body, without duplicate names at any depth. Raises FetchFailed."""
    try:
        return read_object(response.body)
    except ValueError:
        raise FetchFailed("the answer is not a JSON object", fix="check the document there") from None


def _check_request(request: Request) -> None:
    headers = request.headers.items()
    named = request.method in _METHODS and all(_NAME.fullmatch(name.lower()) for name, _ in headers)
    if not named or not all(_VALUE.fullmatch(value) for _, value in headers):
        raise FetchRefused("a method or a header cannot be sent", fix="use plain names, and values of printable ASCII")


def _response(answer: Answer, url: WebUrl, types: Sequence[str]) -> Response:
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not types or any(_is(kind, wanted) for wanted in types):
        return Response(answer.status, answer.headers, answer.body(), str(url))
    if 200 <= answer.status < 300:
        raise FetchFailed(f"`{url.host}` answered with another media type", fix=f"serve it as {types[0]}")
    return Response(answer.status, answer.headers, b"", str(url))


def _is(kind: str, wanted: str) -> bool:
    suffixed = wanted == JSON and kind.startswith("application/") and kind.endswith("+json")  # RFC 6839 §3.1
    return kind == wanted or suffixed


def _plain(url: WebUrl) -> FetchRefused:
    return FetchRefused(
        f"`{url.host}` is to be asked over http", fix="use https; http goes to networks that the operator lists"
    )
