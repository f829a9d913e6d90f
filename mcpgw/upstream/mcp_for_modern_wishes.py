"""What a modern client wants to be told by a server of the handshake era, and how it reads what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from mcpgw.domain import Action, Part, PartKind
from mcpgw.errors import InvalidParams, MethodNotAllowed
from mcpgw.upstream.mcp_parts import LIST_CHANGED, SUBSCRIPTION_ID, Message, encode, members, notification

MAX_URIS = 100  # of one subscription
_ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
_UPDATED = "notifications/resources/updated"


class Wanted(msgspec.Struct, gc=False):
    """What a client asks to be told, or is granted."""

    toolsListChanged: bool = False
    promptsListChanged: bool = False
    resourcesListChanged: bool = False
    resourceSubscriptions: tuple[str, ...] = ()

    def wants(self, kind: str) -> bool:
        return bool(getattr(self, f"{kind}ListChanged"))


class _Updated(msgspec.Struct, gc=False):
    uri: str


_wanted = msgspec.json.Decoder(Wanted).decode
_updated = msgspec.json.Decoder(_Updated).decode


def granted(action: Action, offers: Mapping[str, Raw], server: str) -> Wanted:
    """Return what of a client's wishes a server of these capabilities can fulfil; of tools the gateway tells itself.

    Raises InvalidParams, and MethodNotAllowed when there is nothing for the server to tell.
    """
    try:
        wanted = _wanted(action.forwarded.get("notifications", b"{}"))
    except msgspec.DecodeError:
        raise InvalidParams("`params.notifications` is not a filter", fix="send booleans, and a list of URIs") from None
    told = {kind: _flag(offers.get(kind), "listChanged") for kind in LIST_CHANGED.values()}
    found = Wanted(
        wanted.toolsListChanged,
        wanted.promptsListChanged and told["prompts"],
        wanted.resourcesListChanged and told["resources"],
        wanted.resourceSubscriptions[:MAX_URIS] if _flag(offers.get("resources"), "subscribe") else (),
    )
    by_server = found.toolsListChanged and told["tools"], found.promptsListChanged, found.resourcesListChanged
    if not any(by_server) and not found.resourceSubscriptions:
        raise MethodNotAllowed(f"`{server}` tells of nothing that was asked for")
    return found


def _flag(capability: Raw | None, name: str) -> bool:
    if capability is None or not bytes(capability).startswith(b"{"):
        return False
    return bytes(members(capability).get(name, b"")) == b"true"


class Subscription:
    """What one client hears, under the id of its subscription; `uris` are those that its server tells of."""

    def __init__(self, action: Action, wanted: Wanted) -> None:
        self.wanted = wanted
        self.uris: list[str] = []
        self._id = Raw(action.forwarded.get("#id", b"null"))

    def acknowledged(self) -> Part:
        """Return the first message of the stream."""
        kinds = [kind for kind in LIST_CHANGED.values() if self.wanted.wants(kind)]
        honoured: dict[str, Any] = {f"{kind}ListChanged": True for kind in kinds}
        if self.uris:
            honoured["resourceSubscriptions"] = self.uris
        return Part(PartKind.EVENT, notification(_ACKNOWLEDGED, self._tagged({"notifications": honoured})))

    def told(self, message: Message) -> Part | None:
        """Return a notification of the server as this client is told it; None: it did not ask for that."""
        method = message.method or ""
        kind = LIST_CHANGED.get(method)
        if not (self.wanted.wants(kind) if kind is not None else method == _UPDATED and self._watches(message)):
            return None
        params = members(message.params) if message.params.startswith(b"{") else {}
        return Part(PartKind.EVENT, notification(method, self._tagged(params)))

    def over(self) -> Part:
        """Return the last message of a stream that ends in good order: the client may listen again."""
        return Part(PartKind.LAST, self._tagged({"resultType": "complete"}))

    def _watches(self, message: Message) -> bool:
        """Whether this is about a resource that the client watches, or about a part of one."""
        try:
            uri = _updated(message.params).uri
        except msgspec.DecodeError:
            return False
        return any(uri == watched or uri.startswith(watched.rstrip("/") + "/") for watched in self.uris)

    def _tagged(self, holder: dict[str, Any]) -> bytes:
        meta = members(holder["_meta"]) if "_meta" in holder else {}
        return encode({**holder, "_meta": {**meta, SUBSCRIPTION_ID: self._id}})
