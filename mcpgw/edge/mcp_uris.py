"""Resource URIs of an endpoint over several servers, and back to each server's own.

`ui://X` of the server `notes` is shown as `ui://notes/X`, since MCP Apps go by that scheme; any other `URI` as
`mcpgw+notes+URI`, whose scheme is one (RFC 3986 §3.1). Nothing behind the prefix is touched, so that URI templates
(RFC 6570) are shown in the same way, and what a client makes of one is a URI of the same server.
"""

from __future__ import annotations

import re

_APP = "ui://"
_SHOWN = re.compile(r"mcpgw\+([a-z0-9][a-z0-9-]{0,23})\+(.*)", re.DOTALL)
_SHOWN_APP = re.compile(r"ui://([a-z0-9][a-z0-9-]{0,23})/(.*)", re.DOTALL)


def shown_uri(server: str, uri: str) -> str:
    """Return the URI, or template, under which a client knows this one of a server."""
    if uri.startswith(_APP):
        return f"{_APP}{server}/{uri.removeprefix(_APP)}"
    return f"mcpgw+{server}+{uri}"


def own_uri(shown: str) -> tuple[str, str] | None:
    """Return server and own URI of what a client names; None when no server can have it."""
    match = _SHOWN.fullmatch(shown)
    if match is not None:
        return match[1], match[2]
    match = _SHOWN_APP.fullmatch(shown)
    return (match[1], _APP + match[2]) if match is not None else None
