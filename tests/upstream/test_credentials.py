"""Credentials that end, as servers see it: refused ones are told apart, and renewed ones go on in their session."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from mcpgw.domain import AuthMode, ClientFacts, Era, Transport, UpstreamAuth
from mcpgw.errors import CredentialRefused, UpstreamFailed
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_http import McpHttpUpstream
from mcpgw.upstream.mcp_sse import SseServers
from tests.fixtures.raw_http import Peer, answer
from tests.upstream.calls import ALICE, BOB, LEGACY, LIMITS, MODERN, Caller, HandClock, version
from tests.upstream.scripted import Asked, Handshaking, plain, reply, scripted
from tests.upstream.sse_server import EventServer

JSON_TYPE = b"content-type: application/json"
SCOPES = b'www-authenticate: Bearer error="insufficient_scope", scope="notes:write"'
INVALID = b'www-authenticate: Bearer error="invalid_token"'
PROVEN = UpstreamAuth(mode=AuthMode.ASSERTION)


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


def error_of(asked: Asked) -> bytes:
    error = {"code": -32001, "message": "who are you? canary"}
    return json.dumps({"jsonrpc": "2.0", "id": asked.id, "error": error}).encode()


REFUSALS = {
    "empty": lambda a: answer(b"", INVALID, status=b"401 Unauthorized"),
    "json-rpc": lambda a: answer(error_of(a), JSON_TYPE, INVALID, status=b"401 Unauthorized"),
    "page": lambda a: answer(b"<html>", b"content-type: text/html", INVALID, status=b"401 Unauthorized"),
    "scopes": lambda a: answer(error_of(a), JSON_TYPE, SCOPES, status=b"403 Forbidden"),
}


@pytest.mark.requirement("broker:refused")
@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("client", [MODERN, LEGACY], ids=["modern", "legacy"])
async def test_a_refused_credential_is_told_apart_with_the_servers_challenge(
    upstream: McpHttpUpstream, client: ClientFacts, case: str
) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        return REFUSALS[case](asked)

    async with scripted(Handshaking(tools_call=call)) as server:
        caller = Caller(upstream, version(server.url, era=Era.DUAL), client=client, session="s")
        with pytest.raises(CredentialRefused) as refused:
            await caller.call("t")
        assert len(server.of("tools/call")) == 1
    assert refused.value.data == {"cause": "credential", "reason": "credential_refused"}
    assert refused.value.challenge == (SCOPES if case == "scopes" else INVALID).partition(b": ")[2].decode()
    assert "canary" not in str(refused.value)
    assert refused.value.challenge not in str(refused.value)


@pytest.mark.requirement("broker:refused")
@pytest.mark.parametrize("client", [MODERN, LEGACY], ids=["modern", "legacy"])
async def test_a_server_that_forbids_is_not_given_another_credential(
    upstream: McpHttpUpstream, client: ClientFacts
) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        return answer(b"no", b"content-type: text/plain", status=b"403 Forbidden")

    async with scripted(Handshaking(tools_call=call)) as server:
        with pytest.raises(UpstreamFailed) as failed:
            await Caller(upstream, version(server.url, era=Era.DUAL), client=client, session="s").call("t")
    assert not isinstance(failed.value, CredentialRefused)


@pytest.mark.requirement("broker:refused")
@pytest.mark.parametrize("client", [MODERN, LEGACY], ids=["modern", "legacy"])
async def test_a_server_that_refuses_the_handshake_refuses_the_credential(
    upstream: McpHttpUpstream, client: ClientFacts
) -> None:
    async def refuse(asked: Asked, peer: Peer) -> bytes:
        return REFUSALS["json-rpc"](asked)

    async with scripted(refuse) as server:
        with pytest.raises(CredentialRefused):
            await Caller(upstream, version(server.url), client=client, session="s").call("t")


@pytest.mark.requirement("broker:renewed")
@pytest.mark.parametrize("client", [MODERN, LEGACY], ids=["modern", "legacy"])
async def test_a_renewed_credential_goes_on_in_the_session_of_its_holder(
    upstream: McpHttpUpstream, client: ClientFacts
) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        return reply(asked, plain("fine"))

    async with scripted(Handshaking(tools_call=call)) as server:
        target = dataclasses.replace(version(server.url, era=Era.LEGACY), auth=PROVEN)
        for who, token in ((ALICE, "a1"), (ALICE, "a2"), (BOB, "b1"), (ALICE, "a3")):
            caller = Caller(upstream, target, client=client, who=who, session="s")
            await dataclasses.replace(caller, credential={"authorization": f"Bearer {token}"}).call("t")
        calls = [(a.headers["authorization"], a.headers["mcp-session-id"]) for a in server.of("tools/call")]
    assert [token for token, _ in calls] == [f"Bearer {token}" for token in ("a1", "a2", "b1", "a3")]
    sessions = [session for _, session in calls]
    assert sessions[0] == sessions[1] == sessions[3]
    assert len(server.of("initialize")) == 2, "one session for each of the two"


@pytest.mark.requirement("broker:renewed")
async def test_a_session_over_sse_is_posted_to_with_the_newest_credential_of_its_holder(clock: HandClock) -> None:
    events = EventServer()
    async with scripted(events) as server:
        http = HttpClient(LIMITS, lambda address: True)
        servers = SseServers(http, LIMITS, clock, lambda server, kind: None)
        target = dataclasses.replace(version(server.url, transport=Transport.SSE), auth=PROVEN)
        for token in ("a1", "a2"):
            caller = Caller(
                servers, target, client=LEGACY, session="s", credential={"authorization": f"Bearer {token}"}
            )
            await caller.call("t")
        await servers.aclose()
        await http.aclose()
    assert len(events.sessions) == 1
    called = [asked for asked in events.sessions[0].asked if asked.verb == "tools/call"]
    assert [asked.headers["authorization"] for asked in called] == ["Bearer a1", "Bearer a2"]
