"""Whose tokens count besides our own, as the settings say."""

from __future__ import annotations

from mcpgw.auth.endpoints import Endpoints
from mcpgw.auth.fetch import AT_ONCE, Fetcher
from mcpgw.auth.issuers import Issuers
from mcpgw.clock import SystemClock
from mcpgw.config import Settings
from mcpgw.ports import Clock


def fetcher_of(settings: Settings) -> Fetcher:
    """Return a fetcher for what the settings let the gateway connect to. Each has its own places for requests."""
    return Fetcher(settings.registry.allow_networks, allow_loopback=settings.server.loopback)


def configured_issuers(settings: Settings, clock: Clock | None = None) -> Issuers | None:
    """Return the issuers of the operator's file, or None. Raises UsageError.

    They have a fetcher of their own, so that nobody else's URLs keep it busy, and one of them may use all of it.
    """
    if not settings.auth.issuers:
        return None
    fetcher = Fetcher(settings.registry.allow_networks, allow_loopback=settings.server.loopback, per_host=AT_ONCE)
    return Issuers(settings.auth.issuers, Endpoints(settings.server.base_url), fetcher, clock or SystemClock())
