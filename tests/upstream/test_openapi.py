"""A REST API as a server, over real sockets: what is sent, what comes back, and when nothing leaves."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcpgw import __version__
from mcpgw.domain import SYSTEM, Arguments, ClientFacts, ToolPin, Transport, Verb
from mcpgw.errors import (
    Killed,
    MethodNotAllowed,
    MethodNotFound,
    Quarantined,
    UpstreamFailed,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from mcpgw.ports import Gate
from mcpgw.registry import digest
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.openapi import OpenApiServers
from mcpgw.upstream.undeclared import Undeclared
from tests.fixtures.raw_http import RawServer, Script, always, answer, serve
from tests.upstream.calls import LEGACY, LIMITS, MODERN, Caller, CountingGate, Seen, version
from tests.upstream.openapi_parts import document, entry, operation, written

JSON = b"content-type: application/json"
PET = {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}, "name": {"type": "string"}}}
ANSWER = {"200": {"description": "d", "content": {"application/json": {"schema": PET}}}}
PATHS: dict[str, Any] = {
    "/pets/{id}": {
        "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}],
        "get": operation("getPet", responses=ANSWER),
        "put": operation(
            "putPet",
            parameters=[{"name": "X-Tag", "in": "header", "schema": {"type": "string"}}],
            requestBody={"required": True, "content": {"application/json": {"schema": PET}}},
        ),
        "delete": operation("deletePet"),
    },
    "/search": {"get": operation("search", parameters=[{"name": "q", "in": "query", "schema": {"type": "string"}}])},
    "/touch": {"put": operation("touch"), "post": operation("poke")},
}


@dataclass
class Place:
    """An API under test, and a caller of it. `pins` are what the registry would hold."""

    server: RawServer
    upstream: OpenApiServers
    file: Path
    caller: Caller
    pins: dict[str, ToolPin] = field(default_factory=dict)

    async def publish(self) -> None:
        """Pin what the document offers now."""
        own = Caller(self.upstream, self.caller.target, client=None, who=SYSTEM)
        listed = (await own.ask(Verb.TOOLS_LIST)).result["tools"]
        self.pins = digest.pins([json.dumps(tool).encode() for tool in listed])

    def rewrite(self, paths: Mapping[str, Any] | str) -> None:
        """Put another document into the place of the one that is there, as an editor does."""
        text = paths if isinstance(paths, str) else json.dumps(document(paths))
        aside = self.file.with_suffix(".new")
        aside.write_text(text)
        aside.replace(self.file)

    async def call(self, tool: str, arguments: Mapping[str, Any] | bytes = b"{}", **facts: Any) -> Seen:
        raw = arguments if isinstance(arguments, bytes) else json.dumps(arguments).encode()
        return await called(self.caller, self.pins[tool], raw, **facts)


async def called(caller: Caller, pin: ToolPin, raw: bytes = b"{}", gate: Gate | None = None, **facts: Any) -> Seen:
    """Call a tool as it was pinned."""
    return await caller.ask(Verb.TOOLS_CALL, gate, name=pin.name, arguments=Arguments(raw), tool=pin, **facts)


@asynccontextmanager
async def place(
    script: Script, directory: Path, *, client: ClientFacts = MODERN, **changes: Any
) -> AsyncIterator[Place]:
    paths = changes.pop("paths", PATHS)
    http = HttpClient(LIMITS, lambda address: True)
    async with serve(script) as server:
        file = written(directory, document(paths))
        configured = entry(document=str(file), base_url=server.url.removesuffix("/mcp") + "/v1", **changes)
        upstream = OpenApiServers([configured], http, digest.pin)
        target = version("api", transport=Transport.OPENAPI)
        made = Place(server, upstream, file, Caller(upstream, target, client=client))
        await made.publish()
        try:
            yield made
        finally:
            await http.aclose()


def replied(body: Any = None, status: bytes = b"200 OK") -> Script:
    return always(answer(json.dumps({"id": 7} if body is None else body).encode(), JSON, status=status))


# What is sent


@pytest.mark.requirement("openapi:judged")
async def test_a_call_is_one_request_with_what_was_judged(tmp_path: Path) -> None:
    async with place(replied(), tmp_path) as api:
        gate = CountingGate()
        body = b'{ "id":7,\n "name":"\\u00fc" }'
        arguments = b'{"id": 7, "X-Tag": "blue", "body": ' + body + b"}"
        seen = await api.call("putPet", arguments, gate=gate)
        (request,) = api.server.requests
    host = api.server.url.split("/")[2].encode()
    assert request == (
        b"PUT /v1/pets/7 HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\naccept: */*\r\nx-tag: blue\r\n"
        b"content-type: application/json\r\nuser-agent: mcpgw/%b\r\ncontent-length: %d\r\n\r\n%b"
        % (host, __version__.encode(), len(body), body)
    )
    assert gate.passed == 1
    assert seen.kinds == ["whole"]
    assert seen.last.facts == {"era": "dual", "upstream_status": 200}


@pytest.mark.requirement("openapi:judged")
async def test_what_a_redaction_left_is_what_is_sent(tmp_path: Path) -> None:
    async with place(replied(), tmp_path) as api:
        await api.call("search", {"q": "secret"}, judged=b'{"q":"[redacted]"}')
        (request,) = api.server.requests
    assert request.startswith(b"GET /v1/search?q=%5Bredacted%5D HTTP/1.1\r\n")
    assert b"secret" not in request


@pytest.mark.requirement("openapi:bodies")
@pytest.mark.parametrize("tool", ["touch", "poke"])
async def test_a_request_without_content_says_so_where_its_method_has_some(tmp_path: Path, tool: str) -> None:
    async with place(replied(), tmp_path) as api:
        await api.call(tool)
        await api.call("deletePet", {"id": 7})
        first, second = api.server.requests
    assert b"\r\ncontent-length: 0\r\n" in first
    assert b"content-length" not in second


@pytest.mark.requirement("openapi:credentials")
async def test_the_operators_headers_go_along_and_the_callers_do_not(tmp_path: Path) -> None:
    client = ClientFacts(
        protocol_version="2026-07-28",
        modern=True,
        meta=b'{"progressToken":"token-of-the-caller"}',
        headers={"mcp-param-q": "param-of-the-caller", "authorization": "Bearer of-the-caller"},
    )
    async with place(replied(), tmp_path, client=client, headers={"X-Api-Key": "env:KEY"}) as api:
        api.caller.credential = {"x-api-key": "operators-own", "user-agent": "us/1"}
        seen = await api.call("search", {"q": "a"})
        (request,) = api.server.requests
    assert b"\r\nx-api-key: operators-own\r\n" in request
    assert request.count(b"user-agent: ") == request.count(b"user-agent: us/1\r\n") == 1
    assert b"of-the-caller" not in request
    assert b"mcp-" not in request.lower().replace(b"mcpgw", b"")
    assert b"operators-own" not in seen.last.body


@pytest.mark.requirement("openapi:gate")
async def test_a_closed_gate_lets_nothing_out(tmp_path: Path) -> None:
    async with place(replied(), tmp_path) as api:
        with pytest.raises(Killed):
            await api.call("search", {"q": "a"}, gate=CountingGate(closed=Killed("stopped")))
        assert api.server.requests == []
        await api.call("search", {"q": "a"})
        assert len(api.server.requests) == 1


@pytest.mark.requirement("openapi:validation")
@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("getPet", {}, '"id" is a required property'),
        ("getPet", {"id": "hunter2"}, "id: the value is not of type"),
        ("getPet", {"id": 7, "extra": "hunter2"}, "'extra' was unexpected"),
        ("putPet", {"id": 7, "body": {"id": 7, "name": ["hunter2"]}}, "body.name: the value is not of type"),
        ("putPet", {"id": 7}, '"body" is a required property'),
        ("putPet", {"id": 7, "body": {"id": 7}, "X-Tag": "hunter2\r\nX-Evil: 1"}, "X-Tag: a header value is"),
        ("search", {"q": "hunter2" * 3000}, "send less"),
    ],
)
@pytest.mark.parametrize("client", [MODERN, LEGACY], ids=["modern", "legacy"])
async def test_arguments_that_do_not_fit_are_told_as_a_result_and_nothing_is_sent(
    tmp_path: Path, tool: str, arguments: dict[str, Any], said: str, client: ClientFacts
) -> None:
    async with place(replied(), tmp_path, client=client) as api:
        gate = CountingGate()
        seen = await api.call(tool, arguments, gate=gate)
        assert api.server.requests == []
    assert gate.passed == 0
    assert seen.result["isError"] is True
    assert seen.last.failed
    assert said in seen.text
    assert "nothing was sent" in seen.text
    assert "hunter2" not in seen.text


# What comes back


@pytest.mark.requirement("openapi:answers")
async def test_json_is_text_and_structure(tmp_path: Path) -> None:
    body = b'\xef\xbb\xbf { "id":7, "name":"\xc3\xbc", "price":1.10 } '
    async with place(always(answer(body, b"content-type: application/json; charset=utf-8")), tmp_path) as api:
        modern = await api.call("getPet", {"id": 7})
        api.caller.client = LEGACY
        legacy = await api.call("getPet", {"id": 7})
    text = '{ "id":7, "name":"ü", "price":1.10 }'
    assert b'"structuredContent":{ "id":7, "name":"\xc3\xbc", "price":1.10 }' in modern.last.body
    wanted = {"content": [{"type": "text", "text": text}], "structuredContent": json.loads(text)}
    assert modern.result == {"resultType": "complete", **wanted}
    assert legacy.result == wanted


@pytest.mark.requirement("openapi:answers")
@pytest.mark.parametrize("body", [b"[1, 2]", b'"text"', b"7", b"null"])
async def test_json_that_is_no_object_is_text(tmp_path: Path, body: bytes) -> None:
    async with place(always(answer(body, JSON)), tmp_path) as api:
        seen = await api.call("search")
    assert seen.text == body.decode()
    assert "structuredContent" not in seen.result


@pytest.mark.requirement("openapi:answers")
@pytest.mark.parametrize("body", [b"[1]", b'{"name": "no id"}', b'{"id": "seven"}'])
async def test_an_answer_that_its_schema_does_not_describe_is_shown_as_a_failure(tmp_path: Path, body: bytes) -> None:
    async with place(always(answer(body, JSON)), tmp_path) as api:
        seen = await api.call("getPet", {"id": 7})
    assert seen.result["isError"] is True
    assert "structuredContent" not in seen.result
    first, second = (item["text"] for item in seen.result["content"])
    assert "carried out the call (HTTP 200)" in first
    assert second == body.decode()
    async with place(always(answer(body, JSON)), tmp_path, output_schemas=False) as api:
        seen = await api.call("getPet", {"id": 7})
    assert "isError" not in seen.result
    assert seen.text == body.decode()


@pytest.mark.requirement("openapi:answers")
@pytest.mark.parametrize(
    ("media_type", "body", "text"),
    [
        (b"text/plain", b"a\r\n\xc3\xbc", "a\r\nü"),
        (b"text/html; charset=ISO-8859-1", b"\xfc", "ü"),
        (b'Text/CSV; charset="utf-8"; header=present', b"a,b", "a,b"),
        (b"application/xml", b"<a/>", "<a/>"),
        (b"image/svg+xml", b"<svg/>", "<svg/>"),
        (b"application/json", b"", ""),
        (b"application/octet-stream", b"", ""),
    ],
)
async def test_text_is_text(tmp_path: Path, media_type: bytes, body: bytes, text: str) -> None:
    async with place(always(answer(body, b"content-type: " + media_type)), tmp_path) as api:
        seen = await api.call("search")
    assert seen.result == {"resultType": "complete", "content": [{"type": "text", "text": text}]}


@pytest.mark.requirement("openapi:answers")
async def test_no_content_is_an_empty_text(tmp_path: Path) -> None:
    async with place(always(b"HTTP/1.1 204 No Content\r\n\r\n"), tmp_path) as api:
        seen = await api.call("deletePet", {"id": 7})
    assert seen.result["content"] == [{"type": "text", "text": ""}]
    assert seen.last.facts["upstream_status"] == 204


@pytest.mark.requirement("openapi:answers")
async def test_pictures_and_sounds_are_content_of_their_kind(tmp_path: Path) -> None:
    for family, media_type in (("image", b"image/png"), ("audio", b"Audio/WAV; rate=1")):
        async with place(always(answer(b"\x89\x00\xff", b"content-type: " + media_type)), tmp_path) as api:
            seen = await api.call("search")
        (item,) = seen.result["content"]
        assert item["type"] == family
        assert base64.b64decode(item["data"]) == b"\x89\x00\xff"
        assert item["mimeType"] == media_type.decode().lower().partition(";")[0]


@pytest.mark.requirement("openapi:answers")
@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (b"content-type: application/pdf", "application/pdf"),
        (b"content-type: text/plain; charset=utf-7", "text/plain"),
        (b"content-type: text/plain", "text/plain"),
        (b"x-none: 1", "application/octet-stream"),
    ],
)
async def test_other_bytes_are_an_embedded_resource(tmp_path: Path, header: bytes, kind: str) -> None:
    async with place(always(answer(b"%PDF\xff", header)), tmp_path) as api:
        first, second = [await api.call("search") for _ in range(2)]
    (item,) = first.result["content"]
    assert item["type"] == "resource"
    assert item["resource"]["mimeType"] == kind
    assert base64.b64decode(item["resource"]["blob"]) == b"%PDF\xff"
    assert item["resource"]["uri"].startswith("openapi://srv/search/")
    assert item["resource"]["uri"] != second.result["content"][0]["resource"]["uri"]


@pytest.mark.requirement("openapi:answers")
@pytest.mark.parametrize(
    "status", [b"400 Bad Request", b"401 Unauthorized", b"404 Not Found", b"429 Slow", b"500 Oops"]
)
async def test_a_failure_of_the_api_is_a_result_with_its_status_and_words(tmp_path: Path, status: bytes) -> None:
    code = status.decode().split()[0]
    async with place(replied({"error": "because"}, status), tmp_path) as api:
        seen = await api.call("getPet", {"id": 7})
    assert seen.result["isError"] is True
    assert [item["text"] for item in seen.result["content"]] == [
        f"The API answered HTTP {code}.",
        '{"error": "because"}',
    ]
    assert "structuredContent" not in seen.result
    assert seen.last.facts["upstream_status"] == int(code)
    assert seen.last.failed


@pytest.mark.requirement("openapi:answers")
@pytest.mark.parametrize(
    ("body", "header", "shown"),
    [
        (b"<html>no</html>", b"content-type: text/html", "<html>no</html>"),
        (b"\x00\xff", b"content-type: application/octet-stream", None),
        (b"", b"content-type: text/plain", None),
        (b'"' + b"x" * 20_000 + b'"', JSON, "(It explained in 20002 characters, which is too long to show.)"),
    ],
)
async def test_what_a_failure_says_is_bounded_and_never_cut(
    tmp_path: Path, body: bytes, header: bytes, shown: str | None
) -> None:
    async with place(always(answer(body, header, status=b"500 Oops")), tmp_path) as api:
        seen = await api.call("search")
    assert [item["text"] for item in seen.result["content"][1:]] == ([] if shown is None else [shown])


@pytest.mark.requirement("openapi:answers")
async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    script = always(answer(b"", b"location: http://127.0.0.1:9/metadata", status=b"302 Found"))
    async with place(script, tmp_path) as api:
        seen = await api.call("search")
        assert len(api.server.requests) == 1
    assert seen.text == "The API answered HTTP 302, a redirect, which is not followed."
    assert seen.result["isError"] is True
    assert "metadata" not in seen.last.body.decode()


@pytest.mark.requirement("openapi:answers")
@pytest.mark.parametrize("body", [b'{"id": 7', b"<html>", b'{"id": NaN}', b'{"a":"\xff"}', b"[" * 5000])
@pytest.mark.parametrize("status", [b"200 OK", b"500 Oops"])
async def test_json_that_is_none_is_an_error_and_not_shown(tmp_path: Path, body: bytes, status: bytes) -> None:
    async with place(always(answer(body, JSON, status=status)), tmp_path) as api:
        with pytest.raises(UpstreamFailed) as failed:
            await api.call("search")
    assert failed.value.data == {"cause": "not_json"}


@pytest.mark.requirement("openapi:answers")
async def test_an_answer_is_as_long_as_its_entry_allows(tmp_path: Path) -> None:
    for length, script in ((2048, None), (2049, "announced"), (2049, "chunked")):
        body = b"x" * length
        chunked = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        )
        reply = chunked % (length, body) if script == "chunked" else answer(body, b"content-type: text/plain")
        async with place(always(reply), tmp_path, max_response_bytes=2048) as api:
            if script is None:
                assert (await api.call("search")).text == body.decode()
                continue
            with pytest.raises(UpstreamFailed, match="more than 2048 bytes"):
                await api.call("search")


@pytest.mark.requirement("openapi:answers")
async def test_an_api_that_is_down_or_silent_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place(replied(), tmp_path) as api:
        pass
    with pytest.raises(UpstreamUnreachable):
        await called(api.caller, api.pins["search"])

    async def silent(peer: Any) -> None:
        await peer.request()
        await anyio.sleep_forever()

    limits = LIMITS.model_copy(update={"first_byte_s": 0.05})
    monkeypatch.setattr("tests.upstream.test_openapi.LIMITS", limits)
    async with place(silent, tmp_path) as api:
        with pytest.raises(UpstreamTimeout):
            await api.call("search")


# What a server is asked besides


@pytest.mark.requirement("openapi:eras")
async def test_clients_of_both_generations_are_greeted_in_theirs(tmp_path: Path) -> None:
    async with place(replied(), tmp_path, title="Pets") as api:
        discovered = (await api.caller.ask(Verb.DISCOVER)).result
        api.caller.client = ClientFacts(protocol_version="2025-06-18", modern=False)
        initialized = (await api.caller.ask(Verb.INITIALIZE)).result
        pinged = (await api.caller.ask(Verb.PING)).result
        assert api.server.requests == []
    info = {"name": "api", "title": "Pets", "version": "1.0.0"}
    assert discovered["resultType"] == "complete"
    assert discovered["supportedVersions"] == ["2026-07-28"]
    assert discovered["capabilities"] == {"tools": {}}
    assert discovered["_meta"] == {"io.modelcontextprotocol/serverInfo": info}
    assert initialized == {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
    assert pinged == {}


@pytest.mark.requirement("openapi:eras")
async def test_there_are_tools_and_nothing_else(tmp_path: Path) -> None:
    async with place(replied(), tmp_path) as api:
        for verb in (Verb.RESOURCES_LIST, Verb.PROMPTS_LIST, Verb.COMPLETE, Verb.SET_LEVEL, Verb.RESOURCES_SUBSCRIBE):
            with pytest.raises(MethodNotFound):
                await api.caller.ask(verb)
        for verb in (Verb.STREAM, Verb.LISTEN):
            with pytest.raises(MethodNotAllowed):
                await api.caller.ask(verb)
        for verb in (Verb.INITIALIZED, Verb.CANCELLED, Verb.END_SESSION, Verb.ANSWER):
            assert (await api.caller.ask(verb)).last.status == 202
        assert api.server.requests == []


# What was approved


@pytest.mark.requirement("openapi:pinned")
async def test_a_document_that_changed_is_another_tool_until_that_is_published(tmp_path: Path) -> None:
    async with place(replied(), tmp_path) as api:
        moved = {**PATHS, "/elsewhere": PATHS["/search"]}
        del moved["/search"]
        api.rewrite(moved)
        old = api.pins["search"]
        # What was approved is what this worker still has, so it is what is sent.
        await api.call("search", {"q": "a"})
        await api.publish()
        assert api.pins["search"].sha256 != old.sha256
        await api.call("search", {"q": "b"})
        with pytest.raises(Quarantined, match="its document has changed") as refused:
            await called(api.caller, old)
        assert refused.value.fix.endswith("mcpgw servers publish api")
        lines = [request.split(b"\r\n")[0] for request in api.server.requests]
    assert lines == [b"GET /v1/search?q=a HTTP/1.1", b"GET /v1/elsewhere?q=b HTTP/1.1"]


@pytest.mark.requirement("openapi:pinned")
async def test_another_worker_reads_a_changed_document_when_a_call_needs_it(tmp_path: Path) -> None:
    async with place(replied(), tmp_path) as api:
        http = HttpClient(LIMITS, lambda address: True)
        base = api.server.url.removesuffix("/mcp")
        other = OpenApiServers([entry(document=str(api.file), base_url=base + "/v1")], http, digest.pin)
        await called(Caller(other, api.caller.target), api.pins["search"])
        api.rewrite({"/fresh": PATHS["/search"]})
        await api.publish()
        await called(Caller(other, api.caller.target), api.pins["search"])
        await http.aclose()
        lines = [request.split(b" ")[1] for request in api.server.requests]
    assert lines == [b"/v1/search", b"/v1/fresh"]


@pytest.mark.requirement("openapi:pinned")
async def test_a_tool_that_is_gone_or_never_was_is_not_called(tmp_path: Path) -> None:
    async with place(replied(), tmp_path) as api:
        with pytest.raises(Quarantined):
            await called(api.caller, digest.pin(b'{"name":"other"}'))
        forged = digest.pin(b'{"name":"search","description":"another"}')
        with pytest.raises(Quarantined):
            await called(api.caller, forged)
        assert api.server.requests == []


@pytest.mark.requirement("openapi:pinned")
async def test_a_document_that_broke_cannot_be_published_and_what_was_read_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with place(replied(), tmp_path) as api:
        for broken in ("{", json.dumps({"openapi": "2.0"})):
            api.rewrite(broken)
            with pytest.raises(UpstreamUnreachable, match="the document of `api` cannot be used"):
                await api.publish()
            await api.call("search", {"q": "a"})
        os.remove(api.file)
        with pytest.raises(UpstreamUnreachable):
            await api.publish()
        await api.call("search", {"q": "a"})
        api.rewrite(PATHS)
        await api.publish()
    assert "is not valid JSON" in caplog.text


@pytest.mark.requirement("openapi:problems")
async def test_what_is_not_declared_any_more_is_told(tmp_path: Path) -> None:
    async with place(replied(), tmp_path) as api:
        gone = version("gone", transport=Transport.OPENAPI)
        for upstream in (api.upstream, Undeclared("registry.openapi")):
            with pytest.raises(UpstreamUnreachable, match="is not declared") as refused:
                await Caller(upstream, gone).ask(Verb.TOOLS_LIST)
            assert refused.value.fix == "add it to registry.openapi"


@pytest.mark.requirement("openapi:problems")
async def test_operations_that_cannot_be_offered_are_left_out_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = {**PATHS, "/bad": {"head": operation("bad")}}
    async with place(replied(), tmp_path, paths=paths) as api:
        assert "bad" not in api.pins
        assert "search" in api.pins
    assert "openapi api: 1 operations are not offered: mcpgw check-config says why" in caplog.text
