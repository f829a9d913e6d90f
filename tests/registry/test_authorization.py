"""How the gateway proves itself to a server, as part of what is published."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mcpgw.config import RegistrySection
from mcpgw.domain import AuthMode, UpstreamAuth
from mcpgw.errors import Conflict, InvalidParams
from mcpgw.http_section import HttpServer
from tests.registry.parts import ADA, URL, Registry, raw

MACHINE = {
    "mode": "client_credentials",
    "issuer": "https://as.example",
    "client_id": "gw",
    "client_secret": "vault:notes",
    "scopes": ["notes:read"],
}
OTHER = "https://other.example/mcp"


@pytest.mark.requirement("registry:authorization")
async def test_an_authorization_is_shown_without_secrets_and_part_of_the_digest(registry: Registry) -> None:
    registry.live[URL] = [raw("a")]
    plain = await registry.service.add(ADA, "plain", URL)
    proven = await registry.service.add(ADA, "notes", URL, auth=MACHINE)
    assert registry.proven["plain"] is None
    assert registry.proven["notes"] == UpstreamAuth(
        mode=AuthMode.CLIENT_CREDENTIALS,
        issuer="https://as.example",
        client_id="gw",
        client_secret="vault:notes",
        scopes=("notes:read",),
    )
    assert plain["versions"][0]["auth"] is None
    assert proven["versions"][0]["auth"] == {**MACHINE, "subject": "assertion"}
    other = await registry.service.publish(ADA, "notes", auth={**MACHINE, "scopes": []})
    digests = [version["manifest_sha256"] for version in other["versions"]]
    assert [version["version"] for version in other["versions"]] == ["1.0.0", "1.0.1"]
    assert len(set(digests)) == 2
    kept = next(v for v in (await registry.store.state()).versions if (v.server, v.version) == ("notes", "1.0.0"))
    assert kept.auth == registry_auth(scopes=("notes:read",))


def registry_auth(**changed: Any) -> UpstreamAuth:
    return UpstreamAuth(
        **{
            "mode": AuthMode.CLIENT_CREDENTIALS,
            "issuer": "https://as.example",
            "client_id": "gw",
            "client_secret": "vault:notes",
            **changed,
        }
    )


@pytest.mark.requirement("registry:authorization")
async def test_an_authorization_stays_with_the_url_that_it_was_written_beside(registry: Registry) -> None:
    registry.live |= {URL: [raw("a")], OTHER: [raw("a")]}
    await registry.service.add(ADA, "notes", URL, auth=MACHINE)
    registry.live[URL] = [raw("a"), raw("b")]
    same = await registry.service.publish(ADA, "notes")
    assert same["versions"][-1]["auth"]["client_id"] == "gw"
    moved = await registry.service.publish(ADA, "notes", url=OTHER)
    assert moved["versions"][-1]["auth"] is None
    assert registry.proven["notes"] is None, "the other place was not even asked with it"


@pytest.mark.requirement("registry:authorization")
async def test_a_published_authorization_never_changes(registry: Registry) -> None:
    registry.live[URL] = [raw("a")]
    await registry.service.add(ADA, "notes", URL, auth=MACHINE)
    with pytest.raises(Conflict):
        await registry.service.publish(ADA, "notes", "1.0.0", auth={"mode": "user"})


@pytest.mark.requirement("registry:authorization")
@pytest.mark.parametrize(
    "auth",
    [
        {},
        {"mode": "password"},
        {"mode": "user", "no_such": 1},
        {"mode": "user", "headers": {"x-key": "vault:a"}},
        {"mode": "static"},
        {"mode": "static", "headers": {"x-key": "canary"}},
        {"mode": "static", "headers": {"x-key": "env:MCPGW_PEPPER"}},
        {"mode": "static", "headers": {"x-key": "file:/etc/hostname"}},
        {"mode": "static", "headers": {"host": "vault:a"}},
        {"mode": "static", "headers": {"mcp-session-id": "vault:a"}},
        {"mode": "static", "headers": {"X-Key": "vault:a", "x-key": "vault:a"}},
        {"mode": "static", "headers": {"x key": "vault:a"}},
        {"mode": "static", "headers": {"x-key": "vault:../a"}},
        {"mode": "client_credentials"},
        {**MACHINE, "client_secret": "canary"},
        {**MACHINE, "client_secret": "env:MCPGW_PEPPER"},
        {**MACHINE, "issuer": None},
        {**MACHINE, "issuer": "ftp://as.example"},
        {**MACHINE, "issuer": "https://as.example#x"},
        {**MACHINE, "client_auth": "private_key_jwt"},
        {**MACHINE, "client_auth": "tls_client_auth"},
        {**MACHINE, "client_id": None},
        {**MACHINE, "scopes": ["a b"]},
        {**MACHINE, "resource": "https://bank.example/mcp"},
        {**MACHINE, "audience": "https://bank.example/mcp"},
        {"mode": "assertion", "audience": "payroll"},
        {"mode": "token_exchange", "client_id": "gw", "subject": "inbound"},
        {"mode": "token_exchange", "client_id": "gw", "subject": "identity_provider", "issuer": "https://as.example"},
    ],
)
async def test_what_would_leak_or_mean_nothing_is_refused_before_the_server_is_asked(
    registry: Registry, auth: dict[str, Any]
) -> None:
    registry.live[URL] = [raw("a")]
    with pytest.raises(InvalidParams) as refusal:
        await registry.service.add(ADA, "notes", URL, auth=auth)
    assert "canary" not in str(refusal.value)
    assert registry.asked == []


@pytest.mark.requirement("registry:authorization")
async def test_of_a_configured_server_the_operators_file_alone_says_it(registry: Registry) -> None:
    registry.live[URL] = [raw("a")]
    declared = {"mode": "static", "headers": {"authorization": "env:NOTES_KEY"}}
    entry = HttpServer.model_validate({"name": "notes", "url": URL, "auth": declared})
    service = registry.with_configuration(RegistrySection(http=(entry,)))
    await service.sync_configured()
    published = await service.publish(ADA, "notes")
    assert published["versions"][0]["auth"]["headers"] == {"authorization": "env:NOTES_KEY"}
    with pytest.raises(Conflict):
        await service.publish(ADA, "notes", auth={"mode": "user"})
    with pytest.raises(ValueError, match="beside `auth`"):
        HttpServer.model_validate({"name": "notes", "url": URL, "auth": declared, "headers": {"x-team": "a"}})


def test_equal_authorizations_are_one_whatever_their_headers_hash_to() -> None:
    one = UpstreamAuth(mode=AuthMode.STATIC, headers={"x-key": "vault:a"})
    assert {one, replace(one)} == {one}
    assert one != replace(one, headers={"x-key": "vault:b"})


@pytest.mark.requirement("registry:authorization")
def test_the_id_tokens_of_users_go_where_the_operator_says_and_nowhere_else() -> None:
    auth = {"mode": "token_exchange", "client_id": "gw", "subject": "identity_provider"}
    with pytest.raises(ValueError, match="must be named"):
        HttpServer.model_validate({"name": "notes", "url": URL, "auth": auth})
    named = HttpServer.model_validate({"name": "notes", "url": URL, "auth": {**auth, "issuer": "https://as.example"}})
    assert named.auth is not None
    assert named.auth.auth.issuer == "https://as.example"
