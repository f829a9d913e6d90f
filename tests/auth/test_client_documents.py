"""Clients that are the URL of a document about them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcpgw.auth.fetch import Fetcher
from mcpgw.auth.server.clients import Clients
from mcpgw.auth.server.documents import Documents
from mcpgw.domain import KillSwitch, Mode, Scope, State, Switches
from mcpgw.errors import FetchFailed, FetchRefused, GatewayError, InvalidRequest
from mcpgw.store.memory import MemoryStore
from tests.auth.parts import SettableClock, StoreWorlds, a_client, world_of
from tests.auth.web_site import Site, json_page, site
from tests.fixtures.authority import Authority


@pytest.fixture
async def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    authority = Authority.create(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    async with site(authority.server("127.0.0.1")) as made:
        yield made


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def documents(clock: SettableClock) -> Documents:
    return Documents(Fetcher((), allow_loopback=True), clock, schemes=("cursor",))


@pytest.mark.requirement("front:documents")
async def test_the_document_says_what_the_client_is(web: Site, documents: Documents) -> None:
    jwks = {"keys": [{"kty": "EC", "crv": "P-256", "x": "x", "y": "y", "kid": "1"}]}
    url = web.document(
        "/client.json",
        client_name="Notebook ",
        client_uri="https://notebook.example/",
        scope="mcp:use openid",
        token_endpoint_auth_method="private_key_jwt",
        jwks=jwks,
        unknown_member={"any": "thing"},
    )
    client = await documents.client(url)
    assert (client.client_id, client.title, client.auth_method) == (url, "Notebook", "private_key_jwt")
    assert client.redirect_uris == ("https://notebook.example/callback",)
    assert client.grants == {"authorization_code", "refresh_token"}
    assert (client.scopes, client.jwks) == ({"mcp:use"}, jwks)
    assert (client.roles, client.subject, client.digest) == (frozenset(), "", "")
    assert client.about == {"client_uri": "https://notebook.example/"}


@pytest.mark.requirement("front:documents")
async def test_what_a_document_leaves_out_is_that_of_a_public_client(web: Site, documents: Documents) -> None:
    url = web.document("/client.json", token_endpoint_auth_method=None, grant_types=None)
    client = await documents.client(url)
    assert (client.auth_method, client.grants, client.scopes) == ("none", {"authorization_code"}, None)


@pytest.mark.requirement("front:documents")
@pytest.mark.parametrize(
    "said",
    [
        {"client_id": "https://other.example/client.json"},
        {"client_id": None},
        {"client_id": 7},
        {"client_name": None},
        {"client_name": ""},
        {"client_name": "Note\u202ebook"},
        {"client_name": "x" * 300},
        {"redirect_uris": None},
        {"redirect_uris": []},
        {"redirect_uris": "https://notebook.example/callback"},
        {"redirect_uris": ["javascript:alert(1)"]},
        {"redirect_uris": ["http://notebook.example/callback"]},
        {"redirect_uris": [f"https://notebook.example/{n}" for n in range(17)]},
        {"client_secret": "hush"},
        {"client_secret_expires_at": 0},
        {"token_endpoint_auth_method": "client_secret_basic"},
        {"token_endpoint_auth_method": "client_secret_post"},
        {"token_endpoint_auth_method": "client_secret_jwt"},
        {"token_endpoint_auth_method": "private_key_jwt"},
        {"grant_types": ["implicit"]},
        {"response_types": ["token"]},
        {"jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}},
        {"jwks": {"keys": [{"kty": "EC", "crv": "P-256", "x": "x", "y": "y", "d": "d"}]}},
        {"jwks": {"keys": []}},
        {"jwks": [], "token_endpoint_auth_method": "private_key_jwt"},
        {"jwks_uri": "javascript:alert(1)"},
        {"jwks_uri": "http://notebook.example/jwks"},
        {"logo_uri": "data:image/png;base64,AAAA"},
        {"client_uri": "javascript:alert(1)"},
    ],
    ids=lambda said: ascii(said)[:70],
)
async def test_a_document_that_lies_or_is_unsafe_makes_no_client(
    web: Site, documents: Documents, said: dict[str, Any]
) -> None:
    url = web.document("/client.json", **said)
    if said.get("client_id", "") is None or "client_id" not in said:
        url = f"{web.base}/client.json"
    with pytest.raises(InvalidRequest) as refusal:
        await documents.client(url)
    assert "notebook" not in str(refusal.value).lower()


@pytest.mark.requirement("front:documents")
@pytest.mark.parametrize(
    "page",
    [
        json_page({}, 404),
        json_page({}, 500),
        json_page({}, 302, Location="/client2.json"),
        (200, {"Content-Type": "text/html"}, b"<html>"),
        (200, {"Content-Type": "application/json"}, b"[]"),
        (200, {"Content-Type": "application/json"}, b'{"client_id": 1, "client_id": 2}'),
        (200, {"Content-Type": "application/json"}, b"{" * 10_000),
        (200, {"Content-Type": "application/json"}, b'{"x": "' + b"x" * 20_000 + b'"}'),
    ],
    ids=["404", "500", "redirect", "html", "list", "twice", "deep", "large"],
)
async def test_what_is_no_document_makes_no_client_and_no_redirect_is_followed(
    web: Site, documents: Documents, page: Any
) -> None:
    web.document("/client2.json", client_id=f"{web.base}/client.json")
    web.pages["/client.json"] = page
    with pytest.raises(FetchFailed):
        await documents.client(f"{web.base}/client.json")
    assert web.asked == ["GET /client.json"]


@pytest.mark.requirement("front:documents")
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/client.json",
        "https://notebook.example",
        "https://user@notebook.example/client.json",
        "https://user:word@notebook.example/client.json",
        "https://notebook.example/client.json#x",
        "https://notebook.example/a/../client.json",
        "https://notebook.example/a/%2e%2E/client.json",
        "https://notebook.example/./client.json",
        "https://notebook.example/..",
        "https://notebook.example\\@evil.example/client.json",
        "https://notebook.example /client.json",
        "https:///client.json",
        "https://nötebook.example/client.json",
        "https://notebook.example/" + "x" * 3000,
        "HTTPS://notebook.example/client.json",
    ],
    ids=lambda url: ascii(url)[:60],
)
async def test_only_a_plain_https_url_with_a_path_is_asked_for(documents: Documents, url: str) -> None:
    with pytest.raises(InvalidRequest):
        await documents.client(url)


@pytest.mark.requirement("front:documents")
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "2130706433", "0x7f.1", "0177.0.0.1"]
)
async def test_a_url_that_leads_inside_is_not_asked_for(clock: SettableClock, host: str) -> None:
    outside = Documents(Fetcher((), allow_loopback=False), clock)
    with pytest.raises(FetchRefused):
        await outside.client(f"https://{host}/latest/meta-data")


@pytest.mark.requirement("front:document-cache")
@pytest.mark.parametrize(
    ("control", "fresh_s"),
    [
        ({"Cache-Control": "max-age=3600"}, 3600),
        ({"Cache-Control": "public, max-age=3600", "Age": "600"}, 3000),
        ({"Cache-Control": "max-age=999999999"}, 86_400),
        ({"Cache-Control": "max-age=1"}, 60),
        ({"Cache-Control": "no-store"}, 60),
        ({"Expires": "0"}, 60),
        ({}, 300),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_document_is_kept_as_long_as_http_says_within_bounds(
    web: Site, documents: Documents, clock: SettableClock, control: dict[str, str], fresh_s: int
) -> None:
    url = web.document("/client.json")
    status, headers, body = web.pages["/client.json"]
    web.pages["/client.json"] = status, {**headers, **control}, body
    await documents.client(url)
    clock.now += fresh_s - 1
    await documents.client(url)
    assert len(web.asked) == 1
    clock.now += 1
    await documents.client(url)
    assert len(web.asked) == 2


@pytest.mark.requirement("front:document-cache")
async def test_a_site_that_is_away_is_believed_for_a_while_and_one_that_lies_is_not(
    web: Site, documents: Documents, clock: SettableClock
) -> None:
    url = web.document("/client.json")
    await documents.client(url)
    del web.pages["/client.json"]
    clock.now += 400
    assert (await documents.client(url)).title == "Notebook"
    clock.now += 86_400
    with pytest.raises(FetchFailed):
        await documents.client(url)
    web.document("/client.json")
    await documents.client(url)
    web.document("/client.json", client_id="https://other.example/client.json")
    clock.now += 400
    with pytest.raises(InvalidRequest):
        await documents.client(url)


@pytest.mark.requirement("front:document-cache")
async def test_many_who_need_a_document_at_once_wait_for_one_request(web: Site, documents: Documents) -> None:
    url = web.document("/client.json")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(documents.client, url)
    assert len(web.asked) == 1


@pytest.mark.requirement("front:document-cache")
async def test_strangers_can_make_the_gateway_fetch_only_so_often(
    web: Site, documents: Documents, clock: SettableClock
) -> None:
    refusals = []
    for number in range(130):
        try:
            await documents.client(f"{web.base}/missing-{number}")
        except GatewayError as error:
            refusals.append(error.code)
    assert (refusals.count("fetch_failed"), refusals.count("rate_limited")) == (120, 10)
    clock.now += 1
    with pytest.raises(FetchFailed):
        await documents.client(f"{web.base}/missing")


@pytest.mark.requirement("front:documents")
async def test_only_listed_hosts_have_documents_where_hosts_are_listed(web: Site, clock: SettableClock) -> None:
    url = web.document("/client.json")
    fetcher = Fetcher((), allow_loopback=True)
    assert (await Documents(fetcher, clock, hosts=("127.0.0.1",)).client(url)).client_id == url
    with pytest.raises(InvalidRequest, match="not accepted here"):
        await Documents(fetcher, clock, hosts=("notebook.example",)).client(url)


@pytest.mark.requirement("front:clients")
async def test_a_client_is_a_row_or_a_document_unless_it_is_revoked_or_killed(web: Site, documents: Documents) -> None:
    url = web.document("/client.json")
    good, _ = a_client("good")
    revoked, _ = a_client("revoked", revoked_at=1.0)
    worlds = StoreWorlds(MemoryStore())
    state = State(epoch=2, clients=(good, revoked))
    worlds.current = world_of(state)
    clients = Clients(worlds, documents)
    assert await clients.find("good") == good
    assert (found := await clients.find(url)) is not None and found.client_id == url
    for unknown in ("", "revoked", "unknown", "x" * 3000, "javascript:alert(1)"):
        assert await clients.find(unknown) is None
    assert await Clients(worlds, None).find(url) is None

    def killed(client_id: str) -> None:
        switch = KillSwitch(
            id="k",
            scope=Scope.CLIENT,
            selector=client_id,
            mode=Mode.HARD,
            reason="r",
            thrown_by="mcpgw|root",
            thrown_at=0.0,
        )
        worlds.current = replace(worlds.current, switches=Switches([switch]))

    killed(url)
    assert await clients.find(url) is None and await clients.find("good") == good
    killed("good")
    assert await clients.find("good") is None and await clients.find(url) is not None


@pytest.mark.requirement("front:clients")
async def test_why_a_document_cannot_be_used_is_there_for_the_page_that_says_so(
    web: Site, documents: Documents
) -> None:
    worlds = StoreWorlds(MemoryStore())
    clients = Clients(worlds, documents)
    url = web.document("/client.json", client_name=None)
    assert await clients.find(url) is None
    fault = clients.fault(url)
    assert fault is not None and "client_name" in fault.message
    web.document("/client.json")
    assert await clients.find(url) is not None
    assert clients.fault(url) is None
