"""The budgets of the code base, so that no module grows into a cautionary tale."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("mcpgw", "registry", "policies", "auth")
MODULE_LINES, FUNCTION_LINES, PARAMETERS = 400, 50, 7
# Each handler there says why it must catch everything.
BROAD_EXCEPT_ALLOWED = (
    "mcpgw/edge/",
    "mcpgw/audit/journal.py",
    "policies/local.py",
    "mcpgw/cli/",
    "mcpgw/supervisor.py",
    "mcpgw/upstream/notices.py",
)
NESTED_IMPORTS_ALLOWED = ("mcpgw/wiring/",)


def modules() -> Iterator[Path]:
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            if not any(parent.is_symlink() for parent in path.parents):
                yield path


MODULES = list(modules())


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.requirement("budget:size")
@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_keeps_its_budgets(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    over: list[str] = []
    if text.count("\n") > MODULE_LINES:
        over.append(f"{text.count(chr(10))} lines")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Global):
            over.append(f"line {node.lineno}: global")
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > FUNCTION_LINES:
            over.append(f"{node.name}: {length} lines")
        arguments = node.args
        named = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        counted = [a for a in named if a not in {"self", "cls"}]
        if len(counted) > PARAMETERS and node.name != "__init__" and not is_command(node):
            over.append(f"{node.name}: {len(counted)} parameters")
    assert over == []


@pytest.mark.requirement("budget:imports")
@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_stand_at_the_top(path: Path) -> None:
    if relative(path).startswith(NESTED_IMPORTS_ALLOWED):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nested = [
        f"{node.name}:{inner.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]
    assert nested == []


@pytest.mark.requirement("budget:broad-except")
@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_only_the_outermost_places_catch_everything(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    broad = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and is_broad(node.type) and not reraises(node)
    ]
    assert broad == [] or relative(path).startswith(BROAD_EXCEPT_ALLOWED)


def is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """The parameters of a command are its options: typer reads them there."""
    return any("command" in ast.unparse(decorator) for decorator in node.decorator_list)


def is_broad(caught: ast.expr | None) -> bool:
    names = {"Exception", "BaseException"}
    return caught is None or (isinstance(caught, ast.Name) and caught.id in names)


def reraises(handler: ast.ExceptHandler) -> bool:
    """A handler that ends by raising the same error hides nothing."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None
