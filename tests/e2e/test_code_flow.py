"""Clients that others made get tokens from the gateway: a real browser signs in, reads what is asked, and decides."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import MCPError
from mcp.client.auth import OAuthFlowError
from mcp.shared.auth import OAuthClientInformationFull
from playwright.async_api import BrowserContext
from pydantic import AnyUrl

from tests import tools
from tests.e2e.agents import MODERN, Tokens, Wire, agent, text_of
from tests.e2e.oauth_parts import Callback, code_flow, decide, local_user, mcp_remote, new_user, sign_in
from tests.fixtures.authority import Authority
from tests.harness import GatewayProcess, gateway, rego

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

WORKERS = 2
WITHIN_S = 120.0
_numbers = count(1)


@contextmanager
def documents(directory: Path, authority: Authority) -> Iterator[tuple[str, dict[str, Any]]]:
    """Serve JSON documents over https; yield the URL below which they are, and the documents by name."""
    served: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = served.get(self.path.removeprefix("/"))
            body = json.dumps(found).encode()
            self.send_response(200 if found is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = authority.server("127.0.0.1").wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}/", served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Where a client publishes its metadata: the authority that vouches for the host, and the documents."""
    directory = tmp_path_factory.mktemp("site")
    authority = Authority.create(directory)
    with documents(directory, authority) as (url, served):
        yield authority.certificate, url, served


@pytest.fixture(scope="module")
def gate(
    site: tuple[Path, str, dict[str, Any]], everything_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    config = {"auth": {"server": {"registration": True}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(site[0]))
        home = tmp_path_factory.mktemp("gateway")
        with gateway(home, config=config, policy=rego("allow_all"), workers=WORKERS) as made:
            made.publish("everything", everything_url)
            made.publish("other", everything_url)
            yield made
            assert "Traceback" not in made.output()


@pytest.fixture
def user(gate: GatewayProcess) -> str:
    """The name of a user who has just got an account."""
    name = f"user-{next(_numbers)}"
    new_user(gate, name)
    return name


def grants_of(gate: GatewayProcess, user: str) -> list[dict[str, Any]]:
    """Return what a user has allowed, as administrators see it."""
    accounts = gate.admin.get("/principals")["principals"]
    (id,) = [account["id"] for account in accounts if account["subject"] == user]
    grants: list[dict[str, Any]] = gate.admin.get(f"/principals/{id}/grants")["grants"]
    return grants


@pytest.mark.requirement("oauth:browser")
@pytest.mark.parametrize(
    ("path", "mode"), [("/mcp", MODERN), ("/mcp", "legacy"), ("/mcp/everything", MODERN), ("/mcp/everything", "auto")]
)
async def test_a_client_that_registers_itself_calls_once_its_user_has_allowed_it(
    gate: GatewayProcess, user: str, context: BrowserContext, back: Callback, path: str, mode: str
) -> None:
    url, kept, wire = gate.base_url + path, Tokens(), Wire()
    tool = "everything__greet" if path == "/mcp" else "greet"
    with anyio.fail_after(WITHIN_S):
        auth = code_flow(url, kept, local_user(context, user), back)
        async with agent(url, mode=mode, auth=auth, wire=wire) as client:
            result = await client.call_tool(tool, {"name": user})

    assert text_of(result) == f"Hello, {user}!"
    assert kept.tokens is not None and kept.tokens.refresh_token and kept.tokens.scope == "mcp:use"
    assert [seen for seen in wire.seen if seen[0] == "POST" and "oauth" in seen[1]] == [
        ("POST", "/oauth/register", 201),
        ("POST", "/oauth/token", 200),
    ]
    (grant,) = grants_of(gate, user)
    records = gate.admin.get("/audit", principal=f"mcpgw|{user}", tool="greet")["records"]
    assert {record["client_id"] for record in records if record["phase"] == "intent"} == {grant["client_id"]}


@pytest.mark.requirement("oauth:browser")
async def test_a_client_that_is_a_document_needs_no_registration(
    gate: GatewayProcess, site: tuple[Path, str, dict[str, Any]], user: str, context: BrowserContext, back: Callback
) -> None:
    _, where, served = site
    client_id, url, kept, wire = where + "notebook.json", gate.server_url("everything"), Tokens(), Wire()
    served["notebook.json"] = {
        "client_id": client_id,
        "client_name": "Notebook",
        "redirect_uris": ["http://127.0.0.1/callback"],
        "grant_types": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_method": "none",
    }
    with anyio.fail_after(WITHIN_S):
        auth = code_flow(url, kept, local_user(context, user), back, client_metadata_url=client_id)
        async with agent(url, auth=auth, wire=wire) as client:
            result = await client.call_tool("greet", {"name": user})

    assert text_of(result) == f"Hello, {user}!"
    assert ("POST", "/oauth/register", 201) not in wire.seen
    assert [grant["client_id"] for grant in grants_of(gate, user)] == [client_id]


@pytest.mark.requirement("oauth:browser")
@pytest.mark.parametrize("auth_method", ["none", "client_secret_basic"])
async def test_a_client_that_an_administrator_made_calls_for_its_user(
    gate: GatewayProcess, user: str, context: BrowserContext, back: Callback, auth_method: str
) -> None:
    url, name = gate.server_url("everything"), f"made-{user}"
    made = gate.admin.post(
        "/clients",
        {
            "client_id": name,
            "title": "Made here",
            "grants": ["authorization_code", "refresh_token"],
            "auth_method": auth_method,
            "redirect_uris": [back.url],
        },
    )
    known = OAuthClientInformationFull(
        client_id=name,
        client_secret=made.get("client_secret"),
        redirect_uris=[AnyUrl(back.url)],
        token_endpoint_auth_method=auth_method,
        issuer=gate.base_url,
    )
    with anyio.fail_after(WITHIN_S):
        auth = code_flow(url, Tokens(client=known), local_user(context, user), back)
        async with agent(url, auth=auth) as client:
            result = await client.call_tool("greet", {"name": user})

    assert text_of(result) == f"Hello, {user}!"
    assert [grant["client_id"] for grant in grants_of(gate, user)] == [name]


@pytest.mark.requirement("oauth:browser")
async def test_mcp_remote_calls_once_its_user_has_allowed_it(
    gate: GatewayProcess, user: str, context: BrowserContext, tmp_path: Path
) -> None:
    try:
        tools.npm_package("clients", "mcp-remote")
    except tools.Missing as missing:
        pytest.skip(str(missing))
    with anyio.fail_after(WITHIN_S):
        async with mcp_remote(gate.server_url("everything"), tmp_path, local_user(context, user)) as client:
            result = await client.call_tool("greet", {"name": user})
        # Whoever comes again has its tokens still, and nobody is asked.
        async with mcp_remote(gate.server_url("everything"), tmp_path, local_user(context, "nobody")) as client:
            again = await client.call_tool("greet", {"name": user})

    assert text_of(result) == text_of(again) == f"Hello, {user}!"
    assert len(grants_of(gate, user)) == 1


@pytest.mark.requirement("oauth:consent")
async def test_the_page_says_who_asks_for_what_and_where_the_answer_goes(
    gate: GatewayProcess, user: str, context: BrowserContext, back: Callback, tmp_path: Path
) -> None:
    url, seen = gate.server_url("everything"), {}

    async def reader(url: str) -> None:
        page = await context.new_page()
        await page.goto(url)
        await page.screenshot(path=tmp_path / "sign-in.png", full_page=True)
        await sign_in(page, user)
        await page.get_by_role("button", name="Allow").wait_for()
        await page.screenshot(path=tmp_path / "consent.png", full_page=True)
        seen["text"] = await page.inner_text("main")
        await decide(page, "Allow")
        await page.wait_for_url(f"{back.url}?*")

    with anyio.fail_after(WITHIN_S):
        async with agent(url, auth=code_flow(url, Tokens(), reader, back)) as client:
            await client.list_tools()

    text = seen["text"]
    assert "Allow Notebook?" in text and user.capitalize() in text
    assert "use MCP tools, prompts and resources" in text
    assert "the MCP server or toolset everything" in text and "nobody has checked it" in text
    assert "127.0.0.1" in text and "on this device" in text


@pytest.mark.requirement("oauth:consent")
async def test_who_denies_is_not_acted_for(
    gate: GatewayProcess, user: str, context: BrowserContext, back: Callback
) -> None:
    url, answers = gate.server_url("everything"), []

    async def denying(url: str) -> None:
        await local_user(context, user, "Deny")(url)
        answers.append(await anyio.to_thread.run_sync(back.wait))
        raise OAuthFlowError(answers[0]["error"])

    kept = Tokens()
    with anyio.fail_after(WITHIN_S), pytest.raises(BaseExceptionGroup):
        async with agent(url, auth=code_flow(url, kept, denying, back)) as client:
            await client.list_tools()

    (answer,) = answers
    assert (answer["error"], answer["iss"], "code" in answer) == ("access_denied", gate.base_url, False)
    assert kept.tokens is None and grants_of(gate, user) == []
    records = gate.admin.get("/audit", principal=f"mcpgw|{user}", outcome="access_denied")["records"]
    assert [record["verb"] for record in records] == ["consent"]


@pytest.mark.requirement("oauth:revoked-grant")
async def test_an_authorization_that_its_user_revokes_in_the_browser_ends_with_the_next_call(
    gate: GatewayProcess, user: str, context: BrowserContext, back: Callback
) -> None:
    url, kept = gate.server_url("everything"), Tokens()
    with anyio.fail_after(WITHIN_S):
        async with agent(url, auth=code_flow(url, kept, local_user(context, user), back)) as client:
            await client.call_tool("greet", {"name": user})
        assert kept.tokens is not None
        async with agent(url, kept.tokens.access_token) as client:
            assert text_of(await client.call_tool("greet", {"name": user})) == f"Hello, {user}!"
            page = await context.new_page()
            await page.goto(f"{gate.base_url}/console/")
            await page.get_by_role("button", name="Revoke").click()
            await page.get_by_text("None.").wait_for()
            with pytest.raises(MCPError):
                await client.call_tool("greet", {"name": user})

    assert grants_of(gate, user) == []


@pytest.mark.requirement("oauth:revoked-grant")
async def test_a_client_whose_authorization_an_administrator_revokes_asks_its_user_again(
    gate: GatewayProcess, user: str, context: BrowserContext, back: Callback
) -> None:
    url, kept, asked = gate.server_url("everything"), Tokens(), []
    person = local_user(context, user)

    async def counted(url: str) -> None:
        asked.append(url)
        await person(url)

    with anyio.fail_after(WITHIN_S):
        async with agent(url, auth=code_flow(url, kept, counted, back)) as client:
            await client.call_tool("greet", {"name": user})
            (grant,) = grants_of(gate, user)
            gate.admin.delete(f"/grants/{grant['id']}", {"reason": "test"})
            assert text_of(await client.call_tool("greet", {"name": user})) == f"Hello, {user}!"

    assert len(asked) == 2
    assert [held["id"] != grant["id"] for held in grants_of(gate, user)] == [True]


@pytest.mark.requirement("oauth:browser")
async def test_a_client_refreshes_its_token_without_its_user(
    gate: GatewayProcess, user: str, context: BrowserContext, back: Callback
) -> None:
    url, kept, asked = gate.server_url("everything"), Tokens(), []
    person = local_user(context, user)

    async def counted(url: str) -> None:
        asked.append(url)
        await person(url)

    with anyio.fail_after(WITHIN_S):
        auth = code_flow(url, kept, counted, back)
        async with agent(url, auth=auth) as client:
            await client.call_tool("greet", {"name": user})
            first = kept.tokens
            auth.context.token_expiry_time = 1.0
            assert text_of(await client.call_tool("greet", {"name": user})) == f"Hello, {user}!"

    assert len(asked) == 1
    assert first is not None and kept.tokens is not None
    assert first.access_token != kept.tokens.access_token and first.refresh_token != kept.tokens.refresh_token
