"""Passwords of local users: Argon2id, as RFC 9106 recommends it where memory is scarce (64 MiB, three passes).

Hashing runs in a thread, one at a time in each worker (some ten a second) and with few waiting, so that strangers who
guess can use up neither the memory nor the processors.
"""

from __future__ import annotations

import base64
import secrets
import unicodedata

from anyio import CapacityLimiter, to_thread
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from mcpgw.errors import InvalidParams, RateLimited

MIN_CHARACTERS = 12
MAX_BYTES = 1024
AT_ONCE = 1
WAITING = 16

_HASHER = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)


class Passwords:
    """Makes and checks hashes in PHC form. `min_characters` is for new passwords alone."""

    def __init__(self, min_characters: int = MIN_CHARACTERS) -> None:
        self._min_characters = min_characters
        self._threads = CapacityLimiter(AT_ONCE)
        self._asked = 0
        # The hash of no password: for a user who is not there, as long a look as for one who is.
        self._nobody = _hash_of_nothing()

    async def hashed(self, password: str) -> str:
        """Return the hash of a new password. Raises InvalidParams, which never shows it."""
        if len(password) < self._min_characters or len(password.encode("utf-8", "replace")) > MAX_BYTES:
            raise InvalidParams(
                f"a password has {self._min_characters} characters at least, and {MAX_BYTES} bytes at most",
                fix="choose a longer one: a few words will do",
            )
        if len(set(password)) < 4:
            raise InvalidParams("a password of so few different characters is guessed at once", fix="choose another")
        return await to_thread.run_sync(_HASHER.hash, _normal(password), limiter=self._threads)

    async def fits(self, hashed: str | None, password: str) -> bool:
        """Whether a password is the one of this hash; of None, nobody's, it never is, and that takes as long.

        Raises RateLimited when too many are being checked.
        """
        if self._asked >= AT_ONCE + WAITING:
            raise RateLimited(
                "too many people sign in at this moment", fix="try again in a second", data={"retry_after_s": 1}
            )
        self._asked += 1
        try:
            tried = _normal(password)
            fits = await to_thread.run_sync(_verify, hashed or self._nobody, tried, limiter=self._threads)
        finally:
            self._asked -= 1
        return fits and hashed is not None


def _verify(hashed: str, password: bytes) -> bool:
    try:
        return _HASHER.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False


def _normal(password: str) -> bytes:
    """Return the bytes of a password in the one form that all keyboards come to (NIST SP 800-63B §5.1.1.2)."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "replace")


def _hash_of_nothing() -> str:
    def random(size: int) -> str:
        return base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=")

    cost = RFC_9106_LOW_MEMORY
    parameters = f"m={cost.memory_cost},t={cost.time_cost},p={cost.parallelism}"
    return f"$argon2id$v={cost.version}${parameters}${random(cost.salt_len)}${random(cost.hash_len)}"
