"""`mcpgw policy`: `check` and `test` need nothing but the files; the rest uses the API."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mcpgw.cli.api import Api, path_of
from mcpgw.cli.options import admin_command, command
from mcpgw.cli.terminal import Out, table, when
from mcpgw.errors import UsageError
from mcpgw.policies import testing, warmup
from mcpgw.policies.bundle import Bundle

app = typer.Typer(no_args_is_help=True, help="Check, test and use policies.")
Where = Annotated[Path, typer.Argument(metavar="DIR", help="A directory of .rego files, or one such file.")]
Sha = Annotated[str, typer.Argument(metavar="SHA256", help="A policy's digest: `mcpgw policy list` shows them.")]
Why = Annotated[str | None, typer.Option("--reason", help="Why; it is recorded.")]


@app.command()
@command
def check(out: Out, where: Where) -> None:
    """Check a policy as a gateway would before it uses it. Exit status 1 when it would be refused."""
    bundle = Bundle.read(where)
    found = warmup.check(bundle)
    document = {
        "ok": not found,
        "sha256": bundle.sha256,
        "files": list(bundle.files),
        "findings": [f.document() for f in found],
    }
    out.show(document, "\n".join(str(f) for f in found) or f"ok: {len(bundle.files)} files, {bundle.sha256}")
    if found:
        raise typer.Exit(1)


@app.command()
@command
def test(out: Out, where: Where) -> None:
    """Run a policy's tests: `*_test.rego` and `*.vectors.json`. Exit status 1 when one fails, or there is none."""
    results = testing.run(where)
    failed = [r for r in results if not r.passed]
    lines = [f"FAILED {r.file}: {r.name}: {r.why}" for r in failed]
    lines.append(f"{len(results) - len(failed)} passed, {len(failed)} failed" if results else f"no test for {where}")
    document = {"ok": bool(results) and not failed, "results": [asdict(r) for r in results]}
    out.show(document, "\n".join(lines))
    if not document["ok"]:
        raise typer.Exit(1)


@app.command()
@admin_command
def push(
    api: Api,
    out: Out,
    where: Where,
    *,
    activate: Annotated[bool, typer.Option("--activate", help="Use it at once.")] = False,
    reason: Why = None,
) -> None:
    """Send a policy to the gateway, which checks and keeps it."""
    files = dict(Bundle.read(where).files)
    answer = api.post("/policies", {"files": files, "activate": activate, "reason": reason})
    sha = answer["sha256"]
    out.show(answer, f"{sha} is active" if activate else f"{sha} is kept; next: mcpgw policy activate {sha}")


@app.command("activate")
@admin_command
def activate_policy(api: Api, out: Out, sha256: Sha, *, reason: Why = None) -> None:
    """Use a policy that the gateway keeps."""
    out.show(api.post(path_of("policies", sha256, "activate"), {"reason": reason}), f"{sha256} is active")


@app.command()
@admin_command
def rollback(api: Api, out: Out, *, reason: Why = None) -> None:
    """Use the policy again that was active before."""
    answer = api.post("/policies/rollback", {"reason": reason})
    out.show(answer, f"{answer.get('sha256')} is active again")


@app.command("list")
@admin_command
def list_policies(api: Api, out: Out) -> None:
    """List the policies that the gateway keeps."""
    answer = api.get("/policies")
    rows = [
        (p["sha256"], "active" if p.get("active") else "", p.get("pushed_by"), when(p.get("pushed_at")))
        for p in answer["policies"]
    ]
    out.show(
        answer, table(("sha256", "", "pushed by", "at (UTC)"), rows) if rows else "no policy: everything is denied"
    )


@app.command()
@admin_command
def show(api: Api, out: Out, sha256: Sha) -> None:
    """Show a policy with its files."""
    answer = api.get(path_of("policies", sha256))
    out.show(answer, "\n".join(f"# {path}\n{text}" for path, text in answer["files"].items()))


@app.command()
@admin_command
def explain(
    api: Api, out: Out, file: Annotated[str, typer.Argument(help="An input document as JSON; `-`: standard input.")]
) -> None:
    """Say what the active policy decides for an input document, and why."""
    answer = api.post("/policies/explain", {"input": _document(file)})
    out.show(answer, _explained(answer))


def _explained(answer: dict[str, Any]) -> str:
    decision = answer["decision"]
    lines = [f"{decision['effect']}: {', '.join(decision['reasons'])}"]
    if decision.get("message"):
        lines.append(f"  {decision['message']}")
    lines += [f"  {json.dumps(obligation)}" for obligation in decision.get("obligations", ())]
    lines += [f"{part['file']}: true on lines {', '.join(map(str, part['true']))}" for part in answer.get("lines", ())]
    return "\n".join(lines)


def _document(file: str) -> object:
    try:
        return json.loads(sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", fix="name a file, or - for standard input") from None
    except ValueError:
        raise UsageError(f"{file} is not JSON", fix="docs: the policy input") from None
