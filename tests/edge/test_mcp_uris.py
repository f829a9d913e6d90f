"""Names over several servers: to clients and back, for whatever a server calls its resources and prompts."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.domain import Part, PartKind, Verb
from mcpgw.edge.mcp_names import named, servers_of
from mcpgw.edge.mcp_prompts import MAX_NAME, REMEMBERED, PromptNames
from mcpgw.edge.mcp_request import McpRequest
from mcpgw.edge.mcp_shown import ShownNames, shown_part
from mcpgw.edge.mcp_uris import own_uri, shown_uri
from tests.parts import Shelf, published

slugs = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?", fullmatch=True)
schemes = st.from_regex(r"[A-Za-z][A-Za-z0-9+.-]{0,8}", fullmatch=True)
uris = st.one_of(
    st.text(),
    st.builds("{}:{}".format, schemes, st.text()),
    st.builds("ui://{}".format, st.text()),
    st.builds("mcpgw+{}+{}".format, slugs, st.text()),
)
names = st.one_of(st.text(min_size=1), st.from_regex(r"[A-Za-z0-9_-]{1,70}", fullmatch=True))
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


# Resource URIs


@pytest.mark.requirement("several:uris")
@given(server=slugs, uri=uris)
def test_a_shown_uri_leads_back_to_its_server_and_its_own_uri(server: str, uri: str) -> None:
    assert own_uri(shown_uri(server, uri)) == (server, uri)


@pytest.mark.requirement("several:uris")
@given(one=st.tuples(slugs, uris), other=st.tuples(slugs, uris))
def test_no_two_resources_have_one_shown_uri(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (shown_uri(*one) == shown_uri(*other)) is (one == other)


@pytest.mark.requirement("several:uris")
@given(server=slugs, scheme=schemes, rest=st.text())
def test_a_shown_uri_has_a_valid_scheme_and_an_app_keeps_its_own(server: str, scheme: str, rest: str) -> None:
    shown = shown_uri(server, f"{scheme}:{rest}")
    assert _SCHEME.fullmatch(shown.partition(":")[0])
    assert shown_uri(server, f"ui://{rest}").startswith(f"ui://{server}/")


@pytest.mark.requirement("several:uris")
@pytest.mark.parametrize(
    ("template", "values", "expanded"),
    [
        ("test://template/{id}/data", {"id": "7"}, "test://template/7/data"),
        ("ui://widget/{name}", {"name": "chart"}, "ui://widget/chart"),
        ("{+uri}", {"+uri": "ui://a/b"}, "ui://a/b"),
        ("file://{host}/{path}", {"host": "h", "path": "p"}, "file://h/p"),
    ],
)
def test_what_a_client_makes_of_a_shown_template_is_a_resource_of_that_server(
    template: str, values: dict[str, str], expanded: str
) -> None:
    shown = shown_uri("notes", template)
    assert template.count("{") == shown.count("{")
    for variable, value in values.items():
        shown = shown.replace("{" + variable + "}", value)
    assert own_uri(shown) == ("notes", expanded)


@pytest.mark.requirement("several:uris")
@pytest.mark.parametrize(
    "uri", ["", "test://x", "ui://", "ui://notes", "ui:///x", "mcpgw+notes", "mcpgw++x", "mcpgw+NOTES+x", "MCPGW+a+x"]
)
def test_a_uri_that_no_list_shows_leads_nowhere(uri: str) -> None:
    assert own_uri(uri) is None


# Names of prompts


@pytest.mark.requirement("several:prompt-names")
@given(server=slugs, name=names)
def test_a_shown_prompt_name_fits_everywhere_and_leads_back(server: str, name: str) -> None:
    prompts = PromptNames()
    shown = prompts.shown(server, name)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", shown)
    assert prompts.own(shown) == (server, name)
    assert prompts.shown(server, name) == shown == PromptNames().shown(server, name), "whoever is asked, and whenever"


@pytest.mark.requirement("several:prompt-names")
@given(server=slugs, name=names)
def test_a_worker_that_has_not_listed_a_prompt_knows_its_name_or_that_it_must_ask(server: str, name: str) -> None:
    shown = PromptNames().shown(server, name)
    assert PromptNames().own(shown) in ((server, name), (server, None))
    if shown == f"{server}__{name}":
        assert PromptNames().own(shown) == (server, name)


@pytest.mark.requirement("several:prompt-names")
def test_a_plain_name_that_reads_like_a_shortened_one_does_not_take_its_place() -> None:
    prompts = PromptNames()
    shortened = prompts.shown("notes", "a b")
    other = prompts.shown("notes", shortened.removeprefix("notes__"))
    assert other != shortened
    assert prompts.own(shortened) == ("notes", "a b")
    assert prompts.shown("notes", "p" * MAX_NAME) != prompts.shown("notes", "p" * (MAX_NAME + 1))


@pytest.mark.requirement("several:prompt-names")
@pytest.mark.parametrize("shown", ["", "ask", "notes__", "__ask", "Notes__ask", "a_b__ask"])
def test_a_prompt_name_without_a_server_leads_nowhere(shown: str) -> None:
    assert PromptNames().own(shown) is None


@pytest.mark.requirement("several:prompt-names")
def test_so_many_names_are_remembered_and_no_more() -> None:
    prompts = PromptNames()
    first, *_, last = [prompts.shown("a", f"p {n}") for n in range(REMEMBERED + 1)]
    assert prompts.own(first) == ("a", None)
    assert prompts.own(last) == ("a", f"p {REMEMBERED}")


# What a request names


CATALOG = Shelf([published("notes", ["read"]), published("files", ["read"])])


def asked(verb: Verb, name: str | None = None, **params: Any) -> McpRequest:
    forwarded = {key: json.dumps(value).encode() for key, value in params.items()}
    return McpRequest(verb=verb, modern=True, id=b"1", name=name, forwarded=forwarded, params=params)


@pytest.mark.requirement("several:named")
@pytest.mark.parametrize("verb", [Verb.RESOURCES_READ, Verb.RESOURCES_SUBSCRIBE, Verb.RESOURCES_UNSUBSCRIBE])
def test_a_resource_is_named_as_its_server_knows_it(verb: Verb) -> None:
    found = named(CATALOG, None, asked(verb, "mcpgw+notes+test://x"), None)
    assert (found.server, found.name) == ("notes", "test://x")
    unknown = named(CATALOG, None, asked(verb, "test://x"), None)
    assert (unknown.server, unknown.name) == (None, "test://x")
    own = named(CATALOG, "notes", asked(verb, "mcpgw+files+test://x"), None)
    assert (own.server, own.name) == ("notes", "mcpgw+files+test://x"), "an endpoint of one server has its own names"


@pytest.mark.requirement("several:named")
def test_a_prompt_is_named_as_its_server_knows_it() -> None:
    prompts = PromptNames()
    shortened = prompts.shown("notes", "a b")
    for shown, own in (("notes__ask", ("notes", "ask")), (shortened, ("notes", "a b")), ("ask", (None, "ask"))):
        found = named(CATALOG, None, asked(Verb.PROMPTS_GET, shown), None, None, prompts)
        assert (found.server, found.name) == own
    unlisted = named(CATALOG, None, asked(Verb.PROMPTS_GET, shortened), None)
    assert (unlisted.server, unlisted.name) == (None, shortened)


@pytest.mark.requirement("several:named")
@pytest.mark.parametrize(
    ("ref", "server", "own"),
    [
        ({"type": "ref/prompt", "name": "notes__ask", "title": "Ask"}, "notes", {"name": "ask", "title": "Ask"}),
        ({"type": "ref/resource", "uri": "mcpgw+notes+test://{x}"}, "notes", {"uri": "test://{x}"}),
        (
            {"type": "ref/prompt", "name": "notes__ask", "uri": "mcpgw+notes+a:b"},
            "notes",
            {"name": "ask", "uri": "a:b"},
        ),
        ({"type": "ref/prompt", "name": "notes__ask", "uri": "mcpgw+files+a:b"}, None, {}),
        ({"type": "ref/prompt", "name": "notes__ask", "uri": "a:b"}, None, {}),
        ({"type": "ref/prompt", "name": "ask"}, None, {}),
        ({"type": "ref/prompt", "name": 7}, None, {}),
        ({"type": "ref/prompt"}, None, {}),
        ("notes__ask", None, {}),
    ],
)
def test_what_is_completed_is_named_as_its_server_knows_it(ref: Any, server: str | None, own: dict[str, str]) -> None:
    found = named(CATALOG, None, asked(Verb.COMPLETE, ref=ref, argument={"name": "a", "value": "v"}), None)
    assert found.server == server
    assert json.loads(found.forwarded["argument"]) == {"name": "a", "value": "v"}
    if server is not None:
        assert json.loads(found.forwarded["ref"]) == {**ref, **own}


@pytest.mark.requirement("several:named")
def test_what_is_watched_is_named_for_each_server_apart() -> None:
    wanted = {
        "toolsListChanged": True,
        "resourceSubscriptions": ["mcpgw+notes+a:1", "ui://files/2", "mcpgw+notes+a:3", "a:4", 5],
    }
    found = named(CATALOG, None, asked(Verb.LISTEN, notifications=wanted), None)
    assert found.server is None
    assert json.loads(found.forwarded["notifications"]) == {"toolsListChanged": True}
    assert json.loads(found.forwarded["#watched"]) == {"notes": ["a:1", "a:3"], "files": ["ui://2"]}
    assert found.forwarded["#id"] == b"1"


@pytest.mark.requirement("several:named")
@pytest.mark.parametrize(
    ("request_", "servers"),
    [
        (asked(Verb.PROMPTS_LIST), {"notes", "files"}),
        (asked(Verb.LISTEN, notifications={}), {"notes", "files"}),
        (asked(Verb.RESOURCES_READ, "mcpgw+notes+a:b"), {"notes"}),
        (asked(Verb.PROMPTS_GET, "notes__odd_0123abcd"), {"notes"}),
        (asked(Verb.COMPLETE, ref={"name": "files__ask"}), {"files"}),
        (asked(Verb.TOOLS_CALL, "notes__read"), {"notes"}),
        (asked(Verb.PING), set()),
    ],
)
def test_which_servers_a_request_may_come_to_need(request_: McpRequest, servers: set[str]) -> None:
    assert set(servers_of(CATALOG, request_, None, PromptNames())) == servers


# What a client is shown


def shown(verb: Verb, result: Any, **facts: Any) -> Any:
    part = Part(PartKind.WHOLE, json.dumps(result).encode(), **facts)
    return json.loads(shown_part("notes", verb, part))


RESOURCE = {"type": "resource", "resource": {"uri": "test://x", "text": "t", "_meta": {"uri": "kept"}}}
SHOWN_RESOURCE = {
    "type": "resource",
    "resource": {"uri": "mcpgw+notes+test://x", "text": "t", "_meta": {"uri": "kept"}},
}


@pytest.mark.requirement("several:shown")
def test_every_uri_in_the_result_of_a_tool_is_one_that_the_client_can_use() -> None:
    result = {
        "content": [
            {"type": "text", "text": '"uri"'},
            {"type": "resource_link", "uri": "test://y", "name": "y"},
            RESOURCE,
        ],
        "structuredContent": {"uri": "kept"},
        "_meta": {
            "ui": {"resourceUri": "ui://app", "visibility": ["model"]},
            "ui/resourceUri": "ui://app",
            "uri": "kept",
        },
    }
    assert shown(Verb.TOOLS_CALL, result) == {
        "content": [
            {"type": "text", "text": '"uri"'},
            {"type": "resource_link", "uri": "mcpgw+notes+test://y", "name": "y"},
            SHOWN_RESOURCE,
        ],
        "structuredContent": {"uri": "kept"},
        "_meta": {
            "ui": {"resourceUri": "ui://notes/app", "visibility": ["model"]},
            "ui/resourceUri": "ui://notes/app",
            "uri": "kept",
        },
    }


@pytest.mark.requirement("several:shown")
def test_every_uri_of_a_resource_that_is_read_and_of_a_prompt_is_one_that_the_client_can_use() -> None:
    assert shown(
        Verb.RESOURCES_READ, {"contents": [{"uri": "test://x", "text": "t"}, {"uri": "ui://y", "blob": ""}]}
    ) == {"contents": [{"uri": "mcpgw+notes+test://x", "text": "t"}, {"uri": "ui://notes/y", "blob": ""}]}
    messages = [{"role": "user", "content": RESOURCE}, {"role": "user", "content": [RESOURCE]}]
    assert shown(Verb.PROMPTS_GET, {"messages": messages})["messages"] == [
        {"role": "user", "content": SHOWN_RESOURCE},
        {"role": "user", "content": [SHOWN_RESOURCE]},
    ]
    missing = {"code": -32602, "message": "Resource not found", "data": {"uri": "test://x"}}
    assert shown(Verb.RESOURCES_READ, missing, error_code=-32602)["data"] == {"uri": "mcpgw+notes+test://x"}


@pytest.mark.requirement("several:shown")
def test_an_update_names_the_resource_as_the_client_does_and_other_messages_stay_as_they_are() -> None:
    update = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "test://x"}}
    part = Part(PartKind.EVENT, json.dumps(update).encode())
    assert json.loads(shown_part("notes", Verb.TOOLS_CALL, part))["params"] == {"uri": "mcpgw+notes+test://x"}
    log = Part(PartKind.EVENT, b'{"method":"notifications/message","params":{"data":{"uri":"test://x"}}}')
    assert shown_part("notes", Verb.TOOLS_CALL, log) == log.body


@pytest.mark.requirement("several:shown")
def test_a_tools_app_is_found_where_its_definition_says() -> None:
    names = ShownNames(PromptNames())
    definition = b'{"name":"t","_meta":{"ui":{"resourceUri":"ui://app/1"},"n":1.10}}'
    assert names.tool("notes", definition) == b'{"name":"t","_meta":{"ui":{"resourceUri":"ui://notes/app/1"},"n":1.10}}'
    plain = b'{"name":"t"}'
    assert names.tool("notes", plain) is plain


@pytest.mark.requirement("several:shown")
@pytest.mark.parametrize(
    "body",
    [
        b'{"content":[{"type":"text","text":"plain"}],"big":12345678901234567890,"f":1.10}',
        b'{"content":"uri"}',
        b'{"content":[7,null,"uri",{"uri":7}],"_meta":"uri"}',
        b'{"contents":{"uri":"test://x"}}',
        b'{"messages":[{"content":{"uri":null}}]}',
    ],
)
@pytest.mark.parametrize("verb", [Verb.TOOLS_CALL, Verb.PROMPTS_GET, Verb.RESOURCES_READ])
def test_what_is_not_a_uri_stays_byte_for_byte_as_it_was(verb: Verb, body: bytes) -> None:
    assert shown_part("notes", verb, Part(PartKind.WHOLE, body)) == body
