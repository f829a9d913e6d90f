"""The input document of a question, as bytes: what is known is encoded once, what the caller sent is spliced in.

Phase `list` sees principal, server and the named thing; phase `call` also verb, route, and what the caller sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from mcpgw.domain import VERBS, Action, Principal, Route, ServerVersion, Subject, ToolPin
from mcpgw.ports import Question

Thing = TypeVar("Thing")
MAX_FRAGMENTS = 4096
_encode = msgspec.json.Encoder().encode


class Caller(Struct, frozen=True):
    """Who calls, as its verified credential says. `claims` are those that the operator lets policies see."""

    issuer: str
    subject: str
    client_id: str
    team: str | None
    roles: list[str]
    scopes: list[str]
    actors: Annotated[list[str], Meta(description="who acts on behalf of whom (RFC 8693), nearest first")]
    kind: Literal["user", "agent", "admin", "system"]
    claims: dict[str, Any]


class AskedServer(Struct, frozen=True):
    """The server, or on the LLM route the provider, of which only the name is known."""

    name: str
    version: str | None = None
    tags: list[str] = []
    trust: str | None = None


class PinnedTool(Struct, frozen=True, omit_defaults=True):
    """A tool as an administrator approved it; of a tool that a model proposes only the name is known."""

    name: str
    title: str | UnsetType | None = UNSET
    annotations: dict[str, Any] | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    risk: str | UnsetType | None = UNSET


class Named(Struct, frozen=True):
    """A prompt by its name, or a resource by its URI."""

    name: str


class Model(Struct, frozen=True):
    """A model as the provider names it."""

    name: str
    provider: str | None


class Context(Struct, frozen=True):
    """Where and when. Self-reported by the caller: `session`, `trace_id`, `protocol_version`."""

    time: Annotated[int, Meta(description="nanoseconds since 1970, as Rego's time functions take them")]
    source_ip: str | None
    session: str | None
    trace_id: str | None
    protocol_version: str | None
    llm_action_id: Annotated[str | None, Meta(description="of a proposed tool call: the model call it came from")]


class Document(Struct, frozen=True, forbid_unknown_fields=True):
    """The input document of every policy (`data.mcpgw.authz.decision`), version 1."""

    version: Literal[1]
    phase: Literal["list", "call"]
    principal: Caller
    server: AskedServer | None
    tool: PinnedTool | UnsetType = UNSET
    prompt: Named | UnsetType = UNSET
    resource: Named | UnsetType = UNSET
    model: Model | UnsetType = UNSET
    route: Literal["mcp", "llm", "admin", "system"] | UnsetType = UNSET
    verb: str | UnsetType = UNSET
    arguments: Annotated[
        dict[str, Any] | UnsetType, Meta(description="what the caller sent; on the LLM route the request's body")
    ] = UNSET
    request: Annotated[
        dict[str, Any] | UnsetType, Meta(description="further parameters that are forwarded, `meta` and `headers`")
    ] = UNSET
    context: Context | UnsetType = UNSET


HEAD_FIELDS = frozenset(
    {"version", "phase", "principal", "server", "tool", "prompt", "resource", "model", "route", "verb"}
)
"""The fields that do not change from one call of a thing to the next: a decision that reads no others can be kept."""


class _Definition(Struct):
    title: str | None = None
    annotations: dict[str, Any] | None = None


class Fragments(Generic[Thing]):
    """Encoded forms of long-lived objects, by identity; what is not held is encoded anew."""

    __slots__ = ("_encoded", "_held")

    def __init__(self, encoded: Callable[[Thing], bytes]) -> None:
        self._encoded = encoded
        self._held: dict[int, tuple[Thing, bytes]] = {}

    def of(self, thing: Thing) -> bytes:
        held = self._held.get(id(thing))
        if held is None:
            if len(self._held) >= MAX_FRAGMENTS:
                self._held.clear()
            # The object itself is kept, so that its identity cannot pass to another.
            held = self._held[id(thing)] = (thing, self._encoded(thing))
        return held[1]


class Inputs:
    """Makes documents. Not for use by several threads at once."""

    __slots__ = ("_principals", "_tools", "_versions")

    def __init__(self) -> None:
        self._principals = Fragments(_principal)
        self._versions = Fragments(_version)
        self._tools = Fragments(_tool)

    def head(self, question: Question) -> bytes:
        """Return the members of HEAD_FIELDS, without braces. Raises ValueError for what cannot be asked."""
        action = question.action
        parts = [_ASKED[question.phase], self._principals.of(question.principal)]
        if question.version is not None:
            parts.append(self._versions.of(question.version))
        elif action.server is not None:
            parts.append(b',"server":' + _encode(AskedServer(action.server)))
        else:
            parts.append(b',"server":null')
        if question.tool is not None:
            parts.append(self._tools.of(question.tool))
        elif question.name is not None:
            parts.append(_thing(action, question.name))
        if question.phase == "call":
            parts.append(b',"route":"%b","verb":"%b"' % (action.route.encode(), action.verb.encode()))
        return b"".join(parts)

    def whole(self, question: Question, head: bytes) -> bytes:
        """Return the document whose head this is.

        What the caller sent stands in front: of two members of one name the last one counts, so that not even bytes
        that are no whole JSON value could take the place of what we say.
        """
        if question.phase != "call":
            return b"{" + head + b"}"
        action = question.action
        arguments = question.arguments or action.arguments
        return b'{"arguments":%b,"request":%b,"context":%b,%b}' % (
            arguments.raw,
            _request(action),
            _encode(_context(action)),
            head,
        )


_ASKED = {phase: b'"version":1,"phase":"%b"' % phase.encode() for phase in ("list", "call")}
_KEYS = {subject: b',"%b":' % subject.value.encode() for subject in Subject}


def _principal(who: Principal) -> bytes:
    return b',"principal":' + _encode(
        Caller(
            issuer=who.issuer,
            subject=who.subject,
            client_id=who.client_id,
            team=who.team,
            roles=sorted(who.roles),
            scopes=sorted(who.scopes),
            actors=list(who.actors),
            kind=who.kind.value,
            claims=dict(who.claims),
        )
    )


def _version(version: ServerVersion) -> bytes:
    return b',"server":' + _encode(AskedServer(version.server, version.version, list(version.tags), version.trust))


def _tool(pin: ToolPin) -> bytes:
    definition = msgspec.json.decode(pin.definition, type=_Definition)
    return b',"tool":' + _encode(
        PinnedTool(pin.name, definition.title, definition.annotations or {}, list(pin.tags), pin.risk)
    )


def _thing(action: Action, name: str) -> bytes:
    subject = VERBS[action.verb].subject
    if subject is Subject.NONE:
        raise ValueError("a name of no kind")
    if subject is Subject.MODEL:
        return b',"model":' + _encode(Model(name, action.server))
    return _KEYS[subject] + _encode(Named(name))


def _request(action: Action) -> bytes:
    parts = [(name, raw) for name, raw in action.forwarded.items() if not name.startswith("#")]
    client = action.client
    if client is not None and client.meta != b"{}":
        parts.append(("meta", client.meta))
    if client is not None and client.headers:
        parts.append(("headers", _encode(dict(client.headers))))
    if not parts:
        return b"{}"
    if len({name for name, _ in parts}) < len(parts):
        raise ValueError("two parameters of one name")
    return b"{%b}" % b",".join(b"%b:%b" % (_encode(name), raw) for name, raw in parts)


def _context(action: Action) -> Context:
    ip = action.source_ip
    return Context(
        time=int(action.received_at * 1000) * 1_000_000,
        source_ip=ip[7:] if ip is not None and ip.startswith("::ffff:") and "." in ip else ip,
        session=action.session,
        trace_id=action.trace,
        protocol_version=action.client.protocol_version if action.client is not None else None,
        llm_action_id=action.parent if action.route is Route.LLM else None,
    )


def schema() -> dict[str, Any]:
    """Return the JSON schema of the document, as it stands in schema/input.json."""
    return msgspec.json.schema(Document)
