"""How an operator declares a REST API as a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from mcpgw.section import Section, Slug

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Operations(Section):
    """Which operations of a document are tools.

    A glob stands for the operations whose `operationId`, method and path (`GET /pets/*`) or tag it matches.
    """

    include: tuple[str, ...] = ()
    """Globs of operations that are tools; empty: all."""
    exclude: tuple[str, ...] = ()
    """Globs of operations that are not, also when included."""


class OpenApiServer(Section):
    """A REST API described by an OpenAPI 3.x document, offered as a server: its operations are the tools."""

    name: Slug
    """Its slug."""
    document: str
    """File with the document, in JSON or YAML; one file, without references to others."""
    base_url: str | None = None
    """Where all operations are; default: the document's server, if it has one and that is an absolute URL."""
    headers: Mapping[str, str] = Field(default_factory=dict)
    """Headers sent with every request; secrets by reference (`env:NAME`, `file:PATH`)."""
    operations: Operations = Operations()
    """Which operations are tools."""
    names: Mapping[str, ToolName] = Field(default_factory=dict)
    """Names of tools, by `operationId` or by method and path (`GET /pets`)."""
    output_schemas: bool = True
    """Tools tell the schema of their answers. With `false`, for an API that does not keep to it, answers of any shape
    pass."""
    max_response_bytes: int | None = Field(default=None, ge=1024)
    """Body of an answer; default, and at most: `limits.result_bytes`."""
    title: str = ""
    """Name for people."""
    tags: tuple[str, ...] = ()
    """Tags that policies see as `server.tags`."""
    trust: str = "untrusted"
    """What policies see as `server.trust`."""
    idempotent: tuple[str, ...] = ()
    """Tools whose calls may be repeated when they fail, because twice is no worse than once; `*`: all of them."""
