"""How an operator declares toolsets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from mcpgw.section import Section, Slug


class ToolsetTool(Section):
    """What a toolset takes in. All but `tool` is for one tool alone."""

    tool: str
    """`server/tool`, `server/*` for all active tools of a server, or `*` for those of all servers."""
    name: str | None = None
    """Its name here; default: the one on `/mcp`."""
    description: str | None = None
    """Its description here; default: its own."""
    defaults: Mapping[str, Any] = Field(default_factory=dict)
    """Values of arguments that a caller leaves out."""
    pinned: Mapping[str, Any] = Field(default_factory=dict)
    """Values of arguments that callers neither see nor set."""


class DeclaredToolset(Section):
    """A named selection of tools over several servers, at `/mcp/{name}`."""

    name: Slug
    """Its slug, which no server has."""
    title: str = ""
    """Name for people."""
    instructions: str = ""
    """What clients are told when they connect."""
    search: bool = False
    """Clients list `find_tool` and `call_tool` instead of the tools themselves."""
    tools: tuple[ToolsetTool, ...] = Field(min_length=1)
    """Its tools."""


class WithToolsets(Section):
    """The part of a section that declares toolsets."""

    toolsets: tuple[DeclaredToolset, ...] = ()
    """Named selections of tools over several servers."""
    search_only: bool = False
    """`/mcp` lists `find_tool` and `call_tool` instead of every tool of every server."""

    @model_validator(mode="after")
    def _toolsets_have_slugs_of_their_own(self) -> WithToolsets:
        lists = {name: getattr(self, name) for name in type(self).model_fields if name != "toolsets"}
        taken = {entry.name for held in lists.values() if isinstance(held, tuple) for entry in held if _is_named(entry)}
        for toolset in self.toolsets:
            if toolset.name in taken:
                raise ValueError(f"the toolset `{toolset.name}` has the name of another toolset, or of a server")
            taken.add(toolset.name)
        return self


def _is_named(entry: object) -> bool:
    return isinstance(entry, Section) and "name" in type(entry).model_fields
