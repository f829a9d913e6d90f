"""The MCP SDK's own client finds its way from a 401 to a token, over a real server."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import pytest
import uvicorn
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcpgw.domain import SYSTEM, Presented
from mcpgw.edge.oauth import MAX_FORM_BYTES
from mcpgw.errors import Unauthenticated
from tests.auth.authorization_server import Server, serving


class Memory:
    """Token storage of one client."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class Gateway:
    """The identity of a gateway over HTTP, with one protected application that answers who calls."""

    def __init__(self, server: Server, base: str) -> None:
        self.base = base
        self.server = server
        server.clock.now = time.time()  # the SDK looks at the real clock
        self.clients = server.identity.clients
        protected = [Route("/mcp", self.whoami), Route("/mcp/{server}", self.whoami), Route("/v1/models", self.whoami)]
        self.app = Starlette(routes=[*server.server.routes(), *protected])

    async def whoami(self, request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        presented = Presented(scheme=scheme.lower() or None, token=token or None)
        try:
            who = await self.server.identity.verifier.verify(presented, request.url.path, self.server.worlds.current)
        except Unauthenticated:
            challenge = self.server.identity.challenges.unauthenticated(request.url.path, presented=bool(token))
            return Response(status_code=401, headers={"WWW-Authenticate": challenge})
        return JSONResponse({"who": who.selector, "client": who.client_id, "scopes": sorted(who.scopes)})


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # so that a client may connect before the server has started
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        made = await stack.enter_async_context(serving(directory, base=base))
        gateway = Gateway(made, base)
        server = uvicorn.Server(uvicorn.Config(gateway.app, log_level="error", lifespan="off"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            try:
                with anyio.fail_after(20):
                    yield gateway
            finally:
                server.should_exit = True


@pytest.mark.requirement("auth:sdk-flow")
@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
@pytest.mark.parametrize(("path", "scopes"), [("/mcp", ["mcp:use"]), ("/mcp/notes", ["mcp:use"])])
async def test_the_sdk_gets_a_token_by_itself(tmp_path: Path, method: str, path: str, scopes: list[str]) -> None:
    async with served(tmp_path) as gateway:
        made = await gateway.clients.create(SYSTEM, None, "bot", {"agent"})
        memory = Memory()
        provider = ClientCredentialsOAuthProvider(
            gateway.base + path,
            memory,
            made["client_id"],
            made["client_secret"],
            method,
            issuer=gateway.base,
        )
        async with httpx2.AsyncClient(auth=provider) as client:
            answer = await client.get(gateway.base + path)
            assert answer.json() == {"who": "mcpgw|bot", "client": made["client_id"], "scopes": scopes}
            assert memory.tokens is not None
            token = memory.tokens.access_token
            await gateway.clients.revoke(SYSTEM, made["client_id"], "drill")
        async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
            refused = await client.get(gateway.base + path)
            assert refused.status_code == 401
            assert 'error="invalid_token"' in refused.headers["www-authenticate"]
            assert (await client.get(gateway.base + "/v1/models")).status_code == 401


@pytest.mark.requirement("auth:metadata")
async def test_discovery_and_its_refusals_over_http(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway, httpx2.AsyncClient(base_url=gateway.base) as client:
        known = "/.well-known/oauth-protected-resource"
        for path, resource in (("", "/mcp"), ("/mcp", "/mcp"), ("/mcp/notes", "/mcp/notes"), ("/v1", "/v1")):
            answer = await client.get(known + path)
            assert (answer.status_code, answer.json()["resource"]) == (200, gateway.base + resource)
        assert (await client.get(known + "/console")).status_code == 404
        about = (await client.get("/.well-known/oauth-authorization-server")).json()
        assert about["issuer"] == gateway.base
        assert (await client.get("/.well-known/openid-configuration")).json() == about
        assert len((await client.get("/.well-known/jwks.json")).json()["keys"]) == 1
        assert (await client.post("/.well-known/jwks.json")).status_code == 405
        assert (await client.get("/oauth/token")).status_code == 405


@pytest.mark.requirement("auth:grant-errors")
async def test_the_token_endpoint_over_http(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway, httpx2.AsyncClient(base_url=gateway.base) as client:
        made = await gateway.clients.create(SYSTEM, "bot", "bot", {"agent"})
        form = {"grant_type": "client_credentials"}
        pair = ("bot", made["client_secret"])
        good = await client.post("/oauth/token", data=form, auth=pair)
        assert (good.status_code, good.headers["cache-control"]) == (200, "no-store")
        assert good.headers["content-type"] == "application/json"
        bad = await client.post("/oauth/token", data=form, auth=("bot", "wrong"))
        assert (bad.status_code, bad.headers["www-authenticate"]) == (401, 'Basic realm="mcpgw"')
        large = await client.post("/oauth/token", data={**form, "pad": "x" * MAX_FORM_BYTES}, auth=pair)
        assert (large.status_code, large.headers["cache-control"]) == (413, "no-store")


@pytest.mark.requirement("as:cors")
async def test_a_web_page_of_a_listed_origin_may_ask_without_cookies(tmp_path: Path) -> None:
    """The guard has refused all other origins before: test_guard.py."""
    origin = {"Origin": "https://app.example"}
    async with served(tmp_path) as gateway, httpx2.AsyncClient(base_url=gateway.base) as client:
        asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        preflight = await client.options("/oauth/token", headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        assert preflight.headers["access-control-allow-methods"] == "POST"
        assert "content-type" in preflight.headers["access-control-allow-headers"].lower()
        answers = [await client.post(f"/oauth/{name}", headers=origin) for name in ("token", "revoke", "par")]
        answers += [
            await client.get(f"/.well-known/{name}", headers=origin)
            for name in ("oauth-authorization-server", "oauth-protected-resource/mcp", "jwks.json")
        ]
        for answer in [preflight, *answers]:
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
            assert "access-control-allow-credentials" not in answer.headers
            assert answer.headers["vary"] == "Origin"
        assert "access-control-allow-origin" not in (await client.post("/oauth/token")).headers
