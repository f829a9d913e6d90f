"""Large inputs are evaluated in a process that can be ended.

The budget counts instructions, and one instruction may compare a long list of the caller's with everything in another:
256 KB of input can hold a thread for half a minute. In 4 KB there is no room for that.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import struct
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any, BinaryIO

import anyio.to_thread

import mcpgw
from mcpgw.domain import Decision
from mcpgw.policies import output
from mcpgw.policies.bundle import Bundle

ON_LOOP_BYTES = 4096
DEADLINE_S = 0.5
START_S = 10.0
_LENGTH = struct.Struct(">I")


class Aside:
    """Evaluates documents of one bundle, one after the other, in a process that is started for the first of them."""

    def __init__(self, bundle: Bundle, max_input_bytes: int) -> None:
        self._given = {"files": dict(bundle.files), "max_input_bytes": max_input_bytes}
        self._sha256 = bundle.sha256
        self._turn = asyncio.Lock()
        self._running: list[subprocess.Popen[bytes]] = []
        weakref.finalize(self, _end, self._running)

    async def evaluate(self, document: bytes) -> Decision:
        """Return the decision on an input document in JSON, a deny when there is none in time."""
        async with self._turn:
            return await anyio.to_thread.run_sync(self._exchange, document)

    def _exchange(self, document: bytes) -> Decision:
        try:
            if not self._running:
                self._start()
            return output.read_text(self._asked(document, DEADLINE_S).decode(), self._sha256)
        except TimeoutError:
            _end(self._running)
            return output.refusal(output.EXHAUSTED, self._sha256)
        except (OSError, EOFError, UnicodeDecodeError):
            _end(self._running)
            return output.refusal(output.ERROR, self._sha256)

    def _start(self) -> None:
        self._running.append(
            subprocess.Popen(
                # -P: nothing in the working directory can take a module's place.
                [sys.executable, "-P", "-m", "mcpgw.policies.task", "serve"],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment(),
                start_new_session=True,  # ended by us, not by a key
            )
        )
        self._asked(json.dumps(self._given).encode(), START_S)

    def _asked(self, frame: bytes, within_s: float) -> bytes:
        """Return the answer to a frame. Raises TimeoutError, EOFError, OSError."""
        process = self._running[0]
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - both are pipes
        write_frame(process.stdin, frame)
        deadline = time.monotonic() + within_s
        (length,) = _LENGTH.unpack(_read(process.stdout.fileno(), _LENGTH.size, deadline))
        return _read(process.stdout.fileno(), length, deadline)


def environment() -> dict[str, str]:
    """Return all that such a process gets of ours: where this package is."""
    return {"PYTHONPATH": str(Path(mcpgw.__file__).parents[1])}


def write_frame(to: Any, frame: bytes) -> None:
    """Write a frame whole, with its length before it."""
    left = memoryview(_LENGTH.pack(len(frame)) + frame)
    while left:
        left = left[to.write(left) :]


def read_frame(source: BinaryIO) -> bytes | None:
    """Return the next frame, or None at the end."""
    head = source.read(_LENGTH.size)
    return source.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else None


def _read(source: int, size: int, deadline: float) -> bytes:
    waiting = select.poll()
    waiting.register(source, select.POLLIN)
    parts = bytearray()
    while len(parts) < size:
        left_ms = (deadline - time.monotonic()) * 1000
        if left_ms <= 0 or not waiting.poll(left_ms):
            raise TimeoutError
        part = os.read(source, size - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def _end(running: list[subprocess.Popen[bytes]]) -> None:
    while running:
        with running.pop() as process:
            process.kill()
