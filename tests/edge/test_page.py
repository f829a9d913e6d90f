"""Which pages are our own: origins and hosts, as browsers write them."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.responses import Response

from mcpgw.edge.page import Pages
from mcpgw.ports.front import MessagePage, Reply

PAGE = Reply(page=MessagePage(title="Here", text="it is"))


def request(method: str = "GET", path: str = "/console/", query: str = "", **headers: str) -> Request:
    return Request(
        {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "server": ("127.0.0.1", 8080),
            "scheme": "http",
        }
    )


@pytest.mark.requirement("front:csrf")
@pytest.mark.parametrize(
    ("base", "origin", "ours"),
    [
        ("https://mcp.example", "https://mcp.example", True),
        ("https://MCP.example:443/", "https://mcp.example", True),
        ("http://127.0.0.1:80", "http://127.0.0.1", True),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080", True),
        ("http://[::1]:8080", "http://[::1]:8080", True),
        ("https://mcp.example", "http://mcp.example", False),
        ("https://mcp.example", "https://mcp.example:8443", False),
        ("https://mcp.example", "https://evil.mcp.example", False),
        ("https://mcp.example", "https://mcp.example.evil.example", False),
        ("http://127.0.0.1:8080", "http://localhost:8080", False),
        ("http://127.0.0.1:8080", "null", False),
        ("http://127.0.0.1:8080", "", False),
    ],
)
def test_a_form_is_ours_when_its_origin_is(base: str, origin: str, ours: bool) -> None:
    assert Pages(base).from_us(request("POST", origin=origin)) is ours


@pytest.mark.requirement("front:console")
@pytest.mark.parametrize(
    ("base", "host", "location"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", None),
        ("http://127.0.0.1:8080", "localhost:8080", "http://127.0.0.1:8080/console/?a=1"),
        ("http://127.0.0.1:8080", "[::1]:8080", "http://127.0.0.1:8080/console/?a=1"),
        ("http://127.0.0.1:80", "127.0.0.1", None),
        ("http://127.0.0.1:80", "localhost", "http://127.0.0.1/console/?a=1"),
        # Behind a proxy, whatever host that writes: it would do so again.
        ("https://mcp.example", "127.0.0.1:8080", None),
        ("https://mcp.example", "mcp.example", None),
    ],
)
async def test_a_page_on_loopback_has_one_name(base: str, host: str, location: str | None) -> None:
    async def here(_: Request) -> Reply:
        return PAGE

    response: Response = await Pages(base).shown(here)(request(query="a=1", host=host))
    assert response.headers.get("location") == location
    assert response.status_code == (200 if location is None else 303)
