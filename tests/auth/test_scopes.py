"""The table of roles."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mcpgw.auth.scopes import ADMIN_SCOPES, AGENT_SCOPES, ROLES, check_roles, declare, kind_of, scopes_of
from mcpgw.domain import VERBS, Kind
from mcpgw.errors import InvalidParams, UsageError


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


@pytest.fixture
def custom() -> Iterator[None]:
    """Two roles of the operator's own."""
    declare({"killer": ["kill:write", "audit:read"], "tools-only": ["mcp:use"]})
    yield
    declare({})


@pytest.mark.requirement("principals:roles")
@pytest.mark.usefixtures("custom")
def test_a_role_of_the_operators_own_carries_what_it_says_and_is_of_one_side() -> None:
    assert (scopes_of({"killer"}), kind_of({"killer"})) == ({"kill:write", "audit:read"}, Kind.ADMIN)
    assert (scopes_of({"tools-only"}), kind_of({"tools-only"})) == ({"mcp:use"}, Kind.AGENT)
    for roles in ({"killer", "agent"}, {"killer", "tools-only"}, {"admin", "tools-only"}):
        assert scopes_of(roles) == frozenset()
        with pytest.raises(InvalidParams, match="cannot be an agent's and"):
            check_roles(roles)
    declare({})
    assert scopes_of({"killer"}) == frozenset(), "declared once for a process"


@pytest.mark.requirement("principals:roles")
@pytest.mark.parametrize(
    ("roles", "problem"),
    [
        ({"admin": ["audit:read"]}, "`admin` is built in"),
        ({"agent": []}, "`agent` is built in"),
        ({"Killer": ["kill:write"]}, "no name of a role"),
        ({"killer": ["kill:everything"]}, "unknown scope `kill:everything`"),
        ({"both": ["mcp:use", "audit:read"]}, "an agent's and an administrator's"),
    ],
)
def test_a_role_that_cannot_be_is_refused_at_the_start(roles: dict[str, list[str]], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        declare(roles)
    assert set(ROLES) == {"agent", "auditor", "operator", "admin"}
