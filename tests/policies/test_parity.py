"""The same files give the same answers here and in OPA."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from mcpgw.domain import Effect
from mcpgw.policies import output
from mcpgw.policies.bundle import Bundle
from mcpgw.policies.local import LocalEngine, compiled
from mcpgw.policies.testing import vectors_of
from mcpgw.policies.vocabulary import ALLOWED
from tests.policies.parts import ALLOW, DENY, EXAMPLE, MAX_INPUT_BYTES, UNDEFINED, Oracle, bundle, embedded

VECTORS = vectors_of(EXAMPLE.with_name("example.vectors.json"))


@pytest.mark.requirement("policy:parity")
@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v.name)
def test_program_interpreter_and_opa_agree_on_every_vector(vector: Any, oracle: Oracle) -> None:
    example = Bundle.own("example")
    program, interpreter = embedded(example, vector.input)
    assert program == interpreter == oracle.answer(example, vector.input)
    decision = output.shown(output.read(interpreter, example.sha256))
    assert (decision["effect"], decision["reasons"]) == (vector.expect.effect, vector.expect.reasons)


def idioms() -> list[tuple[str, list[str]]]:
    """Return what people write, with the documents that part the cases."""
    text = Path(__file__).with_name("idioms.txt").read_text().replace("ALLOW", ALLOW).replace("DENY", DENY)
    blocks = [block.splitlines() for block in text.split("---\n")]
    return [
        ("\n".join(x for x in lines if not x.startswith(">")), [x[1:] for x in lines if x.startswith(">")])
        for lines in blocks
    ]


DATA = '{"docs": {"a": {"secret": true}, "b": {}}, "roles": {"r": ["t"]}}'


@pytest.mark.requirement("policy:parity")
@pytest.mark.parametrize(("rules", "documents"), idioms())
def test_the_gateway_allows_exactly_what_opa_allows(rules: str, documents: list[str], oracle: Oracle) -> None:
    source = bundle(rules, **{"data.json": DATA})
    policy = LocalEngine(compiled(source, MAX_INPUT_BYTES))
    effects = set()
    for document in documents:
        decision = policy.evaluate(document.encode())
        expected = output.read(oracle.answer(source, json.loads(document)), source.sha256)
        if expected.reasons[0].startswith("engine:"):
            assert decision.effect is Effect.DENY, document
        else:
            assert decision == expected, document
        effects.add(decision.effect)
    assert effects == {Effect.ALLOW, Effect.DENY}


VALUES = json.loads("""
[null, true, false, 0, 1, -1, 1.5, 9007199254740993, 9223372036854775808, 1577836800000000000, "", "a", "abc", "A,b,c",
"é", "10.0.0.0/8", "10.1.2.3", "10.1.2.3/33", "::1", "1.2.0", "1.10.0-rc.1", "2020-01-01T00:00:00Z", "1h30m", "YQ==",
"2020-13-01T00:00:00Z", "YQ", "[1,", "/srv/data/x", [], ["a", "b"], ["b", "a"], [1, 2, 3], [[1], [2]], [1, "a", null],
{}, {"a": 1}, {"b": 2, "a": {"c": 3}}, {"a": ["b"], "b": []}]
""")
PATTERNS = {
    "regex.match": ["`^a`", "`(?i)ABC`", "`[`", "`^/srv/`"],
    "glob.match": ['"*"', '"/srv/*"', '"/srv/**"', '"{a,abc}"', '"[a-c]*"'],
    "concat": ['","'],
    "format_int": ["10", "16"],
    "replace": ['"x"', '""'],
    "sprintf": ['"%v"'],
}
# Of some arguments these say false, or more, in OPA, and fail in the interpreter, which denies.
STRICTER = {"base64.is_valid", "json.is_valid", "net.cidr_is_valid", "semver.is_valid", "time.parse_duration_ns"}


def arguments(name: str) -> list[tuple[Any, ...]]:
    """Return some argument lists for a built-in, the same ones each time; what must be a literal, as Rego."""
    pools: list[list[Any]] = []
    for position in range(ALLOWED[name].arity):
        literal = position in ALLOWED[name].literal
        delimiters = ["[]", '["/"]', "null"] if name == "glob.match" and position == 1 else PATTERNS.get(name, [])
        pools.append(delimiters if literal else VALUES)
    every = list(itertools.product(*pools))
    return random.Random(name).sample(every, min(len(every), 20))


@pytest.mark.requirement("policy:parity")
@pytest.mark.parametrize("name", list(ALLOWED))
def test_a_built_in_of_the_list_answers_as_it_does_in_opa(name: str, oracle: Oracle) -> None:
    literal = ALLOWED[name].literal
    for given in arguments(name):
        # As parts of the input, of which OPA knows no type: it is the evaluation that is compared.
        written = [value if i in literal else f"input.values[{i}]" for i, value in enumerate(given)]
        if name == "sprintf":
            written[1] = f"[{written[1]}]"
        source = bundle(f"decision := {name}({', '.join(written)})\n")
        document = {"values": given}
        program, interpreter = embedded(source, document)
        if name in STRICTER and interpreter == UNDEFINED:
            continue
        assert program == interpreter == oracle.answer(source, document), given
