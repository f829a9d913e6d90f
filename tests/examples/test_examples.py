"""Every example runs, with the one command that its README names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mcpgw
from mcpgw.config import load
from tests.fixtures.processes import free_port
from tests.harness import ROOT
from tests.terminal import Terminal, quickstart, with_mcpgw

EXAMPLES = ROOT / "examples"


@pytest.mark.requirement("examples:kill-drill")
def test_the_kill_drill_holds_and_leaves_nothing_behind(tmp_path: Path) -> None:
    script = EXAMPLES / "kill_drill" / "drill.sh"
    assert f"sh {script.relative_to(ROOT)}\n" in script.with_name("README.md").read_text(encoding="utf-8")
    own = tmp_path / "tmp"
    own.mkdir()
    drill = subprocess.run(
        ["sh", str(script), str(free_port())],
        cwd=tmp_path,
        env=with_mcpgw(tmp_path, TMPDIR=str(own)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (drill.returncode, drill.stderr) == (0, ""), drill
    assert "0 of them forbidden by it" in drill.stdout
    assert drill.stdout.endswith("== the drill is over: the kill held\n")
    assert list(own.iterdir()) == []


@pytest.mark.requirement("examples:kill-drill")
def test_a_kill_drill_whose_gateway_cannot_start_says_so(tmp_path: Path) -> None:
    script = EXAMPLES / "kill_drill" / "drill.sh"
    env = with_mcpgw(tmp_path, MCPGW_SERVER__NO_SUCH_KEY="1")
    drill = subprocess.run(["sh", str(script)], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert drill.returncode == 1
    assert "no_such_key" in drill.stderr
    assert drill.stderr.endswith("FAILED: the gateway did not start\n")


@pytest.mark.requirement("examples:quickstart")
def test_the_quickstart_makes_what_is_shown_and_its_commands_do_what_the_guide_says(tmp_path: Path) -> None:
    shown = EXAMPLES / "quickstart" / "mcpgw.yaml"
    guide = shown.with_name("README.md").read_text(encoding="utf-8")
    commands = [line.removeprefix("$ ") for line in guide.splitlines() if line.startswith("$ mcpgw ")]
    started, allowed, denied, kill, verify = commands
    assert started == "mcpgw quickstart"
    env, port = with_mcpgw(tmp_path), free_port()
    with quickstart(tmp_path, env, "--port", str(port)), Terminal(tmp_path, env) as terminal:
        made = (tmp_path / "mcpgw-data" / "mcpgw.yaml").read_text(encoding="utf-8")
        assert [terminal.run(command)[1] for command in (allowed, denied, kill, allowed, verify)] == [0, 1, 0, 1, 0]
    for here, there in (
        (str(tmp_path), "/home/you"),
        (sys.executable, "/home/you/venv/bin/python"),
        (str(Path(mcpgw.__file__).parents[1]), "/home/you/venv/lib/python3.11/site-packages"),
        (f"port: {port}", "port: 8080"),
    ):
        made = made.replace(here, there)
    assert made == shown.read_text(encoding="utf-8")
    assert load(shown, environ={}).registry.stdio[0].name == "notes"
