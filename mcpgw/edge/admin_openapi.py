"""The description of the admin API, made from its table."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from mcpgw import __version__
from mcpgw.edge import admin_schema as schema
from mcpgw.edge.admin_routes import Operation
from mcpgw.errors import WIRE

_REF = "#/components/schemas/{name}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "fix", "data"],
            "properties": {
                "code": {"type": "string", "enum": sorted(WIRE)},
                "message": {"type": "string"},
                "fix": {"type": "string", "description": "What to do; may be empty."},
                "data": {"type": "object"},
            },
        }
    },
}


def document(operations: Sequence[Operation], prefix: str) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document of these operations."""
    _, components = msgspec.json.schema_components([o.given for o in operations], ref_template=_REF)
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(prefix + operation.path, {})[operation.method.lower()] = _described(operation, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mcpgw admin API", "version": __version__},
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}],
        "paths": paths,
    }


def _described(operation: Operation, components: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    described: dict[str, Any] = {
        "operationId": operation.run.__name__,
        "summary": inspect.getdoc(operation.run),
        "x-required-scope": operation.scope,
        "responses": _responses(operation),
    }
    fields = components[operation.given.__name__]
    in_query = operation.method in {"GET", "DELETE"}
    if in_query:
        # The body of a DELETE may hold them instead, so there the query need not.
        required = fields.get("required", []) if operation.method == "GET" else []
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": inner}
            for name, inner in fields.get("properties", {}).items()
        ]
    if operation.given is not schema.Nothing and operation.method != "GET":
        described["requestBody"] = {
            "required": not in_query and bool(fields.get("required")),
            "content": {"application/json": {"schema": {"$ref": _REF.format(name=operation.given.__name__)}}},
        }
    if parameters:
        described["parameters"] = parameters
    return described


def _responses(operation: Operation) -> dict[str, Any]:
    answer = {"content": {"application/json": {"schema": {"type": "object"}}}}
    failed = {"content": {"application/json": {"schema": {"$ref": _REF.format(name="Error")}}}}
    responses = {str(operation.status): {"description": "Done.", **answer}}
    if operation.path.startswith("/kill-switches") and operation.method != "GET":
        responses["202"] = {"description": "Recorded; the workers under `missing` have not applied it.", **answer}
    return responses | {
        "401": {"description": "No credential, or one that is not valid here.", **failed},
        "403": {"description": f"The scope {operation.scope} is missing.", **failed},
        "default": {"description": "Refused, or failed.", **failed},
    }
