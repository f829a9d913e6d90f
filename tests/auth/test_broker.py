"""Credentials towards upstreams."""

from __future__ import annotations

import base64
from types import MappingProxyType

import msgspec
import pytest

from mcpgw.auth.broker import Broker
from mcpgw.auth.upstream.configured import ConfiguredHeaders
from mcpgw.auth.upstream.static import Named, References
from mcpgw.auth.vault import NEVER, SECRET, Vault
from mcpgw.auth.vault_keys import VaultKeys
from mcpgw.config import LlmSection, Provider, RegistrySection, Settings
from mcpgw.domain import (
    SYSTEM,
    Action,
    Arguments,
    Decision,
    Effect,
    Era,
    Judged,
    Route,
    ServerVersion,
    Transport,
    Verb,
    VersionStatus,
)
from mcpgw.errors import Unavailable, UsageError
from mcpgw.http_section import HttpServer
from mcpgw.openapi_section import OpenApiServer
from mcpgw.store.records import MemoryRecords
from tests.auth.parts import SettableClock

URL = "https://tools.example/mcp"


def judged(server: str, endpoint: str | None = URL, route: Route = Route.MCP) -> Judged:
    version = endpoint and ServerVersion(
        server=server,
        version="1.0.0",
        manifest_sha256="0" * 64,
        endpoint=endpoint,
        transport=Transport.HTTP,
        era=Era.MODERN,
        tools=MappingProxyType({}),
        status=VersionStatus.APPROVED,
        published_by="x",
        published_at=0.0,
    )
    verb, path = (Verb.CHAT, "/v1") if route is Route.LLM else (Verb.TOOLS_CALL, "/mcp")
    return Judged(
        principal=SYSTEM,
        action=Action(id="1", route=route, verb=verb, resource=path, received_at=0.0, server=server, name="t"),
        decision=Decision(Effect.ALLOW, ("r",), "0" * 64),
        arguments=Arguments(),
        epoch=1,
        version=version or None,
    )


def a_vault() -> Vault:
    return Vault(MemoryRecords(SettableClock()), VaultKeys(text=base64.b64encode(bytes(32)).decode()))


def configured_broker(settings: Settings, vault: Vault | None = None) -> Broker:
    return Broker(ConfiguredHeaders(settings, References(vault or a_vault())), {})


def configured(**headers: str) -> Settings:
    return Settings(registry=RegistrySection(http=(HttpServer(name="tools", url=URL, headers=headers),)))


@pytest.mark.requirement("auth:broker")
async def test_a_server_gets_the_headers_that_the_operator_wrote_beside_its_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOOLS_KEY", "Bearer upstream-secret")
    broker = configured_broker(configured(Authorization="env:TOOLS_KEY", **{"X-Team": "research"}))
    monkeypatch.delenv("TOOLS_KEY")  # resolved at construction, not on the request path
    assert await broker.credential_for(judged("tools")) == {
        "authorization": "Bearer upstream-secret",
        "x-team": "research",
    }
    assert "upstream-secret" not in repr(broker)


@pytest.mark.requirement("auth:broker")
@pytest.mark.parametrize(
    ("server", "endpoint"),
    [("tools", "https://evil.example/mcp"), ("tools", URL + "/other"), ("other", URL), ("tools", None)],
)
async def test_headers_go_nowhere_else(monkeypatch: pytest.MonkeyPatch, server: str, endpoint: str | None) -> None:
    monkeypatch.setenv("TOOLS_KEY", "Bearer upstream-secret")
    broker = configured_broker(configured(Authorization="env:TOOLS_KEY"))
    assert await broker.credential_for(judged(server, endpoint)) == {}


@pytest.mark.requirement("auth:broker", "openapi:credentials")
async def test_a_rest_api_gets_the_headers_of_its_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "api-secret")
    api = OpenApiServer(name="pets", document="pets.json", headers={"X-Api-Key": "env:API_KEY"})
    broker = configured_broker(Settings(registry=RegistrySection(openapi=(api,))))
    assert await broker.credential_for(judged("pets", "pets")) == {"x-api-key": "api-secret"}
    for server, endpoint in (("pets", URL), ("other", "pets"), ("pets", None)):
        assert await broker.credential_for(judged(server, endpoint)) == {}
    literal = OpenApiServer(name="pets", document="pets.json", headers={"X-Api-Key": "in-the-file"})
    with pytest.raises(UsageError) as refusal:
        configured_broker(Settings(registry=RegistrySection(openapi=(literal,))))
    assert "in-the-file" not in str(refusal.value)


@pytest.mark.requirement("auth:broker")
async def test_a_provider_gets_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "provider-secret")
    providers = (
        Provider(name="one", base_url="https://one.example/v1", api_key="env:PROVIDER_KEY"),
        Provider(name="two", base_url="https://two.example/v1"),
    )
    broker = configured_broker(Settings(llm=LlmSection(providers=providers)))
    answers = [dict(await broker.credential_for(judged(name, None, Route.LLM))) for name in ("one", "two", "three")]
    assert answers == [{"authorization": "Bearer provider-secret"}, {}, {}]
    assert await broker.credential_for(judged("one")) == {}, "a server of the same name is not the provider"


@pytest.mark.requirement("auth:broker")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "Bearer in-the-file"),
        ("Cookie", "in-the-file"),
        ("X-Key", "env:NOT_SET_ANYWHERE"),
        ("X-Key", "env:TWO_LINES"),
        ("X-Key", ""),
        ("X-Key", "é"),
        ("X Key", "v"),
        ("Host", "v"),
        ("Content-Length", "1"),
        ("Transfer-Encoding", "chunked"),
        ("Mcp-Session-Id", "v"),
    ],
)
def test_headers_that_would_break_or_leak_are_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("TWO_LINES", "hidden\r\nX-Other: 1")
    with pytest.raises(UsageError) as refusal:
        configured_broker(configured(**{name: value}))
    assert "in-the-file" not in str(refusal.value)
    assert "hidden" not in str(refusal.value)


@pytest.mark.requirement("auth:broker", "broker:static")
async def test_what_the_operator_refers_to_in_the_vault_is_read_there_when_it_is_needed() -> None:
    vault = a_vault()
    settings = Settings(
        registry=RegistrySection(http=(HttpServer(name="tools", url=URL, headers={"Authorization": "vault:tools"}),)),
        llm=LlmSection(providers=(Provider(name="one", base_url="https://one.example/v1", api_key="vault:one"),)),
    )
    broker = configured_broker(settings, vault)
    with pytest.raises(Unavailable):
        await broker.credential_for(judged("tools"))
    for name, value in (("tools", "Basic abc"), ("one", "sk-1")):
        await vault.put(SECRET, name, "gateway", msgspec.json.encode(Named(value, ("https://x.example",))), NEVER)
    assert await broker.credential_for(judged("tools")) == {"authorization": "Basic abc"}
    assert await broker.credential_for(judged("one", None, Route.LLM)) == {"authorization": "Bearer sk-1"}
    for server, endpoint in (("tools", URL + "/other"), ("other", URL), ("tools", None), ("one", "one")):
        assert await broker.credential_for(judged(server, endpoint)) == {}
