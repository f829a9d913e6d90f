"""Where people agree that a server is called in their name: `/oauth/connect/{server}` and the way back from there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mcpgw.edge.page import Pages, one_of, query_of, visitor
from mcpgw.ports.front import Connecting, Fields, Reply

_SLUG = "{slug:str}"
_OURS = re.compile(r"[a-z0-9][a-z0-9-]{0,23}")
_SHORT_LIVED = {"Cache-Control": "public, max-age=300"}
Document = Callable[[str, bool], Mapping[str, Any]]
"""Our client metadata document for a server; true: the one of a client that has no key."""


def routes(connecting: Connecting, pages: Pages, document: Document) -> list[BaseRoute]:
    """Return the routes. Their credentials are the cookies, a sealed ticket, and a state that counts once."""

    async def page(request: Request) -> Reply:
        return await connecting.page(_slug(request), one_of(request, "ticket"), visitor(request))

    async def decide(request: Request, fields: Fields) -> Reply:
        return await connecting.decide(_slug(request), fields, visitor(request))

    async def connections(request: Request) -> Reply:
        return await connecting.connections(visitor(request))

    async def disconnect(request: Request, fields: Fields) -> Reply:
        return await connecting.disconnect(fields, visitor(request))

    async def returned(request: Request) -> Reply:
        return await connecting.returned(_slug(request), query_of(request), visitor(request))

    async def metadata(request: Request) -> Response:
        slug, public = _slug(request), False
        if slug.endswith(".public"):
            slug, public = slug.removesuffix(".public"), True
        if not _OURS.fullmatch(slug):
            return JSONResponse({"error": "not_found", "error_description": "no server can be called that"}, 404)
        return JSONResponse(document(slug, public), headers=_SHORT_LIVED)

    return [
        Route(f"/oauth/connect/{_SLUG}", pages.shown(page), methods=["GET"]),
        Route(f"/oauth/connect/{_SLUG}", pages.posted(decide), methods=["POST"]),
        Route("/oauth/connections", pages.shown(connections), methods=["GET"]),
        Route("/oauth/connections", pages.posted(disconnect), methods=["POST"]),
        Route(f"/oauth/callback/{_SLUG}", pages.shown(returned), methods=["GET"]),
        Route(f"/oauth/client-metadata/{_SLUG}.json", metadata, methods=["GET"]),
    ]


def _slug(request: Request) -> str:
    slug: str = request.path_params["slug"]
    return slug
