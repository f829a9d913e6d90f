"""`mcpgw teams`: teams."""

from __future__ import annotations

from typing import Annotated

import typer

from mcpgw.cli.api import Api, path_of
from mcpgw.cli.keys import Why
from mcpgw.cli.options import admin_command
from mcpgw.cli.terminal import Out, table, when

app = typer.Typer(no_args_is_help=True, help="Describe and end teams.")
Name = Annotated[str, typer.Argument(metavar="TEAM")]
Title = Annotated[str, typer.Option(help="What people call it.")]


@app.command("list")
@admin_command
def list_teams(api: Api, out: Out) -> None:
    """List the teams that have been described."""
    answer = api.get("/teams")
    rows = [
        (team["name"], team["title"], team["accounts"], when(team["created_at"]), when(team["deactivated_at"]))
        for team in answer["teams"]
    ]
    out.show(answer, table(("team", "title", "accounts", "created (UTC)", "deactivated"), rows))


@app.command()
@admin_command
def create(api: Api, out: Out, name: Name, *, title: Title = "") -> None:
    """Describe a team."""
    out.show(api.post("/teams", {"name": name, "title": title}), f"created {name}")


@app.command()
@admin_command
def rename(api: Api, out: Out, name: Name, *, title: Title) -> None:
    """Give a team another title."""
    out.show(api.put(path_of("teams", name), {"title": title}), f"{name} is called {title}")


@app.command()
@admin_command
def deactivate(api: Api, out: Out, name: Name, *, reason: Why) -> None:
    """End everyone of a team at once: keys, tokens, sessions and running calls."""
    out.show(api.post(path_of("teams", name, "deactivate"), {"reason": reason}), f"deactivated {name}")


@app.command()
@admin_command
def reactivate(api: Api, out: Out, name: Name, *, reason: Why) -> None:
    """Let a team in again; what its members held before stays void."""
    out.show(api.post(path_of("teams", name, "reactivate"), {"reason": reason}), f"reactivated {name}")
