"""How the gateway proves itself to a server: as operators and administrators say it, and what they may not say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from pydantic import Field, model_validator

from mcpgw.domain import AuthMode, UpstreamAuth
from mcpgw.errors import InvalidParams
from mcpgw.section import Section

IN_VAULT = "vault:"
REFERENCE = ("env:", "file:", IN_VAULT)

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 §5.6.2
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}")  # RFC 6749 §3.3
_TEXT = re.compile(r"[\x21-\x7e]{1,2048}")
_NAME = re.compile(r"vault:[a-z0-9][a-z0-9._-]{0,63}")
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
_BY_SECRET = frozenset({"client_secret_basic", "client_secret_post"})
_AS_CLIENT = frozenset({AuthMode.CLIENT_CREDENTIALS, AuthMode.TOKEN_EXCHANGE, AuthMode.ID_JAG})
_EXCHANGING = frozenset({AuthMode.TOKEN_EXCHANGE, AuthMode.ID_JAG})
_MEMBERS: Mapping[AuthMode, frozenset[str]] = {
    AuthMode.NONE: frozenset(),
    AuthMode.STATIC: frozenset({"headers"}),
    AuthMode.ASSERTION: frozenset({"audience", "resource"}),
    AuthMode.USER: frozenset({"issuer", "client_id", "client_secret", "client_auth", "scopes", "resource"}),
    AuthMode.CLIENT_CREDENTIALS: frozenset(
        {"issuer", "client_id", "client_secret", "client_auth", "scopes", "resource", "audience"}
    ),
}
_DEFAULT = UpstreamAuth(mode=AuthMode.NONE)


class UpstreamAuthSection(Section):
    """How the gateway proves itself to a server."""

    mode: AuthMode
    """`none`, `static` (header fields), `client_credentials` (the gateway's own token), `user` (each caller's own, who
    agrees once in a browser), `token_exchange` (RFC 8693), `id_jag` (enterprise-managed authorization) or `assertion`
    (a short-lived JWT of ours that says who calls)."""
    issuer: str | None = None
    """Issuer identifier of its authorization server; default: the one that its own metadata name."""
    client_id: str | None = None
    """Who the gateway is there; for `user`, default: it makes itself known."""
    client_secret: str | None = None
    """Reference (`env:NAME`, `file:PATH`, `vault:NAME`) to its secret there; default: it signs (`private_key_jwt`)."""
    client_auth: str | None = None
    """`client_secret_basic`, `client_secret_post` or `private_key_jwt`; default: as it has a secret, or none."""
    scopes: tuple[str, ...] = ()
    """Scopes asked for."""
    resource: str | None = None
    """Resource (RFC 8707) that tokens are for; default: the server's URL."""
    audience: str | None = None
    """Audience that tokens are for, where the authorization server, or whoever reads an assertion, knows it by that."""
    headers: Mapping[str, str] = Field(default_factory=dict)
    """For `static`: references by header name."""
    subject: str = "assertion"
    """For `token_exchange` and `id_jag`: what stands for the caller: `assertion` (one of ours) or `identity_provider`
    (the ID token of their sign-in; needs `auth.sign_in.keep_tokens`)."""

    @model_validator(mode="after")
    def _sound(self) -> UpstreamAuthSection:
        problem = flaw(self.auth)
        if problem is not None:
            raise ValueError(problem)
        return self

    @property
    def auth(self) -> UpstreamAuth:
        return UpstreamAuth(**{name: getattr(self, name) for name in type(self).model_fields})


def given_auth(given: Mapping[str, Any], endpoint: str) -> UpstreamAuth:
    """Return what an administrator says of the server at `endpoint`. Raises InvalidParams.

    Less than an operator may say: references to the vault alone, since the gateway's environment and files hold other
    secrets too; and tokens for nothing but the place that they go to.
    """
    try:
        auth = msgspec.convert(dict(given), UpstreamAuth)
    except msgspec.ValidationError as error:
        raise InvalidParams(f"auth: {error}", fix="see UpstreamAuthSection in the configuration's reference") from None
    unknown = sorted(set(given) - set(UpstreamAuth.__dataclass_fields__))
    problem = f"`{unknown[0][:64]}` is not known" if unknown else flaw(auth)
    if problem is None:
        references = [*auth.headers.values(), *([auth.client_secret] if auth.client_secret is not None else [])]
        if not all(_NAME.fullmatch(reference) for reference in references):
            problem = "only the operator's configuration can refer to the environment and to files: use vault:NAME"
        elif _sends_id_tokens(auth):
            problem = "only the operator's configuration can have ID tokens of users sent to an authorization server"
        elif any(_origin(url) != _origin(endpoint) for url in (auth.resource, auth.audience) if url is not None):
            problem = "only the operator's configuration can name a resource or audience of another origin"
    if problem is not None:
        raise InvalidParams(f"auth: {problem}", fix="see docs/howto, or mcpgw secrets set")
    return auth


def flaw(auth: UpstreamAuth) -> str | None:
    """Return what is wrong with an authorization, whoever says it; None: nothing. It shows no value."""
    known = _MEMBERS.get(auth.mode, _MEMBERS[AuthMode.CLIENT_CREDENTIALS] | {"subject"})
    for name in UpstreamAuth.__dataclass_fields__:
        if name != "mode" and name not in known and getattr(auth, name) != getattr(_DEFAULT, name):
            return f"`{name}` means nothing with mode {auth.mode.value}"
    if auth.mode is AuthMode.STATIC:
        return _flaw_of_headers(auth.headers)
    if auth.mode in _AS_CLIENT and not auth.client_id:
        return f"mode {auth.mode.value} needs a `client_id`"
    if auth.mode in _EXCHANGING and auth.subject not in {"assertion", "identity_provider"}:
        return "`subject` is assertion or identity_provider"
    if _sends_id_tokens(auth) and auth.issuer is None:
        # Otherwise the server could name another authorization server, and have the ID tokens of users sent there.
        return "ID tokens are exchanged at one `issuer`, which must be named"
    return _flaw_of_client(auth) or _flaw_of_places(auth)


def header_flaw(name: str) -> str | None:
    """Return why a header field cannot be sent to servers as the operator or an administrator says; None: it can."""
    if not _TOKEN.fullmatch(name):
        return "is not a header name"
    if name.lower() in _OURS or name.lower().startswith("mcp-"):
        return "is a header that the gateway writes itself"
    return None


def _sends_id_tokens(auth: UpstreamAuth) -> bool:
    """Whether the ID token of a caller goes to the server's authorization server; an ID-JAG is had at the provider."""
    return auth.mode is AuthMode.TOKEN_EXCHANGE and auth.subject == "identity_provider"


def _flaw_of_headers(headers: Mapping[str, str]) -> str | None:
    if not headers:
        return "mode static needs `headers`"
    if len({name.lower() for name in headers}) != len(headers) or len(headers) > 32:
        return "`headers` differ in more than case, and are 32 at most"
    for name, value in headers.items():
        problem = header_flaw(name)
        if problem is not None:
            return f"`headers`: {name[:64]!r} {problem}"
        if not value.startswith(REFERENCE):
            return f"`headers`: the value of {name[:64]} must be a reference: vault:NAME"
    return None


def _flaw_of_client(auth: UpstreamAuth) -> str | None:
    if auth.client_id is not None and not _TEXT.fullmatch(auth.client_id):
        return "`client_id` is not printable ASCII"
    if auth.client_secret is not None and not auth.client_secret.startswith(REFERENCE):
        return "`client_secret` must be a reference: vault:NAME"
    if auth.client_secret is not None and auth.client_id is None:
        return "`client_secret` is that of no `client_id`"
    if auth.client_secret is not None and auth.issuer is None:
        # Otherwise the server could name another authorization server, and have the secret sent there.
        return "`client_secret` is for one `issuer`, which must be named"
    if auth.client_auth is not None and auth.client_auth not in _BY_SECRET | {"private_key_jwt"}:
        return "`client_auth` is client_secret_basic, client_secret_post or private_key_jwt"
    if auth.client_auth is not None and (auth.client_auth in _BY_SECRET) != (auth.client_secret is not None):
        return f"`client_auth` {auth.client_auth} does not fit: a secret is needed for it, or is too much"
    return None


def _flaw_of_places(auth: UpstreamAuth) -> str | None:
    if len(auth.scopes) > 64 or not all(_SCOPE.fullmatch(scope) for scope in auth.scopes):
        return "`scopes` are up to 64 names of printable ASCII without spaces"
    for name, url in (("issuer", auth.issuer), ("resource", auth.resource)):
        if url is not None and (_origin(url) is None or "#" in url or not _TEXT.fullmatch(url)):
            return f"`{name}` is not an https URL without a fragment"
    if auth.audience is not None and not _TEXT.fullmatch(auth.audience):
        return "`audience` is not printable ASCII"
    return None


def _origin(url: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}[parts.scheme]
    except (ValueError, KeyError):
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname and "@" not in parts.netloc else None
