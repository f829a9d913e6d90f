"""The keys of the log: what checkpoints are signed with, and what arguments are digested with."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mcpgw.errors import UsageError

PUBLIC_KEY = "public-key.pem"


class PublicKey:
    """What a reviewer checks signatures with. `key_id` is the start of the SHA-256 of the raw key."""

    __slots__ = ("_key", "key_id", "pem")

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        self.key_id = hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]
        self.pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    @classmethod
    def load(cls, audit_dir: Path) -> PublicKey:
        """Return the key that lies beside the log. Raises UsageError."""
        path = audit_dir / PUBLIC_KEY
        try:
            key = serialization.load_pem_public_key(path.read_bytes())
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}", fix="name the audit directory") from None
        except ValueError:
            raise UsageError(f"{path} is not a PEM key", fix="take it from the gateway's audit directory") from None
        if not isinstance(key, Ed25519PublicKey):
            raise UsageError(f"{path} is not an Ed25519 key", fix="take it from the gateway's audit directory")
        return cls(key)

    def signed(self, message: bytes, signature: bytes) -> bool:
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class Signer:
    """Signs checkpoints and certificates with Ed25519."""

    __slots__ = ("_key", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    @classmethod
    def load_or_create(cls, keys_dir: Path, audit_dir: Path) -> Signer:
        """Return the signer of this gateway; its public key lies in `audit_dir` afterwards.

        Raises UsageError when the private key is readable by others, or the public key there belongs to another one:
        the log was signed by someone else, and going on would look like a forgery.
        """
        path = keys_dir / "audit-signing.pem"
        try:
            key = serialization.load_pem_private_key(_secret(path, _fresh_pem), password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError(f"{path} is not an Ed25519 key in PEM", fix="restore it from a backup")
        signer = cls(key)
        audit_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        public = audit_dir / PUBLIC_KEY
        if not public.exists():
            _publish(public, signer.public.pem, mode=0o644)
        if public.read_bytes() != signer.public.pem:
            raise UsageError(
                f"{public} is not the public half of {path}",
                fix="restore the signing key, or move the old audit directory away",
            )
        return signer

    @property
    def key_id(self) -> str:
        return self.public.key_id

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


class Digester:
    """Digests argument values so that equal ones can be found, and none guessed without the key."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise UsageError("the audit digest key is not 32 bytes long", fix="restore keys/audit-digest.key")
        self._key = key

    @classmethod
    def load_or_create(cls, keys_dir: Path) -> Digester:
        return cls(_secret(keys_dir / "audit-digest.key", lambda: os.urandom(32)))

    def digest(self, arguments: bytes) -> str:
        """Return keyed BLAKE2b-256 in hex."""
        return hashlib.blake2b(arguments, key=self._key, digest_size=32).hexdigest()


def _fresh_pem() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _secret(path: Path, fresh: Callable[[], bytes]) -> bytes:
    """Return what the file holds; made with mode 0600 when it is missing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        _publish(path, fresh(), mode=0o600)
    if path.stat().st_mode & 0o077:
        raise UsageError(f"{path} can be read by others", fix=f"chmod 600 {path}")
    return path.read_bytes()


def _publish(path: Path, content: bytes, *, mode: int) -> None:
    """Put a whole file there, durable, unless another process was first."""
    fd, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        pass  # The winner's file is as good, and ours was never seen.
    finally:
        os.unlink(temporary)
