"""The reference pages, written from what they describe: `python -m tests.generate` rewrites them.

`documents` returns them as text, so that a test can say which of them is stale.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
from pydantic.fields import FieldInfo
from typer.core import TyperCommand
from typer.main import get_command

from mcpgw.cli.main import COMMANDS, app
from mcpgw.config import ENV_PREFIX, Section, Settings
from mcpgw.edge.admin_routes import OPERATIONS
from mcpgw.errors import WIRE, GatewayError
from tests import access

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
MARK = "<!-- From here on written by `python -m tests.generate`. -->\n"
NAMES: Mapping[Any, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    Path: "path",
    Any: "any value",
}
BOUNDS = {"ge": "at least {}", "le": "at most {}", "gt": "above {}", "min_length": "at least {}"}
SHARED = {"url", "key", "dir", "directory", "as_json"}


def documents() -> dict[Path, str]:
    """Return every generated page by its path."""
    pages = {
        "configuration.md": configuration(),
        "errors.md": errors(),
        "commands.md": commands(),
        "admin-api.md": admin_api(),
        "access.md": who_may(),
    }
    return {REFERENCE / name: head(REFERENCE / name) + "\n".join(["", *lines]) for name, lines in pages.items()}


def head(page: Path) -> str:
    """Return what people wrote of a page: everything up to the mark."""
    written, mark, _ = page.read_text(encoding="utf-8").partition(MARK)
    assert mark, f"{page} lacks its mark"
    return written + mark


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a table and an empty line."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def flat(text: str | None) -> str:
    return " ".join((text or "").split())


def own_doc(kind: type) -> str:
    """Return the class's docstring; that of its base is not about it."""
    return flat(vars(kind).get("__doc__"))


# Configuration


def configuration() -> Iterator[str]:
    sections = {name: f for name, f in Settings.model_fields.items() if is_section(f.annotation)}
    yield "## At the top"
    yield ""
    yield from settings_table("", {name: f for name, f in Settings.model_fields.items() if name not in sections})
    for name, field in sections.items():
        kind = typing.cast(type[Section], field.annotation)
        yield f"## `{name}`"
        yield ""
        yield own_doc(kind)
        yield ""
        yield from settings_table(name, kind.model_fields)
        yield from inner_sections(name, kind)


def inner_sections(path: str, kind: type[Section]) -> Iterator[str]:
    """Yield what stands within a section: sections, and lists of them."""
    for key, field in kind.model_fields.items():
        of_list = [argument for argument in typing.get_args(field.annotation) if is_section(argument)]
        for inner in [field.annotation] if is_section(field.annotation) else of_list[:1]:
            place = f"{path}.{key}" + ("[]" if of_list else "")
            yield f"### `{place}`"
            yield ""
            yield own_doc(inner)
            yield ""
            yield from settings_table(None, inner.model_fields)
            yield from inner_sections(place, inner)


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def settings_table(section: str | None, fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    """Yield the keys of a section; those of an element of a list (None) have no environment variable of their own."""
    columns = ["key", "type", "default", *([] if section is None else ["environment"]), "what it is"]
    rows = []
    for key, field in fields.items():
        variable = ENV_PREFIX + "__".join(part.upper() for part in (section, key) if part)
        cells = [f"`{key}`", kind_of(field), default_of(field), flat(field.description)]
        rows.append(cells if section is None else [*cells[:3], f"`{variable}`", cells[3]])
    yield from table(columns, rows)


def kind_of(field: FieldInfo) -> str:
    bounds = [
        shape.format(value)
        for constraint in field.metadata
        for name, shape in BOUNDS.items()
        if (value := getattr(constraint, name, None)) is not None
    ]
    patterns = [f"`{p}`" for c in field.metadata if (p := getattr(c, "pattern", None)) is not None]
    return ", ".join([type_name(field.annotation), *bounds, *patterns])


def type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in {types.UnionType, typing.Union}:
        return " or ".join(type_name(a) for a in arguments if a is not type(None))
    if origin is tuple:
        return "list" if is_section(arguments[0]) else f"list of {type_name(arguments[0])}"
    if is_section(annotation):
        return "section"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{member.value}`" for member in annotation)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin is not None:
        return f"mapping of {type_name(arguments[0])} to {type_name(arguments[1])}"
    return NAMES[annotation]


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        return "as below"
    if value in (None, "", (), {}):
        return "empty" if value in ((), {}) else "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


# Errors


def errors() -> Iterator[str]:
    kinds = {kind.code: kind for kind in GatewayError.__subclasses__()}
    rows = [
        (
            f"`{code}`",
            str(wire.status),
            str(wire.jsonrpc),
            f"`{wire.llm_type}`",
            "yes" if wire.retryable else "no",
            own_doc(kinds[code]),
        )
        for code, wire in WIRE.items()
    ]
    yield from table(("code", "HTTP", "JSON-RPC", "LLM type", "retry", "meaning"), rows)


# Commands


def command_tree() -> Iterator[tuple[str, Any]]:
    """Yield each command by its full name (`servers add`), as the command line has it."""
    group: Any = get_command(app)
    for name, (_, line) in COMMANDS.items():
        group.add_command(TyperCommand(name, help=line))
    context = group.make_context("mcpgw", ["status"], resilient_parsing=True)
    for name in COMMANDS:
        _, command, _ = group.resolve_command(context, [name])
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        for below, found in (inner or {}).items():
            yield f"{name} {below}", found


def commands() -> Iterator[str]:
    for name, command in command_tree():
        own = [p for p in command.params if p.name not in SHARED]
        shared = [f"`{p.opts[0]}`" for p in command.params if p.name in SHARED]
        arguments = [shown_argument(p) for p in own if is_argument(p)]
        yield f"## `{' '.join(['mcpgw', name, *arguments])}`"
        yield ""
        yield flat(command.help)
        yield ""
        rows = [(f"`{spelled(command, p)}`", described(command, p)) for p in own if p.help or not is_argument(p)]
        if rows:
            yield from table(("argument or option", "what it is"), rows)
        yield f"Also {', '.join(shared)}."
        yield ""


def is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def shown_argument(argument: Any) -> str:
    name: str = argument.metavar or argument.name.upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def choices(command: Any, parameter: Any) -> list[str]:
    hint = inspect.signature(command.callback).parameters[parameter.name].annotation
    kinds = [kind for kind in typing.get_args(hint) if isinstance(kind, type) and issubclass(kind, Enum)]
    return [str(member.value) for kind in kinds for member in kind]


def spelled(command: Any, parameter: Any) -> str:
    """Return how an option is written, with the kind of its value; of an argument its place."""
    if is_argument(parameter):
        return shown_argument(parameter)
    value = parameter.metavar or "|".join(choices(command, parameter)) or parameter.name.upper()
    return ", ".join(parameter.opts) + ("" if parameter.is_flag else f" {value}")


def described(command: Any, parameter: Any) -> str:
    told = flat(parameter.help)
    default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    if is_argument(parameter) and (values := choices(command, parameter)):
        told += f" One of: {', '.join(values)}."
    elif parameter.required and not is_argument(parameter):
        told += " Required."
    elif default not in (None, "", False, True):
        told += f" Default: {default.value if isinstance(default, Enum) else default}."
    return f"{told} Environment: `{parameter.envvar}`." if parameter.envvar else told


# The admin API


def admin_api() -> Iterator[str]:
    rows = []
    for operation in OPERATIONS:
        taken = [f"`{f.encode_name}`{'*' * f.required}" for f in msgspec.structs.fields(operation.given)]
        does = flat(operation.run.__doc__)
        rows.append((f"`{operation.method} {operation.path}`", f"`{operation.scope}`", ", ".join(taken), does))
    yield from table(("operation", "scope", "takes", "does"), rows)


# Who may do what


def who_may() -> Iterator[str]:
    titles = (
        ("Using tools and models", access.USING),
        ("Administering", access.ADMINISTERING),
        ("Coming in", access.ENTERING),
    )
    for title, rows in titles:
        yield f"## {title}"
        yield ""
        cells = [
            (
                f"`{row.method} {row.path}`",
                row.needs,
                *(f"open ({row.open_status})" if got == access.OPEN else got for got in row.gets.values()),
            )
            for row in rows
        ]
        yield from table(("route", "needs", *access.CREDENTIALS), cells)


def main() -> None:
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
