"""The LLM edge: raw ASGI for `/v1/chat/completions` and `/v1/models`, in OpenAI's shapes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from mcpgw.config import LimitsSection, LlmSection
from mcpgw.domain import Action, Arguments, Route, Verb
from mcpgw.edge.asgi import HEADERS, Headers, Receive, Scope, Send, body_of
from mcpgw.edge.llm_answer import CompletionAnswer
from mcpgw.edge.llm_request import ChatRequest, read_chat
from mcpgw.edge.mcp import presented
from mcpgw.edge.mcp_answer import Watches
from mcpgw.edge.render import as_gateway_error
from mcpgw.edge.strict_json import JsonLimits
from mcpgw.errors import (
    ClientGone,
    GatewayError,
    InsufficientScope,
    MethodNotAllowed,
    NotFound,
    Unauthenticated,
    UnknownName,
    UnsupportedMedia,
)
from mcpgw.pipeline import Gateway

RESOURCE = "/v1"
CHAT = b"/v1/chat/completions"
MODELS = b"/v1/models"
OFF_LOOP_BYTES = 65_536
METHODS = {CHAT: "POST", MODELS: "GET"}

Challenge = Callable[[str, GatewayError], list[tuple[bytes, bytes]]]
"""Headers of a 401 or 403 on a resource."""


class LlmEdge:
    """Translates between OpenAI's API and actions."""

    def __init__(self, *, gateway: Gateway, llm: LlmSection, limits: LimitsSection, challenge: Challenge) -> None:
        self._gateway = gateway
        self._providers = llm.providers
        self._limits = limits
        self._json = JsonLimits.of(limits)
        self._challenge = challenge
        self._watches = Watches()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = CompletionAnswer(send)
        try:
            await self._answer(scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - the outermost place: nothing may reach the client as a traceback
            refusal = as_gateway_error(error)
            if isinstance(refusal, Unauthenticated | InsufficientScope):
                answer.headers.extend(self._challenge(scope["path"], refusal))
            await answer.fail(refusal)

    async def _answer(self, scope: Scope, receive: Receive, answer: CompletionAnswer) -> None:
        path, name = _place(scope["raw_path"])
        if path not in METHODS:
            raise NotFound("no such path", fix="POST /v1/chat/completions, or GET /v1/models")
        if scope["method"] != METHODS[path]:
            answer.headers.append((b"allow", METHODS[path].encode()))
            raise MethodNotAllowed(f"{scope['method']} is not a method of this endpoint", fix=METHODS[path])
        if path == MODELS:
            answer.shown = name or ""
            await self._handle(scope, receive, answer, self._action(scope, Verb.MODELS_LIST, None, name), None)
            return
        body = await body_of(scope, receive, self._limits)
        request: ChatRequest | None = None
        defect: GatewayError | None = None
        try:
            request = await self._read(scope[HEADERS], body)
            answer.shown, answer.without_usage = request.shown, request.added_usage
            if request.model is None:
                defect = UnknownName("Unknown model")
        except GatewayError as error:  # told to an authenticated caller only
            defect = error
        action = self._action(scope, Verb.CHAT, request, None)
        await self._handle(scope, receive, answer, action, defect)

    async def _read(self, headers: Headers, body: bytes) -> ChatRequest:
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise UnsupportedMedia("the body is not declared as JSON", fix="Content-Type: application/json")
        if len(body) > OFF_LOOP_BYTES:
            return await asyncio.to_thread(read_chat, body, self._providers, self._json)
        return read_chat(body, self._providers, self._json)

    def _action(self, scope: Scope, verb: Verb, request: ChatRequest | None, name: str | None) -> Action:
        clock = self._gateway.clock
        client = scope.get("client")
        return Action(
            id=clock.new_id(),
            route=Route.LLM,
            verb=verb,
            resource=RESOURCE,
            received_at=clock.time(),
            server=request.provider if request is not None else None,
            name=request.model if request is not None else name,
            arguments=request.arguments if request is not None else Arguments(),
            trace=scope[HEADERS].get("traceparent"),
            source_ip=client[0] if client else None,
        )

    async def _handle(
        self, scope: Scope, receive: Receive, answer: CompletionAnswer, action: Action, defect: GatewayError | None
    ) -> None:
        answer.headers.append((b"mcpgw-action", action.id.encode()))
        watch = self._watches.add(receive, lambda: self._cut(action.id))
        try:
            await self._gateway.handle(presented(scope[HEADERS]), action, answer.deliver, defect=defect)
        finally:
            watch.close()

    def _cut(self, action_id: str) -> None:
        call = self._gateway.running.get(action_id)
        if call is not None:
            call.cut(ClientGone("the client went away"))


def _place(raw_path: bytes) -> tuple[bytes, str | None]:
    """Return the endpoint, and the name of a model below it: it may hold slashes, escaped or not."""
    path = raw_path.split(b"?", 1)[0]
    name = path.removeprefix(MODELS + b"/")
    if name == path:
        return path, None
    return MODELS, unquote_to_bytes(name).decode("utf-8", "replace")
