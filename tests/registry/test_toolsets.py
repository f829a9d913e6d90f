"""Toolsets: which can be, what they offer, and how administrators change them."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.config import RegistrySection
from mcpgw.domain import Offer, Selection, State, ToolPin, Toolset, ToolsetEntry
from mcpgw.errors import Conflict, InvalidParams, NotFound
from mcpgw.registry import digest
from mcpgw.registry.catalog import StateCatalog
from mcpgw.registry.selection import shown
from mcpgw.registry.toolsets import ToolsetsService, check_declared, entry_of
from mcpgw.toolset_section import DeclaredToolset
from tests.registry.parts import ADA, URL, Registry, pins, raw, server, version

SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "tenant": {"type": "string"}, "limit": {"type": "integer"}, "any": True},
    "required": ["text", "tenant"],
}


def tools(*names: str, schema: dict[str, Any] | None = None) -> dict[str, ToolPin]:
    return digest.pins([raw(name, inputSchema=schema or SCHEMA) for name in names])


def toolset(*entries: dict[str, Any], slug: str = "desk", **fields: Any) -> Toolset:
    made = Toolset(
        slug=slug, title=slug, entries=tuple(map(entry_of, entries)), created_by="ada", created_at=1.0, **fields
    )
    return made


def state(*toolsets: Toolset, **servers: dict[str, ToolPin]) -> State:
    """Return a state with these servers, each with an active version."""
    return State(
        epoch=1,
        servers=tuple(server(slug) for slug in servers),
        versions=tuple(version(server=slug, tools=pinned) for slug, pinned in servers.items()),
        active=dict.fromkeys(servers, "1.0.0"),
        toolsets=toolsets,
    )


def offered(of: State, slug: str | None = "desk") -> Selection:
    selection = StateCatalog(of).selection(slug)
    assert selection is not None
    return selection


def names(of: State, slug: str | None = "desk") -> list[str]:
    return [offer.name for offer in offered(of, slug).offers]


def definition(offer: Offer | None) -> dict[str, Any]:
    assert offer is not None
    told: dict[str, Any] = json.loads(shown(offer))
    return told


@pytest.fixture
def service(registry: Registry) -> ToolsetsService:
    return ToolsetsService(registry.store, registry.worlds, registry.clock)


# What a toolset offers


@pytest.mark.requirement("toolset:offers")
def test_a_toolset_offers_what_its_entries_name_in_their_order() -> None:
    held = state(
        toolset({"tool": "wiki/*"}, {"tool": "notes/write", "name": "note_down"}, {"tool": "notes/read"}),
        notes=tools("read", "write", "drop"),
        wiki=tools("find", "edit"),
    )
    assert names(held) == ["wiki__find", "wiki__edit", "note_down", "notes__read"]
    found = offered(held).find("note_down")
    assert found is not None
    assert (found.version.server, found.tool.name) == ("notes", "write")
    assert offered(held).find("notes__write") is offered(held).find("notes__drop") is None


@pytest.mark.requirement("toolset:offers")
def test_everything_follows_what_is_activated_and_disabled() -> None:
    everything = toolset({"tool": "*"})
    held = state(everything, notes=tools("read"), wiki=tools("find"))
    assert names(held) == ["notes__read", "wiki__find"]
    assert names(replace(held, active={"notes": None, "wiki": "1.0.0"})) == ["wiki__find"]
    assert names(state(everything, wiki=tools("find"), mail=tools("send"))) == ["mail__send", "wiki__find"]


@pytest.mark.requirement("toolset:offers")
def test_overlapping_selections_offer_a_tool_once() -> None:
    held = state(toolset({"tool": "notes/*"}, {"tool": "*"}), notes=tools("read"), wiki=tools("find"))
    assert names(held) == ["notes__read", "wiki__find"]


@pytest.mark.requirement("toolset:offers")
def test_one_tool_can_be_offered_twice_under_names_of_its_own() -> None:
    entries = [
        {"tool": "notes/read", "name": f"read_{who}", "pinned": {"tenant": who}, "description": f"Of {who}."}
        for who in ("a", "b")
    ]
    held = state(toolset(*entries), notes=tools("read"))
    assert names(held) == ["read_a", "read_b"]
    told = [definition(offer) for offer in offered(held).offers]
    assert [tool["description"] for tool in told] == ["Of a.", "Of b."]


@pytest.mark.requirement("toolset:pinned")
def test_a_tool_with_an_entry_of_its_own_is_offered_by_that_alone_even_when_it_does_not_fit() -> None:
    pinned = toolset({"tool": "*"}, {"tool": "notes/read", "pinned": {"tenant": "blue"}})
    assert names(state(pinned, notes=tools("read", "write"))) == ["notes__write", "notes__read"]
    # Another version has renamed the property: what was pinned must not be open now.
    other = {"type": "object", "properties": {"customer": {"type": "string"}}}
    moved = state(pinned, notes=tools("read", "write", schema=other))
    assert names(moved) == ["notes__write"]
    assert StateCatalog(moved).unoffered(pinned) == ["the input schema of `notes/read` has no property `tenant`"]


@pytest.mark.requirement("toolset:rules")
def test_what_is_not_there_is_not_offered_and_said() -> None:
    made = toolset({"tool": "gone/*"}, {"tool": "gone/read"}, {"tool": "notes/fly"}, {"tool": "notes/read"})
    held = state(made, notes=tools("read"))
    assert names(held) == ["notes__read"]
    assert StateCatalog(held).unoffered(made) == [
        "no version of `gone` is active",
        "no version of `gone` is active",
        "`notes` 1.0.0 has no tool `fly`",
    ]


@pytest.mark.requirement("toolset:slug")
def test_a_removed_toolset_is_none_and_a_server_has_its_slug_before_a_toolset() -> None:
    gone = toolset({"tool": "*"}, removed_at=5.0)
    assert StateCatalog(state(gone, notes=tools("read"))).selection("desk") is None
    taken = toolset({"tool": "*"}, slug="notes")
    assert StateCatalog(state(taken, notes=tools("read"))).selection("notes") is None


@pytest.mark.requirement("toolset:shown")
def test_a_definition_is_shown_without_what_is_pinned_and_with_its_defaults() -> None:
    entry = {
        "tool": "notes/read",
        "name": "look_up",
        "description": "Look \u00fcp.",
        "pinned": {"tenant": "blue"},
        "defaults": {"text": "all", "limit": 1, "any": [1.50]},
    }
    original = tools("read")["read"]
    told = definition(offered(state(toolset(entry), notes=tools("read"))).find("look_up"))
    before = json.loads(original.definition)
    assert told == {
        **before,
        "name": "look_up",
        "description": "Look \u00fcp.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "text": {"type": "string", "default": "all"},
                "limit": {"type": "integer", "default": 1},
                "any": {"default": [1.5]},
            },
        },
    }
    some = definition(
        offered(state(toolset({"tool": "notes/read", "pinned": {"tenant": 1}}), notes=tools("read"))).offers[0]
    )
    assert (some["name"], some["description"]) == ("notes__read", before["description"])
    assert some["inputSchema"]["required"] == ["text"]


@pytest.mark.requirement("toolset:shown")
def test_what_a_toolset_does_not_change_is_shown_byte_for_byte() -> None:
    exact = digest.pins([b'{"name":"read","x":[1.0,1e2,9007199254740993],"inputSchema":{"properties":{"a":{}}}}'])
    held = state(toolset({"tool": "notes/read", "name": "n", "defaults": {"a": 1}}), notes=exact)
    assert b'"x":[1.0,1e2,9007199254740993]' in shown(offered(held).offers[0])


@pytest.mark.requirement("toolset:offers")
@given(st.sets(st.text(min_size=1, max_size=70), max_size=5), st.sets(st.sampled_from(["a", "_b", "C-d"]), max_size=3))
def test_no_two_tools_of_a_toolset_share_a_name(own: set[str], given_names: set[str]) -> None:
    named = [{"tool": "notes/read", "name": name} for name in sorted(given_names)]
    held = state(toolset({"tool": "*"}, *named), notes=pins("read", *sorted(own)), wiki=pins(*sorted(own)))
    offers = offered(held).offers
    assert len({offer.name for offer in offers}) == len(offers)
    assert all(offered(held).find(offer.name).name == offer.name for offer in offers)


# Which toolsets can be

READ = {"tool": "notes/read"}


@pytest.mark.requirement("toolset:rules")
@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([], "1 to 1000 entries"),
        ([{"tool": "notes"}], "server/tool, server/\\* or \\*"),
        ([{"tool": "*/read"}], "server/tool, server/\\* or \\*"),
        ([{"tool": "/read"}], "server/tool, server/\\* or \\*"),
        ([{"tool": "notes/*", "name": "n"}], "selects many tools"),
        ([{"tool": "*", "description": "d"}], "selects many tools"),
        ([{"tool": "notes/*", "pinned": {"a": 1}}], "selects many tools"),
        ([{"tool": "*", "defaults": {"a": 1}}], "selects many tools"),
        ([{**READ, "name": "a.b"}], "not 1 to 64 of"),
        ([{**READ, "name": "x" * 65}], "not 1 to 64 of"),
        ([{**READ, "name": ""}], "not 1 to 64 of"),
        ([{**READ, "name": "find_tool"}], "may be that of another"),
        ([{**READ, "name": "call_tool"}], "may be that of another"),
        ([{**READ, "name": "wiki__find"}], "may be that of another"),
        ([{**READ, "name": "n"}, {"tool": "notes/write", "name": "n"}], "`notes/write` under one name"),
        ([READ, READ], "`notes/read` under one name"),
        ([{**READ, "defaults": {"text": 1}, "pinned": {"text": 2}}], "both pins `text`"),
        ([{**READ, "pinned": {"text": "x" * 20_000}}], "longer than 16384 bytes"),
        ([{**READ, "description": "x" * 4001}], "longer than 4000"),
        ([{**READ, "pinned": {"text": [{"a": float("nan")}]}}], "none that JSON has"),
        ([{**READ, "defaults": {"limit": 2**64}}], "none that JSON has"),
        ([{**READ, "defaults": {"text": "\ud800"}}], "none that JSON has"),
        ([{**READ, "defaults": {"text": {1: 2}}}], "none that JSON has"),
        ([{**READ, "defaults": {"text": datetime.date(2026, 1, 1)}}], "none that JSON has"),
        ([{**READ, "pinned": {"nothing": 1}, "defaults": {"nowhere": 1}}], "no property `nothing`, `nowhere`"),
    ],
)
async def test_a_toolset_that_could_not_work_is_refused_with_the_reason(
    registry: Registry, service: ToolsetsService, entries: list[dict[str, Any]], why: str
) -> None:
    await served(registry)
    epoch = (await registry.store.state()).epoch
    with pytest.raises(InvalidParams, match=why) as refused:
        await service.create(ADA, "desk", {"tools": entries})
    assert "x" * 100 not in str(refused.value)
    assert (await registry.store.state()).epoch == epoch


@pytest.mark.requirement("toolset:rules")
@pytest.mark.parametrize("slug", ["Desk", "-desk", "d" * 25, "de_sk"])
async def test_a_slug_is_that_of_a_server(service: ToolsetsService, slug: str) -> None:
    with pytest.raises(InvalidParams, match="a slug is"):
        await service.create(ADA, slug, {"tools": [READ]})


@pytest.mark.requirement("toolset:slug")
async def test_servers_and_toolsets_share_their_slugs(registry: Registry, service: ToolsetsService) -> None:
    await served(registry)
    for taken in ("notes", "n0tes", "no-tes"):
        with pytest.raises(Conflict):
            await service.create(ADA, taken, {"tools": [READ]})
    await service.create(ADA, "desk", {"tools": [READ]})
    with pytest.raises(Conflict, match="looks like"):
        await service.create(ADA, "de5k", {"tools": [READ]})
    for taken in ("desk", "de5k"):
        with pytest.raises(Conflict):
            await registry.service.add(ADA, taken, URL)
    await service.remove(ADA, "desk")
    await registry.service.add(ADA, "desk", URL)


# Changing them


async def served(registry: Registry) -> None:
    """Serve `notes` with the tools read and write."""
    registry.live[URL] = [raw(name, inputSchema=SCHEMA) for name in ("read", "write")]
    await registry.service.add(ADA, "notes", URL)
    await registry.service.approve(ADA, "notes", "1.0.0")
    await registry.service.activate(ADA, "notes", "1.0.0")


@pytest.mark.requirement("toolset:changes")
async def test_a_toolset_is_created_replaced_and_removed_and_each_change_is_noted(
    registry: Registry, service: ToolsetsService
) -> None:
    await served(registry)
    entry = {**READ, "name": "look_up", "pinned": {"tenant": "blue-secret"}}
    made = await service.create(ADA, "desk", {"title": "Desk", "tools": [entry, {"tool": "gone/x"}], "search": True})
    assert made["epoch"] == (await registry.store.state()).epoch
    assert (made["slug"], made["title"], made["search"], made["offered"]) == ("desk", "Desk", True, 1)
    assert made["tools"] == [entry, {"tool": "gone/x"}]
    assert made["offers"] == [{"name": "look_up", "server": "notes", "tool": "read"}]
    assert made["warnings"] == ["no version of `gone` is active"]
    with pytest.raises(Conflict, match="already"):
        await service.create(ADA, "desk", {"tools": [READ]})
    again = await service.replace(ADA, "desk", {"tools": [READ], "instructions": "Be brief."})
    assert (again["title"], again["search"], again["created_at"]) == ("desk", False, made["created_at"])
    same = await service.replace(ADA, "desk", {"tools": [READ], "instructions": "Be brief."})
    assert same["epoch"] == again["epoch"]
    listed = service.list()
    assert [t["slug"] for t in listed] == ["desk"]
    assert (await service.remove(ADA, "desk"))["toolset"] == "desk"
    assert service.list() == []
    with pytest.raises(NotFound):
        service.show("desk")
    with pytest.raises(NotFound):
        await service.remove(ADA, "desk")
    noted = [note for _, _, note in await registry.store.notes(0, 100) if note.action.startswith("toolsets.")]
    assert [(n.action, n.actor, n.target) for n in noted] == [
        (f"toolsets.{done}", ADA.selector, "desk") for done in ("create", "replace", "remove")
    ]
    assert noted[0].after is not None and noted[1].before == noted[0].after
    assert noted[0].after["tools"][0]["pinned"] == ["tenant"]
    assert "blue-secret" not in str(noted)


@pytest.mark.requirement("toolset:configured")
async def test_declared_toolsets_come_and_go_with_the_configuration(registry: Registry) -> None:
    def service(*toolsets: dict[str, Any]) -> ToolsetsService:
        section = RegistrySection.model_validate({"toolsets": toolsets})
        return ToolsetsService(registry.store, registry.worlds, registry.clock, section)

    await served(registry)
    desk = {"name": "desk", "tools": [{**READ, "pinned": {"tenant": 1, "nowhere": 2}}, {"tool": "notes/*"}]}
    with_desk = service(desk)
    epoch = await with_desk.sync_configured()
    await registry.worlds.at_least(epoch)
    shown = with_desk.show("desk")
    assert (shown["configured"], shown["offered"], len(shown["warnings"])) == (True, 1, 1)
    assert await with_desk.sync_configured() == epoch
    for change in (with_desk.replace(ADA, "desk", {"tools": [READ]}), with_desk.remove(ADA, "desk")):
        with pytest.raises(Conflict, match="configuration"):
            await change
    await registry.worlds.at_least(await service().sync_configured())
    assert with_desk.list() == []


@pytest.mark.requirement("toolset:configured")
async def test_a_declaration_that_meets_what_was_made_here_is_left_out_and_said(
    registry: Registry, service: ToolsetsService, caplog: pytest.LogCaptureFixture
) -> None:
    await served(registry)
    made = await service.create(ADA, "desk", {"tools": [READ]})
    declared = {
        "http": [{"name": "desk", "url": URL}, {"name": "wiki", "url": URL}],
        "toolsets": [{"name": slug, "tools": [READ]} for slug in ("n0tes", "support")],
    }
    section = RegistrySection.model_validate(declared)
    await registry.with_configuration(section).sync_configured()
    other = ToolsetsService(registry.store, registry.worlds, registry.clock, section)
    await registry.worlds.at_least(await other.sync_configured())
    assert [(t["slug"], t["configured"]) for t in other.list()] == [("desk", False), ("support", True)]
    assert service.show("desk")["created_at"] == made["created_at"]
    assert {s.slug for s in registry.worlds.current.state.servers} == {"notes", "wiki"}
    told = [record.getMessage() for record in caplog.records]
    assert any("server desk is left out" in line for line in told)
    assert any("toolset n0tes is left out: `n0tes` looks like `notes`" in line for line in told)
    again = RegistrySection.model_validate({"toolsets": [{"name": "desk", "tools": [READ]}]})
    await ToolsetsService(registry.store, registry.worlds, registry.clock, again).sync_configured()
    assert any("toolset desk is left out" in record.getMessage() for record in caplog.records)
    assert not service.show("desk")["configured"]


@pytest.mark.requirement("toolset:configured")
def test_a_declaration_that_could_not_work_is_told_before_the_start() -> None:
    declared = {"name": "desk", "tools": [{"tool": "*", "name": "all"}]}
    with pytest.raises(InvalidParams, match="many tools"):
        check_declared(DeclaredToolset.model_validate(declared))
    for other in ({"http": [{"name": "desk", "url": URL}]}, {"stdio": [{"name": "desk", "command": ["x"]}]}):
        with pytest.raises(ValueError, match="of a server"):
            RegistrySection.model_validate({"toolsets": [{"name": "desk", "tools": [READ]}], **other})
    with pytest.raises(ValueError, match="another toolset"):
        RegistrySection.model_validate({"toolsets": [{"name": "desk", "tools": [READ]}] * 2})


@pytest.mark.requirement("toolset:changes")
async def test_changes_at_the_same_time_lose_nothing(registry: Registry, service: ToolsetsService) -> None:
    await service.create(ADA, "desk", {"tools": [READ]})

    class Slow:
        """A store whose first commit finds that another change came between."""

        def __init__(self) -> None:
            self.state = registry.store.state
            self.notes = registry.store.notes
            self.tries = 0

        async def commit(self, *args: Any, **how: Any) -> int:
            self.tries += 1
            if self.tries == 1:
                await service.replace(ADA, "desk", {"tools": [READ], "title": "first"})
            return await registry.store.commit(*args, **how)

    store = Slow()
    late = ToolsetsService(store, registry.worlds, registry.clock)
    await late.replace(ADA, "desk", {"tools": [READ], "title": "second"})
    assert (store.tries, service.show("desk")["title"]) == (2, "second")
    befores = [n.before["title"] for _, _, n in await registry.store.notes(0, 10) if n.before is not None]
    assert befores == ["desk", "first"]


def test_an_entry_is_read_as_it_is_written() -> None:
    assert entry_of({"tool": "*"}) == ToolsetEntry(server="*", tool="*")
    assert entry_of({"tool": "notes/a/b"}) == ToolsetEntry(server="notes", tool="a/b")
