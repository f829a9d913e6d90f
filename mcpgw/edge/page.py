"""How the pages of `edge/pages/` leave: rendered, with headers that keep them from being framed, kept or told about."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mcpgw.errors import ClientGone, GatewayError, InvalidRequest
from mcpgw.ports.front import (
    AccountPage,
    ConnectionsPage,
    ConnectPage,
    ConsentPage,
    Fields,
    MessagePage,
    Query,
    Reply,
    SignInPage,
    Visitor,
)

# Browsers take a cookie of this name over TLS and from loopback alone, for all of the host and for nobody beside it.
SESSION_COOKIE = "__Host-mcpgw-session"
VISIT_COOKIE = "__Host-mcpgw-visit"
MAX_FORM_BYTES = 32_768
MAX_FIELDS = 8
PAGES = Path(__file__).with_name("pages")

_TEMPLATES: Mapping[type, str] = {
    SignInPage: "sign_in.html",
    ConsentPage: "consent.html",
    AccountPage: "account.html",
    ConnectPage: "connect.html",
    ConnectionsPage: "connections.html",
    MessagePage: "message.html",
}
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
Answer = Callable[[Request], Awaitable[Reply]]


class Pages:
    """Answers browsers. `base_url` is the gateway's own; its origin alone may send our forms."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url.lower())
        # As browsers write it: without the port that goes without saying (RFC 6454 §6.1, RFC 9110 §7.2).
        self._host = parts.netloc.removesuffix({"http": ":80", "https": ":443"}[parts.scheme])
        self._origin = f"{parts.scheme}://{self._host}"
        self._local = parts.hostname in _LOOPBACK
        self._templates = Environment(
            loader=FileSystemLoader(PAGES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(moment=_moment, sentence=_sentence)

    def shown(self, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint that answers with a page, or with the way to one."""

        async def endpoint(request: Request) -> Response:
            elsewhere = self._elsewhere(request)
            if elsewhere is not None:
                return self._response(Reply(location=elsewhere))
            try:
                return self._response(await answer(request))
            except GatewayError as error:
                page = MessagePage(title="That did not work", text=error.message, fix=error.fix)
                return self._response(Reply(page=page, status=error.wire.status))

        return endpoint

    def posted(self, answer: Callable[[Request, Fields], Awaitable[Reply]]) -> Callable[[Request], Awaitable[Response]]:
        """The same for a form, which counts when a page of ours sent it."""

        async def read(request: Request) -> Reply:
            if not self.from_us(request):
                text = "The form was sent by a page that is not ours, or by no browser."
                return Reply(page=MessagePage(title="That came from elsewhere", text=text), status=403)
            return await answer(request, await _form(request))

        return self.shown(read)

    def from_us(self, request: Request) -> bool:
        """Whether a page of ours sent a request: with all that is no GET, browsers name the origin truthfully."""
        return request.headers.get("origin", "").lower() == self._origin

    def _elsewhere(self, request: Request) -> str | None:
        """Return our own spelling of a URL on loopback: `localhost` and `127.0.0.1` have cookies of their own each."""
        host = request.headers.get("host", "").lower()
        named = urlsplit(f"//{host}").hostname
        if not self._local or host == self._host or named not in _LOOPBACK or request.method not in {"GET", "HEAD"}:
            return None
        query = request.url.query
        return f"{self._origin}{request.url.path}{'?' if query else ''}{query}"

    def _response(self, reply: Reply) -> Response:
        if reply.page is None:
            headers = {**_HEADERS, "Location": reply.location or "/", "Referrer-Policy": "no-referrer"}
            response = Response(status_code=303, headers=headers)
        else:
            text = self._templates.get_template(_TEMPLATES[type(reply.page)]).render(page=reply.page)
            targets = " ".join(("'self'", *reply.form_targets))
            policy = (
                f"default-src 'none'; style-src 'self'; form-action {targets}; frame-ancestors 'none'; base-uri 'none'"
            )
            # Not `no-referrer`: with that a browser sends forms with `Origin: null` (Fetch §3.2), as any page could.
            headers = {**_HEADERS, "Content-Security-Policy": policy, "Referrer-Policy": "same-origin"}
            response = Response(text, reply.status, headers=headers, media_type="text/html")
        for name, value in ((SESSION_COOKIE, reply.session), (VISIT_COOKIE, reply.visit)):
            if value is not None:
                life = "" if value else "; Max-Age=0"
                response.headers.append("Set-Cookie", f"{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax{life}")
        return response


def visitor(request: Request) -> Visitor:
    return Visitor(
        session=request.cookies.get(SESSION_COOKIE) or None,
        visit=request.cookies.get(VISIT_COOKIE) or None,
        source=request.client.host if request.client else None,
    )


def query_of(request: Request) -> Query:
    """Return the query, with all values of what came more than once."""
    found: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def one_of(request: Request, name: str) -> str:
    """Return a parameter of the query that is there once, or nothing."""
    value = query_of(request).get(name)
    return value if isinstance(value, str) else ""


async def _form(request: Request) -> Fields:
    """Return the fields of a form. Raises InvalidRequest."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > MAX_FORM_BYTES:
                raise InvalidRequest("the form is larger than any of ours")
    except ClientDisconnect:
        raise ClientGone("the browser went away before its form was complete") from None
    try:
        if kind != "application/x-www-form-urlencoded":
            raise ValueError
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError:
        raise InvalidRequest("the form cannot be read") from None
    return dict(fields)


def _moment(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _sentence(text: str) -> str:
    """Return the words of an error as a page has them."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
