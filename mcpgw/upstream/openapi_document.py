"""An OpenAPI 3.x document: its operations, and the objects they consist of, with references within the document.

Only what is used is read, as typed objects (msgspec); a reference that leads out of the document is refused, never
followed. Section numbers are those of OpenAPI 3.1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote

import msgspec
from referencing import Registry, Specification
from referencing.exceptions import Unresolvable

from mcpgw.errors import UsageError
from mcpgw.upstream.http import Url
from mcpgw.upstream.openapi_file import read
from mcpgw.upstream.openapi_problem import Problem, Unusable, step

MAX_HOPS = 16  # from a reference to what it means, over other references
T = TypeVar("T", bound=msgspec.Struct)
Schema = dict[str, Any] | bool

_VERSION = re.compile(r"3\.([012])(?:\.[0-9]+)?(?:-.*)?")
_DIALECTS = ("https://json-schema.org/draft/2020-12/", "https://spec.openapis.org/oas/3.")
_METHODS = frozenset({"delete", "get", "head", "options", "patch", "post", "put", "query", "trace"})


class Encoding(msgspec.Struct, frozen=True):
    """How one property of a form is written (4.8.15). Without style, explode and allowReserved: by content type."""

    contentType: str | None = None
    style: str | None = None
    explode: bool | None = None
    allowReserved: bool | None = None


class MediaType(msgspec.Struct, frozen=True):
    schema: Any = None
    encoding: dict[str, Encoding] = {}


class Parameter(msgspec.Struct, frozen=True, rename={"place": "in"}):
    """4.8.12."""

    name: str
    place: Literal["path", "query", "header", "cookie", "querystring"]
    required: bool = False
    description: str | None = None
    deprecated: bool = False
    style: str | None = None
    explode: bool | None = None
    allowReserved: bool = False
    schema: Any = None
    content: dict[str, Any] | None = None


class RequestBody(msgspec.Struct, frozen=True):
    content: dict[str, Any]
    required: bool = False
    description: str | None = None


class Response(msgspec.Struct, frozen=True):
    content: dict[str, Any] = {}


class Server(msgspec.Struct, frozen=True):
    url: str
    variables: dict[str, Any] = {}


class _Operation(msgspec.Struct, frozen=True):
    operationId: str | None = None
    summary: str | None = None
    description: str | None = None
    tags: list[str] = []
    deprecated: bool = False
    parameters: list[Any] = []
    requestBody: Any = None
    responses: dict[str, Any] = {}
    servers: list[Any] | None = None


class _PathItem(msgspec.Struct, frozen=True):
    parameters: list[Any] = []
    servers: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation where it stands. `parameters` are raw, those of its path before its own, each with its pointer."""

    where: str
    method: str
    path: str
    said: _Operation
    parameters: Sequence[tuple[str, Any]]
    has_servers: bool

    @property
    def id(self) -> str:
        return self.said.operationId or self.place

    @property
    def place(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.id, self.place, *self.said.tags)


class Document:
    """One document. Methods that read a part of it raise Unusable with its place."""

    def __init__(self, tree: dict[str, Any]) -> None:
        version = tree.get("openapi")
        found = _VERSION.fullmatch(version) if isinstance(version, str) else None
        if found is None:
            raise Unusable("/openapi", "is not a version of OpenAPI 3.0, 3.1 or 3.2", "convert the document to 3.1")
        dialect = tree.get("jsonSchemaDialect", _DIALECTS[0])
        if not str(dialect).startswith(_DIALECTS):
            raise Unusable("/jsonSchemaDialect", "is an unknown dialect", "use JSON Schema 2020-12")
        self.before_3_1 = found[1] == "0"
        self.tree = tree
        # Opaque: nothing in the document can claim another base for references, so a pointer is only a pointer.
        self._resolver = Registry().with_resource("", Specification.OPAQUE.create_resource(tree)).resolver()

    @classmethod
    def load(cls, path: Path) -> Document:
        return cls(read(path))

    def target(self, reference: object, where: str) -> tuple[Any, str]:
        """Return what a reference points at, and the pointer of that."""
        place = step(where, "$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise Unusable(place, "leads out of the document", "bundle the document into one file")
        try:
            return self._resolver.lookup(reference).contents, unquote(reference[1:])
        except (Unresolvable, ValueError, IndexError, TypeError):
            raise Unusable(place, "points at nothing", "correct the reference") from None

    def resolved(self, value: Any, where: str) -> tuple[Any, str]:
        """Return a value, or what it stands for if it is a reference object, and the pointer of that."""
        for _ in range(MAX_HOPS):
            if not isinstance(value, dict) or "$ref" not in value:
                return value, where
            value, where = self.target(value["$ref"], where)
        raise Unusable(where, "is a reference without end", "let it point at a definition")

    def read(self, value: Any, where: str, kind: type[T]) -> tuple[T, str]:
        """Return the object that a value is or stands for, and its pointer."""
        found, place = self.resolved(value, where)
        try:
            return msgspec.convert(found, kind), place
        except msgspec.ValidationError as error:
            raise Unusable(place, f"is malformed: {error}", "correct it as OpenAPI has it") from None

    def operations(self) -> Iterator[tuple[Sequence[str], Operation | Problem]]:
        """Yield the operations in the order of the document, or what is wrong with one, each with its labels.

        Labels are what a glob may match: its id, its method and path, its tags.
        """
        paths = self.tree.get("paths", {})
        if not isinstance(paths, dict):
            raise Unusable("/paths", "is not an object", "write `paths: {/pets: …}`")
        for path, item in paths.items():
            if path.startswith("x-"):
                continue
            where = step("/paths", path)
            try:
                raw, where = self.resolved(item, where)
                shared, _ = self.read(raw, where, _PathItem)
            except Unusable as error:
                yield (f"* {path}",), error.problem
                continue
            for method in raw:
                if method in _METHODS:
                    try:
                        operation = self._operation(raw, where, path, method, shared)
                        yield operation.labels, operation
                    except Unusable as error:
                        yield (f"{method.upper()} {path}",), error.problem

    def _operation(self, item: Mapping[str, Any], where: str, path: str, method: str, shared: _PathItem) -> Operation:
        place = step(where, method)
        said, _ = self.read(item[method], place, _Operation)
        parameters = [
            *((step(where, "parameters", i), raw) for i, raw in enumerate(shared.parameters)),
            *((step(place, "parameters", i), raw) for i, raw in enumerate(said.parameters)),
        ]
        has_servers = bool(shared.servers or said.servers)
        return Operation(place, method.upper(), path, said, parameters, has_servers)

    def base(self, configured: str | None) -> Url:
        """Return where the API is: as configured, or at the document's only server."""
        if configured is not None:
            return _base(configured, "")
        servers = self.tree.get("servers")
        fix = "set base_url"
        if not isinstance(servers, list) or len(servers) != 1:
            raise Unusable("/servers", "is not exactly one server", fix)
        server, place = self.read(servers[0], "/servers/0", Server)
        if "{" in server.url or not re.match(r"https?://", server.url, re.IGNORECASE):
            raise Unusable(step(place, "url"), "is not an absolute URL", fix)
        return _base(server.url, step(place, "url"))


def _base(text: str, where: str) -> Url:
    try:
        url = Url.parse(text)
    except UsageError as error:
        raise Unusable(where, error.message, error.fix) from None
    path = url.target.decode()
    if "?" in path or any(unquote(part) in {".", ".."} for part in path.split("/")):
        raise Unusable(where, "is a base URL with a query or with dot segments", "write https://host/path")
    return url
