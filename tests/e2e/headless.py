"""A browser without a window, for what no real one would do: cookies, forms and redirects, each by hand."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import httpx2

SESSION, VISIT = "__Host-mcpgw-session", "__Host-mcpgw-visit"
VERIFIER = secrets.token_urlsafe(48)
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


@dataclass
class Headless:
    """One browser. Like a real one it sends Secure cookies to loopback, and its origin with every form."""

    base: str
    cookies: dict[str, str] = field(default_factory=dict)

    def get(self, place: str, **query: str) -> httpx2.Response:
        url = urljoin(self.base, place) + (f"?{urlencode(query)}" if query else "")
        return self._kept(httpx2.get(url, headers=self._headers({}), trust_env=False, timeout=20))

    def post(self, place: str, fields: Mapping[str, str], origin: str | None = "", **headers: str) -> httpx2.Response:
        """Send a form; `origin` None: without the header, "": our own."""
        given = {} if origin is None else {"Origin": origin or self.base}
        url = urljoin(self.base, place)
        sent = self._headers({**given, **headers})
        return self._kept(httpx2.post(url, data=dict(fields), headers=sent, trust_env=False, timeout=20))

    def follow(self, answer: httpx2.Response) -> httpx2.Response:
        """Go where a redirect leads, as long as that is here."""
        while answer.status_code == 303 and (where := answer.headers["location"]).startswith(("/", self.base)):
            answer = self.get(where)
        return answer

    def sign_in(self, name: str, password: str, page: httpx2.Response | None = None) -> httpx2.Response:
        """Fill in the sign-in page; return what it leads to."""
        form = form_of(page or self.get("/oauth/sign-in"))
        return self.follow(self.post("/oauth/sign-in", {"form": form, "username": name, "password": password}))

    def decide(self, page: httpx2.Response, decision: str = "allow") -> dict[str, str]:
        """Answer the consent page; return what the client is sent."""
        answer = self.post("/oauth/consent", {"form": form_of(page), "decision": decision})
        assert answer.status_code == 303, answer.text
        return answered(answer)

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {**headers, **({"Cookie": cookie} if cookie else {})}

    def _kept(self, answer: httpx2.Response) -> httpx2.Response:
        for line in answer.headers.get_list("set-cookie"):
            for name, morsel in SimpleCookie(line).items():
                assert morsel["secure"] and morsel["httponly"] and morsel["path"] == "/" and not morsel["domain"]
                assert morsel["samesite"] == "Lax"
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
        return answer


def form_of(page: httpx2.Response) -> str:
    """Return the sealed value of the (last) form on a page."""
    found = re.findall(r'name="form" value="([^"]+)"', page.text)
    assert found, page.text
    return html.unescape(found[-1])


def answered(answer: httpx2.Response) -> dict[str, str]:
    """Return the query of the place that a redirect leads to."""
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


def asking(client_id: str, redirect_uri: str, **changed: str | None) -> dict[str, str]:
    """Return the query of a good authorization request, but for what is changed (None: left out)."""
    good: dict[str, str | None] = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "state": "state-1",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        **changed,
    }
    return {name: value for name, value in good.items() if value is not None}
