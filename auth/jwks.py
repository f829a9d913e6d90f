"""The keys of an issuer, fetched when they are needed and believed for as long as HTTP says (RFC 7517, RFC 9111)."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from mcpgw.auth.compact import ALGORITHMS, Key
from mcpgw.auth.fetch import JSON, Request, Response, json_object
from mcpgw.errors import FetchFailed, GatewayError, Unauthenticated, Unavailable
from mcpgw.issuer_section import IssuerSection
from mcpgw.ports import Clock

log = logging.getLogger("mcpgw.auth")
MAX_KEYS = 100
MIN_FRESH_S, DEFAULT_FRESH_S, MAX_FRESH_S = 60.0, 300.0, 86_400.0
MAX_STALE_S = 3600.0
"""Time for which keys that cannot be fetched anew are still believed."""
RETRY_S = 5.0
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
Fetch = Callable[[Request], Awaitable[Response]]
_TYPES = (JSON, "application/jwk-set+json")
_PUBLIC: Mapping[str, tuple[type[Key], tuple[str, ...]]] = {
    "RSA": (RSAKey, ("kty", "n", "e")),
    "EC": (ECKey, ("kty", "crv", "x", "y")),
    "OKP": (OKPKey, ("kty", "crv", "x")),
}
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age=\"?([0-9]{1,9})")


class PublishedKey:
    """A key and what its issuer says of it: `algorithm` is the only one that it is for, where it names one."""

    __slots__ = ("_algorithm", "_curve", "_kty", "key")

    def __init__(self, key: Key, algorithm: str | None) -> None:
        self.key = key
        self._algorithm = algorithm
        self._kty = key.key_type
        self._curve = None if isinstance(key, RSAKey) else key.curve_name

    def fits(self, algorithm: str) -> bool:
        return ALGORITHMS[algorithm] == (self._kty, self._curve) and self._algorithm in (None, algorithm)


class IssuerKeys:
    """The keys of one issuer. `generation` counts how often they changed.

    Many who need them at once wait for one fetch. A key that is not known makes them be fetched anew, but not more
    often than every `key_refetch_s`, so that made-up key ids cost the issuer nothing.
    """

    def __init__(self, section: IssuerSection, fetch: Fetch, clock: Clock) -> None:
        self._section = section
        self._fetch = fetch
        self._clock = clock
        self._uri = section.jwks_uri
        self._published: Sequence[Mapping[str, Any]] = ()
        self._keys: Mapping[str, Sequence[PublishedKey]] = {}
        self._fresh_until = self._usable_until = self._try_at = self._look_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self.generation = 0

    @property
    def fresh_s(self) -> float:
        """Time for which what these keys verified need not be verified again, in seconds."""
        return max(self._fresh_until - self._clock.monotonic(), RETRY_S)

    async def find(self, kid: str, algorithm: str) -> Key:
        """Return the key with this id, for this algorithm.

        Raises Unauthenticated when the issuer has none, Unavailable when its keys cannot be had.
        """
        now = self._clock.monotonic()
        if now >= self._fresh_until:
            await self._refreshed()
        elif self._held(kid, algorithm) is None and (self._fetching is not None or now >= self._look_at):
            if self._fetching is None:
                self._look_at = now + self._section.key_refetch_s
            await self._refreshed()
        key = self._held(kid, algorithm)
        if key is None:
            raise Unauthenticated("the access token is signed with a key that its issuer does not publish for it")
        return key

    def _held(self, kid: str, algorithm: str) -> Key | None:
        fitting = [published.key for published in self._keys.get(kid, ()) if published.fits(algorithm)]
        return fitting[0] if len(fitting) == 1 else None  # two of them would be two answers

    async def _refreshed(self) -> None:
        """Fetch the keys, unless that failed a moment ago. Raises Unavailable when there are none to be believed."""
        if self._fetching is None and self._clock.monotonic() >= self._try_at:
            self._fetching = asyncio.get_running_loop().create_task(self._refresh(), name="fetch the keys of an issuer")
            self._fetching.add_done_callback(self._fetched)
        if self._fetching is not None:
            await asyncio.wait([self._fetching])  # whoever goes away meanwhile leaves the fetch to the others
        if self._clock.monotonic() >= self._usable_until:
            raise Unavailable("the keys of the access token's issuer cannot be had now", fix="try again later")

    def _fetched(self, task: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _refresh(self) -> None:
        try:
            if self._uri is None:
                self._uri = await discovered(self._section.issuer, self._fetch)
            response = await self._fetch(Request(self._uri, types=_TYPES))
            if response.status != 200:
                raise FetchFailed(f"the key set was answered with status {response.status}", fix="check jwks_uri")
            document = json_object(response)
            keys = keys_of(document)
        except GatewayError as error:
            log.warning("the keys of %s could not be fetched: %s", self._section.issuer, error)
            self._try_at = self._clock.monotonic() + RETRY_S
            self._uri = self._section.jwks_uri  # it may have moved
            return
        if document["keys"] != self._published:
            self._published, self._keys = document["keys"], keys
            self.generation += 1
        self._fresh_until = self._clock.monotonic() + fresh_s(response.headers)
        self._usable_until = self._fresh_until + MAX_STALE_S


async def discovered(issuer: str, fetch: Fetch) -> str:
    """Return `jwks_uri` of the issuer's metadata (RFC 8414 §3, OpenID Connect Discovery §4).

    Raises FetchFailed, FetchRefused.
    """
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    found = False
    for place in (
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    ):
        try:
            response = await fetch(Request(place))
            metadata = json_object(response) if response.status == 200 else {}
        except FetchFailed:
            continue
        uri = metadata.get("jwks_uri")
        # To the character: RFC 8414 §3.3. Another issuer's metadata would name another issuer's keys.
        if metadata.get("issuer") == issuer and isinstance(uri, str):
            return uri
        found = found or bool(metadata)
    if found:
        raise FetchFailed("the metadata of an issuer name another issuer, or no keys", fix="check auth.issuers")
    raise FetchFailed("an issuer has no metadata", fix="set auth.issuers[].jwks_uri")


def keys_of(document: Mapping[str, Any]) -> Mapping[str, Sequence[PublishedKey]]:
    """Return the keys of a JWK set by their id, without those that no token here can be signed with.

    Raises FetchFailed for what is no JWK set, and for one of more than `MAX_KEYS`.
    """
    listed = document.get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise FetchFailed(f"not a JWK set of at most {MAX_KEYS} keys (RFC 7517 §5)", fix="check jwks_uri")
    found: dict[str, list[PublishedKey]] = {}
    for entry in listed:
        if isinstance(entry, dict) and (published := _published(entry)) is not None:
            found.setdefault(entry["kid"], []).append(published)
    return found


def _published(entry: Mapping[str, Any]) -> PublishedKey | None:
    kid, kty, algorithm = entry.get("kid"), entry.get("kty"), entry.get("alg")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(kid, str) or not isinstance(kty, str) or kty not in _PUBLIC or entry.get("use", "sig") != "sig":
        return None
    if not isinstance(operations, list) or "verify" not in operations or "d" in entry:  # a published private key
        return None
    if algorithm is not None and algorithm not in ALGORITHMS:
        return None
    kind, members = _PUBLIC[kty]
    try:
        key = kind.import_key({name: entry[name] for name in members})
        if isinstance(key, RSAKey) and not MIN_RSA_BITS <= key.public_key.key_size <= MAX_RSA_BITS:
            return None
        return PublishedKey(key, algorithm)
    except (JoseError, ValueError, TypeError, LookupError, AttributeError):
        return None


def fresh_s(headers: Mapping[str, str]) -> float:
    """Return for how long an answer is fresh (RFC 9111 §4.2), within bounds."""
    control = headers.get("cache-control", "").lower()
    if "no-store" in control or "no-cache" in control:
        return MIN_FRESH_S
    age = headers.get("age", "")
    found = _MAX_AGE.search(control)
    lasts = float(found[1]) - (float(age) if age.isascii() and age.isdigit() else 0) if found else DEFAULT_FRESH_S
    return min(max(lasts, MIN_FRESH_S), MAX_FRESH_S)
