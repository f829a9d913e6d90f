"""The `requestState` of a call that waits for its caller: what names it, and what its retry must be the same in.

Clients bring it back byte for byte and cannot read, change or make it. That of a held call names the worker that holds
the exchange, so that any worker can pass the retry on; that of a call whose caller has to agree to something first
(`AskedRef`) holds nothing, and any worker takes it.
"""

from __future__ import annotations

import hashlib

import msgspec

from mcpgw.domain import Action, Arguments, Judged
from mcpgw.seals import Seals

MAX_SHOWN = 8192
_KIND, _ASKED = b"mcp-held", b"mcp-asked"


class HeldRef(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One such call. `digest` is of its method, name and arguments; `until` is in Unix seconds."""

    action_id: str
    principal: str
    server: str
    version: str
    digest: bytes
    until: float

    @classmethod
    def of(cls, judged: Judged, until: float) -> HeldRef:
        version = judged.version
        return cls(
            judged.action.id,
            judged.principal.key,
            version.server if version is not None else "",
            version.version if version is not None else "",
            digest(judged),
            until,
        )

    def is_of(self, judged: Judged, now: float) -> bool:
        """Whether this is a retry of the same call, by the same principal, in time."""
        return now < self.until and HeldRef.of(judged, self.until) == msgspec.structs.replace(
            self, action_id=judged.action.id
        )


class AskedRef(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A call that was not sent: its caller had to agree to something. Members as in HeldRef."""

    action_id: str
    principal: str
    digest: bytes
    until: float

    @classmethod
    def of(cls, action: Action, principal: str, until: float) -> AskedRef:
        return cls(action.id, principal, digest_of(action, action.arguments), until)

    def is_of(self, action: Action, now: float) -> bool:
        """Whether an action is a retry of that call, in time; whether its caller is the same is `judge`'s to say."""
        return now < self.until and self.digest == digest_of(action, action.arguments)


_encode = msgspec.msgpack.encode
_decode_asked = msgspec.msgpack.Decoder(AskedRef).decode
_decode = msgspec.msgpack.Decoder(HeldRef).decode
_text = msgspec.json.Decoder(str).decode


class RequestStates:
    """Makes and reads them."""

    def __init__(self, seals: Seals) -> None:
        self._seals = seals

    def shown(self, held: HeldRef) -> str:
        return self._seals.seal(_KIND, _encode(held))

    def find(self, raw: bytes) -> HeldRef | None:
        """Return what a `requestState`, raw JSON, names; None when it is not one of ours."""
        opened = self._open(raw)
        return None if opened is None else opened[1]

    def worker_of(self, raw: bytes) -> int | None:
        """Return the worker that made it; None when it is not one of ours."""
        opened = self._open(raw)
        return None if opened is None else opened[0]

    def shown_asked(self, asked: AskedRef) -> str:
        return self._seals.seal(_ASKED, _encode(asked))

    def find_asked(self, raw: bytes) -> AskedRef | None:
        """Return what a `requestState`, raw JSON, of a call that was not sent says; None for any other."""
        try:
            opened = self._seals.open(_ASKED, _text(raw)) if len(raw) <= MAX_SHOWN else None
            return None if opened is None else _decode_asked(opened.payload)
        except msgspec.DecodeError:
            return None

    def _open(self, raw: bytes) -> tuple[int, HeldRef] | None:
        if len(raw) > MAX_SHOWN:
            return None
        try:
            opened = self._seals.open(_KIND, _text(raw))
            return None if opened is None else (opened.worker, _decode(opened.payload))
        except msgspec.DecodeError:
            return None  # not a string, or sealed by another version of ours


def digest(judged: Judged) -> bytes:
    """Return what tells this call from any other: the arguments count as they were judged, however they are written."""
    return digest_of(judged.action, judged.arguments)


def digest_of(action: Action, given: Arguments) -> bytes:
    """Return the same for an action with these arguments."""
    arguments = msgspec.json.encode(msgspec.json.decode(given.raw), order="sorted")
    named = f"{action.verb.value}\0{action.resource}\0{action.server}\0{action.name}\0"
    return hashlib.sha256(named.encode() + arguments).digest()
