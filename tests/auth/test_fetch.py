"""The vetted fetcher asks public hosts over https, what the operator has opened, and nobody else."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpgw import dialling
from mcpgw.auth import fetch as module
from mcpgw.auth.fetch import AT_ONCE_PER_HOST, Fetcher, Request, json_object
from mcpgw.auth.web_url import DEFAULT_PORTS, WebUrl
from mcpgw.dialling import Place
from mcpgw.errors import FetchFailed, FetchRefused, GatewayError
from tests.auth.urls import ALLOWED, DENIED, PUBLIC_V4, Row
from tests.fixtures.authority import Authority

CANARY = "canary-3f9a"
Answer = Callable[[bytes], bytes]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


class Dialled:
    """Stands where the fetcher connects, and writes down where to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] = []
        monkeypatch.setattr(dialling, "connected", self.connect)

    async def connect(self, family: int, address: tuple[object, ...]) -> socket.socket:
        self.addresses.append(str(address[0]))
        raise ConnectionRefusedError(111, "refused")


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> Dialled:
    return Dialled(monkeypatch)


def resolving(*answers: Sequence[str]) -> Callable[[str, int], Awaitable[Sequence[Place]]]:
    """A resolver that gives these answers in turn, the last one for ever."""
    left = list(answers)

    async def resolve(host: str, port: int) -> Sequence[Place]:
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET6 if ":" in found else socket.AF_INET, (found, port)) for found in addresses]

    return resolve


def stub(*answers: Sequence[str]) -> Fetcher:
    return Fetcher((), allow_loopback=False, resolve=resolving(*answers))


@pytest.mark.requirement("fetch:denied")
@pytest.mark.parametrize("row", DENIED, ids=[ascii(url)[:60] + " ".join(answer) for url, answer in DENIED])
async def test_nothing_is_sent_to_a_url_that_leads_elsewhere(row: Row, dialled: Dialled) -> None:
    url, answer = row
    # Were the host of the URL resolved after all, the resolver would be as lenient as they are.
    with pytest.raises(FetchRefused):
        await stub(answer or ("127.0.0.1",)).fetch(Request(url))
    assert dialled.addresses == []


@pytest.mark.requirement("fetch:denied")
def test_the_table_has_a_row_for_each_way() -> None:
    assert len(DENIED) >= 105
    assert len(ALLOWED) >= 20


@pytest.mark.requirement("fetch:allowed")
@pytest.mark.parametrize("row", ALLOWED, ids=[ascii(url) for (url, _), _ in ALLOWED])
async def test_a_public_host_is_asked_at_the_address_that_was_vetted(row: tuple[Row, str], dialled: Dialled) -> None:
    (url, answer), address = row
    with pytest.raises(FetchFailed, match="refused"):
        await stub(answer).fetch(Request(url))
    assert dialled.addresses[0] == address


@pytest.mark.requirement("fetch:denied")
@pytest.mark.parametrize("row", DENIED, ids=[ascii(url)[:60] + " ".join(answer) for url, answer in DENIED])
def test_a_check_refuses_what_the_url_alone_tells(row: Row) -> None:
    url, answer = row
    if answer:
        stub(answer).check(url)
        return
    with pytest.raises(FetchRefused):
        stub(("127.0.0.1",)).check(url)


def spellings(address: IPv4Address) -> st.SearchStrategy[str]:
    """The ways to write an IPv4 address that the WHATWG URL Standard knows (§3.5)."""
    value = int(address)

    def cut(parts: int) -> list[int]:
        firsts = [value >> (24 - 8 * place) & 255 for place in range(parts - 1)]
        return [*firsts, value & (256 ** (5 - parts) - 1)]

    def number(part: int) -> st.SearchStrategy[str]:
        return st.sampled_from([str(part), hex(part), hex(part).upper(), f"0{part:o}", f"00{part:o}", f"0x00{part:x}"])

    def wide(text: str) -> str:
        return "".join(chr(ord(c) + 0xFEE0) if c.isalnum() else "。" for c in text)

    written = st.integers(1, 4).flatmap(lambda parts: st.tuples(*map(number, cut(parts)))).map(".".join)
    return st.tuples(written, st.sampled_from([str, lambda t: t + ".", wide, lambda t: f"%{ord(t[0]):x}{t[1:]}"])).map(
        lambda pair: pair[1](pair[0])
    )


@pytest.mark.requirement("fetch:denied")
@given(st.integers(0, 2**32 - 1).map(IPv4Address).flatmap(lambda a: st.tuples(st.just(a), spellings(a))))
@settings(max_examples=300, deadline=None)
def test_every_spelling_of_an_address_is_that_address(spelled: tuple[IPv4Address, str]) -> None:
    address, text = spelled
    assert WebUrl.parse(f"https://{text}/").host == str(address)


@pytest.mark.requirement("fetch:denied")
@given(
    st.one_of(st.text(), st.text().map(lambda host: f"https://{host}/"), st.from_regex(r"https?://[^/]*(:[0-9]+)?/.*"))
)
@settings(max_examples=500, deadline=None)
def test_a_url_has_one_reading_or_none(text: str) -> None:
    try:
        url = WebUrl.parse(text)
    except FetchRefused:
        return
    assert WebUrl.parse(str(url)) == url
    again = urlsplit(str(url))
    assert (again.scheme, again.hostname, again.port or DEFAULT_PORTS[url.scheme]) == (url.scheme, url.host, url.port)
    assert str(url).isascii() and str(url).isprintable()


@pytest.mark.requirement("fetch:denied")
@pytest.mark.parametrize("row", DENIED, ids=[ascii(url)[:60] + " ".join(answer) for url, answer in DENIED])
async def test_what_others_connect_to_is_vetted_by_its_addresses_too(row: Row, dialled: Dialled) -> None:
    url, answer = row
    with pytest.raises(FetchRefused):
        await stub(answer or ("127.0.0.1",)).vet(url)
    assert dialled.addresses == []


@pytest.mark.requirement("fetch:plain")
async def test_a_name_on_the_public_internet_is_not_for_http_however_much_is_listed() -> None:
    fetcher = Fetcher(("10.0.0.0/8",), allow_loopback=True, resolve=resolving([PUBLIC_V4]))
    fetcher.check("http://name.example/")
    with pytest.raises(FetchRefused, match="over http"):
        await fetcher.vet("http://name.example/")
    await fetcher.vet("https://name.example/")


async def test_a_name_without_an_address_is_for_those_who_connect_to_report() -> None:
    async def nobody(host: str, port: int) -> Sequence[Place]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    await Fetcher((), allow_loopback=False, resolve=nobody).vet("https://name.example/")
    await Fetcher((), allow_loopback=False, resolve=resolving([])).vet("https://name.example/")


@pytest.mark.requirement("fetch:rebinding")
async def test_a_name_is_resolved_once_and_its_next_answer_means_nothing(dialled: Dialled) -> None:
    fetcher = stub([PUBLIC_V4], ["127.0.0.1"])
    with pytest.raises(FetchFailed):
        await fetcher.fetch(Request("https://name.example/"))
    assert dialled.addresses == [PUBLIC_V4]
    with pytest.raises(FetchRefused):
        await fetcher.fetch(Request("https://name.example/"))
    assert dialled.addresses == [PUBLIC_V4]


@pytest.mark.requirement("fetch:plain")
async def test_http_goes_to_networks_that_the_operator_lists_and_to_no_others(dialled: Dialled) -> None:
    listed = Fetcher(("10.1.0.0/16",), allow_loopback=False, resolve=resolving(["10.1.2.3"]))
    with pytest.raises(FetchFailed):
        await listed.fetch(Request("http://internal.example/"))
    assert dialled.addresses == ["10.1.2.3"]
    public = Fetcher(("10.1.0.0/16",), allow_loopback=False, resolve=resolving([PUBLIC_V4]))
    for url in ("http://internal.example/", f"http://{PUBLIC_V4}/"):
        with pytest.raises(FetchRefused, match="over http"):
            await public.fetch(Request(url))
    assert dialled.addresses == ["10.1.2.3"]


@asynccontextmanager
async def serving(answer: Answer, context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server on loopback that answers each head with bytes, and then closes."""
    heads: list[bytes] = []
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            heads.append(head)
            writer.write(answer(head))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http{'s' if context else ''}://127.0.0.1:{port}", heads
        await asyncio.gather(*running)


def ok(body: bytes, *headers: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"content-type: " + kind, b"content-length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


def local() -> Fetcher:
    return Fetcher((), allow_loopback=True)


GOOD = {
    "with a length": ok(b'{"a": 1}'),
    "until the end of the connection": b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{"a": 1}',
    "in chunks, with a trailer": b"HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\n"
    b'transfer-encoding: chunked\r\n\r\n8\r\n{"a": 1}\r\n0\r\ncontent-type: text/html\r\n\r\n',
    "after a hint": b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + ok(b'{"a": 1}'),
    "zipped": ok(gzip.compress(b'{"a": 1}'), b"content-encoding: gzip"),
    "of a suffixed type": ok(b'{"a": 1}', kind=b"application/oauth-authz-req+json"),
}


@pytest.mark.requirement("fetch:answer")
@pytest.mark.parametrize("answer", GOOD.values(), ids=GOOD)
async def test_an_answer_is_read_however_it_is_framed(answer: bytes) -> None:
    async with serving(lambda _: answer) as (base, _):
        response = await local().fetch(Request(f"{base}/doc"))
    assert response.status == 200
    assert json_object(response) == {"a": 1}
    assert response.url == f"{base}/doc"


BAD = {
    "too large": ok(b'"' + b"a" * 65_536 + b'"'),
    "said to be too large": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 65537\r\n\r\n",
    "too large, without a length": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + b"a" * 70_000,
    "a bomb": ok(gzip.compress(b" " * 5_000_000), b"content-encoding: gzip"),
    "no gzip": ok(b"{}", b"content-encoding: gzip"),
    "half a gzip": ok(gzip.compress(b"{}")[:-4], b"content-encoding: gzip"),
    "of a coding nobody asked for": ok(b"{}", b"content-encoding: br"),
    "of another type": ok(b"<html>", kind=b"text/html"),
    "without a type": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "of two types": ok(b"{}", b"content-type: text/html"),
    "of two lengths": ok(b"{}", b"content-length: 3"),
    "of a negative length": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: -1\r\n\r\n",
    "cut short": ok(b'{"a": 1}')[:-1],
    "empty": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a change of protocol": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\nx: " + b"a" * 40_000,
    "a redirect": ok(b"", b"location: /other", status=b"302 Found"),
}


@pytest.mark.requirement("fetch:bounded")
@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
async def test_an_answer_that_is_too_much_or_unlike_what_was_asked_for_is_refused(answer: bytes) -> None:
    async with serving(lambda _: answer) as (base, _):
        with pytest.raises(FetchFailed):
            await local().fetch(Request(f"{base}/doc"))


@pytest.mark.requirement("fetch:answer")
async def test_an_error_answer_keeps_its_status_and_its_body_only_where_it_is_of_the_type() -> None:
    async with serving(lambda _: ok(b"<html>", status=b"404 Not Found", kind=b"text/html")) as (base, _):
        assert (await local().fetch(Request(base))).status == 404
    async with serving(lambda _: ok(b'{"error": "x"}', status=b"400 Bad Request")) as (base, _):
        response = await local().fetch(Request(base, "POST", body=b"a=b"))
    assert (response.status, json_object(response)) == (400, {"error": "x"})


@pytest.mark.requirement("fetch:answer")
@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b"\xff{}",
        b"[" * 60_000,
        b"{} x",
        b'{"a": 1e400}',
        b'{"a": "\\ud800"}',
    ],
)
async def test_a_body_that_parsers_read_in_two_ways_is_no_object(body: bytes) -> None:
    async with serving(lambda _: ok(body)) as (base, _):
        response = await local().fetch(Request(base))
    with pytest.raises(FetchFailed):
        json_object(response)


@pytest.mark.requirement("fetch:request")
async def test_a_request_says_what_was_asked_for_and_nothing_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{CANARY}:1@127.0.0.1:9")
    async with serving(lambda _: ok(b"{}")) as (base, heads):
        request = Request(f"{base}/token?x=1", "POST", {"Authorization": "Basic abc"}, b"grant_type=x")
        await local().fetch(request)
    lines = heads[0].decode().split("\r\n")
    assert lines[0] == "POST /token?x=1 HTTP/1.1"
    assert set(lines[1:-2]) == {
        f"host: {base.removeprefix('http://')}",
        "connection: close",
        "accept-encoding: identity",
        "user-agent: mcpgw",
        "accept: application/json",
        "authorization: Basic abc",
        "content-length: 12",
    }


@pytest.mark.requirement("fetch:request")
@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("CONNECT", {}),
        ("GET /x HTTP/1.1\r\n\r\nGET", {}),
        ("GET", {"x": "a\r\nhost: other"}),
        ("GET", {"x\r\ny": "a"}),
        ("GET", {"Host": "other"}),
        ("GET", {"transfer-encoding": "chunked"}),
        ("GET", {"x": "ü"}),
    ],
)
async def test_no_header_or_framing_can_be_injected(method: str, headers: dict[str, str], dialled: Dialled) -> None:
    with pytest.raises(FetchRefused):
        await stub([PUBLIC_V4]).fetch(Request("https://name.example/", method, headers))
    assert dialled.addresses == []


@pytest.mark.requirement("fetch:redirects")
async def test_a_redirect_is_followed_as_often_as_asked_for_and_vetted_each_time() -> None:
    def answer(head: bytes) -> bytes:
        step = int(head.split()[1].rpartition(b"/")[2])
        return ok(b"", b"location: /%d" % (step - 1), status=b"302 Found") if step else ok(b"{}")

    async with serving(answer) as (base, heads):
        assert (await local().fetch(Request(f"{base}/2", redirects=2))).url == f"{base}/0"
        with pytest.raises(FetchFailed, match="redirects"):
            await local().fetch(Request(f"{base}/3", redirects=2))
        with pytest.raises(FetchFailed, match="redirects"):
            await local().fetch(Request(f"{base}/1", "POST", redirects=2))
    assert len(heads) == 7


@pytest.mark.requirement("fetch:redirects")
@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest",
        "//10.0.0.1/",
        "http://0x7f.1#",
        "file:///etc/passwd",
        "http://name.example/",
        "http://[",
    ],
)
async def test_a_redirect_to_where_nobody_may_be_asked_is_refused(location: str) -> None:
    async with serving(lambda _: ok(b"", b"location: " + location.encode(), status=b"302 Found")) as (base, heads):
        with pytest.raises(FetchRefused):
            await Fetcher((), allow_loopback=True, resolve=resolving(["127.0.0.1"], [PUBLIC_V4])).fetch(
                Request(base, redirects=3)
            )
    assert len(heads) == 1


@pytest.mark.requirement("fetch:redirects")
async def test_a_redirect_takes_no_credentials_to_another_origin() -> None:
    async with serving(lambda _: ok(b"{}")) as (other, seen):
        away = b"location: " + other.encode() + b"/there"
        async with serving(lambda _: ok(b"", away, status=b"307 Temporary Redirect")) as (base, _):
            headers = {"authorization": f"Bearer {CANARY}", "x-api-key": CANARY, "accept": "application/json"}
            await local().fetch(Request(base, headers=headers, redirects=1))
    assert CANARY.encode() not in seen[0]
    assert b"accept: application/json" in seen[0]


@pytest.mark.requirement("fetch:redirects")
def test_a_redirect_never_leaves_https() -> None:
    fetcher, request = local(), Request("https://name.example/", redirects=1)
    with pytest.raises(FetchRefused, match="https to http"):
        fetcher._next(request, WebUrl.parse(request.url), "http://127.0.0.1/")


@pytest.mark.requirement("fetch:tls")
async def test_a_host_proves_its_name_at_the_address_that_was_vetted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, names = Authority.create(tmp_path), list[Any]()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    context = authority.server("name.example")
    context.sni_callback = lambda _, name, __: names.append(name)
    fetcher = Fetcher((), allow_loopback=True, resolve=resolving(["127.0.0.1"]))
    async with serving(lambda _: ok(b"{}"), context) as (base, heads):
        port = base.rpartition(":")[2]
        response = await fetcher.fetch(Request(f"https://NAME.example.:{port}/doc"))
        assert (response.status, response.url) == (200, f"https://name.example:{port}/doc")
        with pytest.raises(FetchFailed, match="certificate"):
            await fetcher.fetch(Request(f"https://other.example:{port}/doc"))
        with pytest.raises(FetchFailed, match="certificate"):
            await fetcher.fetch(Request(base))
    assert names[0] == "name.example"
    assert f"host: name.example:{port}\r\n".encode() in heads[0]
    assert len(heads) == 1


@pytest.mark.requirement("fetch:tls")
async def test_a_certificate_that_has_expired_or_that_nobody_signed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.create(tmp_path)
    async with serving(lambda _: ok(b"{}"), authority.server("127.0.0.1")) as (base, heads):
        with pytest.raises(FetchFailed, match="certificate"):
            await local().fetch(Request(base))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    async with serving(lambda _: ok(b"{}"), authority.server("127.0.0.1", expired=True)) as (base, heads):
        with pytest.raises(FetchFailed, match="certificate"):
            await local().fetch(Request(base))
    assert heads == []


@pytest.mark.requirement("fetch:bounded")
async def test_who_answers_too_slowly_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOTAL_S", 0.2)
    begun, ended = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.set()
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        ended.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        with anyio.fail_after(5), pytest.raises(FetchFailed, match="within"):
            await local().fetch(Request(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"))
        assert begun.is_set()
        await ended.wait()


@pytest.mark.requirement("fetch:bounded")
async def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.05)

    async def hang(host: str, port: int) -> Sequence[Place]:
        await asyncio.Event().wait()
        return []

    with anyio.fail_after(5), pytest.raises(FetchFailed, match="did not accept"):
        await Fetcher((), allow_loopback=False, resolve=hang).fetch(Request("https://name.example/"))


@pytest.mark.requirement("fetch:bounded")
async def test_one_slow_host_does_not_take_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def slow(host: str, port: int) -> Sequence[Place]:
        if host == "slow.example":
            waiting.release()
            await go_on.wait()
        return [(socket.AF_INET, ("127.0.0.1", port))]

    fetcher = Fetcher((), allow_loopback=False, resolve=slow)
    async with anyio.create_task_group() as tasks:

        async def ask() -> None:
            with pytest.raises(GatewayError):
                await fetcher.fetch(Request("https://slow.example/"))

        for _ in range(AT_ONCE_PER_HOST):
            tasks.start_soon(ask)
        for _ in range(AT_ONCE_PER_HOST):
            await waiting.acquire()
        with pytest.raises(FetchFailed, match="too many"):
            await fetcher.fetch(Request("https://slow.example/"))
        with pytest.raises(FetchRefused):  # its place was free: it came as far as its address
            await fetcher.fetch(Request("https://quick.example/"))
        go_on.set()


@pytest.mark.requirement("fetch:no-secrets")
@pytest.mark.parametrize(
    "url",
    [
        f"https://127.0.0.1/{CANARY}",
        f"https://name.example/{CANARY}?key={CANARY}",
        f"https://user:{CANARY}@name.example/",
        f"https://name.example/#{CANARY}",
        f"http://name.example/{CANARY}",
        f"{CANARY}://x",
    ],
)
async def test_no_error_shows_more_of_a_url_than_its_host(url: str, dialled: Dialled) -> None:
    with pytest.raises(GatewayError) as refusal:
        await stub([PUBLIC_V4]).fetch(Request(url, headers={"authorization": CANARY}, body=CANARY.encode()))
    assert CANARY not in str(refusal.value) + json.dumps(dict(refusal.value.data))
    assert CANARY not in repr(Request("https://name.example/", headers={"a": CANARY}, body=CANARY.encode()))
