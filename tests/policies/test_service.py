"""Pushing, choosing and going back, over a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcpgw.domain import Kind, PolicyBundle
from mcpgw.errors import Conflict, InvalidParams, InvalidRequest, NotFound
from mcpgw.policies.bundle import Bundle
from mcpgw.policies.explain import document_of
from mcpgw.policies.service import PolicyService
from mcpgw.ports import World
from mcpgw.store.memory import MemoryStore
from tests.parts import Rules, SetClock, agent, world_of
from tests.policies.parts import ALLOW, DENY, PACKAGE, asked

ROOT = agent("root", kind=Kind.ADMIN)
OPEN = {"policy.rego": f"{PACKAGE}decision := {ALLOW}\n"}
SHUT = {"policy.rego": f"{PACKAGE}decision := {DENY}\n"}
BROKEN = {"policy.rego": f"{PACKAGE}decision := {ALLOW} if http.send({{}})\n\nx := uuid.rfc4122(1)\n"}


class Followed:
    """Worlds that follow a store, without workers."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.current: World = world_of(policy=Rules())

    def published(self) -> int:
        return self.current.epoch

    async def at_least(self, epoch: int) -> World:
        state = await self._store.state()
        assert state.epoch >= epoch
        self.current = World(
            epoch=state.epoch,
            catalog=self.current.catalog,
            switches=self.current.switches,
            policy=self.current.policy,
            identities=self.current.identities,
            state=state,
        )
        return self.current


class Policies:
    """A service with its store."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.worlds = Followed(self.store)
        self.clock = SetClock()
        self.service = PolicyService(self.store, self.worlds, self.clock)

    async def active(self) -> str | None:
        bundle = (await self.store.state()).bundle
        return bundle.sha256 if bundle is not None else None


@pytest.fixture
async def policies() -> AsyncIterator[Policies]:
    yield Policies()


def sha(files: dict[str, str]) -> str:
    return Bundle.of(files).sha256


async def test_a_bundle_is_kept_and_not_used_until_it_is_activated(policies: Policies) -> None:
    pushed = await policies.service.push(ROOT, OPEN, activate=False, reason="first")
    assert (pushed["sha256"], pushed["active"]) == (sha(OPEN), False)
    assert await policies.active() is None
    activated = await policies.service.activate(ROOT, sha(OPEN))
    assert activated["active"]
    assert await policies.active() == sha(OPEN)
    notes = [note for _, _, note in await policies.store.notes(0, 10)]
    assert [(n.action, n.actor, n.target) for n in notes] == [
        ("policy.push", ROOT.selector, sha(OPEN)),
        ("policy.activate", ROOT.selector, sha(OPEN)),
    ]
    assert notes[0].reason == "first"


@pytest.mark.requirement("policy:activate")
async def test_activating_is_one_change_for_the_old_and_the_new(policies: Policies) -> None:
    await policies.service.push(ROOT, OPEN, activate=True, reason=None)
    before = (await policies.store.state()).epoch
    policies.clock.now += 1
    pushed = await policies.service.push(ROOT, SHUT, activate=True, reason="shut")
    assert pushed["epoch"] == before + 1 == (await policies.store.state()).epoch
    assert [(row["sha256"], row["active"]) for row in policies.service.list()] == [
        (sha(SHUT), True),
        (sha(OPEN), False),
    ]


@pytest.mark.requirement("policy:refused-whole")
async def test_a_bundle_that_fails_its_check_changes_nothing_and_names_everything(policies: Policies) -> None:
    await policies.service.push(ROOT, OPEN, activate=True, reason=None)
    before = await policies.store.state()
    with pytest.raises(InvalidRequest) as refused:
        await policies.service.push(ROOT, BROKEN, activate=True, reason=None)
    found = refused.value.data["findings"]
    assert [f["line"] for f in found] == [3, 5]
    assert await policies.store.state() == before


async def test_pushing_the_same_again_keeps_it_once(policies: Policies) -> None:
    await policies.service.push(ROOT, OPEN, activate=True, reason=None)
    again = await policies.service.push(ROOT, OPEN, activate=False, reason=None)
    assert again["active"]
    assert len((await policies.store.state()).bundles) == 1
    assert await policies.active() == sha(OPEN)
    epoch = (await policies.store.state()).epoch
    assert (await policies.service.activate(ROOT, sha(OPEN)))["epoch"] == epoch


@pytest.mark.requirement("policy:activate")
async def test_a_change_in_between_is_a_conflict(policies: Policies, monkeypatch: pytest.MonkeyPatch) -> None:
    await policies.service.push(ROOT, OPEN, activate=True, reason=None)
    await policies.service.push(ROOT, SHUT, activate=False, reason=None)
    stale = await policies.store.state()
    await policies.service.push(ROOT, {**OPEN, "more.rego": "package more\n\nx := 1\n"}, activate=False, reason=None)

    async def state() -> object:
        return stale

    monkeypatch.setattr(policies.store, "state", state)
    with pytest.raises(Conflict):
        await policies.service.activate(ROOT, sha(SHUT))


@pytest.mark.requirement("policy:rollback")
async def test_a_rollback_uses_what_was_active_before_and_back_again(policies: Policies) -> None:
    other = {"policy.rego": OPEN["policy.rego"] + "\nx := 1\n"}
    for files in (OPEN, SHUT, other):
        await policies.service.push(ROOT, files, activate=True, reason=None)
    assert (await policies.service.rollback(ROOT))["sha256"] == sha(SHUT)
    assert await policies.active() == sha(SHUT)
    assert (await policies.service.rollback(ROOT))["sha256"] == sha(other)
    assert await policies.active() == sha(other)


async def test_without_an_earlier_policy_there_is_nothing_to_go_back_to(policies: Policies) -> None:
    with pytest.raises(Conflict, match="no policy is active"):
        await policies.service.rollback(ROOT)
    await policies.service.push(ROOT, OPEN, activate=True, reason=None)
    with pytest.raises(Conflict, match="no policy was active before"):
        await policies.service.rollback(ROOT)


async def test_a_bundle_is_shown_with_its_files_by_the_start_of_its_digest(policies: Policies) -> None:
    await policies.service.push(ROOT, OPEN, activate=False, reason=None)
    assert policies.service.show(sha(OPEN)[:8])["files"] == OPEN
    for unknown in ("", sha(OPEN)[:7], "0" * 64, sha(SHUT)):
        with pytest.raises(NotFound):
            policies.service.show(unknown)
        with pytest.raises(NotFound):
            await policies.service.activate(ROOT, unknown)


@pytest.mark.requirement("policy:activate")
async def test_files_that_are_no_longer_what_was_pushed_are_not_activated(policies: Policies) -> None:
    forged = PolicyBundle(sha256=sha(SHUT), files=OPEN, pushed_by="x", pushed_at=0.0)
    note = policies.service._note(ROOT, "policy.push", forged.sha256, None)
    await policies.store.commit([forged], note)
    with pytest.raises(InvalidRequest, match="digest differs"):
        await policies.service.activate(ROOT, sha(SHUT))


@pytest.mark.requirement("policy:explain")
async def test_the_active_policy_is_explained(policies: Policies) -> None:
    document = document_of(asked("call"))
    with pytest.raises(Conflict, match="no policy is active"):
        await policies.service.explain(ROOT, document)
    await policies.service.push(ROOT, OPEN, activate=True, reason=None)
    assert (await policies.service.explain(ROOT, document))["decision"]["effect"] == "allow"
    with pytest.raises(InvalidParams):
        await policies.service.explain(ROOT, {"phase": "call"})


async def test_a_bundle_out_of_bounds_is_refused_before_anything_is_run(policies: Policies, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be a path"):
        await policies.service.push(ROOT, {"../policy.rego": "package x"}, activate=True, reason=None)
