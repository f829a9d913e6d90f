"""Which generation of the protocol an endpoint speaks, as far as it has shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from mcpgw.domain import Era, ServerVersion

DOUBT_S = 60.0  # after that a missing era is looked for again: servers are upgraded


@dataclass(frozen=True, slots=True)
class Spoken:
    """What is known of an endpoint; None: nothing yet. `versions` are those that it named."""

    modern: bool | None = None
    legacy: bool | None = None
    versions: tuple[str, ...] = ()
    learnt_at: float = 0.0


class Eras:
    """What all endpoints speak. That an era is missing is believed for a minute, that it is there until it is not."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._learnt: dict[str, Spoken] = {}

    def of(self, version: ServerVersion) -> Spoken:
        learnt = self._learnt.get(version.endpoint)
        if learnt is None:
            # The era in a manifest was seen once; that the other one was not seen proves nothing.
            return Spoken(
                modern=True if version.era in (Era.MODERN, Era.DUAL) else None,
                legacy=True if version.era in (Era.LEGACY, Era.DUAL) else None,
            )
        if False in (learnt.modern, learnt.legacy) and self._monotonic() - learnt.learnt_at > DOUBT_S:
            return dataclasses.replace(learnt, modern=learnt.modern or None, legacy=learnt.legacy or None)
        return learnt

    def learn(
        self,
        version: ServerVersion,
        *,
        modern: bool | None = None,
        legacy: bool | None = None,
        versions: tuple[str, ...] = (),
    ) -> Spoken:
        """Keep what an answer has shown; None: it has shown nothing about that era."""
        held = self.of(version)
        spoken = Spoken(
            modern=held.modern if modern is None else modern,
            legacy=held.legacy if legacy is None else legacy,
            versions=tuple(dict.fromkeys((*versions, *held.versions))),
            # A minute's doubt counts from what was missing, not from what was there.
            learnt_at=self._monotonic() if False in (modern, legacy) else held.learnt_at,
        )
        self._learnt[version.endpoint] = spoken
        return spoken
