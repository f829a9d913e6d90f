"""An issuer that the tests hold in their hand: its metadata, keys and introspection over HTTP, and its tokens."""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

Key = RSAKey | ECKey | OKPKey
CLIENT_ID, CLIENT_SECRET = "gateway at the issuer", "canary-introspection-secret"


def key_of(algorithm: str, number: int = 0) -> Key:
    """Return a private key for an algorithm; the same one for the same number."""
    return _made(algorithm, number)


@cache
def _made(algorithm: str, number: int) -> Key:
    if algorithm.startswith(("RS", "PS")):
        return RSAKey.generate_key(2048)
    if algorithm in ("Ed25519", "EdDSA"):
        return OKPKey.generate_key("Ed25519")
    return ECKey.generate_key({"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm])


def public(key: Key, kid: str, **members: Any) -> dict[str, Any]:
    """Return what a JWK set says of a key."""
    return {**key.as_dict(private=False), "kid": kid, **members}


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: Mapping[str, Any] | bytes, claims: Mapping[str, Any] | bytes, key: Key, algorithm: str) -> str:
    """Return a token whose signature holds, whatever it says."""
    head, body = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims))
    message = f"{b64(head)}.{b64(body)}"
    signer = jws.JWSRegistry.algorithms["Ed25519" if algorithm == "EdDSA" else algorithm]
    return f"{message}.{b64(signer.sign(message.encode(), key))}"


@dataclass
class Provider:
    """`answers` go over what is served at a path; `asked` counts requests; `opaque` is what introspection says."""

    base: str = ""
    path: str = ""
    algorithm: str = "ES256"
    kid: str = "key-1"
    keys: list[dict[str, Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    opaque: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    number: int = 0

    def __post_init__(self) -> None:
        self.keys = self.keys or [public(self.key, self.kid)]

    @property
    def key(self) -> Key:
        return key_of(self.algorithm, self.number)

    @property
    def issuer(self) -> str:
        return self.base + self.path

    @property
    def introspection(self) -> dict[str, Any]:
        return {"endpoint": f"{self.base}/introspect", "client_id": CLIENT_ID, "client_secret": "env:MCPGW_TEST_SECRET"}

    def rotate(self, kid: str, *, number: int) -> None:
        """Sign with another key from now on, and publish it alone."""
        self.kid, self.number = kid, number
        self.keys = [public(self.key, kid)]

    def claims(self, audience: str, now: float, **changed: Any) -> dict[str, Any]:
        """Return the claims of a good token; one changed to None is left out."""
        good = {
            "iss": self.issuer,
            "sub": "alice",
            "aud": audience,
            "client_id": "app",
            "scope": "mcp:use",
            "jti": "jti-of-alice",
            "iat": int(now),
            "exp": int(now) + 600,
        }
        return {name: value for name, value in {**good, **changed}.items() if value is not None}

    def token(
        self, claims: Mapping[str, Any] | bytes, key: Key | None = None, algorithm: str | None = None, **header: Any
    ) -> str:
        """Return a token signed by this issuer; members of the header changed to None are left out."""
        algorithm = algorithm or self.algorithm
        head = {"alg": algorithm, "typ": "at+jwt", "kid": self.kid, **header}
        return signed({n: v for n, v in head.items() if v is not None}, claims, key or self.key, algorithm)

    def respond(self, method: str, path: str, authorization: str, body: str) -> tuple[int, bytes]:
        self.asked[path] += 1
        if path in self.answers:
            return self.answers[path]
        if path == f"/.well-known/oauth-authorization-server{self.path}":
            return 200, json.dumps({"issuer": self.issuer, "jwks_uri": f"{self.base}/jwks"}).encode()
        if path == "/jwks":
            return 200, json.dumps({"keys": self.keys}).encode()
        if path == "/introspect" and method == "POST":
            shown = base64.b64decode(authorization.removeprefix("Basic ")).decode()
            if shown != f"{CLIENT_ID.replace(' ', '+')}:{CLIENT_SECRET}":
                return 401, b'{"error": "invalid_client"}'
            (token,) = parse_qs(body)["token"]
            return 200, json.dumps(self.opaque.get(token, {"active": False})).encode()
        return 404, b"{}"


@contextmanager
def serving(provider: Provider) -> Iterator[Provider]:
    """Serve an issuer on loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length).decode()
            authorization = self.headers.get("Authorization") or ""
            status, answer = provider.respond(self.command, self.path, authorization, body)
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **provider.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        provider.base = f"http://127.0.0.1:{server.server_port}"
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
