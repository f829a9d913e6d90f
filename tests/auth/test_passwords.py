"""Passwords: how they are kept, how long a look takes, and how few looks there are at once."""

from __future__ import annotations

import re
import statistics
import time

import anyio
import pytest

from mcpgw.auth.holders import ISSUER
from mcpgw.auth.server.local_users import LocalUsers
from mcpgw.auth.server.passwords import AT_ONCE, WAITING, Passwords
from mcpgw.domain import Account, Kind, State, Team
from mcpgw.errors import InvalidParams, RateLimited, Unauthenticated
from mcpgw.store.memory import MemoryStore
from tests.auth.authorization_server import Log
from tests.auth.parts import START, SettableClock, StoreWorlds, world_of

GOOD = "correct horse battery"


@pytest.fixture(scope="module")
def passwords() -> Passwords:
    return Passwords()


async def an_account(passwords: Passwords, subject: str = "ann", **facts: object) -> Account:
    return Account(
        id=f"account-{subject}",
        issuer=ISSUER,
        subject=subject,
        kind=Kind.USER,
        roles=frozenset({"agent"}),
        created_by="mcpgw|root",
        created_at=START,
        password=await passwords.hashed(GOOD),
        **facts,
    )


class House:
    """Local users over one state."""

    def __init__(self, passwords: Passwords, *accounts: Account, teams: tuple[Team, ...] = ()) -> None:
        self.clock = SettableClock()
        self.log = Log()
        self.worlds = StoreWorlds(MemoryStore())
        self.worlds.current = world_of(State(epoch=2, accounts=accounts, teams=teams))
        self.users = LocalUsers(self.worlds, passwords, self.clock, self.log)

    async def refused(self, name: str, password: str, source: str = "192.0.2.1") -> str:
        with pytest.raises(Unauthenticated) as refusal:
            await self.users.recognised(name, password, source)
        return str(refusal.value)


@pytest.mark.requirement("front:passwords")
async def test_a_password_is_kept_as_argon2id_with_a_salt_of_its_own(passwords: Passwords) -> None:
    one, other = await passwords.hashed(GOOD), await passwords.hashed(GOOD)
    assert re.fullmatch(r"\$argon2id\$v=19\$m=65536,t=3,p=4\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}", one)
    assert one != other
    assert await passwords.fits(one, GOOD)
    assert not await passwords.fits(one, GOOD + "!")
    assert not await passwords.fits("not a hash", GOOD)


@pytest.mark.requirement("front:passwords")
async def test_the_same_letters_from_another_keyboard_are_the_same_password(passwords: Passwords) -> None:
    composed, decomposed = "caf\u00e9 au lait, s'il vous pla\u00eet", "cafe\u0301 au lait, s'il vous plai\u0302t"
    assert await passwords.fits(await passwords.hashed(composed), decomposed)


@pytest.mark.requirement("front:passwords")
@pytest.mark.parametrize("password", ["", "short", "elevenchars", "aaaaaaaaaaaaaaaa", "x" * 2000])
async def test_a_password_that_is_guessed_at_once_cannot_be_set(passwords: Passwords, password: str) -> None:
    with pytest.raises(InvalidParams) as refusal:
        await passwords.hashed(password)
    assert not password or password not in str(refusal.value)


@pytest.mark.requirement("front:passwords")
async def test_few_are_looked_at_together_and_few_wait(passwords: Passwords) -> None:
    hashed = await passwords.hashed(GOOD)
    outcomes: list[bool] = []

    async def look() -> None:
        try:
            outcomes.append(await passwords.fits(hashed, GOOD))
        except RateLimited:
            outcomes.append(False)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(AT_ONCE + WAITING + 5):
                tasks.start_soon(look)
    assert (outcomes.count(True), outcomes.count(False)) == (AT_ONCE + WAITING, 5)
    assert await passwords.fits(hashed, GOOD)


@pytest.mark.requirement("front:unknown-user")
async def test_an_unknown_user_takes_as_long_as_a_wrong_password(passwords: Passwords) -> None:
    hashed = await passwords.hashed(GOOD)

    async def took(held: str | None) -> float:
        began = time.process_time()  # the work itself, however busy the machine is
        assert not await passwords.fits(held, "wrong horse battery")
        return time.process_time() - began

    known = statistics.median([await took(hashed) for _ in range(5)])
    unknown = statistics.median([await took(None) for _ in range(5)])
    assert known / 2 < unknown < known * 2


@pytest.mark.requirement("front:unknown-user")
async def test_unknown_wrong_deactivated_and_agent_are_one_answer(passwords: Passwords) -> None:
    team = Team(name="left", title="", created_by="mcpgw|root", created_at=START, deactivated_at=START)
    house = House(
        passwords,
        await an_account(passwords),
        await an_account(passwords, "gone", deactivated_at=START),
        await an_account(passwords, "apart", team="left"),
        teams=(team,),
    )
    assert (await house.users.recognised("ann", GOOD, "192.0.2.1")).subject == "ann"
    answers = {
        await house.refused("ann", "wrong horse battery"),
        await house.refused("nobody", GOOD),
        await house.refused("gone", GOOD),
        await house.refused("apart", GOOD),
    }
    assert len(answers) == 1
    assert {(e.event, e.outcome, e.principal) for e in house.log.entries} == {("sign_in", "access_denied", None)}
    assert GOOD not in repr(house.log.entries)


@pytest.mark.requirement("front:backoff")
async def test_who_fails_five_times_waits_and_others_do_not(passwords: Passwords) -> None:
    house = House(passwords, await an_account(passwords))
    for _ in range(5):
        await house.refused("ann", "wrong horse battery")
    with pytest.raises(RateLimited) as refusal:
        await house.users.recognised("ann", GOOD, "192.0.2.1")
    assert refusal.value.data == {"retry_after_s": 1}
    assert house.log.entries[-1].outcome == "rate_limited"
    assert await house.users.recognised("ann", GOOD, "192.0.2.2")
    house.clock.now += 1.0
    assert await house.users.recognised("ann", GOOD, "192.0.2.1")
