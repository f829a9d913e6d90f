"""Where the authorization server of an MCP server is, and what it can do: RFC 9728, RFC 8414, OpenID Discovery.

Every URL in here was chosen by others: all of them go through the vetted fetcher.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from mcpgw.auth.fetch import Fetcher, Request, Response, json_object
from mcpgw.errors import FetchFailed, FetchRefused
from mcpgw.ports import Clock

KEPT_S = 300.0
REMEMBERED = 256
MAX_CHALLENGE = 4096
MAX_SCOPES = 64
_RESOURCE = "/.well-known/oauth-protected-resource"
_SERVER, _PROVIDER = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}")  # RFC 6749 §3.3
# One parameter of a challenge, behind the name of its scheme where one begins (RFC 9110 §11.6.1).
_PARAMETER = re.compile(
    r"[\s,]*(?:(?P<scheme>[\w!#$%&'*+.^`|~-]+)(?:[ \t]+|(?=\s*(?:,|$))))?"
    r"(?:(?P<name>[\w!#$%&'*+.^`|~-]+)[ \t]*=[ \t]*(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<plain>[^\s\",]+)))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a server says to a call without a credential that will do (RFC 6750 §3, RFC 9728 §5.1)."""

    resource_metadata: str | None = None
    scopes: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ProtectedResource:
    """A server as its metadata describes it. `resource` is written as it is there: it goes back like that."""

    resource: str
    issuers: tuple[str, ...]
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationServer:
    """What an authorization server says of itself; `issuer` is the one that it was asked for."""

    issuer: str
    token_endpoint: str
    authorization_endpoint: str | None = None
    registration_endpoint: str | None = None
    revocation_endpoint: str | None = None
    auth_methods: frozenset[str] = frozenset({"client_secret_basic"})  # RFC 8414 §2: the default
    scopes: frozenset[str] = frozenset()
    pkce: bool = False
    names_itself: bool = False  # `iss` stands in every authorization response: RFC 9207 §3
    reads_documents: bool = False  # a client may be the URL of a document about it


def challenge_of(header: str) -> Challenge:
    """Return what the first Bearer challenge of a `WWW-Authenticate` says; nothing where there is none."""
    said: dict[str, str] = {}
    scheme, position, text = "", 0, header[:MAX_CHALLENGE]
    while position < len(text):
        found = _PARAMETER.match(text, position)
        if found is None or found.end() == position:
            break
        position = found.end()
        if found["scheme"] is not None:
            if said:
                break
            scheme = found["scheme"].lower()
        if scheme == "bearer" and found["name"] is not None:
            quoted = found["quoted"]
            said[found["name"].lower()] = found["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    return Challenge(said.get("resource_metadata"), scopes_in(said.get("scope", "")), said.get("error"))


def lacks_scopes(header: str) -> bool:
    """Whether a `WWW-Authenticate` wants a credential with more scopes, not another one (RFC 6750 §3.1)."""
    return challenge_of(header).error == "insufficient_scope"


def scopes_in(text: object) -> tuple[str, ...]:
    """Return the scopes of a space separated list, each once, in their order; what is none is left out."""
    found = text.split() if isinstance(text, str) else ()
    return tuple(dict.fromkeys(scope for scope in found if _SCOPE.fullmatch(scope)))[:MAX_SCOPES]


class Discovery:
    """Reads metadata. That of authorization servers is kept for a while, that of servers is always read anew."""

    def __init__(self, fetcher: Fetcher, clock: Clock) -> None:
        self._fetcher = fetcher
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, AuthorizationServer]] = OrderedDict()

    async def of_resource(self, url: str) -> AuthorizationServer:
        """Return the first authorization server that a server names. Raises GatewayError."""
        resource = await self.resource(url)
        return await self.of_issuer(resource.issuers[0])

    async def resource(self, url: str, challenge: Challenge | None = None) -> ProtectedResource:
        """Return the metadata of the server at `url`: where its challenge says, else well-known, path first.

        Raises FetchRefused, and FetchFailed: there is none, or it is another's.
        """
        named = challenge.resource_metadata if challenge is not None else None
        for place in (named,) if named is not None else _well_known_of_resource(url):
            document = await self._document(place)
            if document is not None:
                return _resource(document, url)
        raise FetchFailed(
            "the server does not say which authorization server it belongs to",
            fix="serve its metadata (RFC 9728), or name the issuer when it is published",
        )

    async def of_issuer(self, issuer: str) -> AuthorizationServer:
        """Return the metadata of an authorization server. Raises FetchRefused and FetchFailed."""
        kept = self._known.get(issuer)
        if kept is not None and self._clock.monotonic() < kept[0]:
            return kept[1]
        self._fetcher.check(issuer)
        for place in _well_known_of_issuer(issuer):
            document = await self._document(place)
            if document is not None:
                server = self._server(document, issuer)
                self._known[issuer] = self._clock.monotonic() + KEPT_S, server
                self._known.move_to_end(issuer)
                while len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
                return server
        raise FetchFailed(
            f"the authorization server {host_of(issuer)} has no metadata", fix="check its issuer identifier"
        )

    def forget(self, issuer: str) -> None:
        """Read the metadata of an issuer anew next time."""
        self._known.pop(issuer, None)

    async def _document(self, url: str) -> Mapping[str, Any] | None:
        """Return the JSON object at a URL; None when there is none. Raises FetchRefused and FetchFailed."""
        response: Response | None = None
        with suppress(FetchFailed):  # a page for people, say, or nothing: there may be another place
            response = await self._fetcher.fetch(Request(url))
        return json_object(response) if response is not None and response.status == 200 else None

    def _server(self, document: Mapping[str, Any], issuer: str) -> AuthorizationServer:
        # Simple string comparison, without normalization: RFC 8414 §3.3.
        if document.get("issuer") != issuer:
            raise FetchFailed(
                f"the metadata of {host_of(issuer)} is that of another issuer", fix="it must name itself as it is named"
            )
        token = self._endpoint(document, "token_endpoint")
        if token is None:
            raise FetchFailed(f"the metadata of {host_of(issuer)} has no token endpoint", fix="check the server")
        methods = _texts(document.get("token_endpoint_auth_methods_supported"))
        return AuthorizationServer(
            issuer=issuer,
            token_endpoint=token,
            authorization_endpoint=self._endpoint(document, "authorization_endpoint"),
            registration_endpoint=self._endpoint(document, "registration_endpoint"),
            revocation_endpoint=self._endpoint(document, "revocation_endpoint"),
            auth_methods=frozenset(methods) or frozenset({"client_secret_basic"}),
            scopes=frozenset(_texts(document.get("scopes_supported"))),
            pkce="S256" in _texts(document.get("code_challenge_methods_supported")),
            names_itself=document.get("authorization_response_iss_parameter_supported") is True,
            reads_documents=document.get("client_id_metadata_document_supported") is True,
        )

    def _endpoint(self, document: Mapping[str, Any], name: str) -> str | None:
        """Return a URL of the metadata, which we or a browser may go to. Raises FetchRefused."""
        url = document.get(name)
        if not isinstance(url, str):
            return None
        self._fetcher.check(url)
        if "#" in url:
            raise FetchRefused(f"the {name} has a fragment", fix="RFC 6749 §3.1 does not let it")
        return url


def host_of(url: str) -> str:
    """Return what people should recognise a URL by: its host, and its port where it is not the usual one."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return "?"


def _resource(document: Mapping[str, Any], url: str) -> ProtectedResource:
    resource = document.get("resource")
    if not isinstance(resource, str) or not _covers(resource, url):
        # Otherwise a server could have tokens made out to another one: RFC 9728 §3.3.
        raise FetchFailed("the server's metadata is that of another resource", fix="its `resource` must be its URL")
    issuers = tuple(_texts(document.get("authorization_servers")))
    if not issuers:
        raise FetchFailed("the server's metadata names no authorization server", fix="check the server")
    return ProtectedResource(resource, issuers, scopes_in(" ".join(_texts(document.get("scopes_supported")))))


def _covers(resource: str, url: str) -> bool:
    """Whether a resource is the server at `url`, or a path above it on the same origin."""
    try:
        whole, part = urlsplit(resource), urlsplit(url)
        same = _origin(whole) == _origin(part)
    except ValueError:
        return False
    if not same or "#" in resource or (whole.query and whole.query != part.query):
        return False
    above = whole.path.rstrip("/")
    return part.path.rstrip("/") == above or part.path.startswith(f"{above}/")


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    if "@" in parts.netloc or parts.scheme not in _DEFAULT_PORTS:
        raise ValueError("not the URL of a server")
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme]


def _well_known_of_resource(url: str) -> Iterator[str]:
    parts = urlsplit(url)
    root = f"{parts.scheme}://{parts.netloc}"
    if parts.path not in ("", "/"):
        yield f"{root}{_RESOURCE}{parts.path}"
    yield f"{root}{_RESOURCE}"


def _well_known_of_issuer(issuer: str) -> Iterator[str]:
    parts = urlsplit(issuer)
    root, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    yield f"{root}{_SERVER}{path}"
    yield f"{root}{_PROVIDER}{path}"
    if path:
        yield f"{root}{path}{_PROVIDER}"


def _texts(value: object) -> Sequence[str]:
    return [one for one in value[:MAX_SCOPES] if isinstance(one, str)] if isinstance(value, list) else ()
