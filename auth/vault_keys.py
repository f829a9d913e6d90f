"""The keys of the vault: several can be read, the first of them seals."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mcpgw.auth.keyfiles import private_file
from mcpgw.config import Settings, secret
from mcpgw.errors import UsageError

KEY_BYTES = 32
ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class VaultKey:
    """A key and its id, which is a digest of it and no secret."""

    id: bytes
    secret: bytes = field(repr=False)


class VaultKeys:
    """Keys in base64, one a line (in an environment variable: separated by spaces).

    `path` is a file: the gateway's own where `own`, which alone it writes. It is read again whenever it has changed.
    `text` stands in place of a file. Raises UsageError.
    """

    def __init__(self, *, path: Path | None = None, text: str = "", own: bool = False) -> None:
        self._path = path
        self._own = own
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[bytes, VaultKey] = {}
        self.place = str(path) if path is not None else "auth.vault.key"
        if path is None:
            self._keys = _read(text.split(), self.place)
        else:
            if own:
                private_file(path, lambda: _written([_new()]))
            self._refresh()

    @classmethod
    def load(cls, settings: Settings) -> VaultKeys:
        """Return the keys that `auth.vault.key` refers to, else those of a file made at the first start."""
        reference = settings.auth.vault.key
        if reference is None:
            return cls(path=settings.data_dir / "keys" / "vault", own=True)
        if reference.startswith("file:"):
            secret(reference)
            return cls(path=Path(reference.removeprefix("file:")).expanduser())
        return cls(text=secret(reference))

    def current(self) -> VaultKey:
        """Return the key that seals."""
        self._refresh()
        return next(iter(self._keys.values()))

    def find(self, id: bytes) -> VaultKey | None:
        if id not in self._keys:
            self._refresh()
        return self._keys.get(id)

    def renew(self) -> VaultKey:
        """Return the key that seals from now on: a new one, if the file is ours, else the first of those given."""
        if self._own:
            self._rewrite(lambda held: [_new(), *held])
        return self.current()

    def retire(self) -> None:
        """Forget all but the key that seals and the one before it; only where the file is ours."""
        if self._own:
            self._rewrite(lambda held: held[:2])

    def _refresh(self) -> None:
        if self._path is None:
            return
        try:
            now = os.stat(self._path)
            seen = (now.st_ino, now.st_mtime_ns, now.st_size)
            if seen == self._seen:
                return
            if self._own and now.st_mode & 0o077:
                raise UsageError(f"others can read the secret in {self._path}", fix=f"chmod 600 {self._path}")
            self._keys = _read(self._path.read_text(encoding="ascii").split(), self.place)
            self._seen = seen
        except (OSError, UnicodeDecodeError):
            if not self._keys:
                raise UsageError(f"cannot read the vault's keys in {self._path}", fix="check path and mode") from None
            # What is known goes on being used: a file that is just being replaced ends no call.

    def _rewrite(self, change: Callable[[Sequence[VaultKey]], Sequence[VaultKey]]) -> None:
        """Put other keys into the file in one step; of several processes one at a time."""
        path = self._path
        if path is None:
            return
        with os.fdopen(os.open(path.parent / f".{path.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._refresh()
            draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(_written(change(list(self._keys.values()))))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        self._refresh()


def _new() -> VaultKey:
    return _key(secrets.token_bytes(KEY_BYTES))


def _key(raw: bytes) -> VaultKey:
    return VaultKey(hashlib.sha256(b"mcpgw vault key" + raw).digest()[:ID_BYTES], raw)


def _written(keys: Sequence[VaultKey]) -> bytes:
    return b"".join(base64.b64encode(key.secret) + b"\n" for key in keys)


def _read(words: Sequence[str], place: str) -> dict[bytes, VaultKey]:
    keys: dict[bytes, VaultKey] = {}
    for word in words:
        try:
            raw = base64.b64decode(word, validate=True)
        except ValueError:
            raw = b""
        if len(raw) != KEY_BYTES:
            raise UsageError(
                f"{place} holds something that is not {KEY_BYTES} bytes in base64",
                fix="make a key with: openssl rand -base64 32",
            )
        key = _key(raw)
        keys[key.id] = key
    if not keys:
        raise UsageError(f"{place} holds no key", fix="make one with: openssl rand -base64 32")
    return keys
