"""The README does what it says: its transcript is replayed, its snippets are run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from tests.cli.parts import environment
from tests.fixtures.processes import free_port, running
from tests.harness import ROOT, GatewayProcess, gateway
from tests.terminal import Terminal, quickstart, with_mcpgw

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN_URL = "http://127.0.0.1:8080"
# What differs from run to run, and what it is compared as.
VARIES = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00"), "TIME"),
    (re.compile(r"\d+\.\d ms"), "N ms"),
    (re.compile(r"\bepoch \d+"), "epoch N"),
    (re.compile(r"\d+(?= (records|signed|only chained|intents|outcomes|refusals|checkpoints|later intents))"), "N"),
)
# An id of the README stands for one id of the run, the same one everywhere.
ID = re.compile(r"kill-[0-9a-f-]{36}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<=key )[0-9a-f]{16}")


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def steps(transcript: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a transcript with the lines it printed."""
    for step in re.split(r"^\$ ", transcript, flags=re.MULTILINE)[1:]:
        command, *printed = step.splitlines()
        yield command, printed


def plain(lines: Sequence[str]) -> list[str]:
    """Return lines without what differs from run to run, ids excepted."""
    text = "\n".join(lines)
    for pattern, name in VARIES:
        text = pattern.sub(name, text)
    return text.splitlines()


class Ids:
    """Which id of the run an id of the README stands for."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def learn(self, shown: Sequence[str], printed: Sequence[str]) -> None:
        found = zip(ID.findall("\n".join(shown)), ID.findall("\n".join(printed)), strict=False)
        for stands, means in found:
            self._known.setdefault(stands, means)

    def put(self, text: str) -> str:
        return ID.sub(lambda found: self._known.get(found[0], found[0]), text)


@pytest.mark.requirement("readme:transcript")
def test_the_transcript_is_what_a_quickstart_prints(tmp_path: Path) -> None:
    (transcript,) = blocks("console")
    env, ids = with_mcpgw(tmp_path), Ids()
    with quickstart(tmp_path, env, "--port", str(free_port())), Terminal(tmp_path, env) as terminal:
        for command, shown in steps(transcript):
            printed, _ = terminal.run(ids.put(command))
            ids.learn(shown, printed)
            assert plain(printed) == plain([ids.put(line) for line in shown]), command


@pytest.mark.requirement("readme:commands")
def test_the_two_commands_are_shown_as_they_are() -> None:
    assert blocks("sh") == ["pip install . && mcpgw quickstart\n", "pip install '.[dev]' && pytest\n"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with the README's configuration, its provider being on this machine, and the example server."""
    home = tmp_path_factory.mktemp("readme")
    command = [sys.executable, "-m", "tests.fixtures.llm_provider"]
    with running(command, log=home / "provider.log", cwd=ROOT) as provider:
        (shown,) = blocks("yaml")
        config = yaml.safe_load(shown)
        (declared,) = config["llm"]["providers"]
        (home / "key").write_text("sk-1")
        declared |= {"base_url": provider.url, "api_key": f"file:{home / 'key'}"}
        notes = {"name": "notes", "command": [sys.executable, "-m", "mcpgw.example.notes"], "cwd": str(ROOT)}
        with gateway(home, config=config | {"registry": {"stdio": [notes]}}) as made:
            made.publish("notes")
            yield made


@pytest.mark.requirement("readme:clients")
@pytest.mark.parametrize(("number", "says"), [(0, "welcome\nEverything"), (1, "Say hello.")])
def test_the_client_snippets_run(house: GatewayProcess, number: int, says: str) -> None:
    snippet = blocks("python")[number]
    assert SHOWN_URL in snippet
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet.replace(SHOWN_URL, house.base_url)],
        env=environment(MCPGW_KEY=house.agent_key),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(says)


@pytest.mark.requirement("readme:clients")
def test_the_json_for_clients_names_the_endpoint() -> None:
    (shown,) = blocks("json")
    (server,) = json.loads(shown)["mcpServers"].values()
    assert server["url"] == f"{SHOWN_URL}/mcp"
    assert server["headers"] == {"Authorization": "Bearer mcpgw_…"}


def test_the_readme_stays_short() -> None:
    assert README.count("\n") < 200
