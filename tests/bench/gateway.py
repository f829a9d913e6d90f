"""mcpgw as a target of compare.py.

  python -m tests.bench.gateway prepare DIR [--durability disk] [--policy arguments]   configuration, keys, policy
  python -m tests.bench.gateway setup DIR     with the gateway running: registers the fixture; last line: url, headers
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import time
import urllib.parse
import urllib.request
from base64 import b64encode
from pathlib import Path

import yaml
from joserfc import jwt
from joserfc.jwk import ECKey

from mcpgw.cli.api import Api, Gateway
from mcpgw.config import load
from mcpgw.processes import bootstrap

# What a role may do, by server and tool: read from the caller and the tool alone.
BY_ROLE = """package mcpgw.authz

default decision := {"effect": "deny", "reasons": ["default-deny"]}

allowed := {"agent": {"bench": {"echo", "blob"}}, "auditor": {"bench": {"blob"}}}

decision := {"effect": "allow", "reasons": ["role-may-use-tool"]} if {
\tsome role in input.principal.roles
\tinput.tool.name in allowed[role][input.server.name]
}

decision := {"effect": "allow", "reasons": ["agents-use-the-ten"]} if {
	startswith(input.server.name, "up")
	"agent" in input.principal.roles
}

decision := {"effect": "allow", "reasons": ["agents-use-models"]} if {
\tinput.model.name
\t"agent" in input.principal.roles
}
"""
# The same, and a condition on the arguments, so that each call is evaluated.
BY_ARGUMENTS = BY_ROLE.replace(
    "allowed[role][input.server.name]\n", 'allowed[role][input.server.name]\n\tnot forbidden\n'
) + """
forbidden if input.arguments.text == "drop table"
"""


ISSUER_PORT = 9002
ISSUER = f"http://127.0.0.1:{ISSUER_PORT}"
PUBLISHED = "published"
"""Folder beside that of the gateway: what the issuer of foreign tokens serves."""


def prepare(directory: Path, port: int, durability: str, policy: str, credential: str) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    tree = {
        "data_dir": str(directory / "data"),
        "server": {"port": port},
        "audit": {"durability": durability},
        "auth": {"token_ttl_s": 86400},
        "llm": {"providers": [{"name": "fake", "base_url": "http://127.0.0.1:9001/v1", "models": ["fake"]}]},
    }
    if credential == "foreign":
        tree["auth"]["issuers"] = [{"issuer": ISSUER, "jwks_uri": f"{ISSUER}/jwks.json", "algorithms": ["ES256"]}]
        key = ECKey.generate_key("P-256")
        published = directory.parent / PUBLISHED
        published.mkdir(exist_ok=True)
        (published / "jwks.json").write_text(json.dumps({"keys": [{**key.as_dict(private=False), "kid": "bench"}]}))
        (directory / "issuer.json").write_text(json.dumps(key.as_dict(private=True)))
    config = directory / "mcpgw.yaml"
    config.write_text(yaml.safe_dump(tree))
    text = BY_ARGUMENTS if policy == "arguments" else BY_ROLE
    made = asyncio.run(bootstrap(load(config, environ={}), {"bench.rego": text}))
    (directory / "keys.json").write_text(json.dumps({"agent": made.agent_key, "admin": made.admin_key}))


def setup(directory: Path, port: int, upstream: str, credential: str, servers: int) -> None:
    keys = json.loads((directory / "keys.json").read_text())
    base = f"http://127.0.0.1:{port}"
    admin = Api(Gateway(base, keys["admin"]))
    root = upstream.removesuffix("/mcp")
    urls = {f"up{i}": f"{root}/s{i}/mcp" for i in range(servers)} or {"bench": upstream}
    known = {server["slug"] for server in admin.get("/servers")["servers"]}
    for slug in urls.keys() - known:
        admin.post("/servers", {"slug": slug, "url": urls[slug]})
        version = admin.post(f"/servers/{slug}/versions")["version"]
        admin.post(f"/servers/{slug}/versions/{version}/approve")
        admin.post(f"/servers/{slug}/versions/{version}/activate")
    url = f"{base}/mcp" if servers else f"{base}/mcp/bench"
    if credential == "foreign":
        shown = foreign_token(directory, url)
    else:
        shown = keys["agent"] if credential == "key" else access_token(admin, base, url)
    print(json.dumps({"url": url, "headers": [f"Authorization: Bearer {shown}"]}))


def access_token(admin: Api, base: str, url: str) -> str:
    """Return a JWT for `url` from the gateway's own authorization server (RFC 6749 4.4)."""
    made = admin.post("/clients", {"client_id": "bench", "subject": "bench", "roles": ["agent"]})
    secret = b64encode(f"{made['client_id']}:{made['client_secret']}".encode()).decode()
    form = urllib.parse.urlencode({"grant_type": "client_credentials", "resource": url}).encode()
    asked = urllib.request.Request(f"{base}/oauth/token", form, {"Authorization": f"Basic {secret}"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        token: str = json.load(answer)["access_token"]
    return token


def foreign_token(directory: Path, url: str) -> str:
    """Return a JWT for `url` from the issuer beside the gateway (RFC 9068)."""
    key = ECKey.import_key(json.loads((directory / "issuer.json").read_text()))
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": "bench", "aud": url, "client_id": "bench", "scope": "mcp:use"}
    header = {"alg": "ES256", "typ": "at+jwt", "kid": "bench"}
    return jwt.encode(header, {**claims, "jti": "bench", "iat": now, "exp": now + 86_400}, key, ["ES256"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["prepare", "setup"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=9300)
    parser.add_argument("--durability", default="process", choices=["process", "disk"])
    parser.add_argument("--policy", default="role", choices=["role", "arguments"])
    parser.add_argument("--credential", default="key", choices=["key", "jwt", "foreign"])
    parser.add_argument("--servers", type=int, default=0, help="register so many of the fixture's servers instead")
    parser.add_argument("--upstream", default="http://127.0.0.1:9000/mcp")
    given = parser.parse_args()
    if given.what == "prepare":
        prepare(given.directory, given.port, given.durability, given.policy, given.credential)
    else:
        setup(given.directory, given.port, given.upstream, given.credential, given.servers)


if __name__ == "__main__":
    main()
