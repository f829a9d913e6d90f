"""The records of `auth`, in a database and in memory alike."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from mcpgw.ports import Record, Records
from mcpgw.store.records import MemoryRecords, SqlRecords
from mcpgw.store.sql import SqlStore
from tests.upstream.calls import HandClock

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("store:records")]
CODE = Record(kind="code", id="a", owner="alice", body=b"\x00first", expires_at=1060.0)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["sql", "memory"])
def records(request: pytest.FixtureRequest, clock: HandClock, sql: SqlStore) -> Records:
    return SqlRecords(sql, clock) if request.param == "sql" else MemoryRecords(clock)


async def test_a_record_is_found_by_its_id_and_by_its_owner(records: Records) -> None:
    other = replace(CODE, id="b")
    assert await records.put(other)
    assert await records.put(CODE)
    assert await records.put(replace(CODE, id="c", owner="bob"))
    assert await records.put(replace(CODE, kind="session"))
    assert await records.get("code", "a") == CODE
    assert await records.get("session", "b") is None
    assert list(await records.of("code", "alice")) == [CODE, other]


async def test_a_record_is_put_once(records: Records) -> None:
    assert await records.put(CODE)
    assert not await records.put(replace(CODE, body=b"second"))
    assert await records.get("code", "a") == CODE


async def test_of_all_who_take_a_record_one_gets_it(records: Records) -> None:
    taken: list[Record | None] = []

    async def take() -> None:
        taken.append(await records.take("code", "a"))

    await records.put(CODE)
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(take)
    assert [one for one in taken if one is not None] == [CODE]


async def test_of_all_who_replace_a_record_one_succeeds(records: Records) -> None:
    done: list[bool] = []

    async def place(number: int) -> None:
        done.append(await records.replace(replace(CODE, body=b"%d" % number)))

    await records.put(CODE)
    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(place, number)
    held = await records.get("code", "a")
    assert done.count(True) == 1
    assert held is not None
    assert held.revision == 1


async def test_an_expired_record_is_none_and_makes_room_for_another(records: Records, clock: HandClock) -> None:
    await records.put(CODE)
    clock.now = 1060.0
    assert await records.get("code", "a") is None
    assert list(await records.of("code", "alice")) == []
    assert not await records.replace(replace(CODE, body=b"late"))
    later = replace(CODE, expires_at=2000.0)
    assert await records.put(later)
    assert await records.take("code", "a") == later
    await records.put(CODE)
    assert await records.take("code", "a") is None


async def test_the_records_of_an_owner_go_together(records: Records) -> None:
    for id in "abc":
        await records.put(replace(CODE, id=id, owner="bob" if id == "c" else "alice"))
    assert await records.drop("code", "alice") == 2
    assert await records.get("code", "a") is None
    assert await records.get("code", "c") is not None


async def test_a_sweep_removes_what_has_expired_and_nothing_else(records: Records, clock: HandClock) -> None:
    await records.put(CODE)
    await records.put(replace(CODE, id="b", expires_at=1070.0))
    clock.now = 1065.0
    assert await records.sweep() == 1
    assert await records.get("code", "b") is not None


async def test_records_of_a_kind_come_in_pages(records: Records, clock: HandClock) -> None:
    for number in range(5):
        assert await records.put(replace(CODE, id=f"{number}", owner=f"owner-{number}"))
    assert await records.put(replace(CODE, id="old", expires_at=clock.now))
    assert await records.put(replace(CODE, kind="session"))
    pages, after = [], ""
    while page := await records.page("code", after, 2):
        pages.append([record.id for record in page])
        after = page[-1].id
    assert pages == [["0", "1"], ["2", "3"], ["4"]]
