"""Every check with another result through the gateway than without it, and why that is right."""

from __future__ import annotations

from collections.abc import Mapping

Check = tuple[str, str]
"""Scenario, check."""
Leg = tuple[str, str]
"""The server behind the gateway, what the suite is asked for in front of it."""


def _of_polling(why: str) -> Mapping[Check, str]:
    checks = ("server-sse-priming-event", "server-sse-retry-field", "server-sse-disconnect-resume")
    return {("server-sse-polling", check): why for check in checks}


_COUNTS_STREAMS: Mapping[Check, str] = {
    ("server-sse-multiple-streams", "server-sse-streams-functional"): (
        "it counts how many of three concurrent tools/list are answered as streams; the gateway answers them from its"
        " pins as one JSON object each, as the transport allows, of which the suite only takes note"
    ),
}

_HAVE_NO_NAMES: Mapping[Check, str] = {
    ("input-required-result-basic-elicitation", "sep-2322-elicitation-incomplete"): (
        "it wants the question under the key user_name; a handshake-era server asks by a request, which has no key"
    ),
    ("input-required-result-basic-elicitation", "sep-2322-elicitation-complete"): "it is not run after the one before",
    ("input-required-result-ignore-extra-params", "sep-2322-ignore-unexpected-params"): (
        "it answers, under the key user_name, a question that it was not asked yet; a handshake-era server asks first,"
        " and what it will ask is not known"
    ),
}

_HAS_NO_CODE: Mapping[Check, str] = dict.fromkeys(
    [
        ("server-stateless", "sep-2575-server-rejects-undeclared-capability"),
        ("server-stateless", "sep-2575-missing-capability-http-400"),
    ],
    "-32021 is of 2026-07-28: a handshake-era server says in a tool result that it misses a capability, or just does"
    " without it",
)

_HAS_NO_TASKS: Mapping[Check, str] = dict.fromkeys(
    [
        ("tasks-capability-negotiation", "tasks-extension-advertised"),
        ("tasks-capability-negotiation", "tasks-per-request-meta-opt-in"),
        ("tasks-dispatch-and-envelope", "sep-2663-durable-create-strong-consistency"),
        ("tasks-dispatch-and-envelope", "tasks-result-type-complete-on-non-task-responses"),
        ("tasks-dispatch-and-envelope", "tasks-server-directed-creation-no-hint"),
        ("tasks-lifecycle", "sep-2663-cancel-ack-empty-result"),
        ("tasks-lifecycle", "sep-2663-result-type-task-on-create"),
        ("tasks-lifecycle", "sep-2663-tasks-get-status-completed"),
        ("tasks-lifecycle", "sep-2663-tasks-get-status-failed"),
        ("tasks-lifecycle", "sep-2663-tasks-get-status-working"),
        ("tasks-lifecycle", "sep-2663-tool-error-uses-completed-status"),
        ("tasks-lifecycle", "tasks-cancel-terminal-idempotent-ack"),
        ("tasks-mrtr-composition", "sep-2663-mrtr-synchronous-before-task-creation"),
        ("tasks-mrtr-input", "sep-2663-tasks-get-status-input-required"),
        ("tasks-mrtr-input", "tasks-mrtr-partial-fulfillment"),
        ("tasks-mrtr-input", "tasks-mrtr-tasks-update-resumes"),
        ("tasks-request-headers", "sep-2663-routing-headers-accepted-on-tasks-get"),
        ("tasks-request-headers", "sep-2663-server-rejects-mismatched-mcp-name-on-tasks-get"),
        ("tasks-request-state-removal", "tasks-create-result-no-request-state"),
        ("tasks-request-state-removal", "tasks-get-detailed-no-request-state"),
        ("tasks-request-state-removal", "tasks-request-state-removal-setup"),
        ("tasks-required-task-error", "sep-2663-server-returns-missing-capability-data-shape"),
        ("tasks-required-task-error", "sep-2663-server-returns-missing-capability-when-required"),
        ("tasks-wire-fields", "tasks-no-early-ttl-expiry"),
        ("tasks-wire-fields", "tasks-no-related-task-meta-on-inlined-result"),
        ("tasks-wire-fields", "tasks-wire-field-renames"),
    ],
    "it wants a task of the Tasks extension, which came with 2026-07-28; the experimental tasks of 2025-11-25 are of"
    " another shape, and a server that has them makes none unasked",
)

_CROSSING: Mapping[Check, str] = {**_HAVE_NO_NAMES, **_HAS_NO_CODE, **_HAS_NO_TASKS}
_ONE_STREAM = _of_polling(
    "it calls a tool that closes the stream of its own answer, to go on when the client comes back; over this transport"
    " there is one stream for everything, and the tool just answers"
)

_NOT_RESUMED = _of_polling(
    "it calls a tool that closes the stream of its own answer, to go on when the client comes back; a modern server"
    " has nothing to go on with (2026-07-28: no event ids, no resumption), and just answers"
)

_HAS_NO_LOG: Mapping[Check, str] = dict.fromkeys(
    [("logging-set-level", "logging-set-level"), ("tools-call-with-logging", "tools-call-with-logging")],
    "log messages of a process that all callers share name no request, so no caller; it is one's own that has them",
)

IMPOSSIBLE: Mapping[Leg, Mapping[Check, str]] = {
    ("modern", "2025-11-25"): _NOT_RESUMED,
    ("legacy", "2026-07-28"): _CROSSING,
    ("sse", "2026-07-28"): _CROSSING,
    ("sse", "2025-11-25"): _ONE_STREAM,
    ("stdio-both", "2025-11-25"): _NOT_RESUMED,
    ("stdio-modern", "2025-11-25"): {**_NOT_RESUMED, **_HAS_NO_LOG},
    ("stdio-legacy", "2025-11-25"): _ONE_STREAM,
    ("stdio-legacy", "2026-07-28"): _CROSSING,
}
"""What the protocol makes impossible in front of a server of the other era, or of another transport."""

_BY_THE_SESSION = _of_polling(
    "its header says 2025-03-26 in a session of 2025-11-25: the server goes by the header, for which it is warned, the"
    " gateway by the session"
)

ACCEPTED: Mapping[Leg, Mapping[Check, str]] = {
    ("both", "2025-11-25"): _COUNTS_STREAMS,
    ("both", "active"): _COUNTS_STREAMS,
    ("both", "all"): {**_COUNTS_STREAMS, **_BY_THE_SESSION},
    ("legacy", "2025-11-25"): _COUNTS_STREAMS,
    ("modern", "2025-11-25"): _COUNTS_STREAMS,
    ("sse", "2025-11-25"): _COUNTS_STREAMS,
    ("stdio-both", "2025-11-25"): _COUNTS_STREAMS,
    ("stdio-modern", "2025-11-25"): _COUNTS_STREAMS,
    ("stdio-legacy", "2025-11-25"): _COUNTS_STREAMS,
}
"""What the gateway does otherwise, and may."""


_HAS_ITS_OWN_KEY = "it gives the client a private key; the gateway signs with its own, whose public part it publishes"
_IS_NOT_SIGNED_IN_THERE = (
    "it gives the client an ID token by its command line; the gateway uses what the identity provider gave when the"
    " user signed in"
)
_IS_NOT_HANDED_TOKENS = "it gives the client a workload's JWT by its command line; the gateway asserts who calls itself"
_HAS_NO_DPOP = "DPoP is not supported yet (docs/limitations.md)"
_WAS_APPROVED = (
    "the scan holds back a server with such a tool; the test's administrator approves it by force, as it is, and the"
    " gateway then shows the tool without the annotation and sends no header for it"
)

AS_A_CLIENT: Mapping[Check, str] = {
    ("auth/client-credentials-jwt", "client-credentials-jwt-verified"): _HAS_ITS_OWN_KEY,
    **{
        ("auth/enterprise-managed-authorization", check): _IS_NOT_SIGNED_IN_THERE
        for check in ("complete-flow-token-exchange", "complete-flow-jwt-bearer")
    },
    ("auth/wif-jwt-bearer", "wif-assertion-verified"): _IS_NOT_HANDED_TOKENS,
    **{
        (scenario, f"sep-1932-client-{check}"): _HAS_NO_DPOP
        for scenario in ("auth/dpop", "auth/dpop-nonce")
        for check in ("token-request-proof", "dpop-auth-scheme", "fresh-proof")
    },
    **{("auth/dpop-nonce", f"sep-1932-client-{check}"): _HAS_NO_DPOP for check in ("as-nonce", "rs-nonce")},
    **{
        ("http-invalid-tool-headers", f"sep-2243-x-mcp-header-{check}"): _WAS_APPROVED
        for check in ("not-empty", "primitive-only", "unique", "charset")
    },
}
"""Checks of clients that fail. All but the last are of extensions, which do not count."""


def of(leg: Leg) -> Mapping[Check, str]:
    return {**ACCEPTED.get(leg, {}), **IMPOSSIBLE.get(leg, {})}
