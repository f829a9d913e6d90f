"""From the parts of an answer to the bytes a client reads."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anyio
import pytest

from mcpgw.domain import ClientFacts, KillSwitch, Mode, Part, PartKind, Receipt, Scope, Verb
from mcpgw.edge.asgi import Message, read_body
from mcpgw.edge.mcp_answer import Answer
from mcpgw.edge.mcp_request import McpRequest
from mcpgw.edge.mcp_sessions import Session
from mcpgw.edge.render import as_gateway_error
from mcpgw.errors import (
    WIRE,
    ClientGone,
    Denied,
    GatewayError,
    InsufficientScope,
    InvalidParams,
    Killed,
    MethodNotFound,
    RateLimited,
    RequestTimeout,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnknownName,
    UnknownSession,
)
from tests.parts import switch

RECEIPT = Receipt("w0", 7, "ab" * 32)


class Client:
    """Reads what an answer sends: status, headers, body, and the messages of a stream."""

    def __init__(
        self, verb: Verb = Verb.TOOLS_CALL, *, modern: bool = True, id: bytes | None = b"1", **how: Any
    ) -> None:
        self.sent: list[Message] = []
        session: Session | None = how.pop("session", None)
        self.answer = Answer(self.send, McpRequest(verb=verb, modern=modern, id=id, **how), session)
        self.answer.session = session
        self.answer.server = "notes"

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def messages(self) -> list[Any]:
        """What a client of the event stream reads; raises when the stream is malformed."""
        found = []
        for event in self.body.split(b"\n\n")[:-1]:
            fields = [line.split(b": ", 1) for line in event.split(b"\n") if not line.startswith(b":")]
            found.extend(json.loads(value) for name, value in fields if name == b"data" and value.strip())
        return found

    @property
    def complete(self) -> bool:
        return not self.sent[-1].get("more_body", False)


def session_of(version: str = "2025-06-18") -> Session:
    facts = ClientFacts(protocol_version=version, modern=False)
    return Session(id="s", owner="ada", resource="/mcp", facts=facts, used_at=0.0)


# One whole answer


@pytest.mark.requirement("answer:whole")
@pytest.mark.parametrize("request_id", [b"1", b'"a\\u0041"', b"123456789012345678901234567890"])
async def test_a_result_goes_out_as_it_came_under_the_clients_id_with_its_receipt(request_id: bytes) -> None:
    client = Client(id=request_id)
    await client.answer.deliver(Part(PartKind.WHOLE, b'{ "n":1.50, "resultType":"complete" }', receipt=RECEIPT))
    assert client.status == 200
    assert client.headers[b"content-type"] == b"application/json"
    assert client.headers[b"content-length"] == b"%d" % len(client.body)
    assert client.body.startswith(b'{"jsonrpc":"2.0","id":%b,"result":{' % request_id)
    assert b'"n":1.50' in client.body
    assert client.json["result"]["_meta"]["io.mcpgw/receipt"] == {"log": "w0", "index": 7, "leaf": "ab" * 32}


@pytest.mark.requirement("answer:whole")
async def test_a_receipt_joins_what_the_server_says_in_meta() -> None:
    client = Client()
    await client.answer.deliver(Part(PartKind.WHOLE, b'{"_meta":{"a":[1.0]},"content":[]}', receipt=RECEIPT))
    assert client.json["result"]["_meta"]["a"] == [1.0]
    assert client.json["result"]["_meta"]["io.mcpgw/receipt"]["index"] == 7


@pytest.mark.requirement("answer:whole")
@pytest.mark.parametrize("result", [
    b'{"content":[]}', b'{"content":[]\n}', b'{ "content":[]}', b"{ }", b'{"_m\\u0065ta":{"a":1},"x":2}',
    b'{"\\u005fmeta":{"a":1}}', b'{"text":"a \\" quote, a \\n line, no _meta"}', b'{"x":{"_meta":{"b":2}}}',
])  # fmt: skip
async def test_a_receipt_joins_any_result_without_changing_what_it_says(result: bytes) -> None:
    client = Client()
    await client.answer.deliver(Part(PartKind.WHOLE, result, receipt=RECEIPT))
    said, expected = client.json["result"], json.loads(result)
    assert said["_meta"].pop("io.mcpgw/receipt")["index"] == 7
    assert said == {**expected, "_meta": expected.get("_meta", {})}
    assert client.body.count(b'"_meta"') == 1 + (b'"_meta"' in result)


@pytest.mark.requirement("answer:whole")
@pytest.mark.parametrize("part", [
    Part(PartKind.WHOLE, b"{}", receipt=RECEIPT),
    Part(PartKind.WHOLE, b'{"code":-32002,"message":"no"}', error_code=-32002, receipt=RECEIPT),
])  # fmt: skip
async def test_where_the_body_has_no_place_for_a_receipt_it_stands_in_a_header(part: Part) -> None:
    client = Client(Verb.PING, modern=False)
    await client.answer.deliver(part)
    assert client.headers[b"mcpgw-receipt"] == b"w0/7/" + b"ab" * 32
    assert client.body.endswith(part.body + b"}")


@pytest.mark.requirement("answer:whole")
@pytest.mark.parametrize(("verb", "status"), [(Verb.CANCELLED, 202), (Verb.END_SESSION, 200)])
async def test_what_is_only_accepted_has_no_body(verb: Verb, status: int) -> None:
    client = Client(verb, modern=False, id=None)
    await client.answer.deliver(Part(PartKind.WHOLE))
    assert (client.status, client.body, client.complete) == (status, b"", True)


@pytest.mark.requirement("answer:status")
@pytest.mark.parametrize(
    ("code", "modern", "status"),
    [
        (-32601, True, 404),
        (-32602, True, 400),
        (-32022, True, 400),
        (-32603, True, 200),
        (1, True, 200),
        (-32601, False, 200),
    ],
)
async def test_an_error_of_the_server_has_the_status_of_its_era(code: int, modern: bool, status: int) -> None:
    client = Client(modern=modern)
    await client.answer.deliver(Part(PartKind.WHOLE, b'{"code":%d,"message":"no"}' % code, error_code=code))
    assert client.status == status
    assert client.json["error"] == {"code": code, "message": "no"}


@pytest.mark.requirement("answer:refused-late")
async def test_what_is_refused_while_it_succeeds_is_answered_with_the_refusal() -> None:
    """A handshake that finds no room for its session: nothing has been sent yet, so the client must be told."""
    client = Client(Verb.INITIALIZE, modern=False)

    def no_room(part: Part) -> None:
        raise Unavailable("too many sessions are open")

    client.answer.on_success = no_room
    with pytest.raises(Unavailable) as caught:
        await client.answer.deliver(Part(PartKind.WHOLE, b'{"protocolVersion":"2025-11-25"}'))
    await client.answer.fail(caught.value)
    assert client.status == 503
    assert client.json["error"]["message"] == "too many sessions are open"


@pytest.mark.requirement("answer:refused-late")
async def test_success_is_told_before_the_answer_leaves_and_an_error_is_none() -> None:
    told: list[int] = []
    for code in (None, -32603):
        client = Client()
        client.answer.on_success = lambda part, client=client: told.append(len(client.sent))
        await client.answer.deliver(Part(PartKind.WHOLE, b'{"a":1}', error_code=code))
    assert told == [0]


# Refusals


@pytest.mark.requirement("answer:refusal")
@pytest.mark.parametrize("code", sorted(WIRE))
async def test_a_refusal_of_a_modern_request_has_its_own_status_and_code(code: str) -> None:
    kind = type("Refusal", (GatewayError,), {"code": code})
    client = Client(Verb.PROMPTS_GET)
    await client.answer.fail(kind("what happened", fix="what to do", data={"scope": "mcp:use", "more": 1}))
    assert client.status == WIRE[code].status
    error = client.json["error"]
    assert (error["code"], error["message"]) == (WIRE[code].jsonrpc, "what happened")
    assert error["data"] == {"more": 1, "fix": "what to do"}


@pytest.mark.requirement("answer:refusal")
def test_codes_of_our_own_lie_outside_what_belongs_to_the_protocol() -> None:
    protocols = {-32700, -32600, -32601, -32602, -32603, -32020, -32021, -32022}
    ours = {wire.jsonrpc for wire in WIRE.values()} - protocols
    assert all(not -32768 <= code <= -32000 for code in ours)


@pytest.mark.requirement("answer:status")
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidParams("x"), 200),
        (UnknownName("x"), 200),
        (MethodNotFound("x"), 200),
        (UnknownSession("x"), 404),
        (Unauthenticated("x"), 401),
        (InsufficientScope("x"), 403),
        (Killed("x"), 403),
        (RateLimited("x"), 429),
        (Unavailable("x"), 503),
    ],
    ids=lambda value: getattr(value, "code", str(value)),
)
async def test_a_client_of_the_handshake_era_reads_protocol_errors_from_a_200(error: GatewayError, status: int) -> None:
    client = Client(Verb.PROMPTS_GET, modern=False)
    await client.answer.fail(error)
    assert client.status == status
    assert client.json["error"]["code"] == error.wire.jsonrpc


@pytest.mark.requirement("judge:invisible-is-unknown")
@pytest.mark.parametrize("verb", [Verb.TOOLS_CALL, Verb.PROMPTS_GET, Verb.RESOURCES_READ, Verb.RESOURCES_SUBSCRIBE])
async def test_an_unknown_name_is_told_as_the_caller_wrote_it(verb: Verb) -> None:
    """Over all servers, a hidden `vault__open` and an unknown `nobody__open` differ in nothing but the name itself."""
    bodies = []
    for shown, inner in (("vault__open", "open"), ("nobody__open", "nobody__open")):
        client = Client(verb, name=shown)
        await client.answer.fail(UnknownName(f"Unknown thing: {inner}"))
        bodies.append((client.status, client.headers.keys(), client.body.replace(shown.encode(), b"NAME")))
    assert bodies[0] == bodies[1]


@pytest.mark.requirement("answer:denied")
@pytest.mark.parametrize("modern", [True, False])
async def test_a_denied_tool_call_is_a_result_that_a_model_can_act_on(modern: bool) -> None:
    error = Denied(
        "deleting needs the role curator",
        fix="ask a curator",
        data={
            "decision_id": "d",
            "effect": "deny",
            "rule": "notes.delete",
            "reasons": ["notes.delete"],
            "retryable": False,
        },
    )
    error.receipt = RECEIPT
    client = Client(modern=modern)
    await client.answer.fail(error)
    result = client.json["result"]
    assert client.status == 200
    assert result["isError"] is True
    assert result["content"] == [{"type": "text", "text": "deleting needs the role curator. ask a curator"}]
    assert result["_meta"] == {
        "io.mcpgw/decision": {"decision_id": "d", "effect": "deny", "rule": "notes.delete", "retryable": False},
        "io.mcpgw/receipt": {"log": "w0", "index": 7, "leaf": "ab" * 32},
    }
    assert result.get("resultType") == ("complete" if modern else None)


@pytest.mark.requirement("answer:denied")
@pytest.mark.parametrize("verb", [Verb.RESOURCES_READ, Verb.PROMPTS_GET])
async def test_anything_else_that_is_denied_is_an_error(verb: Verb) -> None:
    client = Client(verb)
    await client.answer.fail(Denied("no"))
    assert client.status == 403
    assert client.json["error"]["code"] == -31100


@pytest.mark.requirement("answer:refusal")
async def test_a_killed_call_names_the_switch_and_the_reason() -> None:
    thrown: KillSwitch = switch(Scope.SERVER, "notes", Mode.HARD, id="kill-7")
    client = Client()
    await client.answer.fail(Killed.by(thrown))
    assert client.status == 403
    assert client.json["error"]["data"]["reason"] == "killed"
    assert client.json["error"]["data"]["switch"] == "kill-7"


@pytest.mark.requirement("answer:refusal")
@pytest.mark.parametrize(("error", "seconds"), [
    (RateLimited("x", data={"retry_after_s": 3}), b"3"),
    (RateLimited("x", data={"retry_after_s": 0.2}), b"1"),
    (Unavailable("x"), b"1"),
    (Killed("x"), None),
], ids=str)  # fmt: skip
async def test_what_may_succeed_later_says_when(error: GatewayError, seconds: bytes | None) -> None:
    client = Client()
    await client.answer.fail(error)
    assert client.headers.get(b"retry-after") == seconds


@pytest.mark.requirement("answer:refusal")
async def test_an_unforeseen_error_tells_the_client_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    await client.answer.fail(as_gateway_error(KeyError("the private cause")))
    assert client.status == 500
    assert b"private" not in client.body
    assert "unforeseen error" in caplog.text


async def test_an_answer_that_has_ended_is_not_answered_again() -> None:
    client = Client()
    await client.answer.deliver(Part(PartKind.WHOLE, b'{"a":1}'))
    sent = len(client.sent)
    await client.answer.fail(ClientGone("gone"))
    assert len(client.sent) == sent


# Streams


@pytest.mark.requirement("answer:stream")
async def test_a_stream_is_opened_carries_its_events_and_ends_with_the_response() -> None:
    client = Client()
    progress = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":0.50}}'
    await client.answer.deliver(Part(PartKind.OPENED))
    await client.answer.deliver(Part(PartKind.EVENT, progress))
    await client.answer.deliver(Part(PartKind.EVENT))
    assert not client.complete
    await client.answer.deliver(Part(PartKind.LAST, b'{"content":[]}', receipt=RECEIPT))
    assert client.status == 200
    assert client.headers[b"content-type"] == b"text/event-stream"
    assert client.headers[b"x-accel-buffering"] == b"no"
    assert b": keep-alive\n\n" in client.body
    assert progress in client.body
    assert [m.get("method", m.get("id")) for m in client.messages] == ["notifications/progress", 1]
    assert client.messages[1]["result"]["_meta"]["io.mcpgw/receipt"]["index"] == 7
    assert client.complete


@pytest.mark.requirement("answer:stream")
@pytest.mark.parametrize("modern", [True, False])
async def test_a_refusal_after_the_first_byte_is_the_last_event(modern: bool) -> None:
    client = Client(modern=modern)
    await client.answer.deliver(Part(PartKind.OPENED))
    await client.answer.fail(Killed.by(switch(Scope.SERVER, "notes")))
    assert client.status == 200
    [last] = client.messages
    assert last["id"] == 1
    assert last["error"]["code"] == -31101
    assert client.complete


@pytest.mark.requirement("answer:stream")
async def test_a_stream_whose_server_opens_it_with_its_first_event_is_opened_then() -> None:
    for kind in (PartKind.EVENT, PartKind.LAST):
        client = Client()
        await client.answer.deliver(Part(kind, b'{"jsonrpc":"2.0","method":"notifications/message"}'))
        assert client.headers[b"content-type"] == b"text/event-stream"
        assert len(client.messages) == 1


@pytest.mark.requirement("session:asked")
async def test_a_request_of_the_server_reaches_the_client_under_an_id_of_ours() -> None:
    session = session_of()
    client = Client(modern=False, session=session)
    asked = b'{"jsonrpc":"2.0","id":"up-1","method":"elicitation/create","params":{"n":1.50}}'
    told = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"id":1}}'
    for body in (asked, told):
        await client.answer.deliver(Part(PartKind.EVENT, body))
    assert client.messages[0] == {**json.loads(asked), "id": 1}
    assert b'"n":1.50' in client.body
    assert told in client.body
    assert session.asked == {b"1": ("notes", b'"up-1"')}


@pytest.mark.requirement("session:asked")
async def test_a_server_takes_back_its_request_by_the_id_that_the_client_knows() -> None:
    session = session_of()
    client = Client(modern=False, session=session)
    session.ask("files", b"7")
    for own_id in (b"7", b"8"):
        body = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%b,"reason":"x"}}' % own_id
        if own_id == b"7":
            asked = b'{"jsonrpc":"2.0","id":7,"method":"roots/list"}'
            await client.answer.deliver(Part(PartKind.EVENT, asked))
        await client.answer.deliver(Part(PartKind.EVENT, body))
    asked_as, taken_back, unknown = client.messages
    assert (asked_as["id"], taken_back["params"]) == (2, {"requestId": 2, "reason": "x"})
    assert unknown["params"] == {"requestId": 8, "reason": "x"}


@pytest.mark.requirement("session:asked")
async def test_nothing_is_said_to_a_client_that_went_away() -> None:
    client = Client(modern=False, session=session_of())
    await client.answer.deliver(Part(PartKind.OPENED))
    await client.answer.fail(ClientGone("the client ended its session"))
    assert client.messages == []


# Bodies of requests


class Arriving:
    """`receive` of a request whose body comes in pieces; None is silence, an exception the client's going away."""

    def __init__(self, *pieces: bytes | None) -> None:
        self._pieces = list(pieces)

    async def __call__(self) -> Message:
        await asyncio.sleep(0)
        if not self._pieces:
            return {"type": "http.disconnect"}
        piece = self._pieces.pop(0)
        if piece is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}


@pytest.mark.requirement("body:limits")
@pytest.mark.parametrize("pieces", [[b"abcdefghij"], [b"abcde", b"fghij"], [b"", b"abcdefghij", b""], [*b"abcdefghij"]])
async def test_a_body_is_read_whole_up_to_the_limit(pieces: list[Any]) -> None:
    pieces = [bytes([p]) if isinstance(p, int) else p for p in pieces]
    assert await read_body(Arriving(*pieces), 10, 5.0) == b"abcdefghij"
    with pytest.raises(TooLarge):
        await read_body(Arriving(*pieces), 9, 5.0)


@pytest.mark.requirement("body:limits")
@pytest.mark.parametrize("pieces", [[None], [b"ab", None], [b"ab", b"cd", None]])
async def test_a_body_that_does_not_arrive_in_time_is_refused_and_the_task_goes_on(pieces: list[bytes | None]) -> None:
    with anyio.fail_after(5), pytest.raises(RequestTimeout):
        await read_body(Arriving(*pieces, b""), 100, 0.02)
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.requirement("body:limits")
async def test_a_cancellation_from_elsewhere_is_not_taken_for_slowness() -> None:
    task = asyncio.create_task(read_body(Arriving(b"ab", None), 100, 5.0))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.requirement("body:limits")
@pytest.mark.parametrize("pieces", [[], [b"ab", b"cd"]])
async def test_a_client_that_goes_away_in_the_middle_ends_its_request(pieces: list[bytes]) -> None:
    arriving = Arriving(*pieces)

    async def receive() -> Message:
        message = await arriving()
        return {**message, "more_body": True} if message["type"] == "http.request" else message

    with pytest.raises(ClientGone):
        await read_body(receive, 100, 5.0)
