"""One server process: how it is started and ended, and the frames between it and us.

A frame is one JSON-RPC message on one line. See docs/adr/0005-stdio-framing.md for why this is not the SDK's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import cast

from mcpgw.config import LimitsSection, StdioServer
from mcpgw.errors import UpstreamFailed, UpstreamUnreachable
from mcpgw.ports import Gate
from mcpgw.upstream.frames import Frames
from mcpgw.upstream.mcp_parts import Message, read_message
from mcpgw.upstream.stdio_log import ErrorLines
from mcpgw.upstream.stdio_start import Guard, limited

log = logging.getLogger("mcpgw.stdio")

TERM_S = 2.0  # between SIGTERM and SIGKILL
EXIT_S = 0.2  # from the end of its output to that of the process
LINGER_S = 1.0  # for output after the process has ended: what it left running is killed, but may have escaped


class StdioProcess(asyncio.SubprocessProtocol):
    """A running server process."""

    def __init__(self, name: str, limits: LimitsSection, told: Callable[[Message], None], guard: Guard) -> None:
        self.name = name
        self.frames = Frames(name, self.write, told, self._failure)
        self.why_ended = ""
        self.stopped = False  # by us
        self.exit_code: int | None = None
        self._limits = limits
        self._guard = guard
        self._errors = ErrorLines(name)
        self._line = bytearray()
        self._writing = asyncio.Lock()
        self._room = asyncio.Event()
        self._room.set()
        self._loop = asyncio.get_running_loop()
        self._deaf = False  # its standard output has ended
        self._exited: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.SubprocessTransport
        self._stdin: asyncio.WriteTransport

    @classmethod
    async def start(
        cls,
        server: StdioServer,
        environment: Mapping[str, str],
        limits: LimitsSection,
        told: Callable[[Message], None],
        guard: Guard,
    ) -> StdioProcess:
        """Start the exact command of the configuration; `told` hears its notifications. Raises UpstreamUnreachable."""
        loop = asyncio.get_running_loop()
        try:
            guarded = guard.fd()
            _, process = await loop.subprocess_exec(
                lambda: cls(server.name, limits, told, guard),
                *limited(server.command, server.limits, guarded),
                env=environment,
                cwd=server.cwd,
                start_new_session=True,  # a group of its own, so that all of it can be ended
                pass_fds=(guarded,),
            )
        except (OSError, ValueError) as error:
            raise UpstreamUnreachable(
                f"the process of `{server.name}` cannot be started", fix="see the gateway's log", cause=error
            ) from error
        return process

    # The life of the process

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        # Writing pauses whenever a byte is left over: a frame begins on an empty buffer, or not at all.
        self._stdin.set_write_buffer_limits(high=0)
        self._guard.began(self._transport.get_pid())

    @property
    def running(self) -> bool:
        return not (self._deaf or self._exited.done() or self._ended.done())

    def process_exited(self) -> None:
        if not self._exited.done():
            self._exited.set_result(None)
        self.exit_code = self._transport.get_returncode()
        self.why_ended = self.why_ended or _exit(self.exit_code)
        self._signal(signal.SIGKILL)  # what it has left behind in its group
        self._guard.ended(self._transport.get_pid())
        if self._deaf:
            self._end()
        self._loop.call_later(LINGER_S, self._close)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 0:
            self._room.set()
        elif fd == 1:
            self._deaf = True
            if self._exited.done():
                self._end()
            else:
                self._loop.call_later(EXIT_S, self._end_deaf)

    def _end_deaf(self) -> None:
        """A process that has closed its output, and has not exited, has nothing more to say to us."""
        if not self._exited.done():
            self.why_ended = self.why_ended or "closed its output"
            self._signal(signal.SIGTERM)
            self._loop.call_later(TERM_S, self._kill)
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        if not self._closed.done():
            self._closed.set_result(None)

    async def stop(self) -> None:
        """End the process and all it has started: SIGTERM, and after TERM_S SIGKILL."""
        if self.running:
            self.stopped = True
            self.why_ended = "was stopped"
        self._stdin.close()
        if not self._exited.done():
            self._signal(signal.SIGTERM)
            await asyncio.wait((self._exited,), timeout=TERM_S)
            self._kill()
            await asyncio.wait((self._exited,))
        self._close()
        await asyncio.wait((self._closed,))
        await self.frames.replied()

    async def ended(self) -> None:
        """Return when the process has ended, or can no longer be heard."""
        await asyncio.wait((self._ended,))

    def _kill(self) -> None:
        if not self._exited.done():
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._transport.get_pid(), number)

    def _close(self) -> None:
        self._end()
        self._transport.close()

    def _end(self) -> None:
        """Let go of everybody who waits for this process."""
        if not self._ended.done():
            self._ended.set_result(None)
            self._room.set()
            self.frames.end()

    # What we write

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    async def write(self, frame: bytes, gate: Gate, request_id: int = 0) -> None:
        """Write one frame, whole, as soon as the one before it is out; `gate` is called in the step that writes it.

        Raises UpstreamUnreachable when nothing was written, and what `gate` raises.
        """
        async with self._writing:
            await self._room.wait()  # a writer that was cancelled may have left a rest
            if not self.running or self._stdin.is_closing():
                raise UpstreamUnreachable(
                    f"the process of `{self.name}` {self.why_ended or 'has ended'}",
                    fix="see the gateway's log",
                    data={"cause": "process_ended"},
                )
            gate()
            self._stdin.write(frame + b"\n")
            await self._room.wait()

    def _failure(self) -> UpstreamFailed:
        return UpstreamFailed(
            f"the process of `{self.name}` {self.why_ended}",
            fix="the call may have taken effect: see the gateway's log",
            data={"cause": "process_ended"},
        )

    # What we read

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            pipe = cast(asyncio.ReadTransport, self._transport.get_pipe_transport(2))
            self._errors.feed(data, pipe)
            return
        if self._ended.done():
            return
        *lines, rest = data.split(b"\n")
        if lines and self._line:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
        for line in lines:
            self._received(line)
        self._line += rest
        if len(self._line) > self._limits.result_bytes:
            self._refuse_line()

    def _refuse_line(self) -> None:
        """A line without end: whatever comes after it cannot be told apart from it."""
        self.why_ended = f"sent a line of more than {self._limits.result_bytes} bytes, and was ended"
        self._line.clear()
        self._end()
        self._signal(signal.SIGKILL)

    def _received(self, line: bytes) -> None:
        line = line.strip()
        if not line:
            return
        message = read_message(line)
        if message is None:
            log.warning("%s wrote %d bytes to its standard output that are no JSON-RPC message", self.name, len(line))
        else:
            self.frames.received(message)


def _exit(code: int | None) -> str:
    if code is None:
        return "ended"
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
