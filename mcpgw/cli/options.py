"""What commands have in common: `--json` on all, and how a client command finds its gateway."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, get_args

import typer

from mcpgw.cli.api import Api, Gateway, find
from mcpgw.cli.terminal import Out

P = ParamSpec("P")
Command = Callable[..., None]

Dir = Annotated[
    Path | None,
    typer.Option("--dir", envvar="MCPGW_DIR", help="Data directory.", show_default="./mcpgw-data"),
]
Url = Annotated[str | None, typer.Option("--url", envvar="MCPGW_URL", help="The gateway's URL.")]
_JSON: dict[str, Any] = {"as_json": Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]}
_GATEWAY: dict[str, Any] = {
    "url": Url,
    "key": Annotated[str | None, typer.Option("--key", envvar="MCPGW_KEY", help="API key or token.")],
    "dir": Dir,
}
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def command(function: Callable[Concatenate[Out, P], None]) -> Command:
    """Make a command of a function that needs no gateway; it is given where to print."""

    def run(shared: dict[str, Any], *args: Any, **own: Any) -> None:
        function(Out(shared["as_json"]), *args, **own)

    return _command(function, run, skip=1, shared=_JSON)


def admin_command(function: Callable[Concatenate[Api, Out, P], None]) -> Command:
    """Make a command of a function that uses the admin API, with the admin key."""

    def run(shared: dict[str, Any], *args: Any, **own: Any) -> None:
        gateway = find(shared["url"], shared["key"], shared["dir"], which="admin_key")
        function(Api(gateway), Out(shared["as_json"]), *args, **own)

    return _command(function, run, skip=2, shared=_GATEWAY | _JSON)


def agent_command(function: Callable[Concatenate[Gateway, Out, P], None]) -> Command:
    """Make a command of a function that calls tools, with the agent key."""

    def run(shared: dict[str, Any], *args: Any, **own: Any) -> None:
        gateway = find(shared["url"], shared["key"], shared["dir"], which="agent_key")
        function(gateway, Out(shared["as_json"]), *args, **own)

    return _command(function, run, skip=2, shared=_GATEWAY | _JSON)


def gathered(parameter: str, options: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace one parameter of a function by many options; it gets a mapping of those that were given."""

    def replaced(function: Callable[..., None]) -> Callable[..., None]:
        def run(given: dict[str, Any], *args: Any, **own: Any) -> None:
            function(*args, **own, **{parameter: {name: v for name, v in given.items() if v is not None}})

        return _command(function, run, skip=0, shared=options, without=parameter)

    return replaced


def seconds(text: str) -> float:
    """Return seconds of `90`, `30s`, `15m`, `1h` or `7d`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not found:
        raise typer.BadParameter(f"`{text}` is not a duration: write 30s, 15m, 1h or 7d")
    return float(found[1]) * _UNIT_S[found[2] or "s"]


def _command(
    function: Callable[..., None],
    run: Callable[..., None],
    *,
    skip: int,
    shared: Mapping[str, Any],
    without: str | None = None,
) -> Command:
    """Return `run` with the options of `function` (but its first `skip`, which are handed in) and the shared ones."""
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())[skip:]
    own = [p for p in parameters if p.name != without]
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=_default(hint))
        for name, hint in shared.items()
    ]

    @functools.wraps(function)
    def with_options(*args: Any, **given: Any) -> None:
        run({name: given.pop(name) for name in shared}, *args, **given)

    vars(with_options)["__signature__"] = inspect.Signature([*own, *common])
    with_options.__annotations__ = {p.name: p.annotation for p in (*own, *common)}
    return with_options


def _default(hint: Any) -> bool | None:
    return False if get_args(hint)[0] is bool else None
