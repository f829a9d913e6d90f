"""What the code flow needs besides a client and a gateway: a redirect URI that somebody listens at, and a user."""

from __future__ import annotations

import os
import queue
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import anyio
import anyio.to_thread
import yaml
from mcp import Client, StdioServerParameters
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.stdio import stdio_client
from mcp.shared.auth import OAuthClientMetadata
from playwright.async_api import BrowserContext, Page
from pydantic import AnyUrl

from tests import tools
from tests.e2e.agents import Tokens
from tests.harness import POLL_S, ROOT, GatewayProcess

WITHIN_S = 60.0
PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Callback:
    """A loopback redirect URI (RFC 8252 §7.3), and the requests that arrived there."""

    url: str
    _arrived: queue.Queue[str]

    def wait(self) -> dict[str, str]:
        """Return the query of the next request."""
        return dict(parse_qsl(urlsplit(self._arrived.get(timeout=WITHIN_S)).query))

    async def result(self) -> AuthorizationCodeResult:
        """Return what the next request brings, as the SDK wants it."""
        answer = await anyio.to_thread.run_sync(self.wait)
        assert "code" in answer, answer
        return AuthorizationCodeResult(code=answer["code"], state=answer.get("state"), iss=answer.get("iss"))


@contextmanager
def callback() -> Iterator[Callback]:
    """Listen on a free port until the block ends."""
    arrived: queue.Queue[str] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"You can close this page." if self.path.startswith("/callback?") else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            if body:
                arrived.put(self.path)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Callback(f"http://127.0.0.1:{server.server_port}/callback", arrived)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


GUIDE = ROOT / "docs" / "howto" / "plug-in-your-identity-provider.md"


def shown(issuer: str) -> list[dict[str, Any]]:
    """Return the section `auth` of each configuration that the guide shows, with this issuer for the one it names."""
    text = GUIDE.read_text(encoding="utf-8").replace("https://id.example.com", issuer)
    return [yaml.safe_load(block)["auth"] for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


Person = Callable[[str], Awaitable[None]]
"""Opens a URL, and does what the pages ask for until the browser has been sent back to the client."""


def code_flow(url: str, kept: Tokens, person: Person, back: Callback, **options: Any) -> OAuthClientProvider:
    """Return what makes the SDK's client get a token for `url` from whichever server its metadata names.

    `options` are those of OAuthClientProvider. A client that has not been registered before registers itself, or has
    the URL of a document instead.
    """
    about = OAuthClientMetadata(
        client_name="Notebook", redirect_uris=[AnyUrl(back.url)], scope=options.pop("scope", None)
    )
    return OAuthClientProvider(
        server_url=url,
        client_metadata=about,
        storage=kept,
        redirect_handler=person,
        callback_handler=back.result,
        **options,
    )


@asynccontextmanager
async def mcp_remote(url: str, directory: Path, person: Person, *options: str) -> AsyncIterator[Client]:
    """Connect over stdio to npm's mcp-remote, whose browser is `person`; what it remembers stays in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    opened, opener = directory / "opened", directory / "browser"
    opened.unlink(missing_ok=True)
    opener.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$1\" >>'{opened}'\n", encoding="utf-8")
    opener.chmod(0o755)
    program = str(tools.npm_program("clients", "mcp-remote").resolve())
    command = [program, url, "--allow-http", *options]
    env = {"PATH": os.environ["PATH"], "BROWSER": str(opener), "MCP_REMOTE_CONFIG_DIR": str(directory / "kept")}

    async def watch() -> None:
        def lines() -> list[str]:
            text = opened.read_text(encoding="utf-8") if opened.exists() else ""
            return text.splitlines() if text.endswith("\n") else []

        for number in count():
            while len(lines()) <= number:
                await anyio.sleep(POLL_S)
            await person(lines()[number])

    with (directory / "log").open("a") as log:
        bridge = stdio_client(StdioServerParameters(command=str(tools.node()), args=command, env=env), errlog=log)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            async with Client(bridge, mode="legacy") as client:
                yield client
            tasks.cancel_scope.cancel()


async def at_provider(page: Page, login: str) -> None:
    """Sign in on the pages of `oidc-provider`, and agree."""
    await page.fill("input[name=login]", login)
    await page.fill("input[name=password]", "any")
    await page.click("button[type=submit]")
    await page.locator("input[name=prompt][value=consent]").wait_for(state="attached")
    await page.click("button[type=submit]")


def new_user(gate: GatewayProcess, subject: str, **more: Any) -> dict[str, Any]:
    """Make a user of the gateway's own, with PASSWORD."""
    given = {"subject": subject, "title": subject.capitalize(), "password": PASSWORD, **more}
    made: dict[str, Any] = gate.admin.post("/principals", given)
    return made


async def sign_in(page: Page, name: str, password: str = PASSWORD) -> None:
    """Fill in the sign-in page of the gateway."""
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in", exact=True).click()


async def decide(page: Page, answer: Literal["Allow", "Deny"]) -> None:
    """Answer the consent page of the gateway."""
    await page.get_by_role("button", name=answer, exact=True).click()


def local_user(context: BrowserContext, name: str, answer: Literal["Allow", "Deny"] = "Allow") -> Person:
    """Return a user of the gateway's own, at a browser in which nobody has signed in, or they have."""

    async def person(url: str) -> None:
        page = await context.new_page()
        await page.goto(url)
        if await page.get_by_label("Password").count():
            await sign_in(page, name)
        await decide(page, answer)
        await page.wait_for_url(lambda at: "/callback?" in at)
        await page.close()

    return person
