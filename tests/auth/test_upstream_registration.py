"""Who the gateway is at the authorization servers of upstreams."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mcpgw.auth.fetch import Fetcher
from mcpgw.auth.signing import SigningKeys
from mcpgw.auth.upstream.discovery import AuthorizationServer, Discovery
from mcpgw.auth.upstream.registration import Registrations
from mcpgw.auth.upstream.requests import Client, TokenRequests
from mcpgw.auth.upstream.static import References
from mcpgw.auth.vault import Vault
from mcpgw.auth.vault_keys import VaultKeys
from mcpgw.config import Settings
from mcpgw.domain import AuthMode, UpstreamAuth
from mcpgw.errors import FetchFailed, InvalidParams
from mcpgw.store.records import MemoryRecords
from tests.auth.web_site import Site, json_page, site
from tests.parts import SetClock

BASE = "https://gateway.example"
AUTH = UpstreamAuth(mode=AuthMode.USER)
ALL = frozenset({"client_secret_basic", "client_secret_post", "private_key_jwt", "none"})


@dataclass
class Scene:
    web: Site
    clock: SetClock
    vault: Vault
    requests: TokenRequests

    def registrations(self, base: str = BASE, documents: str | None = None) -> Registrations:
        fetcher = Fetcher((), allow_loopback=True)
        return Registrations(fetcher, self.vault, self.requests, self.clock, base, documents)

    def server(self, **more: object) -> AuthorizationServer:
        made = AuthorizationServer(issuer=self.web.base, token_endpoint=f"{self.web.base}/token")
        return replace(made, registration_endpoint=f"{self.web.base}/register", **more)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    clock = SetClock()
    vault = Vault(MemoryRecords(clock), VaultKeys.load(Settings(data_dir=tmp_path)))
    fetcher = Fetcher((), allow_loopback=True)
    signing = SigningKeys.load(tmp_path)
    requests = TokenRequests(fetcher, Discovery(fetcher, clock), signing, References(vault), clock)
    async with site() as web:
        web.pages["/register"] = json_page({"client_id": "made", "client_secret": "canary"}, 201)
        yield Scene(web, clock, vault, requests)


@pytest.mark.requirement("connect:registration")
async def test_a_client_that_was_registered_before_belongs_to_one_issuer(scene: Scene) -> None:
    registered = replace(AUTH, client_id="known")
    with pytest.raises(InvalidParams, match="one issuer"):
        await scene.registrations().client_of("notes", registered, scene.server())

    registered = replace(registered, issuer=scene.web.base)
    found = await scene.registrations().client_of("notes", registered, scene.server(reads_documents=True))
    assert found == Client("known", "none")
    assert scene.web.asked == []


@pytest.mark.requirement("connect:registration")
@pytest.mark.parametrize(
    ("methods", "document", "method"),
    [(ALL, "notes.json", "private_key_jwt"), (frozenset({"none"}), "notes.public.json", "none")],
)
async def test_a_gateway_that_others_can_read_is_the_url_of_its_document(
    scene: Scene, methods: frozenset[str], document: str, method: str
) -> None:
    registrations, server = scene.registrations(), scene.server(reads_documents=True, auth_methods=methods)

    found = await registrations.client_of("notes", AUTH, server)

    assert found == Client(f"{BASE}/oauth/client-metadata/{document}", method)
    said = registrations.document("notes", public=method == "none")
    assert (said["client_id"], said["token_endpoint_auth_method"]) == (found.id, method)
    assert said["redirect_uris"] == [f"{BASE}/oauth/callback/notes"]
    assert said.get("jwks_uri") == (None if method == "none" else f"{BASE}/.well-known/jwks.json")
    assert scene.web.asked == []


@pytest.mark.requirement("connect:registration")
async def test_a_copy_of_the_document_elsewhere_is_named_in_its_place(scene: Scene) -> None:
    registrations = scene.registrations("http://127.0.0.1:1", "https://public.example/{server}.json")

    found = await registrations.client_of("notes", AUTH, scene.server(reads_documents=True))

    assert found.id == "https://public.example/notes.json"


@pytest.mark.requirement("connect:registration")
@pytest.mark.parametrize(("base", "kind"), [(BASE, "web"), ("http://127.0.0.1:8080", "native")])
async def test_the_gateway_registers_itself_once_for_each_server_and_issuer(scene: Scene, base: str, kind: str) -> None:
    registrations, server = scene.registrations(base), scene.server(auth_methods=ALL)

    found = [await registrations.client_of("notes", AUTH, server) for _ in range(3)]

    assert set(found) == {Client("made", "client_secret_basic", "canary")}
    assert scene.web.asked == ["POST /register"]
    sent = json.loads(scene.web.bodies[0])
    assert (sent["application_type"], sent["grant_types"]) == (kind, ["authorization_code", "refresh_token"])
    assert sent["redirect_uris"] == [f"{base}/oauth/callback/notes"]
    await registrations.client_of("other", AUTH, server)
    await registrations.client_of("notes", AUTH, replace(server, issuer="https://migrated.example"))
    await registrations.forget("notes", server.issuer)
    await registrations.client_of("notes", AUTH, server)
    assert len(scene.web.asked) == 4
    assert "canary" not in repr(found)


@pytest.mark.requirement("connect:registration")
async def test_a_secret_that_has_expired_means_to_register_anew(scene: Scene) -> None:
    answer = {"client_id": "made", "client_secret": "s", "client_secret_expires_at": scene.clock.now + 60}
    scene.web.pages["/register"] = json_page(answer, 201)
    registrations = scene.registrations("http://127.0.0.1:1")
    await registrations.client_of("notes", AUTH, scene.server())
    scene.clock.now += 61
    await registrations.client_of("notes", AUTH, scene.server())
    assert len(scene.web.asked) == 2


@pytest.mark.requirement("connect:registration")
@pytest.mark.parametrize(
    "answer",
    [
        json_page({"error": "invalid_redirect_uri"}, 400),
        json_page({"client_secret": "s"}, 201),
        json_page({"client_id": "made"}, 201),
        json_page({"client_id": "made", "token_endpoint_auth_method": "tls_client_auth"}, 201),
    ],
)
async def test_a_registration_that_is_none_is_told(scene: Scene, answer: tuple[int, dict[str, str], bytes]) -> None:
    scene.web.pages["/register"] = answer
    with pytest.raises(FetchFailed):
        await scene.registrations().client_of("notes", AUTH, scene.server())


@pytest.mark.requirement("connect:registration")
async def test_where_nobody_can_register_the_administrator_is_told_to(scene: Scene) -> None:
    server = replace(scene.server(), registration_endpoint=None)
    with pytest.raises(InvalidParams, match="not registered"):
        await scene.registrations().client_of("notes", AUTH, server)
