"""What may not stand below a `not`: what can fail, what can have two values, and what may be missing.

The engines turn a failed built-in into "undefined", and `not` turns undefined into true: `not net.cidr_contains(…)` on
rubbish would allow. And where a value inside the negated expression is missing, OPA gives up the whole rule, while this
engine finds the expression false, and so the `not` true.
"""

from __future__ import annotations

from collections.abc import Iterator

from mcpgw.policies.finding import Finding
from mcpgw.policies.tree import (
    COMPREHENSIONS,
    LITERALS,
    REFERENCES,
    Node,
    Path,
    Policy,
    Reference,
    Rule,
    chain,
    constant,
    expressions,
    spelled,
    text,
)
from mcpgw.policies.vocabulary import ALLOWED

# The parts of `input` that every document has: naming them is never undefined.
ALWAYS_THERE = frozenset(
    {("version",), ("phase",), ("principal",)}
    | {("principal", name) for name in ("issuer", "subject", "client_id", "team", "roles", "scopes", "actors")}
    | {("principal", name) for name in ("kind", "claims")}
)


class Negations:
    """The `not` expressions of a policy in which nothing leads back to itself."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._unsafe: dict[Path, str | None] = {}

    def findings(self) -> Iterator[Finding]:
        for rule in self._policy.rules:
            bound = _bound(rule)
            for kind, body in expressions(rule.parts):
                if kind == "NotExpr":
                    yield from self._findings(rule, body["span"]["line"], body["expr"], bound)

    def _findings(self, rule: Rule, line: int, negated: Node, bound: set[str]) -> Iterator[Finding]:
        missing = Operand(self._policy, rule, bound).may_be_missing(negated)
        if missing is not None:
            yield Finding(
                rule.module.file,
                line,
                f"{missing} below `not` may be undefined, where OPA and this engine differ",
                "put it into a rule of its own, `r if { … }`, and write `not r`",
            )
        why = _fallible(self._policy, rule, [negated]) or self._further(rule, negated)
        if why is not None:
            fix = "give it a rule, `r := …`, and write `r == false`: what fails then denies"
            yield Finding(rule.module.file, line, f"below `not`, {why}", fix)

    def _further(self, rule: Rule, negated: Node) -> str | None:
        """Say what is wrong with any rule that the negated expression leads to."""
        for kind, body in expressions(negated):
            if kind not in REFERENCES and kind != "Call":
                continue
            target = self._policy.reference(rule, body["fcn"] if kind == "Call" else {kind: body})
            if target is None or target.root != "data":
                continue
            for first in sorted(self._policy.related(target.steps)):
                for path in sorted(self._policy.reachable(first)):
                    if path not in self._unsafe:
                        self._unsafe[path] = _unsafe(self._policy, path)
                    if self._unsafe[path] is not None:
                        return self._unsafe[path]
        return None


class Operand:
    """What may be undefined in an expression of a rule, given the variables that the rule has given a value."""

    def __init__(self, policy: Policy, rule: Rule, bound: set[str]) -> None:
        self._policy = policy
        self._rule = rule
        self._bound = bound

    def may_be_missing(self, node: Node) -> str | None:
        """Name what may be undefined below this `not` in a place where the engines differ, or return None."""
        (kind, body), *_ = node.items()
        if kind in REFERENCES:
            return self._indices_missing(node)
        if kind in {"BoolExpr", "AssignExpr"} and body["op"] == "Eq":
            sides = (body["lhs"], body["rhs"])
            return next((m for side in sides if (m := self._side_missing(side)) is not None), None)
        if kind == "Call":
            return self._any_missing(body["params"])
        if kind == "AssignExpr":
            return "an assignment"
        return self._operand_missing(node, top=True)

    def _side_missing(self, node: Node) -> str | None:
        return self._indices_missing(node) if next(iter(node)) in REFERENCES else self._operand_missing(node)

    def _indices_missing(self, node: Node) -> str | None:
        base, steps = chain(node)
        if base is None:
            return "an expression"
        return self._any_missing([step for step in steps if not isinstance(step, str)])

    def _any_missing(self, nodes: list[Node]) -> str | None:
        return next((m for node in nodes if (m := self._operand_missing(node)) is not None), None)

    def _operand_missing(self, node: Node, *, top: bool = False) -> str | None:
        """As `may_be_missing`, of a value that stands inside another expression."""
        (kind, body), *_ = node.items()
        if kind in LITERALS or kind in COMPREHENSIONS:
            return None
        if kind in REFERENCES:
            found = self._policy.reference(self._rule, node)
            return None if found is not None and self._surely_defined(found) else f"`{found}`" if found else "a value"
        if kind in {"Array", "Set"}:
            return self._any_missing(body["items"])
        if kind == "Object":
            return self._any_missing([part for _, key, value in body["fields"] for part in (key, value)])
        if kind == "Membership" and top:
            return self._any_missing([body["value"], body["collection"], *([body["key"]] if body["key"] else [])])
        if kind == "BoolExpr" and top:
            return self._any_missing([body["lhs"], body["rhs"]])
        return "an expression"

    def _surely_defined(self, found: Reference) -> bool:
        if found.root == "input":
            return found.complete and found.steps in ALWAYS_THERE
        if found.root == "local":
            return found.complete and len(found.steps) == 1 and found.steps[0] in self._bound
        rules = self._policy.by_path.get(found.steps, [])
        return found.complete and bool(rules) and all(rule.form in {"set", "object"} for rule in rules)


def _unsafe(policy: Policy, path: Path) -> str | None:
    """Say why the rule of this path may not stand below a `not`, or return None."""
    rules = policy.by_path[path]
    for rule in rules:
        why = _fallible(policy, rule, rule.parts)
        if why is not None:
            return f"{why} (in `{rule.name}`, {rule.module.file}:{rule.line})"
    if _may_have_two_values(policy, rules):
        return f"`{rules[0].name}` may have two values ({rules[0].module.file}:{rules[0].line})"
    return None


def _fallible(policy: Policy, rule: Rule, parts: list[Node]) -> str | None:
    for kind, body in expressions(parts):
        if kind == "Call":
            target = policy.reference(rule, body["fcn"])
            name = spelled(body["fcn"])
            if (target is None or target.root == "local") and not (name in ALLOWED and ALLOWED[name].total):
                return f"`{name}` can fail"
        elif kind in {"ArithExpr", "BinExpr", "UnaryExpr"}:
            return "an operator can fail on values of another type"
        elif kind == "ObjectCompr":
            return "an object comprehension can have two values for one key"
    return None


def _may_have_two_values(policy: Policy, rules: list[Rule]) -> bool:
    defined = [rule for rule in rules if rule.form != "default"]
    if all(rule.form == "set" for rule in defined):
        return False
    if any(rule.form == "object" for rule in defined):
        return True
    values = [value for rule in defined for value in _values(rule)]
    constants = all(constant(value) for value in values)
    if constants and len({_canonical(value) for value in values}) <= 1:
        return False
    # An `else` after a value that is undefined is taken by OPA, and not by this engine where a function has it.
    if len(defined) > 1 or (len(values) > 1 and not constants):
        return True
    return _iterates(policy, defined[0])


def _values(rule: Rule) -> list[Node]:
    """Return the value of the rule's head and of each of its `else`; without one it is `true`."""
    own = [rule.head.get("assign"), *(body["assign"] for body in rule.bodies if body["is_else"])]
    return [assign["value"] if assign else {"Bool": {"value": True}} for assign in own]


def _iterates(policy: Policy, rule: Rule) -> bool:
    """Whether a body can succeed in more than one way: once for each element of something."""
    single = _assigned(rule)
    for kind, body in expressions(rule.parts, COMPREHENSIONS | {"Every"}):
        if kind in {"SomeIn", "SomeVars"}:
            return True
        if kind == "RefBrack":
            for step in chain({kind: body})[1]:
                if not isinstance(step, str) and "Var" in step:
                    found = policy.reference(rule, step)
                    if found is not None and found.root == "local" and found.steps[0] not in single:
                        return True
    return False


def _assigned(rule: Rule) -> set[str]:
    """Return the variables that have exactly one value in a body: arguments, and what `:=` gives a value."""
    names = _variables(rule.head.get("args") or [])
    for kind, body in expressions(rule.parts):
        if kind == "AssignExpr" and body["op"] == "ColEq":
            names |= _variables(body["lhs"])
    return names


def _bound(rule: Rule) -> set[str]:
    """Return the variables that the rule gives a value to, outside its `not` expressions."""
    names = _assigned(rule)
    for kind, body in expressions(rule.parts, frozenset({"NotExpr"})):
        if kind == "SomeIn":
            names |= _variables([body["key"], body["value"]])
        elif kind == "SomeVars":
            names |= {text(rule.module.source, span) for span in body["vars"]}
        elif kind == "Every":
            names |= {text(rule.module.source, span) for span in (body["key"], body["value"]) if span}
        elif kind == "AssignExpr":
            names |= _variables(body["lhs"]) | _variables(body["rhs"])
        elif kind == "RefBrack":
            names |= _variables([step for step in chain({kind: body})[1] if not isinstance(step, str)])
    return names - {"_"}


def _variables(node: Node) -> set[str]:
    return {str(body["value"]) for kind, body in expressions(node) if kind == "Var"}


def _canonical(node: Node) -> str:
    """Write a constant without its place in the source, so that equal constants are equal text."""
    (kind, body), *_ = node.items()
    if kind in {"Array", "Set"}:
        return f"{kind}({','.join(_canonical(item) for item in body['items'])})"
    if kind == "Object":
        return f"{{{','.join(f'{_canonical(key)}:{_canonical(value)}' for _, key, value in body['fields'])}}}"
    return f"{body['value']!r}"
