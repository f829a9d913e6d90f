"""Keys and clients as administrators make and end them, over a store."""

from __future__ import annotations

from typing import Any

import pytest

from mcpgw.auth import keys
from mcpgw.auth.access_tokens import NewToken
from mcpgw.auth.holders import expired_at
from mcpgw.auth.service import KeysService
from mcpgw.domain import SYSTEM, KeyLimits, Kind, Principal, Revocation, State
from mcpgw.errors import Conflict, InsufficientScope, InvalidParams, NotFound
from tests.auth.office import ADMIN, Office
from tests.auth.parts import PEPPER, START, Identity


@pytest.fixture
def office(identity: Identity) -> Office:
    return Office(identity)


@pytest.mark.requirement("auth:key-life")
async def test_a_new_key_works_at_once_and_is_shown_once(office: Office) -> None:
    made = await office.keys.create(ADMIN, "bot", {"agent", "editor"}, "research", 3600)
    assert keys.well_formed(made["key"])
    assert (made["roles"], made["scopes"], made["expires_at"]) == (
        ["agent", "editor"],
        ["llm:use", "mcp:use"],
        START + 3600,
    )
    assert office.who(made["key"]).team == "research"
    (listed,) = office.keys.list()
    assert listed == {name: value for name, value in made.items() if name != "key"}
    note = await office.last_note()
    assert (note.actor, note.action, note.target) == ("mcpgw|root", "key.create", made["id"])
    assert note.after == listed


@pytest.mark.requirement("auth:key-storage")
async def test_no_secret_and_no_digest_reaches_a_note_or_a_list(office: Office) -> None:
    made = await office.keys.create(ADMIN, "bot", {"agent"})
    rotated = await office.keys.rotate(ADMIN, made["id"])
    client = await office.clients.create(ADMIN, None, "service", {"agent"})
    await office.keys.revoke(ADMIN, rotated["id"], "over")
    await office.clients.revoke(ADMIN, client["client_id"], "over")
    state = await office.store.state()
    kept = repr([n for _, _, n in await office.store.notes(0, 100)]) + repr(office.keys.list() + office.clients.list())
    texts = [made["key"], rotated["key"], client["client_secret"]]
    secrets = [*(text.rpartition("_")[2] for text in texts), *(row.digest for row in (*state.keys, *state.clients))]
    assert len(secrets) == 6
    assert not [secret for secret in secrets if secret in kept or secret in repr(state)]


@pytest.mark.requirement("auth:key-life")
async def test_a_revoked_key_is_refused_on_the_next_call_with_its_reason_in_the_record(office: Office) -> None:
    made = await office.keys.create(ADMIN, "bot", {"agent"})
    office.clock.now += 5
    revoked = await office.keys.revoke(ADMIN, made["id"], "lost laptop")
    assert revoked["revoked_at"] == START + 5
    assert office.refused(made["key"]) == "the API key is revoked"
    note = await office.last_note()
    assert (note.action, note.reason) == ("key.revoke", "lost laptop")
    office.clock.now += 5
    assert (await office.keys.revoke(ADMIN, made["id"], "again"))["revoked_at"] == START + 5
    with pytest.raises(NotFound):
        await office.keys.revoke(ADMIN, "unknown", "x")


@pytest.mark.requirement("auth:key-life")
async def test_rotation_ends_the_old_key_and_keeps_holder_roles_and_lifetime(office: Office) -> None:
    made = await office.keys.create(ADMIN, "bot", {"agent", "editor"}, "research", 3600)
    office.clock.now += 1000
    fresh = await office.keys.rotate(ADMIN, made["id"])
    assert office.refused(made["key"]) == "the API key is revoked"
    who = office.who(fresh["key"])
    assert (who.subject, who.team, who.roles) == ("bot", "research", {"agent", "editor"})
    assert (fresh["replaces"], fresh["expires_at"]) == (made["id"], START + 4600)
    with pytest.raises(Conflict, match="revoked"):
        await office.keys.rotate(ADMIN, made["id"])


@pytest.mark.requirement("auth:no-escalation")
async def test_nobody_grants_scopes_that_they_do_not_hold(office: Office) -> None:
    writer = Principal(
        issuer="mcpgw", subject="w", client_id="w", kind=Kind.ADMIN, scopes=frozenset({"keys:write", "audit:read"})
    )
    await office.keys.create(writer, "bot", {"agent"})
    await office.keys.create(writer, "reader", {"auditor"})
    for roles in ({"operator"}, {"admin"}, {"auditor", "operator"}):
        with pytest.raises(InsufficientScope) as refusal:
            await office.keys.create(writer, "more", roles)
        assert "kill:write" in refusal.value.data["scope"].split()
        with pytest.raises(InsufficientScope):
            await office.clients.create(writer, None, "more", roles)
    root = await office.keys.create(ADMIN, "root", {"admin"})
    with pytest.raises(InsufficientScope):
        await office.keys.rotate(writer, root["id"])
    assert len(office.keys.list()) == 3


@pytest.mark.requirement("auth:no-escalation")
async def test_the_gateway_itself_makes_the_first_administrator(office: Office) -> None:
    made = await office.keys.create(SYSTEM, "root", {"admin"})
    assert "keys:write" in office.who(made["key"], "/admin/v1").scopes


@pytest.mark.requirement("auth:no-escalation")
@pytest.mark.parametrize(
    "changed",
    [
        {"roles": {"agent", "admin"}},
        {"roles": set()},
        {"roles": {"Agent"}},
        {"subject": ""},
        {"subject": "system"},
        {"subject": "a|b"},
        {"subject": "bоt"},  # a Cyrillic о
        {"subject": "a\nb"},
        {"team": "red team"},
        {"expires_in_s": 0},
        {"expires_in_s": -1},
        {"expires_in_s": float("nan")},
        {"expires_in_s": 1e12},
    ],
    ids=str,
)
async def test_a_key_that_makes_no_sense_is_refused(office: Office, changed: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams):
        await office.keys.create(ADMIN, **{"subject": "bot", "roles": {"agent"}, **changed})
    assert (await office.store.state()).keys == ()


@pytest.mark.requirement("auth:last-admin")
async def test_the_last_administrator_cannot_be_ended_but_rotated(office: Office) -> None:
    root = await office.keys.create(SYSTEM, "root", {"admin"})
    await office.keys.create(ADMIN, "bot", {"agent"})
    office.clock.now += 10
    for attempt in (
        office.keys.revoke(ADMIN, root["id"], "x"),
        office.keys.revoke_before(ADMIN, "issuer", "mcpgw", START + 5, "x"),
        office.keys.revoke_before(ADMIN, "principal", "mcpgw|root", START + 5, "x"),
    ):
        with pytest.raises(Conflict, match="last credential"):
            await attempt
    fresh = await office.keys.rotate(ADMIN, root["id"])
    second = await office.clients.create(ADMIN, "ops", "ops", {"admin"})
    await office.keys.revoke(ADMIN, fresh["id"], "the client is left")
    with pytest.raises(Conflict, match="last credential"):
        await office.clients.revoke(ADMIN, second["client_id"], "x")


@pytest.mark.requirement("auth:key-life")
async def test_a_client_is_made_named_and_ended(office: Office) -> None:
    made = await office.clients.create(ADMIN, None, "service", {"agent"}, "research")
    assert made["client_id"].startswith("client-")
    assert keys.well_formed(made["client_secret"])
    named = await office.clients.create(ADMIN, "billing", "billing", {"agent"})
    with pytest.raises(Conflict, match="billing exists"):
        await office.clients.create(ADMIN, "billing", "other", {"agent"})
    with pytest.raises(InvalidParams):
        await office.clients.create(ADMIN, "a b", "other", {"agent"})
    row = office.worlds.current.identities.clients["billing"]
    token = office.identity.token(row)
    assert office.who(token).client_id == "billing"
    await office.clients.revoke(ADMIN, named["client_id"], "gone")
    office.refused(token)
    with pytest.raises(Conflict):
        await office.clients.create(ADMIN, "billing", "billing", {"agent"})
    with pytest.raises(NotFound):
        await office.clients.revoke(ADMIN, "nobody")


@pytest.mark.requirement("auth:key-life")
async def test_a_moment_of_revocation_only_moves_forward(office: Office) -> None:
    made = await office.keys.create(ADMIN, "bot", {"agent"})
    office.clock.now += 100
    assert (await office.keys.revoke_before(ADMIN, "principal", "mcpgw|bot", START + 50, "stolen"))["not_before"]
    assert office.refused(made["key"]) == "the API key is revoked"
    await office.keys.revoke_before(ADMIN, "principal", "mcpgw|bot", START - 50, "clumsy")
    office.refused(made["key"])
    assert (await office.store.state()).revocations == (Revocation("principal", "mcpgw|bot", START + 50),)
    for kind, selector, moment in (
        ("server", "x", START),
        ("client", "", START),
        ("principal", "bot", START),
        ("client", "x", START + 101),
        ("client", "x", float("nan")),
    ):
        with pytest.raises(InvalidParams):
            await office.keys.revoke_before(ADMIN, kind, selector, moment, "x")


@pytest.mark.requirement("auth:key-life")
async def test_a_change_that_comes_between_is_not_lost(office: Office) -> None:
    """A revocation slips in while a rotation of the same key is being decided: the key stays ended, with no heir."""
    made = await office.keys.create(ADMIN, "bot", {"agent"})
    read = office.store.state

    async def read_then_revoke() -> State:
        state = await read()
        office.store.state = read
        await KeysService(office.store, office.worlds, office.clock, PEPPER).revoke(ADMIN, made["id"], "stolen")
        return state

    office.store.state = read_then_revoke
    with pytest.raises(Conflict, match="revoked"):
        await office.keys.rotate(ADMIN, made["id"])
    assert len(office.keys.list()) == 1


# What narrows a key


@pytest.mark.requirement("keys:scopes")
async def test_a_key_has_of_its_roles_the_scopes_that_it_was_made_for(office: Office) -> None:
    made = await office.keys.create(ADMIN, "bot", {"agent"}, limits=KeyLimits(scopes=frozenset({"mcp:use"})))
    assert made["scopes"] == ["mcp:use"]
    assert office.who(made["key"]).scopes == {"mcp:use"}
    for roles, scopes in (({"agent"}, {"audit:read"}), ({"agent"}, set()), ({"auditor"}, {"audit:read", "mcp:use"})):
        with pytest.raises(InvalidParams, match="its roles do not carry"):
            await office.keys.create(ADMIN, "bot", roles, limits=KeyLimits(scopes=frozenset(scopes)))


@pytest.mark.requirement("keys:references")
async def test_a_key_names_servers_that_are_there_and_limits_that_mean_something(office: Office) -> None:
    await office.register("notes")
    limits = KeyLimits(servers=frozenset({"notes"}), calls_per_minute=5, concurrent=2)
    made = await office.keys.create(ADMIN, "bot", {"agent"}, limits=limits)
    assert (made["servers"], made["calls_per_minute"], made["concurrent"]) == (["notes"], 5, 2)
    who = office.who(made["key"])
    assert (who.servers, who.calls_per_minute, who.concurrent) == ({"notes"}, 5, 2)
    for wrong in (
        KeyLimits(servers=frozenset({"nots"})),
        KeyLimits(servers=frozenset()),
        KeyLimits(calls_per_minute=0),
        KeyLimits(concurrent=10_001),
    ):
        with pytest.raises(InvalidParams):
            await office.keys.create(ADMIN, "bot", {"agent"}, limits=wrong)


# Rotation with overlap


@pytest.mark.requirement("keys:overlap")
async def test_a_key_rotated_with_overlap_lives_on_for_that_long_beside_its_heir(office: Office) -> None:
    await office.register("notes")
    limits = KeyLimits(scopes=frozenset({"mcp:use"}), servers=frozenset({"notes"}), calls_per_minute=7, concurrent=3)
    made = await office.keys.create(ADMIN, "bot", {"agent"}, None, 3600, limits)
    office.clock.now += 100
    fresh = await office.keys.rotate(ADMIN, made["id"], 60)
    assert (fresh["replaces"], fresh["expires_at"]) == (made["id"], START + 3700)
    for name in ("scopes", "servers", "calls_per_minute", "concurrent", "roles", "subject"):
        assert fresh[name] == made[name]
    office.clock.now += 59.9
    assert office.who(made["key"]).subject == office.who(fresh["key"]).subject == "bot"
    with pytest.raises(Conflict, match="replaced already"):
        await office.keys.rotate(ADMIN, made["id"])
    office.clock.now += 0.1
    assert office.refused(made["key"]) == "the API key has expired"
    assert office.who(fresh["key"]).credential == fresh["id"]


@pytest.mark.requirement("keys:overlap")
async def test_overlap_never_lengthens_the_life_of_a_key(office: Office) -> None:
    made = await office.keys.create(ADMIN, "bot", {"agent"}, None, 30)
    await office.keys.rotate(ADMIN, made["id"], 3600)
    office.clock.now += 30
    office.refused(made["key"])
    for overlap_s in (-1.0, float("nan"), 1e9):
        with pytest.raises(InvalidParams):
            await office.keys.rotate(ADMIN, made["id"], overlap_s)


@pytest.mark.requirement("keys:overlap", "principals:cut")
async def test_a_call_that_runs_on_the_old_key_ends_with_it(office: Office) -> None:
    made = await office.keys.create(ADMIN, "bot", {"agent"})
    who = office.who(made["key"])
    await office.keys.rotate(ADMIN, made["id"], 60)
    identities = office.worlds.current.identities
    assert expired_at(START + 59, who, identities) is None
    assert expired_at(START + 60, who, identities) is not None


@pytest.mark.requirement("auth:key-life")
@pytest.mark.parametrize("kind", ["principal", "team", "client", "issuer", "grant", "token"])
async def test_what_was_issued_before_a_time_is_void_by_whatever_names_it(office: Office, kind: str) -> None:
    await office.keys.create(SYSTEM, "root", {"admin"})
    ada = await office.account("ada", team="blue")
    app = "https://app.example/"
    new = NewToken(subject=ada.id, client_id=app, endpoint="/mcp", scope="mcp:use", jti="t", ttl_s=900, grant="g")
    token = office.identity.tokens.issue(new, office.clock.now)
    selector = {"principal": "mcpgw|ada", "team": "blue", "client": app, "grant": "g", "token": "t"}
    office.clock.now += 10
    other = await office.keys.create(SYSTEM, "root", {"admin"})
    await office.keys.revoke_before(ADMIN, kind, selector.get(kind, "mcpgw"), START + 1, "drill")
    assert "revoked" in office.refused(token)
    assert office.who(other["key"], "/admin/v1").subject == "root"
    assert office.keys.revocations()[0]["kind"] == kind
