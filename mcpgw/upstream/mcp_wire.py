"""What both generations of the streamable HTTP transport have in common."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import lru_cache
from typing import cast

from mcpgw.config import LimitsSection
from mcpgw.domain import Action, Judged, Kind, Part, PartKind, Permit, ServerVersion
from mcpgw.errors import CredentialRefused, Internal, UpstreamFailed, UpstreamTimeout
from mcpgw.ports import Gate
from mcpgw.upstream.http import Response, Url
from mcpgw.upstream.mcp_parts import LIST_CHANGED, Asked, ListChanged, Message
from mcpgw.upstream.sse import SseEvent, SseSplitter

Header = tuple[bytes, bytes]

ALIVE = Part(PartKind.EVENT)  # the server says that it is still there; before a part leaves, the call is judged again
JSON: Header = (b"content-type", b"application/json")
ACCEPT: Header = (b"accept", b"application/json, text/event-stream")
MAX_CHALLENGE_BYTES = 4096
_MEDIA_TYPE = re.compile(rb"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,40}")

url_of = lru_cache(maxsize=1024)(Url.parse)


class Sending:
    """One permitted call on its way to an HTTP server. `writes` counts what has passed the gate."""

    __slots__ = ("_gate", "credential", "judged", "url", "version", "writes")

    def __init__(self, permit: Permit, credential: Mapping[str, str], gate: Gate) -> None:
        self.judged: Judged = permit.judged
        if self.judged.version is None:
            raise Internal("a call without a server version reached the MCP upstream")
        self.version: ServerVersion = self.judged.version
        self.url = url_of(self.version.endpoint)
        self.credential: list[Header] = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in credential.items()]
        self.writes = 0
        self._gate = gate

    @property
    def action(self) -> Action:
        return self.judged.action

    @property
    def server(self) -> str:
        return self.version.server

    @property
    def bound(self) -> tuple[Header, ...]:
        """What of the credential a session is bound to: one that is renewed goes on in the session of its holder."""
        return () if self.version.auth is not None else tuple(self.credential)

    @property
    def own(self) -> bool:
        """Whether the gateway itself asks: no client stands behind the call whose generation would matter."""
        return self.action.client is None or self.judged.principal.kind is Kind.SYSTEM

    def through(self, gate: Gate) -> Sending:
        """Return the same call with another gate."""
        other = copy.copy(self)
        other._gate = gate
        return other

    def gate(self) -> None:
        self._gate()
        self.writes += 1


def media_type(response: Response) -> bytes:
    return _media_type(response.headers.get(b"content-type", b""))


@lru_cache(maxsize=256)
def _media_type(stated: bytes) -> bytes:
    return stated.partition(b";")[0].strip().lower()


def refuses_credential(response: Response) -> bool:
    """Whether another credential, or one with more scopes, is what the server wants (RFC 6750 §3.1)."""
    challenge = response.headers.get(b"www-authenticate", b"")
    return response.status == 401 or (response.status == 403 and b"insufficient_scope" in challenge)


def credential_refused(asked: Asked, response: Response) -> CredentialRefused:
    refusal = CredentialRefused(
        f"`{asked.server}` refused the gateway's credential (HTTP {response.status})",
        fix="it did not carry out the call; the next one comes with a new credential, where one can be had",
        data={"cause": "credential", "reason": "credential_refused"},
    )
    refusal.challenge = response.headers.get(b"www-authenticate", b"")[:MAX_CHALLENGE_BYTES].decode("latin-1")
    return refusal


def unusable(asked: Asked, response: Response) -> UpstreamFailed:
    """Return the error for an answer whose status or media type says enough."""
    status = response.status
    if 300 <= status < 400:
        return asked.failed("redirect", f"answered with a redirect (HTTP {status}), which is not followed")
    if refuses_credential(response):
        return credential_refused(asked, response)
    if status == 403:
        return asked.failed("credential", f"refused the gateway's credential (HTTP {status})")
    if status >= 400:
        return asked.failed(f"http_{status // 100}xx", f"answered with HTTP {status}")
    kind = media_type(response)
    shown = kind.decode() if _MEDIA_TYPE.fullmatch(kind) else "no media type"
    return asked.failed("not_json", f"answered HTTP {status} with {shown} instead of JSON or an event stream")


async def events(
    response: Response, limits: LimitsSection, server: str, until: float
) -> AsyncGenerator[SseEvent, None]:
    """Yield the events of a stream until its end, at most until this loop time.

    Raises UpstreamFailed when the stream is cut or an event is too long, UpstreamTimeout.
    """
    now = asyncio.get_running_loop().time
    splitter = SseSplitter(limits.result_bytes)
    async with aclosing(cast(AsyncGenerator[bytes, None], response.chunks())) as chunks:
        async for chunk in chunks:
            if now() >= until:
                raise UpstreamTimeout(f"the stream of `{server}` lasted longer than limits.stream_s")
            for event in splitter.feed(chunk):
                if event.event == "message":
                    yield event


def tell(hook: ListChanged, server: str, message: Message) -> None:
    """Tell whoever wants to know that a list of this server has changed, if that is what the message says."""
    kind = LIST_CHANGED.get(message.method or "")
    if kind is not None:
        hook(server, kind)


async def opened_late(parts: AsyncGenerator[Part, None], opened: Part, *, at_once: bool) -> AsyncGenerator[Part, None]:
    """Yield the parts of a stream behind `opened`; of a stream with nothing in it but the answer, make a whole one."""
    if at_once:
        yield opened
    is_open = at_once
    async with aclosing(parts):
        async for part in parts:
            if is_open:
                yield part
            elif part.kind is PartKind.LAST:
                yield dataclasses.replace(part, kind=PartKind.WHOLE)
            else:
                is_open = True
                yield opened
                if part is not ALIVE:  # which the opening has said
                    yield part


async def final(response: Response, asked: Asked, limits: LimitsSection) -> Message:
    """Return the one answer in a stream; what precedes it is dropped."""
    until = asyncio.get_running_loop().time() + limits.call_s
    async with aclosing(events(response, limits, asked.server, until)) as arriving:
        async for event in arriving:
            if event.data and (message := asked.read(event.data)).method is None:
                return message
    raise asked.failed("cut", "ended its stream before the answer")
