"""Those who call: the rows that administrators change, from which a verified credential becomes a principal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mcpgw.domain.principal import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """A team. From `deactivated_at` on everyone of it is refused; a team without a row is active."""

    name: str
    title: str
    created_by: str
    created_at: float
    deactivated_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user, or an agent (a service identity), that the gateway knows.

    `issuer` is `mcpgw` for our own, otherwise the identity provider's issuer identifier; with `subject` it is the name
    by which kill switches, policies and the log know the principal. `id` stands as `sub` in our access tokens.
    `password` is an Argon2id hash in PHC form, for users of our own alone. Keys and clients that carry the same subject
    hold no more than it does, and are of its team; a principal without an account is as its key, client or token says.
    """

    id: str
    issuer: str
    subject: str
    kind: Kind
    roles: frozenset[str]
    created_by: str
    created_at: float
    title: str = ""
    team: str | None = None
    email: str | None = None
    password: str | None = field(default=None, repr=False)
    deactivated_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key: `digest` is HMAC-SHA256(pepper, secret) in hex; the secret itself is nowhere.

    `scopes` and `servers` narrow what its roles allow (None: they do not); `calls_per_minute` and `concurrent` bound
    its calls, per worker. `replaces` is the id of the key that it was rotated from.
    """

    id: str
    digest: str = field(repr=False)
    subject: str
    roles: frozenset[str]
    created_by: str
    created_at: float
    team: str | None = None
    expires_at: float | None = None
    revoked_at: float | None = None
    scopes: frozenset[str] | None = None
    servers: frozenset[str] | None = None
    calls_per_minute: int | None = None
    concurrent: int | None = None
    replaces: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What a new key is limited to; as in ApiKey."""

    scopes: frozenset[str] | None = None
    servers: frozenset[str] | None = None
    calls_per_minute: int | None = None
    concurrent: int | None = None


CLIENT_CREDENTIALS = "client_credentials"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTerms:
    """How a new client may use our authorization server; as in OAuthClient."""

    title: str = ""
    grants: frozenset[str] = frozenset({CLIENT_CREDENTIALS})
    auth_method: str = "client_secret_basic"
    redirect_uris: tuple[str, ...] = ()
    scopes: frozenset[str] | None = None
    jwks: Mapping[str, Any] | None = None
    jwks_uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthClient:
    """A client of our authorization server. `digest` as in ApiKey; "" for one that has no secret.

    `grants` are the grant types that it may use, `auth_method` how it proves itself at the token endpoint (RFC 7591
    §2). `subject`, `roles` and `team` are who it is when it acts for itself (client credentials); a client of users
    alone has the subject "" and no roles. `about` holds what RFC 7591 §2 has for people (`client_uri` and others).
    `registration` is the digest of its registration access token, for one that registered itself.
    """

    client_id: str
    digest: str = field(repr=False)
    subject: str
    roles: frozenset[str]
    created_by: str
    created_at: float
    team: str | None = None
    revoked_at: float | None = None
    title: str = ""
    grants: frozenset[str] = frozenset({CLIENT_CREDENTIALS})
    auth_method: str = "client_secret_basic"
    redirect_uris: tuple[str, ...] = ()
    scopes: frozenset[str] | None = None
    jwks: Mapping[str, Any] | None = None
    jwks_uri: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    registration: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Revocation:
    """What was issued before `not_before` to this principal (`issuer|subject`) or client, or by this issuer, is void.

    Kind `grant`: an authorization that a user gave, by its id, with all tokens of it; `token`: one, by its `jti`;
    `team`: everyone of a team. From `over_at` on nothing is left that it could void (None: it stays).
    """

    kind: str
    selector: str
    not_before: float
    over_at: float | None = None
