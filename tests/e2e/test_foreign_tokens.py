"""Tokens of other issuers at a running gateway: the bad ones, each refused and recorded, and the good ones' ends."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from mcpgw.auth.signing import SigningKeys
from mcpgw.domain import Phase
from tests.auth.bad_tokens import ADMIN, BAD, LLM, MCP, NOTHING, Bad, Scene, of_b
from tests.auth.provider import CLIENT_SECRET, Provider, key_of, public, serving
from tests.e2e.parts import lines_of
from tests.e2e.wire import LEGACY, Reply, Wire
from tests.fixtures.processes import free_port
from tests.harness import GatewayProcess, gateway

CLIENT = "robot-of-the-table"
CACHE_S = 1
DOWN = Provider(base=f"http://127.0.0.1:{free_port()}")
"""An issuer that is configured, and does not run."""


@pytest.fixture(scope="module")
def issuers() -> Iterator[tuple[Provider, Provider, Provider]]:
    with ExitStack() as stack:
        a = stack.enter_context(serving(Provider()))
        b = stack.enter_context(serving(Provider(algorithm="RS256")))
        c = stack.enter_context(serving(Provider(number=3)))
        a.keys.append(public(key_of("ES256", 6), "for-encryption", use="enc"))
        yield a, b, c


@pytest.fixture(scope="module")
def trusting(
    issuers: tuple[Provider, Provider, Provider], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    a, b, _ = issuers
    directory = tmp_path_factory.mktemp("trusting")
    secret = directory / "introspection.secret"
    secret.write_text(CLIENT_SECRET)
    asked = {**a.introspection, "client_secret": f"file:{secret}", "cache_s": CACHE_S}
    config: dict[str, Any] = {
        "auth": {
            "issuers": [
                {"issuer": a.issuer, "introspection": asked, "role_claim": "role", "role_map": {"audit": ["auditor"]}},
                {"issuer": b.issuer, "require": [{"claim": "tid", "one_of": ["ours", "theirs"]}]},
                {"issuer": DOWN.issuer},
            ]
        },
        "audit": {"refusals_per_s": 10_000},
    }
    with gateway(directory, config=config) as made:
        made.admin.post("/clients", {"client_id": CLIENT, "subject": CLIENT, "roles": ["agent"]})
        yield made
        assert "Traceback" not in made.output()


@pytest.fixture
def scene(trusting: GatewayProcess, issuers: tuple[Provider, Provider, Provider]) -> Scene:
    return Scene(
        trusting.base_url, *issuers, SigningKeys.load(trusting.data_dir), CLIENT, trusting.agent_key, time.time()
    )


def show(scene: Scene, path: str, shown: Any) -> Reply:
    headers = {"Authorization": f"Bearer {shown}"} if isinstance(shown, str) else dict(shown)
    query = headers.pop(":query", None)
    where = path if query is None else f"{path}?{query}"
    wire = Wire(scene.base)
    if path == MCP or path.startswith("/mcp/"):
        return replace(wire, path=where).modern("tools/list", headers=headers)
    return wire.send(method="GET", headers={"Content-Type": None, **headers}, path=where)


def refusals(trusting: GatewayProcess) -> dict[str, tuple[str | None, str]]:
    """Return (outcome, message) of each refusal, by the id of its action."""
    return {
        line.action_id: (line.outcome, (line.facts or {}).get("message", ""))
        for line in lines_of(trusting.audit_dir)
        if line.phase == Phase.REFUSED
    }


@pytest.mark.requirement("token:table")
def test_the_table_is_as_long_as_promised() -> None:
    assert len(BAD) >= 100
    assert len({row.name for row in BAD}) == len(BAD)


@pytest.mark.requirement("token:table")
@pytest.mark.parametrize("row", BAD, ids=[row.name for row in BAD])
def test_a_credential_that_is_not_good_is_refused_and_recorded_once(
    row: Bad, scene: Scene, trusting: GatewayProcess
) -> None:
    shown = row.shown(scene)
    before = refusals(trusting)
    reply = show(scene, row.path, shown)
    assert reply.status == row.status, reply.body
    after = refusals(trusting)
    new = [after[action] for action in after.keys() - before.keys()]
    assert len(new) == 1
    ((outcome, message),) = new
    assert outcome == "unauthenticated"
    assert row.reason in message
    challenge = reply.headers["www-authenticate"]
    assert challenge.startswith("Bearer ")
    assert "/.well-known/oauth-protected-resource" in challenge
    # RFC 6750 §3.1: who showed nothing that could be a token is told no error.
    assert ('error="invalid_token"' in challenge) is (row.reason != NOTHING)
    if isinstance(shown, str):
        assert shown not in reply.body.decode() + challenge + message


@pytest.mark.requirement("token:table")
@pytest.mark.parametrize(
    ("path", "token"),
    [
        (MCP, lambda s: s.of_a()),
        (MCP, lambda s: s.of_a({"typ": "application/at+jwt"})),
        (MCP, lambda s: s.of_a({"typ": "AT+JWT"})),
        (MCP, lambda s: s.of_a(aud=[s.mcp, s.base + "/v1"])),
        (MCP, lambda s: s.of_a(exp=s.now + 60.5)),
        (MCP, lambda s: s.of_a(iat=int(s.now) + 3)),
        (MCP, lambda s: s.b.token(of_b(s))),
        (MCP, lambda s: s.own()),
        (LLM, lambda s: s.of_a(aud=s.base + "/v1", scope="llm:use")),
        (ADMIN, lambda s: s.of_a(aud=s.base + "/admin/v1", scope="audit:read", role="audit")),
    ],
)
def test_what_the_table_changes_one_thing_of_is_good(path: str, token: Any, scene: Scene) -> None:
    reply = show(scene, path, token(scene))
    assert reply.status == 200, reply.body


@pytest.mark.requirement("token:table")
def test_an_opaque_token_that_its_issuer_vouches_for_is_good(scene: Scene) -> None:
    scene.a.opaque["good-opaque"] = {"active": True, **scene.claims()}
    assert show(scene, MCP, "good-opaque").status == 200


@pytest.mark.requirement("token:table")
def test_two_authorization_headers_are_not_one_to_choose_from(scene: Scene, trusting: GatewayProcess) -> None:
    where = urlsplit(trusting.base_url)
    lines = [
        "POST /mcp HTTP/1.1",
        f"Host: {where.netloc}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        f"Authorization: Bearer {scene.of_a()}",
        f"Authorization: Bearer {scene.key}",
        "Content-Length: 2",
    ]
    with socket.create_connection((where.hostname or "", where.port or 0), 10) as sock:
        sock.sendall("\r\n".join([*lines, "", "{}"]).encode())
        assert sock.recv(65_536).startswith(b"HTTP/1.1 400")


@pytest.mark.requirement("token:table")
def test_a_token_that_no_header_can_hold_is_not_even_read(scene: Scene) -> None:
    assert show(scene, MCP, scene.of_a(sub="a" * 13_000)).status == 413


# What becomes of the good ones


@contextmanager
def listening(scene: Scene, token: str) -> Iterator[socket.socket]:
    """Open the stream of a session, which nothing is ever told on."""
    session = Wire(scene.base, token).session()
    where = urlsplit(scene.base)
    lines = [
        "GET /mcp HTTP/1.1",
        f"Host: {where.netloc}",
        "Accept: text/event-stream",
        f"Authorization: Bearer {token}",
        f"Mcp-Session-Id: {session}",
        f"MCP-Protocol-Version: {LEGACY}",
    ]
    with socket.create_connection((where.hostname or "", where.port or 0), 10) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        assert sock.recv(65_536).startswith(b"HTTP/1.1 200")
        yield sock


def ends_within(stream: socket.socket, within_s: float) -> bool:
    """Whether the gateway ends a stream in time, by its last chunk or by closing."""
    deadline = time.monotonic() + within_s
    read = b""
    while (left := deadline - time.monotonic()) > 0:
        stream.settimeout(left)
        try:
            piece = stream.recv(65_536)
        except TimeoutError:
            return False
        read += piece
        if not piece or read.endswith(b"0\r\n\r\n"):
            return True
    return False


@pytest.mark.requirement("token:streams")
def test_a_silent_stream_ends_with_its_token(scene: Scene) -> None:
    expires_at = int(scene.now) + 3
    with listening(scene, scene.of_a(exp=expires_at, jti="of a stream")) as stream:
        assert ends_within(stream, 15)
        assert time.time() >= expires_at


@pytest.mark.requirement("token:streams")
def test_a_stream_ends_when_its_issuer_has_revoked_its_token(scene: Scene) -> None:
    scene.a.opaque["opaque-of-a-stream"] = {"active": True, **scene.claims(jti="of an opaque stream")}
    with listening(scene, "opaque-of-a-stream") as stream:
        assert not ends_within(stream, CACHE_S + 1.5)  # asked again meanwhile, and still good
        scene.a.opaque["opaque-of-a-stream"] = {"active": False}
        assert ends_within(stream, 15)


@pytest.mark.requirement("issuer:scopes")
def test_a_token_with_too_few_scopes_is_told_all_that_it_takes(scene: Scene) -> None:
    reply = show(scene, MCP, scene.of_a(scope="openid"))
    assert reply.status == 403
    challenge = reply.headers["www-authenticate"]
    assert challenge.startswith('Bearer error="insufficient_scope"')
    assert 'scope="mcp:use"' in challenge
    assert f'resource_metadata="{scene.base}/.well-known/oauth-protected-resource/mcp"' in challenge
    reply = show(scene, ADMIN, scene.of_a(aud=scene.base + "/admin/v1", scope="mcp:use", role="audit"))
    assert reply.status == 403
    assert 'scope="audit:read"' in reply.headers["www-authenticate"]


@pytest.mark.requirement("issuer:scopes")
def test_clients_discover_our_server_and_the_other_issuers(scene: Scene) -> None:
    for path in ("", "/mcp", "/mcp/notes", "/admin/v1"):
        document = Wire(scene.base).send(method="GET", path=f"/.well-known/oauth-protected-resource{path}").json
        assert document["authorization_servers"] == [scene.base, scene.a.issuer, scene.b.issuer, DOWN.issuer]


@pytest.mark.requirement("issuer:outage")
def test_an_issuer_that_is_away_is_no_reason_to_throw_a_token_away(scene: Scene, trusting: GatewayProcess) -> None:
    before = refusals(trusting)
    reply = show(scene, MCP, DOWN.token(DOWN.claims(scene.mcp, scene.now)))
    assert reply.status == 503
    assert "www-authenticate" not in reply.headers
    after = refusals(trusting)
    assert [after[action][0] for action in after.keys() - before.keys()] == ["unavailable"]
    assert f"the keys of {DOWN.issuer} could not be fetched" in trusting.output()


@pytest.mark.requirement("issuer:world")
def test_a_kill_switch_stops_the_principal_the_issuer_and_who_acts_for_another(
    scene: Scene, trusting: GatewayProcess
) -> None:
    agent = f"{scene.a.issuer}|agent-1"
    token = scene.of_a(act={"sub": "agent-1"}, jti="delegated")
    assert show(scene, MCP, token).status == 200
    for scope, selector in (
        ("principal", f"{scene.a.issuer}|alice"),
        ("principal", agent),
        ("issuer", scene.a.issuer),
        ("client", "app"),
    ):
        switch = trusting.admin.post("/kill-switches", {"scope": scope, "selector": selector, "reason": "test"})
        try:
            assert show(scene, MCP, token).status == 403, scope
        finally:
            trusting.admin.delete(f"/kill-switches/{switch['id']}", {"reason": "test"})
    recorded = [line for line in lines_of(trusting.audit_dir) if line.credential == "delegated"]
    assert recorded
    intents = [line for line in recorded if line.phase == Phase.INTENT]
    assert [tuple((line.facts or {})["actors"]) for line in intents] == [(agent,)]
    assert {line.principal for line in recorded} == {f"{scene.a.issuer}|alice"}
