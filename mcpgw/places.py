"""Where things stand in the data directory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from secrets import token_bytes

from mcpgw.auth.keyfiles import private_file


@dataclass(frozen=True)
class Places:
    """Where things stand in the data directory."""

    data_dir: Path

    @property
    def run(self) -> Path:
        return self.data_dir / "run"

    @property
    def keys(self) -> Path:
        return self.data_dir / "keys"

    @property
    def audit(self) -> Path:
        return self.data_dir / "audit"

    @property
    def snapshot(self) -> Path:
        return self.data_dir / "snapshot"

    def secret(self, name: str) -> bytes:
        """Return a 256-bit key of this installation, made at the first start."""
        return private_file(self.keys / name, partial(token_bytes, 32))
