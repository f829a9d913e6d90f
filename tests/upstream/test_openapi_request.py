"""What a call sends: the styles of the specification's table, paths that cannot be left, bodies, and exact bytes."""

from __future__ import annotations

import json
import posixpath
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpgw.upstream.openapi_request import MAX_TARGET_BYTES, request_of
from mcpgw.upstream.openapi_styles import Unfit
from tests.upstream.openapi_parts import body, header, only, parameters, sent, target

STRING, ARRAY, OBJECT = "blue", ["blue", "black", "brown"], {"R": 100, "G": 200, "B": 150}

# The table of OpenAPI 3.1.1 §4.8.12 (Style Examples), row by row: style, explode, string, array, object.
PATHS = [
    ("matrix", False, ";color=blue", ";color=blue,black,brown", ";color=R,100,G,200,B,150"),
    ("matrix", True, ";color=blue", ";color=blue;color=black;color=brown", ";R=100;G=200;B=150"),
    ("label", False, ".blue", ".blue,black,brown", ".R,100,G,200,B,150"),
    ("label", True, ".blue", ".blue.black.brown", ".R=100.G=200.B=150"),
    ("simple", False, "blue", "blue,black,brown", "R,100,G,200,B,150"),
    ("simple", True, "blue", "blue,black,brown", "R=100,G=200,B=150"),
]
QUERIES = [
    ("form", False, "color=blue", "color=blue,black,brown", "color=R,100,G,200,B,150"),
    ("form", True, "color=blue", "color=blue&color=black&color=brown", "R=100&G=200&B=150"),
    ("spaceDelimited", False, None, "color=blue%20black%20brown", "color=R%20100%20G%20200%20B%20150"),
    ("pipeDelimited", False, None, "color=blue%7Cblack%7Cbrown", "color=R%7C100%7CG%7C200%7CB%7C150"),
    ("deepObject", True, None, None, "color%5BR%5D=100&color%5BG%5D=200&color%5BB%5D=150"),
]


def refusal(tool: Any, arguments: Any) -> str:
    with pytest.raises(Unfit) as error:
        sent(tool, arguments)
    return str(error.value)


@pytest.mark.requirement("openapi:styles")
@pytest.mark.parametrize(("style", "explode", "string", "array", "mapping"), PATHS)
def test_a_path_parameter_is_written_in_its_style(
    style: str, explode: bool, string: str, array: str, mapping: str
) -> None:
    tree = parameters({"name": "color", "in": "path", "style": style, "explode": explode}, path="/a/{color}/b")
    for value, wanted in ((STRING, string), (ARRAY, array), (OBJECT, mapping)):
        assert target(only(tree), {"color": value}) == f"/v1/a/{wanted}/b"


@pytest.mark.requirement("openapi:styles")
@pytest.mark.parametrize(("style", "explode", "string", "array", "mapping"), QUERIES)
def test_a_query_parameter_is_written_in_its_style(
    style: str, explode: bool, string: str | None, array: str | None, mapping: str | None
) -> None:
    tool = only(parameters({"name": "color", "style": style, "explode": explode}))
    for value, wanted in ((STRING, string), (ARRAY, array), (OBJECT, mapping)):
        if wanted is None:
            assert refusal(tool, {"color": value}).startswith("color: only ")
        else:
            assert target(tool, {"color": value}) == f"/v1/things?{wanted}"


@pytest.mark.requirement("openapi:styles")
@pytest.mark.parametrize(
    ("explode", "array", "mapping"),
    [(False, "blue,black,brown", "R,100,G,200,B,150"), (True, "blue,black,brown", "R=100,G=200,B=150")],
)
def test_a_header_parameter_is_written_simply(explode: bool, array: str, mapping: str) -> None:
    tool = only(parameters({"name": "X-Color", "in": "header", "explode": explode}))
    for value, wanted in ((STRING, STRING), (ARRAY, array), (OBJECT, mapping)):
        assert header(sent(tool, {"X-Color": value}), "x-color") == wanted


@pytest.mark.requirement("openapi:styles")
@pytest.mark.parametrize(
    ("style", "explode", "value", "wanted"),
    [
        ("form", True, STRING, "color=blue"),
        ("form", True, ARRAY, "color=blue; color=black; color=brown"),
        ("form", False, ARRAY, "color=blue,black,brown"),
        ("form", True, OBJECT, "R=100; G=200; B=150"),
        ("form", False, OBJECT, "color=R,100,G,200,B,150"),
        ("form", True, "a; b=c, d", "color=a%3B%20b%3Dc%2C%20d"),
        ("cookie", True, "a%20b/c=", "color=a%20b/c="),
    ],
)
def test_a_cookie_parameter_is_written_in_its_style(style: str, explode: bool, value: Any, wanted: str) -> None:
    tool = only(parameters({"name": "color", "in": "cookie", "style": style, "explode": explode}))
    assert header(sent(tool, {"color": value}), "cookie") == wanted


@pytest.mark.requirement("openapi:styles")
def test_defaults_are_those_of_the_place() -> None:
    places = ("path", "query", "header", "cookie")
    tree = parameters(*({"name": f"{place}s", "in": place} for place in places), path="/{paths}")
    outgoing = sent(only(tree), {f"{place}s": ["a", "b"] for place in places})
    assert outgoing.url.target == b"/v1/a,b?querys=a&querys=b"
    assert header(outgoing, "headers") == "a,b"
    assert header(outgoing, "cookie") == "cookies=a; cookies=b"


@pytest.mark.requirement("openapi:styles")
def test_names_and_values_are_percent_encoded() -> None:
    tool = only(parameters({"name": "filter[näme]"}, {"name": "q"}))
    assert target(tool, {"filter_n_me": "a&b=c#d", "q": "ü +/?%2F"}) == (
        "/v1/things?filter%5Bn%C3%A4me%5D=a%26b%3Dc%23d&q=%C3%BC%20%2B%2F%3F%252F"
    )
    reserved = only(parameters({"name": "q", "allowReserved": True}))
    assert target(reserved, {"q": "a/b?c:d,e&f=g#h+[i] %41"}) == (
        "/v1/things?q=a/b?c:d,e%26f%3Dg%23h%2B%5Bi%5D%20%2541"
    )


@pytest.mark.requirement("openapi:styles")
def test_numbers_are_sent_as_they_were_written() -> None:
    tool = only(parameters({"name": "a"}, {"name": "b"}, {"name": "c"}))
    raw = b'{"a": 1.0, "b": [1e3, 9007199254740993, -0], "c": true}'
    assert target(tool, raw) == "/v1/things?a=1.0&b=1e3&b=9007199254740993&b=-0&c=true"


@pytest.mark.requirement("openapi:styles")
def test_what_is_null_or_empty_is_left_out() -> None:
    tool = only(parameters({"name": "a"}, {"name": "b", "explode": False}, {"name": "c", "in": "header"}))
    outgoing = sent(tool, {"a": None, "b": [], "c": None})
    assert outgoing.url.target == b"/v1/things"
    assert header(outgoing, "c") is None
    assert target(tool, {"a": ""}) == "/v1/things?a="
    assert target(tool, {"a": []}) == "/v1/things"


@pytest.mark.requirement("openapi:styles")
@pytest.mark.parametrize("value", [[["a"]], [{"a": 1}], {"a": [1]}, {"a": {"b": 1}}, [None], {"a": None}])
@pytest.mark.parametrize("style", ["form", "deepObject", "pipeDelimited"])
def test_what_no_style_defines_is_refused(style: str, value: Any) -> None:
    tool = only(parameters({"name": "color", "style": style}))
    assert refusal(tool, {"color": value}).startswith("color: ")


@pytest.mark.requirement("openapi:styles")
def test_an_exploded_object_cannot_pose_as_another_parameter() -> None:
    tool = only(parameters({"name": "filter"}, {"name": "limit", "schema": {"maximum": 10}}))
    assert target(tool, {"filter": {"color": "blue"}, "limit": 5}) == "/v1/things?color=blue&limit=5"
    assert refusal(tool, {"filter": {"limit": 5000}}) == "filter: has a member with the name of another parameter"
    cookies = only(parameters({"name": "prefs", "in": "cookie"}, {"name": "session", "in": "cookie"}))
    assert "another parameter" in refusal(cookies, {"prefs": {"session": "x"}})


@pytest.mark.requirement("openapi:styles")
def test_a_parameter_with_content_is_that_media_type() -> None:
    content = {"application/json": {"schema": {"type": "object"}}}
    tree = parameters(
        {"name": "q", "schema": None, "content": content},
        {"name": "id", "in": "path", "schema": None, "content": content},
        {"name": "X-Q", "in": "header", "schema": None, "content": content},
        {"name": "t", "schema": None, "content": {"text/plain": {"schema": {"type": "string"}}}},
        path="/{id}",
    )
    raw = b'{"q": {"a": [1.0, "\xc3\xbc"]}, "id": {"b":\n1}, "X-Q": {"c":\n "d"}, "t": "a b"}'
    outgoing = sent(only(tree), raw)
    assert outgoing.url.target == (b"/v1/%7B%22b%22%3A1%7D?q=%7B%22a%22%3A%5B1.0%2C%22%C3%BC%22%5D%7D&t=a%20b")
    assert header(outgoing, "x-q") == '{"c":"d"}'


# Paths that cannot be left

TRAVERSALS = [
    *("..", ".", "../", "/..", "../admin", "../../admin", "a/../b", "a/..", "./a", "a/./b"),
    *("..\\admin", "a\\..\\b", "..%2fadmin", "%2e%2e", "%2E%2E%2Fadmin", "%2e%2e%5cadmin", ".%2e", "%2e"),
    *("%252e%252e%252fadmin", "%25252e%25252e", "..%00", "a%00b", "a\x00b", "a\r\nb", "a\nb", "\x7f", "a%0d%0ab"),
    *("%c0%ae%c0%ae", "%c0%ae%c0%ae/admin", "%u002e%u002e/admin", "%U002E.", "..%c0%afadmin", "a\ufffdb"),
    *("..;/admin", "..;x=y", ".;a", "a/..;b/c", "%2e%2e%3b/admin"),
    *("．．", "．．/admin", "‥", "a／．．／b", "%ef%bc%8e%ef%bc%8e", "．", "a＼..＼b", " .. ", "..%20/x"),
    *("", "....", "/", "\\", "//", "%2f", "%5C/", "%2525252525252e%2525252525252e/x"),
]
HARMLESS = [
    *("a/b", "a b", "a%b", "a%2fb", "/a", "a/", "a\\b", "a;b", ";a", ";", "ü", "100%", ".hidden", "a..b", "v1.2", "~"),
    *("?", "a?b", "#", "%", "%zz", "a+b", "{id}", "{}", "日本", "'", '"', "<>", "a,b", "@", ":", "..a", "a..", "-..-"),
]


def climbs(path: str) -> bool:
    """Say whether a careless server that decodes as it likes would look somewhere else than below the template."""
    for _ in range(8):
        for folded in (path, path.replace("\\", "/")):
            steps = [step.partition(";")[0] or step for step in folded.split("/")]
            if not posixpath.normpath("/".join(steps)).startswith("/v1/users/"):
                return True
        path = unquote(path)
    return False


@pytest.mark.requirement("openapi:path")
@pytest.mark.parametrize("value", TRAVERSALS)
@pytest.mark.parametrize("style", ["simple", "label", "matrix"])
def test_a_path_parameter_that_would_lead_elsewhere_is_refused(style: str, value: str) -> None:
    tool = only(parameters({"name": "id", "in": "path", "style": style}, path="/users/{id}/profile"))
    if style == "simple":
        said = refusal(tool, {"id": value})
        assert said.startswith(("id: is a part of the path", "the path parameters would lead"))
        return
    with suppress(Unfit):  # behind `.` or `;id=` some are harmless
        assert not climbs(target(tool, {"id": value}))


@pytest.mark.requirement("openapi:path")
@pytest.mark.parametrize("value", HARMLESS)
def test_a_path_parameter_stays_within_its_segment(value: str) -> None:
    tool = only(parameters({"name": "id", "in": "path"}, path="/users/{id}/profile"))
    found = target(tool, {"id": value})
    assert found.count("/") == 4
    assert found.isascii()
    v1, users, segment, profile = found[1:].split("/")
    assert (v1, users, profile) == ("v1", "users", "profile")
    assert unquote(segment) == value
    assert not set(segment) & set("?#\\ ;{}")


@pytest.mark.requirement("openapi:path")
@pytest.mark.parametrize("value", [[], {}, None, "", [""], [[]]])
@pytest.mark.parametrize("explode", [False, True])
@pytest.mark.parametrize("style", ["simple", "label", "matrix"])
def test_nothing_is_no_segment(style: str, explode: bool, value: Any) -> None:
    tree = parameters({"name": "id", "in": "path", "style": style, "explode": explode}, path="/users/{id}")
    refusal(only(tree), {"id": value})


@pytest.mark.requirement("openapi:path")
@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("/users/{a}{b}", {"a": ".", "b": "."}),
        ("/users/{a}.", {"a": "."}),
        ("/users/.{a}", {"a": "."}),
        ("/users/{a}./x", {"a": "."}),
        ("/users/{a};{b}", {"a": "..", "b": "x"}),
    ],
)
def test_parameters_that_lead_elsewhere_together_are_refused(path: str, values: dict[str, str]) -> None:
    tool = only(parameters(*({"name": name, "in": "path"} for name in values), path=path))
    refusal(tool, values)


PIECES = st.lists(
    st.sampled_from(
        ["..", ".", "/", "\\", "%2e", "%2f", "%5c", "%25", ";", "a", "．", "／", "?", "#", " ", "\t", "%00"]
    ),
    max_size=8,
).map("".join)


@pytest.mark.requirement("openapi:path")
@settings(max_examples=400, deadline=None)
@given(st.one_of(PIECES, st.text(max_size=12)), st.sampled_from(["simple", "label", "matrix"]))
def test_whatever_is_put_into_a_path_stays_below_its_template(value: str, style: str) -> None:
    tool = TOOLS[style]
    raw = json.dumps({"id": value}).encode("utf-8", "surrogatepass")
    try:
        found = request_of(tool, raw).url.target.decode()
    except Unfit:
        return
    assert found.startswith("/v1/users/")
    assert found.endswith("/profile")
    assert found.count("/") == 4
    assert not climbs(found.removesuffix("/profile"))


TOOLS = {
    style: only(parameters({"name": "id", "in": "path", "style": style}, path="/users/{id}/profile"))
    for style in ("simple", "label", "matrix")
}


# Headers


@pytest.mark.requirement("openapi:headers")
@pytest.mark.parametrize(
    "value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "\x00", "ü", " a", "a ", "", "\t", "a\x7f", ["a", "b\r\n"]]
)
@pytest.mark.parametrize("place", ["header", "cookie"])
def test_a_value_that_cannot_stand_in_a_header_is_refused(place: str, value: Any) -> None:
    style = {"style": "cookie"} if place == "cookie" else {}
    tool = only(parameters({"name": "X-Tag", "in": place, **style}))
    if place == "cookie" and value == "":
        assert header(sent(tool, {"X-Tag": value}), "cookie") == "X-Tag="
        return
    said = refusal(tool, {"X-Tag": value})
    assert said.startswith("X-Tag: ")
    assert "Evil" not in said


@pytest.mark.requirement("openapi:headers")
def test_a_cookie_cannot_become_two() -> None:
    tool = only(parameters({"name": "a", "in": "cookie"}))
    assert header(sent(tool, {"a": "x; session=stolen"}), "cookie") == "a=x%3B%20session%3Dstolen"


@pytest.mark.requirement("openapi:styles")
def test_a_url_is_bounded() -> None:
    tool = only(parameters({"name": "q"}))
    assert len(target(tool, {"q": "x" * (MAX_TARGET_BYTES - 13)})) == MAX_TARGET_BYTES
    assert "send less" in refusal(tool, {"q": "x" * (MAX_TARGET_BYTES - 12)})


# Bodies


@pytest.mark.requirement("openapi:judged")
def test_a_json_body_is_the_very_bytes_that_were_judged() -> None:
    tool = only(body({}))
    text = b'{ "b":1.0,\n "a" : [ 1e3, "\\u00fc", 10000000000000000000000001 ],"a b":{} }'
    outgoing = sent(tool, b'{"body": ' + text + b"}")
    assert outgoing.body == text
    assert header(outgoing, "content-type") == "application/json"
    for raw in (b"null", b"[]", b'"text"', b"7"):
        assert sent(tool, b'{"body":' + raw + b"}").body == raw


@pytest.mark.requirement("openapi:bodies")
def test_an_optional_body_that_is_left_out_is_not_sent() -> None:
    outgoing = sent(only(body({}, required=False)), {})
    assert outgoing.body == b""
    assert header(outgoing, "content-type") is None


FORM_FIELDS = {"type": "object", "properties": {"tags": {"type": "array"}, "address": {"type": "object"}}}


@pytest.mark.requirement("openapi:bodies")
def test_a_form_is_written_by_the_type_of_each_value() -> None:
    tool = only(body(FORM_FIELDS, "application/x-www-form-urlencoded"))
    raw = (
        b'{"body": {"id": 1.50, "ok": true, "name": "a b&c=\xc3\xbc", "none": null, "tags": ["x", 2],'
        b' "address": {"zip": "99999+1234"}, "list": [{"a": 1}]}}'
    )
    outgoing = sent(tool, raw)
    assert header(outgoing, "content-type") == "application/x-www-form-urlencoded"
    assert outgoing.body == (
        b"id=1.50&ok=true&name=a+b%26c%3D%C3%BC&tags=x&tags=2"
        b"&address=%7B%22zip%22%3A%2299999%2B1234%22%7D&list=%7B%22a%22%3A1%7D"
    )
    assert parse_qs(outgoing.body.decode())["address"] == ['{"zip":"99999+1234"}']


@pytest.mark.requirement("openapi:bodies")
def test_a_form_follows_what_the_document_says_of_its_fields() -> None:
    encoding = {
        "a": {"style": "pipeDelimited"},
        "b": {"style": "deepObject"},
        "c": {"explode": False},
        "d": {"contentType": "application/json"},
        "e": {"style": "form"},
    }
    tool = only(body({"type": "object"}, "application/x-www-form-urlencoded", encoding=encoding))
    values = {"a": ["x", "y"], "b": {"k l": "v"}, "c": ["x", "y"], "d": [1, "z"], "e": {"m": 1, "n": 2}}
    assert parse_qsl(sent(tool, {"body": values}).body.decode()) == [
        ("a", "x|y"),
        ("b[k l]", "v"),
        ("c", "x,y"),
        ("d", '[1,"z"]'),
        ("m", "1"),
        ("n", "2"),
    ]
    assert sent(tool, {"body": {"a": None}}).body == b""
    assert refusal(tool, {"body": {"b": {"k": ["v"]}}}).startswith("body: b: ")


@pytest.mark.requirement("openapi:bodies")
def test_a_multipart_form_has_a_part_for_each_text() -> None:
    tool = only(body({"type": "object"}, "multipart/form-data", encoding={"note": {"contentType": "text/markdown"}}))
    values = {'na"me\r\n': "ü", "note": "# x", "tags": ["a", "b"], "address": {"zip": 1}, "n": 2, "none": None}
    outgoing = sent(tool, {"body": values})
    kind, _, boundary = (header(outgoing, "content-type") or "").partition("; boundary=")
    assert kind == "multipart/form-data"
    wanted = [
        ("na%22me%0D%0A", "text/plain; charset=utf-8", "ü"),
        ("note", "text/markdown", "# x"),
        ("tags", "text/plain; charset=utf-8", "a"),
        ("tags", "text/plain; charset=utf-8", "b"),
        ("address", "application/json", '{"zip":1}'),
        ("n", "text/plain; charset=utf-8", "2"),
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="'
    text = "".join(
        f'{head}{name}"\r\nContent-Type: {media_type}\r\n\r\n{value}\r\n' for name, media_type, value in wanted
    )
    assert outgoing.body.decode() == f"{text}--{boundary}--\r\n"
    assert header(sent(tool, {"body": values}), "content-type") != header(outgoing, "content-type")


@pytest.mark.requirement("openapi:bodies")
def test_a_text_is_sent_as_text() -> None:
    tool = only(body({"type": "string"}, "text/plain"))
    outgoing = sent(tool, {"body": "zwei\nZeilen: ü"})
    assert outgoing.body == "zwei\nZeilen: ü".encode()
    assert header(outgoing, "content-type") == "text/plain; charset=utf-8"
    anything = only(body({}, "text/plain"))
    assert sent(anything, {"body": 7.0}).body == b"7.0"
    assert refusal(anything, {"body": {"a": 1}}).startswith("body: ")


@pytest.mark.requirement("openapi:bodies")
@pytest.mark.parametrize("media_type", ["application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_form_is_an_object(media_type: str) -> None:
    tool = only(body({"type": "array"}, media_type))
    raw = b'{"body": ["a"]}'
    assert tool.inputs.flaws(raw, json.loads(raw)) != []


@pytest.mark.requirement("openapi:judged")
def test_json_is_asked_for_where_it_is_offered() -> None:
    tree = parameters({"name": "q"})
    outgoing = sent(only(tree), {})
    assert header(outgoing, "accept") == "*/*"
    content = {
        "text/csv": {},
        "application/hal+json": {},
        "application/json; charset=utf-8": {},
        "evil\r\nx: y+json": {},
    }
    tree["paths"]["/things"]["get"]["responses"] = {"200": {"description": "d", "content": content}}
    assert header(sent(only(tree), {}), "accept") == "application/hal+json, application/json, */*;q=0.5"
