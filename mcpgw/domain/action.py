"""What is asked for, and the parts of what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from mcpgw.domain.values import value


class Route(StrEnum):
    """The door an action came through."""

    MCP = "mcp"
    LLM = "llm"
    ADMIN = "admin"
    SYSTEM = "system"


class Verb(StrEnum):
    """The closed table of what can be asked; a method that is not here is refused."""

    DISCOVER = "server/discover"
    INITIALIZE = "initialize"
    INITIALIZED = "notifications/initialized"
    PING = "ping"
    TOOLS_LIST = "tools/list"
    TOOLS_CALL = "tools/call"
    TOOLS_SEARCH = "tools/search"  # asked for by calling `find_tool`
    RESOURCES_LIST = "resources/list"
    RESOURCE_TEMPLATES_LIST = "resources/templates/list"
    RESOURCES_READ = "resources/read"
    RESOURCES_SUBSCRIBE = "resources/subscribe"
    RESOURCES_UNSUBSCRIBE = "resources/unsubscribe"
    PROMPTS_LIST = "prompts/list"
    PROMPTS_GET = "prompts/get"
    COMPLETE = "completion/complete"
    SET_LEVEL = "logging/setLevel"
    LISTEN = "subscriptions/listen"
    TASKS_GET = "tasks/get"
    TASKS_UPDATE = "tasks/update"
    TASKS_CANCEL = "tasks/cancel"
    CANCELLED = "notifications/cancelled"
    PROGRESS = "notifications/progress"
    ROOTS_CHANGED = "notifications/roots/list_changed"
    ANSWER = "answer"  # a legacy client's response to a request that the server made
    STREAM = "stream"  # the legacy GET stream
    RESUME = "stream/resume"  # the rest of an answer whose stream the client lost
    END_SESSION = "session/end"
    CHAT = "chat/completions"
    MODELS_LIST = "models/list"
    TOOLS_PROPOSE = "tools/propose"  # a tool call that a model proposes for the client to run
    ADMIN = "admin"  # a request to the admin API, as far as it was refused


class Subject(StrEnum):
    """What kind of name a verb acts on."""

    NONE = "none"
    TOOL = "tool"
    PROMPT = "prompt"
    RESOURCE = "resource"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class VerbRule:
    """How a verb is judged.

    `acts`: phase `call` is decided, with arguments; otherwise seeing the server is enough.
    `lists`: the answer is a list of `subject`, filtered by phase `list`.
    """

    subject: Subject = Subject.NONE
    acts: bool = False
    lists: bool = False
    scope: str = "mcp:use"


VERBS: Mapping[Verb, VerbRule] = {
    Verb.DISCOVER: VerbRule(),
    Verb.INITIALIZE: VerbRule(),
    Verb.INITIALIZED: VerbRule(),
    Verb.PING: VerbRule(),
    Verb.TOOLS_LIST: VerbRule(Subject.TOOL, lists=True),
    Verb.TOOLS_CALL: VerbRule(Subject.TOOL, acts=True),
    Verb.TOOLS_SEARCH: VerbRule(Subject.TOOL, lists=True),
    Verb.RESOURCES_LIST: VerbRule(Subject.RESOURCE, lists=True),
    Verb.RESOURCE_TEMPLATES_LIST: VerbRule(Subject.RESOURCE, lists=True),
    Verb.RESOURCES_READ: VerbRule(Subject.RESOURCE, acts=True),
    Verb.RESOURCES_SUBSCRIBE: VerbRule(Subject.RESOURCE, acts=True),
    Verb.RESOURCES_UNSUBSCRIBE: VerbRule(Subject.RESOURCE, acts=True),
    Verb.PROMPTS_LIST: VerbRule(Subject.PROMPT, lists=True),
    Verb.PROMPTS_GET: VerbRule(Subject.PROMPT, acts=True),
    Verb.COMPLETE: VerbRule(),
    Verb.SET_LEVEL: VerbRule(),
    Verb.LISTEN: VerbRule(),
    Verb.TASKS_GET: VerbRule(Subject.TOOL, acts=True),
    Verb.TASKS_UPDATE: VerbRule(Subject.TOOL, acts=True),
    Verb.TASKS_CANCEL: VerbRule(Subject.TOOL, acts=True),
    Verb.CANCELLED: VerbRule(),
    Verb.PROGRESS: VerbRule(),
    Verb.ROOTS_CHANGED: VerbRule(),
    Verb.ANSWER: VerbRule(),
    Verb.STREAM: VerbRule(),
    Verb.RESUME: VerbRule(),
    Verb.END_SESSION: VerbRule(),
    Verb.CHAT: VerbRule(Subject.MODEL, acts=True, scope="llm:use"),
    Verb.MODELS_LIST: VerbRule(Subject.MODEL, lists=True, scope="llm:use"),
    Verb.TOOLS_PROPOSE: VerbRule(Subject.TOOL, acts=True, scope="llm:use"),
    Verb.ADMIN: VerbRule(scope="admin"),
}


OWN_VERBS = frozenset({Verb.PING, Verb.INITIALIZED, Verb.CANCELLED, Verb.TOOLS_LIST, Verb.RESUME})
"""What the gateway answers its callers itself, whatever server the endpoint names."""
OWN_UNTIL_CONNECTED = OWN_VERBS | {
    Verb.INITIALIZE,
    Verb.DISCOVER,
    Verb.END_SESSION,
    Verb.PROGRESS,
    Verb.ROOTS_CHANGED,
}
"""The same for a server that is called in the name of its caller: who has not agreed to that yet can connect too, to be
asked at the first call."""


@value(frozen=True, slots=True, kw_only=True)
class Presented:
    """What a caller showed to prove who it is; never logged, never recorded.

    `scheme` is the lower-case authorization scheme ("bearer"), or None when no Authorization header came.
    """

    scheme: str | None = None
    token: str | None = field(default=None, repr=False)


@value(frozen=True, slots=True)
class Arguments:
    """A JSON object as the very bytes that came in: judged, digested and forwarded unchanged."""

    raw: bytes = b"{}"


@value(frozen=True, slots=True, kw_only=True)
class ClientFacts:
    """What an MCP client says of itself, per request (modern) or per session (legacy); self-reported, never trusted.

    `capabilities` and `info` are raw JSON objects. `meta` is the client's `_meta` object without the protocol's own
    keys, raw. `headers` are the `Mcp-Param-*` headers by lower-case name.
    """

    protocol_version: str
    modern: bool
    capabilities: bytes = b"{}"
    info: bytes = b"{}"
    meta: bytes = b"{}"
    log_level: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@value(frozen=True, slots=True, kw_only=True)
class Selected:
    """How an endpoint over several servers came from the name that a caller used to the tool that is called.

    `name` is that name, `sha256` the digest of the argument values that a toolset adds ("": none). `by_search`: the
    name was given to `call_tool`. `overridden` are pinned properties that the caller set all the same.
    """

    name: str
    sha256: str = ""
    by_search: bool = False
    overridden: tuple[str, ...] = ()


@value(frozen=True, slots=True, kw_only=True)
class TaskRef:
    """A task of a server: the tool that runs in it, as of which version, and for whom (`Principal.key`).

    For anyone else it does not exist. `id` is the server's own name for it, `shown` the one that clients have instead.
    `selected` is how the endpoint that it is named on offers the tool, as in Action.
    """

    server: str
    version: str
    tool: str
    owner: str
    id: str
    shown: str
    selected: Selected | None = None


@value(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing that one caller asks for; identical for a tool call and a model call.

    `id` is a UUIDv7. `resource` is the endpoint's path that the credential must be for (`/mcp/notes`). `server` is a
    slug (on the LLM route: the provider), None on an endpoint over several servers. `name` is the tool, prompt,
    resource URI or model, as the server knows it. `toolset` is the slug of the toolset whose endpoint it is, `selected`
    what that made of a call. `tasks` are those that are asked about or listened to. `forwarded` holds further
    parameters of the request that the protocol wants passed on, by parameter name, as raw JSON; they are part of the
    policy input. `session` is the legacy session id and `owner` the principal it belongs to (`Principal.key`): for
    anyone else it does not exist. `received_at` is in Unix seconds.
    """

    id: str
    route: Route
    verb: Verb
    resource: str
    received_at: float
    server: str | None = None
    version: str | None = None
    name: str | None = None
    arguments: Arguments = field(default_factory=Arguments)
    forwarded: Mapping[str, bytes] = field(default_factory=dict)
    client: ClientFacts | None = None
    session: str | None = None
    owner: str | None = None
    parent: str | None = None
    trace: str | None = None
    source_ip: str | None = None
    toolset: str | None = None
    selected: Selected | None = None
    tasks: tuple[TaskRef, ...] = ()


@value(frozen=True, slots=True)
class Receipt:
    """Where a record stands in the log: who keeps it is a witness. `leaf` is the RFC 6962 leaf hash in hex."""

    log: str
    index: int
    leaf: str


class PartKind(Enum):
    """What a part is within an answer."""

    WHOLE = "whole"  # the whole answer, nothing before and nothing after it
    OPENED = "opened"  # a stream begins; no body
    EVENT = "event"  # one message of a stream
    LAST = "last"  # the last message of a stream


@value(frozen=True, slots=True)
class Part:
    """A piece of an answer.

    On the MCP route the body of WHOLE and LAST is the raw JSON of the `result` object, or of the `error` object when
    `error_code` is set; the body of EVENT is one whole JSON-RPC message. An empty body of WHOLE means "accepted"
    (HTTP 202). On the LLM route bodies are the provider's bytes. `failed` marks a tool-level failure (`isError`).
    `facts` go into the record (usage, cost, upstream status). `receipt` is set by the journal, on WHOLE and LAST.
    `bare`: the body is an object of ours that has members, and `_meta` is none of them. `held` (a `ports.Held`) is what
    is left of an exchange whose answer, this part, asks something of the caller.
    """

    kind: PartKind
    body: bytes = b""
    status: int = 200
    error_code: int | None = None
    failed: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    receipt: Receipt | None = None
    bare: bool = False
    held: Any = None
