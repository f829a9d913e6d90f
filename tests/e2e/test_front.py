"""The pages of our authorization server, by somebody who means no good: on a running gateway, over HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx2
import pytest

from tests.e2e.headless import SESSION, VERIFIER, VISIT, Headless, answered, asking, form_of
from tests.e2e.oauth_parts import PASSWORD, new_user
from tests.harness import GatewayProcess, gateway, rego

WEB, LOCAL = "https://app.example/callback", "http://127.0.0.1:51000/callback"
HOSTILE = '"><script>alert(1)</script>'
_numbers = count(1)


@pytest.fixture(scope="module")
def gate(everything_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    config = {"auth": {"server": {"registration": True}}}
    home = tmp_path_factory.mktemp("front")
    with gateway(home, config=config, policy=rego("allow_all"), workers=2) as made:
        made.publish("everything", everything_url)
        a_client(made, "app")
        yield made
        assert "Traceback" not in made.output()
        assert PASSWORD not in made.output()


def a_client(gate: GatewayProcess, client_id: str, **more: Any) -> None:
    given = {
        "client_id": client_id,
        "title": client_id.capitalize(),
        "grants": ["authorization_code", "refresh_token"],
        "auth_method": "none",
        "redirect_uris": [WEB, "http://127.0.0.1/callback"],
        **more,
    }
    gate.admin.post("/clients", given)


@pytest.fixture
def user(gate: GatewayProcess) -> str:
    """The name of a user who has just got an account."""
    name = f"person-{next(_numbers)}"
    new_user(gate, name)
    return name


@pytest.fixture
def someone(gate: GatewayProcess) -> Headless:
    """A browser in which nobody has signed in."""
    return Headless(gate.base_url)


@pytest.fixture
def signed_in(someone: Headless, user: str) -> Headless:
    assert someone.sign_in(user, PASSWORD).status_code == 200
    return someone


def tokens(gate: GatewayProcess, code: str, client_id: str = "app", redirect_uri: str = WEB) -> dict[str, Any]:
    form = {
        "grant_type": "authorization_code",
        "client_id": client_id,
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": VERIFIER,
    }
    answer = httpx2.post(f"{gate.base_url}/oauth/token", data=form, trust_env=False, timeout=20)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def status_with(gate: GatewayProcess, token: str, server: str = "everything") -> int:
    """Return the status of a request to the endpoint of a server."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
    return httpx2.post(gate.server_url(server), json=body, headers=headers, trust_env=False, timeout=20).status_code


@pytest.mark.requirement("front:sign-in")
def test_a_user_signs_in_reads_what_is_asked_and_allows_it(gate: GatewayProcess, someone: Headless, user: str) -> None:
    page = someone.get("/oauth/authorize", **asking("app", WEB, resource=f"{gate.base_url}/mcp/everything"))
    assert page.status_code == 200 and "<strong>App</strong>" in page.text
    page = someone.sign_in(user, PASSWORD, page)
    assert re.findall(r"<strong>(.+?)</strong>", page.text) == [user.capitalize(), "app.example"]
    assert "use MCP tools, prompts and resources" in page.text
    assert "the MCP server or toolset everything" in page.text
    answer = someone.decide(page)
    assert (answer["state"], answer["iss"]) == ("state-1", gate.base_url)
    assert status_with(gate, tokens(gate, answer["code"])["access_token"]) != 401


@pytest.mark.requirement("front:sign-in")
def test_a_user_who_says_no_sends_the_client_an_error(gate: GatewayProcess, signed_in: Headless, user: str) -> None:
    page = signed_in.get("/oauth/authorize", **asking("app", WEB))
    assert signed_in.decide(page, "deny") == {"error": "access_denied", "state": "state-1", "iss": gate.base_url}
    (record,) = gate.admin.get("/audit", principal=f"mcpgw|{user}", outcome="access_denied")["records"]
    assert (record["verb"], record["client_id"]) == ("consent", "app")


@pytest.mark.requirement("front:unknown-user")
def test_the_page_tells_nobody_whether_a_user_exists(someone: Headless, user: str) -> None:
    seen = set()
    for name, password in ((user, "wrong horse battery"), ("nobody-at-all", PASSWORD), ("", "x"), (HOSTILE, PASSWORD)):
        page = someone.sign_in(name, password)
        assert SESSION not in someone.cookies
        assert "<script>" not in page.text
        text = re.sub(r'value="[^"]*"|autofocus', "", page.text)
        seen.add((page.status_code, re.sub(r"\s+", " ", text)))
    assert len({status for status, _ in seen}) == 1
    assert len({re.sub(r"<input[^>]*>", "", text) for _, text in seen}) == 1


@pytest.mark.requirement("front:session-fixation")
def test_a_planted_cookie_is_never_a_session_and_a_sign_in_makes_a_new_one(
    gate: GatewayProcess, someone: Headless, user: str
) -> None:
    planted = "x" * 43
    someone.cookies[SESSION] = planted
    assert someone.sign_in(user, PASSWORD).status_code == 200
    first = someone.cookies[SESSION]
    assert first != planted
    assert Headless(gate.base_url, {SESSION: planted}).get("/console/").status_code == 303
    # Whoever signs in again, in the same browser, ends what was there.
    again = someone.get("/oauth/authorize", **asking("app", WEB, prompt="login"))
    someone.sign_in(user, PASSWORD, again)
    assert someone.cookies[SESSION] != first
    assert Headless(gate.base_url, {SESSION: first}).get("/console/").status_code == 303


@pytest.mark.requirement("front:csrf")
def test_a_form_from_elsewhere_does_nothing(gate: GatewayProcess, signed_in: Headless, user: str) -> None:
    page = signed_in.get("/oauth/authorize", **asking("app", WEB))
    forms = [
        ("/oauth/consent", {"form": form_of(page), "decision": "allow"}),
        ("/oauth/sign-in", {"form": form_of(Headless(gate.base_url).get("/oauth/sign-in")), "username": user}),
        ("/oauth/sign-out", {"form": form_of(signed_in.get("/console/"))}),
        ("/console/revoke", {"form": "x"}),
    ]
    for origin in (None, "null", "https://evil.example", "http://127.0.0.1:1"):
        for place, fields in forms:
            answer = signed_in.post(place, fields, origin)
            assert answer.status_code == 403 and "location" not in answer.headers, (place, origin)
    assert signed_in.get("/console/").status_code == 200
    assert signed_in.decide(page)["code"]  # the form itself was not spent


@pytest.mark.requirement("front:csrf")
def test_a_form_of_another_browser_page_or_time_does_nothing(gate: GatewayProcess, signed_in: Headless) -> None:
    new_user(gate, attacker := f"attacker-{next(_numbers)}")
    other = Headless(gate.base_url)
    other.sign_in(attacker, PASSWORD)
    theirs = form_of(other.get("/oauth/authorize", **asking("app", WEB)))
    sign_out = form_of(signed_in.get("/console/"))
    mine = form_of(signed_in.get("/oauth/authorize", **asking("app", WEB)))
    for form in ("", "x", theirs, sign_out, mine[:-3] + "AAA", form_of(Headless(gate.base_url).get("/oauth/sign-in"))):
        answer = signed_in.post("/oauth/consent", {"form": form, "decision": "allow"})
        assert answer.status_code == 400 and "location" not in answer.headers
    once = signed_in.post("/oauth/consent", {"form": mine, "decision": "allow"})
    assert once.status_code == 303
    assert signed_in.post("/oauth/consent", {"form": mine, "decision": "allow"}).status_code == 400
    # Signing the victim in as somebody else needs a form made for the victim's browser.
    fields = {"username": attacker, "password": PASSWORD}
    stranger = Headless(gate.base_url)
    form = form_of(Headless(gate.base_url).get("/oauth/sign-in"))
    assert stranger.post("/oauth/sign-in", {"form": form, **fields}).status_code == 400
    stranger.get("/oauth/sign-in")
    assert stranger.post("/oauth/sign-in", {"form": form, **fields}).status_code == 400
    assert SESSION not in stranger.cookies


@pytest.mark.requirement("front:consent")
def test_consent_is_remembered_for_one_client_one_place_and_those_scopes_alone(
    gate: GatewayProcess, signed_in: Headless
) -> None:
    a_client(gate, second := f"second-{next(_numbers)}")

    def asked(client_id: str, redirect_uri: str = WEB, **more: str) -> httpx2.Response:
        return signed_in.get("/oauth/authorize", **asking(client_id, redirect_uri, **more))

    page = asked("app")
    assert page.status_code == 200
    signed_in.decide(page)
    again = asked("app")
    assert again.status_code == 303 and "code" in answered(again)
    # Another client with the same cookie, another resource, another redirect URI: each is asked about.
    assert asked(second).status_code == 200
    assert asked("app", resource=f"{gate.base_url}/mcp/everything").status_code == 200
    assert asked("app", resource=f"{gate.base_url}/v1").status_code == 200
    assert asked("app", LOCAL).status_code == 200
    assert asked("app", prompt="consent").status_code == 200
    # Who waits on the user's own machine could be anyone there: asked about each time.
    signed_in.decide(asked("app", LOCAL))
    assert asked("app", LOCAL).status_code == 200


@pytest.mark.requirement("front:prompt")
def test_a_client_can_ask_to_be_answered_silently_or_to_have_the_user_asked_again(
    gate: GatewayProcess, someone: Headless, user: str
) -> None:
    def asked(prompt: str, **more: str) -> httpx2.Response:
        return someone.get("/oauth/authorize", **asking("app", WEB, prompt=prompt, **more))

    assert answered(asked("none"))["error"] == "login_required"
    assert answered(asked("none login"))["error"] == "invalid_request"
    assert f'value="{user}"' in asked("login", login_hint=user).text
    someone.sign_in(user, PASSWORD)
    assert answered(asked("none"))["error"] == "consent_required"
    page = asked("login")
    assert 'name="password"' in page.text
    page = someone.sign_in(user, PASSWORD, page)
    assert 'value="allow"' in page.text  # not asked to sign in for ever
    someone.decide(page)
    silent = answered(asked("none"))
    assert "code" in silent and silent["iss"] == gate.base_url


@pytest.mark.requirement("front:headers")
def test_no_page_can_be_framed_kept_or_scripted(gate: GatewayProcess, signed_in: Headless) -> None:
    stranger = Headless(gate.base_url)
    pages = [
        stranger.get("/oauth/sign-in"),
        stranger.get("/oauth/authorize"),
        stranger.get("/oauth/consent?request=x"),
        stranger.get("/oauth/sign-in/callback"),
        stranger.post("/oauth/consent", {}, "null"),
        stranger.post("/oauth/consent", {}, None),
        signed_in.get("/oauth/authorize", **asking("app", WEB)),
        signed_in.get("/oauth/authorize", **asking("app", LOCAL)),
        signed_in.get("/console/"),
    ]
    for page in pages[:4] + pages[5:]:
        headers = page.headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["style-src"] == "'self'" and "script-src" not in policy
        assert (headers["x-frame-options"], headers["cache-control"]) == ("DENY", "no-store")
        assert headers["referrer-policy"] == "same-origin" and headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
        assert not re.search(r"<script|<style|\son\w+=|\sstyle=|javascript:", page.text)
    targets = [re.findall(r"form-action ([^;]+)", p.headers["content-security-policy"])[0] for p in pages[6:]]
    assert targets == ["'self' https://app.example", "'self' http://127.0.0.1:51000", "'self'"]
    style = stranger.get("/oauth/style.css")
    assert style.headers["content-type"].startswith("text/css")


UNREGISTERED = [
    "https://evil.example/callback",
    "https://app.example/callback/",
    "https://app.example/callback?x=1",
    "https://app.example/callback#x",
    "https://app.example/callback/../../evil",
    "https://app.example@evil.example/callback",
    "https://app.example.evil.example/callback",
    "https://app.example\\@evil.example/callback",
    "//evil.example/callback",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "http://app.example/callback",
    "http://127.0.0.1:51000@evil.example/callback",
    "http://localhost:51000/callback",
    "https://app.example/callback\r\nSet-Cookie: x=1",
    HOSTILE,
    "",
]


@pytest.mark.requirement("front:redirects")
def test_nobody_is_sent_to_an_address_that_is_not_registered(signed_in: Headless) -> None:
    for redirect_uri in UNREGISTERED:
        for changed in ({}, {"scope": "unknown"}, {"response_type": "token"}, {"prompt": "none"}):
            query = {**asking("app", WEB), "redirect_uri": redirect_uri, **changed}
            page = signed_in.get("/oauth/authorize", **query)
            assert page.status_code == 400 and "location" not in page.headers, redirect_uri
            assert "evil" not in page.text and "<script>" not in page.text


@pytest.mark.requirement("front:redirects")
def test_a_page_repeats_nothing_that_a_stranger_wrote(someone: Headless) -> None:
    for query in (
        {"client_id": HOSTILE},
        {"client_id": f"https://evil.example/{HOSTILE}"},
        {**asking("app", WEB), "client_id": "unknown", "state": HOSTILE},
        {"error": HOSTILE, "error_description": HOSTILE},
        asking("app", WEB, request_uri=HOSTILE),
        asking("app", WEB, login_hint=HOSTILE),
    ):
        page = someone.get("/oauth/authorize", **{name: value for name, value in query.items() if value})
        assert "<script>" not in page.text and "evil.example" not in page.text
    for place in (f"/oauth/consent?request={HOSTILE}", f"/oauth/sign-in/provider?form={HOSTILE}"):
        assert "script" not in someone.get(place).text


@pytest.mark.requirement("front:redirects")
def test_a_client_that_made_itself_sends_nobody_anywhere_who_has_not_signed_in(
    gate: GatewayProcess, someone: Headless, user: str
) -> None:
    made = httpx2.post(
        f"{gate.base_url}/oauth/register",
        json={"redirect_uris": ["https://evil.example/"], "token_endpoint_auth_method": "none"},
        trust_env=False,
    ).json()
    query = asking(made["client_id"], "https://evil.example/", scope="unknown")
    for asked in (query, asking(made["client_id"], "https://evil.example/", prompt="none")):
        page = someone.get("/oauth/authorize", **asked)
        assert page.status_code == 400 and "location" not in page.headers
        assert "Back to evil.example" in page.text
    someone.sign_in(user, PASSWORD)
    assert answered(someone.get("/oauth/authorize", **query))["error"] == "invalid_scope"
    # One that an administrator made gets its error as RFC 6749 has it.
    stranger = Headless(gate.base_url)
    sent = stranger.get("/oauth/authorize", **asking("app", WEB, scope="unknown"))
    assert answered(sent) | {"error_description": ""} == {
        "error": "invalid_scope",
        "error_description": "",
        "state": "state-1",
        "iss": gate.base_url,
    }


@pytest.mark.requirement("front:consent-page")
def test_the_page_says_who_asks_and_warns_of_what_cannot_be_known(gate: GatewayProcess, signed_in: Headless) -> None:
    a_client(gate, hostile := f"hostile-{next(_numbers)}", title=f"Nice {HOSTILE}")
    page = signed_in.get("/oauth/authorize", **asking(hostile, WEB))
    assert "<script>" not in page.text and "Nice &#34;&gt;&lt;script&gt;" in page.text
    assert "an administrator of this gateway" in page.text and "any program here" not in page.text
    assert "<li>everything</li>" in page.text
    local = signed_in.get("/oauth/authorize", **asking("app", LOCAL))
    assert "on this device" in local.text and "any program here could ask under this name" in local.text
    made = httpx2.post(
        f"{gate.base_url}/oauth/register",
        json={"redirect_uris": [WEB], "client_name": "App", "token_endpoint_auth_method": "none"},
        trust_env=False,
    ).json()
    registered = signed_in.get("/oauth/authorize", **asking(made["client_id"], WEB))
    assert "nobody has checked it" in registered.text


@pytest.mark.requirement("front:consent-page")
def test_a_user_gives_no_more_than_they_have(gate: GatewayProcess) -> None:
    new_user(gate, auditor := f"auditor-{next(_numbers)}", roles=["auditor"])
    browser = Headless(gate.base_url)
    browser.sign_in(auditor, PASSWORD)
    page = browser.get("/oauth/authorize", **asking("app", WEB))
    assert page.status_code == 403 and "Your account may not do this" in page.text
    assert 'value="allow"' not in page.text


@pytest.mark.requirement("front:console")
def test_a_user_sees_and_ends_what_they_have_allowed(gate: GatewayProcess, signed_in: Headless, user: str) -> None:
    page = signed_in.get("/oauth/authorize", **asking("app", WEB))
    token = tokens(gate, signed_in.decide(page)["code"])["access_token"]
    assert status_with(gate, token) != 401
    console = signed_in.get("/console/")
    assert f"<h1>{user.capitalize()}</h1>" in console.text and "<h3>App</h3>" in console.text
    forms = re.findall(r'name="form" value="([^"]+)"', console.text)
    answer = signed_in.follow(signed_in.post("/console/revoke", {"form": forms[0]}))
    assert answer.status_code == 200 and "<h3>App</h3>" not in answer.text
    assert status_with(gate, token) == 401
    # And nothing is remembered of it.
    assert signed_in.get("/oauth/authorize", **asking("app", WEB)).status_code == 200


@pytest.mark.requirement("front:console")
def test_a_stranger_is_sent_to_the_sign_in_and_who_signs_out_is_out(gate: GatewayProcess, signed_in: Headless) -> None:
    stranger = Headless(gate.base_url)
    assert stranger.get("/console/").headers["location"] == "/oauth/sign-in"
    console = signed_in.get("/console/")
    session = signed_in.cookies[SESSION]
    out = signed_in.post("/oauth/sign-out", {"form": form_of(console)})
    assert out.status_code == 200 and SESSION not in signed_in.cookies
    assert Headless(gate.base_url, {SESSION: session}).get("/console/").status_code == 303


@pytest.mark.requirement("front:console")
def test_on_loopback_every_name_leads_to_the_one_whose_cookies_count(gate: GatewayProcess) -> None:
    port = gate.base_url.rpartition(":")[2]
    there = Headless(f"http://localhost:{port}").get("/oauth/authorize?client_id=app&state=a%20b")
    assert there.headers["location"] == f"{gate.base_url}/oauth/authorize?client_id=app&state=a%20b"


@pytest.mark.requirement("front:admin-session")
def test_an_administrator_uses_the_admin_api_with_the_session_and_no_other_page_does(gate: GatewayProcess) -> None:
    made = new_user(gate, boss := f"boss-{next(_numbers)}", roles=["admin"])
    browser = Headless(gate.base_url)
    browser.sign_in(boss, PASSWORD)
    assert browser.get("/admin/v1/keys").status_code == 200
    stranger = Headless(gate.base_url, {SESSION: "x" * 43, VISIT: browser.cookies[VISIT]})
    assert stranger.get("/admin/v1/keys").status_code == 401

    def new_key(origin: str | None, **headers: str) -> httpx2.Response:
        body = {"subject": "bot", "roles": ["agent"]}
        given = {"Cookie": f"{SESSION}={browser.cookies[SESSION]}", **headers}
        if origin is not None:
            given["Origin"] = origin
        return httpx2.post(f"{gate.base_url}/admin/v1/keys", json=body, headers=given, trust_env=False, timeout=20)

    for origin, headers in (
        (None, {"X-Mcpgw-Request": "1"}),
        (gate.base_url, {}),
        (gate.base_url, {"X-Mcpgw-Request": "0"}),
        ("https://evil.example", {"X-Mcpgw-Request": "1"}),
        ("null", {"X-Mcpgw-Request": "1"}),
    ):
        assert new_key(origin, **headers).status_code == 403
    made_key = new_key(gate.base_url, **{"X-Mcpgw-Request": "1"})
    assert made_key.status_code == 201
    created = gate.admin.get("/keys")["keys"]
    assert [key["created_by"] for key in created if key["id"] == made_key.json()["id"]] == [f"mcpgw|{boss}"]
    gate.admin.post(f"/principals/{made['id']}/deactivate", {"reason": "left"})
    assert browser.get("/admin/v1/keys").status_code == 401
    assert browser.get("/console/").status_code == 303


@pytest.mark.requirement("front:admin-session")
def test_roles_are_those_of_now_and_a_session_opens_no_mcp_endpoint(gate: GatewayProcess) -> None:
    made = new_user(gate, boss := f"boss-{next(_numbers)}", roles=["admin", "agent"])
    browser = Headless(gate.base_url)
    browser.sign_in(boss, PASSWORD)
    assert browser.get("/admin/v1/audit").status_code == 200
    gate.admin.patch(f"/principals/{made['id']}", {"roles": ["agent"]})
    assert browser.get("/admin/v1/audit").status_code == 403
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    cookie = {"Cookie": f"{SESSION}={browser.cookies[SESSION]}"}
    assert httpx2.post(gate.mcp_url, json=body, headers=cookie, trust_env=False).status_code == 401
