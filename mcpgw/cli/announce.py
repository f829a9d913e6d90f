"""The process beside a quickstart: waits until the gateway is ready, approves the example server, tells the rest.

Run by `mcpgw quickstart`, with its order on standard input. If it fails, it ends the gateway it was started for.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from mcpgw.cli.api import QUICKSTART, Api, Gateway, keep, path_of, request
from mcpgw.cli.terminal import report
from mcpgw.errors import GatewayError, Internal, Unavailable, UpstreamFailed, UpstreamUnreachable

READY_WITHIN_S = 60.0
_POLL_S = 0.05
FAILED = 1


def announce(order: Mapping[str, Any]) -> None:
    """Do all of it. Raises GatewayError."""
    base_url, server = order["base_url"], order["server"]
    _wait(base_url, order["supervisor"])
    if order["first"]:
        _approve(Api(Gateway(base_url, order["admin_key"])), server)
    document = {
        "mcp_url": f"{base_url}/mcp",
        "base_url": base_url,
        "console_url": f"{base_url}/console/",
        "agent_key": order["agent_key"],
        "admin_key": order["admin_key"],
        "sign_in": order["sign_in"],
        "server": server,
        "commands": order["commands"],
    }
    keep(Path(order["directory"]), document)
    if order["json"]:
        print(json.dumps(document), flush=True)
    else:
        _tell(document, Path(order["directory"]) / QUICKSTART, first=order["first"])


def _wait(base_url: str, supervisor: int) -> None:
    """Return when the gateway says that it is ready; give up when it is gone, or too slow."""
    deadline = time.monotonic() + READY_WITHIN_S
    last = "nothing answered"
    while time.monotonic() < deadline:
        if os.getppid() != supervisor:
            raise Unavailable("the gateway ended before it was ready", fix="its log says why")
        try:
            status, answer = request(base_url, "GET", "/readyz")
            if status == 200:
                return
            last = json.dumps(answer)
        except (UpstreamUnreachable, UpstreamFailed) as error:
            last = error.message
        time.sleep(_POLL_S)
    raise Unavailable(f"the gateway was not ready within {READY_WITHIN_S:g} s: {last}", fix="its log says why")


def _approve(api: Api, server: str) -> None:
    if api.get(path_of("servers", server)).get("active"):
        return
    version = api.post(path_of("servers", server, "versions"))["version"]
    api.post(path_of("servers", server, "versions", version, "approve"))
    api.post(path_of("servers", server, "versions", version, "activate"))


def _tell(document: Mapping[str, Any], kept: Path, *, first: bool) -> None:
    """Print it for people. The commands stand on lines of their own, without a frame, so that they can be copied."""
    lines = [f"MCP      {document['mcp_url']}", f"Console  {document['console_url']}"]
    if first:
        user = document["sign_in"]
        lines += [f"Agent    {document['agent_key']}", f"Admin    {document['admin_key']}"]
        lines.append(f"Sign in  as {user['name']} with {user['password']}")
    lines.append(f"Keys     in {kept}")
    console = Console()
    console.print(Panel(Text("\n".join(lines), overflow="fold"), title="mcpgw is ready", expand=False))
    for title, name in (
        ("an allowed call", "allowed"),
        ("a denied call", "denied"),
        ("a kill, after which the first call is refused", "kill"),
        ("proof that the log was not changed", "verify"),
    ):
        console.print(f"\n# {title}", style="dim", markup=False, highlight=False)
        console.print(document["commands"][name], markup=False, highlight=False, soft_wrap=True)
    console.print("\nCtrl-C ends it; the same command starts it again.", style="dim")


def main() -> None:
    order = json.load(sys.stdin)
    try:
        announce(order)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 (a gateway that nobody was told about must not stay)
        known = error if isinstance(error, GatewayError) else Internal(f"{type(error).__name__}: {error}")
        report(known, as_json=order["json"])
        with contextlib.suppress(ProcessLookupError):
            os.kill(order["supervisor"], signal.SIGTERM)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
