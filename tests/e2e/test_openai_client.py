"""OpenAI's own client on the LLM route of a real gateway, with a provider in a process of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import openai
import pytest
from anyio.to_thread import run_sync
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from tests.harness import GatewayProcess

ASK: Any = [{"role": "user", "content": "to be or not to be"}]
# What the model `tools` proposes: one call that the policy allows and one that it denies.
PROPOSE: Any = [{"role": "user", "content": json.dumps([["get_weather", {"city": "Bern"}], ["delete_everything", {}]])}]
ALLOWED: Any = [{"role": "user", "content": json.dumps([["get_weather", {"city": "Bern"}]])}]
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("get_weather", "delete_everything")
]
USAGE = {"input_tokens": 1000, "output_tokens": 100, "cached_tokens": 200, "reasoning_tokens": 0}
STREAM_S = 10.0


def client_of(gate: GatewayProcess, key: str) -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url=f"{gate.base_url}/v1",
        api_key=key,
        max_retries=0,
        http_client=DefaultAsyncHttpxClient(trust_env=False),
    )


@pytest.fixture
async def client(gate: GatewayProcess) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(gate, gate.agent_key) as made:
        yield made


def records_of(gate: GatewayProcess, action_id: str) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = gate.admin.get(f"/audit/{action_id}")["records"]
    return records


@pytest.mark.requirement("openai:chat")
async def test_a_completion_comes_whole_with_its_receipt_and_its_cost_is_recorded(
    gate: GatewayProcess, client: AsyncOpenAI
) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=ASK)
    completion = raw.parse()
    assert completion.choices[0].message.content == "to be or not to be"
    assert completion.usage is not None and completion.usage.prompt_tokens == 1000
    intent, outcome = records_of(gate, raw.headers["mcpgw-action"])
    assert (intent["route"], intent["server"], intent["name"]) == ("llm", "openai", "gpt-4o-mini")
    facts = outcome["facts"]
    assert {name: facts[name] for name in USAGE} == USAGE
    # gpt-4o-mini: $0.15 a million tokens in, $0.075 cached, $0.60 out.
    assert facts["cost_usd"] == pytest.approx((800 * 0.15 + 200 * 0.075 + 100 * 0.6) / 1_000_000)
    log, index, leaf = raw.headers["mcpgw-receipt"].split("/")
    assert (outcome["log"], outcome["index"], outcome["leaf"]) == (log, int(index), leaf)


@pytest.mark.requirement("openai:stream")
async def test_a_completion_comes_in_a_stream_and_its_cost_is_recorded(
    gate: GatewayProcess, client: AsyncOpenAI
) -> None:
    said, usage = "", []
    options: Any = {"include_usage": True}
    async with await client.chat.completions.create(
        model="openai/gpt-4o-mini", messages=ASK, stream=True, stream_options=options
    ) as stream:
        action_id = stream.response.headers["mcpgw-action"]
        async for chunk in stream:
            said += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage += [chunk.usage] if chunk.usage else []
    assert said.split() == ["to", "be", "or", "not", "to", "be"]
    assert [used.completion_tokens for used in usage] == [100]
    records = records_of(gate, action_id)
    assert [record["phase"] for record in records] == ["intent", "opened", "outcome", "closed"]
    assert {name: records[2]["facts"][name] for name in USAGE} == USAGE
    assert records[2]["facts"]["cost_usd"] > 0


@pytest.mark.requirement("openai:tools")
async def test_an_allowed_proposal_reaches_the_client_as_the_model_made_it(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(model="tools", messages=ALLOWED, tools=TOOLS)
    [call] = completion.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Bern"})
    assert completion.choices[0].finish_reason == "tool_calls"


@pytest.mark.requirement("openai:tools")
async def test_a_denied_proposal_is_replaced_by_words_and_recorded(gate: GatewayProcess, client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="tools", messages=PROPOSE, tools=TOOLS)
    message = raw.parse().choices[0].message
    assert [call.function.name for call in message.tool_calls or () if call.type == "function"] == ["get_weather"]
    assert "`delete_everything`" in (message.content or "")
    assert "This tool only fails" in (message.content or "")
    assert b'"delete_everything"' not in raw.content
    check_proposals(gate, raw.headers["mcpgw-action"])


@pytest.mark.requirement("openai:tools")
async def test_in_a_stream_a_denied_proposal_never_arrives(gate: GatewayProcess, client: AsyncOpenAI) -> None:
    said = ""
    proposed: dict[int, tuple[str, str]] = {}
    stream = await client.chat.completions.create(model="tools", messages=PROPOSE, tools=TOOLS, stream=True)
    async with stream:
        action_id = stream.response.headers["mcpgw-action"]
        async for chunk in stream:
            for choice in chunk.choices:
                said += choice.delta.content or ""
                for call in choice.delta.tool_calls or ():
                    name, arguments = proposed.get(call.index, ("", ""))
                    function = call.function
                    assert function is not None
                    proposed[call.index] = (name + (function.name or ""), arguments + (function.arguments or ""))
    assert [(name, json.loads(arguments)) for name, arguments in proposed.values()] == [
        ("get_weather", {"city": "Bern"})
    ]
    assert said.startswith("Let me see. ")
    assert "`delete_everything`" in said
    check_proposals(gate, action_id)


def check_proposals(gate: GatewayProcess, action_id: str) -> None:
    """Check that the proposals of this call are actions of their own, each decided."""
    newest = gate.admin.get("/audit", limit=30)["records"]
    children = {r["name"]: r["phase"] for r in newest if r.get("parent") == action_id}
    assert children == {"get_weather": "intent", "delete_everything": "refused"}
    outcome = next(r for r in records_of(gate, action_id) if r["phase"] == "outcome")
    assert (outcome["facts"]["proposed"], outcome["facts"]["refused"]) == (2, 1)


@pytest.mark.requirement("openai:models")
async def test_models_are_listed_as_the_caller_may_use_them(gate: GatewayProcess, client: AsyncOpenAI) -> None:
    async with client_of(gate, gate.new_key("insider", "agent", "insider")[1]) as insider:
        everything = {model.id async for model in insider.models.list()}
    listed = {model.id async for model in client.models.list()}
    assert everything - listed == {"openai/secret"}
    assert {"openai/gpt-4o-mini", "down/plain"} <= listed
    assert (await client.models.retrieve("openai/gpt-4o-mini")).owned_by == "openai"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("openai/secret")


@pytest.mark.requirement("openai:errors")
@pytest.mark.parametrize(
    ("model", "kind", "status", "code"),
    [
        ("nothing", openai.BadRequestError, 400, "unknown_name"),
        ("openai/nothing", openai.BadRequestError, 400, "unknown_name"),
        ("nobody/plain", openai.BadRequestError, 400, "unknown_name"),
        ("secret", openai.BadRequestError, 400, "unknown_name"),
        ("frozen", openai.PermissionDeniedError, 403, "denied"),
        ("limited", openai.RateLimitError, 429, "rate_limit_exceeded"),
        ("down/plain", openai.InternalServerError, 502, "upstream_unreachable"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_error_is_raised_by_the_client_as_what_it_is(
    client: AsyncOpenAI, model: str, kind: type[openai.APIStatusError], status: int, code: str, stream: bool
) -> None:
    with pytest.raises(kind) as refused:
        await client.chat.completions.create(model=model, messages=ASK, stream=stream)
    assert (refused.value.status_code, refused.value.code) == (status, code)
    if code == "unknown_name":
        assert f"Unknown model: {model}" in refused.value.message
    if code == "denied":
        assert "This tool only fails" in refused.value.message


@pytest.mark.requirement("openai:errors")
async def test_who_may_not_use_models_is_told_so(gate: GatewayProcess) -> None:
    async with client_of(gate, "mcpgw_nobody") as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.chat.completions.create(model="gpt-4o-mini", messages=ASK)
    async with client_of(gate, gate.admin_key) as administrator:
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await administrator.chat.completions.create(model="gpt-4o-mini", messages=ASK)
    assert refused.value.code == "insufficient_scope"
    assert 'scope="llm:use"' in refused.value.response.headers["www-authenticate"]


@pytest.mark.requirement("openai:errors")
async def test_a_body_that_means_nothing_is_told_by_its_parameter(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="gpt-4o-mini", messages=ASK, extra_body={"temprature": 1})
    assert refused.value.param == "temprature"
    assert "did you mean `temperature`?" in refused.value.message
    with pytest.raises(openai.PermissionDeniedError) as denied:
        await client.chat.completions.create(model="gpt-4o-mini", messages=ASK, extra_body={"web_search_options": {}})
    assert denied.value.param == "web_search_options"


@pytest.mark.requirement("openai:cut")
async def test_a_provider_that_dies_inside_its_stream_ends_it_with_an_error(client: AsyncOpenAI) -> None:
    heard = []
    with pytest.raises(openai.APIError) as cut:
        async for chunk in await client.chat.completions.create(model="cuts", messages=ASK, stream=True):
            heard.append(chunk)
    assert len(heard) == 2
    assert cut.value.code == "upstream_failed"


@pytest.mark.requirement("openai:kill")
@pytest.mark.parametrize(
    ("scope", "selector"), [("model", "openai/never-done"), ("model", "never-done"), ("provider", "openai")]
)
async def test_a_kill_cuts_the_running_stream_with_a_final_error(
    gate: GatewayProcess, client: AsyncOpenAI, scope: str, selector: str
) -> None:
    said = ""
    kill = {"scope": scope, "selector": selector, "reason": "test"}
    thrown: dict[str, Any] = {}
    try:
        with anyio.fail_after(STREAM_S), pytest.raises(openai.APIError) as cut:
            stream = await client.chat.completions.create(model="never-done", messages=ASK, stream=True)
            async for chunk in stream:
                said += chunk.choices[0].delta.content or ""
                if said:
                    thrown = await run_sync(gate.admin.post, "/kill-switches", kill)
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await client.chat.completions.create(model="never-done", messages=ASK)
    finally:
        if thrown:
            gate.admin.delete(f"/kill-switches/{thrown['id']}", {"reason": "the test is over"})
    assert said == "to "
    assert (cut.value.code, refused.value.code) == ("killed", "killed")
    assert thrown["id"] in cut.value.message
    action_id = stream.response.headers["mcpgw-action"]
    assert thrown["may_have_taken_effect"] == [action_id]
    records = records_of(gate, action_id)
    assert [record["phase"] for record in records] == ["intent", "opened", "outcome", "closed"]
    assert records[2]["outcome"] == "killed"
    assert (await client.chat.completions.create(model="plain", messages=ASK)).choices
