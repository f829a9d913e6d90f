"""The rows of the admin API about those who call: keys, OAuth clients, teams, users and agents, and what they gave."""

from __future__ import annotations

from msgspec import UNSET, structs

from mcpgw.domain import SYSTEM, Account, ClientTerms, KeyLimits, Kind
from mcpgw.edge import admin_identity_schema as schema
from mcpgw.edge.admin_operation import Ask, Operation
from mcpgw.edge.admin_schema import Nothing, Why
from mcpgw.edge.services import Json, Services


async def list_keys(to: Services, ask: Ask[Nothing]) -> Json:
    """List the API keys, never their secrets."""
    return {"keys": to.keys.list()}


async def create_key(to: Services, ask: Ask[schema.NewKey]) -> Json:
    """Create an API key; this answer alone shows it."""
    new = ask.given
    limits = KeyLimits(
        scopes=None if new.scopes is None else frozenset(new.scopes),
        servers=None if new.servers is None else frozenset(new.servers),
        calls_per_minute=new.calls_per_minute,
        concurrent=new.concurrent,
    )
    return await to.keys.create(
        ask.who, subject=new.subject, roles=new.roles, team=new.team, expires_in_s=new.expires_in_s, limits=limits
    )


async def revoke_key(to: Services, ask: Ask[Why]) -> Json:
    """Revoke an API key: its running calls are cut, its next call is refused."""
    return await to.keys.revoke(ask.who, ask.path["id"], reason=ask.given.reason)


async def rotate_key(to: Services, ask: Ask[schema.KeyRotation]) -> Json:
    """Replace an API key by a new one for the same subject; the old one ends at once, or after `overlap_s`."""
    return await to.keys.rotate(ask.who, ask.path["id"], overlap_s=ask.given.overlap_s)


async def list_revocations(to: Services, ask: Ask[Nothing]) -> Json:
    """List what is void before a time."""
    return {"revocations": to.keys.revocations()}


async def revoke_before(to: Services, ask: Ask[schema.NewRevocation]) -> Json:
    """Make void what was issued before a time to a principal, team or client, by an issuer, or by a grant."""
    new = ask.given
    return await to.keys.revoke_before(
        ask.who, kind=new.kind, selector=new.selector, not_before=new.not_before, reason=new.reason
    )


async def list_clients(to: Services, ask: Ask[Nothing]) -> Json:
    """List the OAuth clients, never their secrets."""
    return {"clients": to.clients.list()}


async def create_client(to: Services, ask: Ask[schema.NewClient]) -> Json:
    """Create an OAuth client; this answer alone shows its secret, if it has one."""
    new = ask.given
    terms = ClientTerms(
        title=new.title,
        grants=frozenset(new.grants),
        auth_method=new.auth_method,
        redirect_uris=new.redirect_uris,
        scopes=None if new.scopes is None else frozenset(new.scopes),
        jwks=new.jwks,
        jwks_uri=new.jwks_uri,
    )
    return await to.clients.create(
        ask.who, new.client_id, subject=new.subject, roles=new.roles, team=new.team, terms=terms
    )


async def revoke_client(to: Services, ask: Ask[Why]) -> Json:
    """Revoke an OAuth client, and with it every token that it holds."""
    return await to.clients.revoke(ask.who, ask.path["id"], reason=ask.given.reason)


async def list_teams(to: Services, ask: Ask[Nothing]) -> Json:
    """List the teams that have been described."""
    return {"teams": to.principals.teams()}


async def create_team(to: Services, ask: Ask[schema.NewTeam]) -> Json:
    """Describe a team."""
    return await to.principals.create_team(ask.who, ask.given.name, title=ask.given.title)


async def update_team(to: Services, ask: Ask[schema.TeamGiven]) -> Json:
    """Give a team another title."""
    return await to.principals.update_team(ask.who, ask.path["name"], title=ask.given.title)


async def deactivate_team(to: Services, ask: Ask[Why]) -> Json:
    """End everyone of a team: keys, tokens, grants, sessions and running calls, before this is answered."""
    return await to.principals.deactivate_team(ask.who, ask.path["name"], reason=ask.given.reason)


async def reactivate_team(to: Services, ask: Ask[Why]) -> Json:
    """Let a team in again; what its members held before stays void."""
    return await to.principals.reactivate_team(ask.who, ask.path["name"], reason=ask.given.reason)


async def list_principals(to: Services, ask: Ask[schema.PrincipalFilter]) -> Json:
    """List accounts of users and agents, in pages: `after` of an answer begins the next one."""
    given = ask.given
    return to.principals.list(name=given.name, team=given.team, after=given.after, limit=given.limit)


async def create_principal(to: Services, ask: Ask[schema.NewPrincipal]) -> Json:
    """Create the account of a user or an agent."""
    new = ask.given
    draft = Account(
        id="",
        issuer=new.issuer or SYSTEM.issuer,
        subject=new.subject,
        kind=Kind(new.kind),
        roles=frozenset(new.roles),
        created_by="",
        created_at=0.0,
        title=new.title,
        team=new.team,
        email=new.email,
    )
    return await to.principals.create(ask.who, draft, password=new.password)


async def show_principal(to: Services, ask: Ask[Nothing]) -> Json:
    """Show an account."""
    return to.principals.show(ask.path["id"])


async def update_principal(to: Services, ask: Ask[schema.PrincipalChange]) -> Json:
    """Change title, team, roles or email of an account, those of them that are given."""
    given = {name: value for name, value in structs.asdict(ask.given).items() if value is not UNSET}
    return await to.principals.update(ask.who, ask.path["id"], given)


async def set_password(to: Services, ask: Ask[schema.NewPassword]) -> Json:
    """Give a user of the gateway's own a password; their sessions and grants end."""
    return await to.principals.set_password(ask.who, ask.path["id"], ask.given.password)


async def deactivate_principal(to: Services, ask: Ask[Why]) -> Json:
    """End an account: its keys, tokens, grants, sessions and running calls, before this is answered."""
    return await to.principals.deactivate(ask.who, ask.path["id"], reason=ask.given.reason)


async def reactivate_principal(to: Services, ask: Ask[Why]) -> Json:
    """Let an account in again; what it held before stays void."""
    return await to.principals.reactivate(ask.who, ask.path["id"], reason=ask.given.reason)


async def list_grants(to: Services, ask: Ask[Nothing]) -> Json:
    """List what a user has allowed clients to do."""
    return {"grants": await to.grants.of(ask.path["id"])}


async def revoke_grant(to: Services, ask: Ask[Why]) -> Json:
    """End what a user has allowed a client, with every token of it."""
    return await to.grants.revoke(ask.who, ask.path["id"], reason=ask.given.reason)


IDENTITY_OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/keys", "audit:read", list_keys),
    Operation("POST", "/keys", "keys:write", create_key, schema.NewKey, 201),
    Operation("DELETE", "/keys/{id}", "keys:write", revoke_key, Why),
    Operation("POST", "/keys/{id}/rotate", "keys:write", rotate_key, schema.KeyRotation, 201),
    Operation("GET", "/clients", "audit:read", list_clients),
    Operation("POST", "/clients", "keys:write", create_client, schema.NewClient, 201),
    Operation("DELETE", "/clients/{id}", "keys:write", revoke_client, Why),
    Operation("GET", "/revocations", "audit:read", list_revocations),
    Operation("POST", "/revocations", "keys:write", revoke_before, schema.NewRevocation, 201),
    Operation("GET", "/teams", "audit:read", list_teams),
    Operation("POST", "/teams", "keys:write", create_team, schema.NewTeam, 201),
    Operation("PUT", "/teams/{name}", "keys:write", update_team, schema.TeamGiven),
    Operation("POST", "/teams/{name}/deactivate", "keys:write", deactivate_team, Why),
    Operation("POST", "/teams/{name}/reactivate", "keys:write", reactivate_team, Why),
    Operation("GET", "/principals", "audit:read", list_principals, schema.PrincipalFilter),
    Operation("POST", "/principals", "keys:write", create_principal, schema.NewPrincipal, 201),
    Operation("GET", "/principals/{id}", "audit:read", show_principal),
    Operation("PATCH", "/principals/{id}", "keys:write", update_principal, schema.PrincipalChange),
    Operation("PUT", "/principals/{id}/password", "keys:write", set_password, schema.NewPassword),
    Operation("POST", "/principals/{id}/deactivate", "keys:write", deactivate_principal, Why),
    Operation("POST", "/principals/{id}/reactivate", "keys:write", reactivate_principal, Why),
    Operation("GET", "/principals/{id}/grants", "audit:read", list_grants),
    Operation("DELETE", "/grants/{id}", "keys:write", revoke_grant, Why),
)
