"""`mcpgw toolsets`: named selections of tools over several servers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Group
from rich.table import Table

from mcpgw.cli.api import Api, path_of
from mcpgw.cli.options import admin_command
from mcpgw.cli.terminal import Out, fields, table
from mcpgw.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Group tools of several servers under an endpoint of their own.")
Slug = Annotated[str, typer.Argument(help="The toolset's slug.")]


@app.command("list")
@admin_command
def list_toolsets(api: Api, out: Out) -> None:
    """List the toolsets."""
    answer = api.get("/toolsets")
    rows = [
        (t["slug"], t["title"], t["offered"], "search" if t["search"] else "", len(t["warnings"]) or "")
        for t in answer["toolsets"]
    ]
    drawn = table(("toolset", "title", "tools", "", "warnings"), rows)
    out.show(answer, drawn if rows else "there is no toolset")


@app.command()
@admin_command
def show(api: Api, out: Out, slug: Slug) -> None:
    """Show a toolset and what it offers now, before any policy."""
    answer = api.get(path_of("toolsets", slug))
    out.show(answer, Group(*_shown(answer)))


@app.command("set")
@admin_command
def set_toolset(
    api: Api,
    out: Out,
    file: Annotated[str, typer.Argument(help="The toolset with its `slug`, in YAML or JSON; `-`: standard input.")],
) -> None:
    """Create a toolset, or replace the one of the same slug."""
    given = _document(file)
    slug = given.pop("slug", None)
    if not isinstance(slug, str) or not slug:
        raise UsageError(f"{file} does not name the toolset", fix="add `slug: support`")
    answer = api.put(path_of("toolsets", slug), given)
    said = f"{slug} offers {answer.get('offered')} tools at /mcp/{slug}"
    out.show(answer, "\n".join([said, *(f"warning: {warning}" for warning in answer.get("warnings", ()))]))


@app.command()
@admin_command
def remove(api: Api, out: Out, slug: Slug) -> None:
    """Remove a toolset; its tools stay where they are."""
    out.show(api.delete(path_of("toolsets", slug)), f"removed {slug}")


def _shown(toolset: dict[str, Any]) -> Iterator[Table]:
    yield fields({name: value for name, value in toolset.items() if name not in {"tools", "offers", "warnings"}})
    rows = [
        (entry["tool"], entry.get("name"), _values(entry.get("defaults")), _values(entry.get("pinned")))
        for entry in toolset["tools"]
    ]
    yield table(("selects", "as", "defaults", "pinned"), rows)
    offers = [(offer["name"], f"{offer['server']}/{offer['tool']}") for offer in toolset["offers"]]
    yield table(("offers", "which is"), offers)
    if toolset["warnings"]:
        yield table(("warnings",), [(warning,) for warning in toolset["warnings"]])


def _values(values: dict[str, Any] | None) -> str:
    return json.dumps(values, ensure_ascii=False) if values else ""


def _document(file: str) -> dict[str, Any]:
    """Return the mapping in a file; JSON is YAML, too."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        document = yaml.safe_load(text)
        json.dumps(document, allow_nan=False)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", fix="name a file, or - for standard input") from None
    except (yaml.YAMLError, ValueError, TypeError):  # TypeError: a date, say, which JSON does not have
        raise UsageError(f"{file} is not YAML or JSON with plain values", fix="put dates in quotes") from None
    if not isinstance(document, dict):
        raise UsageError(f"{file} is not a mapping", fix="begin with `slug: support`")
    return document
