"""Documents of REST APIs, written as briefly as a test can say what it is about."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mcpgw.openapi_section import OpenApiServer
from mcpgw.upstream.openapi_document import Document
from mcpgw.upstream.openapi_problem import Problem, Unusable
from mcpgw.upstream.openapi_request import Outgoing, request_of
from mcpgw.upstream.openapi_tools import Tool, tools_of

BASE = "https://api.example/v1"
ANY = {"200": {"description": "fine"}}


def operation(name: str = "op", **more: Any) -> dict[str, Any]:
    return {"operationId": name, "responses": ANY, **more}


def document(
    paths: Mapping[str, Any] | None = None,
    *,
    version: str = "3.1.0",
    schemas: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return a document of these paths, by default with one operation that takes nothing."""
    return {
        "openapi": version,
        "info": {"title": "Test", "version": "1"},
        "paths": {"/things": {"get": operation()}} if paths is None else dict(paths),
        **({} if schemas is None else {"components": {"schemas": dict(schemas)}}),
        **more,
    }


def entry(**changes: Any) -> OpenApiServer:
    return OpenApiServer(**{"name": "api", "document": "unread.json", "base_url": BASE, **changes})


def made(tree: Mapping[str, Any], **changes: Any) -> tuple[Sequence[Tool], Sequence[Problem]]:
    """Return the tools and problems of a document, under an entry with these changes."""
    return tools_of(Document(dict(tree)), entry(**changes))


def only(tree: Mapping[str, Any], **changes: Any) -> Tool:
    """Return the only tool of a document without problems."""
    tools, problems = made(tree, **changes)
    assert problems == []
    (tool,) = tools
    return tool


def problem_of(tree: Mapping[str, Any], **changes: Any) -> Problem:
    """Return the only problem of a document, which costs its only tool."""
    try:
        tools, problems = made(tree, **changes)
    except Unusable as error:
        return error.problem
    assert tools == []
    (problem,) = problems
    return problem


def definition(tool: Tool) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tool.definition)
    return found


def parameters(*given: Mapping[str, Any], path: str = "/things", method: str = "get", **more: Any) -> dict[str, Any]:
    """Return a document with one operation that has these parameters, by default optional strings in the query."""
    made = [{"in": "query", "schema": {}, **parameter} for parameter in given]
    return document({path: {method: operation(parameters=made)}}, **more)


def body(schema: Any, media_type: str = "application/json", *, required: bool = True, **more: Any) -> dict[str, Any]:
    """Return a document with one operation that takes a body. `more` belongs to the media type."""
    content = {media_type: {"schema": schema, **more}}
    return document({"/things": {"post": operation(requestBody={"required": required, "content": content})}})


def input_of(schema: Any, **more: Any) -> Any:
    """Return a schema of a request as it is listed, with the definitions that it needs under `$defs`."""
    tool = only({**body(schema), **document(body(schema)["paths"], **more)})
    listed = definition(tool)["inputSchema"]
    made = listed["properties"]["body"]
    return {**made, "$defs": listed["$defs"]} if "$defs" in listed else made


def sent(tool: Tool, arguments: Mapping[str, Any] | bytes) -> Outgoing:
    """Return the request that arguments make; they fit the tool's schema."""
    raw = arguments if isinstance(arguments, bytes) else json.dumps(arguments).encode()
    assert tool.inputs.flaws(raw, json.loads(raw)) == []
    return request_of(tool, raw)


def target(tool: Tool, arguments: Mapping[str, Any] | bytes) -> str:
    return sent(tool, arguments).url.target.decode()


def header(outgoing: Outgoing, name: str) -> str | None:
    """Return a header of a request, which it has once at most."""
    found = [value.decode() for held, value in outgoing.headers if held == name.encode()]
    assert len(found) <= 1
    return found[0] if found else None


def written(directory: Path, text: str | Mapping[str, Any], name: str = "api.json") -> Path:
    path = directory / name
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


def refused(path: Path) -> Problem:
    """Return why a file is no document."""
    with pytest.raises(Unusable) as error:
        Document.load(path)
    return error.value.problem


def names(tools: Iterable[Tool]) -> list[str]:
    return [tool.name for tool in tools]
