"""Schemas of documents as JSON Schema 2020-12, and what checking a value against them may cost."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from mcpgw.upstream.openapi_checker import MAX_WORK, Checker
from mcpgw.upstream.openapi_problem import Unusable
from tests.upstream.openapi_parts import body, definition, document, input_of, only, operation, problem_of

V30: dict[str, Any] = {"version": "3.0.3"}
TRANSLATED_3_0 = {
    "nullable": ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
    "nullable enum": (
        {"type": "string", "enum": ["a"], "nullable": True},
        {"type": ["string", "null"], "enum": ["a", None]},
    ),
    "not nullable": ({"type": "string", "nullable": False}, {"type": "string"}),
    "nullable of any type": ({"nullable": True, "minLength": 1}, {"minLength": 1}),
    "nullable composition": (
        {"allOf": [{"type": "string"}], "nullable": True, "description": "d"},
        {"description": "d", "anyOf": [{"allOf": [{"type": "string"}]}, {"type": "null"}]},
    ),
    "exclusive minimum": ({"minimum": 3, "exclusiveMinimum": True}, {"exclusiveMinimum": 3}),
    "exclusive maximum": ({"maximum": 3, "exclusiveMaximum": True}, {"exclusiveMaximum": 3}),
    "inclusive": ({"minimum": 3, "exclusiveMinimum": False}, {"minimum": 3}),
    "exclusive of nothing": ({"type": "integer", "exclusiveMinimum": True}, {"type": "integer"}),
    "example": ({"type": "string", "example": "x"}, {"type": "string", "examples": ["x"]}),
    "decoration": (
        {"type": "object", "xml": {"name": "x"}, "externalDocs": {"url": "u"}, "x-own": 1, "$comment": "c"},
        {"type": "object"},
    ),
    "names are no keywords": (
        {"type": "object", "properties": {"nullable": {"type": "string"}, "xml": {"type": "string", "nullable": True}}},
        {"type": "object", "properties": {"nullable": {"type": "string"}, "xml": {"type": ["string", "null"]}}},
    ),
}


@pytest.mark.requirement("openapi:schemas")
@pytest.mark.parametrize(("schema", "wanted"), TRANSLATED_3_0.values(), ids=TRANSLATED_3_0)
def test_a_schema_of_3_0_is_spelled_as_2020_12_does(schema: Any, wanted: Any) -> None:
    made = input_of(schema, **V30)
    assert made == wanted
    again = input_of({"type": "array", "items": schema}, **V30)
    assert again == {"type": "array", "items": wanted}


@pytest.mark.requirement("openapi:schemas")
def test_what_stands_beside_a_reference_is_ignored_in_3_0_and_means_something_since() -> None:
    beside = {"$ref": "#/components/schemas/A", "description": "mine", "maxLength": 3}
    schemas = {"A": {"type": "string"}}
    old = input_of({"properties": {"a": beside}}, schemas=schemas, **V30)
    new = input_of({"properties": {"a": beside}}, schemas=schemas)
    assert old["properties"]["a"] == {"$ref": "#/$defs/A"}
    assert new["properties"]["a"] == {"$ref": "#/$defs/A", "description": "mine", "maxLength": 3}
    assert old["$defs"] == new["$defs"] == {"A": {"type": "string"}}


@pytest.mark.requirement("openapi:schemas")
def test_a_schema_of_3_1_stays_what_it_is() -> None:
    schema = {
        "type": ["object", "null"],
        "properties": {
            "a": {"type": "integer", "exclusiveMinimum": 3, "multipleOf": 2, "format": "int64"},
            "b": {"type": "array", "prefixItems": [{"const": 1}], "items": False, "contains": {}, "minContains": 1},
            "c": {"if": {"type": "string"}, "then": {"minLength": 1}, "else": {"not": {"enum": [1, None]}}},
            "d": {"anyOf": [{"type": "null"}, {"oneOf": [True, {"pattern": "^a"}]}]},
        },
        "patternProperties": {"^x": True},
        "propertyNames": {"maxLength": 9},
        "dependentRequired": {"a": ["b"]},
        "dependentSchemas": {"a": {"required": ["c"]}},
        "unevaluatedProperties": False,
        "required": ["a"],
        "title": "T",
        "default": None,
        "examples": [{"a": 4}],
    }
    assert input_of(schema) == schema


@pytest.mark.requirement("openapi:schemas")
def test_read_only_properties_are_not_sent_and_write_only_ones_not_awaited() -> None:
    thing = {
        "type": "object",
        "required": ["id", "secret", "name"],
        "properties": {
            "id": {"type": "string", "readOnly": True},
            "created": {"$ref": "#/components/schemas/Stamp"},
            "secret": {"type": "string", "writeOnly": True},
            "name": {"type": "string"},
        },
    }
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}
    tree = document(
        {
            "/things": {
                "post": operation(
                    requestBody={"content": content}, responses={"201": {"description": "made", "content": content}}
                )
            }
        },
        schemas={"Thing": thing, "Stamp": {"type": "string", "readOnly": True}},
    )
    listed = definition(only(tree))
    given = listed["inputSchema"]["$defs"]["Thing"]
    assert (set(given["properties"]), given["required"]) == ({"secret", "name"}, ["secret", "name"])
    answered = listed["outputSchema"]
    assert (set(answered["properties"]), answered["required"]) == ({"id", "created", "name"}, ["id", "name"])


@pytest.mark.requirement("openapi:schemas")
def test_what_one_part_of_a_composition_keeps_out_no_other_part_requires() -> None:
    base = {"type": "object", "properties": {"id": {"readOnly": True}, "name": {}}}
    schema = {"allOf": [{"$ref": "#/components/schemas/Base"}, {"required": ["id", "name"]}], "required": ["id"]}
    made = input_of(schema, schemas={"Base": base})
    assert made["allOf"] == [{"$ref": "#/$defs/Base"}, {"required": ["name"]}]
    assert made["required"] == []
    assert made["$defs"] == {"Base": {"type": "object", "properties": {"name": {}}}}


@pytest.mark.requirement("openapi:schemas")
def test_a_discriminator_says_which_value_belongs_to_which_alternative() -> None:
    schemas = {
        "Cat": {"type": "object", "properties": {"kind": {"type": "string"}}},
        "Dog": {"type": "object", "properties": {"kind": {"type": "string"}}},
        "Fish": {"type": "object"},
    }
    pet = {
        "oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in schemas] + [{"type": "null"}],
        "discriminator": {
            "propertyName": "kind",
            "mapping": {"cat": "#/components/schemas/Cat", "kitten": "Cat", "x": "https://elsewhere.example/y"},
        },
    }
    made = input_of(pet, schemas=schemas)
    kinds = [one.get("properties", {}).get("kind") for one in made["oneOf"]]
    assert kinds == [{"enum": ["cat", "kitten", "Cat"]}, {"enum": ["Dog"]}, {"enum": ["Fish"]}, None]
    assert [one.get("required") for one in made["oneOf"]] == [["kind"], ["kind"], ["kind"], None]
    tool = only({**body(pet), "components": {"schemas": schemas}})
    assert tool.inputs.flaws(b"{}", {"body": {"kind": "kitten"}}) == []
    assert tool.inputs.flaws(b"{}", {"body": {"kind": "wolf"}}) != []
    assert input_of(pet, schemas=schemas, **V30)["oneOf"] == made["oneOf"]


@pytest.mark.requirement("openapi:schemas")
def test_recursive_schemas_are_definitions_that_refer_to_themselves() -> None:
    node = {"type": "object", "properties": {"name": {}, "below": {"type": "array", "items": {"$ref": "#/x/Node"}}}}
    made = input_of({"$ref": "#/x/Node"}, x={"Node": node})
    assert made == {
        "$ref": "#/$defs/x_Node",
        "$defs": {
            "x_Node": {
                "type": "object",
                "properties": {"name": {}, "below": {"type": "array", "items": {"$ref": "#/$defs/x_Node"}}},
            }
        },
    }


@pytest.mark.requirement("openapi:schemas")
def test_definitions_whose_names_do_not_fit_get_names_that_do() -> None:
    schemas = {"a b": {"type": "string"}, "a/b": {"type": "integer"}, "ä": {"type": "boolean"}}
    properties = {
        "one": {"$ref": "#/components/schemas/a%20b"},
        "two": {"$ref": "#/components/schemas/a~1b"},
        "three": {"$ref": "#/components/schemas/ä"},
    }
    made = input_of({"type": "object", "properties": properties}, schemas=schemas)
    assert sorted(made["$defs"]) == ["a_1b", "a_b", "schema"]
    types = [made["$defs"][p["$ref"].removeprefix("#/$defs/")]["type"] for p in made["properties"].values()]
    assert types == ["string", "integer", "boolean"]


@pytest.mark.requirement("openapi:schemas")
@pytest.mark.parametrize("key", ["$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef"])
def test_keywords_that_change_what_a_reference_means_are_refused(key: str) -> None:
    problem = problem_of(body({"type": "object", "properties": {"a": {key: "https://elsewhere.example/x"}}}))
    assert problem.where.endswith(f"/properties/a/{key}")


@pytest.mark.requirement("openapi:schemas")
@pytest.mark.parametrize("where", ["document", "schema"])
def test_a_dialect_that_nobody_here_knows_is_refused(where: str) -> None:
    unknown = "https://elsewhere.example/dialect"
    tree = body({"type": "object", "$schema": unknown} if where == "schema" else {})
    if where == "document":
        tree["jsonSchemaDialect"] = unknown
    assert problem_of(tree).message == "is an unknown dialect"


MALFORMED = [
    7,
    {"properties": []},
    {"allOf": {}},
    {"required": True},
    {"type": "strin"},
    {"type": 7},
    {"minimum": "3"},
    {"pattern": 7},
    {"enum": "a"},
    {"items": [{"type": "string"}]},
    {"properties": {"a": "string"}},
    {"required": [["a"]]},
]


@pytest.mark.requirement("openapi:problems")
@pytest.mark.parametrize("schema", MALFORMED, ids=str)
@pytest.mark.parametrize("version", ["3.0.3", "3.1.0"])
def test_a_malformed_schema_costs_its_operation(schema: Any, version: str) -> None:
    assert problem_of({**body(schema), "openapi": version}).fix


# Bounds


def nested(depth: int, innermost: Any = True) -> Any:
    schema = innermost
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.requirement("openapi:bounded")
def test_depth_and_number_of_subschemas_are_bounded() -> None:
    assert input_of(nested(30))
    assert "nested deeper than 32" in problem_of(body(nested(31))).message
    assert input_of({"allOf": [{"maxLength": 9}] * 990})
    assert "more than 1000 subschemas" in problem_of(body({"allOf": [{"maxLength": 9}] * 1000})).message


@pytest.mark.requirement("openapi:bounded")
def test_a_chain_of_references_is_as_long_as_it_likes_and_no_longer_than_the_bound() -> None:
    def chain(length: int) -> dict[str, Any]:
        links = {f"S{i}": {"properties": {"next": {"$ref": f"#/x/S{i + 1}"}}} for i in range(length)}
        return {**body({"$ref": "#/x/S0"}), "x": {**links, f"S{length}": {"type": "string"}}}

    assert len(definition(only(chain(400)))["inputSchema"]["$defs"]) == 401
    assert "more than 1000 subschemas" in problem_of(chain(5000)).message


BOMBS: dict[str, Any] = {
    "doubling": {f"A{i}": {"anyOf": [{"$ref": f"#/x/A{i + 1}"}] * 2} for i in range(30)} | {"A30": {"type": "null"}},
    "itself": {"A0": {"$ref": "#/x/A0"}},
    "itself among others": {"A0": {"anyOf": [{"type": "null"}, {"$ref": "#/x/A0"}]}},
    "in turns": {"A0": {"allOf": [{"$ref": "#/x/A1"}]}, "A1": {"not": {"$ref": "#/x/A0"}}},
    "entangled": {
        f"A{i}": {"anyOf": [{"properties": {"p": {"$ref": f"#/x/A{j}"}}} for j in range(17)]} for i in range(17)
    },
}


@pytest.mark.requirement("openapi:bounded")
@pytest.mark.parametrize("schemas", BOMBS.values(), ids=BOMBS)
def test_a_schema_that_would_be_tried_without_end_is_refused(schemas: Any) -> None:
    started = time.process_time()
    tree = {**body({"$ref": "#/x/A0"}), "x": schemas}
    if schemas is BOMBS["entangled"]:
        # Each level of a value multiplies what is tried: a flat one is checked, a deep one is not.
        tool = only(tree)
        value: Any = 1
        for _ in range(10):
            value = {"p": value}
        raw = json.dumps({"body": value}).encode()
        assert tool.inputs.flaws(b"{}", {"body": {"p": {}}}) == []
        assert "too much to check" in tool.inputs.flaws(raw, {"body": value})[0]
    else:
        assert "schema" in problem_of(tree).message
    assert time.process_time() - started < 5


@pytest.mark.requirement("openapi:bounded")
def test_what_a_value_costs_is_known_before_it_is_checked() -> None:
    alternatives = [{"type": "object", "required": [f"p{i}"]} for i in range(400)]
    checker = Checker({"type": "object", "properties": {"l": {"items": {"anyOf": alternatives}}}}, "")
    short, long = {"l": [{}] * 100}, {"l": [{}] * 5000}
    assert "valid under any" in checker.flaws(json.dumps(short).encode(), short)[0]
    assert "too much to check" in checker.flaws(json.dumps(long).encode(), long)[0]
    assert not checker.accepts(json.dumps(short).encode(), short)
    assert checker.accepts(json.dumps(long).encode(), long)
    started = time.process_time()
    most = {"l": [{}] * (MAX_WORK // 401 - 10)}
    checker.flaws(json.dumps(most).encode(), most)
    assert time.process_time() - started < 2


@pytest.mark.requirement("openapi:bounded")
def test_patterns_take_linear_time_or_are_left_to_the_api() -> None:
    started = time.process_time()
    for pattern in ("^(a+)+$", "^(a|a)*$", "(a*)*b", "^(([a-z])+.)+[A-Z]([a-z])+$"):
        checker = Checker({"type": "object", "properties": {"p": {"type": "string", "pattern": pattern}}}, "")
        assert checker.flaws(b"{}", {"p": "a" * 100_000 + "!"})
    assert time.process_time() - started < 5
    behind = {"pattern": "^(?=.*[0-9]).{8,}$", "type": "string"}
    listed = input_of(behind)
    assert listed == behind  # clients are told
    checker = Checker(
        {"type": "object", "properties": {"p": behind}, "patternProperties": {"^(?!x)": {"type": "string"}}}, ""
    )
    assert checker.flaws(b"{}", {"p": "short", "xy": 1}) == []
    assert checker.flaws(b"{}", {"p": 7}) != []
    assert (
        Checker({"patternProperties": {"(?<a>b)\\k<a>": {}}, "additionalProperties": False}, "").flaws(b"{}", {"bb": 1})
        == []
    )


@pytest.mark.requirement("openapi:bounded")
def test_a_pattern_that_would_fill_the_memory_is_left_to_the_api() -> None:
    checker = Checker({"type": "object", "properties": {"p": {"pattern": "((a{900}){900}){900}"}}}, "")
    assert checker.flaws(b"{}", {"p": "x"}) == []


@pytest.mark.requirement("openapi:validation")
def test_flaws_name_the_property_and_the_rule_and_never_the_value() -> None:
    schema = {
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {"type": "object", "properties": {"b": {"type": "array", "items": {"enum": ["x", "y"]}}}},
            "s": {"type": "string", "pattern": "^[0-9]+$", "maxLength": 5},
        },
        "additionalProperties": False,
    }
    checker = Checker(schema, "")
    value = {"a": {"b": ["x", "hunter2"]}, "s": "hunter2", "c": "hunter2"}
    found = checker.flaws(json.dumps(value).encode(), value)
    assert sorted(flaw.partition(":")[0] for flaw in found) == ["a.b.1", "arguments", "s", "s"]
    assert "hunter2" not in " ".join(found)
    assert any("'c'" in flaw for flaw in found)
    assert checker.flaws(b"{}", {}) == ['arguments: "a" is a required property']
    many = {"a": {"b": ["z"] * 100}}
    assert len(checker.flaws(json.dumps(many).encode(), many)) == 5


@pytest.mark.requirement("openapi:problems")
def test_a_schema_that_cannot_be_compiled_is_unusable() -> None:
    with pytest.raises(Unusable, match="has a schema that is not valid"):
        Checker({"type": "nothing"}, "/here")
