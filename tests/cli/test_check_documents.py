"""`mcpgw check-config` on the documents of REST APIs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.parts import mcpgw
from tests.upstream.openapi_parts import document, operation, written


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def configured(home: Path, **entry: object) -> str:
    path = home / "mcpgw.yaml"
    registry = {"openapi": [{"name": "pets", "document": str(home / "pets.json"), **entry}]}
    path.write_text(yaml.safe_dump({"data_dir": str(home / "data"), "server": {"port": 0}, "registry": registry}))
    return str(path)


@pytest.mark.requirement("openapi:problems", "cli:check-config")
async def test_a_good_document_is_ok(tmp_path: Path) -> None:
    written(tmp_path, document(servers=[{"url": "https://api.example"}]), "pets.json")
    ran = await mcpgw("check-config", "--config", configured(tmp_path), cwd=tmp_path)
    assert (ran.code, ran.out, ran.err) == (0, f"ok ({tmp_path / 'mcpgw.yaml'})\n", "")


@pytest.mark.requirement("openapi:problems", "cli:check-config")
async def test_each_problem_of_a_document_is_named_with_its_place_and_fix(tmp_path: Path) -> None:
    paths = {
        "/good": {"get": operation("good")},
        "/head": {"head": operation("head")},
        "/far": {"get": operation("far", parameters=[{"$ref": "https://elsewhere.example/p.json"}])},
    }
    file = written(tmp_path, document(paths), "pets.json")
    config = configured(tmp_path, base_url="https://api.example", headers={"X-Api-Key": "env:NO_SUCH_KEY"})
    ran = await mcpgw("check-config", "--config", config, "--json", cwd=tmp_path)
    assert ran.code == 1
    found = {problem["problem"]: problem["fix"] for problem in json.loads(ran.out)["problems"]}
    assert found == {
        f"{config}: `registry.openapi.pets.X-Api-Key`: the environment variable NO_SUCH_KEY is not set, or empty": (
            "put the secret there"
        ),
        f"{config}: `registry.openapi.pets`: {file}#/paths/~1head/head: HEAD is not sent": "exclude `HEAD /head`",
        f"{config}: `registry.openapi.pets`: {file}#/paths/~1far/get/parameters/0/$ref: leads out of the document": (
            "bundle the document into one file"
        ),
    }


@pytest.mark.requirement("openapi:problems", "openapi:base-url", "cli:check-config")
async def test_a_document_that_cannot_be_used_at_all_is_one_problem(tmp_path: Path) -> None:
    ran = await mcpgw("check-config", "--config", configured(tmp_path), cwd=tmp_path)
    assert ran.code == 1
    assert "pets.json#: cannot be read: No such file or directory" in ran.out + ran.err
    written(tmp_path, document(), "pets.json")
    ran = await mcpgw("check-config", "--config", configured(tmp_path), cwd=tmp_path)
    assert ran.code == 1
    assert "pets.json#/servers: is not exactly one server" in ran.out + ran.err
    assert "fix: set base_url" in ran.out + ran.err
