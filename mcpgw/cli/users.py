"""`mcpgw users`: the accounts of users and agents."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from mcpgw.cli.api import Api, path_of
from mcpgw.cli.keys import Roles, Why
from mcpgw.cli.options import admin_command, gathered
from mcpgw.cli.terminal import Out, fields, table, when
from mcpgw.errors import NotFound, UsageError

app = typer.Typer(no_args_is_help=True, help="Create, change and end accounts of users and agents.")
User = Annotated[str, typer.Argument(metavar="USER", help="Its id, its subject, or issuer|subject.")]
Title = Annotated[str | None, typer.Option(help="What people call them.")]
Email = Annotated[str | None, typer.Option(help="Their address; empty: none.")]
TeamOf = Annotated[str | None, typer.Option(help="Their team; empty: none.")]


class AccountKind(StrEnum):
    """Whose an account is."""

    USER = "user"
    AGENT = "agent"


@app.command("list")
@admin_command
def list_users(
    api: Api,
    out: Out,
    *,
    team: Annotated[str | None, typer.Option(help="Those of a team.")] = None,
    after: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most accounts.")] = 100,
) -> None:
    """List accounts of users and agents."""
    answer = api.get("/principals", team=team, after=after, limit=limit)
    rows = [
        (one["id"], one["principal"], one["kind"], ", ".join(one["roles"]), one["team"], when(one["deactivated_at"]))
        for one in answer["principals"]
    ]
    out.show(answer, table(("id", "principal", "kind", "roles", "team", "deactivated (UTC)"), rows))
    if answer["after"]:
        out.note(f"more: --after {answer['after']}")


@app.command()
@admin_command
def show(api: Api, out: Out, user: User) -> None:
    """Show an account."""
    answer = api.get(path_of("principals", _id(api, user)))
    out.show(answer, fields(answer))


NEW: dict[str, Any] = {
    "kind": Annotated[AccountKind | None, typer.Option(help="Whose it is.", show_default="user")],
    "role": Roles,
    "title": Title,
    "team": TeamOf,
    "email": Email,
    "issuer": Annotated[str | None, typer.Option(help="The identity provider that they sign in at.")],
    "password": Annotated[bool, typer.Option("--password", help="Ask for a password, or read it from a pipe.")],
}


@app.command()
@admin_command
@gathered("account", NEW)
def create(
    api: Api,
    out: Out,
    subject: Annotated[str, typer.Argument(help="The name that policies, kill switches and the log know.")],
    *,
    account: Mapping[str, Any],
) -> None:
    """Create the account of a user or an agent."""
    given = {name: account.get(name) for name in ("title", "team", "email", "issuer")}
    given |= {"subject": subject, "kind": account.get("kind"), "roles": account.get("role") or ["agent"]}
    given |= {"password": _asked_password() if account["password"] else None}
    answer = api.post("/principals", given)
    out.show(answer, f"created {answer['principal']}: {answer['id']}")


@app.command()
@admin_command
def update(
    api: Api,
    out: Out,
    user: User,
    *,
    role: Annotated[list[str] | None, typer.Option(help="All of its roles. Repeat for more.")] = None,
    title: Title = None,
    team: TeamOf = None,
    email: Email = None,
) -> None:
    """Change title, team, roles or email; what is not given stays."""
    given: dict[str, Any] = {"roles": role} if role else {}
    given |= {} if title is None else {"title": title}
    given |= {name: text or None for name, text in (("team", team), ("email", email)) if text is not None}
    if not given:
        raise UsageError("nothing to change", fix="give --role, --title, --team or --email")
    answer = api.patch(path_of("principals", _id(api, user)), given)
    out.show(answer, fields(answer))


@app.command()
@admin_command
def password(
    api: Api, out: Out, user: User, *, none: Annotated[bool, typer.Option("--none", help="Take it away.")] = False
) -> None:
    """Give a user a password; it is asked for, or read from standard input."""
    id = _id(api, user)
    answer = api.put(path_of("principals", id, "password"), {"password": None if none else _asked_password()})
    out.show(answer, f"{answer['principal']} has {'no' if none else 'a new'} password; their sessions ended")


@app.command()
@admin_command
def deactivate(api: Api, out: Out, user: User, *, reason: Why) -> None:
    """End an account at once: its keys, tokens, sessions and running calls."""
    answer = api.post(path_of("principals", _id(api, user), "deactivate"), {"reason": reason})
    out.show(answer, f"deactivated {answer['principal']}")


@app.command()
@admin_command
def reactivate(api: Api, out: Out, user: User, *, reason: Why) -> None:
    """Let an account in again; what it held before stays void."""
    answer = api.post(path_of("principals", _id(api, user), "reactivate"), {"reason": reason})
    out.show(answer, f"reactivated {answer['principal']}")


@app.command()
@admin_command
def grants(api: Api, out: Out, user: User) -> None:
    """List what a user has allowed clients to do."""
    answer = api.get(path_of("principals", _id(api, user), "grants"))
    rows = [
        (grant["id"], grant["client_id"], grant["endpoint"], " ".join(grant["scopes"]), when(grant["expires_at"]))
        for grant in answer["grants"]
    ]
    out.show(answer, table(("grant", "client", "endpoint", "scopes", "until (UTC)"), rows))


@app.command("revoke-grant")
@admin_command
def revoke_grant(
    api: Api, out: Out, grant: Annotated[str, typer.Argument(metavar="GRANT", help="Its id.")], *, reason: Why
) -> None:
    """End what a user has allowed a client, with every token of it."""
    out.show(api.delete(path_of("grants", grant), {"reason": reason}), f"revoked {grant}")


def _id(api: Api, user: str) -> str:
    """Return the id of the account that `user` names. Raises NotFound, UsageError."""
    found = api.get("/principals", name=user)["principals"]
    if not found:
        raise NotFound(f"no account is called `{user}`", fix="mcpgw users list")
    if len(found) > 1:
        raise UsageError(f"several accounts are called `{user}`", fix="give the id, or issuer|subject")
    return str(found[0]["id"])


def _asked_password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    first, again = getpass.getpass("Password: "), getpass.getpass("Again: ")
    if first != again:
        raise UsageError("the two passwords differ", fix="try again")
    return first
