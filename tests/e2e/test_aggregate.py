"""What the SDK's client, of either generation, has of several real servers behind one endpoint."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync
from mcp import Client, MCPError
from mcp.client.subscriptions import PromptsListChanged, ResourcesListChanged, ResourceUpdated, ToolsListChanged
from mcp_types import PromptReference, ResourceTemplateReference, ResourceUpdatedNotification

from mcpgw.edge.mcp_prompts import PromptNames
from tests.e2e.agents import MODERN, agent, names
from tests.e2e.parts import lines_of
from tests.fixtures.library_server import APP, ODD, PROMPTS
from tests.fixtures.processes import Running, running
from tests.harness import ROOT, GatewayProcess, gateway

# The library warns of what it does for the handshake era.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

ERAS = (MODERN, "legacy")
EVERYTHING = ROOT / "tests" / "fixtures" / "everything_server.py"
LIBRARY = ROOT / "tests" / "fixtures" / "library_server.py"
NOTES = {"name": "notes", "command": [sys.executable, "-m", "mcpgw.example.notes"]}
POLICY = {"aggregate.rego": Path(__file__).with_name("aggregate.rego").read_text(encoding="utf-8")}
SHELVES = [f"shelf-{number:02}" for number in range(30)]
UNAVAILABLE = "io.mcpgw/unavailable"
LIST_S = 2.0
WATCHED = "test://watched-resource"
IN_USE_S = 20.0


@dataclass
class Three:
    """A gateway in front of two servers that have the same names for everything, and of a process."""

    gate: GatewayProcess
    servers: dict[str, Running]

    def agent(self, mode: str, key: str | None = None, **options: Any) -> Any:
        return agent(self.gate.mcp_url, key or self.gate.agent_key, mode=mode, **options)


def three(directory: Path) -> Iterator[Three]:
    config = {"registry": {"stdio": [NOTES]}, "limits": {"list_s": LIST_S}}
    with ExitStack() as stack:
        servers = {
            slug: stack.enter_context(
                running([sys.executable, EVERYTHING, "--port", "0"], log=directory / f"{slug}.log")
            )
            for slug in ("a", "b")
        }
        gate = stack.enter_context(gateway(directory / "gateway", config=config, policy=POLICY, workers=2))
        for slug, server in servers.items():
            gate.publish(slug, server.url)
        gate.publish("notes")
        yield Three(gate, servers)
        assert "Traceback" not in gate.output()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    """For the tests in which no server is harmed."""
    yield from three(tmp_path_factory.mktemp("aggregate"))


@pytest.fixture
def own_house(tmp_path: Path) -> Iterator[Three]:
    yield from three(tmp_path)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway in front of thirty servers with the same names."""
    directory = tmp_path_factory.mktemp("library")
    with (
        running([sys.executable, LIBRARY, "--servers", str(len(SHELVES))], log=directory / "server.log") as server,
        gateway(directory / "gateway", policy=POLICY, workers=2) as gate,
    ):
        for slug in SHELVES:
            gate.publish(slug, f"{server.url}/{slug}/mcp")
        yield gate
        assert "Traceback" not in gate.output()


@pytest.fixture(scope="module")
def generations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway in front of a server of each generation, and none of the other."""
    directory = tmp_path_factory.mktemp("generations")
    with ExitStack() as stack:
        gate = stack.enter_context(gateway(directory / "gateway", policy=POLICY))
        for era in ("modern", "legacy"):
            command = [sys.executable, EVERYTHING, "--era", era]
            gate.publish(era, stack.enter_context(running(command, log=directory / f"{era}.log")).url)
        yield gate
        assert "Traceback" not in gate.output()


def said(prompt: Any) -> str:
    text: str = prompt.messages[0].content.text
    return text


# Lists


@pytest.mark.requirement("several:sdk")
@pytest.mark.parametrize("mode", ERAS)
async def test_lists_over_three_servers_are_whole_and_nothing_in_them_has_the_name_of_another(
    house: Three, mode: str
) -> None:
    _, insider = house.gate.new_key("insider", "agent", "insider")
    async with house.agent(mode, insider) as client:
        prompts = (await client.list_prompts()).prompts
        resources = (await client.list_resources()).resources
        templates = (await client.list_resource_templates()).resource_templates
    own = {"test_simple_prompt", "test_prompt_with_arguments", "test_input_required_result_prompt"}
    listed = [prompt.name for prompt in prompts]
    assert {f"{server}__{name}" for server in "ab" for name in own} <= set(listed)
    assert len(set(listed)) == len(listed) == 10
    assert [str(resource.uri) for resource in resources] == [
        f"mcpgw+{server}+test://{name}"
        for server in "ab"
        for name in ("static-text", "static-binary", "watched-resource")
    ]
    assert [t.uri_template for t in templates] == [f"mcpgw+{s}+test://template/{{id}}/data" for s in "ab"]


@pytest.mark.requirement("several:sdk", "merged:visible")
@pytest.mark.parametrize("mode", ERAS)
async def test_a_policy_hides_the_prompts_of_one_server_and_a_resource_of_each(house: Three, mode: str) -> None:
    async with house.agent(mode) as client:
        prompts = names((await client.list_prompts()).prompts)
        resources = {str(resource.uri) for resource in (await client.list_resources()).resources}
        with pytest.raises(MCPError) as hidden:
            await client.get_prompt("b__test_simple_prompt")
        with pytest.raises(MCPError) as nowhere:
            await client.get_prompt("c__test_simple_prompt")
        with pytest.raises(MCPError) as completed:
            await client.complete(PromptReference(name="b__test_prompt_with_arguments"), {"name": "arg1", "value": "p"})
    assert {name.partition("__")[0] for name in prompts} == {"a"}
    assert "mcpgw+b+test://static-text" in resources
    assert not any(uri.endswith("static-binary") for uri in resources)
    assert hidden.value.error.code == nowhere.value.error.code == completed.value.error.code == -32602
    assert hidden.value.error.message == "Unknown prompt: b__test_simple_prompt"
    assert nowhere.value.error.message == "Unknown prompt: c__test_simple_prompt"


@pytest.mark.requirement("several:sdk", "merged:pages")
@pytest.mark.parametrize("mode", ERAS)
async def test_lists_over_thirty_servers_come_in_pages_and_lead_to_the_right_one(
    library: GatewayProcess, mode: str
) -> None:
    async with agent(library.mcp_url, library.agent_key, mode=mode) as client:
        prompts, pages = await every(client, "prompts")
        resources, _ = await every(client, "resources")
        templates, _ = await every(client, "resource_templates")
        asked = said(await client.get_prompt("shelf-17__ask-3"))
        odd = said(await client.get_prompt(PromptNames().shown("shelf-29", ODD)))
        read = await client.read_resource("mcpgw+shelf-08+book://7")
        made = await client.read_resource(f"mcpgw+shelf-09+book://{4}/page/{2}")
    assert pages > 1
    assert len(set(prompts)) == len(prompts) == len(SHELVES) * PROMPTS
    assert Counter(name.partition("__")[0] for name in prompts) == dict.fromkeys(SHELVES, PROMPTS)
    assert len(set(resources)) == len(resources) == len(SHELVES) * PROMPTS
    assert [uri for uri in resources if uri.startswith("ui://")] == [
        APP.replace("ui://", f"ui://{slug}/") for slug in SHELVES
    ]
    assert templates == [f"mcpgw+{slug}+book://{{number}}/page/{{page}}" for slug in SHELVES]
    assert (asked, odd) == ("ask-3, asked shelf-17", f"{ODD}, asked shelf-29")
    assert [(c.uri, c.text) for c in (*read.contents, *made.contents)] == [
        ("mcpgw+shelf-08+book://7", "book://7, read by shelf-08"),
        ("mcpgw+shelf-09+book://4/page/2", "book://4/page/2, read by shelf-09"),
    ]


async def every(client: Client, kind: str) -> tuple[list[str], int]:
    """Return the names (URIs, templates) in all pages of a list, and how many pages there are."""
    found: list[str] = []
    cursor, pages = None, 0
    while True:
        result = await getattr(client, f"list_{kind}")(cursor=cursor)
        for item in getattr(result, kind):
            found.append(str(getattr(item, "uri", None) or getattr(item, "uri_template", None) or item.name))
        cursor, pages = result.next_cursor, pages + 1
        if cursor is None:
            return found, pages


@pytest.mark.requirement("several:shown")
@pytest.mark.parametrize("mode", ERAS)
async def test_an_app_is_found_where_its_tool_says(library: GatewayProcess, mode: str) -> None:
    async with agent(library.mcp_url, library.agent_key, mode=mode) as client:
        (tool,) = [tool for tool in (await client.list_tools()).tools if tool.name == "shelf-03__open"]
        assert tool.meta is not None
        app = tool.meta["ui"]["resourceUri"]
        shown = await client.read_resource(app)
        (link,) = (await client.call_tool("shelf-03__open")).content
        linked = await client.read_resource(str(link.uri))
    assert app == "ui://shelf-03/reading-room/main.html"
    assert shown.contents[0].text == f"{APP}, read by shelf-03"
    assert linked.contents[0].text == "book://1, read by shelf-03"


@pytest.mark.requirement("several:prompt-names")
def test_a_shortened_name_is_understood_by_a_worker_that_has_listed_nothing(tmp_path: Path) -> None:
    async def ask(gate: GatewayProcess) -> str:
        async with agent(gate.mcp_url, gate.agent_key) as client:
            return said(await client.get_prompt(PromptNames().shown("shelf-01", ODD)))

    with (
        running([sys.executable, LIBRARY, "--servers", "2"], log=tmp_path / "server.log") as server,
        gateway(tmp_path / "gateway", policy=POLICY) as gate,
    ):
        for slug in SHELVES[:2]:
            gate.publish(slug, f"{server.url}/{slug}/mcp")
        assert asyncio.run(ask(gate)) == f"{ODD}, asked shelf-01"
        records = [line for line in lines_of(gate.audit_dir) if line.phase == "intent" and line.route == "mcp"]
    (asked,) = [line for line in records if line.verb == "prompts/get"]
    listed = [line for line in records if line.verb == "prompts/list"]
    assert (asked.server, asked.name) == ("shelf-01", ODD)
    assert listed and all((line.server, line.parent) == ("shelf-01", asked.action_id) for line in listed)


# One thing of one server


@pytest.mark.requirement("several:sdk")
@pytest.mark.parametrize("mode", ERAS)
async def test_arguments_of_prompts_and_templates_are_completed_by_the_server_that_has_them(
    house: Three, mode: str
) -> None:
    template = ResourceTemplateReference(uri="mcpgw+b+test://template/{id}/data")
    async with house.agent(mode) as client:
        words = await client.complete(
            PromptReference(name="a__test_prompt_with_arguments"), {"name": "arg1", "value": "par"}
        )
        ids = await client.complete(template, {"name": "id", "value": "te"})
        with pytest.raises(MCPError) as refused:
            await client.complete(PromptReference(name="test_prompt_with_arguments"), {"name": "arg1", "value": "p"})
    assert words.completion.values == ["paris", "park", "party"]
    assert ids.completion.values == ["test", "testing"]
    assert refused.value.error.message == "Unknown name: test_prompt_with_arguments"


@pytest.mark.requirement("several:shown")
@pytest.mark.parametrize("mode", ERAS)
async def test_resources_inside_of_prompts_and_results_can_be_read(house: Three, mode: str) -> None:
    async with house.agent(mode) as client:
        prompt = await client.get_prompt(
            "a__test_prompt_with_embedded_resource", {"resourceUri": "test://template/7/data"}
        )
        inside: Any = prompt.messages[0].content
        read = await client.read_resource(str(inside.resource.uri))
        result = await client.call_tool("b__test_embedded_resource")
        with pytest.raises(MCPError) as missing:
            await client.read_resource("mcpgw+b+test://missing")
    assert '"id":"7"' in read.contents[0].text
    (content,) = result.content
    assert str(content.resource.uri) == "mcpgw+b+test://embedded-resource"
    assert missing.value.error.data == {"uri": "mcpgw+b+test://missing"}


# Streams


@pytest.mark.requirement("several:subscriptions")
async def test_a_modern_client_hears_of_the_resource_of_the_server_that_it_subscribed_to(house: Three) -> None:
    async with house.agent(MODERN) as client:
        with anyio.fail_after(IN_USE_S):
            async with client.listen(resource_subscriptions=[f"mcpgw+b+{WATCHED}"]) as heard:
                await client.call_tool("a__test_trigger_tool_change")
                await client.call_tool("b__test_trigger_tool_change")
                assert await anext(heard) == ResourceUpdated(f"mcpgw+b+{WATCHED}")


@pytest.mark.requirement("several:subscriptions")
@pytest.mark.parametrize("uris", [[f"mcpgw+a+{WATCHED}"], [f"mcpgw+a+{WATCHED}", f"mcpgw+b+{WATCHED}"]])
async def test_a_legacy_client_hears_of_the_resources_that_it_subscribed_to(house: Three, uris: list[str]) -> None:
    heard: list[str] = []
    arrived = anyio.Event()

    async def handle(message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            heard.append(str(message.params.uri))
            if set(heard) == set(uris):
                arrived.set()

    async with house.agent("legacy", message_handler=handle) as client:
        with anyio.fail_after(IN_USE_S):
            for uri in uris:
                await client.subscribe_resource(uri)
            await client.call_tool("b__test_trigger_tool_change")
            await client.call_tool("a__test_trigger_tool_change")
            await arrived.wait()
            for uri in uris:
                await client.unsubscribe_resource(uri)
            await client.call_tool("a__test_trigger_tool_change")
            await client.call_tool("b__test_trigger_tool_change")
    assert sorted(heard) == uris


@pytest.mark.requirement("several:streams", "several:watch")
async def test_a_change_that_any_server_tells_reaches_streams_over_all(house: Three) -> None:
    async def trigger(client: Client) -> None:
        while True:  # the gateway's own stream to the server may not be open yet
            await client.call_tool("b__test_trigger_tool_change")
            await client.call_tool("a__test_trigger_prompt_change")
            await anyio.sleep(0.1)

    async with house.agent(MODERN) as client, house.agent(MODERN) as other:
        with anyio.fail_after(IN_USE_S):
            async with (
                client.listen(tools_list_changed=True, prompts_list_changed=True) as changes,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(trigger, other)
                events = set()
                while len(events) < 2:
                    events.add(await anext(changes))
                tasks.cancel_scope.cancel()
    assert events == {ToolsListChanged(), PromptsListChanged()}


@pytest.mark.requirement("several:streams")
async def test_a_kill_of_a_server_ends_its_part_and_streams_say_so_within_a_second(own_house: Three) -> None:
    gate = own_house.gate
    async with own_house.agent(MODERN) as client:
        with anyio.fail_after(IN_USE_S):
            before = [str(resource.uri) for resource in (await client.list_resources()).resources]
            async with client.listen(
                tools_list_changed=True,
                prompts_list_changed=True,
                resources_list_changed=True,
                resource_subscriptions=[f"mcpgw+a+{WATCHED}"],
            ) as heard:
                await run_sync(gate.admin.post, "/kill-switches", _kill("a"))
                with anyio.fail_after(1):
                    events = {await anext(heard) for _ in range(3)}
            after = await client.list_resources(cache_mode="refresh")
            with pytest.raises(MCPError) as refused:
                await client.read_resource("mcpgw+a+test://static-text")
            still = await client.read_resource("mcpgw+b+test://static-text")
    assert events == {ToolsListChanged(), PromptsListChanged(), ResourcesListChanged()}
    left = [str(resource.uri) for resource in after.resources]
    assert left == [uri for uri in before if uri.startswith("mcpgw+b+")] != before
    assert after.meta is None or UNAVAILABLE not in after.meta
    assert refused.value.error.data["reason"] == "killed"
    assert still.contents


def _kill(server: str) -> dict[str, str]:
    return {"scope": "server", "selector": server, "mode": "hard", "reason": "drill"}


# A server that is gone


@pytest.mark.requirement("merged:unavailable", "merged:children")
async def test_a_server_that_was_killed_costs_its_own_items_and_the_log_knows_who_was_asked(own_house: Three) -> None:
    gate = own_house.gate
    async with own_house.agent(MODERN) as modern, own_house.agent("legacy") as legacy:
        await modern.list_resources()
        await legacy.list_resources()
        os.kill(own_house.servers["a"].process.pid, signal.SIGKILL)
        for client in (modern, legacy):
            with anyio.fail_after(2 * LIST_S + 1):
                result = await client.list_resources(cache_mode="refresh")
            uris = [str(resource.uri) for resource in result.resources]
            assert uris and all(uri.startswith("mcpgw+b+") for uri in uris)
            assert result.meta is not None
            (missing,) = result.meta[UNAVAILABLE]
            assert missing["server"] == "a"
            assert missing["reason"] in {"upstream_unreachable", "upstream_failed", "unavailable"}
    lines = [line for line in lines_of(gate.audit_dir) if line.verb == "resources/list" and line.route == "mcp"]
    parents = [line for line in lines if line.server is None and line.phase == "intent"]
    assert len(parents) == 4
    for parent in parents:
        asked = {line.server for line in lines if line.parent == parent.action_id}
        assert {"a", "b"} <= asked
        assert {line.principal for line in lines if line.parent == parent.action_id} == {parent.principal}


# What it is told, and other ways to it


@pytest.mark.requirement("several:level")
async def test_a_log_level_holds_for_servers_in_use_and_for_those_that_come_to_be_used(house: Three) -> None:
    heard: list[str] = []

    async def note(params: Any) -> None:
        heard.append(params.level)

    loud = ["error", "critical", "alert", "emergency"]
    async with house.agent("legacy", logging_callback=note) as client:
        await client.call_tool("a__test_logging_tool")
        before = list(heard)
        await client.set_logging_level("error")
        await client.call_tool("a__test_logging_tool")
        await client.call_tool("b__test_logging_tool")
    assert before == ["debug", "info", "notice", "warning", *loud]
    assert heard == [*before, *loud, *loud]


@pytest.mark.requirement("several:sdk", "several:named")
@pytest.mark.parametrize("mode", ERAS)
async def test_a_toolset_has_the_prompts_and_resources_of_the_servers_that_it_names(house: Three, mode: str) -> None:
    house.gate.admin.put("/toolsets/some", {"tools": [{"tool": "a/greet", "name": "greet"}]})
    try:
        async with agent(house.gate.server_url("some"), house.gate.agent_key, mode=mode) as client:
            prompts = names((await client.list_prompts()).prompts)
            resources = [str(resource.uri) for resource in (await client.list_resources()).resources]
            read = await client.read_resource("mcpgw+a+test://static-text")
            asked = said(await client.get_prompt("a__test_simple_prompt"))
            for elsewhere in ("mcpgw+b+test://static-text", "test://static-text"):
                with pytest.raises(MCPError) as refused:
                    await client.read_resource(elsewhere)
                assert refused.value.error.message == f"Unknown resource: {elsewhere}"
    finally:
        house.gate.admin.delete("/toolsets/some")
    assert {name.partition("__")[0] for name in prompts} == {"a"}
    assert resources == ["mcpgw+a+test://static-text", f"mcpgw+a+{WATCHED}"]
    assert str(read.contents[0].uri) == "mcpgw+a+test://static-text"
    assert asked == "This is a simple prompt for testing."


@pytest.mark.requirement("several:sdk", "several:subscriptions")
@pytest.mark.parametrize("mode", ERAS)
async def test_servers_of_either_generation_stand_side_by_side(generations: GatewayProcess, mode: str) -> None:
    """Lists, reads and updates cross from a client of one generation to servers of both."""
    uris = [f"mcpgw+{server}+{WATCHED}" for server in ("legacy", "modern")]
    async with agent(generations.mcp_url, generations.agent_key, mode=mode) as client:
        prompts = names((await client.list_prompts()).prompts)
        texts = [(await client.read_resource(uri)).contents[0].uri for uri in uris]
    with anyio.fail_after(IN_USE_S):
        updated = await _updates(generations, mode, uris)
    assert {name.partition("__")[0] for name in prompts} == {"legacy", "modern"}
    assert [str(uri) for uri in texts] == uris
    assert updated == set(uris)


async def _updates(gate: GatewayProcess, mode: str, uris: list[str]) -> set[str]:
    """Return the resources of which a client that watches these hears, when all of them are updated."""
    heard: set[str] = set()
    arrived = anyio.Event()

    async def handle(message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            heard.add(str(message.params.uri))
            if len(heard) == len(uris):
                arrived.set()

    async def trigger(client: Client) -> None:
        for server in ("legacy", "modern"):
            await client.call_tool(f"{server}__test_trigger_tool_change")

    async with agent(gate.mcp_url, gate.agent_key, mode=mode, message_handler=handle) as client:
        if mode == "legacy":
            for uri in uris:
                await client.subscribe_resource(uri)
            await trigger(client)
            await arrived.wait()
            return heard
        async with client.listen(resource_subscriptions=uris) as events:
            await trigger(client)
            return {event.uri for event in [await anext(events) for _ in uris] if isinstance(event, ResourceUpdated)}
