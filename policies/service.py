"""Policies, as administrators push and choose them. The edge lets holders of `policy:write` in, and nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import anyio.to_thread

from mcpgw.config import PoliciesSection
from mcpgw.domain import AdminNote, PolicyBundle, Principal, State
from mcpgw.errors import Conflict, InvalidRequest, NotFound
from mcpgw.policies.bundle import Bundle
from mcpgw.policies.explain import explain
from mcpgw.policies.local import refused
from mcpgw.policies.warmup import check
from mcpgw.ports import Clock, Store, Worlds

Shown = dict[str, Any]
ACTIVATE = "policy.activate"
_PAGE = 500


class PolicyService:
    """Every change is one transaction with its note, and applies here before the answer leaves."""

    def __init__(self, store: Store, worlds: Worlds, clock: Clock, limits: PoliciesSection | None = None) -> None:
        self._store = store
        self._worlds = worlds
        self._clock = clock
        self._limits = limits or PoliciesSection()

    async def push(
        self, who: Principal, files: Mapping[str, str], *, activate: bool = False, reason: str | None = None
    ) -> Shown:
        """Check a bundle and keep it; with `activate`, use it from now on.

        Raises InvalidRequest with `data.findings`: then nothing has changed. Conflict when something else
        changed meanwhile.
        """
        bundle = Bundle.of(files)
        findings = await anyio.to_thread.run_sync(check, bundle)
        if findings:
            raise refused(findings)
        state = await self._store.state()
        row = next((b for b in state.bundles if b.sha256 == bundle.sha256), None)
        if row is None:
            now = self._clock.time()
            row = PolicyBundle(
                sha256=bundle.sha256, files=dict(bundle.files), pushed_by=who.selector, pushed_at=now, active=False
            )
        if activate:
            return await self._activate(who, state, row, reason)
        note = self._note(who, "policy.push", row.sha256, reason, after={"files": list(row.files)})
        epoch = await self._store.commit([row], note, expect=state.epoch)
        await self._worlds.at_least(epoch)
        return {**_shown(row), "epoch": epoch}

    async def activate(self, who: Principal, sha256: str, reason: str | None = None) -> Shown:
        """Use a bundle that is kept. Raises NotFound, InvalidRequest, Conflict."""
        state = await self._store.state()
        return await self._activate(who, state, _kept(state, sha256), reason)

    async def rollback(self, who: Principal, reason: str | None = None) -> Shown:
        """Use the bundle again that was active before the present one. Raises Conflict when there was none."""
        state = await self._store.state()
        if state.bundle is None:
            raise Conflict("no policy is active", fix="mcpgw policy activate SHA256")
        before = await self._active_before(state.bundle.sha256)
        if before is None:
            raise Conflict("no policy was active before this one", fix="mcpgw policy activate SHA256")
        return await self._activate(who, state, _kept(state, before), reason or "rollback")

    def list(self) -> list[Shown]:
        """Return the bundles that are kept, newest first, without their files."""
        rows = self._worlds.current.state.bundles
        return [_shown(row) for row in sorted(rows, key=lambda b: b.pushed_at, reverse=True)]

    def show(self, sha256: str) -> Shown:
        """Return a bundle with its files; eight digits of its digest will do. Raises NotFound."""
        row = _kept(self._worlds.current.state, sha256)
        return {**_shown(row), "files": dict(row.files)}

    async def explain(self, who: Principal, document: Mapping[str, Any]) -> Shown:
        """Return what the active bundle decides about an input document, and why.

        Raises InvalidParams for what is no input document, Conflict without an active bundle.
        """
        row = self._worlds.current.state.bundle
        if row is None:
            raise Conflict("no policy is active, so everything is denied", fix="mcpgw policy push DIR --activate")
        return await explain(Bundle.of(row.files), document, self._limits.max_input_bytes)

    async def _activate(self, who: Principal, state: State, row: PolicyBundle, reason: str | None) -> Shown:
        active = state.bundle
        if active is not None and active.sha256 == row.sha256:
            return {**_shown(row), "epoch": state.epoch}
        if Bundle.of(row.files).sha256 != row.sha256:
            raise InvalidRequest("the policy is not what was pushed: its digest differs", fix="push it again")
        chosen = replace(row, active=True)
        rows = [chosen] if active is None else [replace(active, active=False), chosen]
        before = {"sha256": active.sha256 if active is not None else None}
        note = self._note(who, ACTIVATE, row.sha256, reason, before, {"sha256": row.sha256})
        epoch = await self._store.commit(rows, note, expect=state.epoch)
        await self._worlds.at_least(epoch)
        return {**_shown(chosen), "epoch": epoch}

    async def _active_before(self, sha256: str) -> str | None:
        """Return which bundle this one took over from, as the notes have it."""
        before: str | None = None
        position = 0
        while page := await self._store.notes(position, _PAGE):
            for _, _, note in page:
                if note.action == ACTIVATE and note.target == sha256:
                    before = (note.before or {}).get("sha256")
            position = page[-1][0]
        return before

    def _note(
        self,
        who: Principal,
        action: str,
        target: str,
        reason: str | None,
        before: Shown | None = None,
        after: Shown | None = None,
    ) -> AdminNote:
        return AdminNote(
            id=self._clock.new_id(),
            time=self._clock.time(),
            actor=who.selector,
            action=action,
            target=target,
            reason=reason,
            before=before,
            after=after,
        )


def _kept(state: State, sha256: str) -> PolicyBundle:
    found = [b for b in state.bundles if b.sha256.startswith(sha256)] if len(sha256) >= 8 else []
    if len(found) != 1:
        raise NotFound(f"no policy `{sha256[:64]}`", fix="mcpgw policy list shows them")
    return found[0]


def _shown(row: PolicyBundle) -> Shown:
    return {
        "sha256": row.sha256,
        "active": row.active,
        "files": sorted(row.files),
        "pushed_by": row.pushed_by,
        "pushed_at": row.pushed_at,
    }
