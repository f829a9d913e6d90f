"""What tests use besides Python packages: npm's, in the versions that the tests were written against.

`python -m tests.tools` installs them with npm's ordinary client into one directory: MCPGW_TEST_TOOLS, by default
~/.cache/mcpgw-tests. Tests only look for them there; one that misses a part skips by name and says this command.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

TOOLS = Path(os.environ.get("MCPGW_TEST_TOOLS", "~/.cache/mcpgw-tests")).expanduser()
HOW = "python -m tests.tools"
NPM = {
    # The suite imports `fs.globSync`, which came with Node 22.
    "node": {"node": "22.23.3", "@modelcontextprotocol/conformance": "0.2.0-alpha.12"},
    "servers": {
        "@modelcontextprotocol/server-everything": "2026.8.31",
        "@modelcontextprotocol/server-filesystem": "2026.8.31",
    },
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


if __name__ == "__main__":
    for named in sys.argv[1:] or NPM:
        print(install_npm(named))
