"""The keys that our tokens are signed with: the newest signs, older ones verify until what they signed has expired.

They stand in one file, newest first, each older one below a line that says since when it does not sign. The file is
replaced whole, and read again when it has changed, so that every worker of a running gateway follows.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, KeySetSerialization

from mcpgw.auth.keyfiles import private_file
from mcpgw.errors import UsageError

ALGORITHM = "ES256"
KEPT_S = 86_400 + 300
"""How long a key verifies after its last signature: the longest life of a token that the settings allow, and clocks."""
_FILE = "token-signing.pem"
_RETIRED = re.compile(rb"retired ([0-9]{1,12})")
_BLOCK = re.compile(rb"([^-]*)(-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----\s*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key on P-256. From `retired_at` on (Unix seconds) it verifies and does not sign."""

    key: ECKey
    pem: bytes = b""
    retired_at: int | None = None


class SigningKeys:
    """Keys on P-256: the first signs, all verify. `kid` is the RFC 7638 thumbprint."""

    def __init__(self, *keys: ECKey) -> None:
        self._path: Path | None = None
        self._seen: tuple[int, int, int] | None = None
        self._held: tuple[SigningKey, ...] = ()
        self._hold([SigningKey(key) for key in keys])

    @classmethod
    def load(cls, data_dir: Path) -> SigningKeys:
        """Return the keys in `keys/token-signing.pem`, making one at the first start. Raises UsageError."""
        path = data_dir / "keys" / _FILE
        seen = _seen(path)
        held = _read(path, private_file(path, lambda: _written([_new()])))
        made = cls(*(one.key for one in held))
        made._hold(held)
        made._path, made._seen = path, seen
        return made

    @property
    def current(self) -> ECKey:
        return self._held[0].key

    def find(self, kid: str) -> ECKey | None:
        """Return the key of this id; one that another worker has just begun to sign with is found too."""
        found = self._by_kid.get(kid)
        if found is None:
            self._follow()
            found = self._by_kid.get(kid)
        return found

    def sign(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
        """Return a JWT that our published keys verify. `header` needs `typ` alone."""
        return jwt.encode({"alg": ALGORITHM, **header, "kid": self.kid}, dict(claims), self.current, [ALGORITHM])

    def jwks(self) -> KeySetSerialization:
        """Return the public keys (RFC 7517 §5)."""
        self._follow()
        return self._published.as_dict(private=False)

    def refresh(self, now: float) -> None:
        """Follow the file, and let go of keys whose last tokens have expired; wants to be called now and then."""
        self._follow()
        kept = [one for one in self._held if _counts(one, now)]
        if len(kept) < len(self._held):
            self._hold(kept)

    def _follow(self) -> None:
        if self._path is None:
            return
        seen = _seen(self._path)
        if seen is None or seen == self._seen:
            return
        # A file that cannot be read ends nothing: what was known goes on being used, and is tried again.
        try:
            self._hold(_read(self._path, self._path.read_bytes()))
            self._seen = seen
        except (OSError, UsageError):
            return

    def _hold(self, held: Sequence[SigningKey]) -> None:
        for one in held:
            if one.key.curve_name != "P-256" or not one.key.is_private:
                raise ValueError("ES256 takes private keys on P-256 (RFC 7518 §3.4)")
        self._held = tuple(held)
        self._by_kid = {one.key.thumbprint(): one.key for one in held}
        self.kid = held[0].key.thumbprint()
        self.generation = "".join(sorted(self._by_kid)).encode()
        self._published = KeySet([_public(one.key) for one in held])


def rotate(data_dir: Path, now: float, *, at_once: bool = False) -> str:
    """Put a new key in front of the others, for all workers of a gateway that runs; return its id.

    With `at_once` the older ones go, and every token with them: for a key that others may have. Raises UsageError.
    """
    path = data_dir / "keys" / _FILE
    lock = os.open(path.with_name(f".{_FILE}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(lock) as held_lock:
        fcntl.flock(held_lock, fcntl.LOCK_EX)
        held = _read(path, private_file(path, lambda: _written([_new()])))
        older = [SigningKey(one.key, one.pem, one.retired_at or int(now)) for one in held]
        fresh = _new()
        _replace(path, _written([fresh, *(one for one in older if not at_once and _counts(one, now))]))
    return fresh.key.thumbprint()


def _counts(one: SigningKey, now: float) -> bool:
    return one.retired_at is None or now < one.retired_at + KEPT_S


def _seen(path: Path) -> tuple[int, int, int] | None:
    """Return what tells one content of a file from another, None when it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path, content: bytes) -> list[SigningKey]:
    try:
        found = [_key(pem, _RETIRED.search(before)) for before, pem in _BLOCK.findall(content)]
        if not found or found[0].retired_at is not None:
            raise ValueError("no key to sign with")
        if any(one.key.curve_name != "P-256" or not one.key.is_private for one in found):
            raise ValueError("a key of another kind")
        return found
    except (ValueError, TypeError, JoseError):
        raise UsageError(
            f"{path} is not an unencrypted private key on P-256", fix="restore it, or remove it to void all tokens"
        ) from None


def _key(pem: bytes, retired: re.Match[bytes] | None) -> SigningKey:
    return SigningKey(ECKey.import_key(pem), pem, None if retired is None else int(retired[1]))


def _new() -> SigningKey:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return SigningKey(ECKey.import_key(pem), pem)


def _written(keys: Sequence[SigningKey]) -> bytes:
    return b"".join((b"" if one.retired_at is None else b"retired %d\n" % one.retired_at) + one.pem for one in keys)


def _replace(path: Path, content: bytes) -> None:
    """Put a file in the place of another in one step; it is on the disk before that."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _public(key: ECKey) -> ECKey:
    return ECKey.import_key(key.public_key, {"kid": key.thumbprint(), "use": "sig", "alg": ALGORITHM})
