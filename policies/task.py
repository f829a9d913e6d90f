"""The other side of `apart`: one task as JSON on standard input, its answer as JSON on standard output.

With `serve`, the other side of `aside`: a bundle in the first frame, then documents, each answered by a decision.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any

from mcpgw.policies.aside import read_frame, write_frame
from mcpgw.policies.bundle import Bundle
from mcpgw.policies.explain import explained
from mcpgw.policies.local import LocalEngine, compiled
from mcpgw.policies.output import shown
from mcpgw.policies.warmup import inspect

MEMORY_BYTES = 2 * 1024**3

Given = Mapping[str, Any]


def _check(given: Given) -> list[dict[str, Any]]:
    return [finding.document() for finding in inspect(Bundle.of(given["files"]))]


def _explain(given: Given) -> dict[str, Any]:
    return explained(Bundle.of(given["files"]), given["input"], given["max_input_bytes"])


TASKS: Mapping[str, Callable[[Given], Any]] = {"check": _check, "explain": _explain}


def serve() -> None:
    """Evaluate one document after the other, until whoever asks is gone."""
    given = json.loads(read_frame(sys.stdin.buffer) or b"{}")
    engine = LocalEngine(compiled(Bundle.of(given["files"]), given["max_input_bytes"]))
    answer = b"{}"
    while True:
        write_frame(sys.stdout.buffer, answer)
        sys.stdout.buffer.flush()
        document = read_frame(sys.stdin.buffer)
        if document is None:
            return
        answer = json.dumps(shown(engine.evaluate(document))).encode()


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.argv[1:] == ["serve"]:
        serve()
        return
    asked = json.load(sys.stdin)
    json.dump(TASKS[asked["task"]](asked["given"]), sys.stdout)


if __name__ == "__main__":
    main()
