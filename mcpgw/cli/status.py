"""`mcpgw status`."""

from __future__ import annotations

from mcpgw.cli.api import Api
from mcpgw.cli.options import admin_command
from mcpgw.cli.terminal import Out, fields, when


@admin_command
def status(api: Api, out: Out) -> None:
    """Show how the gateway is."""
    answer = api.get("/status")
    servers = ", ".join(f"{s['slug']}@{s['version']} ({s['tools']} tools)" for s in answer["servers"])
    shown = {**answer, "since": f"{when(answer['since'])} UTC", "servers": servers or "none is active"}
    out.show(answer, fields({name: value for name, value in shown.items() if value is not None}))
