"""Sessions of the handshake era: which worker holds one, to whom it belongs, when it ends."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.domain import ClientFacts
from mcpgw.edge.mcp_sessions import Session, Sessions
from mcpgw.errors import Unavailable, UnknownSession
from mcpgw.seals import Seals
from tests.parts import SetClock

KEY = b"k" * 32
FACTS = ClientFacts(protocol_version="2025-11-25", modern=False)
IDLE_S = 60.0


class Worker:
    """The sessions of one worker, its clock, and the ids of those that ended."""

    def __init__(self, worker: int = 0, *, key: bytes = KEY, limit: int = 100) -> None:
        self.clock = SetClock()
        self.ended: list[str] = []
        self.sessions = Sessions(
            seals=Seals(key, worker),
            limit=limit,
            idle_s=IDLE_S,
            clock=self.clock,
            ended=lambda session: self.ended.append(session.id),
        )

    def open(self, resource: str = "/mcp/notes") -> Session:
        return self.sessions.open(self.sessions.new_id(), owner="ada", resource=resource, facts=FACTS)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.mark.requirement("session:affinity")
@pytest.mark.parametrize("index", [0, 1, 7, 63])
def test_a_session_id_names_its_worker_to_every_worker(index: int) -> None:
    held = Worker(index)
    session_id = held.sessions.new_id()
    assert Worker(5).sessions.worker_of(session_id) == index
    assert held.sessions.worker_of(held.open().id) == index


@pytest.mark.requirement("session:affinity")
def test_session_ids_are_visible_ascii_and_never_the_same(worker: Worker) -> None:
    ids = [worker.sessions.new_id() for _ in range(200)]
    assert len(set(ids)) == 200
    assert all("!" <= c <= "~" for session_id in ids for c in session_id)


@pytest.mark.requirement("session:forged")
def test_an_id_of_another_installation_is_unknown(worker: Worker) -> None:
    with pytest.raises(UnknownSession):
        worker.sessions.worker_of(Worker(key=b"x" * 32).sessions.new_id())


@pytest.mark.requirement("session:forged")
@pytest.mark.parametrize("forged", ["", "a", "abc", "ä", "\x00", "=" * 9, "A" * 16, "A" * 56, "-_" * 4096])
def test_what_is_no_id_is_unknown(worker: Worker, forged: str) -> None:
    with pytest.raises(UnknownSession):
        worker.sessions.worker_of(forged)
    with pytest.raises(UnknownSession):
        worker.sessions.find(forged, "/mcp/notes")


@pytest.mark.requirement("session:forged")
@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_an_id_with_one_bit_changed_is_unknown(place: int, flip: int) -> None:
    worker = Worker(3)
    sealed = bytearray(base64.urlsafe_b64decode(worker.sessions.new_id() + "=="))
    sealed[place % len(sealed)] ^= flip
    with pytest.raises(UnknownSession):
        worker.sessions.worker_of(base64.urlsafe_b64encode(sealed).decode().rstrip("="))


@pytest.mark.requirement("session:bound")
def test_a_session_belongs_to_the_endpoint_it_was_opened_on(worker: Worker) -> None:
    session = worker.open("/mcp/notes")
    assert worker.sessions.find(session.id, "/mcp/notes") is session
    for other in ("/mcp", "/mcp/files", "/mcp/notes@1.0.0", "/mcp/notes/"):
        with pytest.raises(UnknownSession):
            worker.sessions.find(session.id, other)


@pytest.mark.requirement("session:bound")
def test_an_id_that_was_made_and_never_opened_is_unknown(worker: Worker) -> None:
    with pytest.raises(UnknownSession):
        worker.sessions.find(worker.sessions.new_id(), "/mcp/notes")


@pytest.mark.requirement("session:ends")
def test_a_session_that_was_ended_is_unknown_and_ends_once(worker: Worker) -> None:
    session = worker.open()
    worker.sessions.end(session)
    worker.sessions.end(session)
    assert worker.ended == [session.id]
    with pytest.raises(UnknownSession):
        worker.sessions.find(session.id, "/mcp/notes")


@pytest.mark.requirement("session:ends")
def test_an_idle_session_ends_and_each_use_keeps_it(worker: Worker) -> None:
    session = worker.open()
    for _ in range(3):
        worker.clock.now += IDLE_S
        worker.sessions.find(session.id, "/mcp/notes")
    worker.clock.now += IDLE_S + 0.001
    with pytest.raises(UnknownSession):
        worker.sessions.find(session.id, "/mcp/notes")
    worker.open()
    assert worker.ended == [session.id]


@pytest.mark.requirement("session:ends")
def test_a_session_with_a_stream_or_a_running_call_is_not_idle(worker: Worker) -> None:
    streaming, calling, idle = worker.open(), worker.open(), worker.open()
    streaming.streaming = True
    calling.running[b"1"] = "action"
    worker.clock.now += IDLE_S * 100
    worker.open()
    assert worker.ended == [idle.id]
    streaming.stop_streaming()
    worker.clock.now += IDLE_S * 100
    worker.open()
    assert streaming.id in worker.ended
    assert calling.id not in worker.ended


@pytest.mark.requirement("session:limit")
def test_a_worker_holds_no_more_sessions_than_it_may() -> None:
    worker = Worker(limit=3)
    held = [worker.open() for _ in range(3)]
    with pytest.raises(Unavailable):
        worker.open()
    worker.sessions.end(held[1])
    worker.open()
    worker.clock.now += IDLE_S * 2
    worker.open()
    assert set(worker.ended) >= {session.id for session in held}


@pytest.mark.requirement("session:asked")
def test_requests_of_servers_get_ids_of_our_own_that_never_meet(worker: Worker) -> None:
    session = worker.open()
    shown = [session.ask("notes", b"1"), session.ask("files", b"1"), session.ask("notes", b'"1"')]
    assert len(set(shown)) == 3
    assert session.asked == {
        shown[0]: ("notes", b"1"),
        shown[1]: ("files", b"1"),
        shown[2]: ("notes", b'"1"'),
    }
    session.answered(shown[1])
    session.answered(b"999")
    assert set(session.asked) == {shown[0], shown[2]}
    assert session.ask("notes", b"1") not in shown
