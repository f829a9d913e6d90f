"""A JWS in compact serialization (RFC 7515 §7.1), read in one way only."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from mcpgw.auth.strict_object import read_object

Key = RSAKey | ECKey | OKPKey

MAX_CHARACTERS = 8192
# Asymmetric alone (RFC 8725 §3.1), each with the keys that it works with: `kty`, and `crv` where there are curves.
ALGORITHMS: Mapping[str, tuple[str, str | None]] = {
    **{f"{family}{bits}": ("RSA", None) for family in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "Ed25519": ("OKP", "Ed25519"),
    "EdDSA": ("OKP", "Ed25519"),  # the name that RFC 9864 deprecates
}
# They would name the key to trust (RFC 8725 §3.10), or ask for what is not done here.
UNTRUSTED = frozenset({"jku", "x5u", "jwk", "x5c", "crit", "b64", "zip", "enc"})
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


class Compact:
    """Header, claims and signature of a token; nothing is verified before `signed_by` says so."""

    __slots__ = ("_message", "_signature", "claims", "header")

    def __init__(self, token: str, max_characters: int = MAX_CHARACTERS) -> None:
        """Take a token apart. Raises ValueError: it is too long, not three parts of base64url, or not JSON objects."""
        if len(token) > max_characters:
            raise ValueError("longer than any token that is read here")
        head, body, signature = token.split(".")
        self.header = read_object(_decoded(head))
        self.claims = read_object(_decoded(body))
        self._message = token.rpartition(".")[0].encode()
        self._signature = _decoded(signature)

    def text(self, name: str) -> str | None:
        """Return a member of the header, or None when it is missing or no string."""
        value: Any = self.header.get(name)
        return value if isinstance(value, str) else None

    def signed_by(self, key: Key, algorithm: str) -> bool:
        """Whether the signature is that of this key, in an algorithm that the caller expects and the header names."""
        kty, curve = ALGORITHMS[algorithm]
        fits = key.key_type == kty and (isinstance(key, RSAKey) or key.curve_name == curve)
        if not fits or self.header.get("alg") != algorithm:
            return False
        signer = jws.JWSRegistry.algorithms["Ed25519" if algorithm == "EdDSA" else algorithm]
        return signer.verify(self._message, self._signature, key)


def _decoded(part: str) -> bytes:
    """Return the bytes of base64url in its one spelling: unpadded, without surplus bits (RFC 4648 §3.5)."""
    if not _BASE64URL.fullmatch(part):
        raise ValueError("not base64url")
    raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != part:
        raise ValueError("base64url in another spelling")
    return raw
