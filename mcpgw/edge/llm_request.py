"""From a chat completion's body to what is asked of which model: a closed table of fields and tool types."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mcpgw.config import Provider
from mcpgw.domain import Arguments
from mcpgw.edge.strict_json import JsonLimits, parse_object
from mcpgw.errors import Denied, InvalidRequest

# OpenAI's fields of POST /v1/chat/completions. Others may mean anything to some provider.
FIELDS = frozenset(
    {
        "audio",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "modalities",
        "model",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    }
)
RETIRED = {"functions": "tools", "function_call": "tool_choice"}
STREAM_OPTIONS = frozenset({"include_usage", "include_obfuscation"})
ROLES = frozenset({"developer", "system", "user", "assistant", "tool"})
TOOL_CHOICES = frozenset({"none", "auto", "required"})
# What the provider would run for the caller, out of our sight: an action of its own that no policy can allow yet.
RUN_BY_PROVIDER = re.compile(
    r"(web_search|mcp|code_interpreter|code_execution|file_search|computer|image_generation|local_shell|shell|"
    r"url_context|google_search|browser_search|retrieval|x_search|tool_search|apply_patch).*"
)
RUN_BY_PROVIDER_FIELDS = frozenset({"web_search_options", "mcp_servers", "search_parameters", "plugins", "background"})
SHOWN = 64

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A chat completion as it will be judged and sent.

    `shown` is the model as the caller named it, `model` as `provider` knows it; None: nobody has it. `arguments` are
    the caller's bytes; only the members `model` and `stream_options` are written anew where the provider needs them
    otherwise. `added_usage` says that the caller did not ask for the usage of its stream.
    """

    shown: str
    provider: str | None = None
    model: str | None = None
    arguments: Arguments = field(default_factory=Arguments)
    added_usage: bool = False


def read_chat(body: bytes, providers: Sequence[Provider], limits: JsonLimits) -> ChatRequest:
    """Return what a body asks for.

    Raises ParseError, InvalidRequest, Denied (tools that the provider would run).
    """
    request = parse_object(body, limits)
    for name in request:
        if name not in FIELDS:
            raise _misplaced(name)
    _check_messages(request.get("messages"))
    _check_tools(request.get("tools"), request.get("tool_choice"))
    stream, options = request.get("stream"), request.get("stream_options")
    if not isinstance(stream, bool | None):
        raise InvalidRequest("`stream` is neither true nor false", fix="send a boolean", data={"param": "stream"})
    if not isinstance(options, dict | None) or set(options or ()) - STREAM_OPTIONS:
        raise InvalidRequest(
            "`stream_options` is not an object of known options",
            fix=f"known: {', '.join(sorted(STREAM_OPTIONS))}",
            data={"param": "stream_options"},
        )
    shown = request.get("model")
    if not isinstance(shown, str):
        raise InvalidRequest("`model` is missing", fix="GET /v1/models lists models", data={"param": "model"})
    found = resolve_model(shown, providers)
    if found is None:
        return ChatRequest(shown=shown)
    provider, model = found
    written: dict[str, Any] = {} if model == shown else {"model": model}
    added_usage = bool(stream) and (options or {}).get("include_usage") is not True
    if added_usage:
        written["stream_options"] = {**(options or {}), "include_usage": True}
    raw = _encode({**_members(body), **written}) if written else body
    return ChatRequest(provider=provider, model=model, shown=shown, arguments=Arguments(raw), added_usage=added_usage)


def resolve_model(shown: str, providers: Sequence[Provider]) -> tuple[str, str] | None:
    """Return (provider, model) for `{provider}/{model}`, or for the name of a model that some provider lists."""
    prefix, _, rest = shown.partition("/")
    for provider in providers:
        if rest and provider.name == prefix and (not provider.models or rest in provider.models):
            return prefix, rest
    for provider in providers:
        if shown in provider.models:
            return provider.name, shown
    return None


def _misplaced(name: str) -> Denied | InvalidRequest:
    if name in RUN_BY_PROVIDER_FIELDS:
        return _run_by_provider(name, name)
    shown = name[:SHOWN]
    if name in RETIRED:
        return InvalidRequest(f"`{shown}` is retired", fix=f"use `{RETIRED[name]}`", data={"param": shown})
    near = difflib.get_close_matches(shown, FIELDS, n=1)
    fix = f"did you mean `{near[0]}`?" if near else "leave it out: only OpenAI's fields are passed on"
    return InvalidRequest(f"unknown field `{shown}`", fix=fix, data={"param": shown})


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("`messages` is not a list of messages", fix="send one", data={"param": "messages"})
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise InvalidRequest(
                "a message has no known role", fix=f"one of: {', '.join(sorted(ROLES))}", data={"param": "messages"}
            )


def _check_tools(tools: Any, choice: Any) -> None:
    offered = _listed(tools, "tools")
    if isinstance(choice, dict):
        kind = choice.get("type")
        allowed = choice.get("allowed_tools")
        if kind == "allowed_tools" and isinstance(allowed, dict):
            offered += _listed(allowed.get("tools"), "tool_choice")
        elif kind != "function":
            raise _unknown_tool_type(kind, "tool_choice")
    elif choice is not None and choice not in TOOL_CHOICES:
        raise InvalidRequest("unknown `tool_choice`", fix="none, auto, required or a function", data=_PARAM_CHOICE)
    for tool in offered:
        function = tool.get("function")
        if tool.get("type") != "function":
            raise _unknown_tool_type(tool.get("type"), "tools")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest("a tool has no `function.name`", fix="name it", data={"param": "tools"})


_PARAM_CHOICE: Mapping[str, Any] = {"param": "tool_choice"}


def _listed(tools: Any, param: str) -> list[dict[str, Any]]:
    if tools is None:
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InvalidRequest(f"`{param}` is not a list of tools", fix="send objects", data={"param": param})
    return list(tools)


def _unknown_tool_type(kind: Any, param: str) -> Denied | InvalidRequest:
    shown = kind[:SHOWN] if isinstance(kind, str) else "none"
    if RUN_BY_PROVIDER.fullmatch(shown):
        return _run_by_provider(shown, param)
    return InvalidRequest(f"unknown tool type `{shown}`", fix="only `function` is passed on", data={"param": param})


def _run_by_provider(what: str, param: str) -> Denied:
    rule = "gateway:provider-run-tool"
    return Denied(
        f"`{what}` would have the provider act for you, which is not allowed here",
        fix="offer a function tool, and run it yourself",
        data={"effect": "deny", "rule": rule, "reasons": [rule], "retryable": False, "param": param},
    )
