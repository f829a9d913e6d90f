"""Where an authorization may be answered to: redirect URIs, as they are registered, compared and told to people."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

MAX_CHARACTERS = 2048
# RFC 8252 §7.3: an app on the user's own machine cannot know its port before it runs.
_LOOPBACK = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?((?:[/?].*)?)")
_WEB = re.compile(r"https://(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:[/?].*)?")
_PRIVATE = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*):/.*")
_PLAIN = re.compile(r"[\x21\x24-\x3b\x3d\x3f-\x5b\x5d\x5f\x61-\x7e%]+")  # no blank, quote, #, <, >, \, ^ or `


@dataclass(frozen=True, slots=True)
class Destination:
    """A redirect URI in words: `origin` is the host, or the scheme, that an answer goes to.

    `on_this_device` says that a program on the user's machine gets it, whichever it is: nothing proves its name.
    `source` is what a Content-Security-Policy calls it.
    """

    origin: str
    on_this_device: bool
    source: str


def fault_of(uri: str, schemes: Collection[str]) -> str | None:
    """Return why a redirect URI cannot be registered, or None. `schemes` are private-use ones that need no dot."""
    if len(uri) > MAX_CHARACTERS or not _PLAIN.fullmatch(uri):
        return "a redirect URI is too long, or has a fragment or a character that URIs do not have"
    if _LOOPBACK.fullmatch(uri):
        return None
    scheme = uri.partition(":")[0].lower()
    if scheme == "https":
        web = _WEB.fullmatch(uri)
        return None if web is not None else "an https redirect URI has no plain host"
    if scheme == "http":
        return "a redirect URI is http, which goes to localhost, 127.0.0.1 and [::1] alone"
    private = _PRIVATE.fullmatch(uri)
    # With a dot it is a name that its owner reversed, and none that a browser acts on itself (RFC 8252 §7.1).
    if private is None or not ("." in private["scheme"] or private["scheme"] in schemes):
        return "a redirect URI has a scheme that is neither https nor one of an app (com.example.app:/callback)"
    return None


def matches(registered: Collection[str], asked: str) -> bool:
    """Whether `asked` is one of the registered URIs: the very string, or the same on another port of loopback."""
    if asked in registered:
        return True
    local = _LOOPBACK.fullmatch(asked)
    if local is None or not _PLAIN.fullmatch(asked):
        return False
    found = (_LOOPBACK.fullmatch(uri) for uri in registered)
    return any(other is not None and other.groups() == local.groups() for other in found)


def destination(uri: str) -> Destination:
    """Return what a person is told of a registered redirect URI."""
    local = _LOOPBACK.fullmatch(uri)
    if local is not None:
        # A Content-Security-Policy has no words for an IPv6 address.
        source = "http:" if local[1].startswith("[") else f"http://{urlsplit(uri).netloc}"
        return Destination(local[1], on_this_device=True, source=source)
    if _WEB.fullmatch(uri) is not None:
        authority = urlsplit(uri).netloc
        source = "https:" if authority.startswith("[") else f"https://{authority}"
        return Destination(authority.lower(), on_this_device=False, source=source)
    scheme = uri.partition(":")[0]
    return Destination(f"{scheme}:", on_this_device=True, source=f"{scheme}:")
