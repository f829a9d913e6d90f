"""Where the arguments of a tool go: into the path, the query, headers and cookies, and the body of its request."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

from mcpgw.upstream.openapi_document import Document, Encoding, MediaType, Operation, Parameter, RequestBody, Schema
from mcpgw.upstream.openapi_names import argument_names
from mcpgw.upstream.openapi_problem import Unusable, step
from mcpgw.upstream.openapi_schema import Translation
from mcpgw.upstream.openapi_styles import DEFAULT, STYLES

BODY = "body"
Way = Literal["style", "json", "text"]

# 4.8.12: definitions of these are ignored.
_IGNORED = frozenset({"accept", "content-type", "authorization"})
# What frames a request, routes it, or speaks for somebody, is no argument.
_NEVER = re.compile(
    r"accept-encoding|connection|content-.*|cookie2?|date|expect|forwarded|host|keep-alive|mcp-.*|origin|proxy-.*"
    r"|sec-.*|set-cookie2?|te|trailer|transfer-encoding|upgrade|via|x-forwarded-.*|x-http-method.*|x-method-override"
    r"|x-original-.*|x-real-ip|x-rewrite-url"
)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 §5.6.2
_EXPRESSION = re.compile(r"\{([^{}]*)\}")
_LITERAL = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")  # RFC 3986 §3.3
_DELIMITED = frozenset({"spaceDelimited", "pipeDelimited"})
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass(frozen=True, slots=True)
class Bound:
    """A parameter as an argument of the tool is written into it. `way` other than style: as that media type."""

    argument: str
    name: str
    place: str
    style: str
    explode: bool
    reserved: bool
    way: Way


@dataclass(frozen=True, slots=True)
class Body:
    """How the argument `body` becomes the body of the request."""

    media_type: str
    kind: Literal["json", "form", "multipart", "text"]
    encoding: Mapping[str, Encoding] = field(default_factory=dict)


@dataclass(slots=True)
class Inputs:
    """The properties of a tool's arguments, and where they go."""

    properties: dict[str, dict[str, Any]] = field(default_factory=dict)
    required: list[str] = field(default_factory=list)
    bound: list[Bound] = field(default_factory=list)
    body: Body | None = None


def inputs_of(document: Document, operation: Operation, schemas: Translation, withheld: Collection[str]) -> Inputs:
    """Return the arguments of an operation. `withheld`: lower-case names of headers that the operator sets."""
    inputs = Inputs()
    _take_body(document, operation, schemas, inputs)
    found = list(_parameters(document, operation, withheld))
    names = argument_names([(p.name, p.place) for p, _ in found], [BODY] if inputs.body is not None else [])
    for argument, (parameter, where) in zip(names, found, strict=True):
        schema, way, place = _schema_of(document, parameter, where)
        made = schemas.schema(schema, place)
        inputs.properties[argument] = _described(made, parameter.description, parameter.deprecated)
        inputs.bound.append(_bound(argument, parameter, where, way))
        if parameter.required or parameter.place == "path":
            inputs.required.append(argument)
    if inputs.body is not None:  # last, as in a request
        inputs.properties[BODY] = inputs.properties.pop(BODY)
    return inputs


def template_of(operation: Operation, base_path: str, bound: Sequence[Bound]) -> tuple[str | Bound, ...]:
    """Return the path as literal texts and the parameters between them. Raises Unusable."""
    where = operation.where.rpartition("/")[0]
    by_name = {parameter.name: parameter for parameter in bound if parameter.place == "path"}
    pieces = _EXPRESSION.split(operation.path)
    literals, names = pieces[::2], pieces[1::2]
    if not operation.path.startswith("/") or not all(_LITERAL.fullmatch(text) for text in literals):
        raise Unusable(where, "is not a path, or has characters that a path has not", "percent-encode them")
    if any(unquote(part) in {".", ".."} for part in operation.path.split("/")):
        raise Unusable(where, "has a dot segment", "write the path that it means")
    if set(names) != set(by_name):
        raise Unusable(operation.where, "has other path parameters than its path", "declare each of them")
    parts: list[str | Bound] = [base_path.rstrip("/") + literals[0]]
    for name, literal in zip(names, literals[1:], strict=True):
        parts += [by_name[name], literal]
    return tuple(parts)


def _parameters(document: Document, operation: Operation, withheld: Collection[str]) -> Iterator[tuple[Parameter, str]]:
    """Yield the parameters that arguments are made of; an operation's own go before those of its path."""
    found: dict[tuple[str, str], tuple[Parameter, str]] = {}
    for where, raw in operation.parameters:
        parameter, place = document.read(raw, where, Parameter)
        found[parameter.name, parameter.place] = (parameter, place)
    for parameter, where in found.values():
        if parameter.place == "querystring":
            raise Unusable(where, "is the whole query, which is not supported", "exclude the operation")
        if parameter.place in {"header", "cookie"} and not _TOKEN.fullmatch(parameter.name):
            raise Unusable(step(where, "name"), "is not a name for this place", "letters, digits and - alone")
        name = parameter.name.lower()
        if parameter.place == "header" and (name in _IGNORED or name in withheld):
            continue
        is_refused = (parameter.place == "header" and _NEVER.fullmatch(name)) or (
            parameter.place == "cookie" and "cookie" in withheld
        )
        if is_refused and parameter.required:
            raise Unusable(where, "is a header that no caller may set", "set it in `headers`, or exclude the operation")
        if not is_refused:
            yield parameter, where


def _schema_of(document: Document, parameter: Parameter, where: str) -> tuple[Any, Way, str]:
    """Return the schema of a parameter, how its value is written, and the schema's pointer."""
    if parameter.content is None:
        if parameter.schema is None:
            raise Unusable(where, "has neither schema nor content", "add a schema")
        return parameter.schema, "style", step(where, "schema")
    if len(parameter.content) != 1:
        raise Unusable(step(where, "content"), "does not hold exactly one media type", "leave one")
    [(media_type, raw)] = parameter.content.items()
    place = step(where, "content", media_type)
    said, place = document.read(raw, place, MediaType)
    bare = bare_type(media_type)
    if not is_json(bare) and bare != "text/plain":
        raise Unusable(place, "is a media type that parameters are not written in", "exclude the operation")
    return True if said.schema is None else said.schema, "json" if is_json(bare) else "text", step(place, "schema")


def _bound(argument: str, parameter: Parameter, where: str, way: Way) -> Bound:
    style = parameter.style or DEFAULT[parameter.place]
    explode = style in {"form", "cookie"} if parameter.explode is None else parameter.explode
    if style not in STYLES[parameter.place]:
        raise Unusable(step(where, "style"), f"is not a style for {parameter.place}", "use one that is")
    if explode and style in _DELIMITED:
        raise Unusable(step(where, "explode"), f"has no meaning with {style}", "leave it out")
    reserved = parameter.allowReserved and parameter.place == "query"
    return Bound(argument, parameter.name, parameter.place, style, explode, reserved, way)


def _take_body(document: Document, operation: Operation, schemas: Translation, inputs: Inputs) -> None:
    if operation.said.requestBody is None:
        return
    said, where = document.read(operation.said.requestBody, step(operation.where, "requestBody"), RequestBody)
    kinds = {key: kind for key in said.content if (kind := _kind(bare_type(key))) is not None}
    written = min(kinds, key=lambda key: _KINDS.index(kinds[key]), default=None)
    if written is None:
        if said.required:
            raise Unusable(step(where, "content"), "has no media type that can be sent", "exclude the operation")
        return
    kind = kinds[written]
    media, place = document.read(said.content[written], step(where, "content", written), MediaType)
    schema = True if media.schema is None else media.schema
    place = step(place, "schema")
    if kind in {"form", "multipart"}:
        without = _files(document, schema, place, media.encoding) if kind == "multipart" else frozenset()
        made: Schema = schemas.definition(schema, place, without=without)
        if isinstance(made, dict) and "allOf" not in made:
            made = {**made, "type": "object"}
    else:
        made = schemas.schema(schema, place)
    media_type = "application/json" if kind == "json" and "*" in written else bare_type(written)
    inputs.body = Body(media_type, kind, media.encoding)
    inputs.properties[BODY] = _described(made, said.description, False)
    if said.required:
        inputs.required.append(BODY)


_KINDS = ("json", "form", "multipart", "text")


def _kind(media_type: str) -> Literal["json", "form", "multipart", "text"] | None:
    if is_json(media_type) or media_type in {"*/*", "application/*"}:
        return "json"
    if media_type in _FORMS:
        return "form" if media_type == _FORMS[0] else "multipart"
    return "text" if media_type == "text/plain" else None


def _files(document: Document, schema: Any, where: str, encoding: Mapping[str, Encoding]) -> frozenset[str]:
    """Return the parts of a form that are files: no text, so no arguments. Raises Unusable when one is required."""
    found, place = document.resolved(schema, where)
    properties = found.get("properties") if isinstance(found, dict) else None
    files = set()
    for name, raw in properties.items() if isinstance(properties, dict) else ():
        inner, _ = document.resolved(raw, step(place, "properties", name))
        if isinstance(inner, dict) and isinstance(inner.get("items"), dict):
            inner, _ = document.resolved(inner["items"], step(place, "properties", name, "items"))
        said = encoding.get(name, Encoding()).contentType
        is_text = said is None or is_json(bare_type(said)) or said.startswith("text/")
        if not is_text or (isinstance(inner, dict) and _is_binary(inner)):
            files.add(name)
    needed = found.get("required", []) if isinstance(found, dict) else []
    if isinstance(needed, list) and any(name in files for name in needed if isinstance(name, str)):
        raise Unusable(step(place, "required"), "needs a file, which no argument can be", "exclude the operation")
    return frozenset(files)


def _is_binary(schema: Mapping[str, Any]) -> bool:
    return schema.get("format") == "binary" or "contentEncoding" in schema or "contentMediaType" in schema


def _described(schema: Schema, description: str | None, deprecated: bool) -> dict[str, Any]:
    made: dict[str, Any] = dict(schema) if isinstance(schema, dict) else {} if schema else {"not": {}}
    if description:
        made["description"] = description
    if deprecated:
        made["deprecated"] = True
    return made


def bare_type(media_type: str) -> str:
    """Return a media type without its parameters, in lower case."""
    return media_type.partition(";")[0].strip().lower()


def is_json(media_type: str) -> bool:
    return media_type in {"application/json", "text/json"} or media_type.endswith("+json")
