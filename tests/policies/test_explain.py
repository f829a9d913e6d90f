"""Why a policy decides as it does."""

from __future__ import annotations

import pytest

from mcpgw.errors import InvalidParams
from mcpgw.policies.bundle import Bundle
from mcpgw.policies.explain import document_of, explain, explained
from tests.policies.parts import ALLOW, DENY, MAX_INPUT_BYTES, asked, bundle

RULES = f"""default decision := {DENY}

decision := {ALLOW} if {{
	input.tool.name == "read"
	input.arguments.go
}}
"""


@pytest.mark.requirement("policy:explain")
def test_an_explanation_holds_decision_input_and_the_lines_that_were_true() -> None:
    document = document_of(asked("call", b'{"go":false}'))
    told = explained(bundle(RULES), document, MAX_INPUT_BYTES)
    assert told["decision"] == {"effect": "deny", "reasons": ["rule"], "message": None, "obligations": []}
    assert told["policy_sha256"] == bundle(RULES).sha256
    assert told["input"] == document
    (lines,) = told["lines"]
    assert (lines["file"], 6 in lines["true"], 7 in lines["true"]) == ("policy.rego", True, True)
    allowed = explained(bundle(RULES), document_of(asked("list")), MAX_INPUT_BYTES)["lines"][0]
    assert 5 in allowed["not_true"]


def test_an_explanation_shows_where_the_evaluators_differ() -> None:
    rules = f"decision := {ALLOW} if {{ x := input.arguments.x; not x == 1 }}\n"
    told = explained(bundle(rules), document_of(asked("call")), MAX_INPUT_BYTES)
    assert told["decision"]["reasons"] == ["engine:undefined"]
    assert '"allow"' in told["program"]
    assert told["interpreter"] == '"<undefined>"'


@pytest.mark.requirement("policy:explain")
async def test_the_same_comes_from_a_process_of_its_own() -> None:
    example, document = Bundle.own("example"), document_of(asked("call"))
    assert await explain(example, document, MAX_INPUT_BYTES) == explained(example, document, MAX_INPUT_BYTES)


@pytest.mark.parametrize("change", [{"phase": "result"}, {"principal": {}}, {"extra": 1}, {"arguments": []}])
async def test_a_document_that_no_question_can_have_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidParams, match="not an input document"):
        await explain(Bundle.own("example"), document_of(asked("call")) | change, MAX_INPUT_BYTES)
