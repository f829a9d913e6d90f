"""The client that the conformance suite starts for each of its client scenarios: our gateway, with a caller before it.

`python -m tests.spec.upstream_client URL`, as the suite runs it: MCP_CONFORMANCE_SCENARIO says what is played there,
MCPGW_TEST_GATEWAY where a gateway without authentication runs. The scenario's server is published there, its tools are
called through it by a client of 2026-07-28, and whoever is asked to agree to something in a browser does so, by HTTP.
What arrives at the scenario's servers is the gateway's.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from mcpgw.mirrored import headers_of
from mcpgw.registry import digest
from mcpgw.registry.scan import findings

GATEWAY = "MCPGW_TEST_GATEWAY"
VERSION = "2026-07-28"
MAX_ROUNDS = 6
MAX_HOPS = 8
TIMEOUT_S = 20.0
CAPABILITIES = {"elicitation": {"form": {}, "url": {}}, "roots": {}, "sampling": {}}
_FORM = re.compile(r'<form method="post" action="([^"]+)">\s*<input type="hidden" name="form" value="([^"]+)">')
_TITLE = re.compile(r"<h1>(.*?)</h1>", re.DOTALL)
Json = dict[str, Any]


class NotDone(Exception):
    """What the scenario is about did not come to its end; in some that is as it should be."""


def ask(
    url: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> tuple[int, Mapping[str, str], bytes]:
    """Send one request; return status, headers by lower-case name, and body."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=TIMEOUT_S)
    try:
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        connection.request(method, target, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def visit(base: str, url: str) -> str:
    """Open a URL as a browser does, follow redirects, and return the title and text of the page at the end."""
    for _ in range(MAX_HOPS):
        status, headers, body = ask(url)
        if status in {302, 303}:
            url = urljoin(url, headers["location"])
            continue
        page = body.decode()
        form = _FORM.search(page)
        if form is None:
            return page
        origin = {"origin": base, "content-type": "application/x-www-form-urlencoded"}
        sent = urlencode({"form": unescape(form[2])}).encode()
        status, headers, body = ask(urljoin(url, unescape(form[1])), "POST", origin, sent)
        if status not in {302, 303}:
            return body.decode()
        url = urljoin(url, headers["location"])
    raise NotDone("the browser is sent around")


def agree(base: str, url: str) -> None:
    """Do what the URL is for. Raises NotDone with the words of the page, when that is another one than hoped for."""
    page = visit(base, url)
    title = _TITLE.search(page)
    if title is None or "is connected" not in title[1]:
        raise NotDone(
            f"not connected: {title[1] if title else page[:200]}: {' '.join(re.sub('<[^>]+>', ' ', page).split())}"
        )


class Gateway:
    """The gateway, as an administrator, a caller and their browser use it."""

    def __init__(self, base: str, slug: str) -> None:
        self._base = base
        self._slug = slug
        self._ids = 0

    def publish(self, url: str, auth: Json | None) -> None:
        """Publish a server, agreeing in the browser as often as that needs."""
        for _ in range(MAX_ROUNDS):
            status, answer = self._admin(
                "/servers", {"slug": self._slug, "url": url, **({"auth": auth} if auth else {})}
            )
            if status < 300:
                version = answer["version"]
                for step in ("approve", "activate"):
                    # The scan finds what the scenario has put into the definitions on purpose.
                    body = {"force": True} if step == "approve" else {}
                    status, answer = self._admin(f"/servers/{self._slug}/versions/{version}/{step}", body)
                    if status >= 300:
                        raise NotDone(f"{step}: {json.dumps(answer)}")
                return
            consent = answer["error"]["data"].get("url")
            if consent is None:
                raise NotDone(f"not published: {json.dumps(answer)}")
            agree(self._base, consent)
        raise NotDone("not published in so many rounds")

    def keep(self, secret: str, origin: str) -> str:
        """Put a secret into the gateway's vault, to be sent to one place; return the reference."""
        status, answer = self._admin(f"/secrets/{self._slug}", {"value": secret, "origins": [origin]}, "PUT")
        if status >= 300:
            raise NotDone(f"not kept: {json.dumps(answer)}")
        return f"vault:{self._slug}"

    def _admin(self, path: str, body: Json, method: str = "POST") -> tuple[int, Json]:
        headers = {"content-type": "application/json"}
        status, _, answer = ask(f"{self._base}/admin/v1{path}", method, headers, json.dumps(body).encode())
        return status, json.loads(answer or b"{}")

    def ask(self, method: str, params: Json | None = None, extra: Mapping[str, str] | None = None) -> Json:
        """Ask as a client of 2026-07-28, answering every question until there is a result. Raises NotDone."""
        given: Json = {}
        for _ in range(MAX_ROUNDS):
            answer = self._request(method, {**(params or {}), **given}, extra or {})
            result: Json = answer.get("result", {})
            if "error" in answer:
                raise NotDone(f"{method}: {json.dumps(answer['error'])}")
            if result.get("resultType") != "input_required":
                return result
            asked = result.get("inputRequests", {})
            given = {"inputResponses": {key: self._answered(question) for key, question in asked.items()}}
            if "requestState" in result:
                given["requestState"] = result["requestState"]
        raise NotDone(f"{method}: asked in so many rounds")

    def _answered(self, question: Json) -> Json:
        params = question.get("params", {})
        if params.get("mode") == "url":
            agree(self._base, params["url"])
            return {"action": "accept"}
        return {"action": "accept", "content": {"confirmed": True}}

    def _request(self, method: str, params: Json, extra: Mapping[str, str]) -> Json:
        self._ids += 1
        meta = {
            "io.modelcontextprotocol/protocolVersion": VERSION,
            "io.modelcontextprotocol/clientCapabilities": CAPABILITIES,
            "io.modelcontextprotocol/clientInfo": {"name": "upstream_client", "version": "1"},
        }
        body = {"jsonrpc": "2.0", "id": self._ids, "method": method, "params": {**params, "_meta": meta}}
        headers = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": VERSION,
            "mcp-method": method,
            **extra,
        }
        named = params.get("name") or params.get("uri")
        if named is not None:
            headers["mcp-name"] = named
        _, kind, answer = ask(f"{self._base}/mcp/{self._slug}", "POST", headers, json.dumps(body).encode())
        text = answer.decode()
        if "event-stream" in kind.get("content-type", ""):
            text = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")][-1]
        read: Json = json.loads(text)
        return read


def call_all(gateway: Gateway, context: Json) -> None:
    """List the tools and call each with the arguments that its schema wants."""
    for tool in gateway.ask("tools/list")["tools"]:
        if not _breaks_header_rules(tool):
            call(gateway, tool, _arguments(tool["inputSchema"]))


def _breaks_header_rules(tool: Json) -> bool:
    """Whether a client leaves a tool out (SEP-2243): the gateway shows it as it is, to who approved it all the same."""
    found = findings({tool["name"]: digest.pin(json.dumps(tool).encode())})
    return any(finding.rule == "header" for finding in found)


def call_given(gateway: Gateway, context: Json) -> None:
    listed = {tool["name"]: tool for tool in gateway.ask("tools/list")["tools"]}
    for given in context["toolCalls"]:
        call(gateway, listed[given["name"]], given["arguments"])


def call(gateway: Gateway, tool: Json, arguments: Json) -> None:
    mirrored = headers_of(json.dumps(tool).encode(), json.dumps(arguments).encode())
    headers = {name.decode(): value.decode() for name, value in mirrored}
    gateway.ask("tools/call", {"name": tool["name"], "arguments": arguments}, headers)


def use_everything(gateway: Gateway, context: Json) -> None:
    call_all(gateway, context)
    for resource in gateway.ask("resources/list").get("resources", []):
        gateway.ask("resources/read", {"uri": resource["uri"]})
    for prompt in gateway.ask("prompts/list").get("prompts", []):
        gateway.ask("prompts/get", {"name": prompt["name"], "arguments": {}})


def list_only(gateway: Gateway, context: Json) -> None:
    gateway.ask("tools/list")


def echo_schema(gateway: Gateway, context: Json) -> None:
    focal, echo = gateway.ask("tools/list")["tools"]
    gateway.ask("tools/call", {"name": echo["name"], "arguments": {"schema": focal["inputSchema"]}})


PLAYS: Mapping[str, Callable[[Gateway, Json], None]] = {
    "http-custom-headers": call_given,
    "http-standard-headers": use_everything,
    "json-schema-ref-no-deref": list_only,
    "json-schema-2020-12-preservation": echo_schema,
}


def _arguments(schema: Json) -> Json:
    made = {"string": "x", "number": 1, "integer": 1, "boolean": True, "object": {}, "array": []}
    wanted = schema.get("properties", {})
    return {name: made.get(field.get("type"), "x") for name, field in wanted.items() if isinstance(field, dict)}


def _issuer_of(url: str) -> str:
    """Return the issuer that a server names, as an administrator would look it up who writes it beside a secret."""
    _, _, body = ask(urljoin(url, "/.well-known/oauth-protected-resource/mcp"))
    issuer: str = json.loads(body)["authorization_servers"][0]
    return issuer


def auth_of(gateway: Gateway, url: str, scenario: str, context: Json) -> Json | None:
    """Return how the gateway proves itself to a scenario's server."""
    if not scenario.startswith("auth/"):
        return None
    registered = {name: context[name] for name in ("issuer", "client_id") if name in context}
    if "client_secret" in context:
        registered.setdefault("issuer", _issuer_of(url))
        registered["client_secret"] = gateway.keep(context["client_secret"], registered["issuer"])
    mode = "client_credentials" if scenario.startswith("auth/client-credentials") else "user"
    return {"mode": mode, **registered}


def main() -> int:
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    url = sys.argv[1]
    slug = f"s{hashlib.sha256(f'{scenario} {url}'.encode()).hexdigest()[:12]}"
    gateway = Gateway(os.environ[GATEWAY], slug)
    # The suite plays all scenarios at once; each publishes a server, and a call that is under way meanwhile would be
    # told that the world has changed.
    turn = (Path(tempfile.gettempdir()) / f"mcpgw-conformance-{urlsplit(os.environ[GATEWAY]).port}").open("w")
    fcntl.flock(turn, fcntl.LOCK_EX)
    try:
        gateway.publish(url, auth_of(gateway, url, scenario, context))
        PLAYS.get(scenario, call_all)(gateway, context)
    except NotDone as outcome:
        print(f"{scenario}: {outcome}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
