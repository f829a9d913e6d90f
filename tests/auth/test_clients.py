"""OAuth clients as administrators make them: what fits together, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from mcpgw.auth import keys
from mcpgw.domain import SYSTEM, ClientTerms
from mcpgw.errors import Conflict, InvalidParams
from tests.auth.office import ADMIN, WRITER, Office
from tests.auth.parts import Identity

KEYS = {"keys": [{"kty": "EC", "crv": "P-256", "x": "x", "y": "y"}]}
CODE = frozenset({"authorization_code", "refresh_token"})
HOME = ("https://app.example/callback", "http://127.0.0.1/callback")


@pytest.fixture
def office(identity: Identity) -> Office:
    return Office(identity)


@pytest.mark.requirement("principals:clients")
async def test_a_client_of_users_alone_is_nobody_itself(office: Office) -> None:
    terms = ClientTerms(title="The app", grants=CODE, auth_method="none", redirect_uris=HOME)
    made = await office.clients.create(ADMIN, "app", terms=terms)
    assert "client_secret" not in made
    assert (made["subject"], made["roles"], made["scopes"]) == ("", [], [])
    assert (made["grants"], made["redirect_uris"], made["title"]) == (sorted(CODE), list(HOME), "The app")
    assert office.worlds.current.identities.clients["app"].digest == ""


@pytest.mark.requirement("principals:clients")
async def test_a_client_that_signs_has_public_keys_and_no_secret(office: Office) -> None:
    terms = ClientTerms(auth_method="private_key_jwt", jwks=KEYS, scopes=frozenset({"mcp:use"}))
    made = await office.clients.create(WRITER, "ci", "ci", {"agent"}, terms=terms)
    assert "client_secret" not in made
    assert (made["jwks"], made["scopes"]) == (KEYS, ["mcp:use"])
    token = office.identity.token(office.worlds.current.identities.clients["ci"], scope="mcp:use llm:use")
    assert office.who(token).scopes == {"mcp:use"}


@pytest.mark.requirement("principals:clients")
async def test_a_client_with_a_secret_is_shown_it_once(office: Office) -> None:
    both = ClientTerms(grants=CODE | {"client_credentials"}, redirect_uris=HOME)
    made = await office.clients.create(ADMIN, "both", "both", {"agent"}, terms=both)
    assert keys.well_formed(made["client_secret"])
    assert made["client_secret"] not in repr(office.clients.list())


@pytest.mark.requirement("principals:clients")
@pytest.mark.parametrize(
    "changed",
    [
        {"subject": "", "roles": ()},
        {"subject": "bot", "roles": ()},
        {"grants": frozenset()},
        {"grants": frozenset({"password"})},
        {"grants": frozenset({"implicit"}), "redirect_uris": HOME},
        {"auth_method": "none"},
        {"auth_method": "tls_client_auth"},
        {"auth_method": "private_key_jwt"},
        {"auth_method": "private_key_jwt", "jwks": {"keys": []}},
        {"auth_method": "private_key_jwt", "jwks": {"keys": [{"kty": "oct", "k": "secret"}]}},
        {"auth_method": "private_key_jwt", "jwks": {"keys": [{**KEYS["keys"][0], "d": "private"}]}},
        {"auth_method": "private_key_jwt", "jwks": KEYS, "jwks_uri": "https://app.example/jwks"},
        {"auth_method": "private_key_jwt", "jwks_uri": "ftp://app.example/jwks"},
        {"jwks": KEYS},
        {"redirect_uris": HOME},
        {"grants": CODE},
        {"grants": CODE, "redirect_uris": ("http://app.example/callback",)},
        {"grants": CODE, "redirect_uris": ("https://app.example/callback#fragment",)},
        {"grants": CODE, "redirect_uris": ("javascript:alert(1)",)},
        {"grants": CODE, "redirect_uris": ("https://user@app.example/",)},
        {"grants": CODE, "redirect_uris": tuple(f"https://app.example/{n}" for n in range(17))},
        {"scopes": frozenset({"audit:read"})},
        {"scopes": frozenset()},
        {"title": "say\u202eyas"},
    ],
    ids=str,
)
async def test_terms_that_do_not_fit_together_are_refused(office: Office, changed: dict[str, Any]) -> None:
    who = {"subject": "bot", "roles": {"agent"}} | {n: v for n, v in changed.items() if n in {"subject", "roles"}}
    terms = ClientTerms(**{n: v for n, v in changed.items() if n not in who})
    with pytest.raises(InvalidParams):
        await office.clients.create(ADMIN, "ci", **who, terms=terms)
    assert office.clients.list() == []


@pytest.mark.requirement("principals:last-admin")
async def test_a_client_that_cannot_write_keys_for_itself_is_no_last_administrator(office: Office) -> None:
    root = await office.keys.create(SYSTEM, "root", {"admin"})
    narrow = ClientTerms(scopes=frozenset({"audit:read"}))
    of_users = ClientTerms(grants=CODE, redirect_uris=HOME)
    await office.clients.create(ADMIN, "narrow", "narrow", {"admin"}, terms=narrow)
    await office.clients.create(ADMIN, "of-users", "of-users", {"admin"}, terms=of_users)
    with pytest.raises(Conflict, match="last credential"):
        await office.keys.revoke(ADMIN, root["id"], "x")
    await office.clients.create(ADMIN, "ops", "ops", {"admin"})
    await office.keys.revoke(ADMIN, root["id"], "the client is left")
