"""Signed JSON objects: one line whose last member is the signature over the exact bytes before it.

{"version":1,…,"key_id":"0123456789abcdef","signature":"<base64 of 64 bytes>"}
└──────────────── signed with Ed25519 ──┘
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any

import msgspec

from mcpgw.audit.keys import PublicKey, Signer
from mcpgw.errors import UsageError

_MARK = b',"signature":"'


def seal(body: bytes, signer: Signer) -> bytes:
    """Return the JSON object `body` with its signature, without a line feed."""
    signed = body.removesuffix(b"}")
    return signed + _MARK + base64.b64encode(signer.sign(signed)) + b'"}'


def is_sealed(line: bytes, key: PublicKey) -> bool:
    signed, mark, rest = line.rpartition(_MARK)
    if not mark or not rest.endswith(b'"}'):
        return False
    try:
        signature = base64.b64decode(rest[:-2], validate=True)
    except binascii.Error:
        return False
    return key.signed(signed, signature)


def sha256_of(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def compact(text: bytes, source: str) -> bytes:
    """Return a JSON object in the form that was signed, however a copy of it was laid out. Raises UsageError.

    Only white space and escapes may differ; the order of the members is part of what was signed.
    """
    try:
        value: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"{source} is not a signed JSON object", fix="give the line as the gateway handed it out")
    return msgspec.json.encode(value)
