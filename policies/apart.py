"""Work on policies that nobody has vouched for, in a process of its own: one that hangs, bursts or crashes is refused.

The engine's parser takes exponential time for some texts, its stack is overrun by others, and its interpreter has no
budget. None of this may happen in a gateway that serves.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from mcpgw.errors import InvalidRequest
from mcpgw.policies.aside import environment

DEADLINE_S = 10.0


def apart(task: str, given: Mapping[str, Any]) -> Any:
    """Carry out a task of `task.py` in a process of its own and return its answer; call it off the loop.

    Raises InvalidRequest when the process does not come back with one.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mcpgw.policies.task"],
            input=json.dumps({"task": task, "given": given}).encode(),
            capture_output=True,
            timeout=DEADLINE_S,
            env=environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InvalidRequest(
            f"the policy takes more than {DEADLINE_S:g} s to read", fix="nest less, and split long expressions"
        ) from None
    if done.returncode != 0:
        raise InvalidRequest("the policy brings its engine down", fix="nest less, and split long expressions")
    return json.loads(done.stdout)
