"""`mcpgw servers`: the registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table

from mcpgw.cli.api import Api, path_of
from mcpgw.cli.options import admin_command
from mcpgw.cli.terminal import Out, fields, table
from mcpgw.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Register, approve and activate servers.")
Slug = Annotated[str, typer.Argument(help="The server's slug.")]
Version = Annotated[str, typer.Argument(help="For example 1.2.0.")]


Auth = Annotated[
    str | None,
    typer.Option(
        metavar="JSON|FILE",
        help="How the gateway proves itself to it; secrets as vault:NAME.",
        show_default="as it is for that URL",
    ),
]


@app.command()
@admin_command
def add(
    api: Api,
    out: Out,
    slug: Slug,
    endpoint: Annotated[str, typer.Argument(metavar="URL", help="Its MCP endpoint.")],
    *,
    title: str = "",
    tag: Annotated[list[str] | None, typer.Option(help="What policies see as server.tags; repeat for more.")] = None,
    trust: Annotated[str, typer.Option(help="What policies see as server.trust.")] = "untrusted",
    auth: Auth = None,
) -> None:
    """Register an HTTP server and publish what it offers as a draft. Then: approve, activate."""
    new = {
        "slug": slug,
        "url": endpoint,
        "title": title,
        "tags": tag or [],
        "trust": trust,
        "auth": _authorization(auth),
    }
    answer = api.post("/servers", new)
    out.show(answer, _next_step(f"registered {slug} and", answer))


@app.command("list")
@admin_command
def list_servers(api: Api, out: Out) -> None:
    """List the servers."""
    answer = api.get("/servers")
    rows = [(s.get("slug"), s.get("title"), s.get("active") or "none", s.get("trust")) for s in answer["servers"]]
    out.show(answer, table(("server", "title", "active version", "trust"), rows) if rows else "no server is registered")


@app.command()
@admin_command
def show(api: Api, out: Out, slug: Slug) -> None:
    """Show a server and its versions."""
    answer = api.get(path_of("servers", slug))
    out.show(answer, Group(*_shown(answer)))


@app.command()
@admin_command
def publish(
    api: Api,
    out: Out,
    slug: Slug,
    version: Annotated[str | None, typer.Argument(help="Default: the next one.")] = None,
    *,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="Another than the server's own.")] = None,
    auth: Auth = None,
) -> None:
    """Publish a version: pin the tools that the server offers now."""
    new = {"version": version, "url": endpoint, "auth": _authorization(auth)}
    answer = api.post(path_of("servers", slug, "versions"), new)
    out.show(answer, _next_step("", answer))


@app.command()
@admin_command
def approve(
    api: Api,
    out: Out,
    slug: Slug,
    version: Version,
    *,
    force: Annotated[bool, typer.Option("--force", help="Although the check of its tools found something.")] = False,
) -> None:
    """Approve a version."""
    answer = api.post(path_of("servers", slug, "versions", version, "approve"), {"force": force})
    out.show(answer, f"approved {slug}@{version}; next: mcpgw servers activate {slug} {version}")


@app.command()
@admin_command
def activate(api: Api, out: Out, slug: Slug, version: Version) -> None:
    """Make an approved version the one that calls use."""
    answer = api.post(path_of("servers", slug, "versions", version, "activate"))
    out.show(answer, f"{slug}@{version} is active")


@app.command()
@admin_command
def mark(
    api: Api,
    out: Out,
    slug: Slug,
    *,
    idempotent: Annotated[list[str] | None, typer.Option(help="A tool, or *; repeat for more. Default: none.")] = None,
) -> None:
    """Say which tools' calls may be repeated when they fail, because twice is no worse than once."""
    answer = api.post(path_of("servers", slug, "mark"), {"idempotent": idempotent or []})
    marked = ", ".join(answer["idempotent"])
    out.show(answer, f"failed calls of {marked} are repeated" if marked else f"no call of {slug} is repeated")


@app.command()
@admin_command
def disable(api: Api, out: Out, slug: Slug) -> None:
    """Serve no version of a server."""
    out.show(api.post(path_of("servers", slug, "disable")), f"{slug} is disabled")


@app.command()
@admin_command
def rollback(api: Api, out: Out, slug: Slug) -> None:
    """Make the version that was active before the active one again."""
    answer = api.post(path_of("servers", slug, "rollback"))
    out.show(answer, f"{slug}@{answer.get('version')} is active again")


@app.command()
@admin_command
def remove(api: Api, out: Out, slug: Slug) -> None:
    """Remove a server."""
    out.show(api.delete(path_of("servers", slug)), f"removed {slug}")


@app.command()
@admin_command
def diff(
    api: Api,
    out: Out,
    slug: Slug,
    a: Annotated[str, typer.Argument(metavar="FROM")],
    b: Annotated[str, typer.Argument(metavar="TO")],
) -> None:
    """Compare the tools of two versions."""
    query: dict[str, Any] = {"from": a, "to": b}
    answer = api.get(path_of("servers", slug, "diff"), **query)
    out.show(answer, fields(answer))


def _authorization(given: str | None) -> dict[str, Any] | None:
    """Return the JSON object that stands in an option, or in the file that it names. Raises UsageError."""
    if given is None:
        return None
    try:
        said = json.loads(given if given.lstrip().startswith("{") else Path(given).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {given}: {error.strerror}", fix="give a file, or a JSON object") from None
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise UsageError("--auth is not a JSON object", fix='for example: --auth \'{"mode": "user"}\'')
    return said


def _next_step(done: str, answer: dict[str, Any]) -> str:
    slug, version = answer.get("server"), answer.get("version")
    return f"{done} published {slug}@{version} as a draft; next: mcpgw servers approve {slug} {version}".strip()


def _shown(server: dict[str, Any]) -> Iterator[Table]:
    versions = server["versions"]
    yield fields({name: value for name, value in server.items() if name not in {"versions", "quarantined"}})
    rows = [
        (
            v["version"],
            v["status"],
            len(v["tools"]),
            (v.get("auth") or {}).get("mode"),
            v.get("approved_by"),
            v["manifest_sha256"],
        )
        for v in versions
    ]
    yield table(("version", "status", "tools", "credential", "approved by", "manifest"), rows)
    findings = [(v["version"], *f.values()) for v in versions for f in v.get("findings", ())]
    if findings:
        columns = ("version", *next(f for v in versions for f in v["findings"]))
        yield table(columns, findings)
    if server.get("quarantined"):
        apart = [(q["version"], q["tool"], q["seen_sha256"] or "gone") for q in server["quarantined"]]
        yield table(("version", "quarantined tool", "seen instead"), apart)
