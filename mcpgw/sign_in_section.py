"""How people sign in with a browser."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from mcpgw.issuer_section import Algorithm, Claim, ClaimRule, IssuerSection, Names
from mcpgw.section import Section


class SignInSection(Section):
    """The OpenID provider at which people sign in."""

    issuer: str
    """Its issuer identifier, as its metadata have it, to the character."""
    client_id: str = Field(min_length=1)
    """Our client id there. The redirect URI to register is {server.public_url}/oauth/sign-in/callback."""
    client_secret: str | None = None
    """Reference to our secret there (`env:NAME`, `file:PATH`); default: none, for a public client."""
    title: str = ""
    """What the sign-in page calls it; default: its host."""
    scopes: Names = ("openid", "profile", "email")
    """Scopes asked for; `openid` is among them."""
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "PS256", "ES256", "ES384", "Ed25519"), min_length=1)
    """Algorithms that it signs ID tokens with."""
    leeway_s: int = Field(default=5, ge=0, le=60)
    """How far its clock may be from ours."""
    role_claim: Claim | None = None
    """Claim with roles or groups; default: administrators give roles here, and a new user has the role agent."""
    role_map: Mapping[str, Names] = Field(default_factory=dict)
    """Roles here for each of its values; others give none."""
    default_roles: Names = ("agent",)
    """Roles of those to whom the map gives none; empty: they are not let in."""
    team_claim: Claim | None = None
    """Claim with the team; default: administrators say it."""
    team_map: Mapping[str, str] = Field(default_factory=dict)
    """Team here for each of its values; empty: they have the same names."""
    require: tuple[ClaimRule, ...] = ()
    """What else must be said of those who are let in."""
    verified_email: bool = False
    """Whether only those are let in whose email address the provider has verified."""
    keep_tokens: bool = False
    """Whether the ID token is kept in the vault, for servers whose authorization exchanges it."""

    @field_validator("scopes")
    @classmethod
    def _openid(cls, value: Names) -> Names:
        if "openid" not in value:
            raise ValueError("the scope `openid` is missing (OpenID Connect Core §3.1.2.1)")
        return value

    def as_issuer(self) -> IssuerSection:
        """Return the same as what reads its keys and claims knows it. Raises ValueError, as pydantic has it."""
        return IssuerSection(
            issuer=self.issuer,
            algorithms=self.algorithms,
            leeway_s=self.leeway_s,
            role_claim=self.role_claim,
            role_map=self.role_map,
            default_roles=self.default_roles,
            team_claim=self.team_claim,
            team_map=self.team_map,
            require=self.require,
        )

    @field_validator("issuer")
    @classmethod
    def _identifier(cls, value: str) -> str:
        return IssuerSection(issuer=value).issuer
