"""The policy engine of each world: the active bundle, compiled off the loop and kept while it stays the same."""

from __future__ import annotations

from mcpgw.config import Settings
from mcpgw.domain import State
from mcpgw.policies.bundle import Bundle
from mcpgw.policies.local import LocalEngine, compile_bundle
from mcpgw.ports import PolicyEngine


class PolicyLoader:
    """Makes engines on the loop's thread, where they live and are dropped."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def engine_for(self, state: State, held: PolicyEngine | None) -> PolicyEngine:
        """Return the engine of the active bundle; `held` when it is that. Raises InvalidRequest.

        Without an active bundle everything is denied, except where everyone may do everything anyway.
        """
        if state.bundle is not None:
            bundle = Bundle.of(state.bundle.files)
        else:
            bundle = Bundle.own("allow_all" if self._settings.server.dev_no_auth else "deny_all")
        if held is not None and held.sha256 == bundle.sha256:
            return held
        return LocalEngine(await compile_bundle(bundle, self._settings))
