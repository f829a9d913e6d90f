"""Clients that register themselves (RFC 7591), and manage what they said (RFC 7592)."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from mcpgw.auth.server.registration import PER_SOURCE
from tests.auth.authorization_server import Server, a_user, serving, told
from tests.auth.parts import BASE

GOOD: dict[str, Any] = {
    "client_name": "Notebook",
    "redirect_uris": ["https://notebook.example/callback", "http://localhost/callback"],
    "grant_types": ["authorization_code", "refresh_token"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "none",
}


@asynccontextmanager
async def registering(home: Path, **server: Any) -> AsyncIterator[tuple[Server, httpx2.AsyncClient]]:
    async with serving(home, a_user(), server={"registration": True, **server}) as made:
        app = Starlette(routes=made.identity.routes())
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=BASE) as http:
            yield made, http


@pytest.mark.requirement("front:registration")
async def test_a_client_registers_and_asks_a_user(tmp_path: Path) -> None:
    async with registering(tmp_path) as (server, http):
        answer = await http.post("/oauth/register", json={**GOOD, "client_uri": "https://notebook.example/", "odd": 1})
        made = answer.json()
        assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
        client_id, token = made.pop("client_id"), made.pop("registration_access_token")
        assert made.pop("registration_client_uri") == f"{BASE}/oauth/register/{client_id}"
        assert made.pop("client_id_issued_at") == int(server.clock.now)
        assert made == {**GOOD, "client_uri": "https://notebook.example/"}
        client = server.worlds.current.identities.clients[client_id]
        assert (client.roles, client.subject, client.created_by) == (frozenset(), "", "mcpgw|registration")
        note = (await server.store.notes(0, 100))[-1][2]
        assert (note.actor, note.action, note.target) == ("mcpgw|registration", "client.register", client_id)
        assert token not in repr(client) and token not in repr(note) and token not in told(server)
        page = await http.get("/oauth/authorize", params={**query(), "client_id": client_id})
        assert page.status_code == 200 and "to go on with <strong>Notebook</strong>" in page.text


@pytest.mark.requirement("front:registration")
async def test_a_confidential_client_gets_a_secret_that_works(tmp_path: Path) -> None:
    async with registering(tmp_path) as (_, http):
        body = {"redirect_uris": ["https://notebook.example/callback"]}
        made = (await http.post("/oauth/register", json=body)).json()
        assert (made["token_endpoint_auth_method"], made["client_secret_expires_at"]) == ("client_secret_basic", 0)
        basic = base64.b64encode(f"{made['client_id']}:{made['client_secret']}".encode()).decode()
        form = {"grant_type": "authorization_code", "code": "x", "code_verifier": "x" * 43}
        for authorization, error in ((basic, "invalid_grant"), (basic[:-4] + "AAA=", "invalid_client")):
            answer = await http.post("/oauth/token", data=form, headers={"Authorization": f"Basic {authorization}"})
            assert answer.json()["error"] == error
        for_itself = await http.post(
            "/oauth/token", data={"grant_type": "client_credentials"}, headers={"Authorization": f"Basic {basic}"}
        )
        assert for_itself.json()["error"] == "unauthorized_client"


def query() -> dict[str, str]:
    return {
        "response_type": "code",
        "redirect_uri": "https://notebook.example/callback",
        "code_challenge": "x" * 43,
        "code_challenge_method": "S256",
    }


BAD: list[tuple[dict[str, Any], str]] = [
    ({"redirect_uris": None}, "invalid_redirect_uri"),
    ({"redirect_uris": []}, "invalid_redirect_uri"),
    ({"redirect_uris": "https://notebook.example/"}, "invalid_redirect_uri"),
    ({"redirect_uris": [7]}, "invalid_redirect_uri"),
    ({"redirect_uris": ["javascript:alert(1)"]}, "invalid_redirect_uri"),
    ({"redirect_uris": ["https://notebook.example/cb", "javascript:alert(1)"]}, "invalid_redirect_uri"),
    ({"redirect_uris": ["data:text/html,x"]}, "invalid_redirect_uri"),
    ({"redirect_uris": ["http://notebook.example/cb"]}, "invalid_redirect_uri"),
    ({"redirect_uris": ["http://192.168.1.1/cb"]}, "invalid_redirect_uri"),
    ({"redirect_uris": ["http://127.0.0.1@notebook.example/cb"]}, "invalid_redirect_uri"),
    ({"redirect_uris": ["https://notebook.example/cb#x"]}, "invalid_redirect_uri"),
    ({"redirect_uris": ["https://*.example/cb"]}, "invalid_redirect_uri"),
    ({"redirect_uris": ["/cb"]}, "invalid_redirect_uri"),
    ({"redirect_uris": ["file:///etc/passwd"]}, "invalid_redirect_uri"),
    ({"redirect_uris": ["myapp://cb"]}, "invalid_redirect_uri"),
    ({"redirect_uris": [f"https://notebook.example/{n}" for n in range(17)]}, "invalid_redirect_uri"),
    ({"grant_types": ["client_credentials"]}, "invalid_client_metadata"),
    ({"grant_types": ["implicit"]}, "invalid_client_metadata"),
    ({"grant_types": ["password"]}, "invalid_client_metadata"),
    ({"grant_types": "authorization_code"}, "invalid_client_metadata"),
    ({"response_types": ["token"]}, "invalid_client_metadata"),
    ({"response_types": [1]}, "invalid_client_metadata"),
    ({"token_endpoint_auth_method": "client_secret_jwt"}, "invalid_client_metadata"),
    ({"token_endpoint_auth_method": "tls_client_auth"}, "invalid_client_metadata"),
    ({"token_endpoint_auth_method": 1}, "invalid_client_metadata"),
    ({"token_endpoint_auth_method": "private_key_jwt"}, "invalid_client_metadata"),
    ({"jwks": {"keys": [{"kty": "oct", "k": "eA"}]}}, "invalid_client_metadata"),
    ({"jwks": {"keys": [{"kty": "RSA", "n": "x", "e": "AQAB", "d": "x"}]}}, "invalid_client_metadata"),
    ({"jwks": {"keys": [{"kty": "EC"}] * 9}}, "invalid_client_metadata"),
    ({"jwks": {"keys": [{"kty": "EC"}]}, "jwks_uri": "https://notebook.example/j"}, "invalid_client_metadata"),
    ({"jwks_uri": "javascript:alert(1)"}, "invalid_client_metadata"),
    ({"jwks_uri": "http://notebook.example/jwks"}, "invalid_client_metadata"),
    ({"client_name": "Note\u202ebook"}, "invalid_client_metadata"),
    ({"client_name": "Note\nbook"}, "invalid_client_metadata"),
    ({"client_name": 7}, "invalid_client_metadata"),
    ({"client_name": "x" * 257}, "invalid_client_metadata"),
    ({"client_uri": "javascript:alert(1)"}, "invalid_client_metadata"),
    ({"logo_uri": "data:image/png;base64,AA"}, "invalid_client_metadata"),
    ({"tos_uri": "http://notebook.example/"}, "invalid_client_metadata"),
    ({"policy_uri": "ftp://notebook.example/"}, "invalid_client_metadata"),
    ({"contacts": "ada@notebook.example"}, "invalid_client_metadata"),
    ({"application_type": "service"}, "invalid_client_metadata"),
    ({"scope": "a  b"}, "invalid_client_metadata"),
    ({"scope": ["mcp:use"]}, "invalid_client_metadata"),
]


@pytest.mark.requirement("front:registration-errors")
async def test_metadata_that_make_no_sense_are_refused_with_the_rfcs_own_error(tmp_path: Path) -> None:
    async with registering(tmp_path) as (server, http):
        before = len(server.worlds.current.identities.clients)
        for changed, error in BAD:
            body = {name: value for name, value in {**GOOD, **changed}.items() if value is not None}
            answer = await http.post("/oauth/register", json=body)
            assert (answer.status_code, answer.json()["error"]) == (400, error), changed
            assert answer.json().keys() == {"error", "error_description"}
            assert "notebook" not in answer.json()["error_description"]
            entry = server.log.entries[-1]
            assert (entry.event, entry.outcome, entry.source) == ("registration", error, "127.0.0.1")
            server.clock.now += 60
        assert len(server.worlds.current.identities.clients) == before
        assert len(BAD) >= 40


@pytest.mark.requirement("front:registration-errors")
@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"", 400),
        ("application/json", b"[]", 400),
        ("application/json", b"{", 400),
        ("application/json", b'{"client_name": "a", "client_name": "b"}', 400),
        ("application/json", b"\xff", 400),
        ("application/json", b"{" * 5000, 400),
        ("application/x-www-form-urlencoded", json.dumps(GOOD).encode(), 400),
        ("text/plain", json.dumps(GOOD).encode(), 400),
        ("application/json", b" " * 40_000, 413),
    ],
    ids=["empty", "list", "cut", "twice", "not utf-8", "deep", "form", "text", "large"],
)
async def test_what_is_no_json_object_is_refused(tmp_path: Path, kind: str, body: bytes, status: int) -> None:
    async with registering(tmp_path) as (_, http):
        answer = await http.post("/oauth/register", content=body, headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["error"]) == (status, "invalid_client_metadata")


@pytest.mark.requirement("front:registration-management")
async def test_a_client_reads_changes_and_ends_its_registration(tmp_path: Path) -> None:
    async with registering(tmp_path) as (server, http):
        made = (await http.post("/oauth/register", json=GOOD)).json()
        place, token = made["registration_client_uri"], made["registration_access_token"]
        mine = {"Authorization": f"Bearer {token}"}
        shown = await http.get(place, headers=mine)
        assert shown.status_code == 200
        assert shown.json() == {n: v for n, v in made.items() if n != "registration_access_token"}

        given = {**GOOD, "client_id": made["client_id"], "redirect_uris": ["https://notebook.example/new"]}
        changed = await http.put(place, headers=mine, json=given)
        assert (changed.status_code, changed.json()["redirect_uris"]) == (200, ["https://notebook.example/new"])
        client = server.worlds.current.identities.clients[made["client_id"]]
        assert client.redirect_uris == ("https://notebook.example/new",)
        assert "client_secret" not in changed.json()
        secret = await http.put(place, headers=mine, json={**given, "token_endpoint_auth_method": "client_secret_post"})
        assert secret.json()["client_secret"].startswith("mcpgw_client_")

        for wrong in (
            {**given, "client_id": "another"},
            {**given, "client_secret": "another"},
            {**given, "registration_access_token": token},
            {**given, "client_id_issued_at": 0},
            {**given, "redirect_uris": ["javascript:alert(1)"]},
        ):
            assert (await http.put(place, headers=mine, json=wrong)).status_code == 400

        ended = await http.delete(place, headers=mine)
        assert (ended.status_code, ended.content) == (204, b"")
        assert server.worlds.current.identities.clients[made["client_id"]].revoked_at == server.clock.now
        assert (await http.get(place, headers=mine)).status_code == 401
        notes = [note.action for _, _, note in await server.store.notes(0, 100)]
        assert notes[-4:] == ["client.register", "client.update", "client.update", "client.revoke"]


@pytest.mark.requirement("front:registration-management")
async def test_another_clients_token_and_an_unknown_client_are_one_answer(tmp_path: Path) -> None:
    async with registering(tmp_path) as (_, http):
        one = (await http.post("/oauth/register", json=GOOD)).json()
        other = (await http.post("/oauth/register", json=GOOD)).json()
        seen = []
        for place, credential in (
            (one["registration_client_uri"], f"Bearer {other['registration_access_token']}"),
            (one["registration_client_uri"], f"Bearer {one['registration_access_token'][:-1]}"),
            (one["registration_client_uri"], f"Basic {one['registration_access_token']}"),
            (one["registration_client_uri"], ""),
            (f"{BASE}/oauth/register/client-unknown", f"Bearer {one['registration_access_token']}"),
            (f"{BASE}/oauth/register/app", "Bearer "),
        ):
            for method in ("GET", "PUT", "DELETE"):
                answer = await http.request(method, place, headers={"Authorization": credential}, json=GOOD)
                seen.append((answer.status_code, answer.text, answer.headers["www-authenticate"]))
        assert len(set(seen)) == 1 and seen[0][0] == 401
        assert (await http.get(one["registration_client_uri"])).status_code == 401


@pytest.mark.requirement("front:registration-bounds")
async def test_one_address_registers_so_often_and_all_together_so_many(tmp_path: Path) -> None:
    async with registering(tmp_path, registration_limit=PER_SOURCE + 1) as (server, http):
        for _ in range(PER_SOURCE):
            assert (await http.post("/oauth/register", json=GOOD)).status_code == 201
        refused = await http.post("/oauth/register", json=GOOD)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")
        server.clock.now += 60
        last = (await http.post("/oauth/register", json=GOOD)).json()
        full = await http.post("/oauth/register", json=GOOD)
        assert (full.status_code, full.json()["error"]) == (429, "temporarily_unavailable")
        mine = {"Authorization": f"Bearer {last['registration_access_token']}"}
        await http.delete(last["registration_client_uri"], headers=mine)
        assert (await http.post("/oauth/register", json=GOOD)).status_code == 201


@pytest.mark.requirement("front:registration")
@pytest.mark.parametrize(("scope", "kept"), [("mcp:use admin keys:write", "mcp:use"), ("admin", None), (None, None)])
async def test_nobody_administers_through_a_client_that_made_itself(
    tmp_path: Path, scope: str | None, kept: str | None
) -> None:
    async with registering(tmp_path) as (server, http):
        made = (await http.post("/oauth/register", json=GOOD if scope is None else {**GOOD, "scope": scope})).json()
        assert made.get("scope") == kept
        asked = {**query(), "client_id": made["client_id"], "resource": f"{BASE}/admin/v1"}
        answer = await http.get("/oauth/authorize", params=asked)
        assert answer.status_code == 400
        assert server.log.entries[-1].outcome == "invalid_scope"


@pytest.mark.requirement("front:registration")
async def test_registration_is_off_unless_it_is_configured(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        app = Starlette(routes=server.identity.routes())
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=BASE) as http:
            assert (await http.post("/oauth/register", json=GOOD)).status_code == 404
            metadata = (await http.get("/.well-known/oauth-authorization-server")).json()
            assert "registration_endpoint" not in metadata
