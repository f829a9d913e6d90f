"""What a user is asked about a client, and what is remembered of the answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

import msgspec

from mcpgw.auth.endpoints import ADMIN, LLM, MCP
from mcpgw.auth.keys import digest
from mcpgw.auth.server.documents import is_document
from mcpgw.auth.server.redirects import destination
from mcpgw.domain import Account, Action, AuthorizationRequest, OAuthClient, Principal, Route, Verb
from mcpgw.ports import Clock, Identities, Record, Records, World
from mcpgw.ports.front import ConsentPage
from mcpgw.visible import sees_server, visible_servers

CONSENT = "consent"
"""Kind of the records; their owner is the account."""
SHOWN = 12
"""Servers that a page names."""

_WORDS = {
    "mcp:use": "use MCP tools, prompts and resources",
    "llm:use": "use language models",
    "audit:read": "read the audit log",
    "kill:write": "stop servers, tools and callers",
    "kill:release": "let what was stopped run again",
    "servers:write": "register and change servers",
    "servers:approve": "approve versions of servers",
    "policy:write": "change the policy that decides every call",
    "keys:write": "make and end keys, clients and users",
    "budgets:write": "change budgets",
    "admin": "administer everything else here",
}


class _Kept(msgspec.Struct, frozen=True):
    client_id: str
    at: float


class Consents:
    """Remembers consent for exactly one client, redirect URI, resource and set of scopes."""

    def __init__(self, records: Records, clock: Clock, pepper: bytes, life_s: float) -> None:
        self._records = records
        self._clock = clock
        self._pepper = pepper
        self._life_s = life_s

    async def remembered(
        self, request: AuthorizationRequest, client: OAuthClient, account: Account, identities: Identities
    ) -> bool:
        """Whether the user need not be asked again.

        Whoever waits on the user's own machine, and has no secret, could be any program there: such a client is always
        asked about (RFC 8252 §8.6).
        """
        if client.auth_method == "none" and destination(request.redirect_uri).on_this_device:
            return False
        record = await self._records.get(CONSENT, self._id(request, account))
        if record is None:
            return False
        kept = msgspec.json.decode(record.body, type=_Kept)
        places = (("client", client.client_id), ("principal", f"{account.issuer}|{account.subject}"))
        return all(kept.at >= identities.not_before.get(place, 0.0) for place in places)

    async def remember(self, request: AuthorizationRequest, account: Account) -> None:
        now = self._clock.time()
        id = self._id(request, account)
        await self._records.take(CONSENT, id)
        body = msgspec.json.encode(_Kept(request.client_id, now))
        await self._records.put(Record(kind=CONSENT, id=id, owner=account.id, body=body, expires_at=now + self._life_s))

    async def forget(self, account: Account, client_id: str) -> None:
        """Ask about this client anew, whatever it wants."""
        for record in await self._records.of(CONSENT, account.id):
            if msgspec.json.decode(record.body, type=_Kept).client_id == client_id:
                await self._records.take(CONSENT, record.id)

    def _id(self, request: AuthorizationRequest, account: Account) -> str:
        said = [account.id, request.client_id, request.redirect_uri, request.endpoint, sorted(request.scopes)]
        return digest(self._pepper, "consent:" + msgspec.json.encode(said).decode())


def page(
    request: AuthorizationRequest, client: OAuthClient, account: Account, *, form: str, servers: Sequence[str]
) -> ConsentPage:
    """Return the question."""
    goes_to = destination(request.redirect_uri)
    app_host = urlsplit(client.client_id).hostname if is_document(client.client_id) else None
    target_host = None if goes_to.on_this_device else urlsplit(request.redirect_uri).hostname
    return ConsentPage(
        form=form,
        user=account.title or account.subject,
        app=client.title or client.client_id,
        app_host=app_host,
        app_page=client.about.get("client_uri"),
        vouched=made_here(client),
        goes_to=goes_to.origin,
        on_this_device=goes_to.on_this_device,
        elsewhere=app_host is not None and target_host is not None and target_host != app_host,
        scopes=in_words(request.scopes),
        endpoint=endpoint_in_words(request.endpoint),
        servers=servers[:SHOWN],
        more=max(0, len(servers) - SHOWN),
    )


def made_here(client: OAuthClient) -> bool:
    """Whether an administrator made the client; others describe themselves, and anyone can."""
    return client.registration is None and not is_document(client.client_id)


def in_words(scopes: Collection[str]) -> list[str]:
    return [_WORDS.get(scope, scope) for scope in sorted(scopes)]


def endpoint_in_words(endpoint: str) -> str:
    if endpoint == MCP:
        return "all MCP servers here that you may use"
    if endpoint == LLM:
        return "the language models here"
    if endpoint == ADMIN:
        return "the administration of this gateway"
    return f"the MCP server or toolset {endpoint.removeprefix(MCP + '/')}"


async def servers_of(world: World, request: AuthorizationRequest, account: Account) -> list[str]:
    """Return the names of the servers that an authorization opens, as far as this user may see them."""
    if request.endpoint in {LLM, ADMIN}:
        return []
    who = Principal(
        issuer=account.issuer,
        subject=account.subject,
        client_id=request.client_id,
        kind=account.kind,
        roles=account.roles,
        scopes=request.scopes,
        team=account.team,
        account=account.id,
    )
    slug, _, version = request.endpoint.removeprefix(MCP).removeprefix("/").partition("@")
    toolset = slug if slug and world.catalog.selection(slug) is not None else None
    action = Action(
        id="consent",
        route=Route.MCP,
        verb=Verb.TOOLS_LIST,
        resource=request.endpoint,
        received_at=0.0,
        server=slug if slug and toolset is None else None,
        version=version or None,
        toolset=toolset,
    )
    if action.server is None:
        seen = await visible_servers(world, who, action)
    else:
        found = world.catalog.resolve(action.server, action.version, who)
        seen = () if found is None or not await sees_server(world, who, action, found) else (found,)
    titles = {server.slug: server.title for server in world.state.servers}
    return [titles.get(version.server) or version.server for version in seen]
