"""What the log holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Phase(StrEnum):
    """What a record reports. Field order and names are append-only: a leaf hash covers the stored bytes."""

    INTENT = "intent"  # a call is about to be sent
    REFUSED = "refused"  # a request ended without being sent: unauthenticated, denied, killed, invalid, unavailable
    OPENED = "opened"  # a stream began
    SUSPENDED = "suspended"  # the answer asks something of the caller, and the call waits; written before it leaves
    OUTCOME = "outcome"  # the answer is known; written before it leaves
    CLOSED = "closed"  # a stream ended: bytes, events, cut by whom; or a suspended call did: by which retry, or why
    ADMIN = "admin"  # an administrator, or the gateway itself, changed state
    RECOVERED = "recovered"  # a writer started again on this log: what it found
    SHED = "shed"  # refusals that were counted instead of written one by one
    AUTH = "auth"  # our authorization server gave something out, or ended it: a token, a consent, a registration


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminNote:
    """Who changed what and why; stored in the same transaction as the change and written to the log from there."""

    id: str
    time: float
    actor: str
    action: str
    target: str
    reason: str | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
