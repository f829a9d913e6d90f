"""What a page of ours carries from one request to the next: sealed, for one purpose, one browser and a few minutes."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import TypeVar

import msgspec

from mcpgw.ports import Clock, Record, Records
from mcpgw.seals import Seals

LIFE_S = 600.0
ONCE = "once"
"""Kind of the records of what has been answered."""
ANYONE = ""
"""The browser of a value that is no secret from any: it says what is asked, and nothing of who asks."""
_MAX_TEXT = 16_384
T = TypeVar("T")


class _Form(msgspec.Struct, frozen=True):
    id: str
    browser: bytes
    expires_at: float
    content: bytes


class Forms:
    """Makes and reads such values. A browser is known by the value of a cookie that nobody else can read or set."""

    def __init__(self, seals: Seals, records: Records, clock: Clock) -> None:
        self._seals = seals
        self._records = records
        self._clock = clock

    def made(self, purpose: str, browser: str, content: object) -> str:
        """Return a value that says `content`, a thing that msgspec can encode."""
        form = _Form(
            id=secrets.token_urlsafe(16),
            browser=_digest(browser),
            expires_at=self._clock.time() + LIFE_S,
            content=msgspec.msgpack.encode(content),
        )
        return self._seals.seal(_kind(purpose), msgspec.msgpack.encode(form))

    def read(self, purpose: str, browser: str | None, text: str, kind: type[T]) -> T | None:
        """Return what a value says; None when it is another's, another page's, too old, or none of ours."""
        form = self._opened(purpose, browser, text)
        return None if form is None else msgspec.msgpack.decode(form.content, type=kind)

    async def take(self, purpose: str, browser: str | None, text: str, kind: type[T]) -> T | None:
        """Return what a value says, to the first who asks, whichever worker."""
        form = self._opened(purpose, browser, text)
        if form is None:
            return None
        spent = Record(kind=ONCE, id=f"form:{form.id}", owner=purpose, body=b"", expires_at=form.expires_at)
        return msgspec.msgpack.decode(form.content, type=kind) if await self._records.put(spent) else None

    def _opened(self, purpose: str, browser: str | None, text: str) -> _Form | None:
        sealed = self._seals.open(_kind(purpose), text) if browser is not None and len(text) <= _MAX_TEXT else None
        if sealed is None or browser is None:
            return None
        form = msgspec.msgpack.decode(sealed.payload, type=_Form)
        mine = hmac.compare_digest(form.browser, _digest(browser))
        return form if mine and self._clock.time() < form.expires_at else None


def _kind(purpose: str) -> bytes:
    return b"form:" + purpose.encode()


def _digest(browser: str) -> bytes:
    return hashlib.sha256(browser.encode()).digest()
