"""The quickstart from nothing: one command, then exactly the four commands that it prints."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from mcpgw.cli.api import DEFAULT_DIR
from mcpgw.cli.quickstart import commands
from tests.cli.parts import ROOT, Ran, environment, mcpgw
from tests.e2e.headless import Headless
from tests.fixtures.processes import free_port

KEYS = {"mcp_url", "base_url", "console_url", "agent_key", "admin_key", "sign_in", "server", "commands"}
QUESTION = {
    "version": 1,
    "phase": "call",
    "principal": {
        "issuer": "mcpgw",
        "subject": "bot",
        "client_id": "bot",
        "team": None,
        "roles": ["agent"],
        "scopes": ["mcp:use"],
        "actors": [],
        "kind": "agent",
        "claims": {},
    },
    "server": {"name": "notes"},
    "tool": {"name": "read_note"},
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def quickstart(home: Path, *arguments: str) -> AsyncIterator[dict[str, Any]]:
    """Run `mcpgw quickstart --json` in a directory; yield what it says when it is ready."""
    command = [sys.executable, "-m", "mcpgw", "quickstart", "--json", *arguments]
    process = await anyio.open_process(command, cwd=home, env=environment(), stderr=None, start_new_session=True)
    try:
        yield json.loads(await _line(process))
    finally:
        process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(20, shield=True):
            assert await process.wait() == 0
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.aclose()


async def _line(process: Process) -> bytes:
    assert process.stdout is not None
    with anyio.fail_after(60):
        return await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 65536)


async def pasted(command: str, home: Path) -> Ran:
    """Run a printed command as it stands, in that directory."""
    words = shlex.split(command)
    start = words.index("mcpgw")
    assert words[:start] in ([], [sys.executable, "-m"])
    return await mcpgw(*words[start + 1 :], cwd=home)


@pytest.mark.requirement("quickstart:four-commands")
async def test_the_four_printed_commands_do_what_they_say(tmp_path: Path) -> None:
    async with quickstart(tmp_path, "--port", str(free_port())) as told:
        assert set(told) == KEYS
        assert set(told["commands"]) == {"allowed", "denied", "kill", "verify"}
        commands = told["commands"]

        allowed = await pasted(commands["allowed"], tmp_path)
        assert (allowed.code, allowed.out.splitlines()[0]) == (0, "welcome")

        denied = await pasted(commands["denied"], tmp_path)
        assert denied.code == 1
        assert '"effect": "deny"' in denied.out

        killed = await pasted(commands["kill"], tmp_path)
        assert killed.code == 0
        refused = await pasted(commands["allowed"], tmp_path)
        assert (refused.code, "kill switch" in refused.err) == (1, True)

        verified = await pasted(commands["verify"], tmp_path)
        assert verified.code == 0, verified.out

        switch = (await mcpgw("kills", "--json", cwd=tmp_path)).json["kill_switches"][0]["id"]
        proven = await mcpgw("audit", "verify", "--kill", switch, cwd=tmp_path)
        assert proven.code == 0, proven.out
        assert (await mcpgw("release", switch, "--reason", "over", cwd=tmp_path)).code == 0
        assert (await pasted(commands["allowed"], tmp_path)).code == 0

    verified = await pasted(commands["verify"], tmp_path)
    assert verified.code == 0, verified.out


@pytest.mark.requirement("cli:administers")
async def test_keys_policies_versions_and_the_log_are_administered_from_the_command_line(tmp_path: Path) -> None:
    async def runs(*arguments: str, code: int = 0) -> Ran:
        ran = await mcpgw(*arguments, cwd=tmp_path)
        assert ran.code == code, ran
        return ran

    async with quickstart(tmp_path, "--port", str(free_port())):
        both = json.dumps({"note_id": "plan", "confirm": {"note_id": "plan"}})
        editor = (await runs("keys", "create", "ed", "--role", "agent", "--role", "editor", "--json")).json
        deleted = await runs("call", "notes", "delete_note", both, "--key", editor["key"])
        assert deleted.out == "deleted plan\n"
        await runs("keys", "revoke", editor["id"], "--reason", "left")
        unknown = await runs("call", "nowhere", "list_notes", code=1)
        assert unknown.err.splitlines() == [
            "error: Unknown server: nowhere",
            "  fix: `mcpgw tools` lists what this key may use",
        ]
        refused = await runs("call", "notes", "list_notes", "--key", editor["key"], code=1)
        assert "revoked" in refused.err

        pushed = await runs("policy", "push", str(ROOT / "policies" / "rego" / "deny_all.rego"), "--activate", "--json")
        assert (await runs("tools")).out == "no tool may be used\n"
        (tmp_path / "input.json").write_text(json.dumps(QUESTION))
        assert (await runs("policy", "explain", "input.json")).out.startswith("deny: ")
        await runs("policy", "rollback")
        assert (await runs("policy", "explain", "input.json")).out.startswith("allow: agents-read-and-write-notes\n")
        assert pushed.json["sha256"] in (await runs("policy", "list")).out
        assert len((await runs("tools", "notes", "--json")).json["tools"]) == 5

        again = (await runs("servers", "publish", "notes", "--json")).json
        assert again["version"] == "1.0.0"  # it offers what is pinned
        await runs("servers", "disable", "notes")
        await runs("call", "notes", "list_notes", code=1)
        await runs("servers", "activate", "notes", "1.0.0")
        await runs("call", "notes", "list_notes")

        welcome = json.dumps({"note_id": "welcome", "confirm": {"note_id": "welcome"}})
        decision = json.loads((await runs("call", "notes", "delete_note", welcome, "--json", code=1)).out)
        denied = await runs("audit", "query", "--effect", "deny", "--since", "5m", "--json")
        assert [(r["phase"], r["reasons"]) for r in denied.json["records"]] == [
            ("refused", ["delete-needs-role-editor"])
        ]
        assert decision["_meta"]["io.mcpgw/decision"]["rule"] == "delete-needs-role-editor"
        kept = tmp_path / "kept.json"
        kept.write_text((await runs("audit", "checkpoint")).out)
    await runs("audit", "verify", "--checkpoint", "kept.json")
    log = next((tmp_path / "mcpgw-data" / "audit" / "logs" / "w0").glob("*.jsonl"))
    log.write_bytes(log.read_bytes().replace(b'"outcome":"ok"', b'"outcome":"no"', 1))
    assert "NOT OK" in (await runs("audit", "verify", "--checkpoint", "kept.json", code=1)).out


@pytest.mark.requirement("quickstart:killed-while-running")
async def test_a_call_is_killed_while_it_runs_and_everything_is_in_the_log(tmp_path: Path) -> None:
    async with quickstart(tmp_path, "--port", str(free_port())):
        command = [sys.executable, "-m", "mcpgw", "call", "notes", "summarize_notes", "--json"]
        slow = await anyio.open_process([*command[:-1]], cwd=tmp_path, env=environment())
        assert slow.stderr is not None
        with anyio.fail_after(30):
            await slow.stderr.receive()  # progress: the tool is at work
            killed = await mcpgw("kill", "server", "notes", "--reason", "drill", "--json", cwd=tmp_path)
            assert await slow.wait() == 1
        await slow.aclose()
        assert killed.json["cancelled"] == 1
        (action,) = killed.json["may_have_taken_effect"]
        shown = await mcpgw("audit", "show", action, "--json", cwd=tmp_path)
        assert [r["phase"] for r in shown.json["records"]][:1] == ["intent"]


@pytest.mark.requirement("quickstart:resumes")
async def test_run_again_it_goes_on_with_the_same_keys_and_state(tmp_path: Path) -> None:
    home = tmp_path / "my data"
    async with quickstart(tmp_path, "--dir", "my data", "--port", str(free_port())) as first:
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "quickstart.json").stat().st_mode) == 0o600
        assert json.loads((home / "quickstart.json").read_text()) == first
        killed = await mcpgw("kill", "tool", "notes/read_note", "--reason", "r", "--dir", "my data", cwd=tmp_path)
        assert killed.code == 0
    async with quickstart(tmp_path, "--dir", "my data", "--port", str(free_port())) as second:
        assert (second["agent_key"], second["admin_key"]) == (first["agent_key"], first["admin_key"])
        assert second["base_url"] != first["base_url"]
        assert "--dir 'my data'" in second["commands"]["allowed"]
        refused = await pasted(second["commands"]["allowed"], tmp_path)
        assert (refused.code, "kill switch" in refused.err) == (1, True)


@pytest.mark.requirement("front:first-admin")
async def test_the_first_user_signs_in_with_the_password_that_was_shown_and_administers(tmp_path: Path) -> None:
    async with quickstart(tmp_path, "--port", str(free_port())) as told:
        browser = Headless(told["base_url"])
        wrong = browser.sign_in(told["sign_in"]["name"], "wrong horse battery")
        assert (wrong.status_code, browser.get("/admin/v1/keys").status_code) == (401, 401)
        page = browser.sign_in(told["sign_in"]["name"], told["sign_in"]["password"])
        assert (page.status_code, "<h1>admin</h1>" in page.text) == (200, True)
        assert browser.get("/admin/v1/keys").status_code == 200
        kept = (tmp_path / "mcpgw-data" / "state.db").read_bytes()
        assert told["sign_in"]["password"].encode() not in kept and b"$argon2id$" in kept
    async with quickstart(tmp_path, "--port", str(free_port())) as again:
        assert again["sign_in"] == told["sign_in"]


@pytest.mark.requirement("cli:port-in-use")
@pytest.mark.parametrize("command", ["quickstart", "serve"])
async def test_a_port_in_use_is_said_before_anything_is_made(tmp_path: Path, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = await mcpgw(command, "--port", port, cwd=tmp_path)
    assert ran.code == 2
    assert f"127.0.0.1:{port}" in ran.err
    assert "--port" in ran.err
    assert not (tmp_path / "mcpgw-data").exists()


@pytest.mark.requirement("quickstart:fails-clearly")
async def test_an_example_server_that_does_not_start_ends_the_quickstart_with_the_reason(tmp_path: Path) -> None:
    home = tmp_path / "mcpgw-data"
    home.mkdir(mode=0o700)
    broken = {"registry": {"stdio": [{"name": "notes", "command": ["false"]}]}}
    (home / "mcpgw.yaml").write_text(json.dumps(broken))
    ran = await mcpgw("quickstart", "--port", str(free_port()), "--json", cwd=tmp_path)
    assert ran.code == 1
    assert ran.json["error"]["message"]
    assert not (home / "quickstart.json").exists()


@pytest.mark.requirement("cli:directory-in-use")
async def test_a_second_gateway_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    async with quickstart(tmp_path, "--port", str(free_port())):
        for command in ("quickstart", "serve"):
            ran = await mcpgw(command, "--port", str(free_port()), cwd=tmp_path)
            assert ran.code == 2
            assert ran.err.startswith(f"error: another gateway runs on {tmp_path / 'mcpgw-data'}\n")


@pytest.mark.requirement("quickstart:four-commands")
def test_the_guide_shows_the_commands_that_are_printed() -> None:
    guide = (ROOT / "examples" / "quickstart" / "README.md").read_text()
    for command in commands(DEFAULT_DIR).values():
        assert f"$ mcpgw {command.partition('mcpgw ')[2]}\n" in guide


async def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    ran = await mcpgw("quickstart", "--dir", ".", cwd=tmp_path)
    assert (ran.code, ran.err.splitlines()[-1]) == (2, "  fix: choose a new directory: --dir")
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]
