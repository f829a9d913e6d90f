"""Servers, as administrators change them: each change one transaction with its note, applied before the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcpgw.config import RegistrySection
from mcpgw.domain import (
    SYSTEM,
    Era,
    Principal,
    Server,
    ServerVersion,
    State,
    Transport,
    UpstreamAuth,
    VersionStatus,
)
from mcpgw.errors import Conflict, UpstreamFailed
from mcpgw.ports import Clock, Store, Worlds
from mcpgw.registry import changes, configured, digest, drift, lifecycle, view
from mcpgw.registry.changes import Change
from mcpgw.registry.committing import committed
from mcpgw.registry.configured import Endpoint
from mcpgw.upstream_auth_section import given_auth

NOTES_PAGE = 1000
# What a server that opens no session over HTTP+SSE answers to the attempt.
_NO_SESSION = frozenset({"http_4xx", "http_5xx", "redirect", "credential", "not_json", "no_endpoint"})

Document = dict[str, Any]
Documents = list[Document]  # within the service, `list` is its method


@dataclass(frozen=True, slots=True)
class Probe:
    """What a server offers: the era it speaks, and the raw JSON of each tool in its order."""

    era: Era
    tools: Sequence[bytes]


Prober = Callable[[str, str, Transport, UpstreamAuth | None, str], Awaitable[Probe]]
"""Ask the server `slug` at an endpoint over a transport, as it will be proven to, for whoever (`issuer|subject`)
publishes it. Raises GatewayError when it does not answer as one."""


class ServersService:
    """The registry.

    A change returns the server as it is then (view.server), with `server` (its slug), the `version` concerned and the
    `epoch` from which it holds. Every method raises NotFound for a server or version that does not exist, and Conflict
    when the rules forbid the change, or others keep changing the state. `allow_endpoint` raises InvalidParams for a URL
    that the gateway may not connect to. `section` is what the operator declares: those servers alone may be processes,
    and their endpoints come from there.
    """

    def __init__(
        self,
        store: Store,
        worlds: Worlds,
        clock: Clock,
        probe: Prober,
        allow_endpoint: Callable[[str], None],
        section: RegistrySection | None = None,
    ) -> None:
        self._store = store
        self._worlds = worlds
        self._clock = clock
        self._probe = probe
        self._allow_endpoint = allow_endpoint
        self._section = section or RegistrySection()
        self._configured = configured.endpoints(self._section)
        self._authorizations = configured.authorizations(self._section)

    async def sync_configured(self) -> int:
        """Register what the operator declares, and nothing that they declare no longer; return the epoch."""
        _, epoch = await self._commit(SYSTEM, lambda s: configured.synced(self._section, s, self._clock.time()))
        return epoch

    async def add(
        self,
        who: Principal,
        slug: str,
        url: str,
        title: str = "",
        tags: Sequence[str] = (),
        trust: str = "untrusted",
        auth: Mapping[str, Any] | None = None,
    ) -> Document:
        """Register an HTTP server and publish what it offers now as a draft; one that does not answer is refused.

        `auth` is how the gateway proves itself to it (None: not at all). Raises InvalidParams, and what the probe
        raises.
        """
        server = Server(
            slug=slug,
            title=title or slug,
            created_by=who.selector,
            created_at=self._clock.time(),
            tags=tuple(tags),
            trust=trust,
        )
        lifecycle.check_server(server)
        self._check_url(url)
        changes.check_free(await self._store.state(), slug)
        proven = None if auth is None else given_auth(auth, url)
        draft = await self._draft(who, slug, (None, url), proven)
        return await self._change(who, slug, lambda state: changes.added(state, server, draft))

    async def mark(self, who: Principal, slug: str, idempotent: Collection[str]) -> Document:
        """Say which tools' calls may be repeated when they fail ("*": all). Raises InvalidParams, Conflict."""
        return await self._change(who, slug, lambda state: changes.marked(state, slug, idempotent))

    async def publish(
        self,
        who: Principal,
        slug: str,
        version: str | None = None,
        url: str | None = None,
        auth: Mapping[str, Any] | None = None,
    ) -> Document:
        """Ask the server for its tools and pin them as a draft.

        `version` None: the next one, or the newest when that pins just the same. `url` None: where the configuration,
        or else the newest version, has it. `auth` None: as the configuration, or else the newest version has it for
        that very URL. Raises InvalidParams, and what the probe raises.
        """
        if version is not None:
            lifecycle.order(version)
        state = await self._store.state()
        endpoint = self._endpoint(state, slug, url)
        draft = await self._draft(who, slug, endpoint, self._proven(state, slug, endpoint[1], auth))
        return await self._change(who, slug, lambda state: changes.published(state, draft, version))

    async def approve(self, who: Principal, slug: str, version: str, force: bool = False) -> Document:
        """Approve a draft; with `force` also one that the scan has findings on (`data.findings` of the Conflict).

        Approving an approved version again asks the server anew and lets those of its tools out of quarantine that
        equal their pins.
        """
        held = changes.version_of(await self._store.state(), slug, version)
        if held.status is VersionStatus.APPROVED:
            return await self._release(who, held)
        findings = view.findings(held)
        if findings and not force:
            raise Conflict(
                f"the scan of `{slug}` {version} found something in its tools ({len(findings)})",
                fix=f"read them (mcpgw servers show {slug}), then approve with --force",
                data={"findings": findings},
            )
        by = who.selector
        return await self._change(who, slug, lambda s: changes.approved(s, slug, version, by, len(findings)))

    async def activate(self, who: Principal, slug: str, version: str) -> Document:
        """Make an approved version the one that calls use."""
        return await self._change(who, slug, lambda state: changes.pointed(state, slug, version, changes.ACTIVATE))

    async def disable(self, who: Principal, slug: str) -> Document:
        """Serve no version of a server, not even to callers who name one."""
        return await self._change(who, slug, lambda state: changes.pointed(state, slug, None, changes.DISABLE))

    async def rollback(self, who: Principal, slug: str) -> Document:
        """Make the approved version active that was active before; again: the one before that."""
        activated = await self._activated(slug)
        return await self._change(who, slug, lambda state: changes.rolled_back(state, slug, activated))

    async def quarantine(
        self, who: Principal, slug: str, tool: str, seen_sha256: str, version: str | None = None
    ) -> Document:
        """Refuse calls of a tool of `version` (None: the active one) whose live definition is not its pin.

        `seen_sha256` "" means that the tool is gone.
        """

        def change(state: State) -> Change:
            pinned = changes.version_of(state, slug, version or state.active.get(slug) or "")
            return changes.apart(state, pinned, tool, seen_sha256, self._clock.time())

        return await self._change(who, slug, change)

    async def remove(self, who: Principal, slug: str) -> Document:
        """Remove a server that was added here; its versions are retired."""
        return await self._change(who, slug, lambda state: changes.removed(state, slug, self._clock.time()))

    def list(self) -> Documents:
        """Return the servers by slug."""
        state = self._worlds.current.state
        return [self._shown(state, server) for server in state.servers if server.removed_at is None]

    def show(self, slug: str) -> Document:
        state = self._worlds.current.state
        return self._shown(state, changes.server_of(state, slug))

    def diff(self, slug: str, a: str, b: str) -> Document:
        """Return what version `b` changes with regard to version `a` (drift.diff)."""
        state = self._worlds.current.state
        return drift.diff(changes.version_of(state, slug, a), changes.version_of(state, slug, b))

    def _shown(self, state: State, server: Server) -> Document:
        return view.server(state, server, self._configured.get(server.slug))

    def _check_url(self, url: str) -> None:
        lifecycle.check_url(url)
        self._allow_endpoint(url)

    def _endpoint(self, state: State, slug: str, url: str | None) -> Endpoint:
        """Return where the next version of a server is."""
        if changes.server_of(state, slug).configured:
            endpoint = self._configured.get(slug)
            if endpoint is None or url is not None:
                # Its headers are secrets for the endpoint that the operator wrote down, and for no other.
                raise Conflict(f"the endpoint of `{slug}` is the configuration's to say", fix="change it there")
            return endpoint
        last = lifecycle.newest(changes.versions_of(state, slug))
        place = url if url is not None else last.endpoint if last else ""
        self._check_url(place)
        return None, place

    def _proven(self, state: State, slug: str, place: str, auth: Mapping[str, Any] | None) -> UpstreamAuth | None:
        """Return how the gateway proves itself to the next version of a server, which is at `place`."""
        if changes.server_of(state, slug).configured:
            if auth is not None:
                raise Conflict(f"the authorization of `{slug}` is the configuration's to say", fix="change it there")
            return self._authorizations.get(slug)
        if auth is not None:
            return given_auth(auth, place)
        last = lifecycle.newest(changes.versions_of(state, slug))
        # What was written beside one URL goes to no other.
        return last.auth if last is not None and last.endpoint == place else None

    async def _draft(self, who: Principal, slug: str, endpoint: Endpoint, auth: UpstreamAuth | None) -> ServerVersion:
        """Return what the server offers as a draft without a number. Raises UpstreamFailed for tools without pins."""
        place = endpoint[1]

        async def probe_over(transport: Transport) -> Probe:
            return await self._probe(slug, place, transport, auth, who.selector)

        transport, probe = await _found(endpoint[0], probe_over)
        return ServerVersion(
            server=slug,
            version="",
            manifest_sha256="",
            endpoint=place,
            transport=transport,
            era=probe.era,
            tools=digest.pins(probe.tools),
            status=VersionStatus.DRAFT,
            published_by=who.selector,
            published_at=self._clock.time(),
            auth=auth,
        )

    async def _release(self, who: Principal, version: ServerVersion) -> Document:
        live = {}
        if changes.quarantined(await self._store.state(), version):
            probe = await self._probe(
                version.server, version.endpoint, version.transport, version.auth, version.published_by
            )
            live = digest.pins(probe.tools)
        now = self._clock.time()
        return await self._change(who, version.server, lambda s: changes.released(s, version, live, now))

    async def _activated(self, slug: str) -> Sequence[tuple[bool, str]]:
        """Return the versions of a server as they became active, from the notes, and whether by a rollback."""
        found: list[tuple[bool, str]] = []
        after = 0
        while page := await self._store.notes(after, NOTES_PAGE):
            after = page[-1][0]
            for _, _, note in page:
                if note.target == slug and note.action in (changes.ACTIVATE, changes.ROLLBACK) and note.after:
                    found.append((note.action == changes.ROLLBACK, note.after["active"]))
        return found

    async def _change(self, who: Principal, slug: str, change: Callable[[State], Change]) -> Document:
        made, epoch = await self._commit(who, change)
        state = (await self._worlds.at_least(epoch)).state
        server = next(server for server in state.servers if server.slug == slug)
        return {"server": slug, "version": made.version, "epoch": epoch, **self._shown(state, server)}

    async def _commit(self, who: Principal, change: Callable[[State], Change]) -> tuple[Change, int]:
        return await committed(self._store, self._clock, who, change)


async def _found(
    transport: Transport | None, probe: Callable[[Transport], Awaitable[Probe]]
) -> tuple[Transport, Probe]:
    """Return how a server is spoken to (None: as is found out now), and what it offers."""
    if transport is not None:
        return transport, await probe(transport)
    try:
        return Transport.HTTP, await probe(Transport.HTTP)
    except UpstreamFailed as refused:
        # It takes no POST: 2025-11-25, basic/transports: "Backwards Compatibility".
        if refused.data.get("cause") != "http_4xx":
            raise
        try:
            return Transport.SSE, await probe(Transport.SSE)
        except UpstreamFailed as failure:
            if failure.data.get("cause") in _NO_SESSION:
                raise refused from None
            raise
