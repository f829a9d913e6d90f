"""A policy as text: Rego files by relative path, and the digest that names them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mcpgw.errors import InvalidRequest, UsageError

PACKAGE = ("mcpgw", "authz")
ENTRY_POINT = "data.mcpgw.authz.decision"
DATA_FILE = "data.json"
TEST_SUFFIX = "_test.rego"
MAX_FILES = 200
MAX_FILE_BYTES = 256 * 1024
MAX_BYTES = 1024 * 1024
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}){0,7}")
_OWN = Path(__file__).parent / "rego"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Rego v1 modules and, if it is there, `data.json`. Two bundles with the same files have the same `sha256`."""

    files: Mapping[str, str]
    sha256: str

    @classmethod
    def of(cls, files: Mapping[str, str]) -> Bundle:
        """Return the bundle of these files. Raises InvalidRequest: too large, a bad path, or not part of a policy."""
        if not any(path.endswith(".rego") for path in files):
            raise InvalidRequest("a policy needs at least one .rego file", fix="add policy.rego")
        if len(files) > MAX_FILES:
            raise InvalidRequest(f"a policy has at most {MAX_FILES} files", fix="put related rules in one file")
        for path, text in files.items():
            _check(path, text)
        if sum(len(text.encode()) for text in files.values()) > MAX_BYTES:
            raise InvalidRequest(f"a policy has at most {MAX_BYTES} bytes", fix="keep data.json small")
        ordered = {path: files[path] for path in sorted(files)}
        return cls(MappingProxyType(ordered), _digest(ordered.items()))

    @classmethod
    def read(cls, where: Path) -> Bundle:
        """Return the bundle of a directory (every .rego file below it, and its data.json), or of a single .rego file.

        Files that end in `_test.rego` are tests, not policy. Raises UsageError, InvalidRequest.
        """
        if where.is_file():
            return cls.of({where.name: _text(where)})
        if not where.is_dir():
            raise UsageError(f"no policy at {where}", fix="name a directory with .rego files, or one such file")
        found = [path for path in sorted(where.rglob("*.rego")) if not path.name.endswith(TEST_SUFFIX)]
        if (where / DATA_FILE).is_file():
            found.append(where / DATA_FILE)
        return cls.of({path.relative_to(where).as_posix(): _text(path) for path in found})

    @classmethod
    def own(cls, name: str) -> Bundle:
        """Return a policy that comes with the gateway: `deny_all`, `allow_all` or `example`."""
        return cls.read(_OWN / f"{name}.rego")

    @property
    def modules(self) -> tuple[tuple[str, str], ...]:
        return tuple((path, text) for path, text in self.files.items() if path.endswith(".rego"))

    @property
    def data(self) -> str:
        return self.files.get(DATA_FILE, "{}")


def _check(path: str, text: str) -> None:
    if not _PATH.fullmatch(path):
        raise InvalidRequest(
            f"`{path[:80]}` cannot be a path in a policy", fix="use relative paths of A-Z a-z 0-9 . _ - and /"
        )
    if path.endswith(TEST_SUFFIX):
        raise InvalidRequest(f"`{path}` is a test, not policy", fix="leave it out; mcpgw policy test runs it")
    if path != DATA_FILE and not path.endswith(".rego"):
        raise InvalidRequest(f"`{path}` is not part of a policy", fix=f"a policy is .rego files and {DATA_FILE}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidRequest(f"`{path}` is not Unicode text", fix="save it as UTF-8") from None
    if size > MAX_FILE_BYTES:
        raise InvalidRequest(f"`{path}` is larger than {MAX_FILE_BYTES} bytes", fix="split it")


def _digest(files: Iterable[tuple[str, str]]) -> str:
    """Hash paths and texts, each with its length before it, so that no two sets of files give the same bytes."""
    digest = hashlib.sha256(b"mcpgw policy 1\n")
    for part in (part.encode() for file in files for part in file):
        digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", fix="check path and mode") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text", fix="save it as UTF-8") from None
