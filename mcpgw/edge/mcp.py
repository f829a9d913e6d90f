"""The MCP edge: raw ASGI for `/mcp` and `/mcp/{server}`, clients of both eras on the same URLs."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Awaitable, Callable, Collection
from functools import partial

from mcpgw.config import LimitsSection
from mcpgw.domain import Action, ClientFacts, Part, Presented, Route, Transport, Verb
from mcpgw.domain.values import value
from mcpgw.edge.asgi import HEADERS, KNOWN, RELAYED, SOURCE, Headers, Receive, Scope, Send, body_of, respond
from mcpgw.edge.mcp_answer import Answer, Watches
from mcpgw.edge.mcp_consent import again, told
from mcpgw.edge.mcp_names import ClientNames, named, servers_of
from mcpgw.edge.mcp_own_names import prompt_of, shown_name
from mcpgw.edge.mcp_prompts import look_up
from mcpgw.edge.mcp_request import DEFAULT_LEGACY, HANDSHAKE, McpRequest, check_media, read_request
from mcpgw.edge.mcp_sessions import Session, Sessions
from mcpgw.edge.mcp_tasks import ABOUT_TASKS, about_tasks, servers_of_task
from mcpgw.edge.render import as_gateway_error
from mcpgw.edge.strict_json import JsonLimits
from mcpgw.errors import (
    Cancelled,
    ClientGone,
    ConsentNeeded,
    GatewayError,
    InsufficientScope,
    InvalidRequest,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    Unauthenticated,
    UnknownName,
    UnknownSession,
)
from mcpgw.pipeline import Gateway

OFF_LOOP_BYTES = 65_536
_PATH = re.compile(rb"/mcp(?:/([a-z0-9][a-z0-9-]{0,23})(?:@([0-9A-Za-z.+-]{1,64}))?)?")

Challenge = Callable[[str, GatewayError], list[tuple[bytes, bytes]]]
"""Headers of a 401 or 403 on a resource."""
Relay = Callable[[int, Scope, bytes, Receive, Send], Awaitable[None]]
"""Pass a request on, raw, to another worker."""


@value(frozen=True, slots=True)
class Place:
    """Where a request came in: the endpoint's path, and the server and version, or the toolset, it names."""

    resource: str
    server: str | None = None
    version: str | None = None
    toolset: str | None = None


@value(frozen=True, slots=True)
class Entrance:
    """What the head of a request says by itself."""

    place: Place
    presented: Presented


@value(frozen=True, slots=True)
class Workers:
    """Which worker this is, which one has the server processes, and how requests reach another one."""

    own: int
    stdio: int
    relay: Relay


class McpEdge:
    """Translates between MCP over HTTP and actions."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        sessions: Sessions,
        limits: LimitsSection,
        workers: Workers,
        challenge: Challenge,
        names: ClientNames,
    ) -> None:
        self._gateway = gateway
        self._prompts, self._task_ids, self._states = names.prompts, names.task_ids, names.states
        self._sessions = sessions
        self._limits = limits
        self._json = JsonLimits.of(limits)
        self._worker, self._stdio_worker, self._relay = workers.own, workers.stdio, workers.relay
        self._challenge = challenge
        self._watches = Watches()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = scope[HEADERS]
        answer: Answer | None = None
        try:
            known = scope[KNOWN]
            entrance: Entrance | None = known.get(_ENTRANCE)
            if entrance is None:
                entrance = known[_ENTRANCE] = Entrance(_place(scope["raw_path"]), presented(headers))
            body = b""
            if scope["method"] == "POST":
                body = await body_of(scope, receive, self._limits)
                if _MEDIA not in known:
                    check_media(headers)
                    known[_MEDIA] = True
                request = await self._read(headers, body)
            elif scope["method"] in {"GET", "DELETE"}:
                request = self._bodiless(scope["method"], headers)
            else:
                raise MethodNotAllowed(f"{scope['method']} is not a method of this endpoint", fix="POST")
            answer = Answer(send, request, None)
            elsewhere = None if scope[RELAYED] else self._elsewhere(entrance.place, request, headers)
            if elsewhere is not None:
                await self._relay(elsewhere, scope, body, receive, send)
                return
            await self._handle(scope, receive, entrance, request, answer)
        except Exception as error:  # noqa: BLE001 - the outermost place: nothing may reach the client as a traceback
            refusal = as_gateway_error(error)
            answer = answer or Answer(send, _NO_REQUEST, None)
            if isinstance(refusal, Unauthenticated | InsufficientScope):
                answer.headers.extend(self._challenge(scope["path"], refusal))
            if isinstance(refusal, MethodNotAllowed):
                answer.headers.append((b"allow", b"GET, POST, DELETE"))
            await answer.fail(refusal)

    async def _read(self, headers: Headers, body: bytes) -> McpRequest:
        if len(body) > OFF_LOOP_BYTES:
            return await asyncio.to_thread(read_request, headers, body, self._json)
        return read_request(headers, body, self._json)

    @staticmethod
    def _bodiless(method: str, headers: Headers) -> McpRequest:
        """GET and DELETE exist for legacy sessions only."""
        if "mcp-session-id" not in headers:
            raise MethodNotAllowed(f"{method} needs a session", fix="POST, or initialize first")
        if method == "DELETE":
            return McpRequest(verb=Verb.END_SESSION, modern=False)
        if "text/event-stream" not in headers.get("accept", ""):
            raise NotAcceptable("Accept must list text/event-stream", fix="Accept: text/event-stream")
        verb = Verb.RESUME if "last-event-id" in headers else Verb.STREAM
        return McpRequest(verb=verb, modern=False, id=b"null")

    def _elsewhere(self, place: Place, request: McpRequest, headers: Headers) -> int | None:
        """Return the worker that must handle this request, when it is another one."""
        if not request.modern and request.verb is not Verb.INITIALIZE and "mcp-session-id" in headers:
            try:
                worker = self._sessions.worker_of(headers["mcp-session-id"])
            except UnknownSession:  # which is told once it is known who asks
                return None
            return worker if worker != self._worker else None
        if _STATE in request.forwarded:
            holder = self._states.worker_of(request.forwarded[_STATE])
            if holder is not None:
                return holder if holder != self._worker else None
        if self._worker != self._stdio_worker and self._touches_stdio(place, request):
            return self._stdio_worker
        return None

    def _touches_stdio(self, place: Place, request: McpRequest) -> bool:
        """A stdio server is a process of one worker; a session may come to need it."""
        catalog = self._gateway.worlds.current.catalog
        place = self._located(place)
        if place.server is not None:
            slugs: Collection[str] = (place.server,)
        else:
            several = servers_of(catalog, request, place.toolset, self._prompts)
            slugs = several or servers_of_task(self._task_ids, request.verb, request.params)
        return any(v.server in slugs and v.transport is Transport.STDIO for v in catalog.active())

    def _located(self, place: Place) -> Place:
        """Return the place, which may be a toolset's: servers and toolsets share their slugs."""
        slug = place.server
        if slug is None or place.version is not None or self._gateway.worlds.current.catalog.selection(slug) is None:
            return place
        return Place(place.resource, toolset=slug)

    async def _handle(
        self, scope: Scope, receive: Receive, entrance: Entrance, request: McpRequest, answer: Answer
    ) -> None:
        headers: Headers = scope[HEADERS]
        place = self._located(entrance.place)
        session, defect = None, request.defect
        try:
            session = self._session(place, request, headers)
        except GatewayError as error:  # told to an authenticated caller only
            defect = defect or error
        answer.session, answer.over_several = session, place.server is None
        if request.verb is Verb.RESUME and session is not None:
            found = session.replays.find(headers["last-event-id"])
            if found is None:
                defect = NotFound("that stream is not kept", fix="ask again")
            else:
                replay, position = found
                answer.rest = replay.after(position)
                request.name, place = replay.name, dataclasses.replace(place, server=replay.server)
        action = self._action(scope, place, request, session)
        if place.server is None and request.verb in _OF_PROMPTS:
            answer.shown_name = shown_name(request)
            if action.server is None and defect is None:
                again = partial(self._action, scope, place, request, session)
                action, defect = await self._looked_up(request, entrance.presented, action, again)
        answer.server, answer.name = action.server, action.name
        if action.selected is not None and action.selected.by_search:
            answer.shown_name = None  # the verdict has the name that was searched for
        if request.verb is Verb.INITIALIZE:
            action = self._initializing(action, request, answer, place)
        elif session is not None and defect is None:
            defect = self._in_session(session, request, action, answer)
        watch = None
        if request.modern or request.verb in {Verb.STREAM, Verb.RESUME}:
            gone = partial(self._cut, action.id, ClientGone("the client went away"))
            watch = self._watches.add(receive, gone)
        try:
            await self._gateway.handle(entrance.presented, action, answer.deliver, defect=defect)
        except ConsentNeeded as wanted:
            answered = request.params.get("inputResponses")
            await answer.tell(told(wanted, action, answered, self._states, self._gateway.clock.time()))
        finally:
            if watch is not None:
                watch.close()
            if session is not None and session.running.get(request.id or b"") == action.id:
                del session.running[request.id or b""]
            answer.on_end()

    async def _looked_up(
        self, request: McpRequest, presented: Presented, action: Action, again: Callable[[], Action]
    ) -> tuple[Action, GatewayError | None]:
        """A prompt's shortened name that this worker has not listed is looked for; what is found makes the action."""
        try:
            await look_up(self._gateway, self._prompts, prompt_of(request) or "", action, presented)
        except (Unauthenticated, UnknownName):
            pass  # which the request itself is told
        except GatewayError as error:
            return action, error
        action = dataclasses.replace(again(), id=action.id)
        unknown = request.verb is Verb.COMPLETE and action.server is None
        return action, UnknownName("Unknown name") if unknown else None

    def _session(self, place: Place, request: McpRequest, headers: Headers) -> Session | None:
        if request.modern or request.verb is Verb.INITIALIZE:
            return None
        session_id = headers.get("mcp-session-id")
        if session_id is None:
            raise InvalidRequest("Missing session id", fix="initialize first, or send the 2026-07-28 envelope")
        version = headers.get("mcp-protocol-version")
        if version is not None and version not in HANDSHAKE:
            raise InvalidRequest("unsupported MCP-Protocol-Version", fix=f"one of: {', '.join(HANDSHAKE)}")
        session = self._sessions.find(session_id, place.resource)
        return session

    def _action(self, scope: Scope, place: Place, request: McpRequest, session: Session | None) -> Action:
        clock = self._gateway.clock
        facts = request.client
        if session is not None:
            facts = session.facts
            if request.meta is not None:
                facts = dataclasses.replace(facts, meta=request.meta)
        catalog = self._gateway.worlds.current.catalog
        about = named(catalog, place.server, request, session, place.toolset, self._prompts)
        client = scope.get("client")
        action = Action(
            id=clock.new_id(),
            route=Route.MCP,
            verb=about.verb or request.verb,
            resource=place.resource,
            received_at=clock.time(),
            server=about.server,
            version=place.version,
            name=about.name,
            arguments=about.arguments,
            forwarded=about.forwarded,
            client=facts,
            session=session.id if session is not None else None,
            owner=session.owner if session is not None else None,
            trace=_trace(request, scope[HEADERS]),
            source_ip=scope[HEADERS].get(SOURCE) if scope[RELAYED] else client[0] if client else None,
            toolset=place.toolset,
            selected=about.selected,
        )
        if request.verb in ABOUT_TASKS and request.defect is None:
            return about_tasks(self._task_ids, self._gateway.worlds.current.catalog, action, request.params)
        if _STATE in request.forwarded:
            held = self._states.find(request.forwarded[_STATE])
            if held is not None:
                return dataclasses.replace(action, parent=held.action_id)
            asked = self._states.find_asked(request.forwarded[_STATE])
            return action if asked is None else again(action, asked, clock.time())
        return action

    def _initializing(self, action: Action, request: McpRequest, answer: Answer, place: Place) -> Action:
        """A successful `initialize` opens a session, before its answer leaves."""
        asked = request.params.get("protocolVersion")
        version = asked if asked in HANDSHAKE else HANDSHAKE[0]
        facts = ClientFacts(
            protocol_version=version or DEFAULT_LEGACY,
            modern=False,
            capabilities=request.forwarded.get("capabilities", b"{}"),
            info=request.forwarded.get("clientInfo", b"{}"),
        )
        session_id = self._sessions.new_id()

        def opened(part: Part) -> None:
            call = self._gateway.running.get(action.id)
            if call is not None:
                self._sessions.open(session_id, owner=call.who.key, resource=place.resource, facts=facts)
                answer.headers.append((b"mcp-session-id", session_id.encode()))

        answer.on_success = opened
        return dataclasses.replace(action, session=session_id, client=facts)

    def _in_session(self, session: Session, request: McpRequest, action: Action, answer: Answer) -> GatewayError | None:
        """Note what this request means for its session; return what is wrong with it there."""
        asked, request_id = request.verb, request.id
        if asked is Verb.SET_LEVEL:
            answer.on_success = lambda part: session.log_at(request.params.get("level"))
        if asked is Verb.CANCELLED:
            running = session.running.get(request.forwarded.get("requestId", b""))
            answer.on_success = lambda part: self._cut(running, Cancelled("cancelled by the client"))
        elif asked is Verb.END_SESSION:
            answer.on_success = lambda part: self._end(session)
        elif asked is Verb.ANSWER:
            if request_id not in session.asked:
                return InvalidRequest("this answers no request that is open")
            answer.on_success = lambda part: session.answered(request_id)
        elif asked is Verb.STREAM:
            if session.streaming:
                return InvalidRequest("this session has a stream already", fix="close it first")
            session.streaming = True
            session.running[request_id or b"null"] = action.id
            answer.on_end = session.stop_streaming
        elif request_id is not None and asked is not Verb.RESUME:
            if request_id in session.running:
                return InvalidRequest("this request id is in use", fix="use a new id for each request")
            session.running[request_id] = action.id
        return None

    def _end(self, session: Session) -> None:
        """End a session, and what goes on in it: questions that only its client could answer, its stream."""
        for action_id in list(session.running.values()):
            self._cut(action_id, ClientGone("the client ended its session"))
        self._sessions.end(session)

    def _cut(self, action_id: str | None, error: GatewayError) -> None:
        call = self._gateway.running.get(action_id) if action_id is not None else None
        if call is not None:
            call.cut(error)


_STATE = "requestState"
_OF_PROMPTS = frozenset({Verb.PROMPTS_GET, Verb.COMPLETE})
_NO_REQUEST = McpRequest(verb=Verb.PING, modern=True)
_ENTRANCE, _MEDIA = "mcp.entrance", "mcp.media"  # in the mapping that equal heads share


def presented(headers: Headers) -> Presented:
    """Return the credential that a request shows, unverified."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return Presented(scheme=scheme.lower(), token=token.strip()) if token else Presented()


def _place(raw_path: bytes) -> Place:
    match = _PATH.fullmatch(raw_path.split(b"?", 1)[0])
    if match is None:
        # A path that cannot be a server is answered like a server that nobody has.
        return Place(raw_path.split(b"?", 1)[0].decode("latin-1"), "?")
    server, version = match.groups()
    if server is None:
        return Place("/mcp")
    resource = f"/mcp/{server.decode()}"
    return Place(resource, server.decode(), version.decode() if version else None)


def _trace(request: McpRequest, headers: Headers) -> str | None:
    meta = request.params.get("_meta")
    trace = meta.get("traceparent") if isinstance(meta, dict) else None
    return trace if isinstance(trace, str) else headers.get("traceparent")


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a path that nothing serves."""
    await respond(send, 404, b'{"error":{"code":"not_found","message":"no such path"}}')
