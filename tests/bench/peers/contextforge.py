"""ContextForge as a target of compare.py; run by the Python of its own environment.

  contextforge.py run PORT DIR [stateful]   start it, on SQLite in DIR; `stateful`: with sessions kept
  contextforge.py setup PORT DIR [N]        register the fixture, or its servers s0..s{N-1}; last line: url, tool, headers

The defaults are kept, but for what one machine needs: upstreams on loopback are allowed, rate limits are off, secrets
are given, the cache is in memory. Authentication stays on: calls carry a JWT.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

SECRET = "bench-secret-key-0123456789abcdefABCDEF-0123456789"
PASSWORD = "Bench@Pass2026!x"
UPSTREAM = "http://127.0.0.1:9000"
SETTINGS = {
    "HOST": "127.0.0.1",
    "JWT_SECRET_KEY": SECRET,
    "AUTH_ENCRYPTION_SECRET": "Another-bench-secret-9876543210-zyxwvutsrq",
    "BASIC_AUTH_PASSWORD": PASSWORD,
    "PLATFORM_ADMIN_EMAIL": "admin@example.com",
    "PLATFORM_ADMIN_PASSWORD": PASSWORD,
    "DEFAULT_USER_PASSWORD": PASSWORD,
    "SSRF_ALLOW_LOCALHOST": "true",
    "SSRF_ALLOW_PRIVATE_NETWORKS": "true",
    "RATE_LIMITING_ENABLED": "false",
    "TOOL_RATE_LIMIT": "1000000000",
    "TOOL_CONCURRENT_LIMIT": "1000",
    "CACHE_TYPE": "memory",
    "MCPGATEWAY_UI_ENABLED": "false",
    "LOG_LEVEL": "ERROR",
    "SECURE_COOKIES": "false",
    "PLUGINS_ENABLED": "false",
    "HEALTH_CHECK_INTERVAL": "300",
    "ENVIRONMENT": "development",
    "LLMCHAT_ENABLED": "false",
}
LISTED_WITHIN_S = 60


def run(port: str, directory: str) -> None:
    os.makedirs(directory, exist_ok=True)
    os.chdir(directory)
    command = [sys.executable, "-m", "uvicorn", "mcpgateway.main:app", "--host", "127.0.0.1", "--port", port]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error"]
    os.execv(sys.executable, command)


def a_token() -> str:
    command = [sys.executable, "-m", "mcpgateway.utils.create_jwt_token", "--username", "admin@example.com", "--admin"]
    said = subprocess.run([*command, "--exp", "10080", "--secret", SECRET], capture_output=True, text=True, check=True)
    return next(line.strip() for line in said.stdout.splitlines() if line.strip().startswith("ey"))


class Admin:
    def __init__(self, base: str, token: str) -> None:
        self.base = base
        self.headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.base + path, method=method, headers=self.headers, data=data)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            sys.exit(f"{method} {path}: {error.code} {error.read()[:600]!r}")

    def tools(self) -> list[dict[str, Any]]:
        listed: Any = self.ask("GET", "/tools?limit=500")
        if isinstance(listed, dict):
            listed = listed.get("tools") or listed.get("data") or listed.get("items") or []
        found: list[dict[str, Any]] = listed
        return found


def setup(port: str, servers: int) -> None:
    base, token = f"http://127.0.0.1:{port}", a_token()
    admin = Admin(base, token)
    urls = {f"up{i}": f"{UPSTREAM}/s{i}/mcp" for i in range(servers)} or {"bench": f"{UPSTREAM}/mcp"}
    known = {gateway["name"] for gateway in admin.ask("GET", "/gateways")}
    for name, url in urls.items():
        if name not in known:
            admin.ask("POST", "/gateways", {"name": name, "url": url, "transport": "STREAMABLEHTTP"})
    deadline = time.monotonic() + LISTED_WITHIN_S
    while len(tools := admin.tools()) < (20 * servers or 2):
        if time.monotonic() > deadline:
            sys.exit(f"only {len(tools)} tools were found")
        time.sleep(0.5)
    associated = [tool["id"] for tool in tools]
    about = {"name": "bench", "description": "bench", "associated_tools": associated}
    made = admin.ask("POST", "/servers", {"server": about})
    echo = next((tool["name"] for tool in tools if tool["name"].endswith("echo")), tools[0]["name"])
    target = {"url": f"{base}/servers/{made['id']}/mcp", "tool": echo, "headers": [f"Authorization: Bearer {token}"]}
    print(json.dumps(target))


if __name__ == "__main__":
    what, given_port, given_directory, *rest = sys.argv[1:]
    os.environ.update(SETTINGS, PORT=given_port, DATABASE_URL=f"sqlite:///{given_directory}/mcp.db")
    if "stateful" in rest:
        os.environ["USE_STATEFUL_SESSIONS"] = "true"
    if what == "run":
        run(given_port, given_directory)
    else:
        setup(given_port, int(rest[0]) if rest else 0)
