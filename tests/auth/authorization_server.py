"""An authorization server as a worker has it, over a real database and a clock that can be set."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey

from mcpgw.auth.holders import ISSUER
from mcpgw.auth.server.client_metadata import CODE, REFRESH
from mcpgw.config import Settings
from mcpgw.domain import Account, AdminNote, Asked, Kind, OAuthClient, Presented, Principal, Row
from mcpgw.errors import Unauthenticated, Unavailable
from mcpgw.seals import Seals
from mcpgw.store.migrations import upgrade
from mcpgw.store.records import SqlRecords
from mcpgw.store.sql import SqlStore
from mcpgw.wiring.ground import Ground
from mcpgw.wiring.identity import Identity
from tests.auth.parts import BASE, PEPPER, START, SettableClock, StoreWorlds, a_client

FORM = "application/x-www-form-urlencoded"
CALLBACK = "https://app.example/callback"
Answer = tuple[int, Mapping[str, str], Mapping[str, Any]]


@dataclass(frozen=True)
class Entry:
    """A record of the log, as the authorization server wrote it."""

    event: str
    outcome: str
    principal: str | None
    client_id: str | None
    source: str | None
    detail: Mapping[str, Any]


class Log:
    """Implements ports.AuthLog in memory; `full` says that there is no room for what went well."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.full = False

    async def record(
        self,
        event: str,
        outcome: str = "ok",
        *,
        principal: str | None = None,
        client_id: str | None = None,
        source: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        if self.full and outcome == "ok":
            raise Unavailable("there is no room in the log")
        self.entries.append(Entry(event, outcome, principal, client_id, source, detail or {}))


@dataclass(frozen=True)
class Proof:
    """A PKCE pair (RFC 7636 §4)."""

    verifier: str
    challenge: str

    @classmethod
    def new(cls) -> Proof:
        verifier = secrets.token_urlsafe(48)
        digest = hashlib.sha256(verifier.encode()).digest()
        return cls(verifier, base64.urlsafe_b64encode(digest).rstrip(b"=").decode())


class Server:
    """The parts of one worker that have to do with identity, and what tests ask of them."""

    def __init__(self, store: SqlStore, clock: SettableClock, home: Path, base: str = BASE, **auth: Any) -> None:
        (home / "pepper").write_bytes(PEPPER)
        (home / "pepper").chmod(0o600)
        given = {"pepper": f"file:{home / 'pepper'}", "token_ttl_s": 600, **auth}
        settings = Settings.model_validate({"data_dir": home, "server": {"public_url": base}, "auth": given})
        self.clock = clock
        self.log = Log()
        self.store = store
        self.worlds = StoreWorlds(store)
        self.records = SqlRecords(store, clock)
        seals = Seals(bytes(32), 0)
        ground = Ground(
            settings=settings,
            clock=clock,
            worlds=self.worlds,
            published=store,
            records=self.records,
            seals=seals,
            log=self.log,
        )
        self.identity = Identity(ground)
        self.server = self.identity.server
        self.forms = self.server.forms

    async def add(self, *rows: Row) -> None:
        """Commit rows, as an administrator would have them."""
        note = AdminNote(id=self.clock.new_id(), time=self.clock.time(), actor="test", action="test", target="test")
        await self.worlds.at_least(await self.store.commit(rows, note))

    async def ask(
        self,
        form: Mapping[str, str] | str,
        basic: tuple[str, str] | None = None,
        *,
        at: str = "token",
        authorization: str | None = None,
        content_type: str | None = FORM,
        source: str | None = "192.0.2.1",
    ) -> Answer:
        if basic is not None:
            pair = ":".join(quote_plus(part) for part in basic)
            authorization = "Basic " + base64.b64encode(pair.encode()).decode()
        asked = Asked(
            endpoint=f"/oauth/{at}",
            body=(form if isinstance(form, str) else urlencode(form)).encode(),
            content_type=content_type,
            authorization=authorization,
            source=source,
        )
        answer: Answer = await getattr(self.forms, at).respond(asked)
        assert answer[1]["Cache-Control"] == "no-store"
        return answer

    async def refused(self, *args: Any, **kwargs: Any) -> tuple[int, str]:
        """Return status and error of a refusal, which has left one record."""
        before = len(self.log.entries)
        status, _, document = await self.ask(*args, **kwargs)
        assert document.keys() == {"error", "error_description"}, document
        assert re.fullmatch(r"[\x20\x21\x23-\x5b\x5d-\x7e]+", document["error_description"])
        (entry,) = self.log.entries[before:]
        assert entry.outcome == document["error"] and entry.detail["reason"]
        return status, document["error"]

    def who(self, token: str, resource: str = "/mcp") -> Principal:
        """Return who a token of ours stands for, without waiting for anybody."""
        verification = self.identity.verifier.verify(
            Presented(scheme="bearer", token=token), resource, self.worlds.current
        )
        try:
            verification.send(None)
        except StopIteration as done:
            found: Principal = done.value
            return found
        raise AssertionError("verification waited for something")

    def counts(self, token: str, resource: str = "/mcp") -> bool:
        try:
            self.who(token, resource)
        except Unauthenticated:
            return False
        return True

    def claims(self, token: str) -> dict[str, Any]:
        return dict(jwt.decode(token, self.identity.signing.current, ["ES256"]).claims)

    # The authorization code flow

    def query(self, proof: Proof, **changed: Any) -> dict[str, Any]:
        """A good authorization request of the client `app`; a parameter changed to None is left out."""
        good: dict[str, Any] = {
            "response_type": "code",
            "client_id": "app",
            "redirect_uri": CALLBACK,
            "scope": "mcp:use",
            "state": "s-1",
            "resource": f"{BASE}/mcp",
            "code_challenge": proof.challenge,
            "code_challenge_method": "S256",
        }
        return {name: value for name, value in {**good, **changed}.items() if value is not None}

    async def code(self, proof: Proof, account: Account | None = None, **changed: Any) -> str:
        """Return a code that a user allowed."""
        request = await self.server.authorizations.check(self.query(proof, **changed))
        location = await self.server.authorizations.approve(request, account or a_user())
        return answered(location)["code"]

    def redemption(self, code: str, proof: Proof, /, **changed: str | None) -> dict[str, str]:
        good = {
            "grant_type": CODE,
            "client_id": "app",
            "code": code,
            "redirect_uri": CALLBACK,
            "code_verifier": proof.verifier,
            "resource": f"{BASE}/mcp",
        }
        return {name: value for name, value in {**good, **changed}.items() if value is not None}

    async def tokens(self, account: Account | None = None, **changed: Any) -> Mapping[str, Any]:
        """Return the tokens of a new authorization of the client `app`."""
        proof = Proof.new()
        code = await self.code(proof, account, **changed)
        given = {"resource": changed.get("resource", f"{BASE}/mcp")}
        status, _, answer = await self.ask(self.redemption(code, proof, **given))
        assert status == 200, answer
        return answer

    async def refresh(self, refresh_token: str, **given: str) -> Answer:
        return await self.ask(refreshing(refresh_token, **given))


def refreshing(refresh_token: str, **given: str) -> dict[str, str]:
    return {"grant_type": REFRESH, "client_id": "app", "refresh_token": refresh_token, **given}


def answered(location: str) -> dict[str, str]:
    """Return the parameters of an authorization response."""
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


def a_user(subject: str = "ann", **given: Any) -> Account:
    given = {"id": f"account-{subject}", "issuer": ISSUER, "kind": Kind.USER, "roles": frozenset({"agent"}), **given}
    return Account(subject=subject, created_by="mcpgw|root", created_at=START, **given)


def an_app(client_id: str = "app", **given: Any) -> OAuthClient:
    """A public client of users, with refresh tokens."""
    given = {"grants": frozenset({CODE, REFRESH}), "auth_method": "none", "redirect_uris": (CALLBACK,), **given}
    return OAuthClient(
        client_id=client_id,
        digest="",
        subject="",
        roles=frozenset(),
        created_by="mcpgw|root",
        created_at=START,
        **given,
    )


def a_confidential_app(client_id: str = "app", **given: Any) -> tuple[OAuthClient, str]:
    given = {"grants": frozenset({CODE, REFRESH}), "redirect_uris": (CALLBACK,), "roles": frozenset(), **given}
    return a_client(client_id, "", **given)


def an_assertion(key: ECKey, claims: Mapping[str, Any], **header: Any) -> str:
    """A JWT signed by a client's own key."""
    given = {"alg": "ES256", **header}
    return jwt.encode({k: v for k, v in given.items() if v is not None}, dict(claims), key, [given["alg"]])


def public(key: ECKey, **members: str) -> dict[str, Any]:
    return {**key.as_dict(private=False), **members}


@cache
def _empty() -> Path:
    """A database that has been brought to the newest revision once."""
    file = Path(mkdtemp()) / "state.db"
    upgrade(f"sqlite+aiosqlite:///{file}")
    return file


@asynccontextmanager
async def serving(home: Path, *rows: Row, **auth: Any) -> AsyncIterator[Server]:
    """A server that knows these rows."""
    shutil.copy(_empty(), home / "state.db")
    store = SqlStore(f"sqlite+aiosqlite:///{home / 'state.db'}")
    try:
        server = Server(store, SettableClock(), home, **auth)
        if rows:
            await server.add(*rows)
        yield server
    finally:
        await store.close()


def told(server: Server) -> str:
    """All that the log of a server says, as text."""
    return json.dumps([[e.event, e.outcome, e.principal, e.client_id, dict(e.detail)] for e in server.log.entries])
