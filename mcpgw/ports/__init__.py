"""The Protocols between the pipeline and everything around it, and the World that a request sees.

Time, storage, transport and randomness are reached only through these, so a test can drive `Gateway.handle` under a
schedule of its own.
"""

from mcpgw.ports.path import (
    Capabilities,
    Catalog,
    Children,
    CredentialBroker,
    Deliver,
    Entry,
    Exchange,
    Gate,
    Held,
    Hold,
    Identities,
    Journal,
    KnownCapabilities,
    Meter,
    PolicyEngine,
    Question,
    Shelf,
    Shown,
    TokenVerifier,
    Upstream,
    Watches,
    World,
    Worlds,
)
from mcpgw.ports.state import Ack, Bus, Clock, Record, Records, Store

__all__ = [
    "Ack",
    "Bus",
    "Capabilities",
    "Catalog",
    "Children",
    "Clock",
    "CredentialBroker",
    "Deliver",
    "Entry",
    "Exchange",
    "Gate",
    "Held",
    "Hold",
    "Identities",
    "Journal",
    "KnownCapabilities",
    "Meter",
    "PolicyEngine",
    "Question",
    "Record",
    "Records",
    "Shelf",
    "Shown",
    "Store",
    "TokenVerifier",
    "Upstream",
    "Watches",
    "World",
    "Worlds",
]
