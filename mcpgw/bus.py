"""How the workers of one machine tell each other of a new epoch, and wait until all have applied it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mcpgw.cluster import EpochBoard, end_worker, live_slots
from mcpgw.domain import AdminNote, Row
from mcpgw.errors import GatewayError, Unavailable
from mcpgw.ports import Ack, Bus, Store
from mcpgw.world import WorldKeeper

SILENT_AFTER_S = 3.0
STARTING_RETRY_S = 0.01
LeftBy = Callable[[str], tuple[int, tuple[str, ...]]]
_LINE_LIMIT = 16 * 1024 * 1024


def control_path(run_dir: Path, index: int) -> Path:
    """Return the Unix socket on which a worker takes orders to apply an epoch."""
    return run_dir / f"w{index}.control"


class ControlServer:
    """Answers each line `{"epoch": n, "switch": id}` with this worker's acknowledgement, once it has applied it."""

    def __init__(self, run_dir: Path, index: int, worlds: WorldKeeper, position: Callable[[], int]) -> None:
        self._path = control_path(run_dir, index)
        self._name = f"w{index}"
        self._worlds = worlds
        self._position = position
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=_LINE_LIMIT)
        os.chmod(self._path, 0o600)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                order = json.loads(line)
                with contextlib.suppress(GatewayError):  # no answer: the one who asks treats this worker as silent
                    ack = await self.acknowledge(order["epoch"], order["switch"])
                    writer.write(json.dumps([ack.position, ack.epoch, ack.cut, ack.may_have_taken_effect]).encode())
                    writer.write(b"\n")
                    await writer.drain()
        finally:
            writer.close()

    async def acknowledge(self, epoch: int, switch: str | None) -> Ack:
        """Apply an epoch and return this worker's word on it."""
        cut = await self._worlds.apply(epoch, switch)
        return Ack(
            worker=self._name,
            log=self._name,
            position=self._position(),
            epoch=self._worlds.current.epoch,
            cut=cut.calls,
            may_have_taken_effect=cut.sent,
        )


class LocalBus:
    """Implements `ports.Bus` for the workers of one machine.

    `left_by(worker)` returns the size of a dead worker's log, and the calls that it left unfinished: all of them ended
    with it, and each may have taken effect.
    """

    def __init__(self, run_dir: Path, index: int, epochs: EpochBoard, own: ControlServer, left_by: LeftBy) -> None:
        self._run_dir = run_dir
        self._index = index
        self._epochs = epochs
        self._own = own
        self._left_by = left_by

    async def publish(self, epoch: int, switch: str | None = None) -> tuple[Sequence[Ack], Sequence[str]]:
        self._epochs.publish(epoch)
        slots = [i for i in live_slots(self._run_dir) if i != self._index]
        answers = await asyncio.gather(
            self._own.acknowledge(epoch, switch), *(self._ask(i, epoch, switch) for i in slots), return_exceptions=True
        )
        acks: list[Ack] = []
        missing: list[str] = []
        for index, answer in zip([self._index, *slots], answers, strict=True):
            if isinstance(answer, Ack):
                acks.append(answer)
            elif index != self._index and await asyncio.to_thread(end_worker, self._run_dir, index, self._epochs):
                name = f"w{index}"
                position, left = await asyncio.to_thread(self._left_by, name)
                acks.append(Ack(f"{name} (dead)", name, position, epoch, left, left))
            else:
                missing.append(f"w{index}")
        return acks, missing

    async def _ask(self, index: int, epoch: int, switch: str | None) -> Ack:
        async with asyncio.timeout(SILENT_AFTER_S):
            reader, writer = await self._reach(index)
            try:
                writer.write(json.dumps({"epoch": epoch, "switch": switch}).encode() + b"\n")
                position, applied, cut, sent = json.loads(await reader.readline())
            finally:
                writer.close()
        name = f"w{index}"
        return Ack(name, name, position, applied, tuple(cut), tuple(sent))

    async def _reach(self, index: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a worker, also to one that is starting: it has its slot some time before it takes orders."""
        while True:
            try:
                return await asyncio.open_unix_connection(control_path(self._run_dir, index), limit=_LINE_LIMIT)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(STARTING_RETRY_S)


class PublishingStore:
    """A store whose every commit is applied by all workers before it returns.

    Raises Unavailable when the change is made, and a worker that is not dead has not applied it.
    """

    def __init__(self, inner: Store, bus: Bus) -> None:
        self._inner = inner
        self._bus = bus
        self.state = inner.state
        self.notes = inner.notes

    async def commit(self, rows: Sequence[Row], note: AdminNote, expect: int | None = None) -> int:
        epoch = await self._inner.commit(rows, note, expect)
        _, missing = await self._bus.publish(epoch)
        if missing:
            raise Unavailable(
                f"the change is made, but {', '.join(missing)} did not say in time that it holds there",
                fix="end those workers; nothing needs to be sent again",
            )
        return epoch
