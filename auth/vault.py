"""Secrets at rest: records of `auth` whose bodies are sealed, each with a key of its own (envelope encryption).

A body is `MAGIC | key id | nonce | wrapped data key | nonce | text`, both ciphers AES-256-GCM. Both are bound to the
table, kind, id, owner and column that they stand in, so neither opens in another record. To rotate the vault's key is
to wrap the data keys anew: the text stays, and who reads meanwhile reads the same.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcpgw.auth.vault_keys import ID_BYTES, KEY_BYTES, VaultKey, VaultKeys
from mcpgw.errors import Conflict, Internal, Unavailable, UsageError
from mcpgw.ports import Record, Records

NEVER = 253_402_300_799.0
"""The end of the year 9999: when what is kept until it is removed expires."""
UPSTREAM, CONNECT, CLIENT, SECRET, PROVIDER = "upstream", "connect", "upstream_client", "secret", "provider"
"""Tokens towards upstreams, states of an authorization there, our registrations there, named secrets, and what the
identity provider of a user gave at the sign-in."""
SEALED = frozenset({UPSTREAM, CONNECT, CLIENT, SECRET, PROVIDER})
USED = "vault_key"
"""Kind of the records, not sealed, that say which keys have sealed something."""

_MAGIC = b"mv1"
_NONCE_BYTES = 12
_TAG_BYTES = 16
_WRAPPED_AT = len(_MAGIC) + ID_BYTES + _NONCE_BYTES
_TEXT_AT = _WRAPPED_AT + KEY_BYTES + _TAG_BYTES
_TABLE = "auth_records"
_PAGE = 200
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did: the id of the key that seals now, and the records whose data keys were wrapped anew."""

    key_id: str
    records: int


class Vault:
    """Sealed records, the same for all workers. Every method raises Unavailable; kinds are those of `SEALED`."""

    def __init__(self, records: Records, keys: VaultKeys) -> None:
        self._records = records
        self._keys = keys
        self._noted: set[bytes] = set()

    async def check(self) -> None:
        """Raise UsageError when something is sealed with a key that is not there."""
        for used in await self._records.of(USED, USED):
            key_id = bytes.fromhex(used.id)
            if self._keys.find(key_id) is None and await self._needs(key_id):
                raise UsageError(
                    f"secrets are sealed with the vault key {used.id}, which is not in {self._keys.place}",
                    fix="put that key back, behind the one that is to seal; or remove the records and connect anew",
                )

    async def get(self, kind: str, id: str) -> bytes | None:
        record = await self._records.get(_sealed(kind), id)
        return None if record is None else self._opened(record)

    async def of(self, kind: str, owner: str) -> Sequence[tuple[str, bytes]]:
        """Return (id, text) of the owner's records of a kind."""
        return [(record.id, self._opened(record)) for record in await self._records.of(_sealed(kind), owner)]

    async def ids(self, kind: str) -> Sequence[tuple[str, str]]:
        """Return (id, owner) of all records of a kind."""
        return [(record.id, record.owner) async for record in self._all(_sealed(kind))]

    async def put(self, kind: str, id: str, owner: str, plain: bytes, expires_at: float) -> None:
        """Keep a secret in the place of what is there."""
        for _ in range(_ATTEMPTS):
            fresh = await self._new(_sealed(kind), id, owner, plain, expires_at)
            held = await self._records.get(kind, id)
            if held is None and await self._records.put(fresh):
                return
            if held is not None and await self._records.replace(replace(fresh, revision=held.revision)):
                return
        raise Conflict("others keep changing this record of the vault", fix="try again")

    async def swap(self, kind: str, id: str, held: bytes, plain: bytes, expires_at: float) -> bool:
        """Put a secret in the place of `held`; False, and nothing changed, when that is not there any more.

        A rotation in between changes nothing of that.
        """
        for _ in range(_ATTEMPTS):
            record = await self._records.get(_sealed(kind), id)
            if record is None or self._opened(record) != held:
                return False
            fresh = await self._new(kind, id, record.owner, plain, expires_at)
            if await self._records.replace(replace(fresh, revision=record.revision)):
                return True
        raise Conflict("others keep changing this record of the vault", fix="try again")

    async def take(self, kind: str, id: str) -> bytes | None:
        """Remove a secret and return it: of all who ask for it, one gets it."""
        record = await self._records.take(_sealed(kind), id)
        return None if record is None else self._opened(record)

    async def drop(self, kind: str, owner: str) -> int:
        """Remove the owner's secrets of a kind; return how many there were."""
        return await self._records.drop(_sealed(kind), owner)

    async def rotate(self) -> Rotation:
        """Seal with the newest key from now on, and wrap with it every data key that another one wraps.

        Where the keys are in a file of the gateway's own, a new one is made first. The key before it stays readable:
        another worker may just be sealing with it.
        """
        key, count = self._keys.renew(), 0
        for kind in sorted(SEALED):
            async for record in self._all(kind):
                count += await self._rewrap(record, key)
        self._keys.retire()
        for used in await self._records.of(USED, USED):
            if self._keys.find(bytes.fromhex(used.id)) is None:
                await self._records.take(USED, used.id)
        return Rotation(key.id.hex(), count)

    async def _rewrap(self, found: Record, key: VaultKey) -> bool:
        record: Record | None = found
        while record is not None and _key_id(record.body) != key.id:
            wrapped = _wrap(key, self._data_key(record), record)
            await self._note(key)
            fresh = replace(record, body=wrapped + record.body[_TEXT_AT:])
            if await self._records.replace(fresh):
                return True
            record = await self._records.get(record.kind, record.id)
        return False

    async def _all(self, kind: str) -> AsyncIterator[Record]:
        after = ""
        while page := await self._records.page(kind, after, _PAGE):
            for record in page:
                yield record
            after = page[-1].id

    async def _needs(self, key_id: bytes) -> bool:
        for kind in sorted(SEALED):
            async for record in self._all(kind):
                if _key_id(record.body) == key_id:
                    return True
        return False

    async def _new(self, kind: str, id: str, owner: str, plain: bytes, expires_at: float) -> Record:
        empty = Record(kind=kind, id=id, owner=owner, body=b"", expires_at=expires_at)
        key, data_key, nonce = self._keys.current(), os.urandom(KEY_BYTES), os.urandom(_NONCE_BYTES)
        await self._note(key)
        text = AESGCM(data_key).encrypt(nonce, plain, _place(empty, "text"))
        return replace(empty, body=_wrap(key, data_key, empty) + nonce + text)

    async def _note(self, key: VaultKey) -> None:
        """Say, before it happens, that this key seals something."""
        if key.id not in self._noted:
            await self._records.put(Record(kind=USED, id=key.id.hex(), owner=USED, body=b"", expires_at=NEVER))
            self._noted.add(key.id)

    def _opened(self, record: Record) -> bytes:
        data_key, sealed = self._data_key(record), record.body[_TEXT_AT:]
        try:
            return AESGCM(data_key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _place(record, "text"))
        except (InvalidTag, ValueError):
            raise _does_not_open(record) from None

    def _data_key(self, record: Record) -> bytes:
        key = self._keys.find(_key_id(record.body))
        if key is None:
            raise Unavailable(
                f"a record of the vault ({record.kind}) is sealed with a key that is not there",
                fix=f"put the key back into {self._keys.place}",
            )
        nonce = record.body[_WRAPPED_AT - _NONCE_BYTES : _WRAPPED_AT]
        try:
            return AESGCM(key.secret).decrypt(nonce, record.body[_WRAPPED_AT:_TEXT_AT], _place(record, "key"))
        except (InvalidTag, ValueError):
            raise _does_not_open(record) from None


def _wrap(key: VaultKey, data_key: bytes, record: Record) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return _MAGIC + key.id + nonce + AESGCM(key.secret).encrypt(nonce, data_key, _place(record, "key"))


def _place(record: Record, column: str) -> bytes:
    """Return what a ciphertext is bound to; the lengths keep apart what would read alike when joined."""
    names = (_TABLE, record.kind, record.id, record.owner, column)
    return b"".join(b"%d:%b" % (len(raw), raw) for raw in map(str.encode, names))


def _key_id(body: bytes) -> bytes:
    return body[len(_MAGIC) : len(_MAGIC) + ID_BYTES] if body.startswith(_MAGIC) else b""


def _sealed(kind: str) -> str:
    if kind not in SEALED:
        raise Internal(f"records of the kind {kind} are not the vault's")
    return kind


def _does_not_open(record: Record) -> Unavailable:
    return Unavailable(
        f"a record of the vault ({record.kind}) does not open: it was changed, or stands in another's place",
        fix="restore the database, or connect the server again",
    )
