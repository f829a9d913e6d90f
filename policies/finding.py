"""Why a bundle is refused."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a bundle is refused, where, and what to do about it. `line` 0 is the file, or the bundle, as a whole."""

    file: str
    line: int
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message} ({self.fix})"

    def document(self) -> dict[str, Any]:
        return asdict(self)
