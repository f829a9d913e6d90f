"""What the commands print: people get text on the terminal, scripts one line of JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mcpgw.errors import GatewayError

# What a server or a caller wrote must not move the cursor, recolour the screen or reverse the reading direction.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_PIPED_WIDTH = 200


@dataclass(frozen=True, slots=True)
class Out:
    """Where a command's result goes."""

    json: bool

    def show(self, document: Mapping[str, Any], human: RenderableType) -> None:
        """Print a result: `document` as JSON, or `human` (text is printed as it is, without markup)."""
        if self.json:
            print(json.dumps(document, ensure_ascii=False))
            return
        console = Console() if sys.stdout.isatty() else Console(width=_PIPED_WIDTH)
        if isinstance(human, str):
            console.print(plain(human), markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(human)

    def note(self, text: str) -> None:
        """Tell people what goes on; scripts are not told."""
        if not self.json:
            print(plain(text), file=sys.stderr, flush=True)


def report(error: GatewayError, *, as_json: bool) -> None:
    """Print an error: the message and its fix on standard error, or a JSON line on standard output."""
    if as_json:
        body = {"code": error.code, "message": error.message, "fix": error.fix, "data": dict(error.data)}
        print(json.dumps({"error": body}, ensure_ascii=False))
        return
    lines = [f"error: {error.message}"]
    lines += [f"  - {text}" for finding in error.data.get("findings", ()) if (text := _untold(finding, error.message))]
    if error.fix:
        lines.append(f"  fix: {error.fix}")
    print(plain("\n".join(lines)), file=sys.stderr)


def plain(text: str) -> str:
    """Return the text with control characters and direction marks spelled out."""
    return _UNPRINTABLE.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table of plain text; None is an empty cell."""
    drawn = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*(Text("" if cell is None else plain(str(cell))) for cell in row))
    return drawn


def fields(value: Mapping[str, Any]) -> Table:
    """Return a mapping as two columns; what is not text is shown as JSON."""
    drawn = Table(box=None, pad_edge=False, show_header=False)
    for key, inner in value.items():
        text = inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)
        drawn.add_row(Text(key, style="bold"), Text(plain(text)))
    return drawn


def when(unix_s: float | None) -> str:
    """Return a time as people read it, in UTC."""
    return "" if unix_s is None else datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _untold(finding: Mapping[str, Any], message: str) -> str:
    """Return a finding on one line, or nothing when the message has it already."""
    values = [str(value) for value in finding.values()]
    return "" if all(value in message for value in values) else ": ".join(values)
