"""Who is let in, and what is not a credential."""

from __future__ import annotations

import hashlib
import hmac
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from mcpgw.auth import keys
from mcpgw.auth.access_tokens import AccessTokens, TokenFacts
from mcpgw.auth.scopes import ADMIN_SCOPES, AGENT_SCOPES
from mcpgw.auth.verifier import DevVerifier, Verifier
from mcpgw.domain import Kind, Presented, Revocation
from mcpgw.errors import Unauthenticated
from mcpgw.ports import World
from tests.auth.parts import BASE, PEPPER, START, Identity, a_client, agent_key, b64, encoded, outcome, world

MCP = "/mcp"


# API keys


@pytest.mark.requirement("auth:api-key")
def test_a_key_names_its_holder(identity: Identity) -> None:
    key, text = agent_key("bot", team="research", roles={"agent", "editor"}, expires_at=START + 60)
    who = identity.who(text, "/mcp/notes", world(key))
    assert (who.selector, who.team, who.kind, who.credential) == ("mcpgw|bot", "research", Kind.AGENT, key.id)
    assert (who.roles, who.scopes, who.expires_at) == ({"agent", "editor"}, AGENT_SCOPES, START + 60)


@pytest.mark.requirement("auth:admin-separation")
def test_an_administrators_key_is_known_on_the_mcp_endpoint_but_has_no_scope_there(identity: Identity) -> None:
    key, text = agent_key("root", roles={"admin"})
    who = identity.who(text, MCP, world(key))
    assert who.kind is Kind.ADMIN
    assert not who.scopes & AGENT_SCOPES


@pytest.mark.requirement("auth:api-key")
def test_wrong_mistyped_and_unknown_keys_are_refused(identity: Identity) -> None:
    key, text = agent_key()
    _, other_text = agent_key()
    now = world(key)
    assert identity.refused(other_text, MCP, now) == "the API key is not valid"
    # The secret of another key under this key's id: the checksum fits, the digest does not.
    mixed = f"mcpgw_{key.id}_" + other_text.split("_")[2][:43]
    mixed += keys._checksum(mixed)
    assert identity.refused(mixed, MCP, now) == "the API key is not valid"
    for mistyped in (text[:-1], text + "A", text.upper(), text[:30] + "!" + text[31:], text.replace("_", "-")):
        identity.refused(mistyped, MCP, now)
    assert identity.refused(text[:-1], MCP, now) == "the API key is mistyped or cut short"


@pytest.mark.requirement("auth:api-key")
def test_the_secret_of_a_key_opens_nothing_under_another_id(identity: Identity) -> None:
    key, text = agent_key()
    for _ in range(20):  # with one key in the world, every unknown id is compared with that one
        body = f"mcpgw_{keys.new_id()}_" + text.split("_")[2][:43]
        assert identity.refused(body + keys._checksum(body), MCP, world(key)) == "the API key is not valid"
        identity.refused(f"mcpgw_{keys.new_id()}_" + text.split("_")[2], MCP, world(key))


@pytest.mark.requirement("auth:revocation")
def test_a_revoked_key_is_refused_on_the_next_call(identity: Identity) -> None:
    key, text = agent_key()
    assert identity.who(text, MCP, world(key)).subject == "bot"
    now = world(replace(key, revoked_at=START), epoch=2)
    assert identity.refused(text, MCP, now) == "the API key is revoked"


@pytest.mark.requirement("auth:revocation")
def test_a_changed_row_is_what_counts_on_the_next_call(identity: Identity) -> None:
    key, text = agent_key()
    assert identity.who(text, MCP, world(key)).team is None
    assert identity.who(text, MCP, world(replace(key, team="moved"), epoch=2)).team == "moved"


@pytest.mark.requirement("auth:api-key")
def test_a_key_ends_at_its_very_expiry(identity: Identity) -> None:
    key, text = agent_key(expires_at=START + 60)
    now = world(key)
    identity.clock.now = START + 59.9
    identity.who(text, MCP, now)
    identity.clock.now = START + 60
    assert identity.refused(text, MCP, now) == "the API key has expired"


@pytest.mark.requirement("auth:revocation")
@pytest.mark.parametrize("kind", ["principal", "client", "issuer"])
def test_a_key_made_before_a_revocation_of_its_holder_is_void(identity: Identity, kind: str) -> None:
    key, text = agent_key()
    selector = {"principal": "mcpgw|bot", "client": key.id, "issuer": "mcpgw"}[kind]
    identity.who(text, MCP, world(key, Revocation(kind, selector, START)))
    assert identity.refused(text, MCP, world(key, Revocation(kind, selector, START + 0.001)))


# Access tokens


@pytest.mark.requirement("auth:access-token")
def test_a_token_names_its_client(identity: Identity) -> None:
    client, _ = a_client(team="research")
    who = identity.who(identity.token(client), MCP, world(client))
    assert (who.selector, who.client_id, who.team, who.kind) == ("mcpgw|bot", "bot-client", "research", Kind.AGENT)
    assert (who.scopes, who.credential, who.expires_at) == ({"mcp:use"}, "jti-1", START + 900)


@pytest.mark.requirement("auth:audience")
@pytest.mark.parametrize(
    ("audience", "opened", "closed"),
    [
        ("/mcp", ["/mcp", "/mcp/notes", "/mcp/notes@1.2.0"], ["/v1", "/admin/v1", "/mcpx", "/"]),
        ("/mcp/notes", ["/mcp/notes"], ["/mcp", "/mcp/notes2", "/mcp/note", "/mcp/notes/x", "/mcp/notes@1.2.0"]),
        ("/v1", ["/v1", "/v1/chat/completions"], ["/mcp", "/v10", "/admin/v1"]),
        ("/admin/v1", ["/admin/v1", "/admin/v1/keys"], ["/mcp", "/v1", "/admin/v10"]),
    ],
)
def test_a_token_opens_its_audience_and_what_is_below_it(
    identity: Identity, audience: str, opened: list[str], closed: list[str]
) -> None:
    client, _ = a_client()
    token, now = identity.token(client, audience), world(client)
    for path in opened:
        identity.who(token, path, now)
    for path in closed:
        assert identity.refused(token, path, now) == "the access token is for another audience"


def our_public_pem(identity: Identity) -> bytes:
    return identity.signing.current.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def signed_with_the_public_key_as_a_secret(identity: Identity) -> str:
    message = f"{encoded({'alg': 'HS256', 'typ': 'at+jwt', 'kid': identity.signing.kid})}.{encoded(identity.claims())}"
    return f"{message}.{b64(hmac.digest(our_public_pem(identity), message.encode(), hashlib.sha256))}"


def unsigned(identity: Identity, algorithm: str = "none") -> str:
    header = {"alg": algorithm, "typ": "at+jwt", "kid": identity.signing.kid}
    return f"{encoded(header)}.{encoded(identity.claims())}."


def with_a_key_of_its_own(identity: Identity, **header: Any) -> str:
    stranger = ECKey.generate_key("P-256")
    named = {"jwk": stranger.as_dict(private=False), "kid": stranger.thumbprint()} | header
    return identity.signed(identity.claims(), named, stranger)


LIES: dict[str, Callable[[Identity], str]] = {
    "audience of another gateway": lambda g: g.signed(g.claims(aud="https://other.example/mcp")),
    "audience that only begins like ours": lambda g: g.signed(g.claims(aud=f"{BASE}.evil.example/mcp")),
    "audience that is no endpoint": lambda g: g.signed(g.claims(aud=f"{BASE}/")),
    "list of audiences, ours among them": lambda g: g.signed(g.claims(aud=["https://other.example", f"{BASE}/mcp"])),
    "list of our audience alone": lambda g: g.signed(g.claims(aud=[f"{BASE}/mcp"])),
    "no audience": lambda g: g.signed(g.claims(aud=None)),
    "alg none": unsigned,
    "alg None": lambda g: unsigned(g, "None"),
    "alg ES256 without a signature": lambda g: unsigned(g, "ES256"),
    "HS256 with our public key": signed_with_the_public_key_as_a_secret,
    "alg ES384": lambda g: g.signed(g.claims(), {"alg": "ES384"}),
    "alg ES256K": lambda g: g.signed(g.claims(), {"alg": "ES256K"}),
    "jwk with the signer's key": with_a_key_of_its_own,
    "jwk with the signer's key under our kid": lambda g: with_a_key_of_its_own(g, kid=g.signing.kid),
    "jku, signed by us": lambda g: g.signed(g.claims(), {"jku": "https://evil.example/jwks"}),
    "x5u, signed by us": lambda g: g.signed(g.claims(), {"x5u": "https://evil.example/cert"}),
    "x5c, signed by us": lambda g: g.signed(g.claims(), {"x5c": ["MIIB"]}),
    "jwk, signed by us": lambda g: g.signed(g.claims(), {"jwk": {}}),
    "crit b64, signed by us": lambda g: g.signed(g.claims(), {"crit": ["b64"], "b64": True}),
    "typ JWT": lambda g: g.signed(g.claims(), {"typ": "JWT"}),
    "typ in another case": lambda g: g.signed(g.claims(), {"typ": "AT+JWT"}),
    "unknown kid": lambda g: g.signed(g.claims(), {"kid": "unknown"}),
    "kid that is a list": lambda g: g.signed(g.claims(), {"kid": [g.signing.kid]}),
    "our kid, signed by another gateway": lambda g: g.signed(g.claims(), key=ECKey.generate_key("P-256")),
    "another issuer with our key": lambda g: g.signed(g.claims(iss="https://other.example")),
    "our issuer with a slash": lambda g: g.signed(g.claims(iss=f"{BASE}/")),
    "no issuer": lambda g: g.signed(g.claims(iss=None)),
    "expired by a second": lambda g: g.signed(g.claims(exp=int(START) - 1)),
    "expires now": lambda g: g.signed(g.claims(exp=int(START))),
    "no expiry": lambda g: g.signed(g.claims(exp=None)),
    "expiry NaN": lambda g: g.signed(g.claims(exp=float("nan"))),
    "expiry infinite": lambda g: g.signed(g.claims(exp=float("inf"))),
    "expiry as a string": lambda g: g.signed(g.claims(exp="9999999999")),
    "expiry true": lambda g: g.signed(g.claims(exp=True)),
    "not before the next second": lambda g: g.signed(g.claims(nbf=int(START) + 1)),
    "not before, as a string": lambda g: g.signed(g.claims(nbf="0")),
    "issued in a minute": lambda g: g.signed(g.claims(iat=int(START) + 60)),
    "no time of issue": lambda g: g.signed(g.claims(iat=None)),
    "unknown client": lambda g: g.signed(g.claims(client_id="nobody")),
    "no client": lambda g: g.signed(g.claims(client_id=None)),
    "client that is a number": lambda g: g.signed(g.claims(client_id=7)),
    "another subject": lambda g: g.signed(g.claims(sub="root")),
    "no id": lambda g: g.signed(g.claims(jti=None)),
    "scope as a list": lambda g: g.signed(g.claims(scope=["mcp:use"])),
    "claims that are a list": lambda g: g.signed(b"[1]"),
    "claims that are no JSON": lambda g: g.signed(b"\xff{"),
    "claims nested without end": lambda g: g.signed(b"[" * 2000),
    "very long": lambda g: g.signed(g.claims(pad="x" * 5000)),
    "five parts": lambda g: "a.b.c.d.e",
    "empty parts": lambda g: "..",
    "no ASCII": lambda g: "жетон.é.ß",
    "a lone surrogate": lambda g: "\ud800.a.b",
}


@pytest.mark.requirement("auth:token-checks")
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_token_that_lies_is_refused(identity: Identity, lie: Callable[[Identity], str]) -> None:
    client, _ = a_client()
    now = world(client)
    identity.who(identity.signed(identity.claims()), MCP, now)  # the truth is let in
    token = lie(identity)
    for _ in range(2):  # and nothing is remembered of a lie
        message = identity.refused(token, MCP, now)
        assert "https://" not in message
        assert "evil" not in message


@pytest.mark.requirement("auth:token-checks")
def test_the_clock_of_another_node_may_be_a_little_ahead(identity: Identity) -> None:
    client, _ = a_client()
    identity.who(identity.signed(identity.claims(iat=int(START) + 5, nbf=int(START))), MCP, world(client))
    identity.refused(identity.signed(identity.claims(iat=int(START) + 6)), MCP, world(client))


@pytest.mark.requirement("auth:token-checks")
def test_a_token_ends_at_its_very_expiry_though_it_is_remembered(identity: Identity) -> None:
    client, _ = a_client()
    token, now = identity.token(client), world(client)
    identity.who(token, MCP, now)
    identity.clock.now = START + 899.9
    identity.who(token, MCP, now)
    identity.clock.now = START + 900
    assert identity.refused(token, MCP, now) == "the access token has expired"
    identity.clock.now = START  # the clock was put back: the facts are read anew, not trusted from before
    identity.who(token, MCP, now)


@pytest.mark.requirement("auth:token-cache")
def test_tokens_that_share_a_prefix_are_different_tokens(identity: Identity) -> None:
    one, _ = a_client("one", "bot-one")
    two, _ = a_client("two", "bot-two")
    now = world(one, two)
    first, second = identity.token(one), identity.token(two)
    assert first[:64] == second[:64]
    for _ in range(2):
        assert identity.who(first, MCP, now).subject == "bot-one"
        assert identity.who(second, MCP, now).subject == "bot-two"
    for altered in (
        first[:64],
        first[:-1],
        first[:-2],
        first + "A",
        first + "=",
        first + " ",
        first[:64] + second[64:-9],
    ):
        identity.refused(altered, MCP, now)
    head, body, _ = first.split(".")
    identity.refused(f"{head}.{body}.{second.split('.')[2]}", MCP, now)


@pytest.mark.requirement("auth:token-cache")
def test_facts_are_remembered_for_a_bounded_number_of_tokens(identity: Identity) -> None:
    read = 0

    class Counting(AccessTokens):
        def read(self, token: str) -> TokenFacts:
            nonlocal read
            read += 1
            return super().read(token)

    tokens = Counting(identity.signing, identity.endpoints)
    small = replace(
        identity,
        verifier=Verifier(
            pepper=PEPPER, tokens=tokens, endpoints=identity.endpoints, clock=identity.clock, remembered=2
        ),
    )
    client, _ = a_client()
    now = world(client)
    minted = [identity.token(client) for _ in range(3)]  # ECDSA is randomised: three different tokens
    for token in (minted[0], minted[0], minted[0]):
        small.who(token, MCP, now)
    assert read == 1
    for token in (minted[1], minted[2], minted[0]):
        small.who(token, MCP, now)
    assert read == 4


@pytest.mark.requirement("auth:revocation")
def test_a_token_holds_no_longer_than_its_client(identity: Identity) -> None:
    client, _ = a_client()
    token = identity.token(client)
    identity.who(token, MCP, world(client))
    assert identity.refused(token, MCP, world(replace(client, revoked_at=START), epoch=2))
    assert identity.refused(token, MCP, world(epoch=3))
    identity.who(token, MCP, world(client, epoch=4))


@pytest.mark.requirement("auth:revocation")
@pytest.mark.parametrize(
    ("kind", "selector"), [("principal", "mcpgw|bot"), ("client", "bot-client"), ("issuer", "mcpgw")]
)
def test_a_token_issued_before_a_revocation_is_void_on_the_next_call(
    identity: Identity, kind: str, selector: str
) -> None:
    client, _ = a_client()
    token = identity.token(client)
    identity.who(token, MCP, world(client))
    assert identity.refused(token, MCP, world(client, Revocation(kind, selector, START + 0.5), epoch=2))
    identity.clock.now = START + 1
    identity.who(identity.token(client), MCP, world(client, Revocation(kind, selector, START + 0.5), epoch=2))


@pytest.mark.requirement("auth:revocation")
def test_scopes_are_those_of_the_token_that_the_client_still_has(identity: Identity) -> None:
    client, _ = a_client(roles=frozenset({"admin"}))
    token = identity.token(client, "/admin/v1", "keys:write audit:read mcp:use")
    assert identity.who(token, "/admin/v1", world(client)).scopes == {"keys:write", "audit:read"}
    fewer = world(replace(client, roles=frozenset({"auditor"})), epoch=2)
    assert identity.who(token, "/admin/v1", fewer).scopes == {"audit:read"}


# Everything else


@pytest.mark.requirement("auth:deny-on-error")
@pytest.mark.parametrize(
    ("scheme", "token"), [(None, None), ("bearer", None), ("bearer", ""), ("basic", "x"), ("", "x")]
)
def test_no_credential_is_nobody(identity: Identity, scheme: str | None, token: str | None) -> None:
    assert identity.refused(token, MCP, world(), scheme) == "no bearer credential"


@pytest.mark.requirement("auth:deny-on-error")
@given(st.one_of(st.text(), st.text().map(lambda t: f"mcpgw_{t}"), st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*")))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_text_is_anything_but_unauthenticated(identity: Identity, token: str) -> None:
    key, _ = agent_key()
    client, _ = a_client()
    identity.refused(token, MCP, world(key, client))


@pytest.mark.requirement("auth:deny-on-error")
@pytest.mark.parametrize(
    "fault",
    [
        JoseError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        ZeroDivisionError,
        RecursionError,
        RuntimeError,
        UnicodeError,
    ],
)
def test_a_fault_while_reading_a_token_denies(identity: Identity, fault: type[Exception]) -> None:
    class Faulty(AccessTokens):
        def read(self, token: str) -> TokenFacts:
            raise fault("a secret of the library")

    tokens = Faulty(identity.signing, identity.endpoints)
    verifier = Verifier(pepper=PEPPER, tokens=tokens, endpoints=identity.endpoints, clock=identity.clock)
    client, _ = a_client()
    with pytest.raises(Unauthenticated, match="cannot be read") as refusal:
        outcome(verifier.verify(Presented(scheme="bearer", token=identity.token(client)), MCP, world(client)))
    assert refusal.value.__cause__ is None


def test_a_development_gateway_lets_everyone_do_everything() -> None:
    who = outcome(DevVerifier().verify(Presented(), MCP, world()))
    assert who.scopes == AGENT_SCOPES | ADMIN_SCOPES
    assert who.roles == {"agent", "admin"}


@pytest.mark.requirement("auth:key-timing")
def test_an_unknown_key_takes_the_time_of_a_wrong_secret(identity: Identity) -> None:
    """Welch's t below 4.5 with fresh inputs, as dudect has it; the slowest tenth (the machine's doing) is left out."""
    known = [agent_key()[0] for _ in range(500)]
    assert any(abs(welch_t(*timings(identity, world(*known), [key.id for key in known]))) < 4.5 for _ in range(4))


def timings(identity: Identity, now: World, known: list[str]) -> tuple[list[int], list[int]]:
    """Nanoseconds of refusals: of wrong secrets under known ids, and of unknown ids."""
    taken: tuple[list[int], list[int]] = ([], [])
    tries = [(n % 2, keys.new_secret(keys.new_id() if n % 2 else random.choice(known))[0]) for n in range(5_000)]
    random.shuffle(tries)
    for which, text in tries:
        presented = Presented(scheme="bearer", token=text)
        started = time.perf_counter_ns()
        try:
            identity.verifier.verify(presented, MCP, now).send(None)
        except Unauthenticated:
            taken[which].append(time.perf_counter_ns() - started)
    low, high = (sorted(times)[: len(times) * 9 // 10] for times in taken)
    return low, high


def welch_t(a: list[int], b: list[int]) -> float:
    spread = statistics.variance(a) / len(a) + statistics.variance(b) / len(b)
    return float((statistics.fmean(a) - statistics.fmean(b)) / spread**0.5)


def test_another_gateways_keys_are_not_ours(identity: Identity, tmp_path: Path) -> None:
    other = Identity.at(tmp_path / "other")
    client, _ = a_client()
    assert other.signing.kid != identity.signing.kid
    assert identity.refused(other.token(client), MCP, world(client)) == (
        "the access token is signed with a key that is not ours"
    )
