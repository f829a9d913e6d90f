"""The header fields that the operator's configuration has for servers and providers."""

from __future__ import annotations

from collections.abc import Mapping

from mcpgw.auth.upstream.static import References, printable, resolved
from mcpgw.config import Settings, secret
from mcpgw.domain import Judged, Route
from mcpgw.upstream_auth_section import IN_VAULT

NONE: Mapping[str, str] = {}
Place = tuple[str, str]


class ConfiguredHeaders:
    """References to the environment and to files are resolved once, at construction; those to the vault when needed.

    Headers go to the URL that the operator wrote beside them and to no other: whoever may register a version of the
    same server with another endpoint does not get them sent there. Raises UsageError.
    """

    def __init__(self, settings: Settings, references: References) -> None:
        http, openapi = settings.registry.http, settings.registry.openapi
        self._references = references
        self._servers: dict[Place, Mapping[str, str]] = {
            **{(s.name, s.url): resolved(s.headers, f"registry.http: {s.name}") for s in http if s.headers},
            # Where these go is said in the operator's file and the document that it names.
            **{(s.name, s.name): resolved(s.headers, f"registry.openapi: {s.name}") for s in openapi if s.headers},
        }
        self._providers = {p.name: _bearer(p.name, p.api_key) for p in settings.llm.providers if p.api_key is not None}
        held = [*self._servers.values(), *self._providers.values()]
        self._in_vault = {id(fields) for fields in held if any(IN_VAULT in value for value in fields.values())}

    async def headers_for(self, judged: Judged) -> Mapping[str, str]:
        """Return header fields by lower-case name; none where nothing is configured. Raises Unavailable."""
        version = judged.version
        if judged.action.route is Route.LLM:
            place: Place = ("", judged.action.server or "")
            found = self._providers.get(place[1], NONE)
        elif version is None:
            return NONE
        else:
            place = (version.server, version.endpoint)
            found = self._servers.get(place, NONE)
        if id(found) in self._in_vault:
            return await self._references.headers(place, found, judged.epoch)
        return found


def _bearer(provider: str, reference: str) -> Mapping[str, str]:
    if reference.startswith(IN_VAULT):
        return {"authorization": reference}
    return {"authorization": printable("Bearer " + secret(reference), f"llm.providers: {provider}: api_key")}
