"""Values that clients carry for us and cannot read, change or make: session ids, states of held calls, task ids.

Each names the worker that made it, so that any worker can pass a request on without shared state. Possession proves
nothing: what a value is bound to stands inside it, and is compared with the caller.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12
_WORKER_BYTES = 2


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a value says: the worker that made it, and what that worker put into it."""

    worker: int
    payload: bytes = b""


class Seals:
    """Makes and opens the sealed values of one machine. `key` is 32 bytes, the same in all its workers."""

    def __init__(self, key: bytes, worker: int) -> None:
        self._seal = AESGCM(key)
        self.worker = worker
        self._made_by = worker.to_bytes(_WORKER_BYTES, "big")

    def seal(self, kind: bytes, payload: bytes = b"") -> str:
        """Return a value of this kind, in URL-safe characters; a value of one kind does not open as another."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._seal.encrypt(nonce, self._made_by + payload, kind)
        return base64.urlsafe_b64encode(nonce + sealed).decode().rstrip("=")

    def open(self, kind: bytes, text: str) -> Sealed | None:
        """Return what a value of this kind says; None for anything that is not one of ours."""
        try:
            sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            plain = self._seal.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], kind)
        except (ValueError, InvalidTag):
            return None
        return Sealed(int.from_bytes(plain[:_WORKER_BYTES], "big"), plain[_WORKER_BYTES:])
