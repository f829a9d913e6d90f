"""The documents agree with the program: generated pages are fresh, commands exist, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcpgw.config import ENV_PREFIX, load
from mcpgw.errors import WIRE
from mcpgw.policies import testing, warmup
from mcpgw.policies.bundle import Bundle
from tests.generate import command_tree, documents
from tests.harness import ROOT
from tests.test_requirements import CLAIM

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
    if ".venv" not in path.parts
)
HOWTO = ROOT / "docs" / "howto"
COMMANDS = dict(command_tree())
BEHIND = {"|", "<", ">", "2>", "&", "&&"}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """Yield the fenced blocks of these languages."""
    for _, language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def typed(page: Path) -> Iterator[list[str]]:
    """Yield the `mcpgw` commands that a page shows, as words: without the environment before and the pipe behind."""
    lines = [line for text in blocks(page, "sh") for line in text.splitlines()]
    lines += [line for text in blocks(page, "console") for line in text.splitlines() if line.startswith("$ ")]
    for line in lines:
        words = shlex.split(line)
        if "mcpgw" in words:
            yield list(takewhile(lambda word: word not in BEHIND, words[words.index("mcpgw") + 1 :]))


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.requirement("docs:generated")
@pytest.mark.parametrize("page", documents(), ids=relative)
def test_a_generated_page_is_fresh(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == documents()[page], "stale: python -m tests.generate"


@pytest.mark.requirement("docs:generated")
def test_the_reference_is_complete() -> None:
    pages = {path.name: text for path, text in documents().items()}
    assert all(f"`{code}`" in pages["errors.md"] for code in WIRE)
    options = {option for command in COMMANDS.values() for p in command.params for option in p.opts if option[0] == "-"}
    assert all(option in pages["commands.md"] for option in options)
    variables = re.findall(rf"`({ENV_PREFIX}\w+)` \|", pages["configuration.md"])
    settings = load(environ={}).model_dump()
    keys = {f"{ENV_PREFIX}{s}__{k}".upper() for s, inner in settings.items() if isinstance(inner, dict) for k in inner}
    assert set(variables) == keys | {f"{ENV_PREFIX}DATA_DIR"}


@pytest.mark.requirement("docs:commands")
@pytest.mark.parametrize("page", [page for page in PAGES if any(True for _ in typed(page))], ids=relative)
def test_every_command_that_a_page_shows_can_be_typed(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in typed(page):
        for word in words:
            if re.fullmatch(r"[\w-]+\.json", word):  # a file that the page shows, or speaks of
                Path(word).write_text("{}", encoding="utf-8")
        depth = 2 if " ".join(words[:2]) in COMMANDS else 1
        name = " ".join(words[:depth])
        assert name in COMMANDS, f"no command `mcpgw {name}`"
        parsed: Any = COMMANDS[name].make_context(name, words[depth:])
        assert parsed is not None


@pytest.mark.requirement("docs:commands")
@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_command_that_prose_names_exists(page: Path) -> None:
    known = {name.split()[0] for name in COMMANDS}
    named = re.findall(r"`mcpgw ([a-z][a-z-]*)[^`]*`", page.read_text(encoding="utf-8"))
    assert set(named) - known == set()


@pytest.mark.requirement("docs:commands")
def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    with pytest.raises(Exception, match="--resaon"):
        COMMANDS["kill"].make_context("kill", ["global", "*", "--resaon", "typo"])


@pytest.mark.requirement("docs:links")
@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_link_leads_somewhere(page: Path) -> None:
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.requirement("docs:configuration")
@pytest.mark.parametrize("page", [page for page in PAGES if any(True for _ in blocks(page, "yaml"))], ids=relative)
def test_every_configuration_that_a_page_shows_is_one(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "yaml"):
        path = tmp_path / "mcpgw.yaml"
        path.write_text(text, encoding="utf-8")
        assert load(path, environ={}).model_dump(exclude_unset=True, mode="json") == yaml.safe_load(text)


@pytest.mark.requirement("docs:policy")
def test_the_policy_of_the_guide_is_accepted_and_passes_its_tests(tmp_path: Path) -> None:
    guide = HOWTO / "write-a-policy.md"
    policy, tests = blocks(guide, "rego")
    (vectors,) = blocks(guide, "json")
    assert json.loads(vectors)
    for name, text in (("refunds.rego", policy), ("refunds_test.rego", tests), ("refunds.vectors.json", vectors)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert warmup.check(Bundle.read(tmp_path)) == []
    results = testing.run(tmp_path)
    assert len(results) == 4
    assert [result for result in results if not result.passed] == []


@pytest.mark.requirement("docs:threats")
def test_the_threat_model_names_behaviours_that_are_tested() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z0-9]+:[a-z0-9-]+)`", text))
    assert len(named) > 40
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    assert named - {claim for claims in CLAIM.findall(tests) for claim in re.findall(r'"([^"]+)"', claims)} == set()
