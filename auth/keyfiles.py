"""Secrets that the gateway makes for itself at its first start."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from mcpgw.errors import UsageError


def private_file(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return what `path` holds; if it does not exist, create it with `make()`, readable by its owner alone.

    Of several processes that start at once one wins and all return its secret. Raises UsageError when the file can be
    read by others, or not at all.
    """
    try:
        if not path.exists():
            _create(path, make())
        if path.stat().st_mode & 0o077:
            raise UsageError(f"others can read the secret in {path}", fix=f"chmod 600 {path}, or replace the secret")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot use {path}: {error.strerror}", fix="check owner and mode of the data directory"
        ) from None


def _create(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A link appears whole or not at all, and never replaces a file that another process made meanwhile.
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()
