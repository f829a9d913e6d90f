"""What is wrong with the documents of REST APIs, for commands: the libraries that read them are loaded when asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcpgw.openapi_section import OpenApiServer

if TYPE_CHECKING:
    from mcpgw.upstream.openapi_problem import Problem


def openapi_problems(entry: OpenApiServer) -> Sequence[Problem]:
    """Return every problem of an entry's document, with its place there and a fix."""
    from mcpgw.upstream.openapi import problems  # noqa: PLC0415 - see above

    return problems(entry)
