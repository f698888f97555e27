"""The end of a turn of the daemon: what fails costs itself only, is said once, and nothing is sent twice or lost."""

from types import SimpleNamespace

import pytest

from shoald.node.effects import EndWorker, Grant, Send
from shoald.node.moving import KEEPER
from shoald.node.turn import Turn
from shoald.shell.faults import Faults

EFFECTS = [Send(b"1", [1]), Grant(b"2", 1, 7, b"worker", {}), Send(b"3", [3]), Send(b"4", [4])]
PARTS = [
    "actors.turn", "groups.turn", "lease_side.away.forgive", "scheduler.schedule", "carry_out", "store.relieve",
    "objects.turn", "spiller.turn", "refs.turn", "moving.told", "store.next_deadline", "lease_side.turn", "groups.flush",
    "peers.flush", "sock.flush",
]  # fmt: skip


class Log:
    def __init__(self):
        self.faults, self.lines = [], []

    def fault(self, where, error):
        self.faults.append((where, error))

    def line(self, text):
        self.lines.append(text)


class Sock:
    """A client's: it refuses what it is told to."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.got, self.refuses, self.closed = [], None, []

    def send(self, message):
        if self.refuses is not None:
            raise self.refuses
        self.got.append(message)

    def flush(self):
        self.daemon.run("sock.flush")

    def close(self, reason):
        self.closed.append(reason)


class Daemon:
    """What a turn needs of one: each part says that it ran, and raises what it is told to."""

    def __init__(self):
        self.ran, self.fails, self.done = [], {}, []
        self.log = Log()
        self.dues = {}
        self.clients, self.to_flush = {}, set()
        self.loop = SimpleNamespace(now=lambda: 0.0)
        self.cluster = SimpleNamespace(live={"node": 1})
        self.actors = SimpleNamespace(turn=self.part("actors.turn"))
        self.groups = SimpleNamespace(turn=self.part("groups.turn"), flush=self.part("groups.flush"))
        self.lease_side = SimpleNamespace(
            turn=self.part("lease_side.turn"),
            away=SimpleNamespace(forgive=self.part("lease_side.away.forgive")),
        )
        self.scheduler = SimpleNamespace(
            outbox=[],
            schedule=self.part("scheduler.schedule"),
            pool=SimpleNamespace(workers={b"worker": b"worker"}),
            end_worker=lambda worker, reason, now: self.scheduler.outbox.append(
                EndWorker(worker, reason, False)
            ),
        )
        self.store = SimpleNamespace(
            outbox=[], relieve=self.part("store.relieve"), next_deadline=self.part("store.next_deadline")
        )
        self.objects = SimpleNamespace(turn=self.part("objects.turn"))
        self.spiller = SimpleNamespace(turn=self.part("spiller.turn"))
        self.refs = SimpleNamespace(turn=self.part("refs.turn"))
        self.moving = SimpleNamespace(told=self.part("moving.told"))
        self.peers = SimpleNamespace(dirty={}, flush=self.flush_peers)
        self.turn = Turn(self, Faults(self.log, 10))

    def part(self, name):
        return lambda *_: self.run(name)

    def run(self, name):
        self.ran.append(name)
        if name in self.fails:
            raise self.fails[name]
        return self.dues.get(name)

    def flush_peers(self):
        self.peers.dirty = {}
        self.run("peers.flush")

    def carry_out(self, effect):
        self.ran.append("carry_out")
        if effect is self.fails.get("effect"):
            raise MemoryError
        if "carry_out" in self.fails:
            raise self.fails["carry_out"]
        self.done.append(effect)

    def something_for_every_part(self):
        self.scheduler.outbox.append(EFFECTS[0])
        self.store.outbox.append((KEEPER, [1]))
        self.peers.dirty["peer"] = None
        self.to_flush.add(Sock(self))


@pytest.fixture
def daemon():
    return Daemon()


def test_the_parts_run_in_order(daemon):
    daemon.something_for_every_part()
    assert daemon.turn.end(0.0) is None
    assert daemon.ran == PARTS


@pytest.mark.parametrize("fails", PARTS)
def test_a_part_that_fails_every_turn_stops_no_other_and_is_said_once(daemon, fails):
    daemon.fails[fails] = RuntimeError("broken")
    for turn in range(1, 9):
        daemon.ran.clear()
        daemon.something_for_every_part()
        due = daemon.turn.end(float(turn))
        assert daemon.ran == PARTS
        assert turn < due < turn + 1, "it is tried again, after a pause"
    ((where, error),) = daemon.log.faults
    assert error is daemon.fails[fails]
    assert "at the end of a turn" in where
    assert len(daemon.log.lines) == 3  # the 2nd, 4th and 8th time
    daemon.fails.clear()
    daemon.something_for_every_part()
    assert daemon.turn.end(9.0) is None


def test_the_earliest_deadline_counts(daemon):
    daemon.dues = {"groups.turn": 7.0, "store.next_deadline": 5.0, "lease_side.turn": 6.0}
    assert daemon.turn.end(1.0) == 5.0


@pytest.mark.parametrize("fails", EFFECTS)
def test_the_effects_after_one_that_fails_are_for_the_next_turn(daemon, fails):
    daemon.fails["effect"] = fails
    daemon.scheduler.outbox = list(EFFECTS)
    daemon.turn.end(0.0)
    daemon.turn.end(1.0)
    ends = [effect for effect in daemon.done if isinstance(effect, EndWorker)]
    assert [effect for effect in daemon.done if effect not in ends] == [
        each for each in EFFECTS if each is not fails
    ]
    # Nobody was told of the lease: it ends with its worker.
    assert [end.worker_id for end in ends] == ([b"worker"] if isinstance(fails, Grant) else [])


def test_messages_of_the_store_are_sent_once_when_one_of_them_meets_a_fault(daemon):
    sock = Sock(daemon)
    daemon.clients[b"client"] = SimpleNamespace(sock=sock)
    daemon.fails["moving.told"] = RuntimeError("broken")
    daemon.store.outbox += [(b"client", [1]), (KEEPER, [2]), (b"client", [3]), (b"gone", [4])]
    daemon.turn.end(0.0)
    daemon.turn.end(1.0)
    assert sock.got == [[1], [3]]
    assert daemon.ran.count("moving.told") == 1
    assert daemon.store.outbox == []


def test_a_message_of_the_store_that_there_was_no_memory_for_is_sent_later(daemon):
    sock = Sock(daemon)
    daemon.clients[b"client"] = SimpleNamespace(sock=sock)
    daemon.store.outbox += [(b"client", [1]), (b"client", [2])]
    sock.refuses = MemoryError()
    daemon.turn.end(0.0)
    sock.refuses = None
    daemon.turn.end(1.0)
    assert sock.got == [[1], [2]]


def test_a_socket_without_memory_to_send_is_flushed_in_the_next_turn(daemon):
    sock = Sock(daemon)
    daemon.to_flush.add(sock)
    daemon.fails["sock.flush"] = MemoryError()
    daemon.turn.end(0.0)
    assert daemon.to_flush == {sock}
    daemon.fails.clear()
    daemon.turn.end(1.0)
    assert daemon.ran.count("sock.flush") == 2
    assert not daemon.to_flush
    assert not sock.closed


def test_a_connection_whose_stream_cannot_go_on_is_closed(daemon):
    sock = Sock(daemon)
    daemon.to_flush.add(sock)
    daemon.fails["sock.flush"] = OverflowError("no such number")
    daemon.turn.end(0.0)
    assert sock.closed
    assert not daemon.to_flush
