"""Which version a call uses, and the names over all servers."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.domain import SYSTEM, Quarantine, State, VersionStatus
from mcpgw.registry.catalog import StateCatalog, names
from mcpgw.registry.selection import shown
from tests.registry.parts import BOT, pins, server, version

SLUG = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?", fullmatch=True)
# Names that fit, that do not, and that look like what is made of those that do not.
TOOL = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80) | st.from_regex(
    r"[a-b._-]{1,3}(_[0-9a-f]{8})?", fullmatch=True
)


@pytest.mark.requirement("registry:names")
@given(st.dictionaries(SLUG, st.sets(TOOL, max_size=6), max_size=4))
def test_no_two_tools_share_a_name_over_all_servers(tools: dict[str, set[str]]) -> None:
    made = [name for slug, own in tools.items() for name in names(slug, own).values()]
    assert len(set(made)) == sum(map(len, tools.values()))
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in made)
    assert all(name.split("__", 1)[0] in tools for name in made)


@pytest.mark.requirement("registry:names")
@given(SLUG, st.lists(TOOL, unique=True, max_size=6))
def test_a_name_depends_on_nothing_but_the_set_of_names(slug: str, tools: list[str]) -> None:
    assert names(slug, tools) == names(slug, tools[::-1])


@pytest.mark.requirement("registry:names")
def test_a_name_that_fits_is_kept_and_another_gets_digits() -> None:
    made = names("notes", ["delete", "a.b/c", "x" * 57, "x" * 58, "\u202e", "_hidden"])
    assert made["delete"] == "notes__delete"
    assert made["_hidden"] == "notes___hidden"
    assert made["x" * 57] == "notes__" + "x" * 57
    assert made["x" * 58] == "notes__" + "x" * 48 + "_5ef8b2e5"
    assert made["a.b/c"] == "notes__a-b-c_fc7cd9c4"
    assert re.fullmatch(r"notes__tool_[0-9a-f]{8}", made["\u202e"])


@pytest.mark.requirement("registry:names")
def test_a_tool_named_like_the_shortened_name_of_another_does_not_take_its_place() -> None:
    (made,) = names("notes", ["a.b"]).values()
    impostor = made.removeprefix("notes__")
    both = names("notes", ["a.b", impostor])
    assert both[impostor] == made
    assert both["a.b"] != made and both["a.b"].startswith("notes__a-b_")


def catalog(*versions: str, active: str | None = "1.0.0", **kinds: object) -> StateCatalog:
    rows = tuple(version(number) for number in versions or ("1.0.0",))
    return StateCatalog(replace(State(epoch=1, servers=(server(),), versions=rows, active={"notes": active}), **kinds))


@pytest.mark.requirement("registry:approved-only")
@pytest.mark.parametrize("status", [VersionStatus.DRAFT, VersionStatus.RETIRED])
def test_what_is_not_approved_is_served_to_nobody_but_the_gateway_itself(status: VersionStatus) -> None:
    found = catalog(versions=(version("1.0.0", status=status),))
    assert found.active() == ()
    assert found.find("notes__read") is None
    assert found.resolve("notes", None, BOT) is found.resolve("notes", "1.0.0", BOT) is None
    assert found.resolve("notes", None, SYSTEM) is None
    assert found.resolve("notes", "1.0.0", SYSTEM) is not None


def test_an_approved_version_can_be_named_while_another_is_active() -> None:
    found = catalog("1.0.0", "1.1.0")
    by_default, named = found.resolve("notes", None, BOT), found.resolve("notes", "1.1.0", BOT)
    assert by_default and named
    assert (by_default.version, named.version) == ("1.0.0", "1.1.0")
    assert found.resolve("notes", "2.0.0", BOT) is found.resolve("other", None, BOT) is None


@pytest.mark.requirement("registry:disabled")
def test_a_disabled_server_has_no_version_for_callers() -> None:
    found = catalog(active=None)
    assert found.active() == ()
    assert found.resolve("notes", None, BOT) is found.resolve("notes", "1.0.0", BOT) is None
    assert found.resolve("notes", "1.0.0", SYSTEM) is not None


@pytest.mark.requirement("registry:disabled")
def test_a_removed_server_has_no_version_for_anyone() -> None:
    found = catalog(servers=(server(removed_at=5.0),))
    assert found.active() == ()
    assert found.resolve("notes", "1.0.0", SYSTEM) is None


@pytest.mark.requirement("registry:quarantine")
def test_quarantines_tags_and_trust_are_applied_to_the_versions_they_are_of() -> None:
    found = catalog(
        "1.0.0",
        "1.1.0",
        servers=(server(tags=("pii",), trust="internal"),),
        quarantines=(Quarantine(server="notes", version="1.0.0", tool="write", seen_sha256="00", seen_at=1.0),),
    )
    old, new = found.resolve("notes", "1.0.0", BOT), found.resolve("notes", "1.1.0", BOT)
    assert old and new
    assert (old.tags, old.trust, old.quarantined) == (("pii",), "internal", frozenset({"write"}))
    assert (new.tags, new.trust, new.quarantined) == (("pii",), "internal", frozenset())


@pytest.mark.requirement("registry:quarantine")
def test_a_tool_that_was_seen_to_equal_its_pin_again_is_not_quarantined() -> None:
    seen = version().tools["write"].sha256
    found = catalog(
        quarantines=(Quarantine(server="notes", version="1.0.0", tool="write", seen_sha256=seen, seen_at=1.0),)
    )
    (active,) = found.active()
    assert active.quarantined == frozenset()


@pytest.mark.requirement("registry:names")
def test_names_are_found_again_and_definitions_carry_them() -> None:
    tools = pins("read", "a.b")
    found = StateCatalog(
        State(
            epoch=1,
            servers=(server("zoo"), server("ark")),
            versions=(version(server="zoo", tools=tools), version(server="ark", tools=tools)),
            active={"zoo": "1.0.0", "ark": "1.0.0"},
        )
    )
    assert [v.server for v in found.active()] == ["ark", "zoo"]
    everything = found.selection(None)
    assert everything is not None
    assert [(o.version.server, o.tool.name) for o in everything.offers] == [
        (slug, name) for slug in ("ark", "zoo") for name in tools
    ]
    for offer in everything.offers:
        prefixed = found.prefixed(offer.version.server, offer.tool.name)
        assert found.find(prefixed) == (offer.version.server, offer.tool.name)
        assert everything.find(prefixed) is offer
        assert json.loads(shown(offer)) == {**json.loads(offer.tool.definition), "name": prefixed}
    assert found.find("ark__absent") is found.find("ark__a.b") is found.find("") is None
