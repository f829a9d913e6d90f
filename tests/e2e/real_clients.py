"""Clients that others made, each in one conversation with a server that has everything in it: what it heard."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import ElicitResult

from tests import tools
from tests.e2e.agents import agent, text_of
from tests.harness import ROOT

SCRIPTS = ROOT / "tests" / "fixtures" / "clients"
OLD = ("2025-03-26", "2025-06-18")  # the last revisions that SDKs of their time know
WITHIN_S = 60.0


@dataclass(frozen=True)
class Spec:
    """Where to talk. The names of tools begin with `prefix`; those of the resource and the prompt end as said here."""

    url: str
    key: str
    prefix: str = ""
    mode: str = "legacy"
    resource: str = "static-text"
    prompt: str = "test_simple_prompt"


class Said(msgspec.Struct, rename="camel"):
    """A tool result. `text` has a line for each block."""

    text: str
    is_error: bool


class Heard(msgspec.Struct, kw_only=True):
    """`asked` are the messages of the forms that the user was shown, `answered` what the tool made of the answer."""

    protocol: str
    tools: list[str]
    allowed: Said
    denied: Said
    answered: Said
    asked: list[str]
    resource: str
    prompt: str


Talk = Callable[[Spec], Awaitable[Heard]]


async def every(list_page: Callable[..., Awaitable[Any]], key: str) -> list[Any]:
    """Return the whole list, page by page."""
    page = await list_page()
    found = list(getattr(page, key))
    while page.next_cursor is not None:
        page = await list_page(cursor=page.next_cursor)
        found += getattr(page, key)
    return found


async def converse(client: Client, spec: Spec, asked: list[str]) -> Heard:
    """Say with the SDK's client what the scripts of the other clients say."""

    async def call(name: str, **arguments: Any) -> Said:
        result = await client.call_tool(spec.prefix + name, arguments)
        return Said(text_of(result), bool(result.is_error))

    names = [tool.name for tool in await every(client.list_tools, "tools")]
    resources = await every(client.list_resources, "resources")
    prompts = await every(client.list_prompts, "prompts")
    allowed = await call("test_simple_text")
    denied = await call("test_error_handling")
    answered = await call("test_elicitation", message="Who are you?")
    uri = next(str(resource.uri) for resource in resources if str(resource.uri).endswith(spec.resource))
    prompt = next(prompt.name for prompt in prompts if prompt.name.endswith(spec.prompt))
    read: Any = await client.read_resource(uri)
    filled: Any = await client.get_prompt(prompt)
    return Heard(
        protocol=client.protocol_version,
        tools=names,
        allowed=allowed,
        denied=denied,
        answered=answered,
        asked=asked,
        resource=read.contents[0].text,
        prompt=filled.messages[0].content.text,
    )


def a_user(asked: list[str]) -> Callable[[Any, Any], Awaitable[ElicitResult]]:
    """Return a user who notes what she is asked, and answers every form with the same words."""

    async def elicited(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={"username": "ada", "email": "ada@example.org"})

    return elicited


async def python_sdk_2(spec: Spec) -> Heard:
    asked: list[str] = []
    async with agent(spec.url, spec.key, mode=spec.mode, elicitation_callback=a_user(asked)) as client:
        return await converse(client, spec, asked)


async def python_sdk_1(spec: Spec) -> Heard:
    return await _script([str(tools.python("sdk-1")), str(SCRIPTS / "python_sdk_1.py")], spec)


class Node:
    """Clients from npm, run by the Node of the tests. `directory` is where the scripts find their packages."""

    def __init__(self, directory: Path) -> None:
        self.node = str(tools.node())
        self.directory = directory
        for group in ("clients", *map(_of, OLD)):
            for package in tools.NPM[group]:
                tools.npm_package(group, package)
            shutil.copytree(SCRIPTS, directory / group)
            (directory / group / "node_modules").symlink_to(tools.npm_dir(group) / "node_modules")

    async def typescript_sdk_1(self, spec: Spec, *, group: str = "clients") -> Heard:
        return await _script([self.node, str(self.directory / group / "typescript_sdk_1.mjs")], spec)

    async def typescript_sdk_2(self, spec: Spec) -> Heard:
        return await _script([self.node, str(self.directory / "clients" / "typescript_sdk_2.mjs")], spec)

    async def mcp_remote(self, spec: Spec) -> Heard:
        """Talk over stdio to the bridge, which talks to the server."""
        program = str(tools.npm_program("clients", "mcp-remote").resolve())
        command = [program, spec.url, "--header", f"Authorization: Bearer {spec.key}", "--allow-http"]
        env = {"PATH": os.environ["PATH"], "MCP_REMOTE_CONFIG_DIR": str(self.directory / "mcp-remote")}
        asked: list[str] = []
        with (self.directory / "mcp-remote.log").open("a") as log, anyio.fail_after(WITHIN_S):
            bridge = stdio_client(StdioServerParameters(command=self.node, args=command, env=env), errlog=log)
            async with Client(bridge, mode=spec.mode, elicitation_callback=a_user(asked)) as client:
                return await converse(client, spec, asked)

    async def inspector(self, spec: Spec, *options: str) -> tuple[int, Any]:
        """Return the Inspector's exit status and what it printed."""
        program = str(tools.npm_program("clients", "mcp-inspector").resolve())
        command = [self.node, program, "--cli", spec.url, "--transport", "http", "--protocol-era", spec.mode]
        command += ["--header", f"Authorization: Bearer {spec.key}", "--format", "json", "--quiet", *options]
        with anyio.fail_after(WITHIN_S):
            env = {**os.environ, "HOME": str(self.directory)}
            ended = await anyio.run_process(command, check=False, env=env)
        assert ended.stdout, ended.stderr.decode()
        return ended.returncode, json.loads(ended.stdout)


def _of(revision: str) -> str:
    """Return the group of packages with the SDK of that time."""
    return f"clients-{revision}"


async def _script(command: Sequence[str], spec: Spec) -> Heard:
    with anyio.fail_after(WITHIN_S):
        ended = await anyio.run_process([*command, json.dumps(asdict(spec))], check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    return msgspec.json.decode(ended.stdout, type=Heard)


def talks(node: Node) -> Mapping[str, Talk]:
    """Return the clients that have the whole conversation, by name."""
    return {
        "python-1": python_sdk_1,
        "python-2": python_sdk_2,
        "typescript-1": node.typescript_sdk_1,
        **{f"typescript-{revision}": partial(node.typescript_sdk_1, group=_of(revision)) for revision in OLD},
        "typescript-2": node.typescript_sdk_2,
        "mcp-remote": node.mcp_remote,
    }
