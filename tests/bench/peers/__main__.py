"""Measure ContextForge, LiteLLM and FastMCP's proxy in one interleaved run with the direct upstream, nginx and us.

  python -m tests.bench.peers install DIR                      environments for them below DIR, from PyPI (1 GB)
  python -m tests.bench.peers run DIR [--rounds 3] [--duration 4] [--lists] [--only a;b] [--out results.json]

`run` measures tools/call at 1 and 32 connections; with --lists a tools/list over 10 servers of 20 tools at 1 and 8.
Needs nginx (Debian: nginx-light). Everything listens on loopback and stops by itself. Not part of continuous
integration.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.bench.run import HERE, fixture, nginx, target

PEERS = HERE / "peers"
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "contextforge": ("mcp-contextforge-gateway==1.0.7.post20260921", "uvloop", "httptools"),
    "litellm": ("litellm[proxy]==1.106.0",),
    "fastmcp": ("fastmcp==4.1.0", "uvloop", "httptools"),
}
SERVERS, TOOLS = 10, 20
LITELLM_KEY = "sk-bench-1234567890"
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "DISABLE_ADMIN_UI": "True", "NO_DOCS": "True"}
SLOW_START_S = 240
ANSWERS = [200, 400, 404, 405, 406, 421]  # what a plain GET of an MCP endpoint may be answered with


def python(directory: Path, name: str) -> Path:
    return directory / "venv" / name / "bin" / "python"


def install(directory: Path) -> None:
    """Make the environments that are missing."""
    for name, packages in PACKAGES.items():
        if not python(directory, name).exists():
            subprocess.run([sys.executable, "-m", "venv", str(directory / "venv" / name)], check=True)
        subprocess.run([python(directory, name), "-m", "pip", "install", "--quiet", *packages], check=True)
        print(f"{name}: {', '.join(packages)}")


def contextforge(directory: Path, work: Path, port: int, servers: int, *, stateful: bool = False) -> dict[str, Any]:
    """By default it opens a session with the upstream for each call; it can keep them."""
    program = [str(python(directory, "contextforge")), str(PEERS / "contextforge.py")]
    home = str(work / f"contextforge-{port}")
    return {
        "name": f"ContextForge (JWT{', stateful sessions' if stateful else ''})",
        "cmd": [*program, "run", str(port), home, *(["stateful"] if stateful else [])],
        "url": "",
        "ready": {"url": f"http://127.0.0.1:{port}/health", "timeout": SLOW_START_S},
        "setup": [*program, "setup", str(port), home, str(servers)],
    }


def litellm(directory: Path, work: Path, port: int, servers: int) -> dict[str, Any]:
    paths = {f"up{i}": f"/s{i}/mcp" for i in range(servers)} or {"bench": "/mcp"}
    config = {
        "model_list": [],
        "mcp_servers": {
            name: {"url": f"http://127.0.0.1:9000{path}", "transport": "http", "allow_all_keys": True}
            for name, path in paths.items()
        },
        "general_settings": {"master_key": LITELLM_KEY},
        "litellm_settings": {"telemetry": False, "set_verbose": False},
    }
    file = work / f"litellm-{port}.yaml"
    file.write_text(yaml.safe_dump(config))
    program = str(python(directory, "litellm").with_name("litellm"))
    return {
        "name": "LiteLLM (master key)",
        "cmd": [program, "--config", str(file), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"],
        "env": QUIET,
        "url": f"http://127.0.0.1:{port}/mcp/",
        "headers": [f"Authorization: Bearer {LITELLM_KEY}"],
        "tool": "bench-echo",
        "ready": {"url": f"http://127.0.0.1:{port}/health/liveliness", "timeout": SLOW_START_S},
    }


def fastmcp(directory: Path, port: int, servers: int) -> dict[str, Any]:
    return {
        "name": "FastMCP proxy (no authentication)",
        "cmd": [str(python(directory, "fastmcp")), str(PEERS / "fastmcp_proxy.py"), str(port), str(servers)],
        "url": f"http://127.0.0.1:{port}/mcp",
        "ready": {"url": f"http://127.0.0.1:{port}/mcp", "status": ANSWERS},
    }


def calls(directory: Path, work: Path) -> dict[str, Any]:
    """One tool of one server, through each gateway."""
    return {
        "points": ["call:1", "call:32"],
        "fixtures": [fixture("mcp", 9000), fixture("llm", 9001)],
        "targets": [
            {"name": "direct", "url": "http://127.0.0.1:9000/mcp"},
            nginx(work, "legacy"),
            target("mcpgw", work / "mcpgw", "legacy"),
            target("mcpgw, JWT", work / "mcpgw-jwt", "legacy"),
            target("mcpgw, 2026-07-28", work / "mcpgw-modern", "stateless"),
            contextforge(directory, work, 9401, 0),
            contextforge(directory, work, 9404, 0, stateful=True),
            litellm(directory, work, 9402, 0),
            fastmcp(directory, 9403, 0),
        ],
    }


def lists(directory: Path, work: Path) -> dict[str, Any]:
    """All tools of ten servers at one endpoint; direct is one server with its own."""
    through = [
        target("mcpgw, ten servers", work / "mcpgw-ten", "legacy"),
        contextforge(directory, work, 9411, SERVERS),
        litellm(directory, work, 9412, SERVERS),
        fastmcp(directory, 9413, SERVERS),
    ]
    for one in through:
        one["args"] = {"list": ["--expect", str(SERVERS * TOOLS)]}
    one_server = {"name": "direct", "url": "http://127.0.0.1:9000/s0/mcp", "args": {"list": ["--expect", str(TOOLS)]}}
    fixtures = [fixture("mcp", 9000), fixture("llm", 9001)]
    return {"points": ["list:1", "list:8"], "fixtures": fixtures, "targets": [one_server, *through]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["install", "run"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--lists", action="store_true", help="tools/list over ten servers instead of tools/call")
    parser.add_argument("--only", default="", help="names of targets, with ; between them")
    parser.add_argument("--points", default="")
    parser.add_argument("--rounds", default="3")
    parser.add_argument("--duration", default="4")
    parser.add_argument("--out", default="")
    given = parser.parse_args()
    if given.what == "install":
        install(given.directory)
        return
    directory = given.directory.resolve()
    with tempfile.TemporaryDirectory(prefix="mcpgw-bench-") as temporary:
        work = Path(temporary)
        spec = (lists if given.lists else calls)(directory, work)
        (work / "targets.json").write_text(json.dumps(spec))
        command = [sys.executable, str(HERE / "compare.py"), str(work / "targets.json"), "--tmp", str(work / "run")]
        command += ["--rounds", given.rounds, "--duration", given.duration, "--warm", "1"]
        for option in ("only", "points", "out"):
            command += [f"--{option}", getattr(given, option)] if getattr(given, option) else []
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
