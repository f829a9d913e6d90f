"""Sign-in at npm's `oidc-provider`: whom it vouches for is a user here, with the team and roles that its claims say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from playwright.async_api import BrowserContext, Page

from tests import tools
from tests.e2e import browser
from tests.e2e.agents import Tokens, agent, text_of
from tests.e2e.oauth_parts import Callback, Person, at_provider, code_flow, decide, shown
from tests.fixtures.oidc_provider import OidcProvider, Settings, a_client, oidc_provider
from tests.harness import GatewayProcess, gateway, rego

WORKERS = 2
WITHIN_S = 120.0
SECRET = "a-secret-of-the-gateway-at-the-provider"
USERS = {
    "ada": {"groups": ["engineering"], "email": "ada@example.org", "email_verified": True, "name": "Ada Lovelace"},
    "olga": {"groups": ["operators"], "email": "olga@example.org", "email_verified": True, "name": "Olga"},
    "mallory": {"groups": ["engineering"], "email": "ada@example.org", "email_verified": False, "name": "Ada Lovelace"},
    "guest": {"groups": ["visitors"], "email": "guest@example.org", "email_verified": True, "name": "Guest"},
}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProvider]:
    log = tmp_path_factory.mktemp("provider") / "provider.log"
    try:
        with oidc_provider(Settings(users=USERS), log=log) as made:
            yield made
    except tools.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def gate(
    provider: OidcProvider, everything_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    sign_in, registration, *_ = shown(provider.issuer)
    config = {"auth": {**sign_in, **registration}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGN_IN_SECRET", SECRET)
        with gateway(
            tmp_path_factory.mktemp("gateway"), config=config, policy=rego("allow_all"), workers=WORKERS
        ) as made:
            provider.change(clients=[a_client("mcpgw", f"{made.base_url}/oauth/sign-in/callback", secret=SECRET)])
            made.publish("everything", everything_url)
            yield made
            assert "Traceback" not in made.output()


async def to_provider(page: Page) -> None:
    await page.get_by_role("link", name="Sign in with Example ID").click()


def brokered(context: BrowserContext, login: str) -> Person:
    """Return somebody who signs in at the provider, and allows what is asked."""

    async def person(url: str) -> None:
        page = await context.new_page()
        await page.goto(url)
        await to_provider(page)
        await at_provider(page, login)
        await decide(page, "Allow")
        await page.wait_for_url(lambda at: "/callback?" in at and "/oauth/" not in at)
        await page.close()

    return person


def account_of(gate: GatewayProcess, provider: OidcProvider, login: str) -> dict[str, Any] | None:
    accounts = gate.admin.get("/principals")["principals"]
    return next((a for a in accounts if a["principal"] == f"{provider.issuer}|{login}"), None)


@pytest.mark.requirement("oauth:provider")
async def test_a_user_of_the_provider_signs_in_allows_a_client_and_is_acted_for(
    gate: GatewayProcess, provider: OidcProvider, context: BrowserContext, back: Callback
) -> None:
    url = gate.server_url("everything")
    with anyio.fail_after(WITHIN_S):
        async with agent(url, auth=code_flow(url, Tokens(), brokered(context, "ada"), back)) as client:
            result = await client.call_tool("greet", {"name": "Ada"})

    assert text_of(result) == "Hello, Ada!"
    account = account_of(gate, provider, "ada")
    assert account is not None
    assert (account["title"], account["team"], account["roles"]) == ("Ada Lovelace", "engineering", ["agent"])
    records = gate.admin.get("/audit", principal=f"{provider.issuer}|ada", tool="greet")["records"]
    assert {record["phase"] for record in records} == {"intent", "outcome"}


@pytest.mark.requirement("oauth:provider")
async def test_a_user_who_is_deactivated_here_is_out_whatever_the_provider_says(
    gate: GatewayProcess, provider: OidcProvider, context: BrowserContext, back: Callback
) -> None:
    url, kept = gate.server_url("everything"), Tokens()
    with anyio.fail_after(WITHIN_S):
        async with agent(url, auth=code_flow(url, kept, brokered(context, "olga"), back)) as client:
            await client.list_tools()
        account = account_of(gate, provider, "olga")
        assert account is not None and kept.tokens is not None
        gate.admin.post(f"/principals/{account['id']}/deactivate", {"reason": "test"})
        page = await context.new_page()
        await page.goto(f"{gate.base_url}/oauth/sign-in")
        await to_provider(page)
        await page.locator("h1").wait_for()
        text = await page.inner_text("main")
    assert "Olga" not in text
    assert "deactivated" in text or "not let in" in text, text


@pytest.mark.requirement("oauth:provider")
@pytest.mark.parametrize("login", ["mallory", "guest"])
async def test_whom_the_rules_do_not_let_in_gets_a_page_and_no_account(
    gate: GatewayProcess, provider: OidcProvider, context: BrowserContext, login: str, tmp_path: Path
) -> None:
    with anyio.fail_after(WITHIN_S):
        page = await context.new_page()
        await page.goto(f"{gate.base_url}/oauth/sign-in")
        await to_provider(page)
        await at_provider(page, login)
        await page.wait_for_url(f"{gate.base_url}/**")
        await page.screenshot(path=tmp_path / "refused.png")

    assert account_of(gate, provider, login) is None
    cookies = {cookie["name"] for cookie in await context.cookies(gate.base_url)}
    assert "__Host-mcpgw-session" not in cookies


@pytest.mark.requirement("oauth:provider")
async def test_an_answer_of_the_provider_counts_once_and_in_one_browser(
    gate: GatewayProcess, provider: OidcProvider, context: BrowserContext
) -> None:
    answers: list[str] = []
    with anyio.fail_after(WITHIN_S):
        page = await context.new_page()
        page.on("request", lambda r: answers.append(r.url) if "/oauth/sign-in/callback?" in r.url else None)
        await page.goto(f"{gate.base_url}/oauth/sign-in")
        await to_provider(page)
        await at_provider(page, "ada")
        await page.get_by_text("Apps that act for you").wait_for()
        again = await page.goto(answers[0])
        async with browser.async_browser() as other:
            stolen = await (await other.new_page()).goto(answers[0])

    assert again is not None and stolen is not None
    assert again.status >= 400 and stolen.status >= 400


@pytest.mark.requirement("oauth:provider")
async def test_the_browser_can_go_to_the_console_and_sign_out(gate: GatewayProcess, context: BrowserContext) -> None:
    with anyio.fail_after(WITHIN_S):
        page = await context.new_page()
        await page.goto(f"{gate.base_url}/console/")
        await to_provider(page)
        await at_provider(page, "ada")
        await page.get_by_role("heading", name="Ada Lovelace").wait_for()
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_role("heading", name="Signed out").wait_for()
        await page.goto(f"{gate.base_url}/console/")
        await page.get_by_role("link", name="Sign in with Example ID").wait_for()
