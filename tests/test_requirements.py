"""The manifest of required behaviours is complete."""

from __future__ import annotations

import re
from pathlib import Path

from tests.requirements import REQUIREMENTS

CLAIM = re.compile(r"requirement\(([^)]*)\)")


def test_every_required_behaviour_is_claimed_by_a_test() -> None:
    claimed: set[str] = set()
    for path in Path(__file__).parent.rglob("test_*.py"):
        for match in CLAIM.finditer(path.read_text(encoding="utf-8")):
            claimed.update(re.findall(r'"([^"]+)"', match.group(1)))
    assert set(REQUIREMENTS) - claimed == set()
