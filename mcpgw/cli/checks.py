"""What a start needs besides well-formed settings: each check names file, key and fix."""

from __future__ import annotations

import ipaddress
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from mcpgw.auth import scopes
from mcpgw.config import Settings, secret
from mcpgw.errors import GatewayError, UsageError
from mcpgw.policies import warmup
from mcpgw.policies.bundle import Bundle
from mcpgw.registry.toolsets import check_declared
from mcpgw.supervisor import listening
from mcpgw.upstream_auth_section import IN_VAULT
from mcpgw.wiring.documents import openapi_problems
from mcpgw.wiring.trust import configured_issuers

Problem = dict[str, str]
Found = Iterator[tuple[str, GatewayError]]
"""Key of the configuration, and what is wrong there."""


def problems(settings: Settings, file: str) -> Iterator[Problem]:
    """Yield what would keep a gateway with these settings from starting, or from working."""
    identity = (_secrets, _roles, _issuers)
    for check in (_directory, _port, _store, *identity, _commands, _servers, _documents, _toolsets, _policy):
        for key, error in check(settings):
            yield {"problem": f"{file}: `{key}`: {error.message}", "fix": error.fix}


def _directory(settings: Settings) -> Found:
    path = settings.data_dir
    while not path.exists():
        path = path.parent
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        yield "data_dir", UsageError(f"{path} is not a directory that can be written to", fix="choose another: --dir")


def _port(settings: Settings) -> Found:
    try:
        with listening(settings):
            pass
    except UsageError as error:
        yield "server.port", error


def _store(settings: Settings) -> Found:
    if settings.store.url and not settings.store.url.startswith("sqlite+aiosqlite:///"):
        yield (
            "store.url",
            UsageError("only SQLite is supported as yet", fix="sqlite+aiosqlite:////var/lib/mcpgw/state.db"),
        )


def _secrets(settings: Settings) -> Found:
    auth = settings.auth
    named: list[tuple[str, str | None]] = [("auth.pepper", auth.pepper), ("auth.vault.key", auth.vault.key)]
    if auth.sign_in is not None:
        named.append(("auth.sign_in.client_secret", auth.sign_in.client_secret))
    named += [(f"llm.providers.{p.name}.api_key", p.api_key) for p in settings.llm.providers]
    registry = settings.registry
    for kind, servers in (("stdio", registry.stdio), ("http", registry.http), ("openapi", registry.openapi)):
        for server in servers:
            values = server.env if hasattr(server, "env") else server.headers
            named += [
                (f"registry.{kind}.{server.name}.{name}", value)
                for name, value in values.items()
                if value.startswith(("env:", "file:"))
            ]
    named += [
        (f"registry.http.{server.name}.auth", value)
        for server in registry.http
        if server.auth is not None
        for value in (*server.auth.headers.values(), server.auth.client_secret)
    ]
    for key, reference in named:
        if reference is not None and not reference.startswith(IN_VAULT):
            yield from _raised(key, partial(secret, reference))


def _roles(settings: Settings) -> Found:
    yield from _raised("auth.roles", partial(scopes.declare, settings.auth.roles))


def _issuers(settings: Settings) -> Found:
    yield from _raised("auth.issuers", partial(configured_issuers, settings))


def _commands(settings: Settings) -> Found:
    for server in settings.registry.stdio:
        key = f"registry.stdio.{server.name}"
        if server.cwd is not None and not Path(server.cwd).is_dir():
            yield f"{key}.cwd", UsageError(f"{server.cwd} is not a directory", fix="create it, or name another")
        if shutil.which(server.command[0]) is None:
            yield (
                f"{key}.command",
                UsageError(f"`{server.command[0]}` is not a program here", fix="install it, or give its full path"),
            )


def _servers(settings: Settings) -> Found:
    for server in settings.registry.http:
        where = urlsplit(server.url)
        if where.scheme not in {"http", "https"} or not where.hostname:
            yield (
                f"registry.http.{server.name}.url",
                UsageError("not an http or https URL", fix="for example https://mcp.example.com/mcp"),
            )
    for network in settings.registry.allow_networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            yield "registry.allow_networks", UsageError(f"`{network}` is not a network", fix="for example 10.1.0.0/16")


def _documents(settings: Settings) -> Found:
    for entry in settings.registry.openapi:
        for problem in openapi_problems(entry):
            where = f"{entry.document}#{problem.where}"
            yield f"registry.openapi.{entry.name}", UsageError(f"{where}: {problem.message}", fix=problem.fix)


def _toolsets(settings: Settings) -> Found:
    for toolset in settings.registry.toolsets:
        yield from _raised(f"registry.toolsets.{toolset.name}", partial(check_declared, toolset))


def _policy(settings: Settings) -> Found:
    if settings.policies.bundle is not None:
        try:
            found = warmup.check(Bundle.read(Path(settings.policies.bundle)))
        except GatewayError as error:
            yield "policies.bundle", error
            return
        for finding in found:
            place = f"{finding.file}:{finding.line}: {finding.message}"
            yield "policies.bundle", UsageError(place, fix=finding.fix)


def _raised(key: str, check: Callable[[], object]) -> Found:
    try:
        check()
    except GatewayError as error:
        yield key, error
