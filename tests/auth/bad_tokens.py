"""Credentials that are not good, as data: what is shown, where, and what a gateway answers and records.

A row is added by one line: a name, and a function of `Scene` that makes the token, or the headers.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey

from mcpgw.auth.signing import SigningKeys
from tests.auth.provider import Key, Provider, b64, key_of, signed

MCP, LLM, ADMIN = "/mcp", "/v1/models", "/admin/v1/servers"
Headers = Mapping[str, str]


@dataclass(frozen=True)
class Scene:
    """A gateway at `base` that trusts the issuers `a` (ES256, introspects) and `b` (RS256, wants a `tid`), not `c`.

    `client_id` is a client of its own authorization server, `key` an API key of an agent.
    """

    base: str
    a: Provider
    b: Provider
    c: Provider
    signing: SigningKeys
    client_id: str
    key: str
    now: float

    @property
    def mcp(self) -> str:
        return self.base + "/mcp"

    def claims(self, **changed: Any) -> dict[str, Any]:
        return self.a.claims(self.mcp, self.now, **changed)

    def of_a(self, header: Mapping[str, Any] | None = None, **changed: Any) -> str:
        """Return a token that `a` signed."""
        return self.a.token(self.claims(**changed), **(header or {}))

    def own(self, header: Mapping[str, Any] | None = None, **changed: Any) -> str:
        """Return a token that the gateway itself signed."""
        issued_at = int(self.now)
        good = {
            "iss": self.base,
            "sub": self.client_id,
            "aud": self.mcp,
            "client_id": self.client_id,
            "scope": "mcp:use",
            "jti": "jti-of-ours",
            "iat": issued_at,
            "exp": issued_at + 600,
        }
        claims = {name: value for name, value in {**good, **changed}.items() if value is not None}
        head = {"alg": "ES256", "typ": "at+jwt", "kid": self.signing.kid, **(header or {})}
        return signed({n: v for n, v in head.items() if v is not None}, claims, self.signing.current, "ES256")


@dataclass(frozen=True)
class Bad:
    """A row. `reason` stands in the record, and in the answer's error where there is one."""

    name: str
    shown: Callable[[Scene], str | Headers]
    reason: str
    path: str = MCP
    status: int = 401


def raw(scene: Scene, body: bytes, header: bytes | None = None) -> str:
    head = header or json.dumps({"alg": "ES256", "typ": "at+jwt", "kid": scene.a.kid}).encode()
    return signed(head, body, scene.a.key, "ES256")


def with_secret(scene: Scene, secret: bytes, bits: int = 256) -> str:
    """Return a token signed with what everybody knows, as a secret."""
    header = {"alg": f"HS{bits}", "typ": "at+jwt", "kid": scene.a.kid}
    message = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(scene.claims()).encode())}"
    return f"{message}.{b64(hmac.digest(secret, message.encode(), f'sha{bits}'))}"


def pem(key: Key) -> bytes:
    return key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def unsigned(scene: Scene, alg: str) -> str:
    head = b64(json.dumps({"alg": alg, "typ": "at+jwt", "kid": scene.a.kid}).encode())
    return f"{head}.{b64(json.dumps(scene.claims()).encode())}."


def parts(token: str, **changed: str) -> str:
    head, body, signature = token.split(".")
    return ".".join([changed.get("head", head), changed.get("body", body), changed.get("signature", signature)])


def last_changed(token: str) -> str:
    """Return a token whose signature differs in a bit that counts."""
    place = len(token) - 10
    return token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]


def surplus(token: str) -> str:
    """Return the same bytes in another spelling: with surplus bits that are not zero (RFC 4648 §3.5)."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1]


def opaque(scene: Scene, name: str, **answer: Any) -> str:
    scene.a.opaque[name] = {"active": True, "token_type": "Bearer", **scene.claims(), **answer}
    scene.a.opaque[name] = {n: v for n, v in scene.a.opaque[name].items() if v is not None}
    return name


def chain(length: int) -> dict[str, Any]:
    return {"sub": "a", **({"act": chain(length - 1)} if length > 1 else {})}


def foreign_own(scene: Scene) -> str:
    """Return what would be a token of ours, had we signed it."""
    stranger = key_of("ES256", 42)
    assert isinstance(stranger, ECKey)
    good = scene.own()
    head, body, _ = good.split(".")
    return f"{head}.{body}.{signed(b'{}', b'{}', stranger, 'ES256').split('.')[2]}"


def bearer(token: str, **others: str) -> Headers:
    return {"Authorization": f"Bearer {token}", **{name.replace("_", "-"): value for name, value in others.items()}}


AUDIENCE = "for another audience"
UNREADABLE = "cannot be read"
ALGORITHM = "an algorithm that is not allowed"
HEADER = "names a key to trust"
KEY = "does not publish"
SIGNATURE = "signature does not hold"
KIND = "is missing, or not of its kind"
ISSUER = "an issuer that does not count here"
TYPE = "of another type"
OURS = "a header that ours do not have"
NOTHING = "no bearer credential"

FOR_OTHERS = [
    Bad("for another host", lambda s: s.of_a(aud="https://other.example/mcp"), AUDIENCE),
    Bad("for another port", lambda s: s.of_a(aud=s.base + "1/mcp"), AUDIENCE),
    Bad("for the gateway as a whole", lambda s: s.of_a(aud=s.base), AUDIENCE),
    Bad("for the endpoint with a slash", lambda s: s.of_a(aud=s.mcp + "/"), AUDIENCE),
    Bad("for the endpoint with a query", lambda s: s.of_a(aud=s.mcp + "?x"), AUDIENCE),
    Bad("for the admin API, at /mcp", lambda s: s.of_a(aud=s.base + "/admin/v1"), AUDIENCE),
    Bad("for /mcp, at the admin API", lambda s: s.of_a(), AUDIENCE, ADMIN),
    Bad("for /mcp, at /v1", lambda s: s.of_a(), AUDIENCE, LLM),
    Bad("for /v1, at /mcp", lambda s: s.of_a(aud=s.base + "/v1"), AUDIENCE),
    Bad("for one server, at /mcp", lambda s: s.of_a(aud=s.mcp + "/notes"), AUDIENCE),
    Bad("for one server, at another", lambda s: s.of_a(aud=s.mcp + "/notes"), AUDIENCE, "/mcp/other"),
    Bad("for us and others", lambda s: s.of_a(aud=[s.mcp, "https://other.example"]), AUDIENCE),
    Bad("for nobody", lambda s: s.of_a(aud=[]), AUDIENCE),
    Bad("without an audience", lambda s: s.of_a(aud=None), AUDIENCE),
    Bad("for a number", lambda s: s.of_a(aud=1), AUDIENCE),
    Bad("for an object", lambda s: s.of_a(aud={"mcp": s.mcp}), AUDIENCE),
    Bad("for a list in a list", lambda s: s.of_a(aud=[[s.mcp]]), AUDIENCE),
    Bad("with our audience as its client", lambda s: s.of_a(aud="app", azp=s.mcp), AUDIENCE),
]
ALGORITHMS = [
    Bad("alg none", lambda s: unsigned(s, "none"), UNREADABLE),
    Bad("alg none, signed", lambda s: s.of_a({"alg": "none"}), ALGORITHM),
    Bad("alg NONE", lambda s: s.of_a({"alg": "NONE"}), ALGORITHM),
    Bad("alg missing", lambda s: s.of_a({"alg": None}), ALGORITHM),
    Bad("alg a number", lambda s: s.of_a({"alg": 256}), ALGORITHM),
    Bad("alg a list", lambda s: s.of_a({"alg": ["ES256"]}), ALGORITHM),
    Bad("alg in lower case", lambda s: s.of_a({"alg": "es256"}), ALGORITHM),
    Bad("HS256 with the public key", lambda s: with_secret(s, pem(s.a.key)), ALGORITHM),
    Bad("HS256 with the published JWK", lambda s: with_secret(s, json.dumps(s.a.keys[0]).encode()), ALGORITHM),
    Bad("HS512 with the issuer's name", lambda s: with_secret(s, s.a.issuer.encode(), 512), ALGORITHM),
    Bad("ES256K", lambda s: s.of_a({"alg": "ES256K"}), ALGORITHM),
    Bad("said to be RS256", lambda s: s.of_a({"alg": "RS256"}), KEY),
    Bad("said to be ES384", lambda s: s.of_a({"alg": "ES384"}), KEY),
    Bad("said to be Ed25519", lambda s: s.of_a({"alg": "Ed25519"}), KEY),
    Bad(
        "said to be ES256, signed by an RSA key",
        lambda s: s.a.token(s.claims(), key_of("RS256", 7), "RS256", alg="ES256"),
        SIGNATURE,
    ),
    Bad("PS256 with the key for RS256", lambda s: s.b.token(of_b(s), s.b.key, "PS256", alg="RS256"), SIGNATURE),
]
HEADERS = [
    Bad("jku", lambda s: s.of_a({"jku": s.c.base + "/jwks"}), HEADER),
    Bad("x5u", lambda s: s.of_a({"x5u": s.c.base + "/cert"}), HEADER),
    Bad("jwk", lambda s: s.c.token(s.claims(), jwk=s.c.keys[0]), HEADER),
    Bad("x5c", lambda s: s.of_a({"x5c": ["MIIB"]}), HEADER),
    Bad("crit", lambda s: s.of_a({"crit": ["exp"], "exp": 1}), HEADER),
    Bad("b64", lambda s: s.of_a({"b64": False}), HEADER),
    Bad("zip", lambda s: s.of_a({"zip": "DEF"}), HEADER),
    Bad("typ missing", lambda s: s.of_a({"typ": None}), TYPE),
    Bad("typ JWT, which the issuer is not configured for", lambda s: s.of_a({"typ": "JWT"}), TYPE),
    Bad("typ of an ID token", lambda s: s.of_a({"typ": "id+jwt"}), TYPE),
    Bad("typ of a logout token", lambda s: s.of_a({"typ": "logout+jwt"}), TYPE),
    Bad("typ of a proof", lambda s: s.of_a({"typ": "dpop+jwt"}), TYPE),
    Bad("typ of an ID-JAG", lambda s: s.of_a({"typ": "oauth-id-jag+jwt"}), TYPE),
    Bad("typ a number", lambda s: s.of_a({"typ": 1}), TYPE),
    Bad("kid missing", lambda s: s.of_a({"kid": None}), "does not name the key"),
    Bad("kid a number", lambda s: s.of_a({"kid": 1}), "does not name the key"),
    Bad("kid unknown", lambda s: s.of_a({"kid": "made-up"}), KEY),
    Bad("kid a path", lambda s: s.of_a({"kid": "../../../../dev/null"}), KEY),
    Bad("kid an injection", lambda s: s.of_a({"kid": "x' UNION SELECT 'secret"}), KEY),
    Bad("kid of a key for encryption", lambda s: s.of_a({"kid": "for-encryption"}), KEY),
]
TIMES = [
    Bad("expired a second ago", lambda s: s.of_a(exp=int(s.now) - 1), "has expired"),
    Bad("expires now", lambda s: s.of_a(exp=int(s.now)), "has expired"),
    Bad("exp missing", lambda s: s.of_a(exp=None), KIND),
    Bad("exp a text", lambda s: s.of_a(exp=str(int(s.now) + 60)), KIND),
    Bad("exp true", lambda s: s.of_a(exp=True), KIND),
    Bad("exp negative", lambda s: s.of_a(exp=-1), KIND),
    Bad("exp beyond all time", lambda s: s.of_a(exp=10**30), KIND),
    Bad("exp NaN", lambda s: s.of_a(exp=float("nan")), UNREADABLE),
    Bad("exp infinite", lambda s: s.of_a(exp=float("inf")), UNREADABLE),
    Bad(
        "exp 1e400",
        lambda s: raw(s, json.dumps(s.claims(exp=0)).replace('"exp": 0', '"exp": 1e400').encode()),
        UNREADABLE,
    ),
    Bad("begins in a minute", lambda s: s.of_a(nbf=int(s.now) + 60), "not valid yet"),
    Bad("nbf a text", lambda s: s.of_a(nbf="0"), KIND),
    Bad("issued in a minute", lambda s: s.of_a(iat=int(s.now) + 60), "in the future"),
    Bad("iat missing", lambda s: s.of_a(iat=None), KIND),
    Bad("iat a list", lambda s: s.of_a(iat=[0]), KIND),
]
ISSUERS = [
    Bad("of an issuer that is not listed", lambda s: s.c.token(s.c.claims(s.mcp, s.now)), ISSUER),
    Bad("of an issuer that is not listed, in a's name", lambda s: s.c.token(s.claims(), key_of("ES256", 5)), SIGNATURE),
    Bad("signed by b under the same kid, in a's name", lambda s: s.b.token(s.claims(), kid=s.a.kid), KEY),
    Bad("signed by a under the same kid, in b's name", lambda s: s.a.token(of_b(s)), KEY),
    Bad("signed by a, in our name", lambda s: s.of_a(iss=s.base), "a key that is not ours"),
    Bad("signed by a under our kid, in our name", lambda s: s.of_a({"kid": s.signing.kid}, iss=s.base), SIGNATURE),
    Bad("signed by us, in a's name", lambda s: s.own(iss=s.a.issuer), KEY),
    Bad("iss missing", lambda s: s.of_a(iss=None), ISSUER),
    Bad("iss a list", lambda s: s.of_a(iss=[s.a.issuer]), ISSUER),
    Bad("iss with a slash", lambda s: s.of_a(iss=s.a.issuer + "/"), ISSUER),
    Bad("iss in upper case", lambda s: s.of_a(iss=s.a.issuer.upper()), ISSUER),
    Bad("iss the issuer of principals of ours", lambda s: s.of_a(iss="mcpgw"), ISSUER),
    Bad("without a claim that is required", lambda s: s.b.token(of_b(s, tid=None)), "lacks a claim"),
    Bad("with a required claim of another value", lambda s: s.b.token(of_b(s, tid="other")), "lacks a claim"),
]
CLAIMS = [
    Bad("sub missing", lambda s: s.of_a(sub=None), KIND),
    Bad("sub a number", lambda s: s.of_a(sub=7), KIND),
    Bad("sub empty", lambda s: s.of_a(sub=""), KIND),
    Bad("sub of two lines", lambda s: s.of_a(sub="alice\nadmin"), KIND),
    Bad("sub that turns the line around", lambda s: s.of_a(sub="alice\u202enimda"), KIND),
    Bad("sub with an invisible character", lambda s: s.of_a(sub="ali\u200bce"), KIND),
    Bad("sub with blanks around it", lambda s: s.of_a(sub=" alice"), KIND),
    Bad("sub with half of a character", lambda s: s.of_a(sub="alice\ud800"), UNREADABLE),
    Bad("sub endless", lambda s: s.of_a(sub="a" * 300), KIND),
    Bad("client_id missing", lambda s: s.of_a(client_id=None), KIND),
    Bad("client_id a list", lambda s: s.of_a(client_id=["app"]), KIND),
    Bad("scope a list of numbers", lambda s: s.of_a(scope=[1]), KIND),
    Bad("scope an object", lambda s: s.of_a(scope={"mcp:use": True}), KIND),
    Bad("jti a number", lambda s: s.of_a(jti=1), KIND),
    Bad("act a text", lambda s: s.of_a(act="agent"), KIND),
    Bad("act too deep", lambda s: s.of_a(act=chain(9)), KIND),
    Bad("an ID token", lambda s: s.of_a(nonce="n", at_hash="x"), "no access token"),
    Bad(
        "a logout token",
        lambda s: s.of_a(events={"http://schemas.openid.net/event/backchannel-logout": {}}),
        "no access",
    ),
    Bad("bound to a key", lambda s: s.of_a(cnf={"jkt": "x"}), "bound to a key"),
    Bad("a claim twice", lambda s: raw(s, b'{"iss": "https://x", ' + json.dumps(s.claims()).encode()[1:]), UNREADABLE),
    Bad(
        "a claim twice, in disguise",
        lambda s: raw(s, json.dumps(s.claims()).encode()[:-1] + b', "\\u0061ud": 1}'),
        UNREADABLE,
    ),
    Bad("a member of the header twice", lambda s: raw(s, b"{}", b'{"alg": "none", "alg": "ES256"}'), UNREADABLE),
    Bad("claims that are a list", lambda s: raw(s, b"[]"), UNREADABLE),
    Bad("claims in UTF-16", lambda s: raw(s, json.dumps(s.claims()).encode("utf-16")), UNREADABLE),
    Bad(
        "claims behind a byte order mark",
        lambda s: raw(s, b"\xef\xbb\xbf" + json.dumps(s.claims()).encode()),
        UNREADABLE,
    ),
    Bad("claims nested too deeply", lambda s: raw(s, b'{"a":' + b"[" * 2500 + b"]" * 2500 + b"}"), UNREADABLE),
    Bad("no claims", lambda s: raw(s, b"{}"), ISSUER),
]
SPELLINGS = [
    Bad("another signature", lambda s: last_changed(s.of_a()), SIGNATURE),
    Bad(
        "the signature of another token",
        lambda s: parts(s.of_a(), signature=s.of_a(sub="bob").split(".")[2]),
        SIGNATURE,
    ),
    Bad("claims of another token", lambda s: parts(s.of_a(), body=s.of_a(sub="bob").split(".")[1]), SIGNATURE),
    Bad("a signature cut short", lambda s: s.of_a()[:-2], SIGNATURE),
    Bad("a signature with more to it", lambda s: s.of_a() + "AAAA", SIGNATURE),
    Bad("no signature", lambda s: parts(s.of_a(), signature=""), UNREADABLE),
    Bad("surplus bits", lambda s: surplus(s.of_a()), UNREADABLE),
    Bad("padded", lambda s: s.of_a() + "==", UNREADABLE),
    Bad("a blank in it", lambda s: s.of_a().replace(".", ". ", 1), UNREADABLE),
    Bad("two parts", lambda s: s.of_a().rpartition(".")[0], UNREADABLE),
    Bad("four parts", lambda s: s.of_a() + ".AAAA", UNREADABLE),
    Bad("encrypted", lambda s: parts(s.of_a()).rpartition(".")[0] + ".AAAA.AAAA.AAAA", UNREADABLE),
    Bad("a header that is no JSON", lambda s: raw(s, b"{}", b"{alg}"), UNREADABLE),
]
OPAQUE = [
    Bad("not known to its issuer", lambda s: "made-up-token", "not active"),
    Bad("not active", lambda s: opaque(s, "opaque-token-inactive", active=False), "not active"),
    Bad("active by a text", lambda s: opaque(s, "opaque-token-active-text", active="true"), "not active"),
    Bad(
        "opaque, for others", lambda s: opaque(s, "opaque-token-for-others", aud="https://other.example/mcp"), AUDIENCE
    ),
    Bad(
        "opaque, for us and others",
        lambda s: opaque(s, "opaque-token-for-all", aud=[s.mcp, "https://other.example"]),
        AUDIENCE,
    ),
    Bad("opaque, for nobody", lambda s: opaque(s, "opaque-token-for-nobody", aud=None), AUDIENCE),
    Bad("opaque, for ever", lambda s: opaque(s, "opaque-token-for-ever", exp=None), KIND),
    Bad("opaque, expired", lambda s: opaque(s, "opaque-token-expired", exp=int(s.now) - 1), "has expired"),
    Bad(
        "opaque, of another issuer",
        lambda s: opaque(s, "opaque-token-of-another", iss=s.b.issuer),
        "from another issuer",
    ),
    Bad("opaque, of a type with a proof", lambda s: opaque(s, "opaque-token-dpop", token_type="DPoP"), "of a type"),
    Bad(
        "opaque, bound to a certificate",
        lambda s: opaque(s, "opaque-token-mtls", cnf={"x5t#S256": "x"}),
        "bound to a key",
    ),
    Bad("opaque, of nobody", lambda s: opaque(s, "opaque-token-of-nobody", sub=None, client_id=None), KIND),
    Bad("a code of an issuer", lambda s: "SplxlOBeZQQYbYS6WxSbIA", "not active"),
]
OUR_OWN = [
    Bad("ours, for others", lambda s: s.own(aud="https://other.example/mcp"), AUDIENCE),
    Bad("ours, for the admin API", lambda s: s.own(aud=s.base + "/admin/v1"), AUDIENCE),
    Bad("ours, for a list", lambda s: s.own(aud=[s.mcp]), AUDIENCE),
    Bad("ours, expired a second ago", lambda s: s.own(exp=int(s.now) - 1), "has expired"),
    Bad("ours, of a client that nobody knows", lambda s: s.own(client_id="nobody", sub="nobody"), "unknown or revoked"),
    Bad("ours, of another subject", lambda s: s.own(sub="somebody"), "another subject"),
    Bad("ours, without a jti", lambda s: s.own(jti=None), UNREADABLE),
    Bad("ours, with a fraction of a second", lambda s: s.own(exp=s.now + 60.5), UNREADABLE),
    Bad("ours, longer than ours are", lambda s: s.own(jti="a" * 3500), "longer than ours are"),
    Bad("ours, with jku", lambda s: s.own({"jku": s.c.base}), OURS),
    Bad("ours, with another kid", lambda s: s.own({"kid": s.a.kid}), "a key that is not ours"),
    Bad("ours, said to be HS256", lambda s: s.own({"alg": "HS256"}), OURS),
    Bad("an assertion of ours", lambda s: s.own({"typ": "JWT"}), OURS),
    Bad("an ID token of ours", lambda s: s.own({"typ": "id+jwt"}, aud=s.client_id, nonce="n"), OURS),
    Bad("an ID-JAG of ours", lambda s: s.own({"typ": "oauth-id-jag+jwt"}), OURS),
    Bad("in our name, by another key", foreign_own, SIGNATURE),
]
KEYS = [
    Bad("a key that nobody has", lambda s: "mcpgw_0123456789ab_" + "a" * 49, "mistyped or cut short"),
    Bad("a key cut short", lambda s: s.key[:-1], "mistyped or cut short"),
    Bad("a key with another secret", lambda s: s.key[:-20] + s.key[-20:].swapcase(), "mistyped or cut short"),
    Bad("a key in upper case", lambda s: s.key.upper(), "not active"),
    Bad("a key twice", lambda s: s.key + s.key, UNREADABLE),
]
REQUESTS = [
    Bad("nothing", lambda s: {}, NOTHING),
    Bad("a scheme alone", lambda s: {"Authorization": "Bearer"}, NOTHING),
    Bad("a scheme and blanks", lambda s: {"Authorization": "Bearer   "}, NOTHING),
    Bad("Basic", lambda s: {"Authorization": "Basic bWNwZ3c6c2VjcmV0"}, NOTHING),
    Bad("DPoP", lambda s: {"Authorization": f"DPoP {s.of_a()}"}, NOTHING),
    Bad("a scheme of two words", lambda s: {"Authorization": f"browser session {s.key}"}, NOTHING),
    Bad("a good token without a scheme", lambda s: {"Authorization": s.of_a()}, NOTHING),
    Bad("a good key in another header", lambda s: {"X-Forwarded-Authorization": f"Bearer {s.key}"}, NOTHING),
    Bad("a good key for proxies", lambda s: {"Proxy-Authorization": f"Bearer {s.key}"}, NOTHING),
    Bad("a good key in a cookie", lambda s: {"Cookie": f"__Host-mcpgw-session={s.key}; access_token={s.key}"}, NOTHING),
    Bad("a good key in the query", lambda s: {":query": f"access_token={s.key}"}, NOTHING),
    Bad("two good tokens in one header", lambda s: bearer(f"{s.of_a()}, Bearer {s.of_a()}"), UNREADABLE),
]


def of_b(scene: Scene, **changed: Any) -> dict[str, Any]:
    return scene.b.claims(scene.mcp, scene.now, **{"tid": "ours", **changed})


BAD: list[Bad] = [
    *FOR_OTHERS,
    *ALGORITHMS,
    *HEADERS,
    *TIMES,
    *ISSUERS,
    *CLAIMS,
    *SPELLINGS,
    *OPAQUE,
    *OUR_OWN,
    *KEYS,
    *REQUESTS,
]
