"""Teams and accounts as administrators make, change and end them, over a store."""

from __future__ import annotations

from typing import Any

import pytest

from mcpgw.auth.access_tokens import NewToken
from mcpgw.auth.holders import holder_of_session
from mcpgw.auth.principals import Person
from mcpgw.auth.server.grants import holder_of
from mcpgw.auth.server.refusals import Refused
from mcpgw.domain import SYSTEM, Account, Kind
from mcpgw.errors import Conflict, InsufficientScope, InvalidParams, NotFound, Unauthenticated
from tests.auth.office import ADMIN, WRITER, Office
from tests.auth.parts import START, Identity

PROVIDER = "https://id.example"


@pytest.fixture
def office(identity: Identity) -> Office:
    return Office(identity)


def token_of(office: Office, account: Account, grant: str | None = "g-1", **changed: Any) -> str:
    new = {"endpoint": "/mcp", "scope": "mcp:use", "client_id": "https://app.example/client.json", "jti": "t-1"}
    made = NewToken(subject=account.id, grant=grant, ttl_s=900, **{**new, **changed})
    return office.identity.tokens.issue(made, office.clock.now)


# Accounts


@pytest.mark.requirement("principals:accounts")
async def test_an_account_is_created_shown_and_changed_and_each_change_is_noted(office: Office) -> None:
    await office.principals.create_team(ADMIN, "blue", "The blue ones")
    made = await office.account("ada", "a long password", team="blue", title="Ada", email="ada@example.com")
    shown = office.principals.show(made.id)
    assert (shown["principal"], shown["kind"], shown["roles"]) == ("mcpgw|ada", "user", ["agent"])
    assert (shown["team"], shown["title"], shown["email"], shown["has_password"]) == (
        "blue",
        "Ada",
        "ada@example.com",
        True,
    )
    note = await office.last_note()
    assert (note.actor, note.action, note.target, note.after) == ("mcpgw|root", "account.create", made.id, shown)
    changed = await office.principals.update(ADMIN, made.id, {"title": "Countess", "team": None, "roles": ["auditor"]})
    assert (changed["title"], changed["team"], changed["roles"], changed["email"]) == (
        "Countess",
        None,
        ["auditor"],
        "ada@example.com",
    )
    note = await office.last_note()
    assert (note.action, note.before, note.after) == ("account.update", shown, changed)
    assert office.principals.list() == {"principals": [changed], "after": None}
    with pytest.raises(NotFound):
        office.principals.show("nobody")
    with pytest.raises(Conflict, match="has an account"):
        await office.account("ada")


@pytest.mark.requirement("principals:accounts")
async def test_the_hash_of_a_password_reaches_no_note_no_list_and_no_representation(office: Office) -> None:
    made = await office.account("ada", "a long password")
    await office.principals.set_password(ADMIN, made.id, "another one, longer")
    state = await office.store.state()
    assert state.accounts[0].password == "hash of 19 characters"
    kept = repr([n for _, _, n in await office.store.notes(0, 100)]) + repr(office.principals.list()) + repr(state)
    assert "hash of" not in kept
    assert "long" not in kept.replace("another one", "")


@pytest.mark.requirement("principals:accounts")
@pytest.mark.parametrize(
    "facts",
    [
        {"subject": "a|b"},
        {"subject": "system"},
        {"subject": "bоb"},  # a Cyrillic о
        {"kind": Kind.ADMIN},
        {"kind": Kind.SYSTEM},
        {"kind": Kind.AGENT, "roles": frozenset({"auditor"})},
        {"kind": Kind.AGENT, "password": "a long password"},
        {"issuer": PROVIDER, "password": "a long password"},
        {"issuer": PROVIDER, "subject": "with blank"},
        {"issuer": "id.example"},
        {"issuer": "https://a|b"},
        {"roles": frozenset({"Admin"})},
        {"team": "red team"},
        {"title": "two\nlines"},
        {"title": "x" * 201},
        {"email": "nobody"},
        {"email": "a@b c"},
    ],
    ids=str,
)
async def test_an_account_that_makes_no_sense_is_refused(office: Office, facts: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams):
        await office.account(**{"subject": "ada", **facts})
    assert (await office.store.state()).accounts == ()


@pytest.mark.requirement("principals:escalation")
async def test_who_may_write_keys_makes_and_changes_nobody_who_may_more(office: Office) -> None:
    admin = await office.account("root", "a long password", roles=frozenset({"admin"}))
    plain = await office.account("ada", "a long password")
    await office.principals.deactivate(WRITER, plain.id, "left")
    for attempt in (
        office.principals.create(WRITER, Account(**{**_draft(), "roles": frozenset({"operator"})})),
        office.principals.update(WRITER, plain.id, {"roles": ["agent", "admin"]}),
        office.principals.update(WRITER, admin.id, {"title": "Mine"}),
        office.principals.set_password(WRITER, admin.id, "a password of mine"),
        office.principals.reactivate(WRITER, admin.id, "x"),
    ):
        with pytest.raises(InsufficientScope, match="do not hold"):
            await attempt
    await office.principals.reactivate(WRITER, plain.id, "back")
    with pytest.raises(InvalidParams, match="`password` of an account"):
        await office.principals.update(ADMIN, plain.id, {"password": "hash"})


def _draft() -> dict[str, Any]:
    return {
        "id": "chosen",
        "issuer": "mcpgw",
        "subject": "new",
        "kind": Kind.USER,
        "roles": frozenset({"agent"}),
        "created_by": "somebody",
        "created_at": 5.0,
        "deactivated_at": 6.0,
    }


@pytest.mark.requirement("principals:accounts")
async def test_id_creator_and_times_of_a_new_account_are_the_gateways_own(office: Office) -> None:
    made = await office.principals.create(ADMIN, Account(**_draft()))
    assert made["id"] != "chosen"
    assert (made["created_by"], made["created_at"], made["deactivated_at"]) == ("mcpgw|root", START, None)


@pytest.mark.requirement("principals:accounts")
async def test_accounts_are_listed_in_pages_and_found_by_each_of_their_names(office: Office) -> None:
    made = [await office.account(f"user-{n}", team="blue" if n % 2 else "red") for n in range(5)]
    eve = await office.account("user-0", issuer=PROVIDER)
    order = sorted(account.id for account in (*made, eve))
    seen: list[str] = []
    after: str | None = None
    while True:
        page = office.principals.list(after=after, limit=2)
        seen += [one["id"] for one in page["principals"]]
        after = page["after"]
        if after is None:
            break
    assert seen == order
    assert {one["id"] for one in office.principals.list("user-0")["principals"]} == {made[0].id, eve.id}
    for name in (eve.id, f"{PROVIDER}|user-0"):
        assert [one["id"] for one in office.principals.list(name)["principals"]] == [eve.id]
    assert len(office.principals.list(team="blue")["principals"]) == 2


# What an account may do


@pytest.mark.requirement("principals:roles-of-account")
async def test_a_person_may_be_an_administrator_and_use_tools_but_not_with_one_credential(office: Office) -> None:
    ada = await office.account("ada", "a long password", roles=frozenset({"agent", "operator"}))
    who = office.who(token_of(office, ada, scope="mcp:use llm:use audit:read kill:write"))
    assert (who.kind, who.scopes, who.roles) == (Kind.USER, {"mcp:use", "llm:use"}, {"agent", "operator"})
    admin = token_of(office, ada, endpoint="/admin/v1", scope="audit:read kill:write keys:write", jti="t-2")
    assert office.who(admin, "/admin/v1").scopes == {"audit:read", "kill:write"}
    session = holder_of_session(ada, START, office.worlds.current.identities)
    assert session.scopes == {"audit:read", "kill:write", "servers:write"}
    assert session.selector == "mcpgw|ada"


@pytest.mark.requirement("principals:roles-of-account")
async def test_keys_and_clients_of_an_account_hold_no_more_than_the_account_does_now(office: Office) -> None:
    ada = await office.account("ada", roles=frozenset({"admin", "editor"}), team="blue")
    key = await office.keys.create(ADMIN, "ada", {"admin"})
    assert "keys:write" in office.who(key["key"], "/admin/v1").scopes
    await office.keys.create(SYSTEM, "first", {"admin"})
    with pytest.raises(InvalidParams, match="does not have the role"):
        await office.keys.create(ADMIN, "ada", {"agent"})
    with pytest.raises(InvalidParams, match="is of team blue"):
        await office.keys.create(ADMIN, "ada", {"admin"}, "red")
    await office.principals.update(ADMIN, ada.id, {"roles": ["auditor", "agent"], "team": "green"})
    who = office.who(key["key"], "/admin/v1")
    assert (who.scopes, who.roles, who.team) == (frozenset(), frozenset(), "green")
    bot = await office.account("bot", kind=Kind.AGENT)
    client = await office.clients.create(ADMIN, None, "bot", {"agent"})
    token = office.identity.token(office.worlds.current.identities.clients[client["client_id"]])
    assert (office.who(token).account, office.who(token).kind) == (bot.id, Kind.AGENT)


@pytest.mark.requirement("principals:tokens")
async def test_a_users_token_makes_the_principal_of_their_account_with_what_both_allow(office: Office) -> None:
    eve = await office.account("0|eve", issuer=PROVIDER, team="blue", roles=frozenset({"agent", "editor"}))
    who = office.who(token_of(office, eve))
    assert (who.issuer, who.subject, who.selector) == (PROVIDER, "0|eve", f"{PROVIDER}|0|eve")
    assert (who.team, who.roles, who.scopes, who.grant) == ("blue", {"agent", "editor"}, {"mcp:use"}, "g-1")
    assert (who.account, who.client_id, who.credential) == (eve.id, "https://app.example/client.json", "t-1")
    await office.principals.update(ADMIN, eve.id, {"roles": ["editor"]})
    assert office.who(token_of(office, eve)).scopes == frozenset()
    assert "unknown or revoked" in office.refused(token_of(office, eve, client_id="nobody"))
    stranger = Account(**{**_draft(), "id": "not-here"})
    assert "another subject" in office.refused(token_of(office, stranger))


@pytest.mark.requirement("principals:tokens")
async def test_those_who_act_for_a_user_are_known_and_end_with_their_own_account(office: Office) -> None:
    ada = await office.account("ada")
    bot = await office.account("bot", kind=Kind.AGENT)
    act = {"iss": "mcpgw", "sub": "bot", "act": {"iss": PROVIDER, "sub": "first"}}
    token = token_of(office, ada, act=act)
    assert office.who(token).actors == ("mcpgw|bot", f"{PROVIDER}|first")
    await office.principals.deactivate(ADMIN, bot.id, "stolen")
    assert "deactivated" in office.refused(token)
    assert office.who(token_of(office, ada)).subject == "ada"


# The end


@pytest.mark.requirement("principals:deactivation")
async def test_a_deactivated_account_has_lost_everything_for_good(office: Office) -> None:
    ada = await office.account("ada", "a long password", roles=frozenset({"agent", "auditor"}))
    key = await office.keys.create(ADMIN, "ada", {"agent"})
    grant = await office.grants.begin(ada, "app", "/mcp", frozenset({"mcp:use"}))
    token = token_of(office, ada, grant=grant.id)
    assert office.who(key["key"]).account == office.who(token).account == ada.id
    office.clock.now += 10
    ended = await office.principals.deactivate(ADMIN, ada.id, "left")
    assert ended["deactivated_at"] == START + 10
    note = await office.last_note()
    assert office.dropped == [ada.id]
    assert await office.grants.of(ada.id) == []
    for credential in (key["key"], token):
        assert "revoked" in office.refused(credential)
    with pytest.raises(Unauthenticated):
        holder_of_session(ada, START, office.worlds.current.identities)
    with pytest.raises(Conflict, match="is deactivated"):
        await office.keys.create(ADMIN, "ada", {"agent"})
    office.clock.now += 10
    await office.principals.reactivate(ADMIN, ada.id, "back")
    for credential in (key["key"], token):
        assert "revoked" in office.refused(credential)
    fresh = await office.keys.create(ADMIN, "ada", {"agent"})
    assert office.who(fresh["key"]).account == ada.id
    assert office.who(token_of(office, ada, grant="g-2", jti="t-2")).account == ada.id
    notes = [(n.action, n.reason) for _, _, n in await office.store.notes(0, 100) if n.target == ada.id]
    assert ("account.deactivate", "left") in notes
    assert ("account.reactivate", "back") in notes
    assert note.target == ada.id


@pytest.mark.requirement("principals:deactivation")
async def test_a_deactivated_team_takes_all_of_its_members_with_it(office: Office) -> None:
    await office.principals.create_team(ADMIN, "blue", "Blue")
    ada = await office.account("ada", team="blue")
    bob = await office.account("bob", team="red")
    keys = {
        "of the account": await office.keys.create(ADMIN, "ada", {"agent"}),
        "of the team alone": await office.keys.create(ADMIN, "bot", {"agent"}, "blue"),
    }
    other = await office.keys.create(ADMIN, "bob", {"agent"})
    client = await office.clients.create(ADMIN, "ci", "ci", {"agent"}, "blue")
    row = office.worlds.current.identities.clients[client["client_id"]]
    grant = await office.grants.begin(ada, "app", "/mcp", frozenset({"mcp:use"}))
    tokens = [token_of(office, ada, grant=grant.id), office.identity.token(row)]
    office.clock.now += 10
    await office.principals.deactivate_team(ADMIN, "blue", "dissolved")
    for credential in (*(key["key"] for key in keys.values()), *tokens):
        assert "revoked" in office.refused(credential)
    assert office.who(other["key"]).account == bob.id
    assert office.dropped == [ada.id]
    with pytest.raises(Refused):
        holder_of(grant, office.worlds.current.identities)
    for attempt in (
        office.keys.create(ADMIN, "new", {"agent"}, "blue"),
        office.keys.create(ADMIN, "ada", {"agent"}),
        office.clients.create(ADMIN, "new", "new", {"agent"}, "blue"),
        office.account("new", team="blue"),
        office.principals.update(ADMIN, bob.id, {"team": "blue"}),
        office.principals.reactivate(ADMIN, ada.id, "x"),
    ):
        with pytest.raises(Conflict, match="team blue is deactivated"):
            await attempt
    office.clock.now += 10
    await office.principals.reactivate_team(ADMIN, "blue", "again")
    assert "revoked" in office.refused(keys["of the team alone"]["key"])
    fresh = office.identity.token(row)
    assert office.who(fresh).team == "blue", "a client is a registration, and gets new tokens"


@pytest.mark.requirement("principals:teams")
async def test_teams_are_described_and_named_once(office: Office) -> None:
    made = await office.principals.create_team(ADMIN, "blue", "Blue")
    await office.account("ada", team="blue")
    assert office.principals.teams() == [{**made, "accounts": 1}]
    assert (await office.principals.update_team(ADMIN, "blue", "Bluer"))["title"] == "Bluer"
    for attempt, error in (
        (office.principals.create_team(ADMIN, "blue"), Conflict),
        (office.principals.create_team(ADMIN, "red team"), InvalidParams),
        (office.principals.update_team(ADMIN, "red", "x"), NotFound),
        (office.principals.reactivate_team(ADMIN, "red", "x"), NotFound),
    ):
        with pytest.raises(error):
            await attempt
    ended = await office.principals.deactivate_team(ADMIN, "never-described", "in a hurry")
    assert ended["deactivated_at"] == START


@pytest.mark.requirement("principals:escalation")
async def test_a_team_of_administrators_is_let_in_again_by_those_alone_who_could_make_them(office: Office) -> None:
    await office.account("root", roles=frozenset({"admin"}), team="ops")
    await office.principals.deactivate_team(WRITER, "ops", "drill")
    with pytest.raises(InsufficientScope):
        await office.principals.reactivate_team(WRITER, "ops", "again")
    await office.principals.reactivate_team(ADMIN, "ops", "again")


@pytest.mark.requirement("principals:last-admin")
async def test_the_last_administrator_whom_the_gateway_itself_knows_stays(office: Office) -> None:
    """A user without a password, or of another provider, is nobody who could always come in."""
    root = await office.account("root", "a long password", roles=frozenset({"admin"}), team="ops")
    await office.account("0|eve", issuer=PROVIDER, roles=frozenset({"admin"}))
    key = await office.keys.create(SYSTEM, "ops-bot", {"admin"}, "ops")
    with pytest.raises(Conflict, match="last credential"):
        await office.principals.deactivate_team(ADMIN, "ops", "x")
    await office.keys.revoke(ADMIN, key["id"], "the user is left")
    for last in (
        office.principals.deactivate(ADMIN, root.id, "x"),
        office.principals.set_password(ADMIN, root.id, None),
        office.principals.update(ADMIN, root.id, {"roles": ["auditor"]}),
        office.principals.deactivate_team(ADMIN, "ops", "x"),
    ):
        with pytest.raises(Conflict, match="last credential"):
            await last
    assert office.dropped == []
    await office.keys.create(SYSTEM, "another", {"admin"})
    await office.principals.deactivate(ADMIN, root.id, "left")


# Who signs in elsewhere


@pytest.mark.requirement("principals:brokered")
async def test_a_person_of_an_identity_provider_gets_an_account_that_follows_what_is_said_of_them(
    office: Office,
) -> None:
    person = Person(issuer=PROVIDER, subject="0|eve", title="Eve\x1b[2J", email="eve@example.com", team="blue")
    made = await office.principals.signed_in(person)
    assert (made.kind, made.roles, made.title, made.team) == (Kind.USER, {"agent"}, "Eve[2J", "blue")
    before = len(await office.store.notes(0, 100))
    assert await office.principals.signed_in(person) == made
    assert len(await office.store.notes(0, 100)) == before, "nothing new, nothing written"
    promoted = await office.principals.signed_in(
        Person(issuer=PROVIDER, subject="0|eve", title="Eve", email="not an address", roles=frozenset({"auditor"}))
    )
    assert (promoted.id, promoted.roles, promoted.email, promoted.team) == (made.id, {"auditor"}, None, "blue")
    await office.principals.deactivate(ADMIN, made.id, "left")
    assert (await office.principals.signed_in(person)).deactivated_at is not None
    with pytest.raises(InvalidParams):
        await office.principals.signed_in(Person(issuer=PROVIDER, subject="with blank"))
