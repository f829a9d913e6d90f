"""`mcpgw toolsets` in front of an admin API that notes what it is asked."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from tests.cli.conftest import Operator
from tests.cli.parts import mcpgw

DESK = """\
slug: desk
title: Desk
search: true
tools:
  - tool: notes/read
    name: look_up
    defaults: {limit: 10, since: "2026-01-01"}
    pinned: {tenant: blue}
  - tool: wiki/*
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.requirement("toolset:changes")
async def test_a_toolset_is_sent_as_its_file_has_it(operator: Operator) -> None:
    await anyio.Path(operator.home / "desk.yaml").write_text(DESK)
    assert (await operator.runs("toolsets", "set", "desk.yaml")).code == 0
    assert (await operator.runs("toolsets", "remove", "desk")).out == "removed desk\n"
    (replaced, (_, slug, given), _), removed = operator.gateway.noted.asked
    assert (replaced, slug, removed[0]) == ("replace", "desk", "remove")
    first, second = given["tools"]
    assert (first["tool"], first["name"], first["pinned"]) == ("notes/read", "look_up", {"tenant": "blue"})
    assert first["defaults"] == {"limit": 10, "since": "2026-01-01"}
    assert (second["tool"], second["name"], second["pinned"]) == ("wiki/*", None, {})
    assert given["search"] is True


@pytest.mark.requirement("toolset:changes")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tools: [{tool: '*'}]", "does not name the toolset"),
        ("[]", "is not a mapping"),
        ("slug: desk\ntools: [{tool: a/b, pinned: {since: 2026-01-01}}]", "plain values"),
        ("slug: desk\ntools: [{tool: a/b, pinned: {rate: .nan}}]", "plain values"),
        ("slug: [", "plain values"),
        ("", "is not a mapping"),
    ],
)
async def test_a_file_that_is_no_toolset_is_bad_usage(operator: Operator, text: str, why: str) -> None:
    await anyio.Path(operator.home / "desk.yaml").write_text(text)
    ran = await operator.runs("toolsets", "set", "desk.yaml")
    assert (ran.code, why in ran.err) == (2, True), ran.err
    assert operator.gateway.noted.asked == []


@pytest.mark.requirement("toolset:changes")
async def test_a_file_that_is_not_there_is_bad_usage(operator: Operator) -> None:
    ran = await operator.runs("toolsets", "set", "nowhere.yaml")
    assert (ran.code, "cannot read nowhere.yaml" in ran.err) == (2, True)


@pytest.mark.requirement("toolset:rules")
async def test_an_unknown_key_is_refused_by_the_gateway(operator: Operator) -> None:
    await anyio.Path(operator.home / "desk.yaml").write_text("slug: desk\ntool: [{tool: '*'}]")
    ran = await operator.runs("toolsets", "set", "desk.yaml")
    assert ran.code == 1
    assert "did you mean `tools`?" in ran.err


@pytest.mark.requirement("toolset:configured")
async def test_the_check_of_a_configuration_names_a_toolset_that_cannot_be(tmp_path: Path) -> None:
    declared = "registry: {toolsets: [{name: desk, tools: [{tool: '*', name: all}]}]}"
    await anyio.Path(tmp_path / "mcpgw.yaml").write_text(declared)
    ran = await mcpgw("check-config", "--config", "mcpgw.yaml", "--json", cwd=tmp_path)
    assert ran.code == 1
    assert "`registry.toolsets.desk`" in ran.out
    assert "many tools" in ran.out
