"""Sign-in at a provider that lies: every lie is refused, and nobody is signed in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from starlette.applications import Starlette

from mcpgw.auth.upstream.exchange import ProvidedTokens
from mcpgw.auth.upstream.tokens import holder
from tests.auth.authorization_server import Server, serving, told
from tests.auth.parts import BASE, b64
from tests.auth.web_site import Site, json_page, site

CLIENT, SECRET, CODE, ACCESS = "mcpgw-here", "canary-provider-secret", "canary-code", "canary-access-token"
KEY = ECKey.generate_key("P-256", {"kid": "one"})
OTHER = ECKey.generate_key("P-256", {"kid": "one"})
RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
Claims = dict[str, Any]


class House:
    """A gateway whose people sign in at `web`, and one browser."""

    def __init__(self, server: Server, web: Site, http: httpx2.AsyncClient) -> None:
        self.server = server
        self.web = web
        self.http = http
        self.asked: Mapping[str, str] = {}

    async def begin(self) -> None:
        """Go to the provider as a browser would in which nobody is signed in."""
        if "__Host-mcpgw-session" in self.http.cookies:
            self.http.cookies.delete("__Host-mcpgw-session")
        page = await self.http.get("/oauth/sign-in")
        (link,) = re.findall(r'href="(/oauth/sign-in/provider\?form=[^"]+)"', page.text)
        sent = await self.http.get(html.unescape(link))
        assert sent.status_code == 303, sent.text
        assert sent.headers["location"].startswith(f"{self.web.base}/auth?")
        self.asked = dict(parse_qsl(urlsplit(sent.headers["location"]).query))

    def claims(self, **changed: Any) -> Claims:
        """Good claims of ada, but for what `changed` says (None: left out)."""
        now = int(self.server.clock.now)
        half = hashlib.sha256(ACCESS.encode()).digest()[:16]
        good: Claims = {
            "iss": self.web.base,
            "sub": "ada",
            "aud": CLIENT,
            "azp": CLIENT,
            "exp": now + 300,
            "iat": now,
            "nonce": self.asked["nonce"],
            "at_hash": b64(half),
            "name": "Ada",
            "email": "ada@example.org",
            "email_verified": True,
        }
        return {name: value for name, value in {**good, **changed}.items() if value is not None}

    def provides(self, id_token: str | None = None, **more: Any) -> None:
        """Let the token endpoint give this."""
        tokens = {"access_token": ACCESS, "token_type": "Bearer", "id_token": id_token, **more}
        self.web.pages["/token"] = json_page({name: value for name, value in tokens.items() if value is not None})

    async def back(self, **changed: str | None) -> httpx2.Response:
        """Come back from the provider, with a good answer but for what is changed."""
        good = {"code": CODE, "state": self.asked["state"], "iss": self.web.base}
        answer = {name: value for name, value in {**good, **changed}.items() if value is not None}
        return await self.http.get(f"/oauth/sign-in/callback?{urlencode(answer)}")

    def refused(self, answer: httpx2.Response) -> str:
        """Return why the log says that nobody is signed in; the page does not repeat a secret."""
        assert answer.status_code >= 400, answer.text
        assert "__Host-mcpgw-session" not in answer.headers.get("set-cookie", "")
        entry = self.server.log.entries[-1]
        assert (entry.event, entry.principal) == ("sign_in", None)
        for secret in (SECRET, CODE, ACCESS):
            assert secret not in answer.text + told(self.server)
        return str(entry.detail["reason"])

    def accounts(self) -> list[str]:
        return [f"{a.issuer}|{a.subject}" for a in self.server.worlds.current.state.accounts]


def signed(claims: Claims, key: Any = KEY, **header: Any) -> str:
    head = {"alg": "ES256", "kid": "one", "typ": "JWT", **header}
    return jwt.encode({k: v for k, v in head.items() if v is not None}, claims, key, [head["alg"]])


def keys() -> dict[str, Any]:
    return {"keys": [{**key.as_dict(private=False), "use": "sig"} for key in (KEY, RSA)]}


@asynccontextmanager
async def house(home: Path, monkeypatch: pytest.MonkeyPatch, **sign_in: Any) -> AsyncIterator[House]:
    monkeypatch.setenv("OPENID_SECRET", SECRET)
    async with site() as web:
        section = {"issuer": web.base, "client_id": CLIENT, "client_secret": "env:OPENID_SECRET", **sign_in}
        web.pages["/.well-known/openid-configuration"] = json_page(metadata(web))
        web.pages["/jwks"] = json_page(keys())
        async with serving(home, sign_in=section, local_users=False) as server:
            app = Starlette(routes=server.identity.routes())
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=BASE) as http:
                yield House(server, web, http)


def metadata(web: Site, **changed: Any) -> dict[str, Any]:
    return {
        "issuer": web.base,
        "authorization_endpoint": f"{web.base}/auth",
        "token_endpoint": f"{web.base}/token",
        "jwks_uri": f"{web.base}/jwks",
        "authorization_response_iss_parameter_supported": True,
        **changed,
    }


@pytest.mark.requirement("front:provider")
async def test_whom_the_provider_names_gets_an_account_and_a_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, monkeypatch) as there:
        await there.begin()
        assert there.asked["code_challenge_method"] == "S256" and len(there.asked["code_challenge"]) == 43
        assert there.asked["redirect_uri"] == f"{BASE}/oauth/sign-in/callback"
        there.provides(signed(there.claims()))
        answer = await there.back()
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/")
        assert there.accounts() == [f"{there.web.base}|ada"]
        page = await there.http.get("/console/")
        assert "<h1>Ada</h1>" in page.text

        form = dict(parse_qsl(there.web.bodies[there.web.asked.index("POST /token")]))
        verifier = form.pop("code_verifier")
        challenge = b64(hashlib.sha256(verifier.encode()).digest())
        assert challenge == there.asked["code_challenge"]
        assert form == {
            "grant_type": "authorization_code",
            "code": CODE,
            "redirect_uri": f"{BASE}/oauth/sign-in/callback",
        }
        basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        assert f"authorization: Basic {basic}" in there.web.heads[there.web.asked.index("POST /token")]
        (entry,) = [entry for entry in there.server.log.entries if entry.event == "sign_in"]
        assert (entry.outcome, entry.principal) == ("ok", f"{there.web.base}|ada")


@pytest.mark.requirement("front:provider")
async def test_what_the_provider_says_now_is_what_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {"role_claim": "groups", "role_map": {"staff": ["agent"], "chiefs": ["admin"]}, "default_roles": []}
    async with house(tmp_path, monkeypatch, **rules, team_claim="team") as there:
        for groups, roles, team in ((["staff"], {"agent"}, "research"), (["staff", "chiefs"], {"agent", "admin"}, "b")):
            await there.begin()
            there.provides(signed(there.claims(groups=groups, team=team)))
            assert (await there.back()).status_code == 303
            (account,) = there.server.worlds.current.state.accounts
            assert (account.roles, account.team, account.email) == (roles, team, "ada@example.org")
        await there.begin()
        there.provides(signed(there.claims(groups=["visitors"])))
        assert "no role" in there.refused(await there.back())


LIES: list[tuple[str, dict[str, Any]]] = [
    ("another issuer", {"iss": "https://other.example"}),
    ("the issuer with a slash", {"iss": "+/"}),
    ("no issuer", {"iss": None}),
    ("another audience", {"aud": "another-client", "azp": None}),
    ("no audience", {"aud": None}),
    ("two audiences without azp", {"aud": [CLIENT, "another-client"], "azp": None}),
    ("azp of another client", {"azp": "another-client"}),
    ("another nonce", {"nonce": "another"}),
    ("no nonce", {"nonce": None}),
    ("expired", {"exp": -10}),
    ("no expiry", {"exp": None}),
    ("expiry as text", {"exp": "tomorrow"}),
    ("issued in the future", {"iat": 600}),
    ("no time of issue", {"iat": None}),
    ("not valid yet", {"nbf": 600}),
    ("hash of another access token", {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}),
    ("no subject", {"sub": None}),
    ("a subject that is a number", {"sub": 7}),
    ("a subject with a control character", {"sub": "ada\n"}),
    ("an empty subject", {"sub": ""}),
]


@pytest.mark.requirement("front:provider-lies")
async def test_an_id_token_with_a_claim_that_is_not_so_signs_nobody_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, monkeypatch) as there:
        for lie, changed in LIES:
            await there.begin()
            now = int(there.server.clock.now)
            moved = {n: now + v for n, v in changed.items() if n in {"exp", "iat", "nbf"} and isinstance(v, int)}
            if changed.get("iss") == "+/":
                moved = {"iss": f"{there.web.base}/"}
            there.provides(signed(there.claims(**{**changed, **moved})))
            assert there.refused(await there.back()), lie
        assert there.accounts() == []


@pytest.mark.requirement("front:provider-lies")
async def test_an_id_token_with_another_signature_signs_nobody_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, monkeypatch, algorithms=["ES256"]) as there:

        def forged(claims: Claims) -> list[str | None]:
            head, body, signature = signed(claims).split(".")
            none = b64(b'{"alg":"none","kid":"one"}')
            shared = b64(b'{"alg":"HS256","kid":"one"}') + f".{body}"
            mac = b64(hmac.digest(KEY.as_pem(private=False), shared.encode(), "sha256"))
            return [
                None,
                "",
                "a.b.c",
                f"{none}.{body}.",
                f"{none}.{body}.{signature}",
                f"{head}.{body}.{signature[:-4]}AAAA",
                f"{head}.{body[:-2]}.{signature}",
                f"{head}.{body}.{signature}=",
                signed(claims, OTHER),
                f"{shared}.{mac}",
                signed(claims, RSA, alg="RS256", kid="rsa"),
                signed(claims, kid="unknown"),
                signed(claims, kid=None),
                signed(claims, typ="at+jwt"),
                signed(claims, OTHER, jwk=OTHER.as_dict(private=False)),
                signed(claims, jku=f"{there.web.base}/other-jwks"),
                signed(claims, x5u=f"{there.web.base}/other.pem"),
            ]

        await there.begin()
        count = len(forged(there.claims()))
        for number in range(count):
            await there.begin()
            there.provides(forged(there.claims())[number])
            assert there.refused(await there.back()), number
        assert there.accounts() == []
        assert not [asked for asked in there.web.asked if "other" in asked]


@pytest.mark.requirement("front:provider-state")
async def test_a_state_counts_once_for_a_while_and_in_the_browser_that_it_was_made_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, monkeypatch) as there:
        await there.begin()
        there.provides(signed(there.claims()))
        app = Starlette(routes=there.server.identity.routes())
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=BASE) as other:
            await other.get("/oauth/sign-in")  # a browser with a visit of its own
            stolen = House(there.server, there.web, other)
            stolen.asked = there.asked
            assert "another browser" in there.refused(await stolen.back())
        assert "unknown state" in there.refused(await there.back())  # spent by whoever came first

        await there.begin()
        there.provides(signed(there.claims()))
        assert (await there.back()).status_code == 303
        there.refused(await there.back())

        await there.begin()
        there.server.clock.now += 601
        there.refused(await there.back())
        for state in (None, "", "x", "x" * 200):
            there.refused(await there.back(state=state))


@pytest.mark.requirement("front:provider-state")
@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://other.example"},
        {"iss": None},
        {"code": None},
        {"code": ""},
        {"error": "access_denied", "code": None},
        {"error": "<script>alert(1)</script>", "code": None},
        {"error": "access_denied", "iss": "https://other.example"},
    ],
    ids=["mix-up", "no iss", "no code", "empty code", "denied", "unknown error", "denied by another"],
)
async def test_an_answer_of_another_provider_or_without_a_code_is_not_redeemed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None]
) -> None:
    async with house(tmp_path, monkeypatch) as there:
        await there.begin()
        there.provides(signed(there.claims()))
        answer = await there.back(**changed)
        there.refused(answer)
        assert "<script>" not in answer.text
        assert "POST /token" not in there.web.asked


@pytest.mark.requirement("front:provider-state")
async def test_a_parameter_that_comes_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path, monkeypatch) as there:
        await there.begin()
        there.provides(signed(there.claims()))
        twice = [("code", CODE), ("code", "other"), ("state", there.asked["state"]), ("iss", there.web.base)]
        there.refused(await there.http.get(f"/oauth/sign-in/callback?{urlencode(twice)}"))
        assert "POST /token" not in there.web.asked


@pytest.mark.requirement("front:provider-lies")
@pytest.mark.parametrize(
    "changed",
    [
        {"issuer": "https://other.example"},
        {"issuer": None},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"token_endpoint": "http://192.0.2.1/token"},
        {"token_endpoint": None},
    ],
    ids=["another issuer", "no issuer", "script", "plain http", "no token endpoint"],
)
async def test_metadata_that_are_of_another_or_lead_elsewhere_send_nobody_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    async with house(tmp_path, monkeypatch) as there:
        there.web.pages["/.well-known/openid-configuration"] = json_page(metadata(there.web, **changed))
        page = await there.http.get("/oauth/sign-in")
        (link,) = re.findall(r'href="(/oauth/sign-in/provider\?form=[^"]+)"', page.text)
        answer = await there.http.get(html.unescape(link))
        assert answer.status_code >= 400 and "location" not in answer.headers


@pytest.mark.requirement("front:provider")
async def test_what_the_id_token_leaves_out_is_asked_for_and_is_of_the_same_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, monkeypatch, verified_email=True) as there:
        more = {"userinfo_endpoint": f"{there.web.base}/me"}
        there.web.pages["/.well-known/openid-configuration"] = json_page(metadata(there.web, **more))
        told_there = {"sub": "ada", "name": "Ada L.", "email": "ada@example.org", "email_verified": True}
        for said, status in (({**told_there, "sub": "bob"}, 403), ({**told_there, "email_verified": False}, 403)):
            there.web.pages["/me"] = json_page(said)
            await there.begin()
            there.provides(signed(there.claims(name=None, email=None, email_verified=None)))
            answer = await there.back()
            there.refused(answer)
            assert answer.status_code == status
        there.web.pages["/me"] = json_page(told_there)
        await there.begin()
        there.provides(signed(there.claims(name=None, email=None, email_verified=None)))
        assert (await there.back()).status_code == 303
        (account,) = there.server.worlds.current.state.accounts
        assert (account.title, account.email) == ("Ada L.", "ada@example.org")


@pytest.mark.requirement("front:provider")
@pytest.mark.parametrize("keep", [True, False])
async def test_the_id_token_is_kept_sealed_where_that_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    async with house(tmp_path, monkeypatch, keep_tokens=keep) as there:
        await there.begin()
        token = signed(there.claims())
        there.provides(token)
        assert (await there.back()).status_code == 303
        (account,) = there.server.worlds.current.state.accounts
        kept = await ProvidedTokens(there.server.identity.vault).of(holder(account.issuer, account.subject))
        assert (kept.id_token if kept is not None else None) == (token if keep else None)
        assert token.encode() not in (tmp_path / "state.db").read_bytes()
