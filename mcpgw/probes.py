"""The gateway's own questions to servers: what tools they have. They take the request path like any call."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence

import msgspec

from mcpgw.domain import (
    SYSTEM,
    Action,
    Era,
    Part,
    PartKind,
    Principal,
    Route,
    ServerVersion,
    Transport,
    UpstreamAuth,
    Verb,
    VersionStatus,
)
from mcpgw.errors import UpstreamFailed
from mcpgw.pipeline import INTERNAL, Gateway
from mcpgw.ports import Catalog

log = logging.getLogger("mcpgw.probes")
MAX_PAGES = 50


class _Page(msgspec.Struct):
    """One page of a list of tools: each definition as the very bytes that the server sent."""

    tools: list[msgspec.Raw]
    nextCursor: str | None = None


_page = msgspec.json.Decoder(_Page).decode


class Candidates:
    """Server versions that exist only while they are being probed."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], ServerVersion] = {}

    def add(self, version: ServerVersion) -> None:
        self._held[version.server, version.version] = version

    def drop(self, version: ServerVersion) -> None:
        self._held.pop((version.server, version.version), None)

    def get(self, server: str, version: str | None) -> ServerVersion | None:
        return self._held.get((server, version or ""))


class ProbedCatalog:
    """A catalogue in which the system principal also finds the candidates."""

    def __init__(self, inner: Catalog, candidates: Candidates) -> None:
        self._inner = inner
        self._candidates = candidates
        self.active = inner.active
        self.find = inner.find
        self.selection = inner.selection

    def resolve(self, server: str, version: str | None, who: Principal) -> ServerVersion | None:
        found = self._inner.resolve(server, version, who)
        if found is None and who.kind == "system":
            return self._candidates.get(server, version)
        return found


class Prober:
    """Asks servers for their tools, as the system principal."""

    def __init__(self, gateway: Gateway, candidates: Candidates) -> None:
        self._gateway = gateway
        self._candidates = candidates

    async def candidate(
        self,
        slug: str,
        endpoint: str,
        transport: Transport,
        auth: UpstreamAuth | None = None,
        by: str = SYSTEM.selector,
    ) -> tuple[Era, Sequence[bytes]]:
        """Return the era spoken and the raw tool definitions of a server that has no version yet at this endpoint.

        `auth` is how the gateway proves itself to it, `by` who is about to publish it.
        """
        clock = self._gateway.clock
        version = ServerVersion(
            server=slug,
            version=f"0.0.0-probe.{clock.new_id()}",
            manifest_sha256="",
            endpoint=endpoint,
            transport=transport,
            era=Era.UNKNOWN,
            tools={},
            status=VersionStatus.DRAFT,
            published_by=by,
            published_at=clock.time(),
            auth=auth,
        )
        self._candidates.add(version)
        try:
            return await self.tools(version)
        finally:
            self._candidates.drop(version)

    async def tools(self, version: ServerVersion) -> tuple[Era, Sequence[bytes]]:
        """Return the era spoken and the raw definitions of all tools of a version, over all pages."""
        tools: list[bytes] = []
        era = Era.UNKNOWN
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            forwarded = {} if cursor is None else {"cursor": json.dumps(cursor).encode()}
            part = await self._ask(version, Verb.TOOLS_LIST, forwarded)
            era = Era(part.facts.get("era", Era.UNKNOWN))
            try:
                page = _page(part.body)
            except msgspec.DecodeError:
                raise UpstreamFailed(
                    f"`{version.server}` answered tools/list without a list", fix="check the server"
                ) from None
            tools += [bytes(tool) for tool in page.tools]
            cursor = page.nextCursor
            if cursor is None:
                return era, tools
        raise UpstreamFailed(f"`{version.server}` lists tools without end", fix=f"at most {MAX_PAGES} pages are read")

    async def greet(self, version: ServerVersion) -> None:
        """Ask a server what it is, to see whether it answers. Raises GatewayError when it does not."""
        await self._ask(version, Verb.DISCOVER, {})

    async def _ask(self, version: ServerVersion, verb: Verb, forwarded: Mapping[str, bytes]) -> Part:
        parts: list[Part] = []

        async def keep(part: Part) -> None:
            if part.kind in (PartKind.WHOLE, PartKind.LAST):
                parts.append(part)

        clock = self._gateway.clock
        action = Action(
            id=clock.new_id(),
            route=Route.SYSTEM,
            verb=verb,
            resource=f"/mcp/{version.server}",
            received_at=clock.time(),
            server=version.server,
            version=version.version,
            forwarded=forwarded,
        )
        await self._gateway.handle(INTERNAL, action, keep)
        if not parts or parts[-1].error_code is not None:
            raise UpstreamFailed(
                f"`{version.server}` does not answer {verb.value} as an MCP server does", fix="check its URL and log"
            )
        return parts[-1]
