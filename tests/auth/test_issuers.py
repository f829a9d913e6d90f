"""Access tokens of other issuers: whose keys, for which endpoint, in whose name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from mcpgw.auth.access_tokens import AccessTokens
from mcpgw.auth.claims import Reading
from mcpgw.auth.endpoints import Endpoints
from mcpgw.auth.fetch import AT_ONCE, Fetcher
from mcpgw.auth.issuers import Issuers
from mcpgw.auth.jwks import DEFAULT_FRESH_S, MAX_FRESH_S, MAX_STALE_S, MIN_FRESH_S, RETRY_S, fresh_s, keys_of
from mcpgw.auth.signing import SigningKeys
from mcpgw.auth.verifier import Verifier
from mcpgw.auth_section import AuthSection
from mcpgw.domain import Account, Kind, Presented, Principal, Revocation, State, Team
from mcpgw.errors import FetchFailed, GatewayError, Unauthenticated, Unavailable, UsageError
from mcpgw.issuer_section import IssuerSection
from mcpgw.ports import World
from tests.auth.parts import BASE, PEPPER, START, SettableClock, outcome, world, world_of
from tests.auth.provider import CLIENT_SECRET, Provider, b64, key_of, public, serving

MCP = "/mcp"
AUDIENCE = f"{BASE}/mcp"


@dataclass
class Trusting:
    """A gateway that trusts issuers, on a clock that can be set."""

    clock: SettableClock
    issuers: Issuers
    verifier: Verifier

    @classmethod
    def of(cls, signing: SigningKeys, *sections: IssuerSection) -> Trusting:
        clock, endpoints = SettableClock(), Endpoints(BASE)
        issuers = Issuers(sections, endpoints, Fetcher((), allow_loopback=True, per_host=AT_ONCE), clock)
        tokens = AccessTokens(signing, endpoints)
        verifier = Verifier(pepper=PEPPER, tokens=tokens, endpoints=endpoints, clock=clock, issuers=issuers)
        return cls(clock, issuers, verifier)

    async def who(self, token: str, resource: str = MCP, now: World | None = None) -> Principal:
        return await self.verifier.verify(Presented(scheme="bearer", token=token), resource, now or world())

    async def refused(self, token: str, resource: str = MCP, now: World | None = None) -> str:
        with pytest.raises(Unauthenticated) as refusal:
            await self.who(token, resource, now)
        return refusal.value.message


@pytest.fixture(scope="module")
def signing() -> SigningKeys:
    key = key_of("ES256", 99)
    return SigningKeys(key)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def provider(stack: ExitStack) -> Provider:
    return stack.enter_context(serving(Provider()))


def section(provider: Provider, **given: Any) -> IssuerSection:
    return IssuerSection.model_validate({"issuer": provider.issuer, **given})


@pytest.fixture
def trusting(provider: Provider, signing: SigningKeys) -> Trusting:
    return Trusting.of(signing, section(provider))


def good(provider: Provider, trusting: Trusting, **changed: Any) -> str:
    return provider.token(provider.claims(AUDIENCE, trusting.clock.now, **changed))


@pytest.mark.requirement("issuer:admitted")
@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "Ed25519"])
async def test_a_token_of_a_configured_issuer_counts_for_its_endpoint(
    algorithm: str, stack: ExitStack, signing: SigningKeys
) -> None:
    provider = stack.enter_context(serving(Provider(algorithm=algorithm)))
    trusting = Trusting.of(signing, section(provider))
    who = await trusting.who(good(provider, trusting), "/mcp/notes")
    assert who == Principal(
        issuer=provider.issuer,
        subject="alice",
        client_id="app",
        kind=Kind.USER,
        roles=frozenset({"agent"}),
        scopes=frozenset({"mcp:use"}),
        credential="jti-of-alice",
        issued_at=START,
        expires_at=START + 600,
    )


@pytest.mark.requirement("issuer:admitted")
@pytest.mark.parametrize("path", ["", "/tenant/a"])
async def test_an_issuer_is_discovered_by_either_kind_of_metadata(
    path: str, stack: ExitStack, signing: SigningKeys
) -> None:
    provider = stack.enter_context(serving(Provider(path=path)))
    trusting = Trusting.of(signing, section(provider))
    await trusting.who(good(provider, trusting))
    openid = stack.enter_context(serving(Provider(path=path)))
    metadata = {"issuer": openid.issuer, "jwks_uri": f"{openid.base}/jwks"}
    openid.answers[f"{path}/.well-known/openid-configuration"] = (200, json.dumps(metadata).encode())
    for other in ((404, b"{}"), (200, b"<html>"), (200, b'{"issuer": "https://other.example"}')):
        openid.answers[f"/.well-known/oauth-authorization-server{path}"] = other
        trusting = Trusting.of(signing, section(openid))
        await trusting.who(good(openid, trusting))


@pytest.mark.requirement("issuer:metadata")
async def test_metadata_that_name_another_issuer_name_nobodys_keys(provider: Provider, trusting: Trusting) -> None:
    for name in (provider.issuer + "/", provider.issuer.upper(), "https://other.example"):
        metadata = {"issuer": name, "jwks_uri": f"{provider.base}/jwks"}
        provider.answers["/.well-known/oauth-authorization-server"] = (200, json.dumps(metadata).encode())
        trusting.clock.now += RETRY_S
        with pytest.raises(Unavailable):
            await trusting.who(good(provider, trusting))
    assert provider.asked["/jwks"] == 0


@pytest.mark.requirement("token:hot")
async def test_a_token_that_is_known_waits_for_nothing(provider: Provider, trusting: Trusting) -> None:
    token = good(provider, trusting)
    who = await trusting.who(token)
    for now in (world(), world(epoch=2)):
        assert outcome(trusting.verifier.verify(Presented(scheme="bearer", token=token), MCP, now)) == who
    assert provider.asked["/jwks"] == 1


@pytest.mark.requirement("token:table")
async def test_two_tokens_that_begin_alike_are_two_tokens(provider: Provider, trusting: Trusting) -> None:
    first, second = (good(provider, trusting, z_last=name, sub="alice" if name == "a" else "alicf") for name in "ab")
    alike = next(place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    assert alike > 128
    assert [(await trusting.who(token)).subject for token in (first, second, first)] == ["alice", "alicf", "alice"]
    await trusting.refused(first[:alike] + second[alike:].rpartition(".")[0] + "." + first.rpartition(".")[2])


# Keys


@pytest.mark.requirement("issuer:keys")
async def test_many_new_tokens_at_once_fetch_the_keys_once(provider: Provider, trusting: Trusting) -> None:
    tokens = [good(provider, trusting, sub=f"user-{number}") for number in range(40)]
    found = await asyncio.gather(*map(trusting.who, tokens))
    assert len({who.subject for who in found}) == 40
    assert provider.asked["/jwks"] == 1


@pytest.mark.requirement("issuer:keys")
async def test_a_new_key_is_found_at_its_first_token_and_a_made_up_one_costs_one_fetch(
    provider: Provider, trusting: Trusting
) -> None:
    await trusting.who(good(provider, trusting))
    provider.rotate("key-2", number=2)
    await trusting.who(good(provider, trusting))
    assert provider.asked["/jwks"] == 2
    claims = provider.claims(AUDIENCE, trusting.clock.now)
    for number in range(20):
        assert "does not publish" in await trusting.refused(provider.token(claims, kid=f"made-up-{number}"))
    assert provider.asked["/jwks"] == 2
    trusting.clock.now += 31
    for number in range(20):
        await trusting.refused(provider.token(claims, kid=f"made-up-{number}"))
    assert provider.asked["/jwks"] == 3


@pytest.mark.requirement("issuer:keys")
async def test_all_who_come_with_a_new_key_at_once_wait_for_the_one_fetch(
    provider: Provider, trusting: Trusting
) -> None:
    await trusting.who(good(provider, trusting))
    provider.rotate("key-2", number=2)
    await asyncio.gather(*(trusting.who(good(provider, trusting, sub=f"user-{number}")) for number in range(20)))
    assert provider.asked["/jwks"] == 2


@pytest.mark.requirement("issuer:keys")
async def test_what_a_withdrawn_key_signed_counts_no_longer_than_the_keys_are_fresh(
    provider: Provider, trusting: Trusting
) -> None:
    old = good(provider, trusting)
    await trusting.who(old)
    provider.rotate("key-2", number=2)
    await trusting.who(old)
    trusting.clock.now += DEFAULT_FRESH_S
    await trusting.refused(old)


@pytest.mark.requirement("issuer:keys")
async def test_a_rotation_that_is_heard_of_voids_what_the_old_key_signed_at_once(
    provider: Provider, trusting: Trusting
) -> None:
    old = good(provider, trusting)
    await trusting.who(old)
    provider.rotate("key-2", number=2)
    await trusting.who(good(provider, trusting))
    await trusting.refused(old)


@pytest.mark.requirement("issuer:outage")
async def test_keys_that_cannot_be_fetched_anew_are_believed_for_a_while(
    provider: Provider, trusting: Trusting
) -> None:
    def fresh() -> str:
        return good(provider, trusting, exp=int(trusting.clock.now) + 60, sub=f"at-{trusting.clock.now}")

    await trusting.who(fresh())
    provider.answers["/jwks"] = (500, b"{}")
    trusting.clock.now += DEFAULT_FRESH_S + 1
    await trusting.who(fresh())
    asked = provider.asked["/jwks"]
    await trusting.who(fresh())
    assert provider.asked["/jwks"] == asked  # not at each token
    trusting.clock.now += MAX_STALE_S
    with pytest.raises(Unavailable):
        await trusting.who(fresh())
    del provider.answers["/jwks"]
    trusting.clock.now += RETRY_S
    await trusting.who(fresh())


@pytest.mark.requirement("issuer:outage")
async def test_an_issuer_that_was_never_reached_says_nothing_of_a_token(provider: Provider, trusting: Trusting) -> None:
    provider.answers["/jwks"] = (200, b'{"keys": "none"}')
    with pytest.raises(Unavailable):
        await trusting.who(good(provider, trusting))
    del provider.answers["/jwks"]
    with pytest.raises(Unavailable):  # not asked again at once
        await trusting.who(good(provider, trusting))
    trusting.clock.now += RETRY_S
    await trusting.who(good(provider, trusting))


@pytest.mark.requirement("issuer:keys")
@pytest.mark.parametrize(
    ("headers", "lasts"),
    [
        ({}, DEFAULT_FRESH_S),
        ({"cache-control": "public, max-age=600"}, 600),
        ({"cache-control": "max-age=600", "age": "100"}, 500),
        ({"cache-control": "max-age=1"}, MIN_FRESH_S),
        ({"cache-control": "no-store, max-age=600"}, MIN_FRESH_S),
        ({"cache-control": "max-age=99999999"}, MAX_FRESH_S),
        ({"cache-control": "s-maxage=5, max-age=oops"}, DEFAULT_FRESH_S),
        ({"cache-control": "max-age=600", "age": "²"}, 600),
    ],
)
def test_keys_are_fresh_for_as_long_as_http_says_within_bounds(headers: dict[str, str], lasts: float) -> None:
    assert fresh_s(headers) == lasts


UNFIT = {
    "for encryption": public(key_of("ES256"), "key-1", use="enc"),
    "for other operations": public(key_of("ES256"), "key-1", key_ops=["encrypt"]),
    "for another algorithm": public(key_of("ES256"), "key-1", alg="ES384"),
    "for key agreement": public(key_of("ES256"), "key-1", alg="ECDH-ES"),
    "without an id": {**public(key_of("ES256"), "key-1"), "kid": None},
    "of another id": public(key_of("ES256"), "key-2"),
    "of another curve": public(key_of("ES384"), "key-1"),
    "of another type": public(key_of("RS256"), "key-1"),
    "a secret": {"kty": "oct", "k": "c2VjcmV0", "kid": "key-1"},
    "published whole": {**key_of("ES256").as_dict(private=True), "kid": "key-1"},
    "no key": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "key-1"},
    "half a key": {"kty": "EC", "crv": "P-256", "kid": "key-1"},
    "no object": "key-1",
}


@pytest.mark.requirement("issuer:keys")
@pytest.mark.parametrize("entry", UNFIT.values(), ids=UNFIT)
async def test_a_key_that_is_not_for_this_verifies_nothing(entry: Any, provider: Provider, trusting: Trusting) -> None:
    provider.keys = [entry]
    assert "does not publish" in await trusting.refused(good(provider, trusting))


@pytest.mark.requirement("issuer:keys")
async def test_two_keys_of_one_id_are_told_apart_by_their_type_or_not_at_all(
    provider: Provider, trusting: Trusting
) -> None:
    provider.keys = [public(key_of("RS256"), "key-1"), public(key_of("ES256"), "key-1")]
    await trusting.who(good(provider, trusting))
    provider.keys = [public(key_of("ES256"), "key-1"), public(key_of("ES256", 2), "key-1")]
    trusting.clock.now += DEFAULT_FRESH_S
    assert "does not publish" in await trusting.refused(good(provider, trusting, sub="bob"))


@pytest.mark.requirement("issuer:keys")
def test_a_set_of_too_many_keys_is_none() -> None:
    with pytest.raises(FetchFailed):
        keys_of({"keys": [public(key_of("ES256"), f"key-{number}") for number in range(101)]})


# In whose name


def holder(given: dict[str, Any], now: World | None = None, **claims: Any) -> Principal:
    """Return what the claims of a token make of its holder, where the issuer is configured so."""
    named = IssuerSection.model_validate({"issuer": "https://id.example", **given})
    clock = SettableClock()
    issuers = Issuers([named], Endpoints(BASE), Fetcher((), allow_loopback=False), clock)
    provider = Provider(base="https://id.example")
    reading, source = Reading(named, Endpoints(BASE)), issuers._by_name["https://id.example"]
    said = provider.claims(claims.pop("aud", AUDIENCE), START, **claims)
    facts = reading.facts(said, "digest", source, START)
    return facts.who


@pytest.mark.requirement("issuer:mapping")
def test_scopes_come_from_the_claim_that_the_issuer_uses() -> None:
    assert holder({}, scope="mcp:use llm:use openid").scopes == {"mcp:use", "llm:use"}
    assert holder({"scope_claim": "scp"}, scp=["mcp:use"]).scopes == {"mcp:use"}
    mapped = {"scope_map": {"Mcp.Invoke": ["mcp:use"], "All": ["mcp:use", "llm:use"]}}
    assert holder(mapped, scope="All").scopes == {"mcp:use", "llm:use"}
    assert holder(mapped, scope="mcp:use").scopes == frozenset()
    assert holder({}, scope=None).scopes == frozenset()
    assert holder({"default_scopes": ["mcp:use"]}, scope=None).scopes == {"mcp:use"}


@pytest.mark.requirement("issuer:mapping")
def test_roles_come_from_the_map_and_nothing_else() -> None:
    given = {"role_claim": "/realm_access/roles", "role_map": {"ops": ["operator"], "dev": ["agent", "editor"]}}
    assert holder(given, realm_access={"roles": ["dev", "unknown"]}).roles == {"agent", "editor"}
    assert holder(given, realm_access={"roles": ["admin"]}).roles == {"agent"}
    assert holder({**given, "default_roles": []}, realm_access={}).roles == frozenset()
    operator = holder(given, realm_access={"roles": ["ops"]}, aud=f"{BASE}/admin/v1", scope="kill:write admin")
    assert (operator.kind, operator.scopes) == (Kind.ADMIN, {"kill:write"})
    both = holder(given, realm_access={"roles": ["ops", "dev"]}, scope="mcp:use kill:write")
    assert both.scopes == {"mcp:use"}  # never an agent's and an administrator's at once


@pytest.mark.requirement("issuer:mapping")
def test_a_team_is_named_by_a_claim() -> None:
    assert holder({"team_claim": "team"}, team="red").team == "red"
    assert holder({"team_claim": "team"}).team is None
    assert holder({"team_claim": "groups", "team_map": {"g-1": "red"}}, groups=["g-0", "g-1"]).team == "red"
    assert holder({"team_claim": "groups", "team_map": {"g-1": "red"}}, groups=["g-0"]).team is None


@pytest.mark.requirement("issuer:mapping")
def test_an_agent_is_marked_by_the_rule_and_never_administers() -> None:
    assert holder({}, sub="app").kind is Kind.AGENT
    marked = {"agent": {"claim": "idtyp", "equals": "app"}, "role_claim": "roles", "role_map": {"a": ["admin"]}}
    agent = holder(marked, idtyp="app", roles=["a"], scope="keys:write")
    assert (agent.kind, agent.scopes) == (Kind.AGENT, frozenset())
    assert holder(marked, idtyp="user", sub="app").kind is Kind.USER


@pytest.mark.requirement("issuer:mapping")
def test_policies_see_the_claims_that_are_listed_and_no_others() -> None:
    who = holder({"claims": ["department", "/address/country", "missing"]}, department="x", address={"country": "NO"})
    assert who.claims == {"department": "x", "/address/country": "NO"}


@pytest.mark.requirement("issuer:mapping")
def test_a_client_is_named_by_the_claim_that_the_issuer_uses() -> None:
    assert holder({"client_claim": "azp"}, azp="other", client_id=None).client_id == "other"
    with pytest.raises(Unauthenticated, match="client_id"):
        holder({}, client_id=None)


@pytest.mark.requirement("issuer:required")
@pytest.mark.parametrize(
    ("rule", "claims", "kept"),
    [
        ({"equals": "a"}, {"tid": "a"}, True),
        ({"equals": "a"}, {"tid": "b"}, False),
        ({"equals": "a"}, {"tid": ["a"]}, False),
        ({"equals": "a"}, {}, False),
        ({"equals": True}, {"tid": True}, True),
        ({"equals": True}, {"tid": 1}, False),
        ({"equals": 1}, {"tid": True}, False),
        ({"equals": False}, {"tid": 0}, False),
        ({"one_of": ["a", "b"]}, {"tid": "b"}, True),
        ({"one_of": ["a", "b"]}, {"tid": ["x", "b"]}, True),
        ({"one_of": ["a", "b"]}, {"tid": ["x"]}, False),
        ({"one_of": ["a", "b"]}, {"tid": []}, False),
        ({"one_of": [1]}, {"tid": True}, False),
        ({"present": True}, {"tid": ""}, True),
        ({"present": True}, {}, False),
    ],
)
def test_a_required_claim_is_there_and_says_what_it_must(
    rule: dict[str, Any], claims: dict[str, Any], kept: bool
) -> None:
    given = {"require": [{"claim": "tid", **rule}]}
    if kept:
        holder(given, **claims)
        return
    with pytest.raises(Unauthenticated, match="required"):
        holder(given, **claims)


@pytest.mark.requirement("token:actors")
def test_who_acts_for_whom_is_told_nearest_first() -> None:
    act = {"sub": "agent-1", "act": {"iss": "https://other.example", "sub": "agent-2"}}
    assert holder({}, act=act).actors == ("https://id.example|agent-1", "https://other.example|agent-2")


@pytest.mark.requirement("token:actors")
@pytest.mark.parametrize("act", ["agent", {}, {"sub": 1}, {"sub": ""}, {"sub": "a", "act": "b"}, {"sub": "a\n"}, []])
def test_a_chain_that_is_none_is_refused(act: Any) -> None:
    with pytest.raises(Unauthenticated, match="act"):
        holder({}, act=act)


@pytest.mark.requirement("token:actors")
async def test_who_acts_for_an_administrator_administers_nothing(provider: Provider, signing: SigningKeys) -> None:
    trusting = Trusting.of(signing, section(provider, role_claim="role", role_map={"a": ["admin"]}))
    claims = {"aud": f"{BASE}/admin/v1", "scope": "keys:write", "role": "a"}
    resource, known = (
        "/admin/v1",
        world_of(State(epoch=2, accounts=(an_account(provider, roles=frozenset({"admin"})),))),
    )
    for now in (world(), known):
        himself = await trusting.who(good(provider, trusting, **claims), resource, now)
        assert himself.scopes == {"keys:write"}
        another = await trusting.who(good(provider, trusting, **claims, act={"sub": "agent-1"}), resource, now)
        assert another.scopes == frozenset()


@pytest.mark.requirement("token:actors")
def test_a_chain_is_bounded() -> None:
    def chain(length: int) -> dict[str, Any]:
        return {"sub": "a", **({"act": chain(length - 1)} if length > 1 else {})}

    assert len(holder({}, act=chain(8)).actors) == 8
    with pytest.raises(Unauthenticated):
        holder({}, act=chain(9))


@pytest.mark.requirement("issuer:audience")
def test_an_audience_is_an_endpoint_of_ours_or_one_that_stands_for_it() -> None:
    mapped = {"audiences": {"api://gateway": "/mcp/notes"}}
    holder(mapped, aud="api://gateway")
    holder(mapped, aud=["api://gateway", AUDIENCE, f"{BASE}/v1"])
    for audience in (
        "api://other",
        BASE,
        f"{BASE}/",
        f"{BASE}/mcp/",
        f"{AUDIENCE}?x",
        [AUDIENCE, "https://other.example"],
        [],
        [[AUDIENCE]],
        None,
        {"aud": AUDIENCE},
    ):
        with pytest.raises(Unauthenticated, match="audience"):
            holder(mapped, aud=audience)


@pytest.mark.requirement("issuer:audience")
def test_beside_ours_an_audience_may_be_one_that_the_operator_names() -> None:
    userinfo = "https://id.example/userinfo"
    named = {"also_for": [userinfo]}
    holder(named, aud=[AUDIENCE, userinfo])
    for audience in (userinfo, [userinfo], [AUDIENCE, "https://other.example"], [userinfo, "https://other.example"]):
        with pytest.raises(Unauthenticated, match="audience"):
            holder(named, aud=audience)


@pytest.mark.requirement("issuer:audience")
async def test_a_token_opens_the_endpoints_that_it_is_for(provider: Provider, trusting: Trusting) -> None:
    token = good(provider, trusting, aud=[f"{BASE}/mcp/notes", f"{BASE}/v1"])
    for opened in ("/mcp/notes", "/v1/models"):
        await trusting.who(token, opened)
    for closed in (MCP, "/mcp/other", "/mcp/notes@1.0.0", "/admin/v1"):
        assert "audience" in await trusting.refused(token, closed)


# The world


def an_account(provider: Provider, **given: Any) -> Account:
    given = {"roles": frozenset({"agent"}), **given}
    return Account(
        id="acc",
        issuer=provider.issuer,
        subject="alice",
        kind=Kind.USER,
        created_by="mcpgw|root",
        created_at=START,
        **given,
    )


@pytest.mark.requirement("issuer:world")
async def test_what_the_world_says_of_an_account_is_what_counts(provider: Provider, trusting: Trusting) -> None:
    token = good(provider, trusting)
    known = world_of(State(epoch=2, accounts=(an_account(provider, team="red"),)))
    who = await trusting.who(token, MCP, known)
    assert (who.account, who.team, who.roles, who.scopes) == ("acc", "red", {"agent"}, {"mcp:use"})
    fewer = world_of(State(epoch=3, accounts=(an_account(provider, roles=frozenset({"auditor"})),)))
    assert (await trusting.who(token, MCP, fewer)).scopes == frozenset()
    gone = world_of(State(epoch=4, accounts=(an_account(provider, deactivated_at=START),)))
    assert "deactivated" in await trusting.refused(token, MCP, gone)
    team = Team(name="red", title="", created_by="mcpgw|root", created_at=START, deactivated_at=START)
    ended = world_of(State(epoch=5, accounts=(an_account(provider, team="red"),), teams=(team,)))
    assert "deactivated" in await trusting.refused(token, MCP, ended)


@pytest.mark.requirement("issuer:world")
@pytest.mark.parametrize("kind", ["principal", "client", "issuer", "token"])
async def test_a_revocation_holds_on_the_next_call(kind: str, provider: Provider, trusting: Trusting) -> None:
    token = good(provider, trusting)
    await trusting.who(token)
    selector = {
        "principal": f"{provider.issuer}|alice",
        "client": "app",
        "issuer": provider.issuer,
        "token": "jti-of-alice",
    }[kind]
    assert "revoked" in await trusting.refused(token, MCP, world(Revocation(kind, selector, START + 1), epoch=2))
    trusting.clock.now += 2
    later = good(provider, trusting, jti="another")
    await trusting.who(later, MCP, world(Revocation(kind, selector, START + 1), epoch=2))


@pytest.mark.requirement("issuer:world")
async def test_one_who_acts_for_another_is_revoked_with_what_he_does(provider: Provider, trusting: Trusting) -> None:
    token = good(provider, trusting, act={"sub": "agent-1"})
    await trusting.who(token)
    revoked = world(Revocation("principal", f"{provider.issuer}|agent-1", START + 1), epoch=2)
    assert "revoked" in await trusting.refused(token, MCP, revoked)


# Opaque tokens


@pytest.fixture
def asking(provider: Provider, signing: SigningKeys, monkeypatch: pytest.MonkeyPatch) -> Trusting:
    monkeypatch.setenv("MCPGW_TEST_SECRET", CLIENT_SECRET)
    return Trusting.of(signing, section(provider, introspection=provider.introspection))


def said(provider: Provider, trusting: Trusting, **changed: Any) -> dict[str, Any]:
    return {"active": True, "token_type": "Bearer", **provider.claims(AUDIENCE, trusting.clock.now, **changed)}


@pytest.mark.requirement("issuer:opaque")
async def test_the_issuer_is_asked_once_for_as_long_as_it_is_believed(provider: Provider, asking: Trusting) -> None:
    provider.opaque["opaque-1"] = said(provider, asking)
    found = await asyncio.gather(*(asking.who("opaque-1") for _ in range(20)))
    assert found[0].selector == f"{provider.issuer}|alice"
    await asking.who("opaque-1")
    assert provider.asked["/introspect"] == 1
    asking.clock.now += 30
    await asking.who("opaque-1")
    assert provider.asked["/introspect"] == 2


@pytest.mark.requirement("issuer:opaque")
async def test_a_revoked_token_counts_for_the_stated_time_at_most(provider: Provider, asking: Trusting) -> None:
    provider.opaque["opaque-1"] = said(provider, asking)
    who = await asking.who("opaque-1")
    provider.opaque["opaque-1"] = {"active": False}
    asking.clock.now += 29
    await asking.who("opaque-1")
    asking.clock.now += 1
    assert "not active" in await asking.refused("opaque-1")
    refusal = asking.issuers.refusal_of(who)
    assert refusal is not None and "not active" in refusal.message


@pytest.mark.requirement("issuer:opaque")
async def test_a_call_that_runs_is_ended_when_its_issuer_says_so_or_says_nothing(
    provider: Provider, asking: Trusting
) -> None:
    provider.opaque["opaque-1"] = said(provider, asking)
    who = await asking.who("opaque-1")
    assert asking.issuers.refusal_of(who) is None
    asking.clock.now += 30
    assert asking.issuers.refusal_of(who) is None  # asked now, in the background
    await asking.who("opaque-1")
    assert provider.asked["/introspect"] == 2
    provider.answers["/introspect"] = (503, b"{}")
    asking.clock.now += 30 + 10
    refusal = asking.issuers.refusal_of(who)
    assert refusal is not None and "does not answer" in refusal.message


@pytest.mark.requirement("issuer:opaque")
async def test_many_new_tokens_at_once_wait_for_their_turn(provider: Provider, asking: Trusting) -> None:
    for number in range(200):
        provider.opaque[f"opaque-{number}"] = said(provider, asking, sub=f"user-{number}")
    found = await asyncio.gather(*(asking.who(f"opaque-{number}") for number in range(200)))
    assert len({who.subject for who in found}) == 200


@pytest.mark.requirement("issuer:opaque")
async def test_a_made_up_token_costs_the_issuer_one_request(provider: Provider, asking: Trusting) -> None:
    for _ in range(10):
        assert "not active" in await asking.refused("made-up")
    assert provider.asked["/introspect"] == 1


@pytest.mark.requirement("issuer:opaque")
@pytest.mark.parametrize(
    "answer",
    [(503, b"{}"), (401, b'{"error": "invalid_client"}'), (200, b"[]"), (200, b'{"active": 1, "active": true}')],
)
async def test_an_issuer_that_does_not_answer_says_nothing_of_a_token(
    answer: tuple[int, bytes], provider: Provider, asking: Trusting, caplog: pytest.LogCaptureFixture
) -> None:
    provider.answers["/introspect"] = answer
    for token in ("opaque-1", "opaque-2"):
        with pytest.raises(Unavailable) as refusal:
            await asking.who(token)
        assert CLIENT_SECRET not in str(refusal.value)
    (said_once,) = [record.getMessage() for record in caplog.records]
    assert provider.issuer in said_once
    assert CLIENT_SECRET not in said_once
    provider.opaque["opaque-1"] = said(provider, asking)
    del provider.answers["/introspect"]
    await asking.who("opaque-1")


@pytest.mark.requirement("issuer:opaque")
async def test_what_an_answer_leaves_out_is_not_made_up(provider: Provider, asking: Trusting) -> None:
    provider.opaque["client"] = said(provider, asking, sub=None, iat=None, jti=None, iss=None)
    who = await asking.who("client")
    assert (who.subject, who.kind, who.issued_at) == ("app", Kind.AGENT, 0)
    revoked = world(Revocation("client", "app", START - 1000), epoch=2)
    assert "revoked" in await asking.refused("client", MCP, revoked)
    for name in ("exp", "aud", "client_id"):
        provider.opaque[f"no {name}".replace(" ", "-")] = said(provider, asking, **{name: None})
        await asking.refused(f"no-{name}")


# Configuration


@pytest.mark.requirement("issuer:config")
@pytest.mark.parametrize(
    "given",
    [
        {"issuer": "id.example"},
        {"issuer": "https://id.example/?tenant=a"},
        {"issuer": "https://id.example|x"},
        {"issuer": "https://id.example", "algorithms": ["HS256"]},
        {"issuer": "https://id.example", "algorithms": ["none"]},
        {"issuer": "https://id.example", "algorithms": []},
        {"issuer": "https://id.example", "types": ["id+jwt"]},
        {"issuer": "https://id.example", "require": [{"claim": "a"}]},
        {"issuer": "https://id.example", "require": [{"claim": "a", "equals": "b", "present": True}]},
        {"issuer": "https://id.example", "leeway_s": 3600},
    ],
)
def test_an_issuer_that_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="valid"):
        AuthSection.model_validate({"issuers": [given]})


@pytest.mark.requirement("issuer:config")
@pytest.mark.parametrize(
    "given",
    [
        {"issuer": BASE},
        {"issuer": "http://id.example"},
        {"issuer": "https://127.0.0.1"},
        {"issuer": "https://id.example", "jwks_uri": "https://10.0.0.1/keys"},
        {"issuer": "https://id.example", "audiences": {"api://x": "/oauth/token"}},
        {"issuer": "https://id.example", "scope_map": {"x": ["mcp:use", "mcp:all"]}},
        {"issuer": "https://id.example", "default_scopes": ["everything"]},
        {"issuer": "https://id.example", "role_map": {"x": ["agent", "Ops Admin"]}},
        {"issuer": "https://id.example", "default_roles": [""]},
    ],
)
def test_an_issuer_that_nobody_could_ask_is_refused_at_the_start(given: dict[str, Any]) -> None:
    named = IssuerSection.model_validate(given)
    with pytest.raises(UsageError, match=r"auth\.issuers"):
        Issuers([named], Endpoints(BASE), Fetcher((), allow_loopback=False), SettableClock())


@pytest.mark.requirement("issuer:config")
def test_one_issuer_is_configured_once_and_one_introspects() -> None:
    one = {"issuer": "https://id.example"}
    asked = {"endpoint": "https://id.example/i", "client_id": "a", "client_secret": "env:A"}
    for issuers in (
        [one, one],
        [{**one, "introspection": asked}, {"issuer": "https://other.example", "introspection": asked}],
    ):
        with pytest.raises(ValueError, match="issuer"):
            AuthSection.model_validate({"issuers": issuers})


@pytest.mark.requirement("issuer:no-secrets")
@given(st.one_of(st.text(), st.from_regex(r"e[\w-]*\.[\w-]*\.[\w-]*"), st.binary().map(lambda raw: b64(raw) + ".e30.")))
@settings_of(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_text_is_anything_but_unauthenticated(trusting: Trusting, token: str) -> None:
    with pytest.raises(Unauthenticated):
        outcome(trusting.verifier.verify(Presented(scheme="bearer", token=token), MCP, world()))


@pytest.mark.requirement("issuer:no-secrets")
async def test_no_refusal_shows_a_claim_or_a_part_of_a_token(provider: Provider, trusting: Trusting) -> None:
    canary = "canary-7c1e"
    for changed in ({"aud": canary}, {"scope": [1, canary]}, {"sub": f"{canary}\n"}, {"exp": canary}, {"act": canary}):
        token = good(provider, trusting, **changed)
        with pytest.raises(GatewayError) as refusal:
            await trusting.who(token)
        assert canary not in str(refusal.value)
        assert not any(part in str(refusal.value) for part in token.split("."))
