"""The gateway's own credentials for servers, and those that it has for each caller."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from mcpgw.auth.upstream.assertion import TYPE
from mcpgw.auth.upstream.exchange import Provided
from mcpgw.auth.vault import NEVER, SECRET, UPSTREAM
from mcpgw.domain import SYSTEM, AuthMode, Judged, Principal, Route, UpstreamAuth, Verb
from mcpgw.errors import GatewayError, Unavailable, UpstreamUnreachable
from tests.auth import upstreams
from tests.auth.parts import START, SettableClock
from tests.auth.upstreams import ALICE, BOB, Authority, Parts, account, judged, worker

MACHINE, EXCHANGE, ID_JAG = AuthMode.CLIENT_CREDENTIALS, AuthMode.TOKEN_EXCHANGE, AuthMode.ID_JAG


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    with upstreams.authority(tmp_path / "authority.log") as found:
        yield found


@pytest.fixture
async def parts(tmp_path: Path, authority: Authority) -> AsyncIterator[Parts]:
    async with worker(tmp_path) as found:
        authority.trust(found.signing)
        yield found


async def token(parts: Parts, what: Judged) -> str:
    headers = await parts.headers(what)
    assert list(headers) == ["authorization"]
    return headers["authorization"].removeprefix("Bearer ")


@pytest.mark.requirement("broker:client-credentials")
@pytest.mark.parametrize(("client", "named"), [("gw-jwt", True), ("gw-jwt", False), ("gw-basic", True)])
async def test_the_gateway_gets_a_token_of_its_own_for_the_very_server(
    authority: Authority, parts: Parts, client: str, named: bool
) -> None:
    await parts.named("client", upstreams.SECRET, authority.issuer)
    auth = authority.auth(
        MACHINE,
        client_id=client,
        client_secret="vault:client" if client == "gw-basic" else None,
        issuer=authority.issuer if named else None,
    )
    what = judged(authority.resource("notes"), auth)
    found = await token(parts, what)
    issued = authority.about("issued")
    assert list(issued) == [found]
    assert issued[found] | {"expires_at": 0} == {
        "sub": client,
        "client_id": client,
        "resource": authority.resource("notes"),
        "scope": "notes:read",
        "grant_type": "client_credentials",
        "expires_at": 0,
    }
    assert await token(parts, replace(what, principal=BOB)) == found, "it is the gateway's, not the caller's"
    assert len(authority.about("issued")) == 1


@pytest.mark.requirement("broker:exchange")
@pytest.mark.parametrize("mode", [EXCHANGE, ID_JAG])
async def test_each_caller_gets_a_token_for_what_stands_for_them(
    authority: Authority, parts: Parts, mode: AuthMode
) -> None:
    endpoint, auth = authority.resource("notes"), authority.auth(mode)
    alice, bob = [await token(parts, judged(endpoint, auth, who)) for who in (ALICE, BOB)]
    assert await token(parts, judged(endpoint, auth, ALICE)) == alice
    issued = authority.about("issued")
    assert issued[alice]["sub"] == "https://idp.example|alice"
    assert issued[bob]["sub"] == "https://idp.example|bob"
    assert {one["resource"] for one in issued.values()} == {endpoint}
    assert len(issued) == 2


@pytest.mark.requirement("broker:exchange")
@pytest.mark.parametrize(
    "other",
    [
        {"issuer": "https://other.example"},
        {"issuer": "https://idp.example|alice", "subject": ""},
        {"client_id": "another"},
        {"roles": frozenset({"agent", "admin"})},
        {"team": "sales"},
        {"actors": ("mcpgw|helper",)},
    ],
)
async def test_whoever_differs_in_anything_that_the_token_says_gets_another(
    authority: Authority, parts: Parts, other: dict[str, Any]
) -> None:
    endpoint, auth = authority.resource("notes"), authority.auth(EXCHANGE)
    one = await token(parts, judged(endpoint, auth, ALICE))
    two = await token(parts, judged(endpoint, auth, replace(ALICE, **other)))
    assert one != two


@pytest.mark.requirement("broker:exchange")
@pytest.mark.parametrize("mode", [EXCHANGE, ID_JAG])
async def test_what_the_identity_provider_gave_at_the_sign_in_stands_for_a_caller(
    authority: Authority, parts: Parts, mode: AuthMode
) -> None:
    auth, endpoint = authority.auth(mode, subject="identity_provider"), authority.resource("notes")
    for who in (ALICE, BOB):
        given = Provided(issuer=authority.issuer, id_token=authority.id_token(f"{who.subject}@idp"))
        await parts.provided.keep(account(who), given, NEVER)
    found = [await token(parts, judged(endpoint, auth, who)) for who in (ALICE, BOB)]
    issued = authority.about("issued")
    assert [issued[one]["sub"] for one in found] == ["alice@idp", "bob@idp"]
    assert {one["resource"] for one in issued.values()} == {endpoint}
    # The gateway itself asks a server for its tools in the name of whoever published the version.
    own = judged(endpoint, auth, SYSTEM, route=Route.SYSTEM)
    assert own.version is not None
    own = replace(own, version=replace(own.version, published_by=ALICE.selector))
    asked_with = await token(parts, own)
    assert authority.about("issued")[asked_with]["sub"] == "alice@idp"


@pytest.mark.requirement("broker:exchange")
async def test_whom_no_identity_provider_vouches_for_gets_nothing_in_its_name(
    authority: Authority, parts: Parts
) -> None:
    auth = authority.auth(EXCHANGE, subject="identity_provider")
    with pytest.raises(UpstreamUnreachable, match="not signed in"):
        await parts.headers(judged(authority.resource("notes"), auth))
    assert authority.about("issued") == {}


@pytest.mark.requirement("broker:assertion")
async def test_an_assertion_says_who_calls_for_a_minute_and_our_keys_verify_it(tmp_path: Path) -> None:
    clock = SettableClock()
    auth = UpstreamAuth(mode=AuthMode.ASSERTION, audience="https://internal.example")
    who = replace(ALICE, actors=("mcpgw|helper", "https://idp.example|carol"))
    async with worker(tmp_path, clock) as parts:
        what = judged("https://internal.example/mcp", auth, who)
        text = await token(parts, what)
        read = jwt.decode(text, KeySet.import_key_set(parts.signing.jwks()), ["ES256"])
        assert read.header["typ"] == TYPE
        jti = read.claims.pop("jti")
        assert read.claims == {
            "iss": upstreams.BASE,
            "sub": "https://idp.example|alice",
            "aud": "https://internal.example",
            "client_id": "agent",
            "team": "research",
            "roles": ["agent"],
            "act": {
                "iss": "mcpgw",
                "sub": "helper",
                "act": {"iss": "https://idp.example", "sub": "carol"},
            },
            "iat": int(START),
            "exp": int(START) + 60,
        }
        assert await token(parts, what) == text
        for other in (replace(who, subject="bob"), replace(who, actors=()), replace(who, roles=frozenset())):
            assert await token(parts, replace(what, principal=other)) != text
        clock.now += 31
        assert jti not in await token(parts, what)
        assert await token(parts, what) != text
        ours = replace(who, issuer="mcpgw", subject="bob")
        said = jwt.decode(
            await token(parts, replace(what, principal=ours)), KeySet.import_key_set(parts.signing.jwks()), ["ES256"]
        )
        assert said.claims["sub"] == "bob"


@pytest.mark.requirement("broker:static")
async def test_secret_headers_come_from_where_they_are_kept_and_follow_a_change_there(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_TOOLS_KEY", "from-the-environment")
    await parts.named("tools", "Bearer from-the-vault", "https://tools.example")
    headers = {"authorization": "vault:tools", "x-api-key": "env:TEST_TOOLS_KEY", "x-team": "research"}
    auth = UpstreamAuth(mode=AuthMode.STATIC, headers=headers)
    what = judged("https://tools.example/mcp", auth)
    assert await parts.headers(what) == {
        "authorization": "Bearer from-the-vault",
        "x-api-key": "from-the-environment",
        "x-team": "research",
    }
    await parts.named("tools", "Bearer newer", "https://tools.example")
    assert (await parts.headers(replace(what, epoch=2)))["authorization"] == "Bearer newer"
    await parts.vault.drop(SECRET, "gateway")
    with pytest.raises(Unavailable) as refusal:
        await parts.headers(replace(what, epoch=3))
    assert "tools" not in str(refusal.value)


@pytest.mark.requirement("broker:static")
@pytest.mark.parametrize("endpoint", ["https://evil.example/mcp", "https://tools.example:8443/mcp"])
async def test_a_named_secret_goes_nowhere_but_to_its_origins(
    parts: Parts, authority: Authority, endpoint: str
) -> None:
    await parts.named("tools", "Bearer canary", "https://tools.example", "https://as.example")
    header = UpstreamAuth(mode=AuthMode.STATIC, headers={"authorization": "vault:tools"})
    for auth in (header, authority.auth(MACHINE, client_id="gw-basic", client_secret="vault:tools")):
        with pytest.raises(Unavailable, match="origin"):
            await parts.headers(judged(endpoint, auth))


@pytest.mark.requirement("broker:dispatch")
@pytest.mark.parametrize("verb", [Verb.TOOLS_LIST, Verb.PING, Verb.INITIALIZED])
async def test_what_the_gateway_answers_itself_needs_no_credential(
    authority: Authority, parts: Parts, verb: Verb
) -> None:
    what = judged(authority.resource("notes"), authority.auth(EXCHANGE), verb=verb)
    assert await parts.headers(what) == {}
    assert authority.about("issued") == {}
    own = judged(authority.resource("notes"), authority.auth(MACHINE), verb=verb, route=Route.SYSTEM)
    assert list(await parts.headers(own)) == ["authorization"]


@pytest.mark.requirement("broker:dispatch")
async def test_a_mode_that_is_not_there_sends_nothing(parts: Parts) -> None:
    auth = UpstreamAuth(mode=AuthMode.USER)
    with pytest.raises(GatewayError):
        await parts.headers(judged("https://tools.example/mcp", auth))
    assert await parts.headers(judged("https://tools.example/mcp", UpstreamAuth(mode=AuthMode.NONE))) == {}


@pytest.mark.requirement("broker:at-hand")
async def test_a_token_at_hand_is_found_without_waiting(authority: Authority, parts: Parts) -> None:
    for mode in (MACHINE, EXCHANGE):
        what = judged(authority.resource("notes"), authority.auth(mode))
        first = await parts.headers(what)
        call = parts.broker.credential_for(what)
        with pytest.raises(StopIteration) as done:
            call.send(None)  # whatever it would wait for would be returned here
        assert done.value.value is first


@pytest.mark.requirement("broker:at-hand")
async def test_many_who_need_a_token_at_once_ask_for_one_over_all_workers(
    authority: Authority, parts: Parts, tmp_path: Path
) -> None:
    found: list[str] = []
    what = judged(authority.resource("notes"), authority.auth(MACHINE))

    async def one(of: Parts) -> None:
        found.append(await token(of, what))

    async with worker(tmp_path) as other, anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(one, (parts, other)[number % 2])
    assert len(found) == 100
    assert len(set(found)) == 1
    assert list(authority.about("issued")) == [found[0]]
    async with worker(tmp_path) as started_later:
        assert await token(started_later, what) == found[0]


@pytest.mark.requirement("broker:at-hand")
async def test_whoever_gives_up_waiting_leaves_the_others_their_token(authority: Authority, parts: Parts) -> None:
    what = judged(authority.resource("notes"), authority.auth(MACHINE))
    found: list[str] = []

    async def one() -> None:
        found.append(await token(parts, what))

    async with anyio.create_task_group() as group:
        with anyio.move_on_after(0.0001):
            await parts.headers(what)
        for _ in range(3):
            group.start_soon(one)
    assert len(set(found)) == 1
    assert len(authority.about("issued")) == 1


@pytest.mark.requirement("broker:at-hand")
async def test_a_token_is_replaced_before_its_end_while_calls_go_on(authority: Authority, tmp_path: Path) -> None:
    clock = SettableClock()
    async with worker(tmp_path, clock) as parts:
        authority.trust(parts.signing)
        what = judged(authority.resource("notes"), authority.auth(MACHINE))
        first = await token(parts, what)
        clock.now += 239
        assert await token(parts, what) == first
        clock.now += 2  # a fifth of its 300 s is left
        assert await token(parts, what) == first, "nobody waits for the other one"
        with anyio.fail_after(10):
            while await token(parts, what) == first:
                await anyio.sleep(0.01)
        assert len(authority.about("issued")) == 2
        clock.now += 400
        assert await token(parts, what) not in {first, None}


@pytest.mark.requirement("broker:refused")
async def test_a_token_that_its_server_refused_is_never_sent_again(
    authority: Authority, parts: Parts, tmp_path: Path
) -> None:
    what = judged(authority.resource("notes"), authority.auth(MACHINE))
    sent = await parts.headers(what)
    async with worker(tmp_path) as other:
        await other.headers(what)
        await parts.broker.refused(what, sent, "")
        second = await parts.headers(what)
        assert second != sent
        await parts.broker.refused(what, sent, "")  # another call of the same moment says so too
        assert await parts.headers(what) == second
        await other.broker.refused(what, sent, "")
        assert await other.headers(what) == second


@pytest.mark.requirement("broker:at-hand")
async def test_an_authorization_server_that_refuses_is_named_by_its_error_and_not_asked_by_every_call(
    authority: Authority, tmp_path: Path
) -> None:
    clock = SettableClock()
    async with worker(tmp_path, clock) as parts:
        await parts.named("wrong", "canary-wrong-secret", authority.issuer)
        auth = authority.auth(MACHINE, client_id="gw-basic", client_secret="vault:wrong")
        for _ in range(3):
            with pytest.raises(UpstreamUnreachable, match="invalid_client") as refusal:
                await parts.headers(judged(authority.resource("notes"), auth))
            assert "canary" not in str(refusal.value)
            assert refusal.value.data["reason"] == "no_credential"
        await parts.named("wrong", upstreams.SECRET, authority.issuer)
        clock.now += 2
        assert await token(parts, judged(authority.resource("notes"), auth)) in authority.about("issued")


@pytest.mark.requirement("broker:own-credential")
async def test_nobody_ever_gets_the_credential_of_another_in_ten_thousand_calls_with_refreshes(
    tmp_path: Path,
) -> None:
    """Calls of 20 users over two workers and four servers, while tokens end after two seconds and some are refused."""
    people = [replace(ALICE, subject=f"user-{n}", client_id=f"client-{n % 3}") for n in range(20)]
    done: Counter[str] = Counter()
    with upstreams.authority(tmp_path / "authority.log", ttl_s=2.0) as authority:
        kinds = [
            (name, authority.auth(mode))
            for name, mode in (("a", EXCHANGE), ("b", ID_JAG), ("c", MACHINE), ("d", AuthMode.ASSERTION))
        ]
        seen: dict[str, tuple[str, str]] = {}

        async def calls(of: Parts, number: int) -> None:
            choose = random.Random(number)
            for _ in range(250):
                who, (name, auth) = choose.choice(people), choose.choice(kinds)
                what = judged(authority.resource(name), auth, who)
                headers = await of.headers(what)
                expected = ("gw-jwt" if name == "c" else who.key, name)
                assert seen.setdefault(headers["authorization"], expected) == expected
                if choose.random() < 0.004:
                    await of.broker.refused(what, headers, "")
                done[name] += 1
                if choose.random() < 0.05:
                    await anyio.sleep(choose.random() / 10)

        async with worker(tmp_path) as one, worker(tmp_path) as two:
            authority.trust(one.signing)
            with anyio.fail_after(120):
                async with anyio.create_task_group() as group:
                    for number in range(40):
                        group.start_soon(calls, (one, two)[number % 2], number)
        issued = authority.about("issued")
        assert done.total() == 10_000
        for text, (whose, name) in seen.items():
            if name != "d":
                told = issued[text.removeprefix("Bearer ")]
                subject = "gw-jwt" if name == "c" else _subject_of(people, whose)
                assert (told["sub"], told["resource"]) == (subject, authority.resource(name))
        assert len(issued) > 2 * 20 + 1, "tokens were had anew meanwhile"


def _subject_of(people: list[Principal], key: str) -> str:
    return next(who.selector for who in people if who.key == key)


@pytest.mark.requirement("broker:sealed")
async def test_no_file_of_the_gateway_holds_a_token_or_a_secret(
    authority: Authority, parts: Parts, tmp_path: Path
) -> None:
    await parts.named("client", upstreams.SECRET, authority.issuer)
    auth = authority.auth(MACHINE, client_id="gw-basic", client_secret="vault:client")
    texts = [upstreams.SECRET, await token(parts, judged(authority.resource("notes"), auth))]
    texts.append(await token(parts, judged(authority.resource("notes"), authority.auth(EXCHANGE))))
    assert len(await parts.vault.ids(UPSTREAM)) == 2
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert not any(text.encode() in file.read_bytes() for text in texts), file
    assert not any(text in json.dumps(repr(vars(parts.tokens))) for text in texts)
