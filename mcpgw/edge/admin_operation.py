"""What a row of the admin API's table is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

from mcpgw.domain import Principal
from mcpgw.edge import admin_schema as schema
from mcpgw.edge.admin_schema import B
from mcpgw.edge.services import Json, Services


@dataclass(frozen=True, slots=True)
class Ask(Generic[B]):
    """What was asked: by whom, of which thing (the path's parameters), with what (body or query)."""

    who: Principal
    path: Mapping[str, str]
    given: B


Run = Callable[[Services, Ask[Any]], Awaitable[Json]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row. `given` is read from the query of a GET, else from the body (of a DELETE without body: the query).

    `status` is that of success; an answer that names missing workers is 202.
    """

    method: str
    path: str
    scope: str
    run: Run
    given: type[schema.Body] = schema.Nothing
    status: int = 200
