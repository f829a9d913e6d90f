"""Agents with the SDK's client in front of a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from mcp import Client
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from mcp_types import TextContent

from mcpgw.domain import Receipt
from tests.harness import GatewayProcess

MODERN = "2026-07-28"
MODES = (MODERN, "auto", "legacy")
RECEIPT = "io.mcpgw/receipt"
DECISION = "io.mcpgw/decision"


@dataclass
class Tokens:
    """What an OAuth client remembers."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


@dataclass
class Wire:
    """The HTTP exchanges of a client, in order: (method, path, status)."""

    seen: list[tuple[str, str, int]] = field(default_factory=list)

    async def note(self, response: httpx2.Response) -> None:
        self.seen.append((response.request.method, response.request.url.path, response.status_code))


@asynccontextmanager
async def agent(
    url: str,
    key: str | None = None,
    *,
    mode: str = MODERN,
    auth: httpx2.Auth | None = None,
    wire: Wire | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    """Connect the SDK's client, by API key or by OAuth; `options` are those of `mcp.Client`."""
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    hooks = {"response": [wire.note]} if wire is not None else {}
    async with (
        httpx2.AsyncClient(headers=headers, auth=auth, event_hooks=hooks, timeout=20, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, **options) as client,
    ):
        yield client


def client_credentials(
    gate: GatewayProcess, url: str, client: dict[str, str], kept: Tokens
) -> ClientCredentialsOAuthProvider:
    """Return what makes the SDK get a token for `url` from the gateway itself, once it is told where."""
    return ClientCredentialsOAuthProvider(
        server_url=url,
        storage=kept,
        client_id=client["client_id"],
        client_secret=client["client_secret"],
        issuer=gate.base_url,
    )


def text_of(result: Any) -> str:
    """Return the text of a tool result."""
    return "\n".join(item.text for item in result.content if isinstance(item, TextContent))


def receipt_of(result: Any) -> Receipt:
    """Return the receipt that a result carries."""
    return Receipt(**result.meta[RECEIPT])


def names(listed: Sequence[Any]) -> set[str]:
    return {item.name for item in listed}
