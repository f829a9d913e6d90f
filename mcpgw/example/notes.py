"""The bundled example server: a small notebook, kept in memory, spoken to over standard input and output.

Run it with `python -m mcpgw.example.notes`. It answers modern and legacy clients alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from mcpgw import __version__

PROGRESS_EVERY_S = 0.25
_MOST_NOTES = 1000
_LONGEST_TEXT = 20_000

NoteId = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$", description="Lower-case letters, digits and hyphens.")]


@dataclass(frozen=True, slots=True)
class Note:
    id: str
    text: str
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.id}\n{self.text}" + (f"\ntags: {', '.join(self.tags)}" if self.tags else "")


SAMPLES = (
    Note("welcome", "Everything an agent does here passes a policy, a kill switch and the audit log.", ("start",)),
    Note("plan", "1. List the notes. 2. Read one. 3. Try to delete one. 4. Look at the audit log.", ("todo",)),
)


class Confirm(BaseModel):
    """Proof that the caller means this note: its id once more."""

    note_id: NoteId


class Notebook:
    """The tools, over one set of notes."""

    def __init__(self) -> None:
        self._notes = {note.id: note for note in SAMPLES}

    async def list_notes(self) -> str:
        """List the ids and tags of all notes."""
        return "\n".join(f"{n.id} [{', '.join(n.tags)}]" for n in self._notes.values()) or "no notes"

    async def read_note(self, note_id: NoteId) -> str:
        """Read one note."""
        return str(self._find(note_id))

    async def write_note(
        self,
        note_id: NoteId,
        text: Annotated[str, Field(min_length=1, max_length=_LONGEST_TEXT)],
        tags: Annotated[list[str], Field(max_length=20)] | None = None,
    ) -> str:
        """Write a note, or replace its text; its tags stay unless `tags` is given."""
        held = self._notes.get(note_id)
        if held is None and len(self._notes) >= _MOST_NOTES:
            raise ToolError(f"the notebook is full ({_MOST_NOTES} notes): delete one first")
        note = replace(held or Note(note_id, ""), text=text)
        self._notes[note_id] = note if tags is None else replace(note, tags=tuple(tags))
        return f"wrote {note_id}"

    async def delete_note(self, note_id: NoteId, confirm: Confirm) -> str:
        """Delete a note for good; `confirm.note_id` must repeat its id."""
        self._find(note_id)
        if confirm.note_id != note_id:
            raise ToolError(f"nothing deleted: confirm.note_id must be {note_id}")
        del self._notes[note_id]
        return f"deleted {note_id}"

    async def summarize_notes(self, ctx: Context, seconds: Annotated[float, Field(ge=0, le=600)] = 30) -> str:
        """Summarize all notes, slowly: takes `seconds`, reports progress, stops at once when cancelled."""
        steps = max(1, round(seconds / PROGRESS_EVERY_S))
        for step in range(1, steps + 1):
            await anyio.sleep(seconds / steps)
            await ctx.report_progress(step, steps, f"read {step} of {steps} parts")
        words = sum(len(note.text.split()) for note in self._notes.values())
        return f"{len(self._notes)} notes, {words} words: {', '.join(self._notes)}"

    def _find(self, note_id: str) -> Note:
        note = self._notes.get(note_id)
        if note is None:
            raise ToolError(f"no note {note_id}: list_notes shows the ids")
        return note


def build() -> MCPServer:
    """Return a server with its own two sample notes."""
    server = MCPServer("mcpgw-notes", title="Notes", version=__version__, log_level="WARNING")
    notebook = Notebook()
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    writes = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
    deletes = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)
    for function, hints in (
        (notebook.list_notes, reads),
        (notebook.read_note, reads),
        (notebook.write_note, writes),
        (notebook.delete_note, deletes),
        (notebook.summarize_notes, reads),
    ):
        server.add_tool(function, annotations=hints, structured_output=False)
    return server


if __name__ == "__main__":
    build().run("stdio")
