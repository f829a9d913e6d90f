"""Measure the gateway against the direct upstream and bare nginx in one interleaved run.

  python -m tests.bench.run [--rounds 3] [--duration 4] [--points call:1,call:32] [--out results.json]

Needs nginx (Debian: nginx-light). Everything listens on loopback and stops by itself. With other gateways in the same
run: `python -m tests.bench.peers`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.gateway import ISSUER, ISSUER_PORT, PUBLISHED

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Variant(NamedTuple):
    """How the gateway is set up; with `servers`, it is `/mcp` over so many of 20 tools each that is measured."""

    port: int
    durability: str = "process"
    policy: str = "role"
    credential: str = "key"
    servers: int = 0


VARIANTS = {
    "mcpgw": Variant(9300),
    "mcpgw, policy reads arguments": Variant(9301, policy="arguments"),
    "mcpgw, durability disk": Variant(9302, durability="disk"),
    "mcpgw, JWT": Variant(9303, credential="jwt"),
    "mcpgw, JWT of another issuer": Variant(9306, credential="foreign"),
}
FOR_PEERS = {
    "mcpgw, 2026-07-28": Variant(9304),
    "mcpgw, ten servers": Variant(9305, servers=10),
}
"""What is measured beside other gateways only."""


def fixture(name: str, port: int) -> dict[str, Any]:
    return {
        "name": name,
        "cmd": [sys.executable, str(HERE / "fixtures" / f"{name}_upstream.py"), "--port", str(port)],
        "ready": {"url": f"http://127.0.0.1:{port}/health"},
    }


def issuer(work: Path) -> dict[str, Any]:
    """The keys of the issuer of foreign tokens, over HTTP."""
    (work / PUBLISHED).mkdir(exist_ok=True)
    served = ["--bind", "127.0.0.1", "--directory", str(work / PUBLISHED)]
    return {
        "name": "issuer",
        "cmd": [sys.executable, "-m", "http.server", str(ISSUER_PORT), *served],
        "ready": {"url": f"{ISSUER}/"},
    }


def nginx(work: Path, mode: str) -> dict[str, Any]:
    return {
        "name": "nginx",
        "cmd": ["sh", str(HERE / "limits" / "nginx.sh"), str(work / "nginx")],
        "url": "http://127.0.0.1:9100/mcp",
        "mode": mode,
        "ready": {"url": "http://127.0.0.1:9100/health"},
    }


def target(name: str, directory: Path, mode: str) -> dict[str, Any]:
    variant = {**VARIANTS, **FOR_PEERS}[name]
    command = [sys.executable, "-m", "tests.bench.gateway"]
    options = [part for key, value in variant._asdict().items() for part in (f"--{key}", str(value))]
    subprocess.run([*command, "prepare", str(directory), *options], cwd=ROOT, check=True)
    return {
        "name": name,
        "cmd": [sys.executable, "-m", "mcpgw", "serve", "--config", str(directory / "mcpgw.yaml")],
        "cwd": str(ROOT),
        "url": f"http://127.0.0.1:{variant.port}/mcp/bench",
        "mode": mode,
        "ready": {"url": f"http://127.0.0.1:{variant.port}/readyz"},
        "setup": ["sh", "-c", f"cd {ROOT} && {' '.join([*command, 'setup', str(directory), *options])}"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--mode", default="legacy", choices=["legacy", "stateless"])
    parser.add_argument("--points", default="call:1,call:32")
    parser.add_argument("--rounds", default="3")
    parser.add_argument("--duration", default="4")
    parser.add_argument("--out", default="")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mcpgw-bench-") as temporary:
        work = Path(temporary)
        wanted = [name for name in VARIANTS if not given.only or name in given.only.split(";")]
        ours = [target(name, work / f"gateway-{i}", given.mode) for i, name in enumerate(wanted)]
        spec = {
            "points": given.points.split(","),
            "fixtures": [fixture("mcp", 9000), fixture("llm", 9001), issuer(work)],
            "targets": [
                {"name": "direct", "url": "http://127.0.0.1:9000/mcp", "mode": given.mode},
                nginx(work, given.mode),
                *ours,
            ],
        }
        (work / "targets.json").write_text(json.dumps(spec))
        command = [sys.executable, str(HERE / "compare.py"), str(work / "targets.json"), "--tmp", str(work / "run")]
        command += ["--rounds", given.rounds, "--duration", given.duration, "--warm", "1"]
        command += ["--out", given.out] if given.out else []
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
