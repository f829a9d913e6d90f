"""Connections to addresses that have been vetted already, and to no others: nothing is resolved here."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Any

Place = tuple[int, tuple[Any, ...]]
"""Family and address of a socket."""


async def connected(family: int, address: object) -> socket.socket:
    """Return a socket that is connected to this very address. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    done = False
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)  # type: ignore[arg-type]  # as the family has it
        done = True
    finally:
        if not done:
            sock.close()
    return sock


async def first_connected(places: Sequence[Place], within_s: float) -> socket.socket:
    """Return a socket connected to the first of these places that accepts one; each gets its part of the time.

    Raises OSError, of which TimeoutError is one.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    failure: OSError = TimeoutError()
    for left, (family, address) in zip(range(len(places), 0, -1), places, strict=True):
        try:
            async with asyncio.timeout((until - loop.time()) / left):
                return await connected(family, address)
        except OSError as error:
            failure = error
    raise failure


def tls_context() -> ssl.SSLContext:
    """Return what servers prove their names to. Building one costs 25 ms of CPU: once, and not on a loop."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
