"""Rego as rules and references: what the lint and the memo reason about, over the engine's syntax tree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

Node = Any
"""A piece of the engine's syntax tree: nested JSON, in which an expression is `{kind: {...}}`."""
Path = tuple[str, ...]
"""A name below `data` (`("mcpgw", "authz", "decision")`) or below `input`."""

REFERENCES = frozenset({"Var", "RefDot", "RefBrack"})
LITERALS = frozenset({"String", "RawString", "Number", "Bool", "Null"})
COMPREHENSIONS = frozenset({"ArrayCompr", "SetCompr", "ObjectCompr"})
_YIELDED = (
    REFERENCES
    | COMPREHENSIONS
    | {"Call", "AssignExpr", "ArithExpr", "BinExpr", "UnaryExpr", "NotExpr", "SomeIn", "SomeVars", "Every"}
)


@dataclass(frozen=True, slots=True)
class Reference:
    """What an expression names. `steps` are those known without evaluating; `complete` says whether these are all.

    `root` is "input", "data" or "local" (a variable of the rule, which is then the first step).
    """

    root: str
    steps: Path
    complete: bool
    line: int

    def __str__(self) -> str:
        return ".".join(self.steps if self.root == "local" else (self.root, *self.steps))


@dataclass(frozen=True, slots=True)
class Module:
    """One file. `imports` are the paths that a first name stands for, with their root in front."""

    file: str
    package: Path
    imports: Mapping[str, Path]
    source: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One definition. `form` is "value", "set", "object", "function" or "default"."""

    module: Module
    path: Path
    form: str
    arity: int
    line: int
    head: Node
    bodies: tuple[Node, ...]

    @property
    def name(self) -> str:
        return self.path[-1]

    @property
    def parts(self) -> list[Node]:
        """Everything that is evaluated: keys, values, arguments and bodies; not the rule's own name."""
        refr = self.head.get("refr", {})
        key = [refr["RefBrack"]["index"]] if "RefBrack" in refr else []
        return [*key, *(self.head.get(part) for part in ("key", "value", "assign", "args")), *self.bodies]


class Policy:
    """All rules of a bundle, by path."""

    def __init__(self, trees: Iterable[Node]) -> None:
        self.rules: list[Rule] = [rule for tree in trees for rule in _rules(tree)]
        self.by_path: dict[Path, list[Rule]] = {}
        for rule in self.rules:
            self.by_path.setdefault(rule.path, []).append(rule)
        self._below: dict[Path, set[Path]] = {}
        for path in self.by_path:
            for length in range(len(path)):
                self._below.setdefault(path[:length], set()).add(path)
        self._uses: dict[Path, set[Path]] = {}

    def reference(self, rule: Rule, node: Node) -> Reference | None:
        """Return what a node of this rule names, or None when it is no plain reference."""
        base, steps = chain(node)
        if base is None:
            return None
        first, line = str(base["value"]), base["span"]["line"]
        known: list[str] = []
        for step in steps:
            if not isinstance(step, str):
                break
            known.append(step)
        complete = len(known) == len(steps)
        if first in rule.module.imports:
            root, *path = rule.module.imports[first]
            return Reference(root, (*path, *known), complete, line)
        if first in {"input", "data"}:
            return Reference(first, tuple(known), complete, line)
        if (*rule.module.package, first) in self.by_path:
            return Reference("data", (*rule.module.package, first, *known), complete, line)
        return Reference("local", (first, *known), complete, line)

    def references(self, rule: Rule) -> Iterator[Reference]:
        """Yield everything outside the rule that it names: rules, functions, data and input."""
        for kind, body in expressions(rule.parts):
            if kind in REFERENCES or kind == "Call":
                found = self.reference(rule, body["fcn"] if kind == "Call" else {kind: body})
                if found is not None and found.root != "local":
                    yield found

    def related(self, path: Path) -> set[Path]:
        """Return the rules that a path below `data` may touch: those inside it, and those that it leads into."""
        leading = {path[:length] for length in range(len(path) + 1)} & self.by_path.keys()
        return leading | self._below.get(path, set())

    def uses(self, path: Path) -> set[Path]:
        """Return the rules that the rule of this path names."""
        if path not in self._uses:
            named = (r for rule in self.by_path[path] for r in self.references(rule) if r.root == "data")
            self._uses[path] = {used for reference in named for used in self.related(reference.steps)}
        return self._uses[path]

    def reachable(self, path: Path) -> set[Path]:
        """Return the rules that an evaluation of this one may touch, itself among them."""
        return self.reachable_from({path} & self.by_path.keys())

    def reachable_from(self, paths: Set[Path]) -> set[Path]:
        found: set[Path] = set()
        left = list(paths)
        while left:
            now = left.pop()
            if now not in found:
                found.add(now)
                left.extend(self.uses(now))
        return found

    def reads(self, path: Path) -> frozenset[Path]:
        """Return which parts of `input` an evaluation of this rule may read; `()` is the whole of it."""
        return frozenset(
            reference.steps
            for used in self.reachable(path)
            for rule in self.by_path[used]
            for reference in self.references(rule)
            if reference.root == "input"
        )


def chain(node: Node) -> tuple[Node | None, list[Any]]:
    """Split `a.b["c"][d]` into its first variable and its steps (`d` as a node); no variable: (None, steps)."""
    steps: list[Any] = []
    while True:
        if "RefDot" in node:
            steps.append(node["RefDot"]["field"][1])
            node = node["RefDot"]["refr"]
        elif "RefBrack" in node:
            index = node["RefBrack"]["index"]
            steps.append(index["String"]["value"] if "String" in index else index)
            node = node["RefBrack"]["refr"]
        else:
            return node.get("Var"), steps[::-1]


def expressions(node: Node, closed: frozenset[str] = frozenset()) -> Iterator[tuple[str, Node]]:
    """Yield what stands in a piece of tree, a whole reference as one, but not what is inside the kinds of `closed`.

    Without recursion, for trees can be deep.
    """
    left = [node]
    while left:
        now = left.pop()
        if isinstance(now, list | tuple):
            left.extend(now)
        elif isinstance(now, dict):
            for kind, body in now.items():
                if kind not in _YIELDED or not isinstance(body, dict):
                    left.append(body)
                    continue
                yield kind, body
                if kind in REFERENCES:
                    left.extend(_inside(now))
                elif kind == "Call":
                    left.append(body["params"])
                elif kind not in closed:
                    left.append(body)


def _inside(reference: Node) -> list[Node]:
    base, steps = chain(reference)
    inner = [step for step in steps if not isinstance(step, str)]
    if base is None:
        while "RefDot" in reference or "RefBrack" in reference:
            reference = next(iter(reference.values()))["refr"]
        inner.append(reference)
    return inner


def _rules(tree: Node) -> Iterator[Rule]:
    source = tree["source"]["contents"].encode()
    package = _path(tree["ast"]["package"]["refr"])
    imports = {}
    for one in tree["ast"]["imports"]:
        path = _path(one["refr"])
        if path[0] in {"input", "data"}:
            imports[text(source, one["as"]) if one.get("as") else path[-1]] = path
    module = Module(tree["source"]["file"], package, imports, source)
    for node in tree["ast"]["rules"]:
        (kind, body), *_ = node.items()
        if kind == "Default":
            head, bodies, form = body, (), "default"
        else:
            (shape, head), *_ = body["head"].items()
            bodies = tuple(body["bodies"])
            form = {"Set": "set", "Func": "function", "Compr": "value"}[shape]
        path = _path(head["refr"])
        if form == "value" and "RefBrack" in head["refr"]:
            form = "object"
        yield Rule(module, package + path, form, len(head.get("args") or ()), body["span"]["line"], head, bodies)


def _path(refr: Node) -> Path:
    base, steps = chain(refr)
    known = []
    for step in steps:
        if not isinstance(step, str):
            break
        known.append(step)
    return (str(base["value"]) if base else "", *known)


def text(source: bytes, span: Node) -> str:
    """Return the piece of source that a span covers: names that the tree gives by their place alone."""
    return source[span["start"] : span["end"]].decode()


def constant(node: Node) -> bool:
    """Whether an expression is a literal, or a collection of literals."""
    left = [node]
    while left:
        (kind, body), *_ = left.pop().items()
        if kind in {"Array", "Set"}:
            left.extend(body["items"])
        elif kind == "Object":
            left.extend(part for _, key, value in body["fields"] for part in (key, value))
        elif kind not in LITERALS:
            return False
    return True


def spelled(function: Node) -> str:
    """Return the name of a called function as it stands in the source."""
    base, steps = chain(function)
    return ".".join([str(base["value"]) if base else "?", *(s if isinstance(s, str) else "[…]" for s in steps)])
