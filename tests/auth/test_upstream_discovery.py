"""Where an authorization server is: what is asked for, in which order, and what is believed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpgw.auth.fetch import Fetcher
from mcpgw.auth.upstream.discovery import Challenge, Discovery, challenge_of
from mcpgw.errors import FetchFailed, FetchRefused, GatewayError
from tests.auth.web_site import Site, json_page, site
from tests.parts import SetClock

PRM, AS, OIDC = (
    "/.well-known/oauth-protected-resource",
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
)


@pytest.fixture
async def web() -> AsyncIterator[Site]:
    async with site() as made:
        yield made


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def discovery(clock: SetClock) -> Discovery:
    return Discovery(Fetcher((), allow_loopback=True), clock)


def resource(web: Site, path: str = PRM + "/mcp", **said: Any) -> None:
    good = {"resource": f"{web.base}/mcp", "authorization_servers": [web.base], "scopes_supported": ["a", "b"]}
    web.pages[path] = json_page({**good, **said})


def server(web: Site, path: str = AS, **said: Any) -> None:
    good = {
        "issuer": web.base,
        "authorization_endpoint": f"{web.base}/authorize",
        "token_endpoint": f"{web.base}/token",
        "code_challenge_methods_supported": ["S256"],
    }
    web.pages[path] = json_page({name: value for name, value in {**good, **said}.items() if value is not None})


@pytest.mark.requirement("connect:discovery")
@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Bearer", Challenge()),
        ("", Challenge()),
        ("Basic realm=x", Challenge()),
        ('Bearer realm="r", resource_metadata="http://h/m", scope="a b"', Challenge("http://h/m", ("a", "b"))),
        ("bearer SCOPE=a,error=invalid_token", Challenge(None, ("a",), "invalid_token")),
        ('Basic realm="q, Bearer", Bearer scope="a"', Challenge(None, ("a",))),
        ('Bearer scope="a", DPoP algs="ES256", scope="b"', Challenge(None, ("a",))),
        (r'Bearer resource_metadata="http://h/\"x", scope="a a"', Challenge('http://h/"x', ("a",))),
        ("=" * 9000, Challenge()),
        ('Bearer x="' + "\\" * 9000, Challenge()),
    ],
)
def test_a_challenge_is_read_as_http_writes_it(header: str, said: Challenge) -> None:
    assert challenge_of(header) == said


@pytest.mark.requirement("connect:discovery")
async def test_metadata_of_a_server_is_where_its_challenge_says_or_at_its_path_or_at_the_root(
    web: Site, discovery: Discovery
) -> None:
    resource(web, "/elsewhere", scopes_supported=["told"])
    resource(web, PRM, resource=web.base, scopes_supported=["root"])
    url = f"{web.base}/mcp"

    assert (await discovery.resource(url, Challenge(f"{web.base}/elsewhere"))).scopes == ("told",)
    assert (await discovery.resource(url)).scopes == ("root",)
    resource(web, scopes_supported=["path"])
    found = await discovery.resource(url)
    assert (found.scopes, found.resource, found.issuers) == (("path",), url, (web.base,))
    assert web.asked == ["GET /elsewhere", f"GET {PRM}/mcp", f"GET {PRM}", f"GET {PRM}/mcp"]


@pytest.mark.requirement("connect:discovery")
@pytest.mark.parametrize(
    "named",
    [
        "https://evil.example/mcp",
        "{base}/mcp2",
        "{base}/mcp/deeper",
        "{base}/mcp#fragment",
        "{base}@evil.example/mcp",
        "{base}/mcp?query=1",
        "ftp://127.0.0.1/mcp",
        "//[",
        7,
    ],
)
async def test_metadata_of_another_resource_is_not_believed(web: Site, discovery: Discovery, named: Any) -> None:
    resource(web, resource=named.format(base=web.base) if isinstance(named, str) else named)

    with pytest.raises(FetchFailed, match="another resource"):
        await discovery.resource(f"{web.base}/mcp")


@pytest.mark.requirement("connect:discovery")
async def test_an_issuer_with_a_path_is_asked_for_in_the_order_of_the_protocol(web: Site, discovery: Discovery) -> None:
    issuer = f"{web.base}/tenant"
    server(web, f"/tenant{OIDC}", issuer=issuer)

    found = await discovery.of_issuer(issuer)

    assert (found.issuer, found.token_endpoint, found.pkce) == (issuer, f"{web.base}/token", True)
    assert web.asked == [f"GET {AS}/tenant", f"GET {OIDC}/tenant", f"GET /tenant{OIDC}"]


@pytest.mark.requirement("connect:discovery")
@pytest.mark.parametrize("issuer", ["https://evil.example", "{base}/", "{base}:80", None])
async def test_metadata_of_another_issuer_is_not_believed(web: Site, discovery: Discovery, issuer: str | None) -> None:
    server(web, issuer=issuer.format(base=web.base) if issuer else None)
    server(web, OIDC)

    with pytest.raises(FetchFailed, match="another issuer"):
        await discovery.of_issuer(web.base)
    assert web.asked == [f"GET {AS}"]  # one that lies is not asked elsewhere


@pytest.mark.requirement("connect:discovery")
@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "http://192.0.2.1/x", "https://10.0.0.1/x", "file:///etc/passwd", "/relative", ""]
)
@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "registration_endpoint"])
async def test_nobody_is_sent_to_a_url_that_the_gateway_would_not_ask_itself(
    web: Site, discovery: Discovery, name: str, url: str
) -> None:
    server(web, **{name: url})

    with pytest.raises(FetchRefused):
        await discovery.of_issuer(web.base)


@pytest.mark.requirement("connect:discovery")
@pytest.mark.parametrize(
    "page", [(200, {"Content-Type": "text/html"}, b"<h1>"), json_page([]), json_page({}), (500, {}, b"")]
)
async def test_what_is_no_metadata_is_told_and_not_kept(web: Site, discovery: Discovery, page: Any) -> None:
    web.pages[AS] = page
    with pytest.raises(GatewayError):
        await discovery.of_issuer(web.base)

    server(web)
    assert (await discovery.of_issuer(web.base)).issuer == web.base


@pytest.mark.requirement("connect:discovery")
async def test_metadata_of_an_issuer_is_kept_for_minutes_and_read_anew_when_that_is_wanted(
    web: Site, discovery: Discovery, clock: SetClock
) -> None:
    server(web)
    for _ in range(3):
        await discovery.of_issuer(web.base)
    assert len(web.asked) == 1
    discovery.forget(web.base)
    await discovery.of_issuer(web.base)
    clock.now += 301
    await discovery.of_issuer(web.base)
    assert len(web.asked) == 3
