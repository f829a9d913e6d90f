"""What a policy may not contain, because the engines would not survive it, or answer it differently."""

from __future__ import annotations

import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from mcpgw.policies.bundle import ENTRY_POINT, PACKAGE
from mcpgw.policies.finding import Finding
from mcpgw.policies.negation import Negations
from mcpgw.policies.tree import Node, Path, Policy, Rule, constant, expressions, spelled
from mcpgw.policies.vocabulary import ALLOWED, INSTEAD

DECISION: Path = (*PACKAGE, "decision")
MAX_NESTING = 12
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"|`[^`]*`|#[^\n]*')
_BRACKETS = re.compile(r"[\[\](){}]")


def nesting(file: str, source: str) -> Iterator[Finding]:
    """Find what must not even be parsed: the engine's parser takes twice the time for each level of brackets."""
    plain = _QUOTED.sub(lambda quoted: "\n" * quoted[0].count("\n"), source)
    for number, line in enumerate(_deepest(plain), start=1):
        if line > MAX_NESTING:
            yield Finding(file, number, f"brackets are nested more than {MAX_NESTING} deep", "split the expression")
            return


def lint(policy: Policy) -> list[Finding]:
    """Return everything for which these modules are refused, in the order of files and lines."""
    found = [*_entry_point(policy)]
    for rule in policy.rules:
        found += [*_heads(rule), *_calls(policy, rule), *_modifiers(rule)]
    round_about = cycles(policy)
    # What is below a `not` can only be followed where nothing leads back to itself.
    found += round_about or Negations(policy).findings()
    return sorted(set(found), key=lambda f: (f.file, f.line, f.message))


def cycles(policy: Policy) -> list[Finding]:
    """Return a rule that leads back to itself: the engine does not survive evaluating one."""
    try:
        TopologicalSorter({path: policy.uses(path) for path in policy.by_path}).prepare()
    except CycleError as error:
        path, *_ = error.args[1]
        rule = policy.by_path[path][0]
        fix = "name the rules that you mean, one way"
        return [_at(rule, rule.line, f"`{rule.name}` leads back to itself", fix)]
    return []


def _deepest(plain: str) -> Iterator[int]:
    depth = 0
    for line in plain.split("\n"):
        deepest = depth
        for bracket in _BRACKETS.findall(line):
            depth += 1 if bracket in "[({" else -1
            deepest = max(deepest, depth)
        yield deepest


def _at(rule: Rule, line: int, message: str, fix: str) -> Finding:
    return Finding(rule.module.file, line, message, fix)


def _entry_point(policy: Policy) -> Iterator[Finding]:
    if DECISION not in policy.by_path:
        where = policy.rules[0].module.file if policy.rules else "policy"
        yield Finding(
            where, 0, f"no rule {ENTRY_POINT}", f"start a file with `package {'.'.join(PACKAGE)}` and define `decision`"
        )
    for rule in policy.by_path.get(DECISION, ()):
        if rule.form not in {"value", "default"}:
            yield _at(rule, rule.line, "`decision` must have one value", "write `decision := {…} if { … }`")


def _heads(rule: Rule) -> Iterator[Finding]:
    refr = rule.head["refr"]
    keyed = rule.form == "object" and "Var" in refr.get("RefBrack", {}).get("refr", {})
    if "Var" not in refr and not keyed:
        yield _at(rule, rule.line, f"`{rule.name}` has a name of several parts", "give the rule a name of one word")
    if rule.form == "default" and rule.arity:
        yield _at(rule, rule.line, "a function cannot have a default here", "define it for the other case as well")
    if rule.form == "default" and not constant(rule.head["value"]):
        yield _at(rule, rule.line, "a default must be a constant", "write the value out")
    if sum(not body["is_else"] for body in rule.bodies) > 1:
        yield _at(rule, rule.line, "a rule with several bodies in a row", "write the rule once for each body")
    names = {str(b["value"]) for kind, b in expressions(rule.head.get("args") or []) if kind == "Var"}
    for name in sorted(names & {"input", "data"}):
        yield _at(rule, rule.line, f"an argument cannot be called `{name}`", "rename it")


def _modifiers(rule: Rule) -> Iterator[Finding]:
    left: list[Node] = list(rule.bodies)
    while left:
        node = left.pop()
        if isinstance(node, dict):
            if node.get("with_mods"):
                yield _at(rule, node["span"]["line"], "`with` works in tests only", "pass the value to a function")
            left.extend(node.values())
        elif isinstance(node, list):
            left.extend(node)


def _calls(policy: Policy, rule: Rule) -> Iterator[Finding]:
    for kind, call in expressions(rule.parts):
        if kind != "Call":
            continue
        line, given = call["span"]["line"], len(call["params"])
        target = policy.reference(rule, call["fcn"])
        if target is not None and target.root == "data":
            functions = [r for r in policy.by_path.get(target.steps, ()) if r.form == "function"]
            if not functions:
                yield _at(rule, line, f"no function `{target}`", "define it, or correct the name")
            elif any(function.arity != given for function in functions):
                yield _at(rule, line, f"`{target}` takes {functions[0].arity} arguments", f"it is given {given}")
            continue
        yield from _built_in(rule, call, spelled(call["fcn"]))


def _built_in(rule: Rule, call: Node, name: str) -> Iterator[Finding]:
    line, params = call["span"]["line"], call["params"]
    known = ALLOWED.get(name)
    if known is None:
        fix = INSTEAD.get(name, f"available are {', '.join(ALLOWED)}")
        yield _at(rule, line, f"the built-in `{name}` is not available", fix)
        return
    if len(params) != known.arity:
        yield _at(rule, line, f"`{name}` takes {known.arity} arguments", f"it is given {len(params)}")
        return
    for position in known.literal:
        if not constant(params[position]):
            yield _at(
                rule, line, f"argument {position + 1} of `{name}` must be a literal", "write it out in the policy"
            )
            return
    if name == "sprintf":
        given = params[1].get("Array", {}).get("items")
        verbs = re.findall(r"%(.?)", str(next(iter(params[0].values())).get("value")).replace("%%", ""))
        if given is None or set(verbs) - {"v"} or len(verbs) != len(given):
            yield _at(rule, line, "`sprintf` takes only %v, one for each value", 'write sprintf("%v of %v", [a, b])')
