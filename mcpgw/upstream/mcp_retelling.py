"""What a server of the handshake era says in a call, as the modern client hears it whose call it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from mcpgw.domain import Part, PartKind
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
from mcpgw.upstream.mcp_held import HeldCall, HeldCalls
from mcpgw.upstream.mcp_legacy_stream import LegacyStream
from mcpgw.upstream.mcp_parts import Message, encode, members, notification, own_reply
from mcpgw.upstream.mcp_sessions import Session
from mcpgw.upstream.mcp_translate import LOG_LEVELS, modern_answer
from mcpgw.upstream.mcp_wire import Sending

AT_ONCE_S = 0.05  # what a server asks so soon after another question is asked together with it
MAX_PAUSES = 5
PROGRESS, LOG, TOKEN = "notifications/progress", "notifications/message", "progressToken"


class _Logged(msgspec.Struct, gc=False):
    level: str


_logged = msgspec.json.Decoder(_Logged).decode


class Retelling:
    """Implements `Telling` for one turn of a call; `asked` is how often the server has asked in it already.

    `overheard` is told what concerns those who listen in the same session.
    """

    def __init__(
        self,
        sending: Sending,
        session: Session,
        stream: LegacyStream,
        held: HeldCalls,
        overheard: Callable[[Session, Message], None],
        asked: int = 0,
    ) -> None:
        client = sending.action.client
        level = client.log_level if client is not None else None
        self._sending = sending
        self._session = session
        self._stream = stream
        self._held = held
        self._overheard = overheard
        self._asked = asked
        self._questions: dict[str, Question] = {}
        self._pauses = 0
        self._can = able(client.capabilities if client is not None else b"{}")
        self._token = members(client.meta).get(TOKEN) if client is not None else None
        self._level = None if level is None else LOG_LEVELS.index(level)

    def heard(self, message: Message) -> Part | bytes | None:
        if message.has_id:
            return None if self._is_question(message) else own_reply(message, relayed=False)
        if message.method == PROGRESS:
            return self._progress(message)
        if message.method == LOG:
            return Part(PartKind.EVENT, message.data) if self._wants(message) else None
        self._overheard(self._session, message)  # lists and resources are no matter of a call
        return None

    def answered(self, message: Message) -> Part:
        part = self._stream.asked.answer(message, PartKind.LAST)
        return answer_of(part, self._sending, self._session)

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
        call = HeldCall(self._held, self._stream, self._session, questions, self._asked)
        return self._held.suspend(self._sending, call)

    def _is_question(self, message: Message) -> bool:
        """Whether this is for the client to answer, and can be asked in this call."""
        if self._sending.action.verb not in SUSPENDABLE or len(self._questions) >= MAX_QUESTIONS:
            return False
        asked = asked_as(message, self._can)
        if asked is None:
            return False
        self._asked += 1
        self._questions[key_of(self._asked)] = Question(message.id, message.method or "", asked)
        return True

    def _progress(self, message: Message) -> Part | None:
        """Return progress under the token of the client, to whose call ours stood for it."""
        if self._token is None:
            return None
        try:
            params: dict[str, Any] = members(message.params)
        except msgspec.DecodeError:
            return None
        if bytes(params.get(TOKEN, b"")) != b"%d" % self._stream.asked.id:
            return None
        params[TOKEN] = self._token
        return Part(PartKind.EVENT, notification(PROGRESS, encode(params)))

    def _wants(self, message: Message) -> bool:
        if self._level is None:
            return False
        try:
            return LOG_LEVELS.index(_logged(message.params).level) >= self._level
        except (msgspec.DecodeError, ValueError):
            return False


def answer_of(part: Part, sending: Sending, session: Session) -> Part:
    """Return the answer to a call as its modern client reads it."""
    action = sending.action
    if part.error_code == URL_REQUIRED and action.client is not None and action.verb in SUSPENDABLE:
        return urls_required(part, able(action.client.capabilities))
    return modern_answer(action.verb, part, session.info)


def own_token(meta: bytes, own_id: int) -> bytes:
    """Return the `_meta` of a call with a progress token of ours, where it has one: those of callers may be equal."""
    if TOKEN.encode() not in meta:
        return meta
    found: dict[str, Any] = members(meta)
    if TOKEN in found:
        found[TOKEN] = Raw(b"%d" % own_id)
    return encode(found)
