"""The admin API's door: authenticate, check the scope of the row, read strictly, answer JSON.

Order: size, then authentication (401), scope (403), content (400), then the operation. Every refusal of a caller is
recorded before it is answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from mcpgw.domain import Principal
from mcpgw.edge import admin_schema as schema
from mcpgw.edge.admin_openapi import document
from mcpgw.edge.admin_routes import OPERATIONS, Ask, Operation
from mcpgw.edge.page import SESSION_COOKIE, Pages
from mcpgw.edge.render import as_gateway_error
from mcpgw.edge.services import Json, Services
from mcpgw.edge.strict_json import JsonLimits
from mcpgw.errors import (
    ClientGone,
    ForbiddenOrigin,
    GatewayError,
    InsufficientScope,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthenticated,
    UnsupportedMedia,
)
from mcpgw.ports.front import Front

PREFIX = "/admin/v1"
REQUEST_HEADER = "x-mcpgw-request"
"""Header, of the value 1, without which no request with a session changes anything."""
DEV_WARNING = "dev_no_auth: everyone may do everything; for development on this machine only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What stands before the operations.

    `authenticate` returns who asks, for resource /admin/v1, or raises Unauthenticated. `challenge` gives the value of
    WWW-Authenticate for a 401 or 403. `refused` records a refused caller (None: not authenticated).
    """

    authenticate: Callable[[Request], Awaitable[Principal]]
    challenge: Callable[[Request, GatewayError], str]
    refused: Callable[[Request, Principal | None, GatewayError], Awaitable[None]]
    max_body_bytes: int = 1_048_576
    json: JsonLimits = field(default_factory=JsonLimits)
    dev_no_auth: bool = False


def routes(services: Services, door: Door) -> list[BaseRoute]:
    """Return the routes of the admin API, its description, and of health and readiness."""
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    description = msgspec.json.encode(document(OPERATIONS, PREFIX))

    async def openapi(_: Request) -> Response:
        return Response(description, media_type="application/json")

    async def healthz(_: Request) -> Response:
        return _json({"status": "ok"})

    async def readyz(_: Request) -> Response:
        ready, parts = services.status.ready()
        warnings = {"warnings": [DEV_WARNING]} if door.dev_no_auth else {}
        return _json({"ready": ready, **parts, **warnings}, 200 if ready else 503)

    return [
        *(Route(PREFIX + path, _Path(rows, services, door)) for path, rows in by_path.items()),
        Route("/admin/openapi.json", openapi),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route(PREFIX + "/{rest:path}", _Path({}, services, door)),
    ]


class _Path:
    """All operations of one path."""

    def __init__(self, rows: Mapping[str, Operation], services: Services, door: Door) -> None:
        self._rows = rows
        self._services = services
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Exception as error:  # noqa: BLE001 (whatever it is, it becomes an answer, and goes to the log)
            response = self._refusal(request, as_gateway_error(error))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._door.max_body_bytes:
            raise self._too_large()
        row = self._rows.get(request.method)
        who = await self._admit(request, row)
        if row is None:
            raise self._no_such(request)
        given = await self._given(request, row)
        answer = await row.run(self._services, Ask(who, request.path_params, given))
        return _json(answer, 202 if answer.get("missing") else row.status)

    async def _admit(self, request: Request, row: Operation | None) -> Principal:
        """Return who asks, if they may. Raises Unauthenticated, InsufficientScope; both are recorded."""
        who = None
        try:
            who = await self._door.authenticate(request)
            if row is not None and row.scope not in who.scopes:
                raise InsufficientScope(
                    f"{row.method} {PREFIX}{row.path} needs the scope {row.scope}",
                    fix="use a key or token whose role has it",
                    data={"scope": row.scope},
                )
        except GatewayError as error:
            await self._door.refused(request, who, error)
            raise
        return who

    async def _given(self, request: Request, row: Operation) -> schema.Body:
        body = await self._body(request)
        if row.method == "GET" and body:
            raise UnsupportedMedia("a GET has no body here", fix="use the query")
        query = request.query_params.multi_items()
        if row.method == "GET" or (row.method == "DELETE" and not body):
            return schema.from_query(row.given, query)
        if query:
            schema.from_query(schema.Nothing, query)
        if body and request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise UnsupportedMedia("the body is not declared as JSON", fix="send Content-Type: application/json")
        return schema.from_body(row.given, body, self._door.json)

    async def _body(self, request: Request) -> bytes:
        parts, size = [], 0
        try:
            async for part in request.stream():
                size += len(part)
                if size > self._door.max_body_bytes:
                    raise self._too_large()
                parts.append(part)
        except ClientDisconnect:
            raise ClientGone("the client went away before its request was complete") from None
        return b"".join(parts)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the request body is larger than {self._door.max_body_bytes} bytes",
            fix="send less, or raise limits.body_bytes",
        )

    def _no_such(self, request: Request) -> GatewayError:
        if self._rows:
            allowed = ", ".join(self._rows)
            return MethodNotAllowed(f"{request.method} is not possible here", fix=f"allowed: {allowed}")
        return NotFound("no such path in the admin API", fix="/admin/openapi.json lists them all")

    def _refusal(self, request: Request, error: GatewayError) -> Response:
        response = _json(described(error), error.wire.status)
        if isinstance(error, Unauthenticated | InsufficientScope):
            response.headers["WWW-Authenticate"] = self._door.challenge(request, error)
        if isinstance(error, MethodNotAllowed):
            response.headers["Allow"] = ", ".join(self._rows)
        if error.wire.status == 429:
            response.headers["Retry-After"] = str(error.data.get("retry_after_s", 1))
        return response


async def signed_in(request: Request, front: Front, pages: Pages) -> Principal | None:
    """Return who asks with a browser's session; None where there is no such cookie, or a credential beside it.

    A browser sends the cookie whichever page asks. So what is no GET comes with our own origin, which no page can
    forge, and with a header that no form can send. Raises Unauthenticated, ForbiddenOrigin.
    """
    cookie = request.cookies.get(SESSION_COOKIE)
    if not cookie or "authorization" in request.headers:
        return None
    ours = pages.from_us(request) and request.headers.get(REQUEST_HEADER) == "1"
    if request.method not in {"GET", "HEAD"} and not ours:
        raise ForbiddenOrigin("a session changes things from our own pages alone", fix="send X-Mcpgw-Request: 1")
    who = await front.administrator(cookie)
    if who is None:
        raise Unauthenticated("the session has ended", fix="sign in again at /console/")
    return who


def described(error: GatewayError) -> Json:
    """Return an error as the admin API words it."""
    return {
        "error": {"code": error.code, "message": error.message, "fix": error.fix, "data": dict(error.data)},
    }


def _json(value: Json, status: int = 200) -> Response:
    # Answers hold keys and the log: no cache may keep them.
    return Response(
        msgspec.json.encode(value), status, media_type="application/json", headers={"Cache-Control": "no-store"}
    )
