"""What a policy answered, read strictly: whatever is not an answer of the documented shape is a deny."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from mcpgw.domain import (
    Decision,
    Effect,
    KeepOnly,
    MaxResultBytes,
    Obligation,
    RedactArguments,
    RedactResult,
    Tag,
)

UNDEFINED = "engine:undefined"
ERROR = "engine:error"
EXHAUSTED = "engine:exhausted"
BAD_OUTPUT = "engine:bad_output"
UNSUPPORTED = "engine:unsupported_obligation"
TOO_LARGE = "engine:input_too_large"
DISAGREEMENT = "engine:disagreement"
UNREACHABLE = "engine:unreachable"

MESSAGES: Mapping[str, str] = {
    UNDEFINED: "The policy of this gateway says nothing about this, so it is denied.",
    ERROR: "The policy of this gateway could not be evaluated for this, so it is denied.",
    EXHAUSTED: "The policy of this gateway takes too long to decide this, so it is denied.",
    BAD_OUTPUT: "The policy of this gateway gave no proper answer for this, so it is denied.",
    UNSUPPORTED: "The policy of this gateway asks for something that the gateway cannot do, so this is denied.",
    TOO_LARGE: "This is larger than what the policy of this gateway may be asked about, so it is denied.",
    DISAGREEMENT: "The policy of this gateway can be read in two ways for this, so it is denied.",
    UNREACHABLE: "The policy of this gateway cannot be asked now, so this is denied.",
}

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Pointer = Annotated[str, Meta(pattern=r"^(/|$)", max_length=512)]


class Answer(Struct, forbid_unknown_fields=True):
    """`data.mcpgw.authz.decision`. The limits keep a record of the log within what is reserved for it."""

    effect: Literal["allow", "deny", "hold"]
    reasons: Annotated[list[Name], Meta(min_length=1, max_length=16)]
    message: Annotated[str, Meta(max_length=2000)] | None = None
    obligations: Annotated[list[dict[str, Any]], Meta(max_length=32)] = []


class _Pointers(Struct, forbid_unknown_fields=True):
    type: str
    pointers: Annotated[list[Pointer], Meta(max_length=64)]


class _Redaction(_Pointers):
    # Detectors are named in the contract; this version has none that it could run.
    detectors: Annotated[list[str], Meta(max_length=0)] = []


class _Names(Struct, forbid_unknown_fields=True):
    type: str
    names: Annotated[list[str], Meta(max_length=1000)]


class _Size(Struct, forbid_unknown_fields=True):
    type: str
    n: Annotated[int, Meta(ge=0)]


class _Tag(Struct, forbid_unknown_fields=True):
    type: str
    name: Name


def refusal(reason: str, sha256: str) -> Decision:
    """Return the deny of an engine that has no answer of the policy to give."""
    return Decision(Effect.DENY, (reason,), sha256, MESSAGES[reason])


def read_text(text: str, sha256: str) -> Decision:
    """Return the decision of an answer in JSON."""
    try:
        return read(msgspec.json.decode(text), sha256)
    except (msgspec.DecodeError, RecursionError):
        return refusal(BAD_OUTPUT, sha256)


def read(document: object, sha256: str) -> Decision:
    """Return the decision of an answer, or a deny that says what is wrong with it."""
    try:
        answer = msgspec.convert(document, Answer)
        obligations = tuple(_obligation(given) for given in answer.obligations)
    except NotImplementedError:
        return refusal(UNSUPPORTED, sha256)
    except (msgspec.ValidationError, RecursionError):
        return refusal(BAD_OUTPUT, sha256)
    return Decision(Effect(answer.effect), tuple(answer.reasons), sha256, answer.message, obligations)


def _obligation(given: dict[str, Any]) -> Obligation:
    """Return what the gateway shall do. Raises ValidationError, and NotImplementedError for what it cannot do."""
    match given.get("type"):
        case "redact_arguments":
            return RedactArguments(tuple(msgspec.convert(given, _Pointers).pointers))
        case "redact_result":
            if given.get("detectors"):
                raise NotImplementedError
            return RedactResult(tuple(msgspec.convert(given, _Redaction).pointers))
        case "keep_only":
            return KeepOnly(frozenset(msgspec.convert(given, _Names).names))
        case "max_result_bytes":
            return MaxResultBytes(msgspec.convert(given, _Size).n)
        case "tag":
            return Tag(msgspec.convert(given, _Tag).name)
        case str():
            # rate_limit, charge_budget and require_approval among them.
            raise NotImplementedError
        case _:
            raise msgspec.ValidationError("an obligation has a type")


def shown(decision: Decision) -> dict[str, Any]:
    """Return a decision as a policy would have written it."""
    return {
        "effect": decision.effect.value,
        "reasons": list(decision.reasons),
        "message": decision.message,
        "obligations": [_shown(obligation) for obligation in decision.obligations],
    }


def _shown(obligation: Obligation) -> dict[str, Any]:
    match obligation:
        case RedactArguments(pointers):
            return {"type": "redact_arguments", "pointers": list(pointers)}
        case RedactResult(pointers):
            return {"type": "redact_result", "pointers": list(pointers)}
        case KeepOnly(names):
            return {"type": "keep_only", "names": sorted(names)}
        case MaxResultBytes(n):
            return {"type": "max_result_bytes", "n": n}
        case Tag(name):
            return {"type": "tag", "name": name}
