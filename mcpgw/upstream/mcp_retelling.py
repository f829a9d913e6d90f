"""How what a server says in a call is told to whoever asked, and how a modern client hears one of the handshake era."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
from msgspec import Raw

from mcpgw.domain import Action, ClientFacts, Judged, Part, PartKind
from mcpgw.upstream.holding import Question
from mcpgw.upstream.mcp_for_modern_questions import (
    MAX_QUESTIONS,
    SUSPENDABLE,
    URL_REQUIRED,
    able,
    asked_as,
    key_of,
    urls_required,
)
from mcpgw.upstream.mcp_parts import Asked, Message, encode, members, notification, own_reply
from mcpgw.upstream.mcp_translate import LOG_LEVELS, modern_answer

AT_ONCE_S = 0.05  # what a server asks so soon after another question is asked together with it
MAX_PAUSES = 5
PROGRESS, LOG, TOKEN = "notifications/progress", "notifications/message", "progressToken"

Suspend = Callable[[Mapping[str, Question], int], Part]
"""Return the answer that asks the client these questions; there have been so many in its call."""


class Telling(Protocol):
    """How what a server sends on a stream is told to whoever asked."""

    def heard(self, message: Message) -> Part | bytes | None:
        """Return what to tell of a notification or a request, or what to answer the server; None: neither."""
        ...

    def answered(self, part: Part) -> Part:
        """Return the last part, made of the server's own answer."""
        ...

    async def lull(self, more: Callable[[], bool]) -> Part | None:
        """Return what is to be told when the server has said all for now; `more`: it says on."""
        ...


class AsItIs:
    """To a client of the same generation; `relays`: there is one, which answers requests of the server itself."""

    def __init__(self, asked: Asked, *, relays: bool) -> None:
        self._asked = asked
        self._relays = relays

    def heard(self, message: Message) -> Part | bytes | None:
        body = own_reply(message, relayed=self._relays) if message.has_id else None
        return self._asked.event(message) if body is None else body

    def answered(self, part: Part) -> Part:
        return part

    async def lull(self, more: Callable[[], bool]) -> Part | None:
        return None


class _Logged(msgspec.Struct, gc=False):
    level: str


_logged = msgspec.json.Decoder(_Logged).decode


class Retelling:
    """Implements `Telling` for one turn of a modern client's call on a server of the handshake era.

    `info` is the server's, raw; `overheard` is told what concerns those who listen; `before` is how often the server
    has asked something in this call already.
    """

    def __init__(
        self,
        judged: Judged,
        asked: Asked,
        info: bytes,
        suspend: Suspend,
        overheard: Callable[[Message], None],
        before: int = 0,
    ) -> None:
        client = judged.action.client
        self._action = judged.action
        self._asked = asked
        self._info = info
        self._suspend = suspend
        self._overheard = overheard
        self._count = before
        self._questions: dict[str, Question] = {}
        self._pauses = 0
        self._can = able(client.capabilities if client is not None else b"{}")
        self._token = token_of(judged.action)

    def heard(self, message: Message) -> Part | bytes | None:
        if message.has_id:
            return None if self._is_question(message) else own_reply(message, relayed=False)
        if message.method == PROGRESS:
            return self._progress(message)
        if message.method == LOG:
            return Part(PartKind.EVENT, message.data) if wants_log(self._action.client, message) else None
        self._overheard(message)  # lists and resources are no matter of a call
        return None

    def answered(self, part: Part) -> Part:
        return answer_of(part, self._action, self._info)

    async def lull(self, more: Callable[[], bool]) -> Part | None:
        """Return the answer that asks the client all that the server has asked at once."""
        if not self._questions:
            return None
        if self._pauses < MAX_PAUSES:  # a server that talks on has its questions asked all the same
            self._pauses += 1
            await asyncio.sleep(AT_ONCE_S)
            if more():
                return None
        questions, self._questions = self._questions, {}
        return self._suspend(questions, self._count)

    def _is_question(self, message: Message) -> bool:
        """Whether this is for the client to answer, and can be asked in this call."""
        if self._action.verb not in SUSPENDABLE or len(self._questions) >= MAX_QUESTIONS:
            return False
        asked = asked_as(message, self._can)
        if asked is None:
            return False
        self._count += 1
        self._questions[key_of(self._count)] = Question(message.id, message.method or "", asked)
        return True

    def _progress(self, message: Message) -> Part | None:
        """Return progress under the token of the client, to whose call ours stood for it."""
        if self._token is None:
            return None
        retold = with_token(message, self._token, self._asked.id)
        return None if retold is None else Part(PartKind.EVENT, retold.data)


def answer_of(part: Part, action: Action, info: bytes) -> Part:
    """Return the answer to a call as its modern client reads it. `info` is the server's, raw."""
    if part.error_code == URL_REQUIRED and action.client is not None and action.verb in SUSPENDABLE:
        return urls_required(part, able(action.client.capabilities))
    return modern_answer(action.verb, part, info)


def wants_log(client: ClientFacts | None, message: Message) -> bool:
    """Whether a log message is of the level that a modern client's call wants."""
    if client is None or client.log_level is None:
        return False
    try:
        return LOG_LEVELS.index(_logged(message.params).level) >= LOG_LEVELS.index(client.log_level)
    except (msgspec.DecodeError, ValueError):
        return False


def own_token(meta: bytes, own_id: int) -> bytes:
    """Return the `_meta` of a call with a progress token of ours, where it has one: those of callers may be equal."""
    if TOKEN.encode() not in meta:
        return meta
    found: dict[str, Any] = members(meta)
    if TOKEN in found:
        found[TOKEN] = Raw(b"%d" % own_id)
    return encode(found)


def token_of(action: Action) -> Raw | None:
    """Return the caller's own progress token, in whose place ours stands upstream."""
    return members(action.client.meta).get(TOKEN) if action.client is not None else None


def with_token(message: Message, token: Raw, own_id: int) -> Message | None:
    """Return a notification of progress with the caller's own token; None when it is not of this request of ours."""
    try:
        params: dict[str, Any] = members(message.params)
    except msgspec.DecodeError:
        return None
    if bytes(params.get(TOKEN, b"")) != b"%d" % own_id:
        return None
    raw = encode({**params, TOKEN: token})
    return Message(notification(PROGRESS, raw), method=PROGRESS, params=raw)
