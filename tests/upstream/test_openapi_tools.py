"""Operations as tools: names, arguments, annotations, answers, and the digest of all that decides what is sent."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcpgw.registry import digest, scan
from mcpgw.upstream.openapi_document import Document
from mcpgw.upstream.openapi_tools import META
from tests.tools import Missing, npm_package
from tests.upstream.openapi_parts import (
    ANY,
    body,
    definition,
    document,
    entry,
    input_of,
    made,
    names,
    only,
    operation,
    parameters,
    problem_of,
    tools_of,
)

TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
ARGUMENT_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

# Names


@pytest.mark.requirement("openapi:names")
def test_a_tool_is_named_after_its_operation_or_its_method_and_path() -> None:
    tree = document(
        {
            "/a": {"get": operation("listPets"), "post": operation("pets.add"), "put": operation("pets/update all!")},
            "/b/{id}": {"get": {"responses": ANY, "parameters": [{"name": "id", "in": "path", "schema": {}}]}},
            "/": {"delete": {"responses": ANY}},
            "/ü": {"get": operation("größe")},
        }
    )
    tools, problems = made(tree)
    assert names(tools) == ["listPets", "pets_add", "pets_update_all", "GET_b_id", "DELETE"]
    assert [p.message for p in problems] == ["is not a path, or has characters that a path has not"]


@pytest.mark.requirement("openapi:names")
def test_names_that_would_clash_or_are_cut_end_in_a_digest_of_their_place() -> None:
    long = "x" * 80
    tree = document(
        {
            "/a": {"get": operation("pets.list"), "post": operation("pets list"), "put": operation("pets_list")},
            "/b": {"get": operation(long), "post": operation("a" + long), "put": operation("***")},
        }
    )
    found = names(made(tree)[0])
    assert found[2] == "pets_list"
    assert [re.sub(r"_[0-9a-f]{8}$", "_HEX", name) for name in found] == [
        "pets_list_HEX",
        "pets_list_HEX",
        "pets_list",
        "x" * 55 + "_HEX",
        "a" + "x" * 54 + "_HEX",
        "_HEX",
    ]
    assert len(set(found)) == 6
    assert all(TOOL_NAME.fullmatch(name) for name in found)
    assert names(made(tree)[0]) == found


@pytest.mark.requirement("openapi:names")
def test_an_operator_may_name_tools_and_two_that_get_one_name_are_told() -> None:
    tree = document(
        {
            "/a": {"get": operation("first"), "post": {"responses": ANY}},
            "/b": {"get": operation("b"), "put": operation("c")},
        }
    )
    tools, problems = made(tree, names={"first": "read", "POST /a": "write"})
    assert (names(tools), problems) == (["read", "write", "b", "c"], [])
    tools, problems = made(tree, names={"first": "c", "b": "same", "POST /a": "same"})
    assert names(tools) == ["c"]
    assert {p.where for p in problems} == {f"/paths/{p}/operationId" for p in ("~1a/get", "~1a/post", "~1b/get")}


@pytest.mark.requirement("openapi:names")
def test_an_operation_id_that_two_have_is_none() -> None:
    tools, problems = made(
        document({"/a": {"get": operation("a"), "put": operation("a")}, "/b": {"get": operation("b")}})
    )
    assert names(tools) == ["b"]
    assert [p.message for p in problems] == ["is the id of another operation, too"] * 2


@pytest.mark.requirement("openapi:names")
def test_arguments_have_the_names_of_parameters_where_those_fit_and_are_unique() -> None:
    given = [
        {"name": "id", "in": "path"},
        {"name": "id"},
        {"name": "id", "in": "header"},
        {"name": "body"},
        {"name": "filter[name]"},
        {"name": "filter(name)"},
        {"name": "$top"},
        {"name": "ä"},
        {"name": "y" * 80},
        {"name": "X-Trace", "in": "header"},
        {"name": "a.b-c_d"},
    ]
    tree = parameters(*given, path="/things/{id}", method="put")
    tree["paths"]["/things/{id}"]["put"]["requestBody"] = {"content": {"application/json": {"schema": {}}}}
    properties = list(definition(only(tree))["inputSchema"]["properties"])
    assert properties == [
        "id_path",
        "id_query",
        "id_header",
        "body_query",
        "filter_name_query",
        "filter_name_query_2",
        "top",
        "parameter",
        "y" * 64,
        "X-Trace",
        "a.b-c_d",
        "body",
    ]
    assert all(ARGUMENT_NAME.fullmatch(name) for name in properties)


# Arguments


@pytest.mark.requirement("openapi:definitions")
def test_the_arguments_are_the_parameters_and_the_body_and_nothing_else() -> None:
    tree = parameters(
        {"name": "id", "in": "path", "schema": {"type": "integer", "description": "of the schema"}},
        {
            "name": "q",
            "required": True,
            "schema": {"type": "string", "description": "of the schema"},
            "description": "own",
        },
        {"name": "old", "deprecated": True, "schema": {"type": "string"}},
        {"name": "any", "schema": True, "description": "d"},
        {"name": "Accept", "in": "header"},
        {"name": "content-type", "in": "header"},
        {"name": "Authorization", "in": "header", "required": True},
        path="/things/{id}",
        method="post",
    )
    content = {"application/json": {"schema": {"type": "object"}}}
    tree["paths"]["/things/{id}"]["post"]["requestBody"] = {"required": True, "content": content, "description": "b"}
    assert definition(only(tree))["inputSchema"] == {
        "type": "object",
        "properties": {
            "id": {"type": "integer", "description": "of the schema"},
            "q": {"type": "string", "description": "own"},
            "old": {"type": "string", "deprecated": True},
            "any": {"description": "d"},
            "body": {"type": "object", "description": "b"},
        },
        "required": ["body", "id", "q"],
        "additionalProperties": False,
    }


@pytest.mark.requirement("openapi:definitions")
def test_an_operations_parameters_go_before_those_of_its_path() -> None:
    shared = [{"name": "a", "in": "query", "schema": {"type": "string"}}, {"name": "b", "in": "query", "schema": {}}]
    own = [{"name": "a", "in": "query", "required": True, "schema": {"type": "integer"}}]
    tool = only(document({"/things": {"parameters": shared, "get": operation(parameters=own)}}))
    schema = definition(tool)["inputSchema"]
    assert schema["properties"] == {"a": {"type": "integer"}, "b": {}}
    assert schema["required"] == ["a"]


FORBIDDEN = [
    *("Host", "Connection", "Content-Length", "Transfer-Encoding", "TE", "Trailer", "Upgrade", "Expect", "Keep-Alive"),
    *(
        "Cookie",
        "Proxy-Authorization",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "Forwarded",
        "X-Real-IP",
        "Via",
        "Origin",
    ),
    *("Mcp-Session-Id", "MCP-Protocol-Version", "Content-Encoding", "Accept-Encoding", "X-HTTP-Method-Override"),
    *("X-Original-URL", "X-Rewrite-URL", "Sec-Fetch-Site", "Set-Cookie"),
]


@pytest.mark.requirement("openapi:headers")
@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_header_that_frames_routes_or_speaks_for_somebody_is_no_argument(name: str) -> None:
    optional = parameters({"name": name, "in": "header"}, {"name": "X-Fine", "in": "header"})
    assert list(definition(only(optional))["inputSchema"]["properties"]) == ["X-Fine"]
    required = parameters({"name": name.upper(), "in": "header", "required": True})
    assert problem_of(required).message == "is a header that no caller may set"


@pytest.mark.requirement("openapi:headers")
def test_what_the_operator_sets_no_caller_can() -> None:
    tree = parameters(
        {"name": "X-Api-Key", "in": "header", "required": True},
        {"name": "session", "in": "cookie"},
        {"name": "q"},
    )
    listed = definition(only(tree, headers={"x-API-key": "env:KEY"}))
    assert list(listed["inputSchema"]["properties"]) == ["session", "q"]
    assert "env:KEY" not in json.dumps(listed)
    listed = definition(only(tree, headers={"X-Api-Key": "env:KEY", "Cookie": "env:COOKIE"}))
    assert list(listed["inputSchema"]["properties"]) == ["q"]


@pytest.mark.requirement("openapi:headers")
@pytest.mark.parametrize("place", ["header", "cookie"])
@pytest.mark.parametrize("name", ["a b", "a:b", "a\r\nb", "ä", ""])
def test_a_name_that_cannot_stand_in_a_header_is_told(place: str, name: str) -> None:
    assert problem_of(parameters({"name": name, "in": place})).message == "is not a name for this place"


UNSUPPORTED = {
    "query in a path": ({"name": "a", "in": "query", "style": "simple"}, "is not a style for query"),
    "deep path": ({"name": "id", "in": "path", "style": "deepObject"}, "is not a style for path"),
    "header form": ({"name": "a", "in": "header", "style": "form"}, "is not a style for header"),
    "delimited and exploded": (
        {"name": "a", "style": "pipeDelimited", "explode": True},
        "has no meaning with pipeDelimited",
    ),
    "no schema": ({"name": "a", "schema": None}, "has neither schema nor content"),
    "two contents": (
        {"name": "a", "content": {"application/json": {}, "text/plain": {}}},
        "does not hold exactly one media type",
    ),
    "xml content": (
        {"name": "a", "content": {"application/xml": {}}},
        "is a media type that parameters are not written in",
    ),
    "whole query": ({"name": "a", "in": "querystring", "content": {"application/json": {}}}, "is the whole query"),
}


@pytest.mark.requirement("openapi:problems")
@pytest.mark.parametrize(("parameter", "said"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_a_parameter_without_a_defined_form_costs_its_operation(parameter: dict[str, Any], said: str) -> None:
    path = "/things/{id}" if parameter.get("in") == "path" else "/things"
    assert said in problem_of(parameters(parameter, path=path)).message


@pytest.mark.requirement("openapi:path")
@pytest.mark.parametrize(
    "path",
    ["/a/../b", "/a/./b", "/a/%2e%2E/b", "/a?b=c", "/a#b", "/a b", "things", "/a\\b", "/a/{id}/..", "/%zz", "/{}"],
)
def test_a_path_that_is_none_costs_its_operation(path: str) -> None:
    tree = (
        parameters({"name": "id", "in": "path"}, path=path)
        if "{id}" in path
        else document({path: {"get": operation()}})
    )
    assert problem_of(tree).where.startswith("/paths/")


# Bodies


@pytest.mark.requirement("openapi:bodies")
@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        (["application/json"], "application/json"),
        (["application/xml", "text/plain", "application/json; charset=utf-8"], "application/json"),
        (["multipart/form-data", "application/x-www-form-urlencoded"], "application/x-www-form-urlencoded"),
        (["text/plain", "multipart/form-data"], "multipart/form-data"),
        (["application/merge-patch+json"], "application/merge-patch+json"),
        (["*/*"], "application/json"),
        (["Text/Plain"], "text/plain"),
    ],
)
def test_a_body_is_sent_in_the_best_of_the_media_types_offered(offered: list[str], taken: str) -> None:
    content = {media_type: {"schema": {"type": "object"}} for media_type in offered}
    tool = only(document({"/things": {"post": operation(requestBody={"content": content})}}))
    assert tool.body is not None
    assert tool.body.media_type == taken


@pytest.mark.requirement("openapi:bodies")
def test_an_optional_body_that_cannot_be_sent_is_left_out() -> None:
    tool = only(body({}, "application/octet-stream", required=False))
    assert tool.body is None
    assert definition(tool)["inputSchema"]["properties"] == {}


@pytest.mark.requirement("openapi:bodies")
def test_files_of_a_form_are_no_arguments() -> None:
    schema = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string"},
            "photo": {"type": "string", "format": "binary"},
            "more": {"type": "array", "items": {"$ref": "#/x/File"}},
            "scan": {"type": "string", "contentMediaType": "image/png"},
            "raw": {},
        },
    }
    more = {"x": {"File": {"type": "string", "format": "binary"}}}
    tree = {**body(schema, "multipart/form-data", encoding={"raw": {"contentType": "image/*"}}), **more}
    listed = definition(only(tree))["inputSchema"]["properties"]["body"]
    assert listed == {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    schema["required"] = ["name", "photo"]
    assert (
        problem_of({**body(schema, "multipart/form-data"), **more}).message == "needs a file, which no argument can be"
    )


# Answers


def answering(responses: Any, **more: Any) -> dict[str, Any]:
    return definition(only(document({"/things": {"get": {"operationId": "op", "responses": responses}}}, **more)))


def answer(schema: Any, media_type: str = "application/json") -> dict[str, Any]:
    return {"description": "d", "content": {media_type: {"schema": schema}}}


OBJECT = {"type": "object", "properties": {"id": {"type": "integer"}}}


@pytest.mark.requirement("openapi:definitions")
@pytest.mark.parametrize(
    ("responses", "wanted"),
    [
        ({"200": answer(OBJECT)}, OBJECT),
        ({"200": answer(OBJECT), "404": answer({"type": "string"})}, OBJECT),
        ({"2XX": answer(OBJECT, "application/hal+json; charset=utf-8")}, OBJECT),
        ({"default": answer(OBJECT)}, OBJECT),
        ({"200": answer({"properties": {"a": {}}})}, {"type": "object", "properties": {"a": {}}}),
        ({"200": answer({"allOf": [OBJECT]})}, {"type": "object", "allOf": [OBJECT]}),
        ({"200": answer(OBJECT), "201": answer(OBJECT)}, OBJECT),
        (
            {"200": answer(OBJECT), "201": answer({"type": "object"})},
            {"type": "object", "anyOf": [OBJECT, {"type": "object"}]},
        ),
        ({"200": answer(OBJECT), "204": {"description": "nothing"}}, None),
        ({"200": answer({"type": "array", "items": OBJECT})}, None),
        ({"200": answer({"type": ["object", "null"]})}, None),
        ({"200": answer(OBJECT, "text/plain")}, None),
        ({"200": answer(OBJECT), "default": answer({"type": "string"})}, OBJECT),
        ({"200": answer({"type": "strin"})}, None),
        ({"200": answer({"$ref": "https://elsewhere.example/x"})}, None),
        ({}, None),
    ],
)
def test_a_tool_tells_the_schema_of_its_answers_when_each_good_one_is_an_object(responses: Any, wanted: Any) -> None:
    assert answering(responses).get("outputSchema") == wanted


@pytest.mark.requirement("openapi:definitions")
def test_the_schema_of_answers_can_be_left_out() -> None:
    tree = document({"/things": {"get": {"operationId": "op", "responses": {"200": answer(OBJECT)}}}})
    assert "outputSchema" in definition(only(tree))
    assert "outputSchema" not in definition(only(tree, output_schemas=False))


@pytest.mark.requirement("openapi:definitions")
@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("get", {"readOnlyHint": True}),
        ("options", {"readOnlyHint": True}),
        ("put", {"readOnlyHint": False, "idempotentHint": True}),
        ("delete", {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": True}),
        ("post", {"readOnlyHint": False}),
        ("patch", {"readOnlyHint": False}),
    ],
)
def test_annotations_say_what_the_method_means(method: str, wanted: dict[str, bool]) -> None:
    assert definition(only(document({"/things": {method: operation()}})))["annotations"] == wanted


@pytest.mark.requirement("openapi:definitions")
def test_title_and_description_are_the_operations_own() -> None:
    said = {"summary": "List\n pets ", "description": "All of them.", "deprecated": True}
    listed = definition(only(document({"/pets": {"get": operation(**said)}})))
    assert (listed["title"], listed["description"]) == ("List pets", "Deprecated. All of them.")
    listed = definition(only(document({"/pets": {"get": operation(summary="List pets")}})))
    assert (listed["title"], listed["description"]) == ("List pets", "List pets")
    listed = definition(only(document({"/pets": {"get": operation(description="x" * 9000)}})))
    assert "title" not in listed
    assert len(listed["description"]) == 4096


@pytest.mark.requirement("openapi:definitions")
@pytest.mark.parametrize("version", ["3.0.4", "3.1.1"])
def test_definitions_pass_the_registrys_scan(version: str) -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Node"}}}
    tree = document(
        {"/things": {"post": operation(requestBody={"content": {"application/json": {"schema": node}}})}},
        version=version,
        schemas={"Node": node},
    )
    pin = digest.pin(only(tree).definition)
    assert scan.findings({pin.name: pin}) == []


# What is pinned


def changed(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        *steps, last = path.split(" ")
        node: Any = tree
        for step in steps:
            node = node[int(step) if isinstance(node, list) else step]
        node[last] = value

    return change


FORM = {"schema": {"type": "object"}, "encoding": {"a": {"contentType": "text/a"}}}
PINNED: dict[str, Any] = document(
    {
        "/things/{id}": {
            "put": operation(
                parameters=[
                    {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
                    {"name": "q", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
                ],
                requestBody={
                    "content": {
                        "multipart/form-data": {
                            "schema": {"type": "object"},
                            "encoding": {"a": {"contentType": "text/a"}},
                        }
                    }
                },
            )
        }
    },
    servers=[{"url": "https://api.example/v1"}],
)
PUT = "paths /things/{id} put"
CHANGES = {
    "base url": changed("servers 0 url", "https://api.example/v2"),
    "host": changed("servers 0 url", "https://api.evil.example/v1"),
    "port": changed("servers 0 url", "https://api.example:444/v1"),
    "scheme": changed("servers 0 url", "http://api.example/v1"),
    "parameter name": changed(f"{PUT} parameters 1 name", "q2"),
    "parameter place": changed(f"{PUT} parameters 1 in", "header"),
    "style": changed(f"{PUT} parameters 1 style", "pipeDelimited"),
    "explode": changed(f"{PUT} parameters 1 explode", False),
    "reserved": changed(f"{PUT} parameters 1 allowReserved", True),
    "content": changed(f"{PUT} requestBody content", {"application/json": {"schema": {"type": "object"}}}),
    "encoding": changed(f"{PUT} requestBody content multipart/form-data encoding a contentType", "text/b"),
    "answers": changed(f"{PUT} responses", {"200": answer({}, "application/json")}),
}


@pytest.mark.requirement("openapi:pinned")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_what_is_sent_changes_the_pin(change: Callable[[dict[str, Any]], None]) -> None:
    before = digest.pin(only(PINNED, base_url=None).definition)
    tree = copy.deepcopy(PINNED)
    change(tree)
    after = digest.pin(only(tree, base_url=None).definition)
    assert after.sha256 != before.sha256
    again = digest.pin(only(copy.deepcopy(PINNED), base_url=None).definition)
    assert again == before


@pytest.mark.requirement("openapi:pinned")
def test_method_and_path_are_part_of_the_pin_and_shown() -> None:
    found = {}
    for path, method in (("/a", "get"), ("/a", "put"), ("/b", "get")):
        listed = definition(only(document({path: {method: operation()}})))
        found[listed["_meta"][META]["operation"]] = listed["_meta"][META]["request"]
    assert list(found) == ["GET /a", "PUT /a", "GET /b"]
    assert len(set(found.values())) == 3


@pytest.mark.requirement("openapi:pinned")
def test_what_is_not_of_an_operation_does_not_change_its_pin() -> None:
    tree = copy.deepcopy(PINNED)
    tree["info"] = {"title": "Another", "version": "9"}
    tree["paths"]["/other"] = {"get": operation("other")}
    first, _ = made(tree, base_url=None)
    assert digest.pin(first[0].definition) == digest.pin(only(PINNED, base_url=None).definition)


@pytest.mark.requirement("openapi:definitions")
def test_the_address_of_the_api_is_not_shown_to_clients() -> None:
    assert b"api.example" not in only(PINNED, base_url=None).definition


# Real documents


def real(name: str) -> Path:
    try:
        return npm_package("documents", "@readme/oas-examples") / name
    except Missing as missing:
        pytest.skip(str(missing))


REAL = {
    "3.0/json/petstore.json": 20,
    "3.1/json/petstore.json": 20,
    "3.0/yaml/petstore.yaml": 20,
    "3.0/json/uspto.json": 3,
    "3.0/json/star-trek.json": 120,
    "3.1/json/train-travel.json": 7,
    "3.0/json/polymorphism.json": 13,
    "3.0/json/schema-circular.json": 3,
}


@pytest.mark.requirement("openapi:definitions")
@pytest.mark.parametrize("name", REAL)
def test_every_operation_of_a_real_document_is_a_tool(name: str) -> None:
    tools, problems = tools_of(Document.load(real(name)), entry())
    assert (len(tools), problems) == (REAL[name], [])
    pins = digest.pins([tool.definition for tool in tools])
    assert all(TOOL_NAME.fullmatch(name) for name in pins)
    listed = [definition(tool) for tool in tools]
    assert all(ARGUMENT_NAME.fullmatch(key) for tool in listed for key in tool["inputSchema"]["properties"])
    assert scan.findings(pins) == []


@pytest.mark.requirement("openapi:schemas")
def test_an_array_or_a_scalar_may_be_a_body() -> None:
    assert input_of({"type": "array", "items": {"type": "integer"}}) == {"type": "array", "items": {"type": "integer"}}
    assert input_of(True) == {}
