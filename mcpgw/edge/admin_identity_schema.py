"""The bodies and queries of the admin API about those who call: keys, clients, teams, users and agents."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from mcpgw.domain import CLIENT_CREDENTIALS
from mcpgw.edge.admin_schema import Body, Name, Reason, Roles, Seconds, Slug

Title = Annotated[str, Meta(max_length=200)]
Scopes = Annotated[list[Name], Meta(min_length=1, max_length=16)]
Count = Annotated[int, Meta(ge=1, le=10_000)]
Url = Annotated[str, Meta(min_length=1, max_length=2048)]
SomeRoles = Annotated[tuple[Name, ...], Meta(max_length=16)]


class NewKey(Body):
    """`scopes` and `servers` narrow what the roles allow; the two limits are per worker."""

    subject: Name
    roles: Roles
    team: Name | None = None
    expires_in_s: Seconds | None = None
    scopes: Scopes | None = None
    servers: Annotated[list[Slug], Meta(min_length=1, max_length=256)] | None = None
    calls_per_minute: Count | None = None
    concurrent: Count | None = None


class KeyRotation(Body):
    """For so long the old key lives on beside the new one."""

    overlap_s: Annotated[float, Meta(ge=0)] = 0.0


class NewClient(Body):
    """A client of our authorization server; `subject` and `roles` are who it is when it acts for itself."""

    client_id: Name
    subject: Annotated[str, Meta(max_length=256)] = ""
    roles: SomeRoles = ()
    team: Name | None = None
    title: Title = ""
    grants: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=8)] = (CLIENT_CREDENTIALS,)
    auth_method: Name = "client_secret_basic"
    redirect_uris: Annotated[tuple[Url, ...], Meta(max_length=16)] = ()
    scopes: Scopes | None = None
    jwks: dict[str, Any] | None = None
    jwks_uri: Url | None = None


class NewRevocation(Body):
    """What was issued before `not_before` is void: to a principal (`issuer|subject`), team or client, or by an issuer.

    Kind `grant`: what a user allowed a client, by its id; `token`: one token, by its `jti`.
    """

    kind: Literal["principal", "team", "client", "issuer", "grant", "token"]
    selector: Annotated[str, Meta(min_length=1, max_length=2048)]
    not_before: Annotated[float, Meta(ge=0)]
    reason: Reason


class NewTeam(Body):
    name: Name
    title: Title = ""


class TeamGiven(Body):
    """A team as it shall be."""

    title: Title


class NewPrincipal(Body):
    """The account of a user or an agent. `issuer` None: one of the gateway's own, who may have a password."""

    subject: Name
    kind: Literal["user", "agent"] = "user"
    roles: SomeRoles = ("agent",)
    issuer: Url | None = None
    title: Title = ""
    team: Name | None = None
    email: Name | None = None
    password: Annotated[str, Meta(max_length=1024)] | None = None


class PrincipalFilter(Body):
    """`name` is an id, a subject, or issuer|subject."""

    name: str | None = None
    team: str | None = None
    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class PrincipalChange(Body):
    """What is given changes; a team or an email that is null is taken away."""

    title: Title | UnsetType = UNSET
    team: Name | UnsetType | None = UNSET
    roles: SomeRoles | UnsetType = UNSET
    email: Name | UnsetType | None = UNSET


class NewPassword(Body):
    """A password; null: none any more."""

    password: Annotated[str, Meta(max_length=1024)] | None
