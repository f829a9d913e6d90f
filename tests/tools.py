"""What tests use besides the packages of their own environment, in the versions that they were written against.

`python -m tests.tools` installs it into one directory, with the ordinary clients of npm and PyPI: MCPGW_TEST_TOOLS, by
default ~/.cache/mcpgw-tests. Tests only look there; one that misses a part skips by name and says this command.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOOLS = Path(os.environ.get("MCPGW_TEST_TOOLS", "~/.cache/mcpgw-tests")).expanduser()
HOW = "python -m tests.tools"
Versions = Mapping[str, str]
NPM: Mapping[str, Versions] = {
    # The suites import `fs.globSync`, which came with Node 22.
    "node": {"node": "22.23.3", "@modelcontextprotocol/conformance": "0.2.0-alpha.12"},
    "conformance-0.1": {"@modelcontextprotocol/conformance": "0.1.16"},
    "servers": {
        "@modelcontextprotocol/server-everything": "2026.8.31",
        "@modelcontextprotocol/server-filesystem": "2026.8.31",
        "@modelcontextprotocol/server-memory": "2026.8.31",
    },
    # A whole OpenID provider and OAuth authorization server, certified by the OpenID foundation; MIT.
    "provider": {"oidc-provider": "9.13.3"},
    # Documents of real APIs: Swagger's pet store (Apache-2.0), the USPTO's data sets, STAPI and others; MIT as a whole.
    "documents": {"@readme/oas-examples": "8.2.2"},
    "clients": {
        "@modelcontextprotocol/sdk": "1.32.2",
        "@modelcontextprotocol/client": "2.4.0",
        "@modelcontextprotocol/inspector": "2.12.0",
        "mcp-remote": "0.15.1",
    },
    # The last SDKs of the revisions that they are named after.
    "clients-2025-06-18": {"@modelcontextprotocol/sdk": "1.17.5"},
    "clients-2025-03-26": {"@modelcontextprotocol/sdk": "1.12.3"},
}
PYTHON: Mapping[str, Versions] = {
    "sdk-1": {"mcp": "1.30.0"},  # the last of the handshake era: it cannot be beside the SDK that we use
    "fastmcp": {"fastmcp": "4.1.0"},
}


class Missing(Exception):
    """A part is not there; the message names it, and the command that installs it."""


def npm_dir(group: str) -> Path:
    """Return where a group of npm packages is, or would be."""
    return TOOLS / group


def npm_package(group: str, name: str) -> Path:
    """Return the directory of an installed package. Raises Missing."""
    package = npm_dir(group) / "node_modules" / name
    version = NPM[group][name]
    try:
        found = json.loads((package / "package.json").read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError):
        found = None
    if found != version:
        raise Missing(f"npm's {name} {version} is missing: {HOW}")
    return package


def npm_program(group: str, name: str) -> Path:
    """Return an installed program. Raises Missing."""
    program = npm_dir(group) / "node_modules" / ".bin" / name
    if not program.exists():
        raise Missing(f"{name} is missing: {HOW}")
    return program


def node() -> Path:
    """Return Node 22. Raises Missing."""
    return npm_program("node", "node")


def python_dir(group: str) -> Path:
    """Return where an environment is, or would be."""
    return TOOLS / "python" / group


def python(group: str) -> Path:
    """Return the interpreter of an installed environment. Raises Missing."""
    environment = python_dir(group)
    for name, version in PYTHON[group].items():
        # Written after the package itself and everything it depends on.
        if not list(environment.glob(f"lib/python*/site-packages/{name}-{version}.dist-info/RECORD")):
            raise Missing(f"an environment with {name} {version} is missing: {HOW}")
    return environment / "bin" / "python"


def install_npm(group: str) -> Path:
    """Install a group of npm packages unless it is there; return its directory."""
    directory = npm_dir(group)
    try:
        for name in NPM[group]:
            npm_package(group, name)
    except Missing:
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit("npm is missing: install Node.js 20 or newer with npm") from None
        directory.mkdir(parents=True, exist_ok=True)
        # npm 11 asks for consent to install scripts, and Node's own package is one that has such a script.
        (directory / "package.json").write_text('{"private": true, "allowScripts": {"node": true}}\n')
        packages = [f"{name}@{version}" for name, version in NPM[group].items()]
        options = ["--silent", "--save-exact", "--no-audit", "--no-fund", "--prefix", str(directory)]
        subprocess.run([npm, "install", *options, *packages], check=True)
    return directory


def install_python(group: str) -> Path:
    """Make an environment with its packages unless it is there; return its directory."""
    directory = python_dir(group)
    try:
        python(group)
    except Missing:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True)
        packages = [f"{name}=={version}" for name, version in PYTHON[group].items()]
        subprocess.run([directory / "bin" / "python", "-m", "pip", "install", "--quiet", *packages], check=True)
    return directory


GROUPS: Mapping[str, Callable[[str], Path]] = {
    **dict.fromkeys(NPM, install_npm),
    **dict.fromkeys(PYTHON, install_python),
}


def main() -> None:
    named = sys.argv[1:] or list(GROUPS)
    with ThreadPoolExecutor() as threads:
        for directory in threads.map(lambda group: GROUPS[group](group), named):
            print(directory)


if __name__ == "__main__":
    main()
