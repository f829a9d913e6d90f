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
from dataclasses import dataclass, field
from typing import cast

import msgspec

from mcpgw.config import LimitsSection, StdioServer
from mcpgw.errors import UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from mcpgw.ports import Gate
from mcpgw.upstream.mcp_parts import Message, members, own_reply, read_message, subscription_of
from mcpgw.upstream.stdio_log import ErrorLines

log = logging.getLogger("mcpgw.stdio")

TERM_S = 2.0  # between SIGTERM and SIGKILL
EXIT_S = 0.2  # from the end of its output to that of the process
LINGER_S = 1.0  # for output after the process has ended: what it left running is killed, but may have escaped
MAX_NOTIFICATIONS = 256  # unread, of one request; more are dropped: they may be lost, answers may not
MAX_REPLIES = 16  # to requests of the server, on their way


@dataclass(slots=True)
class Pending:
    """A request that waits for its answer, and what has arrived for it."""

    id: int
    arrived: asyncio.Queue[Message | None] = field(default_factory=asyncio.Queue)

    def put(self, message: Message) -> None:
        if message.method is None or self.arrived.qsize() < MAX_NOTIFICATIONS:
            self.arrived.put_nowait(message)


class StdioProcess(asyncio.SubprocessProtocol):
    """A running server process."""

    def __init__(self, name: str, limits: LimitsSection, on_notification: Callable[[Message], None]) -> None:
        self.name = name
        self.why_ended = ""
        self.stopped = False  # by us
        self._limits = limits
        self._on_notification = on_notification
        self._errors = ErrorLines(name)
        self._pending: dict[int, Pending] = {}
        self._line = bytearray()
        self._writing = asyncio.Lock()
        self._room = asyncio.Event()
        self._room.set()
        self._replies: set[asyncio.Task[None]] = set()
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
        on_notification: Callable[[Message], None],
    ) -> StdioProcess:
        """Start the exact command of the configuration. Raises UpstreamUnreachable."""
        loop = asyncio.get_running_loop()
        try:
            _, process = await loop.subprocess_exec(
                lambda: cls(server.name, limits, on_notification),
                *server.command,
                env=environment,
                cwd=server.cwd,
                start_new_session=True,  # a group of its own, so that all of it can be ended
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

    @property
    def running(self) -> bool:
        return not (self._deaf or self._exited.done() or self._ended.done())

    def process_exited(self) -> None:
        if not self._exited.done():
            self._exited.set_result(None)
        self.why_ended = self.why_ended or _exit(self._transport.get_returncode())
        self._signal(signal.SIGKILL)  # what it has left behind in its group
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
        await asyncio.wait((self._closed, *self._replies))

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
            for pending in self._pending.values():
                pending.arrived.put_nowait(None)

    # What we write

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    async def write(self, frame: bytes, gate: Gate) -> None:
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

    def expect(self, request_id: int) -> Pending:
        """Return where the answer to this request of ours will arrive; `forget` it afterwards."""
        pending = self._pending[request_id] = Pending(request_id)
        return pending

    def forget(self, pending: Pending) -> None:
        self._pending.pop(pending.id, None)

    def __len__(self) -> int:
        """Requests that wait for an answer."""
        return len(self._pending)

    async def next(self, pending: Pending, within_s: float) -> Message:
        """Return the next message for a request. Raises UpstreamFailed when the process has ended, UpstreamTimeout."""
        message: Message | None
        if pending.arrived.empty():
            if self._ended.done():
                raise self._failure()
            try:
                async with asyncio.timeout(within_s):
                    message = await pending.arrived.get()
            except TimeoutError:
                raise UpstreamTimeout(
                    f"`{self.name}` did not answer in time", fix="the call may have taken effect: see its log"
                ) from None
        else:
            message = pending.arrived.get_nowait()
        if message is None:
            raise self._failure()
        return message

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
        elif message.method is None:
            pending = self._pending.get(_number(message.id))
            if pending is not None:
                pending.put(message)
        elif message.has_id:
            self._reply(message)
        else:
            pending = self._pending.get(_request_of(message))
            if pending is not None:
                pending.put(message)
            self._on_notification(message)

    def _reply(self, message: Message) -> None:
        """Answer a request of the server. It shares its process with all callers, so none of them is asked."""
        body = own_reply(message, relayed=False)
        if body is None or len(self._replies) >= MAX_REPLIES:
            return
        task = self._loop.create_task(self._write_reply(body))
        self._replies.add(task)
        task.add_done_callback(self._replies.discard)

    async def _write_reply(self, body: bytes) -> None:
        with suppress(UpstreamUnreachable):
            await self.write(body, _open)


def _open() -> None:
    """The gate of an answer to the server's own request: it carries nothing of any caller."""


def _request_of(message: Message) -> int:
    """Return the id of our request that a notification belongs to, or 0."""
    try:
        if message.method == "notifications/progress":
            raw = bytes(members(message.params).get("progressToken", b""))
        else:
            raw = subscription_of(message.params) or b""
    except msgspec.DecodeError:
        return 0
    return _number(raw)


def _number(raw: bytes) -> int:
    return int(raw) if raw.isdigit() and len(raw) < 20 else 0


def _exit(code: int | None) -> str:
    if code is None:
        return "ended"
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
