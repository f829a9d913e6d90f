"""What of a document is read: files, references, operations, and what is said of those that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcpgw.upstream.openapi import problems
from mcpgw.upstream.openapi_document import Document
from mcpgw.upstream.openapi_problem import Unusable
from tests.upstream.openapi_parts import (
    ANY,
    body,
    document,
    entry,
    made,
    names,
    only,
    operation,
    parameters,
    problem_of,
    refused,
    written,
)

# The file


@pytest.mark.requirement("openapi:file")
def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    tree = document(body({"type": "object"})["paths"])
    as_json = Document.load(written(tmp_path, tree))
    as_yaml = Document.load(written(tmp_path, json.dumps(tree, indent=2), "api.yaml"))
    assert as_json.tree == as_yaml.tree == tree
    assert Document.load(written(tmp_path, "\ufeff" + json.dumps(tree))).tree == tree


@pytest.mark.requirement("openapi:file")
def test_yaml_is_read_as_its_json_schema_has_it(tmp_path: Path) -> None:
    text = """
openapi: 3.1.0
info: {title: no, version: 2026-01-31}
x-values: [no, on, 1:30, 012, 1e3, .5, 0x1F, ~, null, true, "true", 1_000, -3]
paths:
  /a:
    get: {responses: {200: {description: yes}}}
"""
    tree = Document.load(written(tmp_path, text, "api.yaml")).tree
    assert tree["info"] == {"title": "no", "version": "2026-01-31"}
    assert tree["x-values"] == ["no", "on", "1:30", 12, 1000.0, 0.5, "0x1F", None, None, True, "true", "1_000", -3]
    assert tree["paths"]["/a"]["get"]["responses"] == {"200": {"description": "yes"}}


BAD_FILES = {
    "cut": ("{", "is not valid JSON or YAML"),
    "list": ("[]", "is not an object"),
    "duplicate key": ('{"openapi": "3.1.0", "openapi": "3.0.0"}', "is not valid JSON or YAML"),
    "nan": ('{"openapi": "3.1.0", "x": NaN}', "is not valid JSON or YAML"),
    "infinite": ('{"openapi": "3.1.0", "x": 1e999}', "has a value that JSON does not have"),
    "deep": ('{"x": ' + "[" * 3000 + "]" * 3000 + "}", "is nested deeper than 128 levels"),
}
BAD_YAML = {
    "duplicate key": ("a: 1\na: 2\n", "is not YAML as JSON has it (line 2)"),
    "merge key": ("a: &a {b: 1}\nc: {<<: *a}\n", "is not YAML as JSON has it (line 2)"),
    "no text as key": ("? [a]\n: 1\n", "is not YAML as JSON has it (line 1)"),
    "python object": ("a: !!python/object/apply:os.getpid []\n", "is not YAML as JSON has it (line 1)"),
    "date": ("a: !!timestamp 2026-01-31\n", "has a value that JSON does not have"),
    "binary": ("a: !!binary aGk=\n", "has a value that JSON does not have"),
    "infinite": ("a: !!float inf\n", "has a value that JSON does not have"),
    "endless": ("a: &a\n  b: *a\n", "is nested deeper than 128 levels"),
    "tab": ("a:\n\t- b\n", "is not YAML as JSON has it (line 2)"),
}


@pytest.mark.requirement("openapi:file")
@pytest.mark.parametrize(("text", "said"), BAD_FILES.values(), ids=BAD_FILES)
def test_json_that_readers_differ_on_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(written(tmp_path, text)).message


@pytest.mark.requirement("openapi:file")
@pytest.mark.parametrize(("text", "said"), BAD_YAML.values(), ids=BAD_YAML)
def test_yaml_that_is_no_json_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(written(tmp_path, text, "api.yml")).message


@pytest.mark.requirement("openapi:file")
def test_aliases_that_multiply_are_refused_and_not_followed(tmp_path: Path) -> None:
    lines = ["a0: &a0 [" + ",".join(["1"] * 10) + "]"]
    lines += [f"a{i}: &a{i} [" + ",".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 15)]
    assert "more than 2000000 values" in refused(written(tmp_path, "\n".join(lines), "api.yaml")).message


@pytest.mark.requirement("openapi:file")
def test_a_file_that_is_missing_or_too_large_or_in_another_encoding_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No such file" in refused(tmp_path / "none.json").message
    latin = tmp_path / "latin.json"
    latin.write_bytes(json.dumps(document()).encode().replace(b"Test", b"T\xe9st"))
    assert "UTF-8" in refused(latin).message
    monkeypatch.setattr("mcpgw.upstream.openapi_file.MAX_BYTES", 100)
    assert "larger than 100 bytes" in refused(written(tmp_path, document())).message


@pytest.mark.requirement("openapi:file")
@pytest.mark.parametrize("version", ["3.0.0", "3.0.4", "3.1.0", "3.1", "3.2.0", "3.1.0-rc1"])
def test_openapi_3_is_read(version: str) -> None:
    assert names(made(document(version=version))[0]) == ["op"]


@pytest.mark.requirement("openapi:file")
@pytest.mark.parametrize("version", ["2.0", "4.0.0", "3", "", "3.3.0", 3.1, None])
def test_another_version_is_refused(version: Any) -> None:
    assert problem_of({**document(), "openapi": version}).where == "/openapi"


# References


OUTSIDE = [
    "http://127.0.0.1:9/pet.json",
    "https://example.com/openapi.json#/components/schemas/Pet",
    "file:///etc/passwd",
    "other.json#/Pet",
    "../pet.yaml",
    "//example.com/x",
    "urn:pet",
    7,
]


@pytest.mark.requirement("openapi:references")
@pytest.mark.parametrize("reference", OUTSIDE)
@pytest.mark.parametrize("where", ["path", "parameter", "body", "schema", "property", "parameter schema"])
def test_a_reference_out_of_the_document_is_never_followed(reference: object, where: str) -> None:
    out = {"$ref": reference}
    trees = {
        "path": document({"/things": out}),
        "parameter": parameters(out),
        "body": document({"/things": {"post": operation(requestBody=out)}}),
        "schema": body(out),
        "property": body({"type": "object", "properties": {"a": {"type": "array", "items": out}}}),
        "parameter schema": parameters({"name": "a", "schema": out}),
    }
    if where == "parameter":
        trees["parameter"]["paths"]["/things"]["get"]["parameters"] = [out]
    problem = problem_of(trees[where])
    assert problem.where.endswith("/$ref")
    assert (problem.message, problem.fix) == ("leads out of the document", "bundle the document into one file")


@pytest.mark.requirement("openapi:references")
@pytest.mark.parametrize(
    "reference", ["#/components/schemas/None", "#/paths/~1things/get/nothing", "#anchor", "#/info/title/x", "#/x/7"]
)
def test_a_reference_to_nothing_is_told(reference: str) -> None:
    problem = problem_of({**body({"$ref": reference}), "x": [1]})
    assert problem.message == "points at nothing"
    assert problem.where == "/paths/~1things/post/requestBody/content/application~1json/schema/$ref"


@pytest.mark.requirement("openapi:references")
def test_references_within_the_document_are_followed_wherever_they_stand() -> None:
    tree = document(
        {
            "/things/{id}": {"$ref": "#/components/pathItems/Thing"},
        },
        components={
            "pathItems": {"Thing": {"put": {"$ref": "#/components/x-operations/put"}}},
            "x-operations": {
                "put": operation(
                    "putThing",
                    parameters=[{"$ref": "#/components/parameters/Id"}],
                    requestBody={"$ref": "#/components/requestBodies/Thing"},
                )
            },
            "parameters": {"Id": {"name": "id", "in": "path", "required": True, "schema": {"$ref": "#/x/a~1b/%7E0"}}},
            "requestBodies": {"Thing": {"content": {"application/json": {"schema": {"type": "string"}}}}},
        },
        x={"a/b": {"~0": {"type": "integer"}, "~": {"type": "boolean"}}},
    )
    tool = only(tree)
    listed = json.loads(tool.definition)["inputSchema"]
    assert listed["$defs"] == {"x_a_1b_0": {"type": "boolean"}}
    assert set(listed["properties"]) == {"id", "body"}


@pytest.mark.requirement("openapi:references")
def test_references_that_go_round_in_circles_are_told() -> None:
    tree = parameters({"name": "a"})
    tree["paths"]["/things"]["get"]["parameters"] = [{"$ref": "#/components/parameters/A"}]
    tree["components"] = {
        "parameters": {"A": {"$ref": "#/components/parameters/B"}, "B": {"$ref": "#/components/parameters/A"}}
    }
    assert problem_of(tree).message == "is a reference without end"


# Problems


@pytest.mark.requirement("openapi:problems")
def test_each_problem_has_its_place_and_costs_its_own_operation() -> None:
    tree = document(
        {
            "/good": {"get": operation("good")},
            "/{id}": {"get": operation("unbound")},
            "/style": {
                "get": operation("style", parameters=[{"name": "a", "in": "query", "style": "matrix", "schema": {}}])
            },
            "/head": {"head": operation("head")},
            "/upload": {
                "post": operation("upload", requestBody={"required": True, "content": {"application/octet-stream": {}}})
            },
            "/malformed": {"get": operation("malformed", parameters=[{"name": "a", "in": "somewhere"}])},
            "/list": {"get": ["no operation"]},
            "/bad": {"get": operation("bad", parameters=[{"name": "a", "in": "query", "schema": {"type": "strin"}}])},
            "/servers": {"get": operation("elsewhere", servers=[{"url": "https://other.example"}])},
        },
        servers=[{"url": "https://api.example"}],
    )
    tools, found = made(tree, base_url=None)
    assert names(tools) == ["good"]
    assert {problem.where: problem.message for problem in found} == {
        "/paths/~1{id}/get": "has other path parameters than its path",
        "/paths/~1style/get/parameters/0/style": "is not a style for query",
        "/paths/~1head/head": "HEAD is not sent",
        "/paths/~1upload/post/requestBody/content": "has no media type that can be sent",
        "/paths/~1malformed/get/parameters/0": "is malformed: Invalid enum value 'somewhere' - at `$.in`",
        "/paths/~1list/get": "is malformed: Expected `object`, got `array`",
        "/paths/~1bad/get": "has a schema that is not valid: the value is not valid under any of the schemas listed in"
        " the 'anyOf' keyword",
        "/paths/~1servers/get": "has servers of its own",
    }
    assert all(problem.fix for problem in found)


@pytest.mark.requirement("openapi:problems")
def test_what_an_entry_names_and_the_document_has_not_is_told() -> None:
    changes = {"operations": {"include": ["op", "lisst*"]}, "names": {"opp": "x"}}
    tools, found = made(document(), **changes)
    assert names(tools) == ["op"]
    assert [problem.message for problem in found] == [
        "has no operation `lisst*` to include",
        "has no operation `opp` to name",
    ]


@pytest.mark.requirement("openapi:problems")
def test_the_problems_of_a_file_are_told_as_a_command_shows_them(tmp_path: Path) -> None:
    assert problems(entry(document=str(written(tmp_path, document())))) == []
    (problem,) = problems(entry(document=str(tmp_path / "none.json")))
    assert (problem.where, problem.message) == ("", "cannot be read: No such file or directory")


@pytest.mark.requirement("openapi:bounded")
def test_a_document_of_too_many_operations_wants_a_selection() -> None:
    tree = document({f"/p{i}": {"get": {"responses": ANY}} for i in range(1001)})
    with pytest.raises(Unusable, match="has 1001 operations"):
        made(tree)
    tools, _ = made(tree, operations={"include": ["GET /p1*"]})
    assert len(tools) == 112


# Selection and base URL

FIVE = document(
    {
        "/pets": {"get": operation("listPets", tags=["read"]), "post": operation("addPet", tags=["write", "pets"])},
        "/pets/all": {"delete": operation("dropPets", tags=["write"])},
        "/admin": {"get": {"responses": ANY}, "head": operation("probe", tags=["probes"])},
    }
)


@pytest.mark.requirement("openapi:selection")
@pytest.mark.parametrize(
    ("include", "exclude", "selected"),
    [
        ([], ["HEAD *"], ["listPets", "addPet", "dropPets", "GET_admin"]),
        (["listPets"], [], ["listPets"]),
        (["*Pet*"], [], ["listPets", "addPet", "dropPets"]),
        (["GET *"], [], ["listPets", "GET_admin"]),
        (["* /pets*"], [], ["listPets", "addPet", "dropPets"]),
        (["write"], [], ["addPet", "dropPets"]),
        (["write"], ["DELETE *"], ["addPet"]),
        (["*"], ["probes", "GET /admin"], ["listPets", "addPet", "dropPets"]),
        (["listpets", "LISTPETS", "*"], ["*"], []),
    ],
)
def test_globs_select_by_id_place_and_tag(include: list[str], exclude: list[str], selected: list[str]) -> None:
    tools, _ = made(FIVE, operations={"include": include, "exclude": exclude})
    assert names(tools) == selected


@pytest.mark.requirement("openapi:selection")
def test_what_is_excluded_is_no_problem_however_malformed() -> None:
    tree = document({"/good": {"get": operation("good")}, "/bad": {"post": ["?"]}, "/worse": 7})
    assert len(made(tree)[1]) == 2
    assert made(tree, operations={"exclude": ["POST /bad", "* /worse"]})[1] == []


@pytest.mark.requirement("openapi:base-url")
@pytest.mark.parametrize(
    ("servers", "base_url", "wanted"),
    [
        ([{"url": "https://api.example/v2/"}], None, "https://api.example:443 /v2/things"),
        ([{"url": "HTTPS://API.example"}], None, "https://api.example:443 /things"),
        ([{"url": "https://api.example"}], "http://10.0.0.1:8080/x", "http://10.0.0.1:8080 /x/things"),
        ([], "https://api.example/a/b/", "https://api.example:443 /a/b/things"),
    ],
)
def test_calls_go_to_the_configured_or_the_only_server(servers: Any, base_url: str | None, wanted: str) -> None:
    tool = only(document(servers=servers), base_url=base_url)
    assert f"{tool.base.origin} {tool.template[0]}" == wanted


@pytest.mark.requirement("openapi:base-url")
@pytest.mark.parametrize(
    "servers",
    [
        None,
        [],
        [{"url": "/v2"}],
        [{"url": "https://a.example"}, {"url": "https://b.example"}],
        [{"url": "https://{region}.example", "variables": {"region": {"default": "eu"}}}],
        [{"url": "ftp://a.example"}],
        [{"url": "https://user:secret@a.example"}],
        [{"url": "https://a.example/v1?key=1"}],
        [{"url": "https://a.example/x/../y"}],
        [{"url": "https://a.example/%2e%2e/y"}],
        [{"url": 7}],
        "https://a.example",
    ],
)
def test_no_base_url_is_guessed(servers: Any) -> None:
    tree = document() if servers is None else document(servers=servers)
    problem = problem_of(tree, base_url=None)
    assert problem.where.startswith("/servers")
    assert problem.fix
    assert "secret" not in problem.message


@pytest.mark.requirement("openapi:base-url")
def test_a_configured_base_url_holds_for_operations_with_servers_of_their_own() -> None:
    tree = document({"/things": {"servers": [{"url": "https://other.example"}], "get": operation()}})
    assert only(tree).base.host == "api.example"
    assert problem_of({**tree, "servers": [{"url": "https://api.example"}]}, base_url=None).fix.startswith(
        "set base_url"
    )
