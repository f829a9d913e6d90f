"""Commands that need no gateway: check-config, policy check, policy test."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.parts import ROOT, mcpgw

EXAMPLE = ROOT / "policies" / "rego" / "example.rego"
POLICY = """package mcpgw.authz

default decision := {"effect": "deny", "reasons": ["default-deny"]}

decision := {"effect": "allow", "reasons": ["readers"]} if input.tool.name == "read"
"""
POLICY_TEST = """package mcpgw.authz_test

import data.mcpgw.authz

test_reading_is_allowed if authz.decision.effect == "allow" with input as {"tool": {"name": "read"}}

test_writing_is_denied if authz.decision.effect == "EXPECTED" with input as {"tool": {"name": "write"}}
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def written(home: Path, tree: object) -> str:
    path = home / "mcpgw.yaml"
    path.write_text(yaml.safe_dump(tree))
    return str(path)


@pytest.mark.requirement("cli:check-config")
async def test_a_good_configuration_is_ok(tmp_path: Path) -> None:
    notes = {"name": "notes", "command": [sys.executable, "-m", "mcpgw.example.notes"]}
    tree = {
        "data_dir": str(tmp_path / "data"),
        "server": {"port": 0},
        "registry": {"stdio": [notes]},
        "policies": {"bundle": str(EXAMPLE)},
    }
    ran = await mcpgw("check-config", "--config", written(tmp_path, tree), cwd=tmp_path)
    assert (ran.code, ran.out, ran.err) == (0, f"ok ({tmp_path / 'mcpgw.yaml'})\n", "")
    assert not (tmp_path / "data").exists()


@pytest.mark.requirement("cli:check-config")
async def test_every_problem_is_named_with_file_key_and_fix(tmp_path: Path) -> None:
    (tmp_path / "bad.rego").write_text("package mcpgw.authz\n\ndecision := http.send({})\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        tree = {
            "data_dir": str(tmp_path / "mcpgw.yaml" / "data"),
            "server": {"port": port},
            "auth": {"pepper": "env:NO_SUCH_PEPPER", "roles": {"killer": ["kill:everything"]}},
            "registry": {
                "stdio": [{"name": "gone", "command": ["no-such-program"], "cwd": "/no/such/directory"}],
                "http": [{"name": "far", "url": "ftp://far", "headers": {"X-Key": "file:/no/such/file"}}],
                "allow_networks": ["10.0.0.0/99"],
            },
            "policies": {"bundle": str(tmp_path / "bad.rego")},
        }
        config = written(tmp_path, tree)
        ran = await mcpgw("check-config", "--config", config, "--json", cwd=tmp_path)
    assert (ran.code, ran.json["ok"]) == (1, False)
    found = {p["problem"].split("`")[1]: p for p in ran.json["problems"]}
    assert set(found) == {
        "data_dir",
        "server.port",
        "auth.pepper",
        "auth.roles",
        "registry.stdio.gone.cwd",
        "registry.stdio.gone.command",
        "registry.http.far.url",
        "registry.http.far.X-Key",
        "registry.allow_networks",
        "policies.bundle",
    }
    assert all(p["problem"].startswith(config) and p["fix"] for p in found.values())
    assert f"127.0.0.1:{port}" in found["server.port"]["problem"]
    assert "bad.rego:3" in found["policies.bundle"]["problem"]


@pytest.mark.requirement("cli:check-config", "issuer:config")
@pytest.mark.parametrize(
    ("issuer", "said"),
    [
        ({"issuer": "https://10.0.0.1"}, "may not be connected to"),
        ({"issuer": "https://id.example", "audiences": {"api://x": "/nowhere"}}, "`/nowhere` is no endpoint"),
        (
            {
                "issuer": "https://id.example",
                "introspection": {
                    "endpoint": "https://id.example/i",
                    "client_id": "gateway",
                    "client_secret": "env:NO_SUCH_SECRET",
                },
            },
            "NO_SUCH_SECRET is not set",
        ),
    ],
)
async def test_an_issuer_that_cannot_be_trusted_is_a_problem(
    tmp_path: Path, issuer: dict[str, object], said: str
) -> None:
    config = written(
        tmp_path, {"data_dir": str(tmp_path / "data"), "server": {"port": 0}, "auth": {"issuers": [issuer]}}
    )
    ran = await mcpgw("check-config", "--config", config, "--json", cwd=tmp_path)
    assert (ran.code, len(ran.json["problems"])) == (1, 1)
    (problem,) = ran.json["problems"]
    assert "`auth.issuers`" in problem["problem"]
    assert said in problem["problem"]


@pytest.mark.requirement("cli:check-config")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("servr:\n  port: 1\n", "unknown key `servr`; did you mean `server`?"),
        ("server:\n  prot: 1\n", "unknown key `server.prot`; did you mean `port`?"),
        ("server:\n  port: high\n", "`server.port`"),
        ("server: [\n", "not valid YAML"),
        ("server:\n  host: 0.0.0.0\n  dev_no_auth: true\n", "dev_no_auth is refused on 0.0.0.0"),
    ],
)
async def test_what_is_not_a_configuration_is_said_by_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mcpgw.yaml").write_text(text)
    ran = await mcpgw("check-config", "--config", "mcpgw.yaml", cwd=tmp_path)
    assert ran.code == 1
    assert said in ran.out


@pytest.mark.requirement("cli:errors")
async def test_a_start_with_a_bad_configuration_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "mcpgw.yaml").write_text("servr:\n  port: 1\n")
    started = await mcpgw("serve", "--config", "mcpgw.yaml", cwd=tmp_path)
    assert started.code == 2
    assert started.err == (
        "error: mcpgw.yaml: unknown key `servr`; did you mean `server`?\n"
        "  fix: mcpgw check-config shows every problem\n"
    )


async def test_a_data_directorys_own_configuration_is_found(tmp_path: Path) -> None:
    home = tmp_path / "mcpgw-data"
    home.mkdir()
    (home / "mcpgw.yaml").write_text("data_dir: /somewhere/else\nserver: {port: 0}\n")
    ran = await mcpgw("check-config", "--json", cwd=tmp_path)
    assert ran.json == {"ok": True, "file": "mcpgw-data/mcpgw.yaml", "problems": []}


@pytest.mark.requirement("cli:policy-check")
async def test_a_policy_is_checked_as_the_gateway_would(tmp_path: Path) -> None:
    good = await mcpgw("policy", "check", str(EXAMPLE), "--json", cwd=tmp_path)
    assert (good.code, good.json["ok"], good.json["files"]) == (0, True, ["example.rego"])
    (tmp_path / "bad.rego").write_text('package mcpgw.authz\n\ndecision := {"effect": "allow"} if http.send({})\n')
    bad = await mcpgw("policy", "check", "bad.rego", cwd=tmp_path)
    assert bad.code == 1
    assert bad.out.startswith("bad.rego:3: ")
    assert "http.send" in bad.out
    assert (await mcpgw("policy", "check", "missing", cwd=tmp_path)).code == 2


@pytest.mark.requirement("cli:policy-test")
async def test_a_policys_tests_are_run_and_a_failing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "authz.rego").write_text(POLICY)
    assert (await mcpgw("policy", "test", ".", cwd=tmp_path)).code == 1
    (tmp_path / "authz_test.rego").write_text(POLICY_TEST.replace("EXPECTED", "deny"))
    vector = {"name": "reading", "input": {"tool": {"name": "read"}}, "expect": {"effect": "allow"}}
    (tmp_path / "authz.vectors.json").write_text(json.dumps([vector]))
    passed = await mcpgw("policy", "test", ".", cwd=tmp_path)
    assert (passed.code, passed.out) == (0, "3 passed, 0 failed\n")
    (tmp_path / "authz_test.rego").write_text(POLICY_TEST.replace("EXPECTED", "allow"))
    failed = await mcpgw("policy", "test", ".", cwd=tmp_path)
    assert failed.code == 1
    assert "test_writing_is_denied" in failed.out
    assert failed.out.endswith("2 passed, 1 failed\n")
