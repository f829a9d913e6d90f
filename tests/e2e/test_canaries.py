"""No secret that passes through a gateway stays where somebody could read it: database, logs, pages, admin API."""

from __future__ import annotations

import base64
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import anyio
import httpx2
import pytest
from playwright.async_api import BrowserContext

from mcpgw.edge.admin_routes import OPERATIONS
from tests import tools
from tests.e2e import browser
from tests.e2e.agents import Tokens, agent, text_of
from tests.e2e.canaries import Canaries, forms
from tests.e2e.client import Client
from tests.e2e.oauth_parts import at_provider, callback, code_flow, local_user, new_user, sign_in
from tests.fixtures.oidc_provider import OidcProvider, Resource, Settings, a_client, oidc_provider
from tests.fixtures.processes import Running, running
from tests.harness import ROOT, GatewayProcess, gateway, rego

WITHIN_S = 240.0
CONFIDENTIAL = "canary-of-the-gateway-as-client-4471"
STATIC = "canary-static-header-3360"
PASSWORD = "canary password of cleo 8812"
PROBE = "canary-in-the-wrong-place"
MCP = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
SHOWN_ONCE = {"admin-key": frozenset({"the admin key"})}  # the file that exists to hold it


@pytest.fixture
async def context() -> AsyncIterator[BrowserContext]:
    try:
        browser.find()
    except browser.NoBrowser as missing:
        pytest.skip(str(missing))
    async with browser.async_browser() as made:
        yield made


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[OidcProvider]:
    settings = Settings(
        users={"dora": {"name": "Dora", "email": "dora@example.org", "email_verified": True}},
        resources={"*": Resource(scope="mcp:use notes:read notes:write")},
    )
    try:
        with oidc_provider(settings, log=tmp_path / "provider.log") as made:
            yield made
    except tools.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def notes(provider: OidcProvider, tmp_path: Path) -> Iterator[Running]:
    given = json.dumps({"issuer": provider.issuer, "scopes": ["notes:read"], "public_lists": True})
    command = [sys.executable, "-m", "tests.fixtures.protected_server", given]
    with running(command, log=tmp_path / "notes.log", cwd=ROOT) as server:
        yield server


@pytest.fixture
def gate(
    provider: OidcProvider, notes: Running, everything_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GatewayProcess]:
    """Two workers that write down all they can, with every way in and out that there is."""
    monkeypatch.setenv("CONFIDENTIAL", CONFIDENTIAL)
    config = {
        "telemetry": {"log_level": "debug"},
        "auth": {
            "issuers": [{"issuer": provider.issuer}],
            "sign_in": {
                "issuer": provider.issuer,
                "client_id": "gateway",
                "client_secret": "env:CONFIDENTIAL",
                "title": "Example ID",
                "keep_tokens": True,
            },
            "server": {"registration": True},
        },
    }
    with gateway(tmp_path / "gateway", config=config, policy=rego("allow_all"), workers=2) as made:
        ours = [f"{made.base_url}/oauth/{path}" for path in ("sign-in/callback", "callback/notes")]
        robot = a_client("robot", secret=CONFIDENTIAL)
        provider.change(clients=[a_client("gateway", *ours, secret=CONFIDENTIAL), a_client("app"), robot])
        keep(made, "confidential", CONFIDENTIAL, provider.issuer)
        keep(made, "static", STATIC, everything_url)
        user = {
            "mode": "user",
            "issuer": provider.issuer,
            "client_id": "gateway",
            "client_secret": "vault:confidential",
            "scopes": ["notes:read"],
        }
        machine = {**user, "mode": "client_credentials"}
        for slug, url, auth in (
            ("everything", everything_url, {"mode": "static", "headers": {"X-Upstream-Key": "vault:static"}}),
            ("notes", notes.url, user),
            ("machine", notes.url, machine),
        ):
            made.admin.post("/servers", {"slug": slug, "url": url, "auth": auth})
            made.publish(slug)
        yield made


def keep(gate: GatewayProcess, name: str, value: str, origin: str) -> None:
    gate.admin.put(f"/secrets/{name}", {"value": value, "origins": [origin]})


def post(gate: GatewayProcess, path: str, **more: Any) -> httpx2.Response:
    return httpx2.post(gate.base_url + path, trust_env=False, **more)


def call(gate: GatewayProcess, key: str, server: str = "everything", tool: str = "greet", **arguments: Any) -> Any:
    with Client(gate.base_url, key, f"/mcp/{server}") as client:
        return client.call(tool, **arguments)


async def a_local_user(gate: GatewayProcess, context: BrowserContext, found: Canaries) -> None:
    """Sign in with a password, after a wrong one and one in the wrong field; allow an app; use what it gets."""
    new_user(gate, "cleo", password=found.add("a password", PASSWORD))
    page = await context.new_page()
    await page.goto(f"{gate.base_url}/oauth/sign-in")
    await sign_in(page, "cleo", found.add("a wrong password", f"{PROBE}-password"))
    await page.get_by_role("alert").wait_for()
    await sign_in(page, found.add("a password as the name", f"{PROBE}-name"), PASSWORD)
    await page.get_by_role("alert").wait_for()
    await sign_in(page, "cleo", PASSWORD)
    await page.get_by_role("heading", name="Cleo").wait_for()
    for cookie in await context.cookies(gate.base_url):
        found.add(f"the cookie {cookie['name']}", cookie["value"])
    url, kept = gate.server_url("everything"), Tokens()
    with callback() as back:
        answers: list[str] = []
        context.on("request", lambda asked: answers.append(asked.url) if asked.url.startswith(back.url) else None)
        auth = code_flow(url, kept, local_user(context, "cleo"), back)
        async with agent(url, auth=auth) as client:
            assert text_of(await client.call_tool("greet", {"name": "Cleo"})) == "Hello, Cleo!"
            first = kept.tokens
            auth.context.token_expiry_time = 1.0
            assert text_of(await client.call_tool("greet", {"name": "Cleo"})) == "Hello, Cleo!"
    assert first is not None and kept.tokens is not None and kept.client is not None and len(answers) == 1
    code = found.add("an authorization code", httpx2.URL(answers[0]).params["code"])
    of_client = {"client_id": kept.client.client_id}
    if kept.client.client_secret:
        of_client["client_secret"] = found.add("the secret of a registered client", kept.client.client_secret)
    for name, tokens in (("first", first), ("second", kept.tokens)):
        add_token(found, f"the {name} access token", tokens.access_token)
        found.add(f"the {name} refresh token", tokens.refresh_token or "")
    replayed = {"grant_type": "authorization_code", "code": code, "redirect_uri": back.url, "code_verifier": "v" * 43}
    again = {"grant_type": "refresh_token", "refresh_token": first.refresh_token or ""}
    for form in (replayed, again):
        assert post(gate, "/oauth/token", data={**form, **of_client}).json()["error"] == "invalid_grant"
    for path in ("/oauth/introspect", "/oauth/revoke"):
        post(gate, path, data={"token": kept.tokens.access_token, **of_client})
    assert call(gate, first.access_token, name="x").status == 401


async def a_user_of_the_provider(gate: GatewayProcess, provider: OidcProvider, found: Canaries) -> None:
    """Come with a token of the provider, and agree that a server is called in one's name."""
    token = provider.user_token("dora", "app", resource=gate.mcp_url, scope="openid mcp:use")["access_token"]
    add_token(found, "an access token of the provider", token)
    wanted = call(gate, token, "notes", "whoami")
    assert "error" in wanted.body, wanted.body
    url = wanted.body["error"]["data"]["url"]
    async with browser.async_browser() as context:
        page = await context.new_page()
        await page.goto(url)
        await page.get_by_text("Sign in with Example ID").click()
        await at_provider(page, "dora")
        await page.get_by_role("button", name="Go to").click()
        await page.locator("input[name=prompt][value=consent]").wait_for(state="attached")
        await page.click("button[type=submit]")
        await page.get_by_role("heading", name="notes is connected").wait_for()
        for cookie in await context.cookies(gate.base_url):
            found.add(f"dora's cookie {cookie['name']}", cookie["value"])
    answer = call(gate, token, "notes", "whoami")
    assert answer.ok and answer.body["result"]["structuredContent"]["sub"] == "dora", answer.body


def machines(gate: GatewayProcess, found: Canaries) -> None:
    """Keys and clients, at their right places, and what is kept for them."""
    found.add("the admin key", gate.admin_key)
    found.add("the agent key", gate.agent_key)
    made = gate.admin.post("/keys", {"subject": "brief", "roles": ["agent"]})
    found.add("a revoked key", made["key"])
    assert call(gate, made["key"], name="x").ok
    rotated = gate.admin.post(f"/keys/{made['id']}/rotate", {})
    found.add("a rotated key", rotated["key"])
    gate.admin.delete(f"/keys/{rotated['id']}", {"reason": "test"})
    assert call(gate, rotated["key"], name="x").status == 401
    assert call(gate, gate.agent_key, "machine", "whoami").ok
    client = gate.admin.post("/clients", {"client_id": "batch", "subject": "batch", "roles": ["agent"]})
    secret = found.add("a client secret", client["client_secret"])
    form = {"grant_type": "client_credentials", "resource": gate.mcp_url}
    token = post(gate, "/oauth/token", data=form, auth=("batch", secret)).json()["access_token"]
    add_token(found, "an access token of a client", token)
    assert call(gate, token, name="x").ok
    found.add("a secret towards a server", STATIC)
    found.add("the gateway's secret at the provider", CONFIDENTIAL)


def wrong_places(gate: GatewayProcess, found: Canaries) -> Iterator[tuple[str, httpx2.Response]]:
    """Yield the answers to requests that have a secret where none belongs."""
    number = 0

    def probe() -> str:
        nonlocal number
        number += 1
        return found.add(f"probe {number}", f"{PROBE}-{number:04}")

    ping = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "greet", "arguments": {}}}
    for name in ("access_token", "api_key", "token"):
        yield name, post(gate, f"/mcp?{name}={probe()}", json=ping, headers=MCP)
    basic = httpx2.BasicAuth("someone", probe())
    yield "basic", post(gate, "/mcp", json=ping, headers=MCP, auth=basic)
    for header in ("Authorization", "X-Api-Key", "Proxy-Authorization", "Cookie", "Mcp-Session-Id", "X-Forwarded-For"):
        value = {"Authorization": f"Bearer {probe()}", "Cookie": f"__Host-mcpgw-session={probe()}"}.get(header, probe())
        yield header, post(gate, "/mcp", json=ping, headers={**MCP, header: value})
        yield header, httpx2.get(f"{gate.base_url}/console/", headers={header: value}, trust_env=False)
        yield header, httpx2.get(f"{gate.base_url}/admin/v1/status", headers={header: value}, trust_env=False)
    known = {**MCP, "Authorization": f"Bearer {gate.agent_key}"}
    body = {**ping, "params": {"name": "greet", "arguments": {"name": 1, "password": probe()}}}
    yield "arguments", post(gate, "/mcp/everything", json=body, headers=known)
    yield "not JSON", post(gate, "/mcp", content=f'{{"password": "{probe()}"', headers=known)
    yield "unknown tool", post(gate, "/mcp", json={**body, "params": {**body["params"], "name": "x"}}, headers=known)
    for form in (
        {"grant_type": "password", "username": "cleo", "password": probe()},
        {"grant_type": "refresh_token", "refresh_token": probe(), "client_id": "batch"},
        {"grant_type": "authorization_code", "code": probe(), "code_verifier": probe() * 3, "client_id": "batch"},
        {"grant_type": "client_credentials", "client_id": "batch", "client_secret": probe()},
        {"grant_type": "client_credentials", "client_id": probe(), "client_secret": "batch"},
        {"grant_type": probe()},
        {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": probe(), "client_id": "batch"},
        {
            "grant_type": "client_credentials",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": probe(),
        },
    ):
        yield "token", post(gate, "/oauth/token", data=form)
        yield "token query", post(gate, "/oauth/token", params=form)
    for path in ("revoke", "introspect"):
        yield path, post(gate, f"/oauth/{path}", data={"token": probe(), "client_id": "batch"})
    yield "register", post(gate, "/oauth/register", json={"client_secret": probe(), "redirect_uris": [probe()]})
    yield "sign-in", post(gate, "/oauth/sign-in", data={"form": probe(), "username": "cleo", "password": probe()})
    for path in ("authorize", "sign-in/callback", "callback/notes", "connect/notes"):
        query = {"code": probe(), "state": probe(), "ticket": probe(), "client_id": "batch", "id_token": probe()}
        yield path, httpx2.get(f"{gate.base_url}/oauth/{path}", params=query, trust_env=False)
    admin = {"Authorization": f"Bearer {gate.admin_key}"}
    yield "admin body", post(gate, "/admin/v1/keys", json={"subject": "x", "secret": probe()}, headers=admin)
    yield (
        "admin password",
        post(gate, "/admin/v1/principals", json={"subject": "cleo", "password": probe()}, headers=admin),
    )
    secret = {"value": probe(), "origins": ["nowhere"]}
    yield (
        "admin secret",
        httpx2.put(f"{gate.base_url}/admin/v1/secrets/other", json=secret, headers=admin, trust_env=False),
    )


def add_token(found: Canaries, name: str, token: str) -> None:
    """A token is there when its signature is: what stands before is no secret, and the same in many."""
    found.add(name, token)
    if token.count(".") == 2:
        found.add(f"the signature of {name}", token.rpartition(".")[2])


def upstream_tokens(provider: OidcProvider, notes: Running, found: Canaries) -> None:
    """Everything that the provider has issued, and everything that has arrived as a credential."""
    for number, issued in enumerate(provider.issued()):
        for kind in ("access_token", "refresh_token", "id_token"):
            if kind in issued:
                add_token(found, f"{kind} {number} of the provider", issued[kind])
    seen = httpx2.get(notes.url.replace("/mcp", "/seen"), trust_env=False).json()
    shown = {headers["authorization"] for _, _, headers, _ in seen if "authorization" in headers}
    assert len(shown) >= 2
    for number, authorization in enumerate(sorted(shown)):
        add_token(found, f"credential {number} towards a server", authorization.partition(" ")[2])


def admin_answers(gate: GatewayProcess) -> Iterator[tuple[str, bytes]]:
    """Yield what an administrator can read."""
    known = {"slug": "notes", "version": "1.0.0"}
    accounts = [account["id"] for account in gate.admin.get("/principals")["principals"]]
    headers = {"Authorization": f"Bearer {gate.admin_key}"}
    for operation in OPERATIONS:
        if operation.method != "GET":
            continue
        for id in accounts if "/principals/{id}" in operation.path else ["nothing"]:
            path = operation.path.format_map(defaultdict(lambda: "nothing", known, id=id))
            with httpx2.stream("GET", f"{gate.base_url}/admin/v1{path}", headers=headers, trust_env=False) as answer:
                kind = answer.headers.get("content-type", "")
                if not kind.startswith("text/event-stream"):
                    yield path, answer.read()
    for record in gate.admin.get("/audit", limit=1000)["records"]:
        yield "/audit", json.dumps(record).encode()


@pytest.mark.requirement("secrets:canaries")
async def test_no_secret_is_left_anywhere(
    gate: GatewayProcess, provider: OidcProvider, notes: Running, context: BrowserContext
) -> None:
    found = Canaries()
    with anyio.fail_after(WITHIN_S):
        machines(gate, found)
        await a_local_user(gate, context, found)
        await a_user_of_the_provider(gate, provider, found)
    refusals = list(wrong_places(gate, found))
    upstream_tokens(provider, notes, found)

    pages = [hit for name, page in refusals for hit in found.within(f"the answer to {name}", page.content)]
    answers = [hit for path, body in admin_answers(gate) for hit in found.within(path, body)]
    files = [*found.below(gate.data_dir, SHOWN_ONCE), *found.within("the log", gate.log.read_bytes())]

    assert len(found.names) > 60
    assert (pages, answers, files) == ([], [], [])
    assert (gate.data_dir / "state.db-wal").stat().st_size > 0
    assert "DEBUG" in gate.output() and "Traceback" not in gate.output()


ENCODINGS: Mapping[str, Any] = {
    "as it is": lambda secret: secret.encode(),
    "base64": lambda secret: base64.b64encode(b"user:" + secret.encode() + b"!"),
    "base64 later": lambda secret: base64.b64encode(b"user: " + secret.encode()),
    "base64url": lambda secret: base64.urlsafe_b64encode(b"user:  " + secret.encode()),
    "hex": lambda secret: secret.encode().hex().encode(),
    "URL": lambda secret: quote(secret, safe="").encode(),
    "form": lambda secret: quote_plus(secret).encode(),
}


@pytest.mark.requirement("secrets:canaries")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_secret_would_be_found_in_each_encoding(tmp_path: Path, encoding: str) -> None:
    found = Canaries()
    secret = found.add("a secret", "correct horse/battery+staple?")
    (tmp_path / "dump").write_bytes(b"\x00before" + ENCODINGS[encoding](secret) + b"after")

    assert list(found.below(tmp_path, {})) == [("a secret", "dump")]
    assert list(found.below(tmp_path, {"dump": frozenset({"a secret"})})) == []
    assert all(len(form) >= 12 for form in forms(secret))
