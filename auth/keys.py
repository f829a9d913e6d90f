"""API keys: `mcpgw_<id>_<secret>`, of which only a keyed digest is stored.

The secret is 43 random base-62 characters (256 bits), so a fast keyed hash is enough, followed by 6 that are the CRC-32
of everything before them: scanners of leaked secrets recognise a key for certain, and a typing error has a name.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
import zlib
from collections.abc import Collection

from mcpgw.auth.keyfiles import private_file
from mcpgw.auth.scopes import check_roles
from mcpgw.config import Settings, secret
from mcpgw.domain import ApiKey
from mcpgw.errors import UsageError

PREFIX = "mcpgw_"
CLIENT_LABEL = "client"
"""Stands in the place of the id in a client's secret; shorter than any id."""
PEPPER_BYTES = 32

_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: nothing in it is mistaken for another
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SHAPE = re.compile(r"mcpgw_(?:[0-9a-hjkmnp-tv-z]{12}|client)_[0-9A-Za-z]{43}[0-9A-Za-z]{6}")


def pepper(settings: Settings) -> bytes:
    """Return the secret that keys are hashed with, making it at the first start. Raises UsageError."""
    if settings.auth.pepper is not None:
        found, where = secret(settings.auth.pepper).encode(), "auth.pepper"
    else:
        path = settings.data_dir / "keys" / "pepper"
        found, where = private_file(path, lambda: secrets.token_hex(PEPPER_BYTES).encode()).strip(), str(path)
    if len(found) < PEPPER_BYTES:
        raise UsageError(
            f"the pepper of {where} is shorter than {PEPPER_BYTES} bytes", fix="make one with: openssl rand -hex 32"
        )
    return found


def digest(pepper: bytes, secret: str) -> str:
    """Return HMAC-SHA256(pepper, secret) in hex."""
    return hmac.digest(pepper, secret.encode(), "sha256").hex()


def new_id() -> str:
    """Return 12 characters (60 bits): public, and never the same twice."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(12))


def new_secret(label: str) -> tuple[str, str]:
    """Return (`mcpgw_<label>_<secret>`, secret)."""
    body = f"{PREFIX}{label}_" + "".join(secrets.choice(_BASE62) for _ in range(43))
    text = body + _checksum(body)
    return text, text.rpartition("_")[2]


def new_password() -> str:
    """Return 20 characters (100 bits) in four groups: for people to type, once."""
    groups = ("".join(secrets.choice(_ID_ALPHABET) for _ in range(5)) for _ in range(4))
    return "-".join(groups)


def new_key(
    pepper: bytes,
    *,
    subject: str,
    roles: Collection[str],
    created_by: str,
    created_at: float,
    team: str | None = None,
    expires_at: float | None = None,
) -> tuple[ApiKey, str]:
    """Return a new key and its text, which is shown once and kept nowhere. Raises InvalidParams."""
    key_id = new_id()
    text, own_secret = new_secret(key_id)
    key = ApiKey(
        id=key_id,
        digest=digest(pepper, own_secret),
        subject=subject,
        roles=check_roles(roles),
        created_by=created_by,
        created_at=created_at,
        team=team,
        expires_at=expires_at,
    )
    return key, text


def well_formed(text: str) -> bool:
    """Whether the checksum fits; says nothing of whether the key exists."""
    return _SHAPE.fullmatch(text) is not None and _checksum(text[:-6]) == text[-6:]


def _checksum(body: str) -> str:
    rest, letters = zlib.crc32(body.encode()), ""
    for _ in range(6):
        rest, digit = divmod(rest, 62)
        letters = _BASE62[digit] + letters
    return letters
