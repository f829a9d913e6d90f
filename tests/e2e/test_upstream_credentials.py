"""Credentials towards upstreams, behind a gateway of two workers: whose they are, and what never leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mcpgw.errors import GatewayError
from tests.auth.upstreams import SECRET, Authority
from tests.auth.upstreams import authority as running_authority
from tests.e2e.canaries import Canaries
from tests.e2e.wire import LEGACY, Reply, Wire
from tests.harness import ROOT, GatewayProcess, gateway, rego, until

STATIC = "canary-91d0-static-header-value"
MODES = ("machine", "signed", "exchanged", "id-jag", "asserted", "static", "open", "plain")
PEOPLE = ("ann", "bea", "cem", "dov")


@dataclass
class Scene:
    """A gateway with one server for each mode, and people with keys."""

    gate: GatewayProcess
    authority: Authority
    keys: dict[str, str]

    def call(self, server: str, who: str, **headers: str) -> Reply:
        wire = Wire(self.gate.base_url, self.keys[who], f"/mcp/{server}")
        return wire.modern("tools/call", {"name": "whoami", "arguments": {}}, headers)

    def told(self, server: str, who: str) -> dict[str, Any]:
        result: dict[str, Any] = self.call(server, who).json["result"]["structuredContent"]
        return result


def run(*arguments: str, given: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command as an operator would."""
    command, env = [sys.executable, "-m", "mcpgw", *arguments], {**os.environ, **environ, "NO_COLOR": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=env, input=given, capture_output=True, text=True, timeout=60, check=False
    )


def set_secret(gate: GatewayProcess, name: str, value: str, origin: str) -> None:
    done = run(
        "secrets", "set", name, "--for", origin, given=f"{value}\n", MCPGW_URL=gate.base_url, MCPGW_KEY=gate.admin_key
    )
    assert done.returncode == 0, done.stderr
    assert value not in done.stdout + done.stderr


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("credentials")
    with (
        running_authority(directory / "authority.log", ttl_s=300.0) as authority,
        gateway(directory, policy=rego("allow_all"), workers=2) as gate,
    ):
        jwks = httpx2.get(f"{gate.base_url}/.well-known/jwks.json").json()
        httpx2.post(f"{authority.issuer}/trust", json={"issuer": gate.base_url, "jwks": jwks})
        set_secret(gate, "client", SECRET, authority.issuer)
        set_secret(gate, "header", STATIC, authority.issuer)
        as_client = {"issuer": authority.issuer, "client_id": "gw-jwt", "scopes": ["notes:read"]}
        auth: dict[str, Any] = {
            "machine": {
                "mode": "client_credentials",
                **as_client,
                "client_id": "gw-basic",
                "client_secret": "vault:client",
            },
            "signed": {"mode": "client_credentials", "client_id": "gw-jwt"},
            "exchanged": {"mode": "token_exchange", **as_client},
            "id-jag": {"mode": "id_jag", **as_client},
            "asserted": {"mode": "assertion"},
            "static": {"mode": "static", "headers": {"X-Api-Key": "vault:header"}},
            "open": {"mode": "none"},
            "plain": None,
        }
        # Some more, whose tokens are made void.
        auth |= {f"void-{slug}": auth[slug] for slug in ("machine", "exchanged", "id-jag")}
        for slug, said in auth.items():
            guarded = slug.removeprefix("void-") in {"machine", "signed", "exchanged", "id-jag"}
            url = f"{authority.issuer}/{'mcp' if guarded else 'echo'}/{slug}"
            gate.admin.post("/servers", {"slug": slug, "url": url, "auth": said})
            gate.publish(slug)
        yield Scene(gate, authority, {name: gate.new_key(name)[1] for name in PEOPLE})
        assert "Traceback" not in gate.output()


@pytest.mark.requirement("broker:own-credential")
def test_each_server_is_called_as_its_version_says(scene: Scene) -> None:
    assert scene.told("machine", "ann")["sub"] == "gw-basic"
    assert scene.told("signed", "ann")["sub"] == "gw-jwt"
    for mode in ("exchanged", "id-jag"):
        assert [scene.told(mode, who)["sub"] for who in ("ann", "bea", "ann")] == ["ann", "bea", "ann"]
    assert scene.told("static", "ann")["headers"]["x-api-key"] == STATIC
    for mode in ("open", "plain"):
        assert "authorization" not in scene.told(mode, "ann")["headers"]


@pytest.mark.requirement("broker:own-credential")
def test_many_calls_of_many_people_at_once_never_meet_anothers_credential(scene: Scene) -> None:
    def one(number: int) -> tuple[str, str]:
        mode, who = ("void-exchanged", "void-id-jag", "void-machine")[number % 3], PEOPLE[number % 4]
        if number % 50 == 0:
            scene.authority.void(mode)
        reply = scene.call(mode, who)
        if "error" in reply.json:
            assert reply.error["data"]["reason"] == "credential_refused"
            return who, who
        found = reply.json["result"]["structuredContent"]["sub"]
        return found, "gw-basic" if mode == "void-machine" else who

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(one, range(400)))
    assert [found for found, expected in seen if found != expected] == []


@pytest.mark.requirement("broker:never-inbound")
@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_what_the_caller_showed_reaches_a_server(scene: Scene, mode: str) -> None:
    canaries = Canaries()
    canaries.add("key", scene.keys["cem"])
    canaries.add("secret of the key", scene.keys["cem"].rpartition("_")[2])
    canaries.add("cookie", "canary-cookie-3f11aa")
    canaries.add("internal", "canary-internal-77c2")
    before = len(scene.authority.about("seen"))
    hidden = {
        "Cookie": "__Host-mcpgw-session=canary-cookie-3f11aa",
        "X-Forwarded-User": "canary-internal-77c2",
        "Proxy-Authorization": "Basic canary-internal-77c2",
    }
    assert scene.call(mode, "cem", **hidden).status == 200
    wire = Wire(scene.gate.base_url, scene.keys["cem"], f"/mcp/{mode}")
    session = wire.session()
    called = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whoami"}})
    legacy = {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY}
    assert wire.send(called, legacy | hidden).json["result"]["structuredContent"]
    arrived = scene.authority.about("seen")[before:]
    assert len(arrived) >= 2
    for path, raw in arrived:
        assert list(canaries.within(path, raw.encode())) == []


@pytest.mark.requirement("broker:refused")
def test_a_refused_credential_is_an_error_that_says_so_and_the_next_call_has_another(scene: Scene) -> None:
    reply = scene.call("void-exchanged", "dov")
    if "error" in reply.json:  # another test has made it void
        reply = next(r for r in (scene.call("void-exchanged", "dov") for _ in range(3)) if r.status == 200)
    assert reply.json["result"]["structuredContent"]["sub"] == "dov"
    scene.authority.void("void-exchanged")
    before = len(scene.authority.about("seen"))
    for _ in range(4):  # each worker may hold the token that is void now
        reply = scene.call("void-exchanged", "dov")
        if "result" in reply.json:
            break
        assert reply.status == 502
        assert reply.error["data"]["reason"] == "credential_refused"
        assert "www-authenticate" not in reply.headers
    calls = [raw for _, raw in scene.authority.about("seen")[before:] if '"tools/call"' in raw]
    assert "result" in reply.json
    assert 2 <= len(calls) <= 3, "a call that was refused is not sent again"


@pytest.mark.requirement("vault:rotation")
def test_the_vaults_key_is_rotated_while_calls_go_on(scene: Scene) -> None:
    failed: list[str] = []
    over = threading.Event()

    def calls(who: str) -> int:
        done = 0
        while not over.is_set() or done < 20:
            reply = scene.call(("machine", "exchanged", "static")[done % 3], who)
            if reply.status != 200:
                failed.append(reply.body.decode())
            done += 1
        return done

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(calls, who) for who in PEOPLE]
        try:
            first, second = (scene.gate.cli("keys", "rotate", "--vault", "--json", check=True) for _ in range(2))
            set_secret(scene.gate, "header", STATIC, scene.authority.issuer)
        finally:
            over.set()
        assert sum(one.result(60) for one in running) >= 80
    assert failed == []
    rotated = [json.loads(done.stdout) for done in (first, second)]
    assert rotated[0]["key"] != rotated[1]["key"]
    assert all(one["records"] >= 2 for one in rotated)
    by = "mcpgw|quickstart-admin"
    until(
        lambda: (
            sum(r["verb"] == "vault.rotate" for r in scene.gate.admin.get("/audit", principal=by, limit=100)["records"])
            == 2
        ),
        "both rotations are in the log",
    )
    assert scene.gate.cli("keys", "rotate").returncode == 2


@pytest.mark.requirement("broker:sealed")
def test_no_file_log_or_answer_holds_a_secret_or_a_token(scene: Scene) -> None:
    for mode in ("machine", "exchanged", "static"):
        scene.told(mode, "ann")
    canaries = Canaries()
    canaries.add("client secret", SECRET)
    canaries.add("static header", STATIC)
    for number, token in enumerate(scene.authority.about("issued")):
        canaries.add(f"token {number}", token)
    home = scene.gate.data_dir.parent
    allowed = {"authority.log": canaries.names}
    assert list(canaries.below(home, allowed)) == []
    for answer in (scene.gate.admin.get("/secrets"), scene.gate.admin.get("/servers"), scene.gate.admin.get("/audit")):
        assert list(canaries.within("answer", json.dumps(answer).encode())) == []
    assert scene.gate.admin.get("/secrets")["secrets"] == [
        {"name": "client", "origins": [scene.authority.issuer]},
        {"name": "header", "origins": [scene.authority.issuer]},
    ]


@pytest.mark.requirement("broker:static")
def test_a_secret_that_is_gone_is_missing_on_the_next_call_and_back_on_the_one_after(scene: Scene) -> None:
    assert scene.call("static", "ann").status == 200
    scene.gate.cli("secrets", "remove", "header", check=True)
    assert {scene.call("static", who).status for who in PEOPLE} == {503}
    with pytest.raises(GatewayError):
        scene.gate.admin.delete("/secrets/header")
    set_secret(scene.gate, "header", STATIC + "-newer", scene.authority.issuer)
    told = [scene.told("static", who)["headers"]["x-api-key"] for who in PEOPLE]
    assert told == [STATIC + "-newer"] * len(PEOPLE)
    set_secret(scene.gate, "header", STATIC, scene.authority.issuer)


@pytest.mark.requirement("broker:endings")
def test_tokens_go_with_their_server_and_are_revoked_where_they_came_from(scene: Scene) -> None:
    url = f"{scene.authority.issuer}/mcp/leaving"
    auth = {"mode": "client_credentials", "issuer": scene.authority.issuer, "client_id": "gw-jwt"}
    scene.gate.cli("servers", "add", "leaving", url, "--auth", json.dumps(auth), check=True)
    scene.gate.publish("leaving")
    assert scene.told("leaving", "ann")["sub"] == "gw-jwt"
    tokens = [t for t, told in scene.authority.about("issued").items() if told["resource"] == url]
    scene.gate.admin.delete("/servers/leaving")
    assert tokens
    until(lambda: set(tokens) <= set(scene.authority.about("revoked")), "its tokens are revoked")


@pytest.mark.requirement("vault:keys")
def test_a_gateway_without_its_vaults_key_does_not_start(tmp_path: Path) -> None:
    with gateway(tmp_path, policy=rego("allow_all")) as gate:
        set_secret(gate, "header", STATIC, "https://tools.example")
    (gate.data_dir / "keys" / "vault").unlink()
    done = run("serve", "--config", str(tmp_path / "mcpgw.yaml"))
    assert done.returncode == 2
    assert "sealed with the vault key" in done.stderr
