"""What a policy may not contain, and which parts of the input its rules read."""

from __future__ import annotations

import pytest

from mcpgw.errors import InvalidRequest
from mcpgw.policies.finding import Finding
from mcpgw.policies.lint import DECISION, lint
from mcpgw.policies.local import syntax
from mcpgw.policies.tree import Policy
from tests.policies.parts import ALLOW, PACKAGE, bundle

RULE = f"decision := {ALLOW} if "


def findings(rules: str, **files: str) -> list[Finding]:
    return lint(Policy(syntax(bundle(rules, **files).modules)))


def test_a_finding_names_file_line_and_fix() -> None:
    (finding,) = findings(f"{RULE}{{\n\tinput.x\n\ttime.now_ns() > 5\n}}\n")
    assert finding == Finding(
        "policy.rego",
        5,
        "the built-in `time.now_ns` is not available",
        "use `input.context.time` (nanoseconds since 1970)",
    )


@pytest.mark.requirement("policy:lint-built-ins")
@pytest.mark.parametrize(
    "call",
    [
        'http.send({"method": "get", "url": "http://127.0.0.1"})',
        "opa.runtime()",
        'rand.intn("x", 10)',
        'net.lookup_ip_addr("localhost")',
        'io.jwt.decode("a.b.c")',
        'crypto.sha256("x")',
        "time.now_ns()",
        'uuid.rfc4122("x")',
        "numbers.range(1, input.n)",
        "walk(input)",
        'print("x")',
        'trace("x")',
        "json.marshal(input)",
        'upper("x")',
        "not_a_function(1)",
    ],
)
def test_a_built_in_outside_the_list_is_refused(call: str) -> None:
    assert [f.line for f in findings(f"{RULE}{call}") if "is not available" in f.message] == [3]


@pytest.mark.requirement("policy:lint-built-ins")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("regex.match(input.pattern, input.x)", "argument 1 of `regex.match` must be a literal"),
        ('glob.match("a*", [input.delimiter], input.x)', "argument 2 of `glob.match` must be a literal"),
        ('replace(input.x, "a", input.y)', "argument 3 of `replace` must be a literal"),
        ("concat(input.delimiter, input.x)", "argument 1 of `concat` must be a literal"),
        ("sprintf(input.format, [1])", "argument 1 of `sprintf` must be a literal"),
        ('sprintf("%999999999d", [1]) == ""', "`sprintf` takes only %v"),
        ('sprintf("%v %v", [1]) == ""', "`sprintf` takes only %v"),
        ('sprintf("%v", input.values) == ""', "`sprintf` takes only %v"),
        ("startswith(input.x)", "`startswith` takes 2 arguments"),
        ('startswith(input.x, "a", out)', "`startswith` takes 2 arguments"),
    ],
)
def test_a_call_that_could_be_arbitrarily_dear_or_silently_wrong_is_refused(call: str, message: str) -> None:
    assert any(f.message.startswith(message) for f in findings(f"{RULE}{call}"))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("allow := true", "no rule data.mcpgw.authz.decision"),
        ("decision contains 1 if input.x", "`decision` must have one value"),
        ("decision(x) := x", "`decision` must have one value"),
        (f"{RULE}a.b\na.b := true", "`b` has a name of several parts"),
        (f"{RULE}p.a.y\np[x].y := 1 if some x in input.l", "`p` has a name of several parts"),
        (f"{RULE}f(1)\ndefault f(_) := false\nf(x) if x == 2", "a function cannot have a default here"),
        (f"default decision := {{x | x := 1}}\n{RULE}true", "a default must be a constant"),
        (f"{RULE}{{ false }} {{ true }}", "a rule with several bodies in a row"),
        (f"{RULE}f(input.x)\nf(input) if input == 1", "an argument cannot be called `input`"),
        (f"{RULE}f(1, 2)\nf(x) if x == 2", "`data.mcpgw.authz.f` takes 1 arguments"),
        (f"{RULE}r(1)\nr := 1", "no function `data.mcpgw.authz.r`"),
        (f"{RULE}{{ r with input as {{}} }}\nr if input.x", "`with` works in tests only"),
    ],
)
def test_rego_that_the_engines_read_differently_is_refused(rules: str, message: str) -> None:
    assert any(message in f.message for f in findings(rules)), findings(rules)


@pytest.mark.requirement("policy:lint-recursion")
@pytest.mark.parametrize(
    "rules",
    [
        "decision := decision",
        f"{RULE}a\na if b\nb if a",
        f"{RULE}f(1)\nf(x) if f(x)",
        "decision := data.mcpgw.authz[input.x]",
        "decision := data.mcpgw",
        f"import data.mcpgw.authz as me\n{RULE}me.decision",
        f"import data.lib\n{RULE}lib.a",
    ],
)
def test_a_rule_that_leads_back_to_itself_is_refused(rules: str) -> None:
    lib = "package lib\n\na if data.mcpgw.authz.decision\n"
    assert any("leads back to itself" in f.message for f in findings(rules, **{"lib.rego": lib}))


NEGATED = f"{RULE}{{\n\tx := input.x\n\tnot %s\n}}\n\n"


@pytest.mark.requirement("policy:lint-negation")
@pytest.mark.parametrize(
    ("negated", "rules", "why"),
    [
        ('net.cidr_contains("10.0.0.0/8", x)', "", "`net.cidr_contains` can fail"),
        ('startswith(x, "a")', "", "`startswith` can fail"),
        ("x + 1 == 2", "", "an operator can fail"),
        ("r", 'r if net.cidr_contains("10.0.0.0/8", input.ip)', "`net.cidr_contains` can fail (in `r`, policy.rego:8)"),
        ("r", 'r if s\n\ns if startswith(input.x, "a")', "`startswith` can fail (in `s`, policy.rego:10)"),
        ("f(x)", 'f(y) if startswith(y, "a")', "`startswith` can fail (in `f`"),
        ("s.a", 's contains y if { some y in input.l; startswith(y, "a") }', "`startswith` can fail (in `s`"),
        ("data.lib.r", "", "`lower` can fail (in `r`, lib.rego:3)"),
        ("data.lib[x]", "", "`lower` can fail (in `r`, lib.rego:3)"),
        ("r", "r := 1 if input.a\n\nr := 2 if input.b", "`r` may have two values (policy.rego:8)"),
        ("r", "r := y if some y in input.l", "`r` may have two values"),
        ("r", "r := input.l[_]", "`r` may have two values"),
        ("r", "r := input.l[i] if input.m[i]", "`r` may have two values"),
        ("f(x)", "f(1) := 1\n\nf(y) := 2 if y > 0", "`f` may have two values"),
        ("f(x)", "f(y) := y.z if true else := true", "`f` may have two values"),
        ("o.k", "o[k] := v if some k, v in input.l", "`o` may have two values"),
        ("r", 'r := {k: 1 | some k in input.l}["a"]', "an object comprehension can have two values"),
        ("s", "s if r\n\nr := 1 if input.a\n\nr := 2 if input.b", "`r` may have two values"),
    ],
)
def test_what_can_fail_or_have_two_values_is_refused_below_not_however_far(negated: str, rules: str, why: str) -> None:
    lib = 'package lib\n\nr if lower(input.x) == "a"\n'
    found = findings(NEGATED % negated + rules, **{"lib.rego": lib})
    assert [(f.file, f.line) for f in found if why in f.message] == [("policy.rego", 5)], found


@pytest.mark.requirement("policy:lint-negation")
@pytest.mark.parametrize(
    "negated",
    [
        '"a" in input.arguments.list',
        "is_string(input.arguments.x)",
        "f(input.arguments.x)",
        "s[input.arguments.x]",
        "input.arguments[input.arguments.x]",
        "input.arguments.x != 1",
        "[input.arguments.x] == [1]",
        '{"a": input.arguments.x}',
        "input.principal.claims.x in {1}",
        "r in {1}",
        "y := input.x",
        "input.l[_]",
        "input.l[i]",
    ],
)
def test_what_may_be_undefined_inside_a_negated_expression_is_refused(negated: str) -> None:
    rules = "f(a) if a == 1\n\ns contains 3\n\nr := input.r\n"
    found = findings(NEGATED % negated + rules)
    assert [f.line for f in found if "may be undefined" in f.message] == [5], found


@pytest.mark.parametrize(
    "negated",
    [
        "input.arguments.x",
        "input.arguments.x == 1",
        "input.arguments.x == input.arguments.y",
        "x.y",
        "x == 1",
        'x in {"a"}',
        '"agent" in input.principal.roles',
        "is_string(x)",
        "f(x)",
        "s[x]",
        "x in s",
        "r",
        "r == 1",
        "one",
        "chosen",
        "data.names[x]",
        "every_one",
    ],
)
def test_what_cannot_mislead_may_stand_below_not(negated: str) -> None:
    rules = """f(a) if a == 1

f(a) if a == 2

s contains y if some y in input.l

default r := false

r if input.a

r if input.b

one := input.one

chosen := 1 if { input.a } else := 2 if { input.b }

every_one if {
	every y in input.l {
		y in s
	}
}
"""
    assert findings(NEGATED % negated + rules) == []


@pytest.mark.requirement("policy:memo")
@pytest.mark.parametrize(
    ("rules", "reads"),
    [
        (f"decision := {ALLOW}", set()),
        (f'{RULE}input.tool.name == "x"', {("tool", "name")}),
        (f'{RULE}input["tool"].name == "x"', {("tool", "name")}),
        (f"{RULE}input.principal.roles[_] == 1", {("principal", "roles")}),
        (f"{RULE}input.arguments[input.phase]", {("arguments",), ("phase",)}),
        (f"{RULE}input[x]\nx := input.phase", {(), ("phase",)}),
        (f"{RULE}f(input)\nf(i) if i.arguments", {()}),
        (f'{RULE}{{ some k, v in input; k == "arguments"; v }}', {()}),
        (f"{RULE}used\nused if input.tool\nunused if input.arguments", {("tool",)}),
        (f"{RULE}data.mcpgw.lib.r", {("verb",), ("usage", "calls_1m")}),
        (f"{RULE}data.mcpgw.lib[input.phase]", {("phase",), ("verb",), ("usage", "calls_1m")}),
        (f"import input.principal as who\n{RULE}who.team", {("principal", "team")}),
        (
            f"{RULE}{{ every r in input.principal.roles {{ r in s }} }}\ns contains input.x",
            {("principal", "roles"), ("x",)},
        ),
        ('decision := {"effect": "deny", "reasons": [input.tool.name]}', {("tool", "name")}),
        (f"{RULE}false\ndecision := {{}} if false else := input.context", {("context",)}),
        (f"{RULE}o.k\no[input.arguments.k] := 1 if true", {("arguments", "k")}),
    ],
)
def test_the_parts_of_the_input_that_a_decision_may_rest_on_are_known(rules: str, reads: set[tuple[str, ...]]) -> None:
    lib = "package mcpgw.lib\n\nr if input.verb\n\nr if input.usage.calls_1m > 3\n"
    policy = Policy(syntax(bundle(rules, **{"lib.rego": lib}).modules))
    assert policy.reads(DECISION) == reads


@pytest.mark.requirement("policy:lint-syntax")
@pytest.mark.parametrize(
    "rules",
    [
        "decision = 1 { true }",
        "decision := ",
        "decision := x if y > 1 {",
        'decision := $"{input.x}"',
        "decision := 'x'",
    ],
)
def test_what_is_not_rego_v1_is_refused_with_file_and_line(rules: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        findings(rules)
    (found,) = refused.value.data["findings"]
    assert found["file"] == "policy.rego"
    assert found["line"] >= 3
    assert "backtrace" not in str(refused.value)


@pytest.mark.requirement("policy:lint-syntax")
def test_brackets_are_counted_before_the_parser_sees_them() -> None:
    deep = "decision := " + "[\n" * 40 + "1" + "]" * 40
    with pytest.raises(InvalidRequest, match="nested more than 12 deep"):
        findings(deep)
    quoted = 'decision := "[[[[[[[[[[[[[[[[" # ((((((((((((((((\n\nraw := `{{{{{{{{{{{{{{{{`'
    assert findings(quoted) == []


def test_a_decision_of_another_package_is_none() -> None:
    (found,) = findings("", **{"policy.rego": f"# {PACKAGE}package other\n\ndecision := {ALLOW}"})
    assert found.message == "no rule data.mcpgw.authz.decision"
