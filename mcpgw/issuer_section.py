"""The issuers besides our own whose access tokens count here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from mcpgw.section import Section

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"]
Claim = Annotated[str, Field(min_length=1, max_length=256)]
"""The name of a claim; one that begins with a slash is a JSON pointer (`/realm_access/roles`)."""
Names = tuple[str, ...]


class ClaimRule(Section):
    """What a claim must be. Exactly one of `equals`, `one_of` and `present`."""

    claim: Claim
    """Its name, or a JSON pointer."""
    equals: str | int | bool | None = None
    """Its one value."""
    one_of: tuple[str | int, ...] = ()
    """Its possible values; of a claim that is a list, one entry must be among them."""
    present: bool = False
    """It must be there, whatever it says."""

    @model_validator(mode="after")
    def _one_rule(self) -> ClaimRule:
        if (self.equals is not None) + bool(self.one_of) + self.present != 1:
            raise ValueError("give exactly one of `equals`, `one_of` and `present`")
        return self


class IntrospectionSection(Section):
    """Where an issuer is asked about tokens that say nothing by themselves (RFC 7662)."""

    endpoint: str
    """Its introspection endpoint."""
    client_id: str
    """Our client id there."""
    client_secret: str
    """Reference to our secret there (`env:NAME`, `file:PATH`)."""
    cache_s: float = Field(default=30, ge=0, le=60)
    """Time for which its answer is believed: for so long at most a token counts after the issuer has revoked it."""


class IssuerSection(Section):
    """An issuer whose access tokens count here."""

    issuer: str
    """Its issuer identifier, as its tokens and its metadata have it, to the character."""
    jwks_uri: str | None = None
    """Where its keys are; default: as its metadata say (RFC 8414, or OpenID Connect Discovery)."""
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "PS256", "ES256", "ES384", "Ed25519"), min_length=1)
    """Algorithms that it signs with."""
    types: tuple[Literal["at+jwt", "JWT"], ...] = Field(default=("at+jwt",), min_length=1)
    """Values of `typ`. Those that issue access tokens as mere `JWT` must be configured so, with an audience of ours."""
    audiences: Mapping[str, str] = Field(default_factory=dict)
    """Audiences that stand for an endpoint (`api://mcpgw: /mcp`), besides the endpoints' own URLs."""
    also_for: tuple[str, ...] = ()
    """Audiences that a token may name besides ours: services that hold it too, and could use it here. For the user-info
    endpoint of the issuer itself, which some add."""
    leeway_s: int = Field(default=5, ge=0, le=60)
    """How far its clock may be ahead of ours. A token that has expired has expired."""
    key_refetch_s: float = Field(default=30, ge=1)
    """Least time between two looks for a key that is not known."""
    client_claim: Claim = "client_id"
    """Claim with the client's id (`azp`, `cid`)."""
    scope_claim: Claim = "scope"
    """Claim with the scopes, as text or as a list (`scp`)."""
    scope_map: Mapping[str, Names] = Field(default_factory=dict)
    """Scopes here for each scope there; empty: they have the same names."""
    default_scopes: Names = ()
    """Scopes of a token without that claim."""
    role_claim: Claim | None = None
    """Claim with roles or groups, as text or as a list."""
    role_map: Mapping[str, Names] = Field(default_factory=dict)
    """Roles here for each of its values; others give none."""
    default_roles: Names = ("agent",)
    """Roles of those to whom the map gives none."""
    team_claim: Claim | None = None
    """Claim with the team."""
    team_map: Mapping[str, str] = Field(default_factory=dict)
    """Team here for each of its values; empty: they have the same names."""
    agent: ClaimRule | None = None
    """What marks an agent; default: a token whose subject is its client."""
    claims: Names = ()
    """Claims that policies may see."""
    require: tuple[ClaimRule, ...] = ()
    """What else a token must say."""
    introspection: IntrospectionSection | None = None
    """Where it is asked about opaque tokens."""
    id_jag: bool = False
    """Whether it may grant clients access in its users' names, without asking them (ID-JAG of MCP's enterprise-managed
    authorization)."""
    id_jag_new_accounts: bool = False
    """Whether a user whom it names so gets an account here at first sight; otherwise they need one already."""

    @field_validator("issuer")
    @classmethod
    def _identifier(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or "?" in value or "#" in value or "|" in value:
            raise ValueError("an issuer identifier is an https URL without query or fragment (RFC 8414 §2)")
        return value
