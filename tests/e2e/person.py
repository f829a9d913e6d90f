"""A person at a browser, by HTTP: signs in at the gateway, presses its buttons, and agrees at the provider."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape
from urllib.parse import urljoin, urlsplit

import httpx2

from tests.e2e.oauth_parts import PASSWORD
from tests.fixtures.oidc_provider import OidcProvider
from tests.harness import GatewayProcess

MAX_HOPS = 12
_ACTION = re.compile(r'<form method="post" action="([^"]+)">')
_HIDDEN = re.compile(r'<input type="hidden" name="form" value="([^"]+)">')
_TITLE = re.compile(r"<h1>(.*?)</h1>", re.DOTALL)


@dataclass(frozen=True)
class Page:
    """A page of the gateway. `at` is its URL."""

    status: int
    text: str
    at: str

    @property
    def title(self) -> str:
        found = _TITLE.search(self.text)
        return re.sub(r"<[^>]+>", "", found[1]) if found else ""

    @property
    def form(self) -> str:
        found = _HIDDEN.search(self.text)
        assert found is not None, self.text
        return unescape(found[1])

    @property
    def action(self) -> str:
        found = _ACTION.search(self.text)
        assert found is not None, self.text
        return unescape(found[1])


@dataclass
class Person:
    """Somebody with a browser of their own. `login` is who they are at the provider."""

    gate: GatewayProcess
    provider: OidcProvider
    name: str
    login: str
    cookies: dict[str, str] = field(default_factory=dict)

    def open(self, url: str) -> Page:
        """Open a URL of the gateway, sign in if asked, and return the page that comes then."""
        page = self.get(url)
        if page.title == "Sign in":
            page = self.post(page, username=self.name, password=PASSWORD)
        return page

    def agree(self, url: str) -> Page:
        """Do what a URL to connect is for; return the last page."""
        back = self.go(url)
        return back if isinstance(back, Page) else self.get(back)

    def go(self, url: str) -> str | Page:
        """The same, up to the way back from the provider: the URL there, or the page that led nowhere."""
        page = self.open(url)
        if not page.title.startswith("Connect "):
            return page
        left = self.press(page)
        return self.provider.walk(left, self.login) if isinstance(left, str) else left

    def press(self, page: Page, **fields: str) -> str | Page:
        """Press the button of a page; return where that leads, when it is elsewhere."""
        response = self._send("POST", urljoin(page.at, page.action), {"form": page.form, **fields})
        return self._followed(response, page.at)

    def post(self, page: Page, **fields: str) -> Page:
        sent = self.press(page, **fields)
        assert isinstance(sent, Page), sent
        return sent

    def get(self, url: str) -> Page:
        found = self._followed(self._send("GET", url), url)
        assert isinstance(found, Page), found
        return found

    def _followed(self, response: httpx2.Response, at: str) -> str | Page:
        for _ in range(MAX_HOPS):
            if not response.is_redirect:
                return Page(response.status_code, response.text, at)
            at = urljoin(at, response.headers["location"])
            if urlsplit(at).netloc != urlsplit(self.gate.base_url).netloc:
                return at
            response = self._send("GET", at)
        raise AssertionError(f"sent around: {at}")

    def _send(self, method: str, url: str, data: dict[str, str] | None = None) -> httpx2.Response:
        # By hand: the gateway's cookies are Secure, which browsers send to loopback all the same.
        headers = {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        if method == "POST":
            headers["origin"] = self.gate.base_url
        with httpx2.Client(trust_env=False, timeout=20) as http:
            response = http.request(method, url, data=data, headers=headers)
        for line in response.headers.get_list("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        return response
