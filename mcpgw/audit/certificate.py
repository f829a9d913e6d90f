"""Kill certificates: what proves, long after, that a switch was obeyed from a known place of every log on.

`kills/{id}.json` holds one sealed line (see seal.py) whose members are sorted by name at every depth, but for
`signature` at the end. So a certificate that came over the API, laid out anew, can be brought into the signed form.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from mcpgw.audit.keys import PublicKey, Signer
from mcpgw.audit.seal import is_sealed, seal
from mcpgw.domain import KillSwitch
from mcpgw.errors import UsageError
from mcpgw.ports import Ack

log = logging.getLogger("mcpgw.audit")
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Acknowledged(msgspec.Struct, frozen=True):
    """From `position` of `log` on, `worker` wrote no intent that the switch matches."""

    worker: str
    log: str
    position: int
    epoch: int
    cut: list[str]
    may_have_taken_effect: list[str]


class Certificate(msgspec.Struct, frozen=True):
    version: int
    type: str
    id: str
    time: float
    epoch: int
    switch: KillSwitch
    acknowledged: list[Acknowledged]
    may_have_taken_effect: list[str]
    key_id: str
    signature: str


def certify(
    signer: Signer, switch: KillSwitch, epoch: int, acks: Sequence[Ack], in_flight: Sequence[str], time: float
) -> dict[str, Any]:
    """Return the signed certificate of a switch that every live worker has applied.

    `in_flight` are the actions that had been handed over and not finished: they may have taken effect.
    """
    body = {
        "version": 1,
        "type": "kill",
        "id": switch.id,
        "time": time,
        "epoch": epoch,
        "switch": asdict(switch),
        "acknowledged": [asdict(ack) for ack in acks],
        "may_have_taken_effect": list(in_flight),
        "key_id": signer.key_id,
    }
    certificate: dict[str, Any] = msgspec.json.decode(seal(msgspec.json.encode(body, order="sorted"), signer))
    return certificate


class Certificates:
    """Stores certificates; one that there is no room for stays in its answer and here, until there is."""

    def __init__(self, audit_dir: Path) -> None:
        self._audit_dir = audit_dir
        self._waiting: list[Mapping[str, Any]] = []

    def keep(self, certificate: Mapping[str, Any]) -> None:
        self._waiting.append(certificate)
        self.store()

    def store(self) -> None:
        """Store what waits, as far as there is room."""
        while self._waiting:
            try:
                store(self._audit_dir, self._waiting[0])
            except OSError as error:
                log.error("the certificate of %s waits for room: %s", self._waiting[0]["id"], error)
                return
            del self._waiting[0]


def store(audit_dir: Path, certificate: Mapping[str, Any]) -> Path:
    """Keep a certificate beside the log; it is on the disk afterwards. Raises OSError."""
    path = _path(audit_dir, certificate["id"])
    path.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(_line(certificate) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    return path


def load(audit_dir: Path, switch_id: str, key: PublicKey) -> tuple[Certificate, bool]:
    """Return the certificate of a switch, and whether its signature holds. Raises UsageError."""
    path = _path(audit_dir, switch_id)
    try:
        held = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        certificate = msgspec.convert(held, Certificate)
    except FileNotFoundError:
        raise UsageError(f"there is no certificate {path}", fix="`mcpgw kills` lists the switches") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a certificate: {error}", fix="take it from the gateway") from None
    return certificate, is_sealed(_line(held), key)


def _line(certificate: Mapping[str, Any]) -> bytes:
    """Return the signed form of a certificate."""
    body = {name: value for name, value in certificate.items() if name != "signature"}
    signed = msgspec.json.encode(body, order="sorted").removesuffix(b"}")
    return signed + b',"signature":' + msgspec.json.encode(certificate["signature"]) + b"}"


def _path(audit_dir: Path, switch_id: str) -> Path:
    if _ID.fullmatch(switch_id) is None:
        raise UsageError(f"`{switch_id[:64]}` is not the id of a kill switch", fix="`mcpgw kills` lists them")
    return audit_dir / "kills" / f"{switch_id}.json"
