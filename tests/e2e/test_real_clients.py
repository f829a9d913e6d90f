"""Clients that others made, unchanged, in front of servers of each era behind a gateway with a policy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests import tools
from tests.e2e.agents import MODERN
from tests.e2e.conftest import SERVER
from tests.e2e.real_clients import Heard, Node, Spec, talks
from tests.fixtures.processes import running
from tests.harness import GatewayProcess, gateway

# The library warns of what it does for the handshake era.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

LEGACY = "2025-11-25"
SERVERS = ("both", "modern", "legacy")
CLIENTS = [
    ("python-1", "legacy"),
    ("python-2", "legacy"),
    ("python-2", "auto"),
    ("python-2", MODERN),
    ("typescript-2025-03-26", "2025-03-26"),
    ("typescript-2025-06-18", "2025-06-18"),
    ("typescript-1", "legacy"),
    ("typescript-2", "legacy"),
    ("typescript-2", "auto"),
    ("typescript-2", MODERN),
    ("mcp-remote", "legacy"),
    ("mcp-remote", MODERN),
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    try:
        tools.python("sdk-1")
        return Node(tmp_path_factory.mktemp("clients"))
    except tools.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def gate(node: Node, everything_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """The policy of the other tests; a server of both eras, one that begins with 2026-07-28, one that ends before."""
    home = tmp_path_factory.mktemp("real-clients")
    policy = {"house.rego": Path(__file__).with_name("house.rego").read_text(encoding="utf-8")}
    legacy_server = SERVER.with_name("legacy_everything_server.py")
    with (
        running([sys.executable, SERVER, "--port", "0", "--era", "modern"], log=home / "modern.log") as modern,
        running([tools.python("sdk-1"), legacy_server, "--port", "0"], log=home / "legacy.log") as legacy,
        gateway(home / "gate", policy=policy, workers=2) as made,
    ):
        for slug, url in zip(SERVERS, (everything_url, modern.url, legacy.url), strict=True):
            made.publish(slug, url)
        yield made
        assert "Traceback" not in made.output()


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=["one", "all"])
def spec(request: pytest.FixtureRequest, gate: GatewayProcess, server: str) -> Spec:
    """The endpoint of the server alone, or that over all servers."""
    if request.param == "one":
        return Spec(gate.server_url(server), gate.agent_key)
    return Spec(gate.mcp_url, gate.agent_key, prefix=f"{server}__")


def check(heard: Heard, spec: Spec, mode: str) -> None:
    if mode != "auto":
        assert heard.protocol == (LEGACY if mode == "legacy" else mode)
    listed = {name.removeprefix(spec.prefix) for name in heard.tools if name.startswith(spec.prefix)}
    assert {"test_simple_text", "test_error_handling", "test_elicitation", "greet"} <= listed
    assert "json_schema_2020_12_tool" not in listed
    assert (heard.allowed.text, heard.allowed.is_error) == ("This is a simple text response for testing.", False)
    assert (heard.denied.text, heard.denied.is_error) == ("This tool only fails. Use another one.", True)
    if mode == "2025-03-26":  # which has no elicitation
        assert heard.asked == [] and heard.answered.is_error and "elicitation" in heard.answered.text
    else:
        assert heard.asked == ["Who are you?"]
        assert heard.answered.text == (
            'User response: action=accept, content={"username": "ada", "email": "ada@example.org"}'
        )
    assert heard.resource == "This is the content of the static text resource."
    assert heard.prompt == "This is a simple prompt for testing."


@pytest.mark.requirement("clients:unchanged")
@pytest.mark.parametrize(("client", "mode"), CLIENTS, ids=["-".join(client) for client in CLIENTS])
async def test_a_client_uses_all_of_a_server_whatever_era_each_is_of(
    node: Node, spec: Spec, client: str, mode: str
) -> None:
    talk = talks(node)[client]

    heard = await talk(Spec(spec.url, spec.key, spec.prefix, mode))

    check(heard, spec, mode)


@pytest.mark.requirement("clients:inspector")
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_the_inspector_lists_and_calls(node: Node, spec: Spec, era: str) -> None:
    told: dict[str, tuple[int, Any]] = {}

    async def ask(what: str, *options: str) -> None:
        told[what] = await node.inspector(Spec(spec.url, spec.key, spec.prefix, era), *options)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, "list", "--method", "tools/list")
        for tool in ("test_simple_text", "test_error_handling"):
            tasks.start_soon(ask, tool, "--method", "tools/call", "--tool-name", spec.prefix + tool)
    status, listed = told["list"]
    assert status == 0 and spec.prefix + "greet" in {tool["name"] for tool in listed["result"]["tools"]}
    status, allowed = told["test_simple_text"]
    assert status == 0 and allowed["result"]["content"][0]["text"] == "This is a simple text response for testing."
    status, denied = told["test_error_handling"]
    assert status != 0 and denied["result"]["isError"]
    assert denied["result"]["content"][0]["text"] == "This tool only fails. Use another one."
