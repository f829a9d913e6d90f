"""What arrives from one server over one connection, handed out: each message to the request that it belongs to.

A process, and a session over HTTP+SSE, carries many requests at once in one stream. An answer finds its request by the
id, progress by its token, an event of a subscription by that one's id. The rest belongs to no request: where the
connection is one client's own it goes to that client, where callers share it, to nobody.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
from msgspec import Raw

from mcpgw.errors import GatewayError, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from mcpgw.ports import Gate
from mcpgw.upstream.mcp_parts import Asked, Message, encode, members, next_id, own_reply, reply, subscription_of

MAX_NOTIFICATIONS = 256  # unread, of one request; more are dropped: they may be lost, answers may not
MAX_UNREAD_BYTES = 4 * 1024 * 1024  # of them together
MAX_REPLIES = 16  # to requests of the server, on their way
MAX_QUESTIONS = 64  # of the server to its client, unanswered

_LOG = "notifications/message"

Write = Callable[[bytes, Gate], Awaitable[None]]


@dataclass(slots=True, eq=False)
class Pending:
    """What has arrived for a request that waits for its answer, or for a client that listens.

    `hears`: it takes what belongs to no request; `asks`: and these requests of the server.
    """

    id: int
    hears: bool = False
    asks: frozenset[str] = frozenset()
    unread_bytes: int = 0
    arrived: asyncio.Queue[Message | GatewayError | None] = field(default_factory=asyncio.Queue)

    def put(self, message: Message) -> bool:
        """Add what has arrived, unless there is too much already."""
        size = len(message.data)
        full = self.arrived.qsize() >= MAX_NOTIFICATIONS or self.unread_bytes + size > MAX_UNREAD_BYTES
        if full and message.method is not None:
            return False
        self.unread_bytes += size
        self.arrived.put_nowait(message)
        return True

    def taken(self, message: Message) -> Message:
        self.unread_bytes -= len(message.data)
        return message


class Frames:
    """The requests under way on one connection, by their ids, which are ours.

    `write` writes a frame to the server, `told` hears every notification, `failure` makes the error of a request whose
    answer can no longer come. `subscribed` counts who watches a resource, `log_level` is the least level of which the
    server was told to send messages, as a number; None: it was told of none.
    """

    def __init__(
        self, name: str, write: Write, told: Callable[[Message], None], failure: Callable[[], UpstreamFailed]
    ) -> None:
        self.name = name
        self.ended = False
        self.subscribed: Counter[str] = Counter()
        self.subscribing = asyncio.Lock()
        self.log_level: int | None = None
        self._write = write
        self._told = told
        self._failure = failure
        self._pending: dict[int, Pending] = {}
        self._listeners: list[Pending] = []
        self._questions: dict[bytes, tuple[bytes, Pending]] = {}  # by the id they are passed on under
        self._replies: set[asyncio.Task[None]] = set()

    # Requests of ours

    def expect(self, request_id: int, *, hears: bool = False, asks: frozenset[str] = frozenset()) -> Pending:
        """Return where the answer to this request of ours will arrive; `forget` it afterwards."""
        pending = self._pending[request_id] = Pending(request_id, hears, asks)
        return pending

    def listen(self, asks: frozenset[str]) -> Pending:
        """Return where arrives what belongs to no request; `forget` it afterwards."""
        pending = Pending(0, True, asks)
        self._listeners.append(pending)
        return pending

    def forget(self, pending: Pending) -> None:
        self._pending.pop(pending.id, None)
        if pending in self._listeners:
            self._listeners.remove(pending)
        for shown in [shown for shown, (_, asked) in self._questions.items() if asked is pending]:
            del self._questions[shown]

    def __len__(self) -> int:
        """Requests that wait for an answer."""
        return len(self._pending)

    @property
    def listened_to(self) -> bool:
        return bool(self._listeners)

    @staticmethod
    def is_silent(pending: Pending) -> bool:
        """Whether nothing has arrived that was not read."""
        return pending.arrived.empty()

    def asks(self, pending: Pending) -> bool:
        """Whether the server waits for an answer of this request's client."""
        return any(asked is pending for _, asked in self._questions.values())

    async def next(self, pending: Pending, within_s: float) -> Message:
        """Return the next message for a request. Raises UpstreamFailed when none can come any more, UpstreamTimeout."""
        if pending.arrived.empty():
            if self.ended:
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
        if isinstance(message, GatewayError):
            raise message
        return pending.taken(message)

    def fail(self, request_id: int, error: GatewayError) -> None:
        """Let go of one request, whose answer will not come."""
        pending = self._pending.get(request_id)
        if pending is not None:
            pending.arrived.put_nowait(error)

    def end(self) -> None:
        """Let go of everybody who waits for this server."""
        if not self.ended:
            self.ended = True
            for pending in (*self._pending.values(), *self._listeners):
                pending.arrived.put_nowait(None)

    async def replied(self) -> None:
        """Return when no reply to the server is on its way any more."""
        if self._replies:
            await asyncio.wait(self._replies)

    # Messages of the server

    def received(self, message: Message) -> None:
        if message.method is None:
            pending = self._pending.get(_number(message.id))
            if pending is not None:
                pending.put(message)
        elif message.has_id:
            self._asked(message)
        else:
            self._notified(message)

    def _notified(self, message: Message) -> None:
        owner = _request_of(message)
        if owner is not None:
            pending = self._pending.get(owner)
            if pending is not None:
                pending.put(message)
        elif message.method == "notifications/cancelled":
            self._withdrawn(message)  # a question of the server; to the client it was shown under another id
        else:
            for hearer in self._hearers(message):
                hearer.put(message)
        self._told(message)

    def _hearers(self, message: Message) -> list[Pending]:
        """Return who takes what belongs to no request: log messages the call under way, the rest who listens."""
        calls = [pending for pending in self._newest_first() if pending.hears][:1]
        listeners = list(self._listeners)
        return (calls or listeners) if message.method == _LOG else (listeners or calls)

    def _newest_first(self) -> Iterator[Pending]:
        return reversed(self._pending.values())

    # Questions: requests of the server that its client answers

    def _asked(self, message: Message) -> None:
        takers = [p for p in (*self._newest_first(), *self._listeners[::-1]) if message.method in p.asks]
        if takers and len(self._questions) < MAX_QUESTIONS:
            # Under an id of ours, so that an answer can never fit a question of an earlier process of this server.
            shown = b"%d" % next_id()
            if takers[0].put(_under(shown, message)):
                self._questions[shown] = (message.id, takers[0])
                return
        self._reply(message)

    def answer(self, shown: bytes, member: str, value: bytes, asked: Asked) -> bytes:
        """Return the frame that answers a question; it is `answered` when that is written.

        Raises UpstreamFailed when the question is not open, as `asked` says it.
        """
        if not self.is_open(shown):
            raise asked.failed("session_lost", "no longer has the request that is answered")
        return reply(self._questions[shown][0], member, value)

    def is_open(self, shown: bytes) -> bool:
        """Whether the server still waits for the answer to this question."""
        return shown in self._questions and not self.ended

    def answered(self, shown: bytes) -> None:
        self._questions.pop(shown, None)

    def refuse(self, question: Message) -> None:
        """Answer a question that its client cannot be asked after all."""
        raw_id, _ = self._questions.pop(question.id, (b"", None))
        if raw_id:
            self._reply(Message(b"", raw_id, question.method))

    def _withdrawn(self, message: Message) -> None:
        try:
            raw_id = bytes(members(message.params).get("requestId", b""))
        except msgspec.DecodeError:
            return
        for shown in [shown for shown, (asked, _) in self._questions.items() if asked == raw_id]:
            del self._questions[shown]

    def _reply(self, message: Message) -> None:
        """Answer a request of the server that no client is asked."""
        body = own_reply(message, relayed=False)
        if body is None or len(self._replies) >= MAX_REPLIES or self.ended:
            return
        task = asyncio.get_running_loop().create_task(self._write_reply(body))
        self._replies.add(task)
        task.add_done_callback(self._replies.discard)

    async def _write_reply(self, body: bytes) -> None:
        with suppress(UpstreamUnreachable, UpstreamFailed, UpstreamTimeout):
            await self._write(body, _open)


def _open() -> None:
    """The gate of an answer to the server's own request: it carries nothing of any caller."""


def _under(shown: bytes, message: Message) -> Message:
    """Return a request of the server with another id."""
    fields: dict[str, object] = {"jsonrpc": "2.0", "id": Raw(shown), "method": message.method}
    if message.params:
        fields["params"] = Raw(message.params)
    return Message(encode(fields), id=shown, method=message.method, params=message.params)


def _request_of(message: Message) -> int | None:
    """Return the id of our request that a notification names, 0 for one that is not ours; None: it names none."""
    try:
        if message.method == "notifications/progress":
            return _number(bytes(members(message.params).get("progressToken", b"")))
        raw = subscription_of(message.params)
    except msgspec.DecodeError:
        return 0
    return None if raw is None else _number(raw)


def _number(raw: bytes) -> int:
    return int(raw) if raw.isdigit() and len(raw) < 20 else 0
