"""The web console's place: this version has none, and says so."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

_WORDS = """mcpgw has no web console in this version.

Use the commands (`mcpgw --help`), or the admin API they use (/admin/openapi.json).
"""


def routes() -> list[BaseRoute]:
    """Return the routes of the console."""

    async def console(_: Request) -> Response:
        return PlainTextResponse(_WORDS)

    return [Route("/console/", console), Route("/console", console)]
