"""Servers that are called in the name of their users, behind a gateway of two workers, with npm's oidc-provider."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import anyio.to_thread
import httpx2
import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequestURLParams, ElicitResult

from mcpgw.auth.upstream.user import LOOK_S
from mcpgw.errors import GatewayError
from tests import tools
from tests.e2e.agents import agent
from tests.e2e.oauth_parts import new_user
from tests.e2e.parts import lines_of
from tests.e2e.person import Page, Person
from tests.e2e.wire import MODERN, PREFIX, Reply, Wire, modern_headers, request
from tests.fixtures.oidc_provider import OidcProvider, Resource, Settings, oidc_provider
from tests.fixtures.processes import running
from tests.harness import GatewayProcess, gateway, rego, until

OPENS_URLS = {"elicitation": {"url": {}}}
USER = {"mode": "user"}
LOGINS = {"ada": "ada-there", "bob": "bob-there", "root": "root-there", "robot": "robot-there"}
CALL = {"name": "whoami", "arguments": {}}


@dataclass
class Scene:
    """A gateway with two servers of mode user: anybody may list the tools of `notes`, nobody those of `vault`."""

    gate: GatewayProcess
    provider: OidcProvider
    keys: Mapping[str, str]
    urls: Mapping[str, str]

    def person(self, name: str) -> Person:
        return Person(self.gate, self.provider, name, LOGINS[name])

    def ask(
        self, who: str, params: Mapping[str, Any] = CALL, can: Mapping[str, Any] = OPENS_URLS, server: str = "notes"
    ) -> Reply:
        """Call a tool as a client of 2026-07-28 that can do this."""
        meta = {PREFIX + "protocolVersion": MODERN, PREFIX + "clientCapabilities": can}
        message = request("tools/call", {**params, "_meta": meta})
        wire = Wire(self.gate.base_url, self.keys[who], f"/mcp/{server}")
        return wire.send(json.dumps(message), modern_headers("tools/call", params))

    def asked(self, who: str, params: Mapping[str, Any] = CALL, server: str = "notes") -> dict[str, Any]:
        """Return the result that asks somebody to agree."""
        result: dict[str, Any] = self.ask(who, params, server=server).json["result"]
        assert result["resultType"] == "input_required", result
        return result

    def seen(self, server: str = "notes") -> list[list[Any]]:
        """Return every request that has arrived at a server."""
        found: list[list[Any]] = httpx2.get(self.urls[server].removesuffix("/mcp") + "/seen", trust_env=False).json()
        return found

    def connect(self, who: str, server: str = "notes") -> None:
        """Have somebody connected who is not."""
        held = self.gate.admin.get("/connections", principal=f"mcpgw|{who}")["connections"]
        if server not in {one["server"] for one in held}:
            page = self.person(who).agree(url_in(self.asked(who, server=server)))
            assert page.title == f"{server} is connected", page.text

    def disconnect(self, *people: str) -> None:
        """Have people not connected who are; every worker knows it."""
        before = [self.gate.admin.get("/connections", principal=f"mcpgw|{who}")["connections"] for who in people]
        for who, held in zip(people, before, strict=True):
            person = self.person(who)
            page = person.open(f"{self.gate.base_url}/oauth/connections") if held else None
            while page is not None and "Disconnect" in page.text:
                page = person.post(page)
        ended = time.monotonic()
        until(lambda: not any(before) or time.monotonic() - ended > LOOK_S, "every worker looks again")


def url_in(result: Mapping[str, Any]) -> str:
    url: str = result["inputRequests"]["consent"]["params"]["url"]
    return url


def again(result: Mapping[str, Any], params: Mapping[str, Any] = CALL) -> dict[str, Any]:
    """Return the parameters of the retry of a call that was answered by a question."""
    return {**params, "inputResponses": {"consent": {"action": "accept"}}, "requestState": result["requestState"]}


def subject_in(reply: Reply) -> str:
    assert reply.status == 200 and "result" in reply.json, reply.body
    subject: str = reply.json["result"]["structuredContent"]["sub"]
    return subject


def refusals(scene: Scene, outcome: str) -> int:
    """Return how often the log says that nobody was connected, and why."""
    return sum((line.verb, line.outcome) == ("connect", outcome) for line in lines_of(scene.gate.audit_dir))


def publish(scene: Scene, server: str) -> None:
    """Publish, approve and activate a server; root agrees, if that takes it."""
    given = {"slug": server, "url": scene.urls[server], "auth": USER}
    root = {"Authorization": f"Bearer {scene.keys['root']}"}
    for _ in range(2):
        answer = httpx2.post(f"{scene.gate.base_url}/admin/v1/servers", json=given, headers=root, trust_env=False)
        if answer.is_success:
            break
        page = scene.person("root").agree(answer.json()["error"]["data"]["url"])
        assert page.title == f"{server} is connected", page.text
    version = answer.json()["version"]
    scene.gate.admin.post(f"/servers/{server}/versions/{version}/approve")
    scene.gate.admin.post(f"/servers/{server}/versions/{version}/activate")


@contextmanager
def protected(log: Path, provider: OidcProvider, *, public_lists: bool) -> Iterator[str]:
    settings = {"issuer": provider.issuer, "scopes": ["mcp:use"], "public_lists": public_lists}
    with running([sys.executable, "-m", "tests.fixtures.protected_server", json.dumps(settings)], log=log) as server:
        yield server.url


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("connect")
    settings = Settings(
        users={login: {} for login in LOGINS.values()},
        resources={"*": Resource(scope="mcp:use notes:write")},
        registration=True,
    )
    try:
        tools.node(), tools.npm_package("provider", "oidc-provider")
    except tools.Missing as reason:
        pytest.skip(str(reason))
    with (
        oidc_provider(settings, log=directory / "provider.log") as provider,
        protected(directory / "notes.log", provider, public_lists=True) as notes,
        protected(directory / "vault.log", provider, public_lists=False) as vault,
        gateway(directory / "gateway", policy=rego("allow_all"), workers=2) as gate,
    ):
        new_user(gate, "root", roles=["admin"])
        for name in ("ada", "bob"):
            new_user(gate, name, roles=["agent"])
        keys = {name: gate.new_key(name, "agent")[1] for name in ("ada", "bob", "robot")}
        keys["root"] = gate.new_key("root", "admin")[1]
        made = Scene(gate, provider, keys, {"notes": notes, "vault": vault, "closed": vault})
        publish(made, "notes")
        publish(made, "vault")
        yield made
        assert "Traceback" not in gate.output()


@pytest.fixture
def strangers(scene: Scene) -> Scene:
    """The scene before anybody has agreed to anything."""
    scene.disconnect("ada", "bob")
    return scene


@pytest.mark.requirement("connect:asked")
@pytest.mark.requirement("connect:registration")
def test_a_caller_agrees_in_a_browser_and_the_same_call_goes_on(strangers: Scene) -> None:
    before = len(strangers.seen())
    asked = strangers.asked("ada")
    params = asked["inputRequests"]["consent"]
    assert params["method"] == "elicitation/create"
    assert params["params"]["mode"] == "url"
    assert strangers.asked("ada", again(asked))["requestState"] != asked["requestState"]
    assert strangers.seen()[before:] == []  # nothing is sent in nobody's name

    page = strangers.person("ada").agree(url_in(asked))

    assert page.title == "notes is connected"
    assert subject_in(strangers.ask("ada", again(asked))) == LOGINS["ada"]
    sent = [body for method, _, headers, body in strangers.seen()[before:] if "tools/call" in body]
    assert len(sent) == 1
    assert "requestState" not in sent[0]
    assert "inputResponses" not in sent[0]
    assert all(strangers.keys["ada"] not in json.dumps(arrived) for arrived in strangers.seen())


@pytest.mark.requirement("connect:asked")
@pytest.mark.parametrize("mode", ["2026-07-28", "auto"])
async def test_the_sdks_client_is_asked_and_its_call_returns_the_answer(strangers: Scene, mode: str) -> None:
    opened: list[str] = []

    async def person(context: Any, params: Any) -> ElicitResult:
        assert isinstance(params, ElicitRequestURLParams)
        opened.append(params.url)
        page = await anyio.to_thread.run_sync(strangers.person("ada").agree, params.url)
        assert page.title == "notes is connected", page.text
        return ElicitResult(action="accept")

    url = strangers.gate.server_url("notes")
    async with agent(url, strangers.keys["ada"], mode=mode, elicitation_callback=person) as client:
        with anyio.fail_after(20):
            result = await client.call_tool("whoami")
    assert result.structured_content["sub"] == LOGINS["ada"]
    assert len(opened) == 1


@pytest.mark.requirement("connect:asked")
async def test_a_client_of_2025_11_25_is_told_by_its_own_error(strangers: Scene) -> None:
    async def person(context: Any, params: Any) -> ElicitResult:
        raise AssertionError("no request of the server is open that could ask")

    url = strangers.gate.server_url("notes")
    async with agent(url, strangers.keys["ada"], mode="legacy", elicitation_callback=person) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("whoami")
        (elicitation,) = refused.value.error.data["elicitations"]
        assert (refused.value.error.code, elicitation["mode"]) == (-32042, "url")
        assert elicitation["elicitationId"]
        await anyio.to_thread.run_sync(strangers.person("ada").agree, elicitation["url"])
        result = await client.call_tool("whoami")
    assert result.structured_content["sub"] == LOGINS["ada"]


@pytest.mark.requirement("connect:asked")
def test_a_client_that_opens_no_urls_gets_an_error_that_says_the_url(strangers: Scene) -> None:
    modern = strangers.ask("ada", can={"elicitation": {"form": {}}})
    wire = Wire(strangers.gate.base_url, strangers.keys["ada"], "/mcp/notes")
    legacy = wire.legacy(wire.session(), "tools/call", CALL)

    assert (modern.status, legacy.status) == (403, 200)
    for reply in (modern, legacy):
        assert reply.code == -31042
        assert reply.error["data"]["url"] in reply.error["message"]
    assert strangers.person("ada").agree(legacy.error["data"]["url"]).title == "notes is connected"
    assert strangers.ask("ada").status == 200
    refusals = {line.outcome for line in lines_of(strangers.gate.audit_dir) if line.verb == "tools/call"}
    assert "consent_needed" in refusals


@pytest.mark.requirement("connect:asked")
def test_who_says_no_is_told_and_not_asked_again(strangers: Scene) -> None:
    asked = strangers.asked("ada")
    said_no = {**again(asked), "inputResponses": {"consent": {"action": "decline"}}}

    reply = strangers.ask("ada", said_no)

    assert reply.code == -31042
    assert reply.error["data"]["url"] in reply.error["message"]


@pytest.mark.requirement("connect:asked")
def test_a_stream_that_nobody_has_agreed_to_is_one_that_is_not_offered(strangers: Scene) -> None:
    wire = Wire(strangers.gate.base_url, strangers.keys["ada"], "/mcp/notes")
    session = wire.session()

    reply = wire.send(headers={"Mcp-Session-Id": session, "Accept": "text/event-stream"}, method="GET")

    assert reply.status == 405
    assert wire.send(headers={"Mcp-Session-Id": session}, method="DELETE").status == 200


@pytest.mark.requirement("connect:retry")
def test_the_state_of_an_unsent_call_is_good_for_its_caller_and_that_call_alone(strangers: Scene) -> None:
    asked = strangers.asked("ada")
    other = {"name": "write", "arguments": {}}

    assert strangers.ask("bob", again(asked)).code == -32602
    assert strangers.ask("ada", again(asked, other)).code == -32602
    strangers.connect("ada")
    assert strangers.ask("bob", again(asked)).code == -32602
    assert subject_in(strangers.ask("ada", again(asked))) == LOGINS["ada"]


@pytest.mark.requirement("connect:consent")
def test_nobody_else_can_use_a_link_and_a_page_counts_once(strangers: Scene) -> None:
    url = url_in(strangers.asked("ada"))
    ada, bob = strangers.person("ada"), strangers.person("bob")
    denied, stale = refusals(strangers, "access_denied"), refusals(strangers, "invalid_request")

    assert bob.open(url).title == "This link is for somebody else"
    page = ada.open(url)
    assert page.title == "Connect notes?"
    assert urlsplit(strangers.provider.issuer).netloc in page.text
    assert "mcp:use" in page.text
    stolen = bob.press(Page(200, page.text, page.at))
    assert isinstance(stolen, Page) and stolen.title == "This link is too old"
    first = ada.press(page)
    assert isinstance(first, str)
    second = ada.press(page)
    assert isinstance(second, Page) and second.title == "This link is too old"
    assert refusals(strangers, "access_denied") == denied + 1
    assert refusals(strangers, "invalid_request") == stale + 2


@pytest.mark.requirement("connect:consent")
def test_the_way_back_counts_once_and_in_the_browser_that_left(strangers: Scene) -> None:
    ada, bob = strangers.person("ada"), strangers.person("bob")
    bob.open(f"{strangers.gate.base_url}/oauth/connections")
    url = url_in(strangers.asked("ada"))

    back = ada.go(url)
    assert isinstance(back, str)
    assert bob.get(back).title == "This link is too old"
    assert ada.get(back).title == "This link is too old"  # whoever it was that came first with the state
    back = ada.go(url)
    assert isinstance(back, str)
    assert ada.get(back).title == "notes is connected"
    assert ada.get(back).title == "This link is too old"


@pytest.mark.requirement("connect:mix-up")
@pytest.mark.parametrize("change", [{"iss": "https://evil.example"}, {"iss": None}, {"iss": "{issuer}/"}])
@pytest.mark.parametrize("error", [False, True])
def test_an_answer_that_is_not_its_issuers_is_not_used(
    strangers: Scene, change: dict[str, str | None], error: bool
) -> None:
    ada, issuer = strangers.person("ada"), strangers.provider.issuer
    back = ada.go(url_in(strangers.asked("ada")))
    assert isinstance(back, str)
    issued = len(strangers.provider.issued())
    query = dict(parse_qsl(urlsplit(back).query)) | ({"error": "access_denied"} if error else {})
    for name, value in change.items():
        query.pop(name)
        if value is not None:
            query[name] = value.format(issuer=issuer)

    page = ada.get(f"{back.partition('?')[0]}?{urlencode(query)}")

    assert (page.status, page.title) == (400, "That answer came from elsewhere")
    assert len(strangers.provider.issued()) == issued
    assert strangers.asked("ada")


@pytest.mark.requirement("connect:own-token")
def test_each_caller_has_their_own_token_however_calls_are_mixed(strangers: Scene) -> None:
    for who in ("ada", "bob"):
        strangers.connect(who)

    def told(number: int) -> tuple[str, str]:
        who = "ada" if number % 2 else "bob"
        return LOGINS[who], subject_in(strangers.ask(who))

    with ThreadPoolExecutor(16) as threads:
        for wanted, found in threads.map(told, range(200)):
            assert wanted == found


@pytest.mark.requirement("connect:refresh")
def test_all_workers_together_refresh_a_token_once(strangers: Scene) -> None:
    strangers.provider.change(ttl_s=12)
    try:
        for who in ("ada", "bob"):
            strangers.connect(who)
        before = len(strangers.provider.issued())

        def told(number: int) -> bool:
            who = "ada" if number % 2 else "bob"
            return subject_in(strangers.ask(who)) == LOGINS[who]

        def refreshed() -> bool:
            with ThreadPoolExecutor(8) as threads:
                assert all(threads.map(told, range(16)))
            return len(strangers.provider.issued()) - before >= 2

        until(refreshed, "a refresh each", within_s=40)
        # One for each of them, whatever the number of workers and calls; and the next has its own refresh token.
        answers = strangers.provider.issued()
        assert len(answers) - before == 2
        assert len({answer["refresh_token"] for answer in answers}) == len(answers)
    finally:
        strangers.provider.change(ttl_s=600)
        strangers.disconnect("ada", "bob")


@pytest.mark.requirement("connect:step-up")
def test_a_tool_that_wants_more_scopes_has_the_caller_asked_for_all_of_them_together(strangers: Scene) -> None:
    strangers.connect("ada", "vault")
    assert subject_in(strangers.ask("ada", server="vault")) == LOGINS["ada"]
    write = {"name": "write", "arguments": {}}

    asked = strangers.asked("ada", write, "vault")
    page = strangers.person("ada").open(url_in(asked))
    assert "mcp:use" in page.text
    assert "notes:write" in page.text
    assert strangers.person("ada").agree(url_in(asked)).title == "vault is connected"

    def allowed() -> bool:  # a worker that has just looked uses what it has for a second
        return "content" in strangers.ask("ada", again(asked, write), server="vault").json.get("result", {})

    until(allowed, "the call is let through")
    assert subject_in(strangers.ask("ada", server="vault")) == LOGINS["ada"]


@pytest.mark.requirement("connect:disconnect")
def test_whoever_disconnects_is_asked_again_at_every_worker(strangers: Scene) -> None:
    strangers.connect("ada")
    assert subject_in(strangers.ask("ada")) == LOGINS["ada"]

    strangers.disconnect("ada")

    assert all(strangers.asked("ada") for _ in range(8))
    assert "POST /token/revocation" in strangers.provider.seen()
    strangers.connect("bob")
    assert subject_in(strangers.ask("bob")) == LOGINS["bob"]


@pytest.mark.requirement("connect:disconnect")
def test_an_administrator_sees_and_ends_what_a_principal_has_connected(strangers: Scene) -> None:
    strangers.connect("bob")

    (held,) = strangers.gate.admin.get("/connections", principal="mcpgw|bob")["connections"]
    assert (held["server"], held["issuer"]) == ("notes", strangers.provider.issuer)
    assert not {"access_token", "refresh_token"} & held.keys()
    ended = strangers.gate.admin.delete("/connections", {"principal": "mcpgw|bob", "server": "notes"})
    assert ended == {"ended": 1}
    assert strangers.gate.admin.get("/connections", principal="mcpgw|bob") == {"connections": []}
    with pytest.raises(GatewayError, match="has not connected"):
        strangers.gate.admin.delete("/connections", {"principal": "mcpgw|bob", "server": "notes"})


@pytest.mark.requirement("connect:consent")
def test_an_administrator_connects_for_an_agent_that_has_no_account_and_is_told_so(scene: Scene) -> None:
    url = url_in(scene.asked("robot"))

    assert scene.person("bob").open(url).title == "This link is for somebody else"
    root = Person(scene.gate, scene.provider, "root", LOGINS["robot"])
    assert "in the name of the agent <strong>robot</strong>" in root.open(url).text
    assert root.agree(url).title == "notes is connected"
    assert subject_in(scene.ask("robot")) == LOGINS["robot"]


@pytest.mark.requirement("connect:asked")
def test_a_server_that_tells_strangers_nothing_is_published_once_its_publisher_has_agreed(scene: Scene) -> None:
    given = {"slug": "closed", "url": scene.urls["closed"], "auth": USER}
    with pytest.raises(GatewayError) as refused:
        scene.gate.admin.post("/servers", given)
    assert refused.value.data["url"].startswith(f"{scene.gate.base_url}/oauth/connect/closed?ticket=")

    publish(scene, "closed")

    scene.connect("ada", "closed")
    assert subject_in(scene.ask("ada", server="closed")) == LOGINS["ada"]
    wire = Wire(scene.gate.base_url, scene.keys["bob"], "/mcp/closed")
    assert wire.initialize().status == 200  # who has not agreed yet can connect, to be asked at the first call
    listed = wire.modern("tools/list").json["result"]["tools"]
    assert {tool["name"] for tool in listed} == {"whoami", "write"}
