"""The table of roles."""

from __future__ import annotations

import pytest

from mcpgw.auth.scopes import ADMIN_SCOPES, AGENT_SCOPES, ROLES, check_roles, kind_of, scopes_of
from mcpgw.domain import VERBS, Kind
from mcpgw.errors import InvalidParams


@pytest.mark.requirement("auth:roles")
@pytest.mark.parametrize(
    ("roles", "scopes", "kind"),
    [
        ({"agent"}, {"mcp:use", "llm:use"}, Kind.AGENT),
        ({"agent", "editor"}, {"mcp:use", "llm:use"}, Kind.AGENT),
        ({"editor"}, set(), Kind.AGENT),
        ({"auditor"}, {"audit:read"}, Kind.ADMIN),
        ({"operator"}, {"kill:write", "servers:write", "audit:read"}, Kind.ADMIN),
        ({"auditor", "operator"}, {"kill:write", "servers:write", "audit:read"}, Kind.ADMIN),
        ({"admin"}, ADMIN_SCOPES, Kind.ADMIN),
    ],
)
def test_each_role_carries_what_the_contract_says(roles: set[str], scopes: set[str], kind: Kind) -> None:
    assert (scopes_of(roles), kind_of(roles)) == (scopes, kind)
    assert check_roles(roles) == roles


@pytest.mark.requirement("auth:roles")
@pytest.mark.parametrize("role", sorted(ROLES.keys() - {"agent"}))
def test_no_credential_is_an_agents_and_an_administrators(role: str) -> None:
    with pytest.raises(InvalidParams):
        check_roles({"agent", role})
    assert scopes_of({"agent", role}) == frozenset(), "a row that says so all the same opens nothing"


@pytest.mark.requirement("auth:roles")
def test_agents_and_administrators_share_no_scope() -> None:
    assert not AGENT_SCOPES & ADMIN_SCOPES
    assert {rule.scope for rule in VERBS.values()} <= AGENT_SCOPES | ADMIN_SCOPES


@pytest.mark.parametrize("role", ["", "Admin", "аdmin", "admin ", "a" * 65, "a\nb", "-a"])  # the third one is Cyrillic
def test_a_role_that_looks_like_another_is_refused(role: str) -> None:
    with pytest.raises(InvalidParams):
        check_roles({role})


def test_a_credential_without_roles_is_refused() -> None:
    with pytest.raises(InvalidParams):
        check_roles(set())
