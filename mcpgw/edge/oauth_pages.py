"""What people see of our authorization server: sign-in, consent, sign-out, and what went wrong."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpgw.edge.page import PAGES, Pages, one_of, query_of, visitor
from mcpgw.ports.front import Fields, Front, Reply

_ONE_HOUR = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}


def routes(front: Front, pages: Pages) -> list[BaseRoute]:
    """Return the routes of the pages. None of them takes a credential but the cookies."""
    style = (PAGES / "style.css").read_bytes()

    async def authorize(request: Request) -> Reply:
        return await front.authorize(query_of(request), visitor(request))

    async def consent(request: Request) -> Reply:
        return await front.resume(one_of(request, "request"), visitor(request))

    async def decide(request: Request, fields: Fields) -> Reply:
        return await front.decide(fields, visitor(request))

    async def sign_in_page(request: Request) -> Reply:
        return await front.sign_in_page(visitor(request))

    async def sign_in(request: Request, fields: Fields) -> Reply:
        return await front.sign_in(fields, visitor(request))

    async def to_provider(request: Request) -> Reply:
        return await front.to_provider(one_of(request, "form"), visitor(request))

    async def from_provider(request: Request) -> Reply:
        return await front.from_provider(query_of(request), visitor(request))

    async def sign_out(request: Request, fields: Fields) -> Reply:
        return await front.sign_out(fields, visitor(request))

    async def stylesheet(_: Request) -> Response:
        return Response(style, media_type="text/css", headers=_ONE_HOUR)

    return [
        Route("/oauth/authorize", pages.shown(authorize), methods=["GET"]),
        Route("/oauth/consent", pages.shown(consent), methods=["GET"]),
        Route("/oauth/consent", pages.posted(decide), methods=["POST"]),
        Route("/oauth/sign-in", pages.shown(sign_in_page), methods=["GET"]),
        Route("/oauth/sign-in", pages.posted(sign_in), methods=["POST"]),
        Route("/oauth/sign-in/provider", pages.shown(to_provider), methods=["GET"]),
        Route("/oauth/sign-in/callback", pages.shown(from_provider), methods=["GET"]),
        Route("/oauth/sign-out", pages.posted(sign_out), methods=["POST"]),
        Route("/oauth/style.css", stylesheet, methods=["GET"]),
    ]
