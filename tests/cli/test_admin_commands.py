"""Commands that use the admin API, as processes against a served one."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path

import anyio
import pytest
import typer
from starlette.responses import PlainTextResponse

from mcpgw.cli.main import COMMANDS
from tests.cli.conftest import Operator
from tests.cli.parts import ROOT, environment, mcpgw, served


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.requirement("cli:kill")
async def test_a_kill_is_thrown_listed_and_released(operator: Operator) -> None:
    thrown = await operator.runs("kill", "tool", "notes/read_note", "--reason", "drill", "--expires", "1h", "--json")
    assert thrown.code == 0
    switch = thrown.json["id"]
    (standing,) = operator.gateway.worlds.current.switches.standing
    assert (standing.id, standing.reason, standing.expires_at) == (switch, "drill", standing.thrown_at + 3600)
    listed = await operator.runs("kills")
    assert switch in listed.out
    assert "drill" in listed.out
    released = await operator.runs("release", switch, "--reason", "over")
    assert (released.code, released.out) == (0, f"released {switch}\n")
    assert operator.gateway.worlds.current.switches.standing == ()
    again = await operator.runs("release", switch, "--reason", "over")
    assert (again.code, again.out) == (1, "")
    assert again.err.startswith(f"error: kill switch `{switch}` is released already")


async def test_a_kill_says_what_it_did_and_how_to_undo_it(operator: Operator) -> None:
    thrown = await operator.runs("kill", "server", "notes", "--reason", "drill", "--mode", "drain")
    (standing,) = operator.gateway.worlds.current.switches.standing
    assert thrown.out.splitlines()[0] == f"killed server notes: {standing.id}, epoch {standing.epoch}"
    assert f"mcpgw release {standing.id}" in thrown.out
    assert f"mcpgw audit verify --kill {standing.id}" in thrown.out


async def test_a_dry_run_is_said_to_have_changed_nothing(operator: Operator) -> None:
    preview = await operator.runs("kill", "global", "*", "--reason", "drill", "--dry-run")
    assert (preview.code, preview.out.splitlines()[0]) == (0, "nothing changed; the switch would stop:")
    assert operator.gateway.worlds.current.switches.standing == ()


async def test_a_key_goes_through_its_whole_life(operator: Operator) -> None:
    made = (await operator.runs("keys", "create", "bob", "--role", "auditor", "--team", "blue", "--json")).json
    as_bob = {"MCPGW_URL": operator.url, "MCPGW_KEY": made["key"]}
    assert (await mcpgw("keys", "list", cwd=operator.home, **as_bob)).code == 0
    fresh = (await operator.runs("keys", "rotate", made["id"], "--json")).json
    refused = await mcpgw("keys", "list", cwd=operator.home, **as_bob)
    assert refused.code == 1
    assert refused.err.startswith("error: the API key is revoked\n  fix: ")
    assert (await operator.runs("keys", "revoke", fresh["id"], "--reason", "left")).code == 0
    listed = await operator.runs("keys", "list")
    assert [line.split()[1] for line in listed.out.splitlines() if "auditor" in line] == ["bob", "bob"]


async def test_an_oauth_client_is_created_and_revoked(operator: Operator) -> None:
    made = await operator.runs("clients", "create", "ci", "--json")
    assert (made.json["subject"], made.json["roles"]) == ("ci", ["agent"])
    assert (await operator.runs("clients", "revoke", "ci", "--reason", "over")).code == 0
    assert "ci" in (await operator.runs("clients", "list")).out


@pytest.mark.requirement("keys:overlap")
async def test_a_key_is_narrowed_and_rotated_with_overlap(operator: Operator) -> None:
    wanted = ("--scope", "mcp:use", "--calls-per-minute", "30", "--concurrent", "2", "--expires", "1h")
    made = (await operator.runs("keys", "create", "bob", *wanted, "--json")).json
    assert (made["scopes"], made["calls_per_minute"], made["concurrent"]) == (["mcp:use"], 30, 2)
    assert made["expires_at"] == pytest.approx(made["created_at"] + 3600)
    refused = await operator.runs("keys", "create", "bob", "--server", "nowhere")
    assert (refused.code, refused.err.splitlines()[0]) == (1, "error: there is no server `nowhere`")
    rotated = await operator.runs("keys", "rotate", made["id"], "--overlap", "5m")
    assert f"{made['id']} ends in 300 s" in rotated.out
    old = operator.gateway.worlds.current.identities.keys[made["id"]]
    assert old.revoked_at is None
    assert old.expires_at is not None
    assert old.expires_at < made["expires_at"]


@pytest.mark.requirement("principals:accounts")
async def test_an_account_goes_through_its_whole_life(operator: Operator) -> None:
    assert (await operator.runs("teams", "create", "blue", "--title", "The blue ones")).code == 0
    made = (await operator.runs("users", "create", "ada", "--team", "blue", "--role", "auditor", "--json")).json
    assert (made["principal"], made["kind"], made["team"]) == ("mcpgw|ada", "user", "blue")
    changed = await operator.runs("users", "update", "ada", "--team", "", "--title", "Ada", "--json")
    assert (changed.json["team"], changed.json["title"], changed.json["roles"]) == (None, "Ada", ["auditor"])
    nothing = await operator.runs("users", "update", "mcpgw|ada")
    assert (nothing.code, nothing.err.splitlines()[0]) == (2, "error: nothing to change")
    short = await operator.runs("users", "password", "ada", stdin="short\n")
    assert (short.code, "12 characters" in short.err) == (1, True)
    assert (await operator.runs("users", "password", "ada", stdin="correct horse battery\n")).code == 0
    assert operator.gateway.services.principals.show(made["id"])["has_password"]
    assert (await operator.runs("users", "grants", "ada", "--json")).json == {"grants": []}
    ended = await operator.runs("users", "deactivate", made["id"], "--reason", "left")
    assert (ended.code, ended.out) == (0, "deactivated mcpgw|ada\n")
    assert "mcpgw|ada" in (await operator.runs("users", "list")).out
    assert (await operator.runs("users", "reactivate", "ada", "--reason", "back", "--json")).json[
        "deactivated_at"
    ] is None
    unknown = await operator.runs("users", "show", "nobody")
    assert (unknown.code, unknown.err.splitlines()[0]) == (1, "error: no account is called `nobody`")
    assert (await operator.runs("users", "revoke-grant", "none", "--reason", "x")).code == 1


@pytest.mark.requirement("principals:teams")
async def test_a_team_is_ended_and_let_in_again(operator: Operator) -> None:
    await operator.runs("teams", "create", "blue")
    assert (await operator.runs("teams", "rename", "blue", "--title", "Bluer")).out == "blue is called Bluer\n"
    assert (await operator.runs("teams", "deactivate", "blue", "--reason", "drill")).out == "deactivated blue\n"
    refused = await operator.runs("keys", "create", "bob", "--team", "blue")
    assert (refused.code, "mcpgw teams reactivate blue" in refused.err) == (1, True)
    assert (await operator.runs("teams", "reactivate", "blue", "--reason", "over")).code == 0
    assert "Bluer" in (await operator.runs("teams", "list")).out


@pytest.mark.requirement("principals:clients")
async def test_a_client_of_users_is_created_from_its_redirect_uris(operator: Operator, tmp_path: Path) -> None:
    made = await operator.runs("clients", "create", "app", "--redirect-uri", "https://app.example/back", "--json")
    assert made.json["grants"] == ["authorization_code", "refresh_token"]
    assert (made.json["subject"], made.json["roles"]) == ("", [])
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "x": "x", "y": "y"}]}))
    signing = await operator.runs("clients", "create", "ci", "--jwks", str(keys))
    assert (signing.code, signing.out) == (0, "created ci\n")
    refused = await operator.runs("clients", "create", "bad", "--redirect-uri", "http://app.example/")
    assert (refused.code, "https" in refused.err) == (1, True)


async def test_status_is_shown_for_people_and_for_scripts(operator: Operator) -> None:
    assert "1970-01-01 00:00:00 UTC" in (await operator.runs("status")).out
    assert (await operator.runs("status", "--json")).json == {"epoch": 1, "since": 0.0, "servers": []}


@pytest.mark.requirement("cli:errors")
async def test_a_refusal_is_one_clear_error_and_json_when_asked(operator: Operator) -> None:
    key = await operator.gateway.key_for("auditor")
    shown = await mcpgw(
        "kill", "global", "*", "--reason", "r", cwd=operator.home, MCPGW_URL=operator.url, MCPGW_KEY=key
    )
    assert (shown.code, shown.out) == (1, "")
    assert shown.err == (
        "error: POST /admin/v1/kill-switches needs the scope kill:write\n  fix: use a key or token whose role has it\n"
    )
    told = await mcpgw(
        "kill", "global", "*", "--reason", "r", "--json", cwd=operator.home, MCPGW_URL=operator.url, MCPGW_KEY=key
    )
    assert (told.code, told.err, told.json["error"]["code"]) == (1, "", "insufficient_scope")


async def test_registry_policy_and_log_commands_send_what_was_typed(operator: Operator) -> None:
    await operator.runs("servers", "add", "files", "https://files.example/mcp", "--tag", "a", "--tag", "b")
    (operator.home / "auth.json").write_text('{"mode": "user"}')
    await operator.runs("servers", "publish", "files", "1.0.0", "--auth", str(operator.home / "auth.json"))
    await operator.runs("servers", "publish", "files", "--auth", '{"mode": "none"}')
    await operator.runs("servers", "approve", "files", "1.0.0", "--force")
    await operator.runs("policy", "activate", "ab" * 32)
    await operator.runs("policy", "rollback", "--reason", "wrong one")
    await operator.runs("audit", "checkpoint")
    added = {"url": "https://files.example/mcp", "title": "", "tags": ["a", "b"], "trust": "untrusted", "auth": None}
    assert [(name, args[1:], given) for name, args, given in operator.gateway.noted.asked] == [
        ("add", ("files",), added),
        ("publish", ("files",), {"version": "1.0.0", "url": None, "auth": {"mode": "user"}}),
        ("publish", ("files",), {"version": None, "url": None, "auth": {"mode": "none"}}),
        ("approve", ("files", "1.0.0"), {"force": True}),
        ("activate", ("ab" * 32,), {"reason": None}),
        ("rollback", (), {"reason": "wrong one"}),
        ("checkpoint", (), {}),
    ]


async def test_an_authorization_that_is_none_is_refused_before_anything_is_sent(operator: Operator) -> None:
    for given, said in (("{", "--auth is not"), ("no-such-file", "cannot read no-such-file")):
        refused = await operator.runs("servers", "publish", "files", "--auth", given)
        assert (refused.code, said in refused.err) == (2, True)
    for arguments in (("id", "--vault"), ()):
        refused = await operator.runs("keys", "rotate", *arguments)
        assert (refused.code, "--vault" in refused.err) == (2, True)
    assert operator.gateway.noted.asked == []


@pytest.mark.requirement("cli:finds-gateway")
async def test_url_and_key_are_found_in_the_data_directory(operator: Operator) -> None:
    document = {"base_url": operator.url, "admin_key": operator.key, "agent_key": "mcpgw_x"}
    default = operator.home / "mcpgw-data"
    default.mkdir()
    (default / "quickstart.json").write_text(json.dumps(document))
    elsewhere = operator.home / "else where"
    default.rename(elsewhere)
    assert (await mcpgw("kills", cwd=operator.home)).code == 2
    assert (await mcpgw("kills", "--dir", "else where", cwd=operator.home)).code == 0
    assert (await mcpgw("kills", cwd=operator.home, MCPGW_DIR=str(elsewhere))).code == 0
    elsewhere.rename(default)
    assert (await mcpgw("kills", cwd=operator.home)).code == 0


@pytest.mark.requirement("cli:key-stays-with-its-url")
async def test_a_key_from_the_file_is_never_sent_to_another_url(operator: Operator) -> None:
    (operator.home / "quickstart.json").write_text(
        json.dumps({"base_url": "http://127.0.0.1:1", "admin_key": operator.key, "agent_key": "mcpgw_x"})
    )
    refused = await mcpgw("kills", "--dir", ".", "--url", operator.url, cwd=operator.home)
    assert refused.code == 2
    assert refused.err.startswith(f"error: no key for {operator.url}")
    assert operator.gateway.refusals == []


@pytest.mark.requirement("cli:no-gateway")
async def test_no_gateway_is_said_with_how_to_start_one(tmp_path: Path) -> None:
    for command in (("kills",), ("call", "notes", "read_note")):
        ran = await mcpgw(*command, "--url", "http://127.0.0.1:1", "--key", "k", cwd=tmp_path)
        assert ran.code == 1
        assert ran.err.startswith("error: no gateway answers at http://127.0.0.1:1")
        assert "mcpgw quickstart" in ran.err


async def test_something_else_that_answers_is_not_taken_for_a_gateway(tmp_path: Path) -> None:
    async with served(PlainTextResponse("<h1>Hello</h1>")) as url:
        ran = await mcpgw("kills", "--url", url, "--key", "k", cwd=tmp_path)
    assert (ran.code, ran.err) == (1, f"error: {url} does not answer like an mcpgw gateway\n  fix: check --url\n")


@pytest.mark.requirement("cli:usage")
@pytest.mark.parametrize(
    "arguments",
    [
        ("kil",),
        ("kill", "planet", "x", "--reason", "r"),
        ("kill", "tool", "a/b"),
        ("kill", "tool", "a/b", "--reason", "r", "--expires", "soon"),
        ("kills", "--url", "gateway", "--key", "k"),
        ("kills",),
        ("call", "notes", "read_note", "not json", "--url", "http://127.0.0.1:1", "--key", "k"),
        ("serve", "--port", "70000"),
        ("serve", "--config", "missing.yaml"),
        ("audit", "verify", "nowhere"),
    ],
    ids=" ".join,
)
async def test_bad_usage_is_exit_2_with_a_message(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ran = await mcpgw(*arguments, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err


async def test_terminal_controls_of_others_are_spelled_out(operator: Operator) -> None:
    await operator.runs("kill", "server", "notes", "--reason", "\x1b[2Jgone\u202e")
    listed = await operator.runs("kills")
    assert "\x1b" not in listed.out
    assert "\\x1b[2Jgone\\x202e" in listed.out


async def test_a_kill_imports_neither_the_sdk_nor_the_server() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['mcpgw', 'kill', 'tool', 'a/b', '--reason', 'r', '--url', 'http://127.0.0.1:1', '--key', 'k']\n"
        "from mcpgw.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n"
        "    heavy = {'mcp', 'starlette', 'httpx2', 'sqlalchemy', 'pydantic_settings', 'uvicorn', 'joserfc'}\n"
        "    print(sorted(heavy & set(sys.modules)))\n"
    )
    ended = await anyio.run_process([sys.executable, "-c", code], env=environment(), cwd=ROOT)
    assert ended.stdout.decode().strip() == "[]"


@pytest.mark.requirement("cli:json")
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_json_when_asked(name: str) -> None:
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(importlib.import_module(f"mcpgw.cli.{module}"), attribute)
    functions = (
        [c.callback for c in found.registered_commands if c.callback] if isinstance(found, typer.Typer) else [found]
    )
    for function in functions:
        assert "as_json" in inspect.signature(function).parameters, function


async def test_help_names_every_command_and_version_is_one_line(tmp_path: Path) -> None:
    shown = await mcpgw("--help", cwd=tmp_path)
    for name in ("quickstart", "serve", "check-config", "call", "tools", "servers", "policy", "kill", "audit", "keys"):
        assert name in shown.out
    assert (await mcpgw("--version", cwd=tmp_path)).out == "0.1.0\n"
