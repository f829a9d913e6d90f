"""Why a policy decides as it does: the decision, the input it was given, and which lines were true for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio.to_thread
import msgspec

from mcpgw.errors import InvalidParams
from mcpgw.policies.apart import apart
from mcpgw.policies.bundle import Bundle
from mcpgw.policies.input import Document, Inputs
from mcpgw.policies.local import LocalEngine, compiled, trace
from mcpgw.policies.output import shown
from mcpgw.ports import Question


def check_document(document: Mapping[str, Any]) -> None:
    """Raise InvalidParams for a document that no question can have."""
    try:
        msgspec.convert(dict(document), Document)
    except msgspec.ValidationError as error:
        raise InvalidParams(f"not an input document: {error}", fix="its schema is policies/schema/input.json") from None


def explained(bundle: Bundle, document: Mapping[str, Any], max_input_bytes: int) -> dict[str, Any]:
    """Return what the bundle decides about an input document, and why. The interpreter has no budget: call it where
    it can be ended. Raises InvalidRequest for a bundle that is refused."""
    given = msgspec.json.encode(document)
    source = compiled(bundle, max_input_bytes)
    decision = LocalEngine(source).evaluate(given)
    seen = trace(source, given)
    return {
        "policy_sha256": bundle.sha256,
        "decision": shown(decision),
        "input": dict(document),
        "lines": [
            {"file": file, "true": true, "not_true": not_true} for file, (true, not_true) in sorted(seen.lines.items())
        ],
        # In JSON; None where the evaluation failed. Where these two differ, only a deny is believed.
        "program": seen.program,
        "interpreter": seen.interpreter,
    }


async def explain(bundle: Bundle, document: Mapping[str, Any], max_input_bytes: int) -> dict[str, Any]:
    """As `explained`, of a document that may be anybody's, in a process of its own.

    Raises InvalidParams for a document that no question can have, InvalidRequest when there is no answer in time.
    """
    check_document(document)
    given = {"files": dict(bundle.files), "input": dict(document), "max_input_bytes": max_input_bytes}
    answer: dict[str, Any] = await anyio.to_thread.run_sync(apart, "explain", given)
    return answer


def document_of(question: Question) -> dict[str, Any]:
    """Return the input document of a question, to be explained."""
    inputs = Inputs()
    document: dict[str, Any] = msgspec.json.decode(inputs.whole(question, inputs.head(question)))
    return document
