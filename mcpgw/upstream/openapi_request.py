"""From the arguments of a call to one HTTP request: the judged bytes, and nothing else, decide what is sent."""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from urllib.parse import unquote

import msgspec
from msgspec import Raw

from mcpgw.upstream.http import Url
from mcpgw.upstream.openapi_document import Encoding
from mcpgw.upstream.openapi_parameters import BODY, Body, Bound, bare_type, is_json
from mcpgw.upstream.openapi_styles import (
    Encode,
    Pair,
    Unfit,
    cookie,
    form,
    header,
    in_path,
    pairs,
    parse,
    percent,
    reserved,
    scalar,
    simple,
    written,
)
from mcpgw.upstream.openapi_tools import Tool

MAX_TARGET_BYTES = 16_384
MAX_DECODINGS = 5  # how often an encoded path may be decoded before it must stay as it is
Header = tuple[bytes, bytes]
_members = msgspec.json.Decoder(dict[str, Raw]).decode
_SEPARATOR = re.compile(r"[/\\]")
# Control characters, what is no UTF-8 (some servers take an overlong dot for a dot), and the %u002e of old ones.
_MISREAD = re.compile(r"[\x00-\x1f\x7f\ufffd]|%u[0-9a-f]{4}", re.IGNORECASE)
_PART_NAME = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})  # as browsers write them (HTML, multipart/form-data)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request that is ready but for the operator's headers."""

    method: bytes
    url: Url
    headers: list[Header]
    body: bytes


def request_of(tool: Tool, raw: bytes) -> Outgoing:
    """Return the request that arguments, which fit the tool's schema, make. Raises Unfit, which names the argument."""
    held = {name: value for name, value in _members(raw).items() if bytes(value) != b"null" or name == BODY}
    query: list[Pair] = []
    cookies: list[Pair] = []
    headers: list[Header] = [(b"accept", tool.accept)]
    for bound in tool.bound:
        if bound.argument not in held:
            continue
        with _about(bound.argument):
            value = held[bound.argument]
            if bound.place == "header":
                headers.append((bound.name.lower().encode(), _in_header(bound, value).encode()))
            elif bound.place == "cookie":
                cookies += _pairs(tool, bound, value, cookie if bound.style == "cookie" else percent)
            else:
                query += _pairs(tool, bound, value, reserved if bound.reserved else percent)
    if cookies:
        headers.append((b"cookie", written(cookies, "; ").encode()))
    target = _path(tool, held) + ("?" + written(query) if query else "")
    if len(target) > MAX_TARGET_BYTES:
        raise Unfit(f"the request would have a URL of more than {MAX_TARGET_BYTES} bytes: send less")
    body = b""
    if tool.body is not None and BODY in held:
        with _about(BODY):
            media_type, body = _body(tool.body, bytes(held[BODY]))
        headers.append((b"content-type", media_type.encode()))
    url = replace(tool.base, target=target.encode("ascii"), text=f"{tool.base.origin} {tool.name}")
    return Outgoing(tool.method, url, headers, body)


@contextmanager
def _about(argument: str) -> Iterator[None]:
    try:
        yield
    except Unfit as error:
        raise Unfit(f"{argument}: {error}") from None


def _path(tool: Tool, held: Mapping[str, Raw]) -> str:
    """Return the path with its parameters in it, each within the segment that the template gives it."""
    texts: list[str] = []
    for part in tool.template:
        if isinstance(part, str):
            texts.append(part)
            continue
        with _about(part.argument):
            if part.argument not in held:
                raise Unfit("is a part of the path, which cannot be left out")
            text = _in_path(part, held[part.argument])
            if not text.strip(".;") or text in {f";{percent(part.name)}", f";{percent(part.name)}="}:
                raise Unfit("is a part of the path, which cannot be empty or made of dots")
            texts.append(text)
    path = "".join(texts)
    shape = "".join(part if isinstance(part, str) else "x" for part in tool.template)
    if path.count("/") != shape.count("/") or any(map(_leaves, filter(None, path.split("/")))):
        raise Unfit("the path parameters would lead to another path: send names, no paths with dots in them")
    return path


def _leaves(segment: str) -> bool:
    """Say whether some server could take an encoded segment for a step to another path (CVE-2026-32871).

    Servers and proxies decode once or more, take a backslash for a slash, cut what follows a semicolon, and fold what
    looks alike.
    """
    for _ in range(MAX_DECODINGS):
        folded = unicodedata.normalize("NFKC", segment)
        steps = [(step.partition(";")[0] or step).strip() for step in _SEPARATOR.split(folded)]
        if _MISREAD.search(folded) or not any(steps) or any(step in {".", ".."} for step in steps):
            return True
        decoded = unquote(segment)
        if decoded == segment:
            return False
        segment = decoded
    return True


def _in_path(bound: Bound, value: Raw) -> str:
    if bound.way == "json":
        return percent(_compact(value))
    found = parse(bytes(value))
    return percent(scalar(found)) if bound.way == "text" else in_path(bound.style, bound.explode, bound.name, found)


def _in_header(bound: Bound, value: Raw) -> str:
    if bound.way == "json":
        return header(_compact(value))
    found = parse(bytes(value))
    return header(scalar(found) if bound.way == "text" else simple(found, bound.explode, str))


def _pairs(tool: Tool, bound: Bound, value: Raw, encode: Encode) -> list[Pair]:
    if bound.way == "json":
        return [(encode(bound.name), encode(_compact(value)))]
    found = parse(bytes(value))
    if bound.way == "text":
        return [(encode(bound.name), encode(scalar(found)))]
    if isinstance(found, dict) and bound.explode and bound.style != "deepObject":
        others = {other.name for other in tool.bound if other.place == bound.place}
        if not others.isdisjoint(found):
            raise Unfit("has a member with the name of another parameter")
    return pairs(bound.style, bound.explode, bound.name, found, encode)


def _compact(value: Raw | bytes) -> str:
    return msgspec.json.format(bytes(value), indent=-1).decode()


def _body(body: Body, raw: bytes) -> tuple[str, bytes]:
    """Return the media type and the bytes of a request's body."""
    if body.kind == "json":
        return body.media_type, raw
    if body.kind == "text":
        return f"{body.media_type}; charset=utf-8", scalar(parse(raw)).encode()
    if not raw.startswith(b"{"):
        raise Unfit("a form is an object")
    fields = _members(raw)
    if body.kind == "form":
        found = [pair for name, value in fields.items() for pair in _in_form(name, value, body.encoding.get(name))]
        return body.media_type, written(found).encode()
    boundary = secrets.token_hex(16)  # what it separates cannot know it
    parts = [part for name, value in fields.items() for part in _parts(name, value, body.encoding.get(name))]
    text = b"".join(b"--%b\r\n%b\r\n" % (boundary.encode(), part) for part in parts)
    return f"{body.media_type}; boundary={boundary}", text + b"--%b--\r\n" % boundary.encode()


def _in_form(name: str, value: Raw, said: Encoding | None) -> list[Pair]:
    """Return a field of a form: styled where the document says how, else by the type of its value (4.8.15)."""
    raw = bytes(value)
    with _about(name):
        if said is not None and (said.style, said.explode, said.allowReserved) != (None, None, None):
            if raw == b"null":
                return []
            style = said.style or "form"
            return pairs(style, style == "form" if said.explode is None else said.explode, name, parse(raw), form)
        return [(form(name), form(text)) for text, _ in _texts(value, said)]


def _parts(name: str, value: Raw, said: Encoding | None) -> list[bytes]:
    with _about(name):
        return [
            b'Content-Disposition: form-data; name="%b"\r\nContent-Type: %b\r\n\r\n%b'
            % (name.translate(_PART_NAME).encode(), media_type.encode(), text.encode())
            for text, media_type in _texts(value, said)
        ]


def _texts(value: Raw, said: Encoding | None) -> list[tuple[str, str]]:
    """Return a field's values as texts with their media types: one, or one for each item of a list; null is none."""
    raw = bytes(value)
    if raw == b"null":
        return []
    wanted = header(said.contentType.partition(",")[0].strip()) if said is not None and said.contentType else None
    if wanted is not None and is_json(bare_type(wanted)):
        return [(_compact(raw), wanted)]
    if raw.startswith(b"["):
        items = msgspec.json.decode(raw, type=list[Raw])
        return [text for item in items for text in _texts(item, said)]
    if raw.startswith(b"{"):
        return [(_compact(raw), "application/json")]
    return [(scalar(parse(raw)), wanted or "text/plain; charset=utf-8")]
