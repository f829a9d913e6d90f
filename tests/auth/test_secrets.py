"""Named secrets, as administrators set them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcpgw.auth.secrets import SecretsService
from mcpgw.auth.upstream.static import References
from mcpgw.auth.vault import Vault
from mcpgw.auth.vault_keys import VaultKeys
from mcpgw.config import Settings
from mcpgw.domain import SYSTEM
from mcpgw.errors import InvalidParams, NotFound, Unavailable
from mcpgw.store.memory import MemoryStore
from mcpgw.store.records import MemoryRecords
from tests.auth.parts import SettableClock, StoreWorlds

URL = "https://tools.example/mcp"

pytestmark = pytest.mark.requirement("vault:named")


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def vault(tmp_path: Path) -> AsyncIterator[Vault]:
    yield Vault(MemoryRecords(SettableClock()), VaultKeys.load(Settings(data_dir=tmp_path)))


@pytest.fixture
async def service(store: MemoryStore, vault: Vault) -> SecretsService:
    return SecretsService(vault, store, StoreWorlds(store), SettableClock())


async def test_a_secret_is_used_by_its_name_and_shown_to_nobody(
    service: SecretsService, store: MemoryStore, vault: Vault
) -> None:
    made = await service.put(
        SYSTEM, "tools", "canary-1", [URL, "http://127.0.0.1:8000/mcp", "https://tools.example:443"]
    )
    assert made == {"name": "tools", "origins": ["http://127.0.0.1:8000", "https://tools.example"]}
    assert await service.names() == [made]
    assert await References(vault).value("vault:tools", URL) == "canary-1"
    notes = [note for _, _, note in await store.notes(0, 10)]
    assert [(note.action, note.target) for note in notes] == [("secrets.set", "tools")]
    assert "canary" not in repr(notes)


async def test_each_change_is_a_new_epoch_so_that_later_calls_are_sent_with_it(
    service: SecretsService, store: MemoryStore, vault: Vault
) -> None:
    references, fields = References(vault), {"x-key": "vault:tools"}
    seen = []
    for value in ("one", "two"):
        await service.put(SYSTEM, "tools", value, [URL])
        epoch = (await store.state()).epoch
        seen.append((await references.headers("place", fields, epoch, URL))["x-key"])
    assert seen == ["one", "two"]
    await service.remove(SYSTEM, "tools")
    with pytest.raises(Unavailable):
        await references.headers("place", fields, (await store.state()).epoch, URL)
    with pytest.raises(NotFound):
        await service.remove(SYSTEM, "tools")


@pytest.mark.parametrize(
    ("name", "value", "urls"),
    [
        ("", "v", [URL]),
        ("Tools", "v", [URL]),
        ("../tools", "v", [URL]),
        ("a" * 65, "v", [URL]),
        ("tools", "", [URL]),
        ("tools", "two\nlines", [URL]),
        ("tools", "v" * 16_385, [URL]),
        ("tools", "canary", []),
        ("tools", "canary", ["tools.example"]),
        ("tools", "canary", ["ftp://tools.example"]),
        ("tools", "canary", ["https://user@tools.example"]),
        ("tools", "canary", ["https://tools.example:99999"]),
    ],
)
async def test_what_is_no_name_secret_or_origin_is_refused_without_showing_it(
    service: SecretsService, name: str, value: str, urls: list[str]
) -> None:
    with pytest.raises(InvalidParams) as refusal:
        await service.put(SYSTEM, name, value, urls)
    assert "canary" not in str(refusal.value)
    assert await service.names() == []
