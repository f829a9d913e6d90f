"""The embedded Rego engine, regorus: the only place that knows it.

Two evaluators answer every question. The compiled program runs under a budget of 25,000 instructions, but takes some
Rego for more than it says (`x := input.missing` succeeds, an `every` over a rule's elements is always true). The
interpreter knows no budget, but answers as OPA does, and fails where a built-in or a rule does. So the program goes
first, what it cannot finish is denied, and only what both allow is allowed.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
import msgspec

from mcpgw.config import Settings
from mcpgw.domain import Decision, Effect
from mcpgw.errors import InvalidRequest
from mcpgw.policies import output
from mcpgw.policies.aside import ON_LOOP_BYTES, Aside
from mcpgw.policies.bundle import ENTRY_POINT, Bundle
from mcpgw.policies.finding import Finding
from mcpgw.policies.input import HEAD_FIELDS, Inputs
from mcpgw.policies.lint import DECISION, lint, nesting
from mcpgw.policies.tree import Node, Policy
from mcpgw.ports import Question

# With RUST_BACKTRACE set, the first error of the engine would spend 60 ms on symbols.
os.environ.setdefault("RUST_LIB_BACKTRACE", "0")
import regorus

_MEMO = 8192
_ORPHANS: list[_Evaluators] = []
# Answers kept by their text, so that the few that a policy has are read once.
_ANSWERS, _ANSWER_CHARACTERS = 512, 4096
_UNDEFINED = '"<undefined>"'
_PLACE = re.compile(r"--> (?P<file>[^\n]*?):(?P<line>\d+):\d+\n.*?\nerror: (?P<message>[^\n]*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A bundle that has passed its lint, as plain data: made in any thread, used in any.

    `reads_call` says whether a decision may depend on what one call brings with it.
    """

    bundle: Bundle
    program: bytes
    reads_call: bool
    max_input_bytes: int


@dataclass(frozen=True, slots=True)
class Trace:
    """What the evaluators answered (JSON, or None for an error), and which lines of which file were true, and not."""

    program: str | None
    interpreter: str | None
    lines: dict[str, tuple[list[int], list[int]]]


def syntax(modules: tuple[tuple[str, str], ...]) -> list[Node]:
    """Return the syntax trees of modules. Raises InvalidRequest with the finding."""
    for path, text in modules:
        for finding in nesting(path, text):
            raise refused([finding])
    parsed = _parsed(modules)
    if isinstance(parsed, Finding):
        raise refused([parsed])
    return parsed


def compiled(bundle: Bundle, max_input_bytes: int) -> Compiled:
    """Return the bundle compiled; takes milliseconds to seconds. Raises InvalidRequest with every finding."""
    policy = Policy(syntax(bundle.modules))
    findings = lint(policy)
    if findings:
        raise refused(findings)
    program = _program(bundle)
    if isinstance(program, Finding):
        raise refused([program])
    return Compiled(
        bundle=bundle,
        program=program,
        reads_call=any(path[:1] not in {(name,) for name in HEAD_FIELDS} for path in policy.reads(DECISION)),
        max_input_bytes=max_input_bytes,
    )


# An object of the engine must go on the thread that made it. These two return what is wrong instead of raising it: an
# error keeps the frame that it left, with all that is in it, until it is collected on any thread.


def _parsed(modules: tuple[tuple[str, str], ...]) -> list[Node] | Finding:
    try:
        engine = regorus.Engine()
        for path, text in modules:
            engine.add_policy(path, text)
        trees: list[Node] = msgspec.json.decode(engine.get_ast_as_json())
    except RecursionError:
        return Finding("policy", 0, "an expression is too deep", "split it")
    except RuntimeError as error:
        return _finding(error)
    return trees


def _program(bundle: Bundle) -> bytes | Finding:
    try:
        made = regorus.Program.compile_from_modules(bundle.data, list(bundle.modules), [ENTRY_POINT])
        machine = regorus.Rvm()
        machine.load_program(made)
        machine.set_data_json(bundle.data)  # refuses data where a rule stands
        return bytes(made.serialize_binary())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a rule of more than 255 values is a PanicException
        return _finding(error)


async def compile_bundle(bundle: Bundle, settings: Settings) -> Compiled:
    """As `compiled`, in a thread."""
    return await anyio.to_thread.run_sync(compiled, bundle, settings.policies.max_input_bytes)


def refused(findings: list[Finding]) -> InvalidRequest:
    """Return the error of a bundle that is refused whole."""
    return InvalidRequest(
        "the policy is refused: " + "; ".join(str(finding) for finding in findings[:3]),
        fix="correct it; the policy in force stays",
        data={"findings": [finding.document() for finding in findings]},
    )


class LocalEngine:
    """Implements `ports.PolicyEngine` on the thread that makes it, which is that of the event loop."""

    def __init__(self, source: Compiled) -> None:
        self._source = source
        self._thread = threading.get_ident()
        self._loop = _running_loop()
        self._evaluators = _Evaluators(source)
        self._aside = Aside(source.bundle, source.max_input_bytes)
        self._inputs = Inputs()
        self._memo: dict[bytes, Decision] = {}
        # The same by the identity of what was asked about, which is kept too, so that it cannot pass to another.
        self._recent: dict[tuple[object, ...], tuple[Decision, tuple[object, ...]]] = {}
        self._answers: dict[str, Decision] = {}

    @property
    def sha256(self) -> str:
        return self._source.bundle.sha256

    async def decide(self, question: Question) -> Decision:
        """Return the decision; whatever goes wrong is a deny."""
        action, reads_call = question.action, self._source.reads_call and question.phase != "list"
        things = question.principal, question.version, question.tool
        asked = (question.phase, action.route, action.verb, action.server, question.name, *map(id, things))
        if not reads_call:
            recent = self._recent.get(asked)
            if recent is not None:
                return recent[0]
        try:
            head = self._inputs.head(question)
            if reads_call:
                return await self._decided(self._inputs.whole(question, head))
        except Exception:  # noqa: BLE001 - a question that cannot be written down is denied, whatever is wrong with it
            return output.refusal(output.ERROR, self.sha256)
        held = self._memo.get(head)
        if held is None:
            # What the rules do not read is not given to them either, so that the answer cannot depend on it.
            held = await self._decided(b"{" + head + b"}")
            # Not what may have been an accident: a panic, or a process that was ended.
            if held.reasons[0] in {output.ERROR, output.EXHAUSTED}:
                return held
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            self._memo[head] = held
        if len(self._recent) >= _MEMO:
            self._recent.clear()
        self._recent[asked] = held, things
        return held

    async def _decided(self, document: bytes) -> Decision:
        if ON_LOOP_BYTES < len(document) <= self._source.max_input_bytes:
            return await self._aside.evaluate(document)
        return self.evaluate(document)

    def evaluate(self, document: bytes) -> Decision:
        """Return the decision on an input document in JSON; whatever goes wrong is a deny."""
        if len(document) > self._source.max_input_bytes:
            return output.refusal(output.TOO_LARGE, self.sha256)
        try:
            text = document.decode()
            budgeted, said = self._evaluators.program(text), self._evaluators.interpreter(text)
        except (RuntimeError, UnicodeDecodeError) as error:
            exhausted = "instruction limit" in str(error)
            return output.refusal(output.EXHAUSTED if exhausted else output.ERROR, self.sha256)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001 - pyo3's PanicException: the evaluators may be in any state
            if threading.get_ident() == self._thread:
                self._evaluators = _Evaluators(self._source)
            return output.refusal(output.ERROR, self.sha256)
        decision = self._answer(said)
        if said != budgeted and decision.effect is not Effect.DENY:
            return output.refusal(output.DISAGREEMENT, self.sha256)
        return decision

    def _answer(self, text: str) -> Decision:
        held = self._answers.get(text)
        if held is None:
            undefined = text == _UNDEFINED
            held = output.refusal(output.UNDEFINED, self.sha256) if undefined else output.read_text(text, self.sha256)
            if len(self._answers) >= _ANSWERS:
                self._answers.clear()
            if len(text) <= _ANSWER_CHARACTERS:
                self._answers[text] = held
        return held

    def __del__(self) -> None:
        # The evaluators belong to their thread, also when they are dropped. One whose loop is gone keeps them for good.
        if threading.get_ident() == self._thread:
            return
        held = [self._evaluators]
        del self._evaluators
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_drop, held)
        else:
            _ORPHANS.extend(held)


class _Evaluators:
    """Program and interpreter of one thread. An input that is refused leaves the one before it in place: after an
    error nothing is evaluated."""

    __slots__ = ("_program", "engine")

    def __init__(self, source: Compiled) -> None:
        program, _ = regorus.Program.deserialize_binary(source.program)
        self._program = regorus.Rvm()
        self._program.load_program(program)
        self._program.set_data_json(source.bundle.data)
        self.engine = interpreter(source)
        # The first evaluation prepares the interpreter, which takes as long as several others.
        with suppress(RuntimeError):
            self.engine.eval_rule_as_json(ENTRY_POINT)

    def program(self, document: str) -> str:
        self._program.set_input_json(document)
        return str(self._program.execute_entry_point(ENTRY_POINT))

    def interpreter(self, document: str) -> str:
        self.engine.set_input_json(document)
        return str(self.engine.eval_rule_as_json(ENTRY_POINT))


def interpreter(source: Compiled, tests: tuple[tuple[str, str], ...] = ()) -> Any:
    """Return an interpreter of this thread with the modules, and with further ones that hold tests."""
    engine = regorus.Engine()
    for path, text in (*source.bundle.modules, *tests):
        engine.add_policy(path, text)
    engine.add_data_json(source.bundle.data)
    return engine


def evaluated(source: Compiled, tests: tuple[tuple[str, str], ...], rule: str) -> str | None:
    """Return the value of a rule of the tests in JSON, `"<undefined>"` where it has none, None for an error."""
    return _attempt(interpreter(source, tests).eval_rule_as_json, rule)


def trace(source: Compiled, document: bytes) -> Trace:
    """Evaluate a document apart from any engine in use, noting which lines were true. The interpreter has no budget:
    call this where it can be ended."""
    evaluators = _Evaluators(source)
    evaluators.engine.set_enable_coverage(True)
    text = document.decode()
    answers = _attempt(evaluators.program, text), _attempt(evaluators.interpreter, text)
    report = msgspec.json.decode(evaluators.engine.get_coverage_report_as_json())
    return Trace(*answers, {file["path"]: (file["covered"], file["not_covered"]) for file in report["files"]})


def _attempt(evaluate: Callable[[str], str], what: str) -> str | None:
    try:
        return evaluate(what)
    except RuntimeError:
        return None


def _finding(error: BaseException) -> Finding:
    """Put an error of the engine in our words; without its source lines and backtrace."""
    place = _PLACE.search(str(error))
    if place is not None:
        return Finding(place["file"], int(place["line"]), place["message"], "see the Rego v1 language reference")
    first = str(error).strip().split("\n", 1)[0]
    return Finding("policy", 0, first, "see the Rego v1 language reference")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _drop(held: list[_Evaluators]) -> None:
    held.clear()
