"""What a person is told who connects a server: that it is done, or why not and what to do."""

from __future__ import annotations

from mcpgw.errors import GatewayError
from mcpgw.ports.front import MessagePage, Reply


def done(slug: str) -> Reply:
    page = MessagePage(
        title=f"{slug} is connected",
        text="It can be called in your name now. You may close this window.",
        fix="Go on in the app that sent you here: it calls again.",
    )
    return Reply(page=page)


def stale() -> Reply:
    page = MessagePage(
        title="This link is too old",
        text="It was used already, was opened in another browser, or the server has changed meanwhile.",
        fix="Go back to the app, and let it call again: it gets a new link.",
    )
    return Reply(page=page, status=400)


def not_you() -> Reply:
    page = MessagePage(
        title="This link is for somebody else",
        text="Whoever calls in another's name would have their rights. So each person opens their own link.",
        fix="Sign out, and sign in as the one who called; for an agent, as an administrator of keys.",
        back="/console/",
        back_to="Your account",
    )
    return Reply(page=page, status=403)


def mixed_up() -> Reply:
    page = MessagePage(
        title="That answer came from elsewhere",
        text="Another authorization server answered than the one that was asked. Nothing of it was used.",
        fix="Try again; if it goes on, tell an administrator of this gateway.",
    )
    return Reply(page=page, status=400)


def said_no(slug: str, outcome: str) -> Reply:
    page = MessagePage(
        title=f"{slug} is not connected",
        text=f"Its authorization server said no ({outcome}).",
        fix="Go back to the app, and let it call again, if you want to try once more.",
    )
    return Reply(page=page, status=403)


def failed(slug: str, error: GatewayError) -> Reply:
    page = MessagePage(
        title=f"{slug} cannot be connected",
        text=f"{error.message[:1].upper()}{error.message[1:]}.",
        fix=f"{error.fix[:1].upper()}{error.fix[1:]}." if error.fix else "",
    )
    return Reply(page=page, status=502)
