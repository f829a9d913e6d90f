"""Sessions of people in a browser, and the sealed values that their pages carry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mcpgw.auth.keys import digest
from mcpgw.auth.server.forms import ANYONE, LIFE_S, Forms
from mcpgw.auth.server.sessions import MOST, SESSION, BrowserSessions
from mcpgw.domain import Revocation, Team
from mcpgw.seals import Seals
from tests.auth.authorization_server import Server, a_user, serving
from tests.auth.parts import PEPPER, START

LIFE = 3600.0


def sessions_of(server: Server) -> BrowserSessions:
    return BrowserSessions(server.records, server.worlds, server.clock, PEPPER, LIFE)


@pytest.mark.requirement("front:sessions")
async def test_a_session_is_found_by_its_cookie_until_it_ends(tmp_path: Path) -> None:
    async with serving(tmp_path, ann := a_user()) as server:
        sessions = sessions_of(server)
        value = await sessions.begin(ann)
        found = await sessions.find(value)
        assert found is not None
        assert (found.account, found.who.selector, found.who.client_id) == (ann, "mcpgw|ann", "console")
        assert found.who.expires_at == START + LIFE
        for other in (None, "", value[:-1], value + "x", "x" * 100):
            assert await sessions.find(other) is None
        server.clock.now += LIFE
        assert await sessions.account(value) is None


@pytest.mark.requirement("front:sessions")
async def test_of_a_cookie_only_the_keyed_digest_is_kept(tmp_path: Path) -> None:
    async with serving(tmp_path, ann := a_user()) as server:
        value = await sessions_of(server).begin(ann)
        (record,) = await server.records.of(SESSION, ann.id)
        assert record.id == digest(PEPPER, f"session:{value}")
        assert value not in repr(record) and value.encode() not in record.body


@pytest.mark.requirement("front:sessions")
@pytest.mark.parametrize("how", ["sign-out", "account", "team", "revocation", "everywhere"])
async def test_a_session_ends_at_once_with_its_account_its_team_or_by_hand(tmp_path: Path, how: str) -> None:
    async with serving(tmp_path, ann := a_user(team="research"), bob := a_user("bob")) as server:
        sessions = sessions_of(server)
        value, others = await sessions.begin(ann), await sessions.begin(bob)
        server.clock.now += 5
        now = server.clock.now
        if how == "sign-out":
            await sessions.end(value)
        elif how == "everywhere":
            assert await sessions.end_all(ann) == 1
        else:
            await server.add(
                {
                    "account": replace(ann, deactivated_at=now),
                    "team": Team(name="research", title="", created_by="x", created_at=0.0, deactivated_at=now),
                    "revocation": Revocation("principal", "mcpgw|ann", now),
                }[how]
            )
        assert await sessions.find(value) is None
        assert await sessions.account(others) == bob


@pytest.mark.requirement("front:sessions")
async def test_a_session_has_an_administrators_scopes_at_most_and_those_of_now(tmp_path: Path) -> None:
    async with serving(tmp_path, ann := a_user(roles=frozenset({"agent", "admin"}))) as server:
        sessions = sessions_of(server)
        value = await sessions.begin(ann)
        found = await sessions.find(value)
        assert found is not None
        assert "keys:write" in found.who.scopes and "mcp:use" not in found.who.scopes
        await server.add(replace(ann, roles=frozenset({"agent", "auditor"})))
        found = await sessions.find(value)
        assert found is not None and found.who.scopes == {"audit:read"}


@pytest.mark.requirement("front:sessions")
async def test_of_too_many_sessions_the_oldest_makes_room(tmp_path: Path) -> None:
    async with serving(tmp_path, ann := a_user()) as server:
        sessions = sessions_of(server)
        values = []
        for _ in range(MOST + 1):
            values.append(await sessions.begin(ann))
            server.clock.now += 1
        assert await sessions.find(values[0]) is None
        assert all([await sessions.find(value) for value in values[1:]])


@pytest.mark.requirement("front:csrf")
async def test_what_a_page_carries_is_for_one_purpose_one_browser_and_a_few_minutes(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        forms = Forms(Seals(bytes(32), 0), server.records, server.clock)
        made = forms.made("consent", "cookie", "what was asked")
        assert forms.read("consent", "cookie", made, str) == "what was asked"
        for purpose, browser, text in (
            ("sign-in", "cookie", made),
            ("consent", "another", made),
            ("consent", None, made),
            ("consent", ANYONE, made),
            ("consent", "cookie", ""),
            ("consent", "cookie", made[:-2] + "AA"),
            ("consent", "cookie", "A" * 20_000),
            ("consent", "cookie", Forms(Seals(b"k" * 32, 0), server.records, server.clock).made("consent", "c", "x")),
        ):
            assert forms.read(purpose, browser, text, str) is None
        server.clock.now += LIFE_S
        assert forms.read("consent", "cookie", made, str) is None


@pytest.mark.requirement("front:csrf")
async def test_an_answer_counts_once_whichever_worker_gets_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        one = Forms(Seals(bytes(32), 0), server.records, server.clock)
        other = Forms(Seals(bytes(32), 1), server.records, server.clock)
        made = one.made("consent", "cookie", "yes")
        assert await other.take("consent", "cookie", made, str) == "yes"
        assert await one.take("consent", "cookie", made, str) is None
