"""What each process of a gateway runs: preparation before the fork, a worker, the keeper."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import uvicorn
import uvloop

from mcpgw.audit.index import Index
from mcpgw.audit.keeper import Keeper
from mcpgw.audit.keys import Signer
from mcpgw.auth import keys, scopes
from mcpgw.auth.holders import ISSUER
from mcpgw.auth.keyfiles import private_file
from mcpgw.auth.server.passwords import Passwords
from mcpgw.auth.vault import Vault
from mcpgw.auth.vault_keys import VaultKeys
from mcpgw.clock import SystemClock
from mcpgw.cluster import socket_path
from mcpgw.config import Settings
from mcpgw.domain import SYSTEM, Account, AdminNote, ApiKey, Kind, PolicyBundle
from mcpgw.edge.asgi import RELAYED, App, Receive, Scope, Send
from mcpgw.edge.http import Deadlines, StrictHttp
from mcpgw.errors import UsageError
from mcpgw.places import Places
from mcpgw.policies.bundle import Bundle
from mcpgw.policies.local import compile_bundle
from mcpgw.store.records import SqlRecords
from mcpgw.store.revision import upgrade
from mcpgw.store.sql import SqlStore, read_notes
from mcpgw.wiring import Worker

DRAIN_S = 10


def prepare(settings: Settings, *, apart: bool = True) -> None:
    """Make what all processes share: directories, secrets, the schema of the database. Raises UsageError.

    `apart` says that this process is to stay small, and has no threads yet.
    """
    logging.basicConfig(
        level=settings.telemetry.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for chatty in ("alembic", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if settings.server.dev_no_auth:
        logging.getLogger("mcpgw").warning("dev_no_auth: everyone may do everything here; never use this in earnest")
    places = Places(settings.data_dir)
    try:
        for path in (settings.data_dir, places.run, places.keys, places.audit):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot create {settings.data_dir}: {error.strerror}", fix="choose another: --dir") from None
    keys.pepper(settings)
    scopes.declare(settings.auth.roles)
    Signer.load_or_create(places.keys, places.audit)
    upgrade(settings.store_url, apart=apart)


def run_keeper(settings: Settings) -> None:
    """Sign, take notes into the log and index it, until SIGTERM."""
    places = Places(settings.data_dir)
    stop = threading.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: stop.set())
    keeper = Keeper(
        places.audit,
        Signer.load_or_create(places.keys, places.audit),
        settings.audit,
        partial(read_notes, settings.store_url),
        SystemClock(),
        Index(settings.data_dir / "audit-index.db", places.audit),
    )
    keeper.run(stop)


def run_worker(settings: Settings, index: int, listener: socket.socket) -> None:
    """Serve on the shared port and on this worker's own socket, until SIGTERM."""
    gc.set_threshold(10_000, 50, 100)
    uvloop.run(_serve(settings, index, listener))


async def _serve(settings: Settings, index: int, listener: socket.socket) -> None:
    worker = Worker(settings, index)
    app = worker.app()
    deadlines = Deadlines(settings.limits)
    config = _config(app, deadlines)
    server = uvicorn.Server(config)
    path = socket_path(worker.places.run, index)
    path.unlink(missing_ok=True)
    loop = asyncio.get_running_loop()
    relayed = _config(_from_worker(app), deadlines)
    relayed.load()
    config.load()
    # Both listeners share one state, so that draining waits for relayed requests too.
    unix = await loop.create_unix_server(
        lambda: StrictHttp(deadlines, config=relayed, server_state=server.server_state, app_state={}), str(path)
    )
    os.chmod(path, 0o600)
    try:
        await server.serve(sockets=[listener])
    finally:
        unix.close()


def _config(app: App, deadlines: Deadlines) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=cast(type[StrictHttp], partial(StrictHttp, deadlines)),  # uvicorn calls it, whatever it is
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        date_header=False,
        log_config=None,
        timeout_graceful_shutdown=DRAIN_S,
        proxy_headers=False,
    )


def _from_worker(app: App) -> App:
    """Mark what comes over the worker's socket: only processes of this user can reach it."""

    async def relayed(scope: Scope, receive: Receive, send: Send) -> None:
        scope[RELAYED] = True
        await app(scope, receive, send)

    return relayed


def check_vault(settings: Settings) -> None:
    """Raise UsageError when secrets are sealed with a key that is not there."""
    asyncio.run(_check_vault(settings))


async def _check_vault(settings: Settings) -> None:
    store = SqlStore(settings.store_url)
    try:
        await Vault(SqlRecords(store, SystemClock()), VaultKeys.load(settings)).check()
    finally:
        await store.close()


def give_first_key(settings: Settings) -> None:
    """Where nobody has a key, make one for an administrator and leave it in a file that its owner alone can read."""
    if not settings.server.dev_no_auth:
        asyncio.run(_give_first_key(settings))


async def _give_first_key(settings: Settings) -> None:
    store = SqlStore(settings.store_url)
    try:
        if (await store.state()).keys:
            return
        clock = SystemClock()
        key, text = keys.new_key(
            keys.pepper(settings),
            subject="first-admin",
            roles={"admin"},
            created_by=SYSTEM.selector,
            created_at=clock.time(),
        )
        path = settings.data_dir / "admin-key"
        path.unlink(missing_ok=True)
        private_file(path, text.encode)
        await store.commit([key], _note(clock, "key.first", key))
        logging.getLogger("mcpgw").warning("nobody has a key yet: one for an administrator is in %s", path)
    finally:
        await store.close()


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """The first two keys of an installation, and the password of its first user, if it has one; shown once."""

    agent_key: str
    admin_key: str
    password: str | None = None


async def bootstrap(settings: Settings, policy_files: Mapping[str, str], first_user: str | None = None) -> Bootstrap:
    """Give a new installation an agent key, an admin key and an active policy. Raises UsageError.

    `first_user` is the name of a user who may administer it, and use it.
    """
    prepare(settings, apart=False)
    bundle = Bundle.of(policy_files)
    await compile_bundle(bundle, settings)
    clock = SystemClock()
    pepper = keys.pepper(settings)
    new_key = partial(keys.new_key, pepper, created_by=SYSTEM.selector, created_at=clock.time())
    agent, agent_text = new_key(subject="quickstart-agent", roles={"agent"})
    admin, admin_text = new_key(subject="quickstart-admin", roles={"admin"})
    users, password = [], None
    if first_user is not None:
        password = keys.new_password()
        users = [
            Account(
                id=clock.new_id(),
                issuer=ISSUER,
                subject=first_user,
                kind=Kind.USER,
                roles=frozenset({"admin", "agent"}),
                created_by=SYSTEM.selector,
                created_at=clock.time(),
                password=await Passwords().hashed(password),
            )
        ]
    active = PolicyBundle(
        sha256=bundle.sha256, files=bundle.files, pushed_by=SYSTEM.selector, pushed_at=clock.time(), active=True
    )
    store = SqlStore(settings.store_url)
    try:
        note = _note(clock, "installation.bootstrap", agent, admin, *users)
        await store.commit([agent, admin, *users, active], note)
    finally:
        await store.close()
    return Bootstrap(agent_text, admin_text, password)


def _note(clock: SystemClock, action: str, *made: ApiKey | Account) -> AdminNote:
    return AdminNote(
        id=clock.new_id(),
        time=clock.time(),
        actor=SYSTEM.selector,
        action=action,
        target="keys",
        reason="first start",
        after={one.subject: one.id for one in made},
    )
