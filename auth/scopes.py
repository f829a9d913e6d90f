"""The one table of roles and scopes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from mcpgw.domain import Kind
from mcpgw.errors import InvalidParams

AGENT_SCOPES = frozenset({"mcp:use", "llm:use"})
ADMIN_SCOPES = frozenset(
    {
        "audit:read",
        "kill:write",
        "kill:release",
        "servers:write",
        "servers:approve",
        "policy:write",
        "keys:write",
        "budgets:write",
        "admin",
    }
)

ROLES: Mapping[str, frozenset[str]] = {
    "agent": AGENT_SCOPES,
    "auditor": frozenset({"audit:read"}),
    "operator": frozenset({"kill:write", "servers:write", "audit:read"}),
    "admin": ADMIN_SCOPES,
}
"""What each role may do. `admin` is spelled out, so a check is always `scope in who.scopes`. A role that is not here
(`editor`) carries no scope; policies may ask for it."""

_ADMIN_ROLES = frozenset(role for role, scopes in ROLES.items() if scopes <= ADMIN_SCOPES)
# Lower-case ASCII alone: no role can look like another one.
_ROLE = re.compile(r"[a-z0-9][a-z0-9._:-]{0,63}")


def scopes_of(roles: Collection[str]) -> frozenset[str]:
    """Return the scopes that these roles carry together; none at all when an agent would also be an administrator."""
    if "agent" in roles and not _ADMIN_ROLES.isdisjoint(roles):
        return frozenset()
    return frozenset().union(*(ROLES.get(role, frozenset()) for role in roles))


def kind_of(roles: Collection[str]) -> Kind:
    return Kind.AGENT if _ADMIN_ROLES.isdisjoint(roles) else Kind.ADMIN


def check_roles(roles: Collection[str]) -> frozenset[str]:
    """Return the roles that a new credential may have together. Raises InvalidParams."""
    if not roles:
        raise InvalidParams("a credential needs a role", fix=f"give one of: {', '.join(ROLES)}")
    for role in roles:
        if not _ROLE.fullmatch(role):
            raise InvalidParams("a role has characters that roles cannot have", fix="use a-z, 0-9, and . _ : - within")
    if "agent" in roles and not _ADMIN_ROLES.isdisjoint(roles):
        raise InvalidParams(
            "one credential cannot be an agent's and an administrator's", fix="create two, one for each side"
        )
    return frozenset(roles)
