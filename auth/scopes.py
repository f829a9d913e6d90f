"""The one table of roles and scopes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from mcpgw.domain import Account, Kind
from mcpgw.errors import InvalidParams, UsageError

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

BUILT_IN: Mapping[str, frozenset[str]] = {
    "agent": AGENT_SCOPES,
    "auditor": frozenset({"audit:read"}),
    "operator": frozenset({"kill:write", "servers:write", "audit:read"}),
    "admin": ADMIN_SCOPES,
}
_TABLE = dict(BUILT_IN)
ROLES: Mapping[str, frozenset[str]] = _TABLE
"""What each role may do. `admin` is spelled out, so a check is always `scope in who.scopes`. A role that is not here
(`editor`) carries no scope; policies may ask for it."""

# Lower-case ASCII alone: no role can look like another one.
_ROLE = re.compile(r"[a-z0-9][a-z0-9._:-]{0,63}")


def declare(roles: Mapping[str, Collection[str]]) -> None:
    """Let the table have these roles of the operator's, besides those built in. For a process's start.

    Raises UsageError for a role of another name than roles can have, for an unknown scope, and for one that would be an
    agent's and an administrator's.
    """
    for role, scopes in roles.items():
        if role in BUILT_IN or not _ROLE.fullmatch(role):
            raise UsageError(f"auth.roles: `{role[:64]}` is built in, or no name of a role", fix="a-z, 0-9, . _ : -")
        unknown = sorted(set(scopes) - AGENT_SCOPES - ADMIN_SCOPES)
        if unknown:
            known = ", ".join(sorted(AGENT_SCOPES | ADMIN_SCOPES))
            raise UsageError(f"auth.roles: `{role}` has the unknown scope `{unknown[0]}`", fix=f"one of: {known}")
        if _mixed(frozenset(scopes)):
            raise UsageError(
                f"auth.roles: `{role}` would be an agent's and an administrator's role", fix="declare two roles"
            )
    _TABLE.clear()
    _TABLE.update(BUILT_IN)
    _TABLE.update((role, frozenset(scopes)) for role, scopes in roles.items())


def scopes_of(roles: Collection[str]) -> frozenset[str]:
    """Return the scopes that these roles carry together; none at all when an agent would also be an administrator."""
    held = _carried(roles)
    return frozenset() if _mixed(held) else held


def scopes_of_account(account: Account) -> frozenset[str]:
    """Return all that the credentials of an account may have between them.

    A person may be an administrator and use tools, each with another credential; an agent has an agent's scopes alone.
    """
    held = _carried(account.roles)
    return held if account.kind is Kind.USER else held & AGENT_SCOPES


def of_one_side(scopes: frozenset[str]) -> frozenset[str]:
    """Return the scopes that one credential may have of these: an agent's, when there are any."""
    return scopes & AGENT_SCOPES or scopes


def kind_of(roles: Collection[str]) -> Kind:
    return Kind.ADMIN if _carried(roles) & ADMIN_SCOPES else Kind.AGENT


def check_roles(roles: Collection[str]) -> frozenset[str]:
    """Return the roles that a new credential may have together. Raises InvalidParams."""
    check_names(roles)
    if not roles:
        raise InvalidParams("a credential needs a role", fix=f"give one of: {', '.join(ROLES)}")
    if _mixed(_carried(roles)):
        raise InvalidParams(
            "one credential cannot be an agent's and an administrator's", fix="create two, one for each side"
        )
    return frozenset(roles)


def check_names(roles: Collection[str]) -> None:
    """Raise InvalidParams for what cannot be a role."""
    for role in roles:
        if not _ROLE.fullmatch(role):
            raise InvalidParams("a role has characters that roles cannot have", fix="use a-z, 0-9, and . _ : - within")


def _carried(roles: Collection[str]) -> frozenset[str]:
    return frozenset().union(*(ROLES.get(role, frozenset()) for role in roles))


def _mixed(scopes: frozenset[str]) -> bool:
    return not scopes.isdisjoint(AGENT_SCOPES) and not scopes.isdisjoint(ADMIN_SCOPES)
