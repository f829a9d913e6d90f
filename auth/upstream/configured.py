"""The header fields that the operator's configuration has for servers and providers."""

from __future__ import annotations

from collections.abc import Mapping

from mcpgw.auth.upstream.static import BEARER, References, printable, resolved
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
        self._headers: dict[Place, Mapping[str, str]] = {
            **{(s.name, s.url): resolved(s.headers, f"registry.http: {s.name}") for s in http if s.headers},
            # Where these go is said in the operator's file and the document that it names.
            **{(s.name, s.name): resolved(s.headers, f"registry.openapi: {s.name}") for s in openapi if s.headers},
            **{("", p.name): _bearer(p.name, p.api_key) for p in settings.llm.providers if p.api_key is not None},
        }
        self._in_vault = {
            place for place, fields in self._headers.items() if any(IN_VAULT in value for value in fields.values())
        }

    def at_hand(self, judged: Judged) -> Mapping[str, str] | None:
        """Return header fields by lower-case name, none where nothing is configured; None: they are in the vault."""
        place = _place(judged)
        return None if place in self._in_vault else self._headers.get(place, NONE)

    async def in_vault(self, judged: Judged) -> Mapping[str, str]:
        """Return those that are in the vault. Raises Unavailable."""
        place = _place(judged)
        return await self._references.headers(place, self._headers[place], judged.epoch)


def _place(judged: Judged) -> Place:
    """Return slug and endpoint; of a provider, which no server can be mistaken for, its name alone."""
    version = judged.version
    if version is None or judged.action.route is Route.LLM:
        return "", (judged.action.server or "") if judged.action.route is Route.LLM else ""
    return version.server, version.endpoint


def _bearer(provider: str, reference: str) -> Mapping[str, str]:
    if reference.startswith(IN_VAULT):
        return {"authorization": BEARER + reference}
    return {"authorization": printable(BEARER + secret(reference), f"llm.providers: {provider}: api_key")}
