"""Secrets at rest, in a real database."""

from __future__ import annotations

import base64
import os
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcpgw.auth.vault import NEVER, SECRET, UPSTREAM, Vault
from mcpgw.auth.vault_keys import VaultKeys
from mcpgw.auth_section import VaultSection
from mcpgw.config import AuthSection, Settings
from mcpgw.errors import GatewayError, Internal, Unavailable, UsageError
from mcpgw.ports import Record
from mcpgw.store.migrations import upgrade
from mcpgw.store.records import SqlRecords
from mcpgw.store.sql import SqlStore
from tests.auth.parts import START, SettableClock

CANARY = b"canary-7f1d-upstream-token"


def a_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    upgrade(f"sqlite+aiosqlite:///{tmp_path / 'state.db'}")
    return tmp_path / "state.db"


@pytest.fixture
async def records(database: Path) -> AsyncIterator[SqlRecords]:
    store = SqlStore(f"sqlite+aiosqlite:///{database}")
    yield SqlRecords(store, SettableClock())
    await store.close()


@pytest.fixture
def keys(tmp_path: Path) -> VaultKeys:
    return VaultKeys.load(Settings(data_dir=tmp_path))


@pytest.mark.requirement("vault:sealed")
async def test_a_secret_comes_back_whole_and_its_expired_or_dropped_self_does_not(
    records: SqlRecords, keys: VaultKeys
) -> None:
    vault = Vault(records, keys)
    await vault.put(UPSTREAM, "a", "alice", CANARY, START + 60)
    await vault.put(UPSTREAM, "b", "bob", b"other", START + 60)
    await vault.put(UPSTREAM, "old", "carol", b"old", START - 1)
    assert await vault.get(UPSTREAM, "a") == CANARY
    assert await vault.get(UPSTREAM, "old") is None
    assert list(await vault.of(UPSTREAM, "alice")) == [("a", CANARY)]
    await vault.put(UPSTREAM, "a", "alice", b"newer", START + 60)
    assert await vault.get(UPSTREAM, "a") == b"newer"
    assert await vault.drop(UPSTREAM, "alice") == 1
    assert await vault.get(UPSTREAM, "a") is None
    assert await vault.take(UPSTREAM, "b") == b"other"
    assert await vault.take(UPSTREAM, "b") is None


@pytest.mark.requirement("vault:sealed")
async def test_no_file_of_the_database_holds_a_secret_in_clear(
    records: SqlRecords, keys: VaultKeys, database: Path
) -> None:
    await Vault(records, keys).put(UPSTREAM, "a", "alice", CANARY, START + 60)
    files = list(database.parent.glob("state.db*"))
    assert any(b"alice" in file.read_bytes() for file in files), "the record is there"
    assert not any(CANARY in file.read_bytes() for file in files)
    assert CANARY.decode() not in repr(keys.current())


@pytest.mark.requirement("vault:sealed")
async def test_equal_secrets_look_different_and_each_has_a_key_of_its_own(records: SqlRecords, keys: VaultKeys) -> None:
    vault = Vault(records, keys)
    for id in ("a", "b"):
        await vault.put(UPSTREAM, id, "alice", CANARY, START + 60)
    a, b = await records.of(UPSTREAM, "alice")
    shared = {a.body[i : i + 8] for i in range(11, len(a.body) - 8)} & {
        b.body[i : i + 8] for i in range(11, len(b.body) - 8)
    }
    assert not shared


@pytest.mark.requirement("vault:bound")
@pytest.mark.parametrize("place", [{"id": "b"}, {"owner": "bob"}, {"kind": SECRET}])
async def test_a_ciphertext_opens_only_where_it_was_sealed(
    records: SqlRecords, keys: VaultKeys, database: Path, place: dict[str, str]
) -> None:
    vault = Vault(records, keys)
    await vault.put(UPSTREAM, "a", "alice", CANARY, START + 60)
    other = {"kind": UPSTREAM, "id": "a", "owner": "alice", **place}
    if place != {"owner": "bob"}:
        await vault.put(other["kind"], other["id"], other["owner"], b"bob's", START + 60)
    with sqlite3.connect(database) as connection:  # whoever can write to the database, and nothing else
        [[body]] = connection.execute("select body from auth_records where kind = 'upstream' and id = 'a'")
        connection.execute(
            "update auth_records set body = ?, owner = ? where kind = ? and id = ?",
            (body, other["owner"], other["kind"], other["id"]),
        )
    with pytest.raises(Unavailable) as refusal:
        await vault.get(other["kind"], other["id"])
    assert CANARY.decode() not in str(refusal.value)


@pytest.mark.requirement("vault:bound")
async def test_no_bit_of_a_record_can_be_changed(records: SqlRecords, keys: VaultKeys) -> None:
    vault = Vault(records, keys)
    await vault.put(UPSTREAM, "a", "alice", CANARY, START + 60)
    for place in range(0, len((await _held(records)).body), 7):
        whole = await _held(records)
        body = bytearray(whole.body)
        body[place] ^= 1
        assert await records.replace(replace(whole, body=bytes(body)))
        with pytest.raises(Unavailable):
            await vault.get(UPSTREAM, "a")
        changed = await _held(records)
        assert await records.replace(replace(changed, body=whole.body))
    assert await vault.get(UPSTREAM, "a") == CANARY


async def _held(records: SqlRecords) -> Record:
    held = await records.get(UPSTREAM, "a")
    assert held is not None
    return held


@pytest.mark.requirement("vault:sealed")
async def test_of_all_who_swap_a_secret_one_succeeds(records: SqlRecords, keys: VaultKeys) -> None:
    vault = Vault(records, keys)
    await vault.put(UPSTREAM, "a", "alice", b"0", START + 60)
    done: list[bool] = []

    async def swap(number: int) -> None:
        done.append(await vault.swap(UPSTREAM, "a", b"0", b"%d" % number, START + 60))

    async with anyio.create_task_group() as group:
        for number in range(1, 11):
            group.start_soon(swap, number)
    assert done.count(True) == 1
    assert not await vault.swap(UPSTREAM, "none", b"0", b"1", START + 60)


@pytest.mark.requirement("vault:sealed")
async def test_only_the_vaults_own_kinds_are_sealed(records: SqlRecords, keys: VaultKeys) -> None:
    with pytest.raises(Internal):
        await Vault(records, keys).put("code", "a", "alice", CANARY, START + 60)


@pytest.mark.requirement("vault:rotation")
async def test_a_rotation_under_load_fails_no_call_and_leaves_nothing_under_the_old_key(
    records: SqlRecords, tmp_path: Path
) -> None:
    ours, theirs = (Vault(records, VaultKeys.load(Settings(data_dir=tmp_path))) for _ in range(2))
    for number in range(30):
        await ours.put(UPSTREAM, f"{number}", "alice", b"0", START + 60)
    old = VaultKeys.load(Settings(data_dir=tmp_path)).current()
    rotated = anyio.Event()
    swapped = 0

    async def call(vault: Vault, number: int) -> None:
        nonlocal swapped
        turn = 0
        while not rotated.is_set() or turn < 3:
            held = await vault.get(UPSTREAM, f"{number}")
            assert held == b"%d" % turn
            assert await vault.swap(UPSTREAM, f"{number}", held, b"%d" % (turn + 1), START + 60)
            turn, swapped = turn + 1, swapped + 1

    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(call, (ours, theirs)[number % 2], number)
        await anyio.sleep(0)
        first = await ours.rotate()
        second = await theirs.rotate()
        rotated.set()
    assert swapped >= 18
    assert first.records >= 24
    assert first.key_id != second.key_id
    for record in await records.of(UPSTREAM, "alice"):
        assert old.id not in record.body[: 3 + 8]
    fresh = VaultKeys.load(Settings(data_dir=tmp_path))
    assert fresh.current().id.hex() == second.key_id
    assert fresh.find(bytes.fromhex(first.key_id)) is not None, "another worker may have been sealing with it"
    assert fresh.find(old.id) is None


@pytest.mark.requirement("vault:rotation")
async def test_another_worker_reads_and_seals_with_the_new_key_at_once(records: SqlRecords, tmp_path: Path) -> None:
    ours, theirs = (Vault(records, VaultKeys.load(Settings(data_dir=tmp_path))) for _ in range(2))
    await theirs.put(UPSTREAM, "a", "alice", CANARY, START + 60)
    done = await ours.rotate()
    assert await theirs.get(UPSTREAM, "a") == CANARY
    await theirs.put(UPSTREAM, "b", "alice", CANARY, START + 60)
    for record in await records.of(UPSTREAM, "alice"):
        assert bytes.fromhex(done.key_id) in record.body[: 3 + 8]


@pytest.mark.requirement("vault:rotation")
async def test_the_operators_own_keys_rotate_to_the_first_of_them(
    records: SqlRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = a_key(), a_key()
    settings = Settings(data_dir=tmp_path, auth=AuthSection(vault=VaultSection(key="env:TEST_VAULT_KEY")))
    monkeypatch.setenv("TEST_VAULT_KEY", before)
    await Vault(records, VaultKeys.load(settings)).put(UPSTREAM, "a", "alice", CANARY, START + 60)
    monkeypatch.setenv("TEST_VAULT_KEY", f"{after} {before}")
    vault = Vault(records, VaultKeys.load(settings))
    await vault.check()
    assert (await vault.rotate()).records == 1
    monkeypatch.setenv("TEST_VAULT_KEY", after)
    alone = Vault(records, VaultKeys.load(settings))
    await alone.check()
    assert await alone.get(UPSTREAM, "a") == CANARY


@pytest.mark.requirement("vault:keys")
async def test_a_start_is_refused_while_secrets_are_sealed_with_a_key_that_is_not_there(
    records: SqlRecords, keys: VaultKeys, tmp_path: Path
) -> None:
    await Vault(records, keys).put(SECRET, "a", "gateway", CANARY, NEVER)
    lost = keys.current().id.hex()
    (tmp_path / "keys" / "vault").rename(tmp_path / "keys" / "lost")
    without = Vault(records, VaultKeys.load(Settings(data_dir=tmp_path)))
    with pytest.raises(UsageError, match=lost):
        await without.check()
    with pytest.raises(Unavailable):
        await without.get(SECRET, "a")
    await without.drop(SECRET, "gateway")
    await without.check()


@pytest.mark.requirement("vault:keys")
@pytest.mark.parametrize("text", ["", "short", base64.b64encode(b"31 bytes, which is one too few..").decode()[:-4]])
def test_what_is_no_key_is_refused_without_showing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("TEST_VAULT_KEY", text)
    settings = Settings(data_dir=tmp_path, auth=AuthSection(vault=VaultSection(key="env:TEST_VAULT_KEY")))
    with pytest.raises(UsageError) as refusal:
        VaultKeys.load(settings)
    assert not text or text not in str(refusal.value)


@pytest.mark.requirement("vault:keys")
def test_the_file_of_the_keys_is_its_owners_alone(tmp_path: Path, keys: VaultKeys) -> None:
    path = tmp_path / "keys" / "vault"
    assert path.stat().st_mode & 0o077 == 0
    keys.renew()
    assert path.stat().st_mode & 0o077 == 0
    path.chmod(0o644)
    with pytest.raises(GatewayError):
        VaultKeys.load(Settings(data_dir=tmp_path))
