"""What our authorization server gives out and refuses, as the log has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from mcpgw.audit.auth_log import JournalAuthLog
from mcpgw.audit.journal import SlotJournal
from mcpgw.errors import Unavailable
from tests.audit.parts import SMALL, SetClock, a_journal, records, world

APP = "https://app.example/client.json"


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def journal(tmp_path: Path, clock: SetClock) -> Iterator[SlotJournal]:
    held = a_journal(tmp_path, clock, SMALL.model_copy(update={"refusals_per_s": 3}))
    yield held
    held.close()


@pytest.fixture
def log(journal: SlotJournal, clock: SetClock) -> JournalAuthLog:
    return JournalAuthLog(journal, SimpleNamespace(current=world(12)), clock)


@pytest.mark.requirement("as:audit")
async def test_a_token_and_a_refusal_are_one_record_each(tmp_path: Path, log: JournalAuthLog) -> None:
    await log.record("token", principal="mcpgw|ann", client_id=APP, source="192.0.2.1", detail={"scope": "mcp:use"})
    await log.record("token", "invalid_grant", client_id=APP, detail={"reason": "the code was presented before"})
    issued, refused = records(tmp_path)
    assert (issued["phase"], issued["route"], issued["verb"], issued["epoch"]) == ("auth", "auth", "token", 12)
    assert (issued["outcome"], issued["principal"], issued["client_id"]) == ("ok", "mcpgw|ann", APP)
    assert (issued["source_ip"], issued["facts"]) == ("192.0.2.1", {"scope": "mcp:use"})
    assert refused["client_id"] == APP
    assert (refused["phase"], refused["outcome"]) == ("refused", "invalid_grant")
    assert refused["facts"] == {"reason": "the code was presented before"}


@pytest.mark.requirement("as:audit")
async def test_what_a_stranger_calls_themselves_is_not_written_down(tmp_path: Path, log: JournalAuthLog) -> None:
    """It may be a secret in the wrong field."""
    await log.record("token", "invalid_client", client_id="mcpgw_client_secret", detail={"reason": "no"})
    assert "client_id" not in records(tmp_path)[0]


@pytest.mark.requirement("as:audit")
async def test_strangers_cannot_fill_the_log(tmp_path: Path, journal: SlotJournal, log: JournalAuthLog) -> None:
    for _ in range(20):
        await log.record("token", "invalid_client", client_id="guess", detail={"reason": "no"})
    await log.record("consent", "access_denied", principal="mcpgw|ann", detail={"reason": "said no"})
    assert [record["outcome"] for record in records(tmp_path)] == [*["invalid_client"] * 3, "access_denied"]
    journal.close()
    assert records(tmp_path)[-1]["facts"] == {"refusals": 17}


@pytest.mark.requirement("as:audit")
async def test_what_cannot_be_recorded_is_not_given_out(journal: SlotJournal, log: JournalAuthLog) -> None:
    journal.slot.close()
    with pytest.raises(Unavailable):
        await log.record("token", principal="mcpgw|ann", client_id=APP)
    await log.record("token", "invalid_client", detail={"reason": "no"})  # a refusal is a refusal all the same
