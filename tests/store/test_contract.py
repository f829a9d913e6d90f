"""What every store does: the same tests on the store in memory and on SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from mcpgw.domain import (
    ActiveVersion,
    Era,
    Quarantine,
    Revocation,
    Row,
    ServerVersion,
    State,
    ToolPin,
    Transport,
    VersionStatus,
)
from mcpgw.errors import Conflict
from mcpgw.ports import Store
from mcpgw.store.memory import MemoryStore
from mcpgw.store.rows import MARGIN_S
from mcpgw.store.sql import SqlStore
from tests.store.rows import BUNDLE, CLIENT, EVERY, KEY, PINS, SERVER, SWITCH, TOOLSET, VERSION, note


@pytest.fixture(params=["memory", "sql"])
async def store(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Store]:
    store = MemoryStore() if request.param == "memory" else SqlStore(url)
    yield store
    await store.close()


@pytest.mark.requirement("store:epoch")
async def test_every_commit_raises_the_epoch_by_one(store: Store) -> None:
    first = (await store.state()).epoch
    assert await store.commit([SERVER], note()) == first + 1
    assert await store.commit([], note()) == first + 2
    assert (await store.state()).epoch == first + 2


@pytest.mark.requirement("store:whole")
async def test_state_holds_every_row_exactly_as_committed(store: Store) -> None:
    epoch = await store.commit(EVERY, note())
    assert await store.state() == State(
        epoch=epoch,
        servers=(SERVER,),
        versions=(VERSION,),
        active={"notes": "1.0.0"},
        quarantines=(Quarantine(server="notes", version="1.0.0", tool="write", seen_sha256="", seen_at=4.5),),
        toolsets=(TOOLSET,),
        keys=(KEY,),
        clients=(CLIENT,),
        revocations=(await store.state()).revocations,
        switches=(replace(SWITCH, epoch=epoch),),
        bundles=(BUNDLE,),
    )
    (revocation,) = (await store.state()).revocations
    assert (revocation.kind, revocation.selector, revocation.not_before) == ("principal", "mcpgw|bot", 5.5)
    (version,) = (await store.state()).versions
    assert list(version.tools) == list(PINS)


async def test_a_row_with_the_same_key_replaces_the_one_before(store: Store) -> None:
    await store.commit(EVERY, note())
    later = replace(SERVER, title="Better notes", removed_at=9.5)
    revoked = replace(KEY, revoked_at=7.5, roles=frozenset[str]())
    await store.commit([later, revoked, ActiveVersion("notes", None), replace(BUNDLE, active=False)], note())
    state = await store.state()
    assert (state.servers, state.keys, state.active, state.bundle) == ((later,), (revoked,), {"notes": None}, None)


@pytest.mark.requirement("store:switch-epoch")
async def test_a_kill_switch_gets_the_epoch_of_its_commit(store: Store) -> None:
    thrown = await store.commit([SWITCH, replace(SWITCH, id="kill-2")], note())
    assert [s.epoch for s in (await store.state()).switches] == [thrown, thrown]
    released = await store.commit([replace(SWITCH, released_at=8.5, released_by="ada", release_reason="fixed")], note())
    first, second = (await store.state()).switches
    assert (first.epoch, first.released_at, second.epoch, second.released_at) == (released, 8.5, thrown, None)


@pytest.mark.requirement("store:expect")
async def test_a_commit_that_expects_another_epoch_changes_nothing(store: Store) -> None:
    seen = (await store.state()).epoch
    await store.commit([SERVER], note(1), expect=seen)
    with pytest.raises(Conflict, match=f"epoch {seen + 1}, not {seen}"):
        await store.commit([replace(SERVER, title="lost")], note(2), expect=seen)
    assert (await store.state()).servers == (SERVER,)
    assert [n.id for _, _, n in await store.notes(0, 10)] == ["n1"]


CHANGES: list[ServerVersion] = [
    replace(VERSION, manifest_sha256="00" * 32),
    replace(VERSION, endpoint="https://evil.example/mcp"),
    replace(VERSION, transport=Transport.STDIO),
    replace(VERSION, era=Era.LEGACY),
    replace(VERSION, tools={"read": PINS["read"]}),
    replace(VERSION, tools={**PINS, "write": ToolPin("write", "aa" * 32, b"{}")}),
    replace(VERSION, tools={**PINS, "write": replace(PINS["write"], risk="low")}),
    replace(VERSION, published_by="mcpgw|eve"),
    replace(VERSION, published_at=0.0),
]


@pytest.mark.requirement("store:immutable")
@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
async def test_what_was_published_cannot_be_rewritten(store: Store, change: ServerVersion) -> None:
    await store.commit([SERVER, VERSION], note())
    before = await store.state()
    with pytest.raises(Conflict, match="published and cannot change"):
        await store.commit([replace(SERVER, title="half"), change], note())
    assert await store.state() == before


@pytest.mark.requirement("as:revocation")
async def test_a_revocation_is_forgotten_when_nothing_is_left_that_it_could_void(store: Store) -> None:
    lasting = [Revocation("principal", "mcpgw|bot", 1.0), Revocation("token", "another issuer's", 1.0)]
    await store.commit(
        [*lasting, Revocation("token", "t", 1.0, over_at=5.0), Revocation("grant", "g", 1.0, 6.0)], note()
    )
    await store.commit([Revocation("principal", "mcpgw|ann", 4.0 + MARGIN_S)], note())
    assert len((await store.state()).revocations) == 5
    await store.commit([Revocation("grant", "new", 5.0 + MARGIN_S, over_at=9.0 + MARGIN_S)], note())
    left = {row.selector for row in (await store.state()).revocations}
    assert left == {"mcpgw|bot", "another issuer's", "mcpgw|ann", "g", "new"}


async def test_status_and_approver_of_a_version_change(store: Store) -> None:
    await store.commit([SERVER, VERSION], note())
    approved = replace(VERSION, status=VersionStatus.APPROVED, approved_by="mcpgw|bob")
    seen = replace(approved, tags=("x",), trust="internal", quarantined=frozenset({"read"}))
    await store.commit([seen], note())
    # What other rows say of a version is theirs to keep.
    assert (await store.state()).versions == (approved,)


DANGLING: list[list[Row]] = [
    [replace(VERSION, server="nobody")],
    [SERVER, ActiveVersion("notes", "1.0.0")],
    [ActiveVersion("nobody", None)],
    [SERVER, VERSION, Quarantine(server="notes", version="1.0.0", tool="absent", seen_sha256="", seen_at=1.0)],
    [SERVER, VERSION, Quarantine(server="notes", version="2.0.0", tool="read", seen_sha256="", seen_at=1.0)],
]


@pytest.mark.parametrize("rows", DANGLING, ids=range(len(DANGLING)))
async def test_rows_that_refer_to_nothing_are_refused_whole(store: Store, rows: list[Row]) -> None:
    before = await store.state()
    with pytest.raises(Conflict, match="does not exist"):
        await store.commit(rows, note())
    assert await store.state() == before
    assert await store.notes(0, 10) == []


@pytest.mark.requirement("store:outbox")
async def test_notes_are_read_in_order_with_position_and_epoch(store: Store) -> None:
    epochs = [await store.commit([], note(n)) for n in range(5)]
    found = await store.notes(0, 3)
    assert [epoch for _, epoch, _ in found] == epochs[:3]
    assert found[0][2] == note(0)
    rest = await store.notes(found[-1][0], 100)
    assert [n.id for _, _, n in rest] == ["n3", "n4"]
    assert await store.notes(rest[-1][0], 100) == []


async def test_versions_come_in_the_order_of_publication(store: Store) -> None:
    later = replace(VERSION, version="1.10.0", published_at=VERSION.published_at + 1)
    last = replace(VERSION, version="1.9.0", published_at=VERSION.published_at + 2)
    await store.commit([SERVER, last, later, VERSION], note())
    assert [v.version for v in (await store.state()).versions] == ["1.0.0", "1.10.0", "1.9.0"]
