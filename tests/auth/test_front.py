"""Sign-in and consent when something changes between two pages, or is not there."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest
from starlette.applications import Starlette

from mcpgw.auth.server.passwords import Passwords
from mcpgw.domain import Account, Revocation
from mcpgw.errors import Unavailable
from mcpgw.ports import Record
from tests.auth.authorization_server import CALLBACK, Proof, Server, a_confidential_app, a_user, an_app, serving
from tests.auth.parts import BASE
from tests.auth.web_site import site
from tests.fixtures.authority import Authority

PASSWORD = "correct horse battery"
PROOF = Proof.new()


class Person:
    """Ann at her browser. Her password is hashed once for all tests."""

    hashed: str | None = None

    def __init__(self, server: Server, http: httpx2.AsyncClient, account: Account) -> None:
        self.server = server
        self.http = http
        self.account = account

    async def asks(self, **changed: Any) -> httpx2.Response:
        return await self.http.get("/oauth/authorize", params=self.server.query(PROOF, **changed))

    async def posts(self, place: str, page: httpx2.Response, **fields: str) -> httpx2.Response:
        (form,) = re.findall(r'name="form" value="([^"]+)"', page.text)
        return await self.http.post(place, data={"form": form, **fields}, headers={"Origin": BASE})

    async def signs_in(self, page: httpx2.Response) -> httpx2.Response:
        """Return what comes after the sign-in page."""
        answer = await self.posts("/oauth/sign-in", page, username="ann", password=PASSWORD)
        assert answer.status_code == 303, answer.text
        return await self.http.get(answer.headers["location"])

    async def decides(self, page: httpx2.Response, decision: str = "allow") -> httpx2.Response:
        return await self.posts("/oauth/consent", page, decision=decision)


def answered(answer: httpx2.Response) -> dict[str, str]:
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith(f"{CALLBACK}?")
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


@asynccontextmanager
async def ann(home: Path, *rows: Any, **auth: Any) -> AsyncIterator[Person]:
    if Person.hashed is None:
        Person.hashed = await Passwords().hashed(PASSWORD)
    account = a_user(password=Person.hashed, title="Ann")
    async with serving(home, account, *(rows or (an_app(),)), **auth) as server:
        app = Starlette(routes=server.identity.routes())
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=BASE) as http:
            yield Person(server, http, account)


@pytest.mark.requirement("front:sign-in")
async def test_a_page_that_lay_too_long_does_nothing(tmp_path: Path) -> None:
    async with ann(tmp_path) as person:
        page = await person.asks()
        person.server.clock.now += 601
        stale = await person.posts("/oauth/sign-in", page, username="ann", password=PASSWORD)
        assert (stale.status_code, "too old" in stale.text) == (400, True)
        consent = await person.signs_in(await person.asks())
        person.server.clock.now += 601
        stale = await person.decides(consent)
        assert (stale.status_code, "too old" in stale.text) == (400, True)
        assert answered(await person.decides(await person.asks()))["code"]


@pytest.mark.requirement("front:consent")
@pytest.mark.parametrize("what", ["client", "redirect uri", "account", "session"])
async def test_what_ends_between_question_and_answer_is_not_answered(tmp_path: Path, what: str) -> None:
    async with ann(tmp_path, app := an_app()) as person:
        page = await person.signs_in(await person.asks())
        now = person.server.clock.now
        if what == "client":
            await person.server.add(replace(app, revoked_at=now))
        elif what == "redirect uri":
            await person.server.add(replace(app, redirect_uris=("https://app.example/new",)))
        elif what == "account":
            await person.server.add(replace(person.account, deactivated_at=now))
        else:
            person.server.clock.now += 1
            await person.server.add(Revocation("principal", "mcpgw|ann", now + 1))
        answer = await person.decides(page)
        assert answer.status_code == 400 and "location" not in answer.headers


@pytest.mark.requirement("front:consent")
async def test_consent_of_before_a_revocation_counts_no_more(tmp_path: Path) -> None:
    async with ann(tmp_path) as person:
        await person.decides(await person.signs_in(await person.asks()))
        assert "code" in answered(await person.asks())
        person.server.clock.now += 5
        await person.server.add(Revocation("client", "app", person.server.clock.now))
        assert (await person.asks()).status_code == 200
        person.server.clock.now += 1
        await person.decides(await person.asks())
        assert "code" in answered(await person.asks())
        # Fewer rights than those that were agreed to are another question; more, too.
        await person.server.add(replace(person.account, roles=frozenset({"auditor"})))
        assert (await person.asks()).status_code == 403


@pytest.mark.requirement("front:consent")
async def test_a_client_with_a_secret_is_known_also_on_the_users_own_machine(tmp_path: Path) -> None:
    secretive, _ = a_confidential_app(redirect_uris=("http://127.0.0.1/cb",))
    async with ann(tmp_path, secretive) as person:
        here = {"redirect_uri": "http://127.0.0.1:5000/cb"}
        await person.decides(await person.signs_in(await person.asks(**here)))
        assert (await person.asks(**here)).status_code == 303


@pytest.mark.requirement("front:sign-in")
async def test_there_is_no_password_where_local_users_are_off(tmp_path: Path) -> None:
    async with ann(tmp_path, local_users=False) as person:
        page = await person.asks()
        assert "Nobody can sign in here" in page.text and "password" not in page.text.lower()
    async with ann(tmp_path) as person:
        page = await person.asks()
        (form,) = re.findall(r'name="form" value="([^"]+)"', page.text)
    async with ann(tmp_path, local_users=False) as other:
        fields = {"form": form, "username": "ann", "password": PASSWORD}
        other.http.cookies = person.http.cookies
        answer = await other.http.post("/oauth/sign-in", data=fields, headers={"Origin": BASE})
        assert answer.status_code == 400


@pytest.mark.requirement("front:documents")
async def test_the_page_says_what_is_wrong_with_a_clients_document_and_who_a_good_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.create(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    async with site(authority.server("127.0.0.1")) as web, ann(tmp_path) as person:
        good = web.document("/good.json", redirect_uris=[CALLBACK])
        bad = web.document("/bad.json", client_name=None)
        refused = await person.asks(client_id=bad)
        assert (refused.status_code, "no client_name" in refused.text) == (400, True)
        away = await person.asks(client_id=f"{web.base}/missing.json")
        assert (away.status_code, "status 404" in away.text) == (400, True)
        page = await person.signs_in(await person.asks(client_id=good))
        assert "its own description at <strong>127.0.0.1</strong>" in page.text
        assert "but the answer goes to app.example" in page.text
        assert answered(await person.decides(page))["code"]


@pytest.mark.requirement("front:sign-in")
async def test_a_fault_of_the_database_is_a_page_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ann(tmp_path) as person:
        page = await person.asks()

        async def fails(record: Record) -> bool:
            raise Unavailable("the database does not answer", fix="try again in a moment")

        monkeypatch.setattr(person.server.records, "put", fails)
        answer = await person.posts("/oauth/sign-in", page, username="ann", password=PASSWORD)
        assert (answer.status_code, "The database does not answer." in answer.text) == (503, True)
        assert "set-cookie" not in answer.headers


@pytest.mark.requirement("front:prompt")
async def test_a_pushed_request_is_asked_about_as_it_was_pushed(tmp_path: Path) -> None:
    async with ann(tmp_path) as person:
        await person.decides(await person.signs_in(await person.asks()))
        form = {**person.server.query(PROOF), "prompt": "consent", "login_hint": "ann"}
        status, _, pushed = await person.server.ask(form, at="par")
        assert status == 201
        query = {"client_id": "app", "request_uri": pushed["request_uri"]}
        page = await person.http.get("/oauth/authorize", params=query)
        assert (page.status_code, 'value="allow"' in page.text) == (200, True)


@pytest.mark.requirement("front:csrf")
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=x", b"--x--"),
        ("application/json", b"{}"),
        ("application/x-www-form-urlencoded", b"form=" + b"x" * 40_000),
        ("application/x-www-form-urlencoded", b"&".join(b"f%d=x" % n for n in range(20))),
        ("application/x-www-form-urlencoded", b"form=%ff"),
        ("application/x-www-form-urlencoded", b"\xff"),
    ],
    ids=["multipart", "json", "large", "many fields", "no utf-8", "no ascii"],
)
async def test_what_is_no_form_of_ours_is_refused(tmp_path: Path, kind: str, body: bytes) -> None:
    async with ann(tmp_path) as person:
        headers = {"Origin": BASE, "Content-Type": kind}
        for place in ("/oauth/sign-in", "/oauth/consent", "/oauth/sign-out", "/console/revoke"):
            answer = await person.http.post(place, content=body, headers=headers)
            assert (answer.status_code, "text/html" in answer.headers["content-type"]) == (400, True)
