"""The same policies on a real OPA server."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import anyio
import pytest

from mcpgw.domain import Arguments, Effect
from mcpgw.errors import InvalidRequest, Unavailable
from mcpgw.policies.bundle import Bundle
from mcpgw.policies.local import LocalEngine, compiled
from mcpgw.policies.opa import OpaServerEngine
from mcpgw.policies.warmup import samples
from mcpgw.ports import PolicyEngine
from tests.parts import agent
from tests.policies.parts import ALLOW, DENY, MAX_INPUT_BYTES, asked, bundle

READS_ARGUMENTS = f"default decision := {DENY}\n\ndecision := {ALLOW} if input.arguments.go == true\n"


def on_server(source: Bundle, port: int, max_input_bytes: int = MAX_INPUT_BYTES) -> OpaServerEngine:
    return OpaServerEngine(source, max_input_bytes=max_input_bytes, host="127.0.0.1", port=port)


@pytest.mark.requirement("policy:parity")
async def test_a_server_decides_like_the_embedded_engine(opa_port: int) -> None:
    example = Bundle.own("example")
    embedded = LocalEngine(compiled(example, MAX_INPUT_BYTES))
    async with on_server(example, opa_port) as remote:
        policy: PolicyEngine = remote
        await remote.push()
        for question in [*samples(), asked("list"), asked("call"), asked("call", b'{"confirm":{"note_id":1}}')]:
            assert await policy.decide(question) == await embedded.decide(question)


async def test_a_new_bundle_takes_the_place_of_the_old_one_with_its_data(opa_port: int) -> None:
    first = bundle(
        f"decision := {ALLOW} if data.go", **{"data.json": '{"go": true}', "lib.rego": "package lib\n\nx := 1\n"}
    )
    async with on_server(first, opa_port) as engine:
        await engine.push()
        assert (await engine.decide(asked("call"))).effect is Effect.ALLOW
    second = bundle(f"decision := {DENY} if not data.go\n")
    async with on_server(second, opa_port) as engine:
        await engine.push()
        assert (await engine.decide(asked("call"))).reasons == ("rule",)


@pytest.mark.requirement("policy:undefined-denies")
@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (f"decision := {ALLOW} if input.nothing", "engine:undefined"),
        (f"decision := {ALLOW} if startswith(input.arguments.a, 1 + input.arguments.a)", "engine:error"),
        (f"decision := {ALLOW} if input.arguments.a\n\ndecision := {DENY} if input.arguments.a", "engine:error"),
        ("decision := true", "engine:bad_output"),
    ],
)
async def test_what_is_no_clear_answer_denies(rules: str, reason: str, opa_port: int) -> None:
    rules = rules.replace(
        "startswith(input.arguments.a, 1 + input.arguments.a)", "startswith(input.arguments.a, input.verb)"
    )
    async with on_server(bundle(rules), opa_port) as engine:
        await engine.push()
        decision = await engine.decide(asked("call", b'{"a":1}'))
        assert (decision.effect, decision.reasons) == (Effect.DENY, (reason,))


@pytest.mark.requirement("policy:never-raises")
async def test_a_question_that_cannot_be_put_denies(opa_port: int) -> None:
    async with on_server(bundle(READS_ARGUMENTS), opa_port, 4096) as engine:
        await engine.push()
        assert (await engine.decide(asked("result"))).effect is Effect.DENY
        assert (await engine.decide(asked("call", b"{"))).effect is Effect.DENY
        large = replace(asked("call"), arguments=Arguments(json.dumps({"x": "y" * 5000}).encode()))
        assert (await engine.decide(large)).reasons == ("engine:input_too_large",)
        surrogate = replace(asked("call"), principal=agent(claims={"x": "\ud800"}))
        assert (await engine.decide(surrogate)).effect is Effect.DENY
    assert (await engine.decide(asked("call"))).reasons == ("engine:unreachable",)


@pytest.mark.requirement("policy:opa-down")
async def test_without_a_server_everything_is_denied_at_once() -> None:
    async with on_server(bundle(READS_ARGUMENTS), 9) as engine:
        with anyio.fail_after(1):
            assert (await engine.decide(asked("call"))).reasons == ("engine:unreachable",)
            with pytest.raises(Unavailable):
                await engine.push()


@pytest.mark.requirement("policy:opa-down")
async def test_a_server_that_hangs_denies_within_the_time_limit() -> None:
    connected: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: connected.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with on_server(bundle(READS_ARGUMENTS), port) as engine:
        with anyio.fail_after(1):
            assert (await engine.decide(asked("call"))).reasons == ("engine:unreachable",)
    for writer in connected:
        writer.close()
    server.close()
    await server.wait_closed()


async def test_old_rego_is_refused_as_it_stands_and_never_rewritten(opa_port: int) -> None:
    async with on_server(bundle("decision[x] { x := 1 }"), opa_port) as engine:
        with pytest.raises(InvalidRequest, match="OPA refuses"):
            await engine.push()
