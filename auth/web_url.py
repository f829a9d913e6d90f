"""One reading of a URL that someone else wrote, so that what is vetted is what is connected to.

Hosts are read as the WHATWG URL Standard has it (§3.5): `0x7f.1`, `0177.0.0.1`, `2130706433`, `127。0。0。1` and
`%31%32%37.0.0.1` are all 127.0.0.1, as they are for resolvers and browsers. What that standard would repair (blanks,
backslashes, missing slashes) is refused.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, unquote_to_bytes

from mcpgw.errors import FetchRefused

MAX_CHARACTERS = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]+)(?P<target>[/?][^#]*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@]+)(?::(?P<port>[0-9]{0,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BLANK = re.compile(r"[\s\x00-\x20\x7f\\]")
_MAX_NAME = 253
# What may stand in a path or query as it is; the rest is percent-encoded.
_SAFE = "%/?:@!$&'()*+,;=-._~[]|^{}"


@dataclass(frozen=True, slots=True)
class WebUrl:
    """An http or https URL in canonical form. `host` is a name in lower case, or an address without brackets."""

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, text: str) -> WebUrl:
        """Return the URL of `text`. Raises FetchRefused, which does not show it: it may hold a secret."""
        if len(text) > MAX_CHARACTERS:
            raise FetchRefused(f"a URL is longer than {MAX_CHARACTERS} characters", fix="use a shorter one")
        found = None if _BLANK.search(text) else _URL.fullmatch(text)
        if found is None:
            raise FetchRefused(
                "not an absolute http or https URL, or one with a fragment, a blank or a backslash",
                fix="write https://host/path",
            )
        if "@" in found["authority"]:
            raise FetchRefused("a URL holds a user name or password", fix="leave it out")
        authority = _AUTHORITY.fullmatch(found["authority"])
        if authority is None:
            raise FetchRefused("a URL has a host or port that cannot be read", fix="write https://host:port/path")
        scheme = found["scheme"].lower()
        port = int(authority["port"] or DEFAULT_PORTS[scheme])
        if not 0 < port < 65_536:
            raise FetchRefused("a URL has a port that does not exist", fix="use 1 to 65535")
        target = quote(found["target"] or "/", safe=_SAFE)
        return cls(scheme, _host(authority["host"]), port, target if target.startswith("/") else f"/{target}")

    @property
    def address(self) -> str | None:
        """The host, where it is an address."""
        return self.host if ":" in self.host or self.host.rpartition(".")[2].isdigit() else None

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"

    def __str__(self) -> str:
        return self.origin + self.target


def _host(written: str) -> str:
    """Return a host in the one form that it is vetted, resolved and connected in."""
    try:
        if written.startswith("["):
            return str(IPv6Address(written[1:-1]))
        name = _ascii(unquote_to_bytes(written).decode("utf-8"))
        labels = name.split(".")
        if _NUMBER.fullmatch(labels[-1]):  # WHATWG URL §3.5: the last label decides
            return str(_ipv4(labels))
    except ValueError:
        raise _unreadable() from None
    if len(name) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise _unreadable()
    return name


def _ascii(name: str) -> str:
    """Return a name in lower case and ASCII, without the dot of the root.

    Letters and digits that only look special (full-width, circled) become what resolvers take them for.
    """
    folded = unicodedata.normalize("NFKC", name).replace("。", ".").casefold()
    if not folded.isascii():
        raise ValueError("a name of other letters stands in its xn-- form, so that nobody guesses which one is meant")
    return folded.removesuffix(".")


def _ipv4(labels: list[str]) -> IPv4Address:
    if len(labels) > 4:
        raise ValueError("too many parts")
    *firsts, last = [_number(label) for label in labels]
    if any(part > 255 for part in firsts) or last >= 256 ** (4 - len(firsts)):
        raise ValueError("a part is too large")
    return IPv4Address(last + sum(part * 256 ** (3 - place) for place, part in enumerate(firsts)))


def _number(label: str) -> int:
    if label.startswith("0x"):
        return int(label[2:] or "0", 16)
    return int(label, 8 if len(label) > 1 and label.startswith("0") else 10)


def _unreadable() -> FetchRefused:
    return FetchRefused(
        "a URL has a host that is neither a name of plain ASCII nor an address",
        fix="write a name of other letters in its xn-- form",
    )
