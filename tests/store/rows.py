"""One row of each kind, whole."""

from __future__ import annotations

from mcpgw.domain import (
    ActiveVersion,
    AdminNote,
    ApiKey,
    Era,
    KillSwitch,
    Mode,
    OAuthClient,
    PolicyBundle,
    Quarantine,
    Revocation,
    Row,
    Scope,
    Server,
    ServerVersion,
    ToolPin,
    Toolset,
    ToolsetEntry,
    Transport,
    VersionStatus,
)

PINS = {
    "write": ToolPin("write", "aa" * 32, b'{"name":"write","x":1.0}', ("slow",), "high"),
    "read": ToolPin("read", "bb" * 32, b'{"name":"read","title":"\xc3\xa9"}'),
}
SERVER = Server(
    slug="notes", title="Notes", created_by="mcpgw|ada", created_at=1700000000.125, tags=("b", "a"), trust="internal"
)
VERSION = ServerVersion(
    server="notes",
    version="1.0.0",
    manifest_sha256="cc" * 32,
    endpoint="https://notes.example/mcp",
    transport=Transport.HTTP,
    era=Era.DUAL,
    tools=PINS,
    status=VersionStatus.DRAFT,
    published_by="mcpgw|ada",
    published_at=1700000001.25,
)
SWITCH = KillSwitch(
    id="kill-1",
    scope=Scope.TOOL,
    selector="notes/write",
    mode=Mode.HARD,
    reason="leaks",
    thrown_by="mcpgw|ada",
    thrown_at=1700000003.5,
    expires_at=1700009999.0,
)
KEY = ApiKey(
    id="k1", digest="dd" * 32, subject="bot", roles=frozenset({"agent", "auditor"}), created_by="ada", created_at=1.5
)
CLIENT = OAuthClient(
    client_id="c1",
    digest="ee" * 32,
    subject="bot",
    roles=frozenset({"agent"}),
    created_by="ada",
    created_at=2.5,
    team="t",
)
BUNDLE = PolicyBundle(
    sha256="ff" * 32, files={"authz.rego": "package mcpgw.authz\n"}, pushed_by="ada", pushed_at=3.5, active=True
)
TOOLSET = Toolset(
    slug="desk",
    title="Desk",
    entries=(
        ToolsetEntry(server="notes", tool="*"),
        ToolsetEntry(
            server="gone",
            tool="write",
            name="note_down",
            description="Note it. \u00e9",
            defaults={"limit": 10, "rate": 0.1, "of": [None, True]},
            pinned={"tenant": {"id": 123456789012345678901234567890}},
        ),
    ),
    created_by="mcpgw|ada",
    created_at=1700000002.5,
    instructions="Be brief.",
    search=True,
)
EVERY: tuple[Row, ...] = (
    Quarantine(server="notes", version="1.0.0", tool="write", seen_sha256="", seen_at=4.5),
    ActiveVersion("notes", "1.0.0"),
    VERSION,
    SERVER,
    TOOLSET,
    KEY,
    CLIENT,
    Revocation("principal", "mcpgw|bot", 5.5),
    BUNDLE,
    SWITCH,
)


def note(number: int = 0, action: str = "test") -> AdminNote:
    return AdminNote(
        id=f"n{number}",
        time=1700000000.5,
        actor="mcpgw|ada",
        action=action,
        target="notes",
        reason="because",
        before=None,
        after={"tags": ["a"], "n": number, "deep": {"é": None}},
    )
