"""Redirect URIs: which can be registered, which one means another, and what a person is told of them."""

from __future__ import annotations

import pytest

from mcpgw.auth.server.redirects import Destination, destination, fault_of, matches

SCHEMES = ("cursor",)


@pytest.mark.requirement("front:redirect-uris")
@pytest.mark.parametrize(
    "uri",
    [
        "https://app.example/callback",
        "https://app.example:8443/callback?tenant=1",
        "http://127.0.0.1/callback",
        "http://127.0.0.1:51000/callback",
        "http://localhost:3000/",
        "http://[::1]:9000/cb",
        "com.example.app:/callback",
        "cursor://anysphere.cursor-mcp/oauth/callback",
    ],
)
def test_web_sites_loopback_and_apps_can_be_redirected_to(uri: str) -> None:
    assert fault_of(uri, SCHEMES) is None
    assert matches([uri], uri)


@pytest.mark.requirement("front:redirect-uris")
@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/callback",
        "//app.example/callback",
        "javascript:alert(1)",
        "javascript:/alert(1)",
        "JavaScript://app.example/%0aalert(1)",
        "data:text/html,x",
        "data:/text.html",
        "vbscript:/x",
        "file:///etc/passwd",
        "blob:https://app.example/1",
        "http://app.example/callback",
        "http://127.0.0.1.evil.example/callback",
        "http://127.0.0.1@evil.example/callback",
        "http://localhost.evil.example/",
        "http://0.0.0.0/callback",
        "https://app.example/callback#fragment",
        "https://user@app.example/callback",
        "https://user:password@app.example/callback",
        "https://*.app.example/callback",
        "https://",
        "https:/app.example",
        "https://app.example\\@evil.example/",
        "https://app.example/call back",
        "https://app.example/\ncallback",
        "https://äpp.example/callback",
        'https://app.example/"onmouseover=',
        "vscode://an.extension/callback",
        "https://app.example/" + "x" * 2048,
    ],
    ids=lambda uri: ascii(uri)[:60],
)
def test_nothing_else_can(uri: str) -> None:
    assert fault_of(uri, SCHEMES) is not None


@pytest.mark.requirement("front:redirect-uris")
@pytest.mark.parametrize(
    ("registered", "asked"),
    [
        ("http://127.0.0.1/callback", "http://127.0.0.1:51000/callback"),
        ("http://127.0.0.1:3000/callback?x=1", "http://127.0.0.1:51000/callback?x=1"),
        ("http://localhost:3000/callback", "http://localhost:4000/callback"),
        ("http://[::1]/callback", "http://[::1]:4000/callback"),
    ],
)
def test_on_loopback_any_port_will_do(registered: str, asked: str) -> None:
    assert matches(["https://app.example/other", registered], asked)


@pytest.mark.requirement("front:redirect-uris")
@pytest.mark.parametrize(
    ("registered", "asked"),
    [
        ("https://app.example/callback", "https://app.example:8443/callback"),
        ("https://app.example/callback", "https://app.example/callback/"),
        ("https://app.example/callback", "https://app.example/callback?x=1"),
        ("https://app.example/callback", "https://APP.example/callback"),
        ("https://app.example/callback", "https://app.example/callback/../evil"),
        ("https://app.example/callback", "https://app.example.evil.example/callback"),
        ("http://127.0.0.1/callback", "http://127.0.0.1:51000/other"),
        ("http://127.0.0.1/callback", "http://localhost:51000/callback"),
        ("http://127.0.0.1/callback", "https://127.0.0.1/callback"),
        ("http://127.0.0.1/callback", "http://127.0.0.1:51000/callback#x"),
        ("http://127.0.0.1/callback", "http://127.0.0.1:51000@evil.example/callback"),
        ("http://127.0.0.1/callback", "http://127.0.0.1:5100000/callback"),
        ("com.example.app:/callback", "com.example.app:/callback2"),
    ],
)
def test_everything_else_is_another_uri(registered: str, asked: str) -> None:
    assert not matches([registered], asked)


@pytest.mark.requirement("front:redirect-uris")
@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("https://app.example:8443/cb?x=1", Destination("app.example:8443", False, "https://app.example:8443")),
        ("http://127.0.0.1:51000/cb", Destination("127.0.0.1", True, "http://127.0.0.1:51000")),
        ("http://[::1]:51000/cb", Destination("[::1]", True, "http:")),
        ("com.example.app:/cb", Destination("com.example.app:", True, "com.example.app:")),
    ],
)
def test_a_person_is_told_the_host_and_whether_it_is_their_own_machine(uri: str, told: Destination) -> None:
    assert destination(uri) == told
