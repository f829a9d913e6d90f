"""Where clients register themselves: `/oauth/register`, and below it the place of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from mcpgw.domain import Asked
from mcpgw.edge.oauth import body_within, refusal, shared_route

MAX_BYTES = 32_768


class Registrations(Protocol):
    async def respond(
        self, method: str, client_id: str | None, asked: Asked
    ) -> tuple[int, Mapping[str, str], Mapping[str, Any]]:
        """Return status, header fields and JSON object of the answer."""
        ...


def routes(registrations: Registrations) -> list[BaseRoute]:
    """Return the routes of dynamic registration."""

    async def register(request: Request) -> Response:
        body = await body_within(request, MAX_BYTES)
        if body is None:
            return refusal("invalid_client_metadata", "the metadata are larger than any that are read here", 413)
        asked = Asked(
            endpoint=request.url.path,
            body=body,
            content_type=request.headers.get("content-type"),
            authorization=request.headers.get("authorization"),
            source=request.client.host if request.client else None,
        )
        client_id = request.path_params.get("client_id")
        status, headers, document = await registrations.respond(request.method, client_id, asked)
        if status == 204:
            return Response(status_code=status, headers=headers)
        return JSONResponse(document, status, headers=headers)

    return [
        shared_route("/oauth/register", register, "POST"),
        shared_route("/oauth/register/{client_id}", register, "GET", "PUT", "DELETE"),
    ]
