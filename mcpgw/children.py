"""Actions on behalf of other actions: what an endpoint over several servers asks of each of them.

Each is a call like any other, with the credential of the caller for whom it is made: judged, recorded with its parent,
and cut by itself when a kill switch matches it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping

import msgspec

from mcpgw.domain import Action, Arguments, ClientFacts, Presented, Verb
from mcpgw.errors import ClientGone, GatewayError, Unavailable, UpstreamTimeout
from mcpgw.pipeline import Gateway
from mcpgw.ports import Clock, Deliver
from mcpgw.running import Board

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode


class BoardChildren:
    """Implements `ports.Children` for the running calls of one worker."""

    def __init__(self, board: Board, clock: Clock) -> None:
        self._board = board
        self._clock = clock
        self._gateway: Gateway | None = None

    def serve(self, gateway: Gateway) -> None:
        """Carry actions out through this gateway, which is made of what needs them and so comes last."""
        self._gateway = gateway

    def of(self, parent: Action, verb: Verb, server: str, forwarded: Mapping[str, bytes]) -> Action:
        return dataclasses.replace(
            parent,
            id=self._clock.new_id(),
            parent=parent.id,
            received_at=self._clock.time(),
            verb=verb,
            server=server,
            version=None,
            name=None,
            arguments=Arguments(),
            forwarded=forwarded,
            client=_untold(parent.client),
        )

    async def carry_out(self, child: Action, deliver: Deliver, within_s: float | None = None) -> None:
        gateway = self._gateway
        if gateway is None:
            raise Unavailable("the gateway is starting", fix="see /readyz")
        presented = self._presented_for(child)
        timer = None
        if within_s is not None:
            late = UpstreamTimeout(f"`{child.server}` did not answer within {within_s:.1f} s")
            timer = asyncio.get_running_loop().call_later(within_s, self._cut, child.id, late)
        try:
            await gateway.handle(presented, child, deliver)
        finally:
            if timer is not None:
                timer.cancel()

    def _presented_for(self, child: Action) -> Presented:
        parent = self._board.get(child.parent or "")
        if parent is None:
            raise ClientGone("the request that this was part of is over")
        return parent.presented

    def _cut(self, action_id: str, error: GatewayError) -> None:
        call = self._board.get(action_id)
        if call is not None:
            call.cut(error)


def _untold(client: ClientFacts | None) -> ClientFacts | None:
    """Return the client's facts without its progress token: of several answers, none can report under it."""
    if client is None or b"progressToken" not in client.meta:
        return client
    meta = {name: value for name, value in _members(client.meta).items() if name != "progressToken"}
    return dataclasses.replace(client, meta=_encode(meta))
