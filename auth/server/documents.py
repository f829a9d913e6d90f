"""Clients that are a URL: the document there says what the client is (OAuth Client ID Metadata Document).

The gateway asks for it through the vetted fetcher alone, follows no redirect, and takes nothing from a document whose
`client_id` is not that very URL.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from mcpgw.auth.fetch import Fetcher, Request, json_object
from mcpgw.auth.server.client_metadata import SECRET_METHODS, BadMetadata, described
from mcpgw.auth.server.rates import Rate
from mcpgw.domain import OAuthClient
from mcpgw.errors import FetchFailed, InvalidRequest, RateLimited
from mcpgw.ports import Clock

MAX_BYTES = 16_384
KEPT = 1000
LEAST_S, MOST_S, UNSAID_S = 60.0, 86_400.0, 300.0
"""A document is kept as long as HTTP allows it (RFC 9111 §4.2), within these bounds; where nothing is said, `UNSAID_S`.
An authorization takes the user about a minute, and must not fetch at each of its steps."""
FETCHES_PER_MINUTE = 120
_URL = re.compile(r"https://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/[\x21\x24-\x3b\x3d\x40-\x5b\x5d\x5f\x61-\x7e?]*")
_DOTS = re.compile(r"/(?:\.|%2e){1,2}(?:/|\?|$)", re.IGNORECASE)
_AGE = re.compile(r'max-age="?([0-9]{1,9})"?')


@dataclass(frozen=True, slots=True)
class _Kept:
    client: OAuthClient
    fresh_until: float
    usable_until: float


def is_document(client_id: str) -> bool:
    """Whether a client id is meant as the URL of a document."""
    return client_id.startswith(("https://", "http://"))


class Documents:
    """Reads documents of clients. `hosts` are those that may have some (empty: all).

    Only URLs that are clients are remembered, so strangers can push out what is kept, and no more than that.
    """

    def __init__(
        self, fetcher: Fetcher, clock: Clock, *, hosts: Collection[str] = (), schemes: Collection[str] = ()
    ) -> None:
        self._fetcher = fetcher
        self._clock = clock
        self._hosts = frozenset(host.lower() for host in hosts)
        self._schemes = frozenset(schemes)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._under_way: dict[str, asyncio.Future[OAuthClient]] = {}
        self._rate = Rate(clock, FETCHES_PER_MINUTE, 60.0)

    async def client(self, url: str) -> OAuthClient:
        """Return the client that a URL is. Raises GatewayError, whose words the user may see."""
        self._check(url)
        now = self._clock.time()
        kept = self._kept.get(url)
        if kept is not None and now < kept.fresh_until:
            self._kept.move_to_end(url)
            return kept.client
        try:
            return await self._fetched_once(url)
        except FetchFailed:
            # Who is away for a moment stays who they were; a document that says something else does not.
            if kept is not None and now < kept.usable_until:
                return kept.client
            raise

    def _check(self, url: str) -> None:
        if not _URL.fullmatch(url) or _DOTS.search(url) or len(url) > 2048:
            raise InvalidRequest(
                "the client id is not the https URL of a document",
                fix="a client metadata document has an https URL with a path, without fragment, user or dot segments",
            )
        host = (urlsplit(url).hostname or "").lower()
        if self._hosts and host not in self._hosts:
            raise InvalidRequest(
                f"documents of `{host}` are not accepted here",
                fix="an administrator lists hosts in auth.server.client_metadata_hosts",
            )

    async def _fetched_once(self, url: str) -> OAuthClient:
        """Of all who need a document now, one asks for it; the others wait for what it finds."""
        running = self._under_way.get(url)
        if running is None:
            if not self._rate.admits():
                raise RateLimited("too many documents of clients are asked for", fix="try again in a minute")
            running = asyncio.ensure_future(self._fetched(url))
            self._under_way[url] = running
            running.add_done_callback(lambda done: self._ended(url, done))
        return await asyncio.shield(running)

    def _ended(self, url: str, done: asyncio.Future[OAuthClient]) -> None:
        self._under_way.pop(url, None)
        if not done.cancelled():
            done.exception()  # those who waited for it may have gone

    async def _fetched(self, url: str) -> OAuthClient:
        response = await self._fetcher.fetch(Request(url, max_bytes=MAX_BYTES))
        if response.status != 200:
            raise FetchFailed(
                f"the client's document was answered with status {response.status}", fix="serve it with 200"
            )
        client = self._client(url, json_object(response))
        now = self._clock.time()
        self._kept[url] = _Kept(client, now + _fresh_s(response.headers, now), now + MOST_S)
        self._kept.move_to_end(url)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return client

    def _client(self, url: str, document: Mapping[str, object]) -> OAuthClient:
        if document.get("client_id") != url:  # simple string comparison: RFC 3986 §6.2.1
            raise InvalidRequest(
                "the client's document names another client_id than its own URL", fix="the two must be the same string"
            )
        if "client_secret" in document or "client_secret_expires_at" in document:
            raise InvalidRequest("the client's document holds a secret, which everyone can read", fix="leave it out")
        try:
            found = described(document, schemes=self._schemes, default_method="none")
        except BadMetadata as fault:
            raise InvalidRequest(
                f"the client's document is not as RFC 7591 has it: {fault.description}", fix="correct it"
            ) from None
        if found.auth_method in SECRET_METHODS:
            raise InvalidRequest(
                "the client's document wants a shared secret", fix="use private_key_jwt, or none at all"
            )
        if not found.title:
            raise InvalidRequest("the client's document has no client_name", fix="give it one")
        return found.client(url, created_by=url, created_at=self._clock.time())


def _fresh_s(headers: Mapping[str, str], now: float) -> float:
    """Return for how long an answer may be used (RFC 9111 §4.2), within our bounds."""
    control = headers.get("cache-control", "").lower()
    stated = _AGE.search(control)
    if "no-store" in control or "no-cache" in control:
        fresh_s = 0.0
    elif stated is not None:
        age = headers.get("age", "0")
        fresh_s = float(stated[1]) - (float(age) if age.isdecimal() and len(age) < 10 else 0.0)
    elif "expires" in headers:
        fresh_s = _until(headers["expires"], now)
    else:
        fresh_s = UNSAID_S
    return min(max(fresh_s, LEAST_S), MOST_S)


def _until(date: str, now: float) -> float:
    try:
        return parsedate_to_datetime(date).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return 0.0
