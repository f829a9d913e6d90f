"""The command line: `mcpgw`.

Commands live in modules that are imported when they run, so that `mcpgw kill` starts at once. Exit status: 0 ok,
1 refused or failed, 2 bad usage.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from mcpgw import __version__
from mcpgw.cli.terminal import report
from mcpgw.errors import GatewayError, Internal, UsageError

# Name -> where it lives, and its line in `mcpgw --help`.
COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": (
        "quickstart:quickstart",
        "Start a gateway with an example server, keys and policy: nothing else needed.",
    ),
    "serve": ("serve:serve", "Start the gateway."),
    "check-config": ("serve:check_config", "Load everything a start would, and name each problem with its fix."),
    "call": ("client:call", "Call a tool through the gateway."),
    "tools": ("client:tools", "List the tools that the key may use."),
    "servers": ("servers:app", "Register, approve and activate servers."),
    "toolsets": ("toolsets:app", "Group tools of several servers under an endpoint of their own."),
    "policy": ("policy:app", "Check, test and use policies."),
    "kill": ("kills:kill", "Throw a kill switch."),
    "release": ("kills:release", "Release a kill switch."),
    "kills": ("kills:kills", "List kill switches."),
    "audit": ("audit:app", "Read and verify the log."),
    "keys": ("keys:app", "Create, list, revoke and rotate API keys."),
    "clients": ("clients:app", "Create, list and revoke OAuth clients."),
    "users": ("users:app", "Create, change and end accounts of users and agents."),
    "teams": ("teams:app", "Describe and end teams."),
    "token": ("token:token", "Get an access token with a client's secret."),
    "secrets": ("secrets:app", "Keep secrets for servers in the vault."),
    "status": ("status:status", "Show how the gateway is."),
}


class LazyGroup(TyperGroup):
    """The commands above: known by name and one line, imported when one is run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, found, rest = super().resolve_command(ctx, args)
        return name, _loaded(name) if name in COMMANDS else found, rest


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def mcpgw(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something breaks inside.")] = False,
) -> None:
    """The gateway between AI agents and everything they can touch: every call decided, recorded and stoppable."""


def main() -> NoReturn:
    """Run the command line."""
    command = get_command(app)
    if not isinstance(command, LazyGroup):
        raise TypeError("the application is not a group")
    for name, (_, line) in COMMANDS.items():
        command.add_command(TyperCommand(name, help=line))
    as_json = "--json" in sys.argv
    try:
        command.main()
        sys.exit(0)
    except UsageError as error:
        report(error, as_json=as_json)
        sys.exit(2)
    except GatewayError as error:
        report(error, as_json=as_json)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 (the last door: people get one clear line, never a traceback)
        if "--debug" in sys.argv:
            traceback.print_exc()
        report(
            Internal(f"{type(error).__name__}: {error}", fix="this is a bug; `mcpgw --debug …` shows where"),
            as_json=as_json,
        )
        sys.exit(1)


def _loaded(name: str) -> Any:
    """Return the command as its module has it: a group, or one function."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(importlib.import_module(f"mcpgw.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        return get_command(found)
    alone = typer.Typer(add_completion=False)
    alone.command(name)(found)
    return get_command(alone)
