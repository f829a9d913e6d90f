"""The web console: for now the page of one's own account."""

from __future__ import annotations

from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from mcpgw.edge.page import Pages, visitor
from mcpgw.ports.front import Fields, Front, Reply


def routes(front: Front, pages: Pages) -> list[BaseRoute]:
    """Return the routes of the console."""

    async def account(request: Request) -> Reply:
        return await front.account(visitor(request))

    async def revoke(request: Request, fields: Fields) -> Reply:
        return await front.revoke(fields, visitor(request))

    return [
        Route("/console/", pages.shown(account), methods=["GET"]),
        Route("/console", pages.shown(account), methods=["GET"]),
        Route("/console/revoke", pages.posted(revoke), methods=["POST"]),
    ]
