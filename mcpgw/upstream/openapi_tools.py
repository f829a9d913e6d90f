"""The operations of a document as tools: definitions to be pinned, and all that a call of one needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

import msgspec

from mcpgw.openapi_section import OpenApiServer
from mcpgw.upstream.http import Url
from mcpgw.upstream.openapi_checker import Checker
from mcpgw.upstream.openapi_document import Document, MediaType, Operation, Response
from mcpgw.upstream.openapi_names import tool_names
from mcpgw.upstream.openapi_parameters import Body, Bound, bare_type, inputs_of, is_json, template_of
from mcpgw.upstream.openapi_problem import Problem, Unusable, step
from mcpgw.upstream.openapi_schema import Direction, Translation

MAX_TOOLS = 1000
MAX_DESCRIPTION = 4096  # characters, as the scan of definitions has it
MAX_TITLE = 200
META = "io.mcpgw/openapi"
# The methods that the HTTP client sends: an answer to HEAD has no body to find the end of.
SENT = frozenset({"DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT"})
_ANNOTATIONS = {
    "GET": {"readOnlyHint": True},
    "OPTIONS": {"readOnlyHint": True},
    "PUT": {"readOnlyHint": False, "idempotentHint": True},
    "DELETE": {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": True},
}
_OK = re.compile(r"2(?:[0-9]{2}|XX)")
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,60}")


@dataclass(frozen=True, slots=True)
class Tool:
    """One operation. `definition` is what clients list; a digest in it covers everything that decides what is sent."""

    name: str
    definition: bytes
    method: bytes
    base: Url
    template: tuple[str | Bound, ...]
    bound: tuple[Bound, ...]
    body: Body | None
    accept: bytes
    inputs: Checker
    outputs: Checker | None


def tools_of(document: Document, entry: OpenApiServer) -> tuple[Sequence[Tool], Sequence[Problem]]:
    """Return the tools of the selected operations, and what hinders the others from being some.

    Raises Unusable when it hinders all.
    """
    base = document.base(entry.base_url)
    selected, problems = _selected(document, entry)
    if len(selected) > MAX_TOOLS:
        raise Unusable("/paths", f"has {len(selected)} operations", f"include at most {MAX_TOOLS} of them")
    names = tool_names(selected, entry.names)
    unused = entry.names.keys() - {label for operation in selected for label in (operation.id, operation.place)}
    problems += [Problem("/paths", f"has no operation `{key}` to name", "correct `names`") for key in sorted(unused)]
    tools: list[Tool] = []
    for operation in selected:
        name = names[operation.place]
        try:
            if isinstance(name, Unusable):
                raise name
            tools.append(_tool(document, entry, base, operation, name))
        except Unusable as error:
            problems.append(error.problem)
    return tools, problems


def _selected(document: Document, entry: OpenApiServer) -> tuple[list[Operation], list[Problem]]:
    include, exclude = entry.operations.include, entry.operations.exclude
    unmatched = set(include)
    selected: list[Operation] = []
    problems: list[Problem] = []
    for labels, found in document.operations():
        matched = {glob for glob in include if any(fnmatchcase(label, glob) for label in labels)}
        unmatched -= matched
        if (include and not matched) or any(fnmatchcase(label, glob) for glob in exclude for label in labels):
            continue
        if isinstance(found, Problem):
            problems.append(found)
        else:
            selected.append(found)
    problems += [Problem("/paths", f"has no operation `{glob}` to include", "correct it") for glob in sorted(unmatched)]
    return selected, problems


def _tool(document: Document, entry: OpenApiServer, base: Url, operation: Operation, name: str) -> Tool:
    where = operation.where
    if operation.method not in SENT:
        raise Unusable(where, f"{operation.method} is not sent", f"exclude `{operation.place}`")
    if operation.has_servers and entry.base_url is None:
        raise Unusable(where, "has servers of its own", "set base_url, where all operations are then")
    schemas = Translation(document, Direction.INPUT)
    inputs = inputs_of(document, operation, schemas, {header.lower() for header in entry.headers})
    template = template_of(operation, base.target.decode(), inputs.bound)
    schema: dict[str, Any] = {"type": "object", "properties": inputs.properties, "additionalProperties": False}
    if inputs.required:
        schema["required"] = inputs.required
    if schemas.definitions:
        schema["$defs"] = schemas.definitions
    accept = _accept(document, operation)
    output, outputs = _output(document, operation) if entry.output_schemas else (None, None)
    bound = tuple(inputs.bound)
    request = _digest(operation, base, bound, inputs.body, accept)
    definition: dict[str, Any] = {
        "name": name,
        **_said(operation),
        "inputSchema": schema,
        **({} if output is None else {"outputSchema": output}),
        "annotations": _ANNOTATIONS.get(operation.method, {"readOnlyHint": False}),
        "_meta": {META: {"operation": operation.place, "request": request}},
    }
    return Tool(
        name=name,
        definition=_encoded(definition, where),
        method=operation.method.encode(),
        base=base,
        template=template,
        bound=tuple(parameter for parameter in bound if parameter.place != "path"),
        body=inputs.body,
        accept=accept.encode(),
        inputs=Checker(schema, where),
        outputs=outputs,
    )


def _said(operation: Operation) -> dict[str, str]:
    said = operation.said
    text = said.description or said.summary or ""
    if said.deprecated:
        text = f"Deprecated. {text}".rstrip()
    if len(text) > MAX_DESCRIPTION:
        text = text[: MAX_DESCRIPTION - 1] + "…"
    found = {"title": " ".join((said.summary or "").split())[:MAX_TITLE], "description": text}
    return {key: value for key, value in found.items() if value}


def _answers(document: Document, operation: Operation) -> Iterator[tuple[str, Response]]:
    """Yield the answers that say that all went well, with their pointers."""
    said = operation.said.responses
    good = [status for status in said if _OK.fullmatch(status)] or [status for status in said if status == "default"]
    for status in good:
        response, where = document.read(said[status], step(operation.where, "responses", status), Response)
        yield where, response


def _accept(document: Document, operation: Operation) -> str:
    """Return what to ask for: JSON where it is offered."""
    types = [bare_type(key) for _, response in _answers(document, operation) for key in response.content]
    preferred = [kind for kind in dict.fromkeys(types) if is_json(kind) and _MEDIA_TYPE.fullmatch(kind)]
    return ", ".join([*preferred, "*/*;q=0.5"]) if preferred else "*/*"


def _output(document: Document, operation: Operation) -> tuple[dict[str, Any] | None, Checker | None]:
    """Return the schema of every good answer, if all of them are JSON objects; a tool does not have to have one."""
    translation = Translation(document, Direction.OUTPUT)
    schemas: list[dict[str, Any]] = []
    try:
        for where, response in _answers(document, operation):
            key = next((key for key in response.content if is_json(bare_type(key))), None)
            if key is None:
                return None, None
            media, place = document.read(response.content[key], step(where, "content", key), MediaType)
            schema = translation.definition(media.schema, step(place, "schema"))
            if not _is_object(schema):
                return None, None
            schemas += [schema] if schema not in schemas else []
        if not schemas:
            return None, None
        made: dict[str, Any] = (
            {**schemas[0], "type": "object"} if len(schemas) == 1 else {"type": "object", "anyOf": schemas}
        )
        if translation.definitions:
            made["$defs"] = translation.definitions
        return made, Checker(made, operation.where)
    except Unusable:
        return None, None


def _is_object(schema: dict[str, Any]) -> bool:
    parts = schema.get("allOf", [])
    return schema.get("type") == "object" or (
        "type" not in schema and ("properties" in schema or any(isinstance(p, dict) and _is_object(p) for p in parts))
    )


def _digest(operation: Operation, base: Url, bound: Sequence[Bound], body: Body | None, accept: str) -> str:
    """Return the digest of what makes a request out of arguments: another one is another tool."""
    made = {
        "method": operation.method,
        "url": base.origin + base.target.decode().rstrip("/") + operation.path,
        "parameters": bound,
        "body": body,
        "accept": accept,
    }
    return sha256(msgspec.json.encode(made, order="sorted")).hexdigest()


def _encoded(definition: dict[str, Any], where: str) -> bytes:
    try:
        return json.dumps(definition, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise Unusable(where, "has half a character (a lone surrogate)", "take it out") from None
