"""The admin API's table: every operation with the scope that it needs, and the one function that carries it out.

A route exists only by standing in `OPERATIONS`; so there is none without a scope.
"""

from __future__ import annotations

import msgspec

from mcpgw.edge import admin_schema as schema
from mcpgw.edge.admin_connections import CONNECTION_OPERATIONS
from mcpgw.edge.admin_identities import IDENTITY_OPERATIONS
from mcpgw.edge.admin_operation import Ask, Operation
from mcpgw.edge.admin_secrets import SECRET_OPERATIONS
from mcpgw.edge.admin_signing import SIGNING_OPERATIONS
from mcpgw.edge.services import Json, Services

__all__ = ["OPERATIONS", "Ask", "Operation"]


async def list_servers(to: Services, ask: Ask[schema.Nothing]) -> Json:
    """List the servers."""
    return {"servers": to.servers.list()}


async def add_server(to: Services, ask: Ask[schema.NewServer]) -> Json:
    """Register an HTTP server. Nothing of it is served until a version is published, approved and activated."""
    new = ask.given
    return await to.servers.add(
        ask.who, new.slug, url=new.url, title=new.title, tags=new.tags, trust=new.trust, auth=new.auth
    )


async def show_server(to: Services, ask: Ask[schema.Nothing]) -> Json:
    """Show a server and its versions."""
    return to.servers.show(ask.path["slug"])


async def remove_server(to: Services, ask: Ask[schema.Nothing]) -> Json:
    """Remove a server."""
    return await to.servers.remove(ask.who, ask.path["slug"])


async def publish_version(to: Services, ask: Ask[schema.NewVersion]) -> Json:
    """Publish a version: pin the tools that the server offers now."""
    new = ask.given
    return await to.servers.publish(ask.who, ask.path["slug"], version=new.version, url=new.url, auth=new.auth)


async def approve_version(to: Services, ask: Ask[schema.Approval]) -> Json:
    """Approve a version."""
    return await to.servers.approve(ask.who, ask.path["slug"], ask.path["version"], force=ask.given.force)


async def activate_version(to: Services, ask: Ask[schema.Nothing]) -> Json:
    """Make an approved version the one that calls use."""
    return await to.servers.activate(ask.who, ask.path["slug"], ask.path["version"])


async def mark_server(to: Services, ask: Ask[schema.Marks]) -> Json:
    """Say which tools' calls may be repeated when they fail (`*`: all of them)."""
    return await to.servers.mark(ask.who, ask.path["slug"], idempotent=ask.given.idempotent)


async def disable_server(to: Services, ask: Ask[schema.Nothing]) -> Json:
    """Serve no version of a server."""
    return await to.servers.disable(ask.who, ask.path["slug"])


async def rollback_server(to: Services, ask: Ask[schema.Nothing]) -> Json:
    """Make the version that was active before the active one again."""
    return await to.servers.rollback(ask.who, ask.path["slug"])


async def diff_versions(to: Services, ask: Ask[schema.Between]) -> Json:
    """Compare the tools of two versions."""
    return to.servers.diff(ask.path["slug"], ask.given.from_, ask.given.to)


async def list_toolsets(to: Services, ask: Ask[schema.Nothing]) -> Json:
    """List the toolsets."""
    return {"toolsets": to.toolsets.list()}


async def create_toolset(to: Services, ask: Ask[schema.NewToolset]) -> Json:
    """Create a toolset. `warnings` say what it names and does not offer now."""
    return await to.toolsets.create(ask.who, ask.given.slug, _toolset(ask.given))


async def show_toolset(to: Services, ask: Ask[schema.Nothing]) -> Json:
    """Show a toolset and what it offers now, before any policy."""
    return to.toolsets.show(ask.path["slug"])


async def replace_toolset(to: Services, ask: Ask[schema.ToolsetGiven]) -> Json:
    """Create a toolset, or put this one in its place."""
    return await to.toolsets.replace(ask.who, ask.path["slug"], _toolset(ask.given))


async def remove_toolset(to: Services, ask: Ask[schema.Nothing]) -> Json:
    """Remove a toolset."""
    return await to.toolsets.remove(ask.who, ask.path["slug"])


def _toolset(given: schema.ToolsetGiven) -> Json:
    return {
        "title": given.title,
        "instructions": given.instructions,
        "search": given.search,
        "tools": [msgspec.structs.asdict(tool) for tool in given.tools],
    }


async def list_policies(to: Services, ask: Ask[schema.Nothing]) -> Json:
    """List the policy bundles."""
    return {"policies": to.policies.list()}


async def push_policy(to: Services, ask: Ask[schema.NewPolicy]) -> Json:
    """Check and keep a policy bundle; with `activate`, use it. A bundle that fails its check is refused whole."""
    new = ask.given
    return await to.policies.push(ask.who, new.files, activate=new.activate, reason=new.reason)


async def show_policy(to: Services, ask: Ask[schema.Nothing]) -> Json:
    """Show a policy bundle with its files."""
    return to.policies.show(ask.path["sha256"])


async def activate_policy(to: Services, ask: Ask[schema.WhyPerhaps]) -> Json:
    """Use a policy bundle."""
    return await to.policies.activate(ask.who, ask.path["sha256"], reason=ask.given.reason)


async def rollback_policy(to: Services, ask: Ask[schema.WhyPerhaps]) -> Json:
    """Use the policy bundle again that was active before."""
    return await to.policies.rollback(ask.who, reason=ask.given.reason)


async def explain_policy(to: Services, ask: Ask[schema.PolicyQuestion]) -> Json:
    """Say what the active policy decides for an input document, and why."""
    return await to.policies.explain(ask.who, ask.given.input)


async def list_kills(to: Services, ask: Ask[schema.KillFilter]) -> Json:
    """List the kill switches in force; with `include_released` also the others."""
    return {"kill_switches": to.kills.list(ask.given.include_released)}


async def throw_kill(to: Services, ask: Ask[schema.NewKill]) -> Json:
    """Throw a kill switch. 200: every live worker has applied it; 202: those under `missing` have not."""
    new = ask.given
    return await to.kills.throw(
        ask.who,
        scope=new.scope.value,
        selector=new.selector,
        mode=new.mode.value,
        reason=new.reason,
        expires_in_s=new.expires_in_s,
        dry_run=new.dry_run,
    )


async def release_kill(to: Services, ask: Ask[schema.Why]) -> Json:
    """Release a kill switch."""
    return await to.kills.release(ask.who, ask.path["id"], ask.given.reason)


async def query_audit(to: Services, ask: Ask[schema.AuditFilter]) -> Json:
    """Query the log, newest first."""
    given = ask.given
    filters = {
        name: getattr(given, name)
        for name in ("principal", "server", "tool", "effect", "outcome", "trace", "cursor", "limit")
    } | {"since": schema.instant(given.since), "until": schema.instant(given.until)}
    return await to.audit.query({name: value for name, value in filters.items() if value is not None})


async def audit_checkpoint(to: Services, ask: Ask[schema.Nothing]) -> Json:
    """Return the newest signed checkpoint: who keeps it can prove any later change."""
    return await to.audit.checkpoint()


async def audit_proof(to: Services, ask: Ask[schema.ProofOf]) -> Json:
    """Prove that a record stands in the log."""
    return await to.audit.proof(ask.given.log, ask.given.index)


async def show_action(to: Services, ask: Ask[schema.Nothing]) -> Json:
    """Return all records of one action."""
    return await to.audit.of(ask.path["action_id"])


async def show_status(to: Services, ask: Ask[schema.Nothing]) -> Json:
    """Say how the gateway is."""
    return to.status.status()


OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/servers", "audit:read", list_servers),
    Operation("POST", "/servers", "servers:write", add_server, schema.NewServer, 201),
    Operation("GET", "/servers/{slug}", "audit:read", show_server),
    Operation("DELETE", "/servers/{slug}", "servers:write", remove_server),
    Operation("POST", "/servers/{slug}/versions", "servers:write", publish_version, schema.NewVersion, 201),
    Operation(
        "POST", "/servers/{slug}/versions/{version}/approve", "servers:approve", approve_version, schema.Approval
    ),
    Operation("POST", "/servers/{slug}/versions/{version}/activate", "servers:write", activate_version),
    Operation("POST", "/servers/{slug}/mark", "servers:approve", mark_server, schema.Marks),
    Operation("POST", "/servers/{slug}/disable", "servers:write", disable_server),
    Operation("POST", "/servers/{slug}/rollback", "servers:write", rollback_server),
    Operation("GET", "/servers/{slug}/diff", "audit:read", diff_versions, schema.Between),
    Operation("GET", "/toolsets", "audit:read", list_toolsets),
    Operation("POST", "/toolsets", "servers:write", create_toolset, schema.NewToolset, 201),
    Operation("GET", "/toolsets/{slug}", "audit:read", show_toolset),
    Operation("PUT", "/toolsets/{slug}", "servers:write", replace_toolset, schema.ToolsetGiven),
    Operation("DELETE", "/toolsets/{slug}", "servers:write", remove_toolset),
    Operation("GET", "/policies", "audit:read", list_policies),
    Operation("POST", "/policies", "policy:write", push_policy, schema.NewPolicy, 201),
    Operation("POST", "/policies/rollback", "policy:write", rollback_policy, schema.WhyPerhaps),
    Operation("POST", "/policies/explain", "audit:read", explain_policy, schema.PolicyQuestion),
    Operation("GET", "/policies/{sha256}", "audit:read", show_policy),
    Operation("POST", "/policies/{sha256}/activate", "policy:write", activate_policy, schema.WhyPerhaps),
    Operation("GET", "/kill-switches", "audit:read", list_kills, schema.KillFilter),
    Operation("POST", "/kill-switches", "kill:write", throw_kill, schema.NewKill),
    Operation("DELETE", "/kill-switches/{id}", "kill:release", release_kill, schema.Why),
    *IDENTITY_OPERATIONS,
    *SECRET_OPERATIONS,
    *CONNECTION_OPERATIONS,
    *SIGNING_OPERATIONS,
    Operation("GET", "/audit", "audit:read", query_audit, schema.AuditFilter),
    Operation("GET", "/audit/checkpoint", "audit:read", audit_checkpoint),
    Operation("GET", "/audit/proof", "audit:read", audit_proof, schema.ProofOf),
    Operation("GET", "/audit/{action_id}", "audit:read", show_action),
    Operation("GET", "/status", "audit:read", show_status),
)
