"""What a client says about itself (RFC 7591 §2), in a registration or in a document of its own: read, and checked.

What is not known here is ignored, as the RFC has it. What is known must be as it says.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mcpgw.auth.scopes import AGENT_SCOPES
from mcpgw.auth.server.redirects import fault_of
from mcpgw.domain import OAuthClient

CODE = "authorization_code"
REFRESH = "refresh_token"
GRANTS = frozenset({CODE, REFRESH})
PRIVATE_KEY_JWT = "private_key_jwt"
SECRET_METHODS = frozenset({"client_secret_basic", "client_secret_post"})
METHODS = SECRET_METHODS | {"none", PRIVATE_KEY_JWT}

MAX_REDIRECT_URIS = 16
MAX_KEYS = 8
MAX_TEXT = 256
MAX_URL = 2048
# For people alone. What they hold is shown as text, and never fetched.
_PAGES = ("client_uri", "logo_uri", "policy_uri", "tos_uri")
_TEXTS = ("software_id", "software_version", "application_type")
_SECRET_PARAMETERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})  # RFC 7518 §6
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")


class BadMetadata(Exception):
    """An error of RFC 7591 §3.2.2: its code, and words that repeat nothing of what was sent."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error
        self.description = description


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A client as its metadata has it. `grants` and `scopes` hold only what there is here."""

    title: str
    redirect_uris: tuple[str, ...]
    auth_method: str
    grants: frozenset[str]
    scopes: frozenset[str] | None
    jwks: Mapping[str, Any] | None
    jwks_uri: str | None
    about: Mapping[str, Any]

    def client(self, client_id: str, created_by: str, created_at: float, **secrets: str | None) -> OAuthClient:
        """Return a client of users alone: for itself it may do nothing."""
        return OAuthClient(
            client_id=client_id,
            digest=secrets.get("digest") or "",
            registration=secrets.get("registration"),
            subject="",
            roles=frozenset(),
            created_by=created_by,
            created_at=created_at,
            title=self.title,
            grants=self.grants,
            auth_method=self.auth_method,
            redirect_uris=self.redirect_uris,
            scopes=self.scopes,
            jwks=self.jwks,
            jwks_uri=self.jwks_uri,
            about=self.about,
        )


def described(metadata: Mapping[str, Any], *, schemes: Collection[str], default_method: str) -> Described:
    """Return what metadata says. `schemes` are private-use ones that a redirect URI may have. Raises BadMetadata."""
    method = _text(metadata, "token_endpoint_auth_method") or default_method
    if method not in METHODS:
        raise _bad(f"token_endpoint_auth_method is none of: {', '.join(sorted(METHODS))}")
    jwks, jwks_uri = public_keys(metadata)
    if method == PRIVATE_KEY_JWT and jwks is None and jwks_uri is None:
        raise _bad("private_key_jwt needs jwks or jwks_uri")
    return Described(
        title=shown_title(metadata),
        redirect_uris=_redirect_uris(metadata, schemes),
        auth_method=method,
        grants=_grants(metadata),
        scopes=_scopes(metadata),
        jwks=jwks,
        jwks_uri=jwks_uri,
        about=_about(metadata),
    )


def _redirect_uris(metadata: Mapping[str, Any], schemes: Collection[str]) -> tuple[str, ...]:
    uris = _texts(metadata, "redirect_uris", MAX_REDIRECT_URIS)
    if not uris:
        raise BadMetadata("invalid_redirect_uri", "redirect_uris is missing or empty")
    for uri in uris:
        fault = fault_of(uri, schemes)
        if fault is not None:
            raise BadMetadata("invalid_redirect_uri", fault)
    return uris


def _grants(metadata: Mapping[str, Any]) -> frozenset[str]:
    asked = frozenset(_texts(metadata, "grant_types", 16) or (CODE,))
    responses = _texts(metadata, "response_types", 16) or ("code",)
    if CODE not in asked or "code" not in responses:
        raise _bad("a client here uses the authorization code grant, with the response type code")
    return asked & GRANTS


def _scopes(metadata: Mapping[str, Any]) -> frozenset[str] | None:
    written = _text(metadata, "scope", MAX_URL)
    if not written:
        return None
    if not _SCOPE.fullmatch(written):
        raise _bad("scope is not a list of scopes, separated by single blanks")
    # Nobody administers through a client that says of itself that it may. One that names only what others have
    # (`openid profile`) says nothing about ours; the user is asked in any case.
    return frozenset(written.split(" ")) & AGENT_SCOPES or None


def shown_title(metadata: Mapping[str, Any]) -> str:
    """Return `client_name`. Raises BadMetadata."""
    title = _text(metadata, "client_name") or ""
    # Controls and the marks that turn the direction of writing could make the consent page say something else.
    if any(unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for letter in title):
        raise _bad("client_name has characters that are not shown")
    return title.strip()


def public_keys(metadata: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str | None]:
    """Return `jwks` and `jwks_uri`. Raises BadMetadata."""
    jwks, jwks_uri = metadata.get("jwks"), _page(metadata, "jwks_uri")
    if jwks is None:
        return None, jwks_uri
    if jwks_uri is not None:
        raise _bad("jwks and jwks_uri exclude each other")
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(keys, list) or not 0 < len(keys) <= MAX_KEYS or not all(isinstance(key, dict) for key in keys):
        raise _bad(f"jwks is not an object with 1 to {MAX_KEYS} keys")
    if any(key.get("kty") not in {"RSA", "EC", "OKP"} or not _SECRET_PARAMETERS.isdisjoint(key) for key in keys):
        raise _bad("jwks holds something other than public keys")
    return {"keys": keys}, None


def _about(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    about: dict[str, Any] = {name: page for name in _PAGES if (page := _page(metadata, name)) is not None}
    about |= {name: text for name in _TEXTS if (text := _text(metadata, name)) is not None}
    if about.get("application_type", "native") not in {"native", "web"}:
        raise _bad("application_type is neither native nor web")
    contacts = _texts(metadata, "contacts", 8)
    return about | ({"contacts": list(contacts)} if contacts else {})


def _page(metadata: Mapping[str, Any], name: str) -> str | None:
    """Return a URL that may stand on a page, or be fetched: https, or http on this machine."""
    url = _text(metadata, name, MAX_URL)
    if url is None:
        return None
    fault = fault_of(url.replace("#", ""), ())
    if fault is not None or urlsplit(url).scheme not in {"https", "http"}:
        raise _bad(f"{name} is not an https URL")
    return url


def _text(metadata: Mapping[str, Any], name: str, most: int = MAX_TEXT) -> str | None:
    held = metadata.get(name)
    if held is not None and (not isinstance(held, str) or len(held) > most):
        raise _bad(f"{name} is not a string, or is longer than {most} characters")
    return held


def _texts(metadata: Mapping[str, Any], name: str, most: int) -> tuple[str, ...]:
    held = metadata.get(name)
    if held is None:
        return ()
    if not isinstance(held, list) or len(held) > most or not all(isinstance(text, str) for text in held):
        error = "invalid_redirect_uri" if name == "redirect_uris" else "invalid_client_metadata"
        raise BadMetadata(error, f"{name} is not a list of at most {most} strings")
    if any(len(text) > MAX_URL for text in held):
        raise _bad(f"{name} holds a string that is too long")
    return tuple(dict.fromkeys(held))


def _bad(description: str) -> BadMetadata:
    return BadMetadata("invalid_client_metadata", description)
