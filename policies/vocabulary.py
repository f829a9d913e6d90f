"""The built-in functions that a policy may use: those that this engine and OPA were seen to answer alike.

Left out on purpose: what reaches outside or is not the same twice (http.send, opa.runtime, rand, uuid, net.lookup_*,
time.now_ns: the time is `input.context.time`), what the gateway does itself (crypto, io.jwt), what one call can
exhaust the memory with (numbers.range, strings.repeat, bits.lsh), what this engine lacks (walk, print) and what the two
engines answer differently (upper, substring, indexof, to_number, json.marshal, strings.count, sprintf beyond %v).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """`arity` is the number of arguments. `total`: no argument can make it fail.

    `literal` are the positions of arguments that must stand in the policy's text: patterns, delimiters and
    replacements from a caller could make one call arbitrarily dear.
    """

    arity: int
    total: bool = False
    literal: tuple[int, ...] = ()


# `count` of a string counts characters beyond the basic plane twice here and once in OPA; `net.cidr_contains` takes
# IPv4-mapped IPv6 addresses for IPv6 here and for IPv4 in OPA (the gateway writes them as IPv4).
ALLOWED: Mapping[str, BuiltIn] = {
    "abs": BuiltIn(1),
    "array.concat": BuiltIn(2),
    "array.reverse": BuiltIn(1),
    "array.slice": BuiltIn(3),
    "base64.decode": BuiltIn(1),
    "base64.is_valid": BuiltIn(1),
    "ceil": BuiltIn(1),
    "concat": BuiltIn(2, literal=(0,)),
    "contains": BuiltIn(2),
    "count": BuiltIn(1),
    "endswith": BuiltIn(2),
    "floor": BuiltIn(1),
    "format_int": BuiltIn(2, literal=(1,)),
    "glob.match": BuiltIn(3, literal=(0, 1)),
    "graph.reachable": BuiltIn(2),
    "intersection": BuiltIn(1),
    "is_array": BuiltIn(1, total=True),
    "is_boolean": BuiltIn(1, total=True),
    "is_null": BuiltIn(1, total=True),
    "is_number": BuiltIn(1, total=True),
    "is_object": BuiltIn(1, total=True),
    "is_set": BuiltIn(1, total=True),
    "is_string": BuiltIn(1, total=True),
    "json.is_valid": BuiltIn(1),
    "json.unmarshal": BuiltIn(1),
    "lower": BuiltIn(1),
    "max": BuiltIn(1),
    "min": BuiltIn(1),
    "net.cidr_contains": BuiltIn(2),
    "net.cidr_is_valid": BuiltIn(1),
    "object.filter": BuiltIn(2),
    "object.get": BuiltIn(3),
    "object.keys": BuiltIn(1),
    "object.remove": BuiltIn(2),
    "object.union": BuiltIn(2),
    "regex.match": BuiltIn(2, literal=(0,)),
    "replace": BuiltIn(3, literal=(2,)),
    "round": BuiltIn(1),
    "semver.compare": BuiltIn(2),
    "semver.is_valid": BuiltIn(1),
    "sort": BuiltIn(1),
    "split": BuiltIn(2),
    "sprintf": BuiltIn(2, literal=(0,)),
    "startswith": BuiltIn(2),
    "strings.any_prefix_match": BuiltIn(2),
    "strings.any_suffix_match": BuiltIn(2),
    "strings.reverse": BuiltIn(1),
    "sum": BuiltIn(1),
    "time.clock": BuiltIn(1),
    "time.date": BuiltIn(1),
    "time.parse_duration_ns": BuiltIn(1),
    "time.parse_rfc3339_ns": BuiltIn(1),
    "time.weekday": BuiltIn(1),
    "trim": BuiltIn(2),
    "trim_left": BuiltIn(2),
    "trim_prefix": BuiltIn(2),
    "trim_right": BuiltIn(2),
    "trim_space": BuiltIn(1),
    "trim_suffix": BuiltIn(2),
    "type_name": BuiltIn(1, total=True),
    "union": BuiltIn(1),
}

# What to write instead of what policies ask for most often.
INSTEAD: Mapping[str, str] = {
    "time.now_ns": "use `input.context.time` (nanoseconds since 1970)",
    "http.send": "put the facts in data.json, or let the caller's token carry them as claims",
    "upper": "compare in lower case: `lower(x)`",
    "print": "leave it out; `mcpgw policy explain` shows which lines were true",
    "substring": "use startswith, endswith, trim_prefix or trim_suffix",
    "indexof": "use contains",
    "walk": "name the paths that you mean, or iterate with `some x in …`",
    "numbers.range": "iterate over what is in the input with `some x in …`",
    "io.jwt.decode_verify": "the gateway verifies tokens: use `input.principal.claims`",
    "io.jwt.decode": "the gateway verifies tokens: use `input.principal.claims`",
}
