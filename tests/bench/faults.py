"""What faults cost those who have no part in them: `python -m tests.bench.faults [--only r1,r12] [--scale 1.0]`.

R1 a hung upstream, R12 slow clients, R13 cancelled calls, R15 rubbish, R18 heavy requests. Each starts a gateway of its
own with one worker, limits of a second or so, and the witness as upstream behind a proxy that can hang.
tests/e2e/test_faults.py runs the same at a small scale and asserts what does not depend on the machine's speed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.parts import Witness, a_witness
from tests.e2e.wire import META, modern_headers, request
from tests.harness import GatewayProcess, gateway, rego

LIMITS = {"first_byte_s": 1.0, "head_read_s": 1.0, "body_read_s": 1.0, "write_stall_s": 1.0, "per_principal": 1000}
SERVERS = tuple(f"s{i}" for i in range(5))
Figures = dict[str, Any]


class Proxy:
    """A TCP proxy to the witness; while it `hangs`, what arrives is swallowed."""

    def __init__(self, target: str) -> None:
        where = urlsplit(target)
        self._host, self._port = where.hostname, where.port
        self._open: set[asyncio.StreamWriter] = set()
        self.hangs = False
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        self._open |= {writer, up_writer}
        try:
            await asyncio.gather(self._pump(reader, up_writer), self._pump(up_reader, writer))
        finally:
            self._open -= {writer, up_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                if not self.hangs:
                    writer.write(data)
        writer.close()


@asynccontextmanager
async def proxied(target: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for writer in list(proxy._open):
            writer.close()


@dataclass
class Client:
    """One keep-alive connection of a client of 2026-07-28."""

    gate: GatewayProcess
    server: str = "s0"
    key: str = ""
    reader: asyncio.StreamReader = field(init=False)
    writer: asyncio.StreamWriter = field(init=False)

    async def open(self) -> Client:
        where = urlsplit(self.gate.base_url)
        self.reader, self.writer = await asyncio.open_connection(where.hostname, where.port)
        return self

    def text(self, tool: str, arguments: dict[str, Any]) -> bytes:
        params = {"name": tool, "arguments": arguments}
        body = json.dumps(request("tools/call", {**params, "_meta": META})).encode()
        headers = {
            "Host": urlsplit(self.gate.base_url).netloc,
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Authorization": f"Bearer {self.key or self.gate.agent_key}",
            "Content-Length": str(len(body)),
            **modern_headers("tools/call", params),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST /mcp/{self.server} HTTP/1.1\r\n{lines}\r\n".encode() + body

    async def call(self, tool: str = "echo", **arguments: Any) -> tuple[int, Any]:
        """Return the status and the JSON of an answer, or of the last message of a stream."""
        self.writer.write(self.text(tool, arguments))
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        body = await self.reader.readexactly(int(length)) if length else await self._chunked()
        return int(head.split(b" ")[1]), json.loads(body.rstrip().rpartition(b"data: ")[2] if not length else body)

    async def _chunked(self) -> bytes:
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readline()
        await self.reader.readline()
        return body

    def close(self) -> None:
        self.writer.close()


@dataclass
class Load:
    """What callers saw who only wanted an echo."""

    took_ms: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)

    def p99(self) -> float:
        found = sorted(self.took_ms)
        return round(found[int(len(found) * 0.99)], 2) if found else 0.0

    async def run(self, client: Client, until: Callable[[], bool], pause_s: float = 0.005) -> None:
        await client.open()
        while not until():
            began = time.monotonic()
            status, answer = await client.call(text="x", marker="m")
            self.took_ms.append((time.monotonic() - began) * 1000)
            if status != 200 or "result" not in answer:
                self.wrong[f"{status} {answer.get('error', {}).get('message', '')[:60]}"] += 1
            await asyncio.sleep(pause_s)
        client.close()


@asynccontextmanager
async def load(gate: GatewayProcess, servers: Sequence[str] = SERVERS, clients: int = 4) -> AsyncIterator[Load]:
    """Call each of these servers all the time, until the block ends."""
    seen, ended = Load(), asyncio.Event()
    tasks = [
        asyncio.create_task(seen.run(Client(gate, servers[i % len(servers)]), ended.is_set)) for i in range(clients)
    ]
    try:
        yield seen
    finally:
        ended.set()
        await asyncio.gather(*tasks)


@contextmanager
def world(directory: Path, proxy_url: str, witness: Witness, **limits: float) -> Iterator[GatewayProcess]:
    """A gateway over SERVERS; s0 is reached through the proxy."""
    config = {"limits": {**LIMITS, **limits}, "registry": {"drift_check_s": 3600}}
    with gateway(directory, config=config, policy=rego("allow_all")) as gate:
        for server in SERVERS:
            gate.publish(server, f"{proxy_url}/s0/mcp" if server == "s0" else witness.url(server))
        yield gate


def descriptors(gate: GatewayProcess) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in gate.pids())


async def until(found: Callable[[], bool], within_s: float) -> float:
    """Return the seconds until this is true; infinity when it is not in time."""
    began = time.monotonic()
    while not found():
        if time.monotonic() - began > within_s:
            return float("inf")
        await asyncio.sleep(0.05)
    return round(time.monotonic() - began, 2)


async def hung_upstream(gate: GatewayProcess, proxy: Proxy, scale: float) -> Figures:
    """R1: one of five upstreams hangs; the others do not notice, and it is back soon after it is well."""
    async with load(gate, SERVERS[1:]) as before:
        await asyncio.sleep(10 * scale)
    proxy.hangs = True
    slow_ms: list[float] = []
    left_alone_after = float("inf")
    async with load(gate, SERVERS[1:]) as during:
        began = time.monotonic()
        while time.monotonic() - began < 20 * scale:

            async def one() -> None:
                nonlocal left_alone_after
                client = await Client(gate).open()
                asked = time.monotonic()
                _, answer = await client.call(text="x", marker="h")
                slow_ms.append((time.monotonic() - asked) * 1000)
                if answer.get("error", {}).get("data", {}).get("cause") == "ejected":
                    left_alone_after = min(left_alone_after, time.monotonic() - began)
                client.close()

            await asyncio.gather(*(one() for _ in range(3)))
            await asyncio.sleep(0.05)
    proxy.hangs = False
    client = await Client(gate).open()
    healed = time.monotonic()
    while (await client.call(text="x", marker="w"))[1].get("result") is None and time.monotonic() - healed < 15:
        await asyncio.sleep(0.1)
    return {
        "others: calls": len(during.took_ms),
        "others: errors": sum((before.wrong + during.wrong).values()),
        "others: p99 ms, before and during": (before.p99(), during.p99()),
        "hung: longest answer s (deadline 1)": round(max(slow_ms) / 1000, 2),
        "left alone after s": round(left_alone_after, 2),
        "back after s": round(time.monotonic() - healed, 2),
    }


async def slow_clients(gate: GatewayProcess, proxy: Proxy, scale: float) -> Figures:
    """R12: clients that send their head or body drop by drop, or never read, while others call."""
    many = int(1000 * scale)
    base = descriptors(gate)
    async with load(gate, SERVERS[1:]) as before:
        await asyncio.sleep(5 * scale)
    closed = 0

    async def slow(kind: int) -> None:
        nonlocal closed
        client = await Client(gate, "s1").open()
        text = client.text("echo", {"text": "x" * (500_000 if kind == 2 else 500), "marker": "slow"})
        with suppress(ConnectionError):
            if kind == 2:  # asks and asks, and does not read
                client.reader._transport.pause_reading()
                while True:
                    client.writer.write(text)
                    await client.writer.drain()
            client.writer.write(text[:-200] if kind else text[:60])
            await asyncio.wait_for(client.reader.read(), 30)
        closed += 1
        client.close()

    async with load(gate, SERVERS[1:]) as during:
        began = time.monotonic()
        tasks = [asyncio.create_task(slow(2 if i % 50 == 0 else i % 2)) for i in range(many)]
        await asyncio.gather(*tasks, return_exceptions=True)
        took = time.monotonic() - began
    back = await until(lambda: descriptors(gate) <= base + 16, 10)
    return {
        "slow clients, closed": (many, closed),
        "all closed after s": round(took, 2),
        "others: errors": sum((before.wrong + during.wrong).values()),
        "others: p99 ms, before and during": (before.p99(), during.p99()),
        "descriptors back to base after s": back,
    }


async def cancelled(gate: GatewayProcess, proxy: Proxy, scale: float) -> Figures:
    """R13: calls whose clients go away; nothing of them is left."""
    many = int(2000 * scale)
    base = descriptors(gate)

    async def dropped() -> None:
        client = await Client(gate, "s1").open()
        client.writer.write(client.text("slow", {"seconds": 60, "marker": "c"}))
        await client.writer.drain()
        await asyncio.sleep(random.uniform(0.01, 0.3))
        client.close()

    for start in range(0, many, 50):
        await asyncio.gather(*(dropped() for _ in range(min(50, many - start))))
    return {
        "calls dropped": many,
        "running calls gone after s": await until(lambda: gate.admin.get("/status")["running_calls_here"] == 0, 10),
        "descriptors back to base after s": await until(lambda: descriptors(gate) <= base + 16, 10),
    }


def rubbish(rng: random.Random, good: bytes) -> bytes:
    """Return a request with something wrong in it, or nothing."""
    text = bytearray(good)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
        at = rng.randrange(len(text)) if text else 0
        match rng.randrange(6):
            case 0:
                text[at : at + 1] = bytes((rng.randrange(256),))
            case 1:
                del text[at : at + rng.choice((1, 2, 10, 100))]
            case 2:
                text[at:at] = rng.choice(_PIECES)
            case 3:
                text[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 5, 50))))
            case 4:
                text[at:at] = text[at : at + rng.choice((5, 50, 300))]
            case 5:
                text = text[: at + 1]
    return bytes(text)


_PIECES = (
    b"\r\n", b"\n", b"\r\nhost: evil\r\n", b"\r\ncontent-length: 5\r\n", b"\r\ntransfer-encoding: chunked\r\n", b"\0",
    b"\r\nmcp-name: other\r\n", b"\r\nmcp-method: tools/list\r\n", b'"a":1,"a":2,', b'\\u0061', b"\xff\xfe", b"NaN", b"1e400",
    b"[" * 100, b'{"a":' * 70, b"\xed\xa0\x80", b'"\\ud800"', b"9" * 400, b"\r\nupgrade: h2c\r\nconnection: upgrade\r\n",
    b"\r\ncontent-encoding: gzip\r\n", b"\r\nexpect: 100-continue\r\n", b"null", b"-0", b"\r\norigin: http://evil\r\n",
    b"=?base64?ZWNobw==?=", b"HTTP/1.1", b"\r\n ", b"\r\nauthorization: Bearer x\r\n", b"\xef\xbb\xbf", b"}" * 30,
)  # fmt: skip


async def fuzz(gate: GatewayProcess, proxy: Proxy, scale: float) -> Figures:
    """R15: mutated requests, heads, bodies and values; no 5xx, no worker lost, the loop never stands still for long."""
    many, rng = int(20_000 * scale), random.Random(15)
    pids, statuses, stalls = gate.pids(), Counter[str](), 0.0
    # A modern call is the shape with the most rungs; its upstream answers whatever arguments arrive.
    good = Client(gate, "s1").text("echo", {"text": 'a "b" \\u00e9', "marker": "f", "deep": {"a": [1, 2.5, None]}})
    ended = asyncio.Event()

    async def beat() -> None:
        nonlocal stalls
        client = await Client(gate, "s2").open()
        while not ended.is_set():
            began = time.monotonic()
            await client.call(text="x", marker="b")
            stalls = max(stalls, time.monotonic() - began)
            await asyncio.sleep(0.01)
        client.close()

    async def one() -> None:
        client = await Client(gate, "s1").open()
        with suppress(ConnectionError):
            client.writer.write(rubbish(rng, good))
            client.writer.write_eof()
            answer = await asyncio.wait_for(client.reader.read(), 20)
            for piece in answer.split(b"HTTP/1.1 ")[1:]:
                statuses[piece[:3].decode("latin-1")] += 1
        client.close()

    beating = asyncio.create_task(beat())
    for start in range(0, many, 20):
        await asyncio.gather(*(one() for _ in range(min(20, many - start))))
    ended.set()
    await beating
    return {
        "requests": many,
        "statuses": dict(sorted(statuses.items())),
        "5xx": sum(n for status, n in statuses.items() if status.startswith("5")),
        "worker exits": int(gate.pids() != pids),
        "longest answer of a call beside it, s": round(stalls, 3),
        "tracebacks in the log": gate.output().count("Traceback"),
    }


async def heavy(gate: GatewayProcess, proxy: Proxy, scale: float) -> Figures:
    """R18: bodies of nearly a megabyte; those who ask for little wait little longer."""
    async with load(gate, SERVERS[1:]) as before:
        await asyncio.sleep(10 * scale)
    ended = asyncio.Event()

    async def big() -> int:
        client, asked = await Client(gate, "s1").open(), 0
        while not ended.is_set():
            await client.call(text="x" * 900_000, marker="big")
            asked += 1
            await asyncio.sleep(0.2)
        client.close()
        return asked

    async with load(gate, SERVERS[1:]) as during:
        bigs = [asyncio.create_task(big()) for _ in range(2)]
        await asyncio.sleep(10 * scale)
        ended.set()
        asked = sum(await asyncio.gather(*bigs))
    return {
        "big calls": asked,
        "others: errors": sum((before.wrong + during.wrong).values()),
        "others: p99 ms, before and during": (before.p99(), during.p99()),
    }


Drill = Callable[[GatewayProcess, Proxy, float], Awaitable[Figures]]
DRILLS: dict[str, Drill] = {
    "r1": hung_upstream,
    "r12": slow_clients,
    "r13": cancelled,
    "r15": fuzz,
    "r18": heavy,
}


async def drill(name: str, directory: Path, scale: float) -> Figures:
    """Run one drill in a world of its own."""
    with a_witness(directory) as witness:
        async with proxied(witness.base_url) as proxy:
            # The proxy lives on this loop, and starting a gateway asks its servers: off the loop, then.
            making = world(directory / "gateway", proxy.url, witness)
            gate = await asyncio.to_thread(making.__enter__)
            try:
                return await DRILLS[name](gate, proxy, scale)
            finally:
                await asyncio.to_thread(making.__exit__, None, None, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(DRILLS))
    parser.add_argument("--scale", type=float, default=1.0)
    given = parser.parse_args()
    for name in given.only.split(","):
        with tempfile.TemporaryDirectory(prefix="mcpgw-faults-") as directory:
            figures = asyncio.run(drill(name, Path(directory), given.scale))
        print(f"{name}: {(DRILLS[name].__doc__ or '').split(':', 1)[1].strip()}")
        for what, figure in figures.items():
            print(f"  {what}: {figure}")


if __name__ == "__main__":
    main()
