"""The HTTP side of our authorization server and of discovery: `/oauth/*` and `/.well-known/*`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MAX_FORM_BYTES = 16_384
_NO_STORE = {"Cache-Control": "no-store"}
_SHORT_LIVED = {"Cache-Control": "public, max-age=300"}
Endpoint = Callable[[Request], Awaitable[Response]]


class TokenEndpoint(Protocol):
    def respond(
        self, *, authorization: str | None, content_type: str | None, body: bytes, source: str | None
    ) -> tuple[int, Mapping[str, str], Mapping[str, Any]]:
        """Return status, header fields and JSON object of the answer to one token request."""
        ...


class Metadata(Protocol):
    def protected_resource(self, path: str) -> Mapping[str, Any] | None:
        """Return the metadata of the endpoint at `path` ("" for the root document), or None."""
        ...

    def authorization_server(self) -> Mapping[str, Any]: ...

    def jwks(self) -> Mapping[str, Any]: ...


def routes(tokens: TokenEndpoint, metadata: Metadata) -> list[Route]:
    """Return the routes of discovery and of the token endpoint; none of them asks for a credential of ours."""

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
        Route("/.well-known/oauth-protected-resource", protected_resource, methods=["GET"]),
        Route("/.well-known/oauth-protected-resource/{path:path}", protected_resource, methods=["GET"]),
        Route("/.well-known/oauth-authorization-server", authorization_server, methods=["GET"]),
        Route("/.well-known/jwks.json", jwks, methods=["GET"]),
        Route("/oauth/token", _token(tokens), methods=["POST"]),
        Route("/oauth/authorize", _authorize, methods=["GET", "POST"]),
    ]


def _token(tokens: TokenEndpoint) -> Endpoint:
    async def token(request: Request) -> Response:
        body = await _body(request)
        if body is None:
            return _refusal("invalid_request", "the form is larger than a token request can be", 413)
        status, headers, document = tokens.respond(
            authorization=request.headers.get("authorization"),
            content_type=request.headers.get("content-type"),
            body=body,
            source=request.client.host if request.client else None,
        )
        return JSONResponse(document, status, headers=headers)

    return token


async def _authorize(request: Request) -> Response:
    # Never a redirect: no client has a registered redirect_uri that could be trusted (RFC 6749 §4.1.2.1).
    return _refusal("unsupported_response_type", "this server grants client_credentials alone, at /oauth/token", 400)


async def _body(request: Request) -> bytes | None:
    """Return the body, or None when it is larger than any token request."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return None
    return body


def _refusal(error: str, description: str, status: int) -> Response:
    return JSONResponse({"error": error, "error_description": description}, status, headers=_NO_STORE)
