"""The HTTP side of our authorization server and of discovery, as far as it is JSON: `/oauth/*`, `/.well-known/*`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcpgw.domain import Asked

MAX_FORM_BYTES = 65_536
_NO_STORE = {"Cache-Control": "no-store"}
_SHORT_LIVED = {"Cache-Control": "public, max-age=300"}
_PREFLIGHT = {
    "Access-Control-Allow-Headers": "Authorization, Content-Type, MCP-Protocol-Version",
    "Access-Control-Max-Age": "600",
}
Endpoint = Callable[[Request], Awaitable[Response]]


class FormEndpoint(Protocol):
    async def respond(self, asked: Asked) -> tuple[int, Mapping[str, str], Mapping[str, Any]]:
        """Return status, header fields and JSON object of the answer to one POST."""
        ...


class Metadata(Protocol):
    def protected_resource(self, path: str) -> Mapping[str, Any] | None:
        """Return the metadata of the endpoint at `path` ("" for the root document), or None."""
        ...

    def authorization_server(self) -> Mapping[str, Any]: ...

    def jwks(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FormEndpoints:
    """Where clients send forms."""

    token: FormEndpoint
    revoke: FormEndpoint
    introspect: FormEndpoint
    par: FormEndpoint


def routes(forms: FormEndpoints, metadata: Metadata) -> list[Route]:
    """Return the routes of discovery and of the endpoints that clients themselves ask."""
    return [
        *_discovery(metadata),
        shared_route("/oauth/token", _form(forms.token), "POST"),
        shared_route("/oauth/revoke", _form(forms.revoke), "POST"),
        shared_route("/oauth/introspect", _form(forms.introspect), "POST"),
        shared_route("/oauth/par", _form(forms.par), "POST"),
    ]


def _discovery(metadata: Metadata) -> list[Route]:
    async def protected_resource(request: Request) -> Response:
        path = request.path_params.get("path")
        document = metadata.protected_resource("" if path is None else f"/{path}")
        if document is None:
            return JSONResponse({"error": "not_found", "error_description": "no endpoint of that shape"}, 404)
        return JSONResponse(document, headers=_SHORT_LIVED)

    async def authorization_server(request: Request) -> Response:
        return JSONResponse(metadata.authorization_server(), headers=_SHORT_LIVED)

    async def jwks(request: Request) -> Response:
        return JSONResponse(metadata.jwks(), headers=_SHORT_LIVED)

    return [
        shared_route("/.well-known/oauth-protected-resource", protected_resource, "GET"),
        shared_route("/.well-known/oauth-protected-resource/{path:path}", protected_resource, "GET"),
        shared_route("/.well-known/oauth-authorization-server", authorization_server, "GET"),
        shared_route("/.well-known/openid-configuration", authorization_server, "GET"),
        shared_route("/.well-known/jwks.json", jwks, "GET"),
    ]


def shared_route(path: str, answer: Endpoint, *methods: str) -> Route:
    """Return a route that web pages of a listed origin may ask too; never with cookies.

    The guard has refused every other origin before.
    """

    async def shared(request: Request) -> Response:
        origin = request.headers.get("origin")
        if request.method == "OPTIONS":
            response = Response(status_code=204, headers={"Allow": ", ".join((*methods, "OPTIONS"))})
            if origin is not None:
                response.headers.update({**_PREFLIGHT, "Access-Control-Allow-Methods": ", ".join(methods)})
        else:
            response = await answer(request)
        if origin is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "WWW-Authenticate, Retry-After"
        response.headers["Vary"] = "Origin"
        return response

    return Route(path, shared, methods=[*methods, "OPTIONS"])


def _form(endpoint: FormEndpoint) -> Endpoint:
    async def form(request: Request) -> Response:
        body = await body_within(request, MAX_FORM_BYTES)
        if body is None:
            return refusal("invalid_request", "the form is larger than any that is read here", 413)
        asked = Asked(
            endpoint=request.url.path,
            body=body,
            content_type=request.headers.get("content-type"),
            authorization=request.headers.get("authorization"),
            source=request.client.host if request.client else None,
        )
        status, headers, document = await endpoint.respond(asked)
        return JSONResponse(document, status, headers=headers)

    return form


async def body_within(request: Request, max_bytes: int) -> bytes | None:
    """Return the body, or None when it is larger, or when the client went away: nobody reads the answer then."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                return None
    except ClientDisconnect:
        return None
    return body


def refusal(error: str, description: str, status: int) -> Response:
    return JSONResponse({"error": error, "error_description": description}, status, headers=_NO_STORE)
