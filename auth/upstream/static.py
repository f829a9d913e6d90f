"""Secret header fields, the same for all callers, and the references that they stand behind."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Hashable, Mapping
from urllib.parse import urlsplit

import msgspec

from mcpgw.auth.vault import SECRET, Vault
from mcpgw.config import secret
from mcpgw.domain import Judged, UpstreamAuth
from mcpgw.errors import Unavailable, UsageError
from mcpgw.upstream_auth_section import IN_VAULT, REFERENCE, header_flaw

log = logging.getLogger("mcpgw.auth")
BEARER = "Bearer "

_VALUE = re.compile(r"[\x20-\x7e]+")
# Values that are secrets wherever they stand, so they must be references.
_SECRET = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
_MOST = 1000


class Named(msgspec.Struct, frozen=True):
    """A named secret of the vault, and the origins (`https://host`) that it may be sent to."""

    value: str
    origins: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Named(origins={self.origins!r})"


class References:
    """Resolves `env:NAME`, `file:PATH` and `vault:NAME`; what they stand for is read again when the state has changed.

    So whoever changes a secret in the vault, which is a change of the state, has it changed for every later call.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._known: dict[Hashable, tuple[int, Mapping[str, str]]] = {}

    async def value(self, reference: str, to: str | None = None) -> str:
        """Return a secret that goes to the URL `to` (None: where the operator's configuration has it sent).

        Raises Unavailable, which names neither it nor where it should be.
        """
        if reference.startswith(IN_VAULT):
            found = await self._vault.get(SECRET, reference.removeprefix(IN_VAULT))
            if found is None:
                raise _missing(reference)
            named = msgspec.json.decode(found, type=Named)
            if to is not None and origin_of(to) not in named.origins:
                log.error("the secret %s is not for %s", reference, origin_of(to))
                raise Unavailable("a secret for this server is not meant for its origin", fix="mcpgw secrets set --for")
            return named.value
        try:
            return await asyncio.to_thread(secret, reference)
        except UsageError:
            raise _missing(reference) from None

    async def headers(
        self, place: Hashable, fields: Mapping[str, str], epoch: int, to: str | None = None
    ) -> Mapping[str, str]:
        """Return the header fields of a place, as of an epoch; `to` as for `value`. Raises Unavailable."""
        known = self._known.get(place)
        if known is not None and known[0] >= epoch:
            return known[1]
        found: dict[str, str] = {}
        for name, value in fields.items():
            scheme = BEARER if value.startswith(BEARER + IN_VAULT) else ""
            reference = value.removeprefix(scheme)
            is_reference = reference.startswith(REFERENCE)
            found[name] = scheme + (await self.value(reference, to) if is_reference else reference)
            if not _VALUE.fullmatch(found[name]):
                log.error("the secret %s cannot stand in a header", reference)
                raise Unavailable("a secret for this server cannot be sent", fix="one line of printable ASCII")
        while len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        self._known[place] = epoch, found
        return found


class StaticHeaders:
    """Implements `broker.Mode`: the header fields that a version was published with."""

    def __init__(self, references: References) -> None:
        self._references = references

    async def headers_for(self, judged: Judged, auth: UpstreamAuth) -> Mapping[str, str]:
        version = judged.version
        if version is None:
            raise ValueError("a credential for no server")
        place = (version.server, version.endpoint, auth)
        return await self._references.headers(place, auth.headers, judged.epoch, version.endpoint)

    async def refused(self, judged: Judged, auth: UpstreamAuth, sent: Mapping[str, str], challenge: str) -> None:
        """Nothing that the gateway could replace."""


def checked(headers: Mapping[str, str], where: str) -> dict[str, str]:
    """Return header fields by lower-case name. Raises UsageError, which never shows a value."""
    found: dict[str, str] = {}
    for written, value in headers.items():
        name, place = written.lower(), f"{where}: headers: {written}"
        problem = header_flaw(name)
        if problem is not None:
            raise UsageError(f"{place} {problem}", fix="leave it out, or use letters, digits and - alone")
        if name in found:
            raise UsageError(f"{place} is there twice", fix="names differ in more than case")
        is_reference = value.startswith(REFERENCE)
        if name in _SECRET and not is_reference:
            raise UsageError("a secret stands in the configuration itself", fix=f"refer to it in {place}: env:NAME")
        found[name] = value if is_reference else printable(value, place)
    return found


def resolved(headers: Mapping[str, str], where: str) -> dict[str, str]:
    """Return header fields with the references of the environment and of files resolved. Raises UsageError."""
    return {
        name: printable(secret(value), f"{where}: headers: {name}") if _is_local(value) else value
        for name, value in checked(headers, where).items()
    }


def printable(value: str, where: str) -> str:
    """Return a value that cannot end the header it stands in. Raises UsageError, which never shows it."""
    if not _VALUE.fullmatch(value):
        raise UsageError(f"the value of {where} is empty or not printable ASCII", fix="one line, no control characters")
    return value


def origin_of(url: str) -> str:
    """Return the origin of a URL as text: scheme, host, and a port that is not the usual one."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port not in {None, usual} else "")


def _is_local(value: str) -> bool:
    return value.startswith(REFERENCE) and not value.startswith(IN_VAULT)


def _missing(reference: str) -> Unavailable:
    log.error("the secret %s is not there", reference)
    return Unavailable("a secret for this server is not there", fix="the gateway's log names it; put it there")
