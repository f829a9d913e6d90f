"""The pooled client over TLS, with an authority of our own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcpgw.config import LimitsSection
from mcpgw.errors import UpstreamFailed, UpstreamUnreachable
from mcpgw.upstream import http
from mcpgw.upstream.http import HttpClient, Url
from tests.fixtures.authority import Authority
from tests.fixtures.raw_http import Peer, always, answer, once, serve


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    made = Authority.create(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.certificate))
    return made


@pytest.fixture
async def client(authority: Authority) -> AsyncIterator[HttpClient]:
    made = HttpClient(LimitsSection(), lambda address: True)
    yield made
    await made.aclose()


async def fetch(client: HttpClient, url: str) -> bytes:
    response = await client.request(b"POST", Url.parse(url), [], b"{}", lambda: None)
    return await response.body()


@pytest.mark.requirement("http:tls")
async def test_a_server_that_proves_its_name_is_spoken_to_over_one_kept_connection(
    client: HttpClient, authority: Authority
) -> None:
    names: list[Any] = []
    context = authority.server("localhost")
    context.sni_callback = lambda _, name, __: names.append(name)
    async with serve(always(answer(b"secret")), context=context) as server:
        for _ in range(3):
            assert await fetch(client, server.url) == b"secret"
    assert server.connections == 1
    assert names == ["localhost"]


@pytest.mark.requirement("http:tls")
async def test_a_large_answer_and_a_large_request_pass(client: HttpClient, authority: Authority) -> None:
    async with serve(always(answer(b"x" * 3_000_000)), context=authority.server("localhost")) as server:
        response = await client.request(b"POST", Url.parse(server.url), [], b"y" * 3_000_000, lambda: None)
        assert len(b"".join([chunk async for chunk in response.chunks()])) == 3_000_000
    assert len(server.requests[0]) > 3_000_000


@pytest.mark.requirement("http:tls")
async def test_a_server_at_an_address_proves_the_address(client: HttpClient, authority: Authority) -> None:
    async with serve(always(answer(b"ok")), context=authority.server("127.0.0.1")) as server:
        assert await fetch(client, server.url.replace("localhost", "127.0.0.1")) == b"ok"


@pytest.mark.requirement("http:tls")
@pytest.mark.parametrize(("host", "expired"), [("other.example", False), ("localhost", True)])
async def test_a_server_that_does_not_prove_its_name_is_sent_nothing(
    client: HttpClient, authority: Authority, host: str, expired: bool
) -> None:
    async with serve(always(answer()), context=authority.server(host, expired=expired)) as server:
        with pytest.raises(UpstreamUnreachable, match="not trusted"):
            await fetch(client, server.url)
    assert server.requests == []


@pytest.mark.requirement("http:tls")
async def test_a_stranger_among_authorities_is_not_trusted(client: HttpClient, tmp_path: Path) -> None:
    (tmp_path / "stranger").mkdir()
    stranger = Authority.create(tmp_path / "stranger")
    async with serve(always(answer()), context=stranger.server("localhost")) as server:
        with pytest.raises(UpstreamUnreachable, match="not trusted"):
            await fetch(client, server.url)
    assert server.requests == []


async def test_a_server_without_tls_is_not_spoken_to(client: HttpClient) -> None:
    async with serve(once(answer())) as server:
        with pytest.raises(UpstreamUnreachable):
            await fetch(client, server.url.replace("http:", "https:"))


@pytest.mark.requirement("http:tls")
async def test_the_context_is_built_once_and_not_on_the_loop(
    client: HttpClient, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_loop: list[bool] = []
    build = http.tls_context

    def counted() -> ssl.SSLContext:
        on_loop.append(asyncio._get_running_loop() is not None)
        return build()

    monkeypatch.setattr(http, "tls_context", counted)
    script = always(answer(b"1", b"connection: close"))
    async with serve(script, context=authority.server("localhost")) as server:
        assert await asyncio.gather(*(fetch(client, server.url) for _ in range(5))) == [b"1"] * 5
        assert await fetch(client, server.url) == b"1"
    assert server.connections == 6
    assert on_loop == [False]


@pytest.mark.requirement("http:tls")
async def test_an_answer_cut_inside_tls_is_an_error(client: HttpClient, authority: Authority) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")

    async with serve(script, context=authority.server("localhost")) as server:
        with pytest.raises(UpstreamFailed, match="inside its answer"):
            await fetch(client, server.url)
