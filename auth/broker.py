"""What proves us to upstreams: credentials of the operator's configuration, never anything of the caller's."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mcpgw.config import Settings, secret
from mcpgw.domain import Judged, Route
from mcpgw.errors import UsageError

_REFERENCE = ("env:", "file:")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 §5.6.2
_VALUE = re.compile(r"[\x20-\x7e]+")
# Values that are secrets wherever they stand, so they must be references.
_SECRET = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
# Fields that the gateway writes itself, from what was judged.
_OURS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "last-event-id",
        "origin",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NONE: Mapping[str, str] = {}


class StaticBroker:
    """Implements `ports.CredentialBroker` from the settings; every reference is resolved once, at construction.

    Headers go to the URL that the operator wrote beside them and to no other: whoever may register a version of the
    same server with another endpoint does not get them sent there. Raises UsageError.
    """

    def __init__(self, settings: Settings) -> None:
        http, openapi = settings.registry.http, settings.registry.openapi
        self._servers = {
            **{(s.name, s.url): _headers(s.name, s.headers, "http") for s in http if s.headers},
            # Where these go is said in the operator's file and the document that it names.
            **{(s.name, s.name): _headers(s.name, s.headers, "openapi") for s in openapi if s.headers},
        }
        self._providers = {
            p.name: {"authorization": _printable("Bearer " + secret(p.api_key), f"llm.providers: {p.name}: api_key")}
            for p in settings.llm.providers
            if p.api_key is not None
        }

    async def credential_for(self, judged: Judged) -> Mapping[str, str]:
        """Return header fields by lower-case name; none where nothing is configured."""
        if judged.action.route is Route.LLM:
            return self._providers.get(judged.action.server or "", _NONE)
        version = judged.version
        if version is None:
            return _NONE
        return self._servers.get((version.server, version.endpoint), _NONE)


def _headers(server: str, configured: Mapping[str, str], kind: str) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    for written, value in configured.items():
        name = written.lower()
        where = f"registry.{kind}: {server}: headers: {written}"
        if not _TOKEN.fullmatch(name):
            raise UsageError(f"{where} is not a header name", fix="letters, digits and - alone")
        if name in _OURS or name.startswith("mcp-"):
            raise UsageError(f"{where} is a header that the gateway writes itself", fix="leave it out")
        if name in headers:
            raise UsageError(f"{where} is there twice", fix="names differ in more than case")
        is_reference = value.startswith(_REFERENCE) or name in _SECRET
        headers[name] = _printable(secret(value) if is_reference else value, where)
    return headers


def _printable(value: str, where: str) -> str:
    """Return a value that cannot end the header it stands in. Raises UsageError, which never shows it."""
    if not _VALUE.fullmatch(value):
        raise UsageError(f"the value of {where} is empty or not printable ASCII", fix="one line, no control characters")
    return value
