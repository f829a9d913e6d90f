"""Secrets that are recognised wherever they turn up: as they are, and as base64, hexadecimal or part of a URL."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

LEAST = 12
"""Characters that a secret has at least: fewer are found by chance."""


def forms(secret: str) -> frozenset[bytes]:
    """Return the byte strings of which one is there wherever the secret is, in any of these encodings."""
    raw = secret.encode()
    assert len(raw) >= LEAST, "too short to be recognised"
    written = {raw, quote(secret, safe="").encode(), quote_plus(secret).encode(), secret[::-1].encode()}
    written |= {raw.hex().encode(), raw.hex().upper().encode()}
    for offset in range(3):
        # Inside something longer its first characters depend on what stands before, and its last on what follows.
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(bytes(offset) + raw).rstrip(b"=")
            written.add(text[(0, 2, 3)[offset] : len(text) - 1])
    return frozenset(written)


class Canaries:
    """Named secrets, and the places that they are looked for in."""

    def __init__(self) -> None:
        self._forms: dict[str, frozenset[bytes]] = {}

    def add(self, name: str, secret: str) -> str:
        """Take note of a secret; return it."""
        self._forms[name] = self._forms.get(name, frozenset()) | forms(secret)
        return secret

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._forms)

    def within(self, place: str, content: bytes) -> Iterator[tuple[str, str]]:
        """Yield (name, place) of each secret that stands in the content."""
        for name, written in self._forms.items():
            if any(form in content for form in written):
                yield name, place

    def below(self, directory: Path, allowed: Mapping[str, frozenset[str]]) -> Iterator[tuple[str, str]]:
        """Yield (name, file) of each secret in a file of a directory, but for the names `allowed` in it."""
        for path in sorted(directory.rglob("*")):
            if path.is_file() and not path.is_symlink():
                place = str(path.relative_to(directory))
                for name, _ in self.within(place, path.read_bytes()):
                    if name not in allowed.get(place, ()):
                        yield name, place
