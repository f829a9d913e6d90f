"""One session over HTTP+SSE (2024-11-05, basic/transports: "HTTP with SSE").

A stream is opened first; it says where messages are to be posted, and all that the server has to say comes on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import cast
from urllib.parse import urljoin

from mcpgw.config import LimitsSection
from mcpgw.domain import Verb
from mcpgw.errors import GatewayError, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable, UsageError
from mcpgw.ports import Gate
from mcpgw.upstream.frames import Frames
from mcpgw.upstream.http import HttpClient, Response, Url
from mcpgw.upstream.mcp_parts import Asked, Message, read_message
from mcpgw.upstream.mcp_wire import JSON, Header, Sending, media_type, unusable
from mcpgw.upstream.sse import SseEvent, SseSplitter

log = logging.getLogger("mcpgw.sse")

ERA = "legacy"
SILENCE_S = 86_400.0  # of a stream that nobody's call waits on: servers of this transport send no signs of life
_ACCEPT: Header = (b"accept", b"text/event-stream")


class SseSession:
    """Implements `greeting.Link`. It ends with its stream, and what waits for an answer on that with it."""

    def __init__(self, http: HttpClient, sending: Sending, limits: LimitsSection, told: Callable[[Message], None]):
        self.name = sending.server
        self.frames = Frames(self.name, self.write, told, self._failure)
        self.version = ""  # of the protocol, once it is agreed on
        self._http = http
        self._limits = limits
        self._base = sending.version.endpoint
        self._headers = list(sending.credential)
        self._asked = Asked(Verb.STREAM, self.name, ERA)
        self._loop = asyncio.get_running_loop()
        self._place: asyncio.Future[Url] = self._loop.create_future()  # where messages go
        self._posts: set[asyncio.Task[None]] = set()
        self._reader: asyncio.Task[None] | None = None
        self._why = "ended its stream"

    @classmethod
    async def open(
        cls, http: HttpClient, sending: Sending, limits: LimitsSection, told: Callable[[Message], None]
    ) -> SseSession:
        """Open the stream and read where messages go; `told` hears the server's notifications.

        Raises UpstreamUnreachable, UpstreamFailed, UpstreamTimeout, and what the gate raises.
        """
        session = cls(http, sending, limits, told)
        headers = [_ACCEPT, *sending.credential]
        response = await http.request(b"GET", sending.url, headers, b"", sending.gate)
        if response.status != 200 or media_type(response) != b"text/event-stream":
            await response.aclose()
            raise unusable(session._asked, response)
        session._reader = asyncio.get_running_loop().create_task(session._read(response), name="read an SSE session")
        opened = False
        try:
            await asyncio.wait((session._place,), timeout=limits.first_byte_s)
            if not session._place.done():
                raise session._asked.failed("no_endpoint", "opened a stream, but does not say where messages go")
            session._place.result()
            opened = True
        finally:
            if not opened:
                await session.stop()
        return session

    @property
    def running(self) -> bool:
        return not self.frames.ended

    def proven_by(self, sending: Sending) -> None:
        """Send what this call is sent with from now on: its credential may be a newer one of the same holder."""
        self._headers = list(sending.credential)

    async def stop(self) -> None:
        """End the session: the server sees that its stream is closed."""
        self._end("was let go of")
        tasks = [task for task in (self._reader, *self._posts) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.frames.replied()

    # What we write

    async def write(self, frame: bytes, gate: Gate, request_id: int = 0) -> None:
        """Post one frame; return when a request is handed over, and when the server has taken anything else.

        A server may answer on the stream before it answers the POST. What becomes of that is told to the request.
        """
        if not self.running:
            raise self._gone()
        passed: asyncio.Future[None] = self._loop.create_future()

        def gated() -> None:
            gate()
            if not passed.done():
                passed.set_result(None)

        post = self._loop.create_task(self._post(frame, gated), name="post to an SSE session")
        self._posts.add(post)
        post.add_done_callback(partial(self._posted, request_id))
        try:
            await asyncio.wait((post, passed) if request_id else (post,), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not post.done() and not passed.done():
                post.cancel()  # nothing of it has left
        if post.cancelled():  # by the end of the session, which is not that of the call
            raise self._failure() if passed.done() else self._gone()
        if post.done():
            await post

    async def _post(self, frame: bytes, gate: Gate) -> None:
        headers = [JSON, *self._headers]
        if self.version:
            headers.append((b"mcp-protocol-version", self.version.encode()))
        within_s = self._limits.call_s  # some servers answer the POST of a call when that is done
        response = await self._http.request(b"POST", self._place.result(), headers, frame, gate, first_byte_s=within_s)
        try:
            if 200 <= response.status < 300:
                await response.body()
                return
        finally:
            await response.aclose()
        if response.status in {404, 410}:
            self._end("no longer knows the session")
            raise self._failure()
        raise unusable(self._asked, response)

    def _posted(self, request_id: int, post: asyncio.Task[None]) -> None:
        self._posts.discard(post)
        failure = None if post.cancelled() else post.exception()
        if isinstance(failure, GatewayError):
            self.frames.fail(request_id, failure)

    # What we read

    async def _read(self, response: Response) -> None:
        splitter = SseSplitter(self._limits.result_bytes)
        try:
            async with aclosing(cast(AsyncGenerator[bytes, None], response.chunks(SILENCE_S))) as chunks:
                async for chunk in chunks:
                    for event in splitter.feed(chunk):
                        self._received(event)
        except (UpstreamFailed, UpstreamTimeout) as failure:
            self._why = "broke its stream off"
            self._misplaced(failure)
            log.info("the session with %s has ended: %s", self.name, failure)
        finally:
            self._end(self._why)
            await response.aclose()

    def _received(self, event: SseEvent) -> None:
        if event.event == "endpoint":
            self._located(event.data.strip())
        elif event.event == "message" and event.data:
            message = read_message(event.data)
            if message is None:
                log.warning("%s sent an event of %d bytes that is no JSON-RPC message", self.name, len(event.data))
            else:
                self.frames.received(message)

    def _located(self, reference: bytes) -> None:
        """Take down where messages go: nowhere but where the stream comes from, since that is what was approved."""
        if self._place.done():
            return
        try:
            url = Url.parse(urljoin(self._base, reference.decode("ascii")))
        except (UsageError, ValueError):
            self._misplaced(self._asked.failed("bad_endpoint", "names an endpoint that is no URL"))
            return
        if url.origin != Url.parse(self._base).origin:
            what = "wants messages sent to another origin than its own, which is not done"
            self._misplaced(self._asked.failed("foreign_endpoint", what))
            return
        self._place.set_result(url)

    def _misplaced(self, failure: GatewayError) -> None:
        if not self._place.done():
            self._place.set_exception(failure)
            self._place.exception()  # seen here: nobody may be waiting any more

    def _end(self, why: str) -> None:
        if self.frames.ended:
            return
        self._why = why
        self.frames.end()
        self._misplaced(self._asked.failed("no_endpoint", f"{why} before it said where messages go"))
        if self._place.exception() is None:
            self._http.health.answered(self._place.result().text)  # a URL that nobody will ask again

    def _gone(self) -> UpstreamUnreachable:
        return UpstreamUnreachable(f"the session with `{self.name}` has ended", data={"cause": "session_lost"})

    def _failure(self) -> UpstreamFailed:
        return UpstreamFailed(
            f"`{self.name}` {self._why}",
            fix="the call may have taken effect: see the server's log",
            data={"cause": "session_lost"},
        )
