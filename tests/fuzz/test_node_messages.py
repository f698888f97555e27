"""The node daemon under messages that are almost right: of every kind, with one field of another type, size or value.

Each is answered, refused by closing that connection, or has no effect; the daemon goes on, and logs no fault of its own.
"""

import math
from itertools import islice

import pytest

from nodeclient import CPU1, Daemon, tell, until
from shoal.wire import messages as m
from shoal.wire.frames import encode_batch

LEASED = 8192  # of what a closed connection had leased, nothing comes back before this process ends
DEEP = [[]]
for _ in range(200):
    DEEP = [DEEP]
VALUES = [
    None, True, 0, -1, 2**31, 2**63, 2**64 - 1, 1.5, math.nan, math.inf, "", "x", "x" * 100_000, "\ud800", b"", bytes(7),
    bytes(8), b"\xff" * 16, bytes(17), bytes(160_000), [], [None], [1, "x", b"y"], {}, {"CPU": "x"}, {"CPU": -1}, {"x": 2**63},
    {1: 2}, {b"x": None}, DEEP,
]  # fmt: skip
ACTOR = {
    "name": "", "namespace": "", "class": "A", "resources": {}, "placement": CPU1, "max_restarts": 0, "detached": False,
    "get_if_exists": False, "table": b"t",
}  # fmt: skip
STRATEGIES = [
    "SPREAD", ["affinity", "00" * 16, True], ["labels", {"zone": ["in", ["a"]]}, {}], ["group", bytes(16), 0, True],
]  # fmt: skip
GROUP = {"name": "", "namespace": "", "strategy": "PACK", "bundles": [dict(CPU1)], "detached": False}
METHODS = [
    "status", "nodes", "memory", "workers", "jobs", "tasks", "objects", "why", "actors", "cluster_resources",
    "available_resources", "logs_dir", "ping", "named_actor", "named_actors", "group", "groups", "node", "why here", "figures",
    "no such method",
]  # fmt: skip


def templates(proc, object_id, offset):
    """Messages as a client sends them; ``offset`` is of memory that was leased to it."""
    return [
        [m.HELLO, proc, "driver", 1, {}],
        [m.ALLOC, 5, 64, 2**20],
        [m.ALLOC, 6, 64, 2**20, m.ALLOC_KEEPS | m.ALLOC_OR_FILE],
        [m.EXTENT_RETURN, offset, 64],
        [
            m.SEAL,
            object_id,
            offset,
            64,
            object_id,
            m.SEAL_PINNED | m.SEAL_PRIMARY,
            proc,
            "here.py:1",
            bytes(16),
        ],
        [m.SEAL_RUN, object_id, offset, [64], m.SEAL_PRIMARY, proc, ["here.py:1"]],
        [m.HOLD, proc, object_id],
        [m.RELEASE, object_id],
        [m.PIN, 6, object_id, proc, 1, 0],
        [m.UNPIN, object_id],
        [m.WATCH, object_id, proc, 1],
        [m.EXPECT, object_id],
        [m.DEDUP, 7, bytes(16), 64],
        [m.FORK],
        [m.DEMAND, 1, CPU1, 1, {"name": "f", "depth": 0, "strategy": "DEFAULT"}],
        *([m.DEMAND, 1, CPU1, 1, {"name": "f", "strategy": strategy}] for strategy in STRATEGIES),
        [m.DEMAND, 1, CPU1, 1, {"name": "f", "labels": {"zone": ["in", ["a"]]}, "prefer": [bytes(3), 2**20]}],
        [m.RETURN, 1, m.RETURN_OK],
        [m.BLOCKED, True],
        [m.KILL_WORKER, 1, "reason", object_id],
        [m.WORKER_NOTE, {"task": "f", "since": 1.0}],
        *([m.REQUEST, 9, method, {"id": "00", "name": "x"}] for method in METHODS),
        [m.ANSWER, 1, {"rows": []}],
        [m.CANCEL_TASK, object_id, False, True],
        [m.CREATE_ACTOR, 10, object_id, dict(ACTOR)],
        [m.CONNECT_ACTOR, object_id, 0],
        [m.DISCONNECT_ACTOR, object_id],
        [m.KILL_ACTOR, 3, object_id, True],
        [m.ACTOR_READY, object_id],
        [m.ACTOR_FAILED, object_id, b"error"],
        [m.ACTOR_EXITS, object_id, "reason"],
        [m.UNRECOVERABLE, object_id, "why"],
        [m.UNRECOVERABLE, object_id * 2, "full", "why"],
        [m.PIN_TOGETHER, [object_id, proc, 1], 0],
        [m.ALLOC_FILE, 12, 64],
        [m.FILE_RETURN, 1],
        [m.UNEXPECT, object_id],
        [m.RELEASE, object_id, 1],
        [m.FILE_STALLED, 1, 500],
        [m.FILE_DAMAGED, object_id, "/spill/1", "its checksum"],
        [m.SEAL_IN_FILE, 1, 5, object_id, 64, object_id, m.SEAL_PRIMARY, proc, "here.py:1", b""],
        [m.CREATE_GROUP, 11, object_id, dict(GROUP)],
        [m.REMOVE_GROUP, object_id],
        [m.WATCH_GROUP, object_id],
        [m.COUNTED, {"submitted": 1, "finished": 1, "failed": 0, "retried": 0}],
        [m.GOODBYE],
    ]


def almost(message):
    """``message`` with one thing changed, in every way: a field, or what is inside of one."""
    yield message[:-1] if len(message) > 1 else [*message, None]
    yield [*message, None]
    for index in range(1, len(message)):
        for value in changed(message[index]):
            yield [*message[:index], value, *message[index + 1 :]]


def changed(field):
    yield from VALUES
    if isinstance(field, dict):
        for key, inner in field.items():
            yield {each: value for each, value in field.items() if each != key}
            for value in changed(inner):
                yield {**field, key: value}
    elif isinstance(field, list):
        for index, inner in enumerate(field):
            yield field[:index]
            for value in changed(inner):
                yield [*field[:index], value, *field[index + 1 :]]


@pytest.fixture(scope="module")
def shared(module_leaves_nothing):
    with Daemon(config={"shapes_max": 200}) as running:
        until(lambda: len(running.descendants()) == 3, "the workers")
        yield running


@pytest.fixture
def no_leaks(module_leaves_nothing):
    """The module's check covers the daemon that its tests share."""


@pytest.fixture
def daemon(shared):
    """The shared daemon, which must be as good as new afterwards."""
    yield shared
    assert shared.process.poll() is None
    assert "fault" not in shared.log
    assert "Traceback" not in shared.log
    client = shared.client()
    ((_, peer),) = client.lease()
    assert tell(peer, "hello") == "done"
    client.send([m.GOODBYE])
    client.receive(m.GOODBYE_OK)
    while shared.clients:
        shared.clients.pop().close()


def driver(daemon):
    """A driver with leased memory and a stored object, and its templates."""
    client = daemon.client()
    client.send([m.ALLOC, 3, LEASED, LEASED])
    offset = client.receive(m.EXTENT)[2]
    object_id = client.proc + b"\0\0\0\7\0\0\0\0"
    client.send([m.SEAL, object_id, offset + LEASED // 2, 64, b"", m.SEAL_PRIMARY, client.proc, "", b""])
    return client, templates(client.proc, object_id, offset)


def leave(daemon, client):
    """Leave in order, if the daemon has not closed the connection: then all that was leased comes back."""
    try:
        client.send([m.GOODBYE])
        client.receive(m.GOODBYE_OK)
    except (AssertionError, BrokenPipeError, ConnectionResetError):
        pass  # closed, which is the daemon's right
    daemon.clients.remove(client)
    client.close()


KINDS = len(templates(bytes(8), bytes(16), 0))


def ask(daemon, request):
    """As a command line that does not wait for the answer."""
    client = daemon.client("cli", hello=False)
    client.sock.sendall(encode_batch([request]))
    daemon.clients.remove(client)
    client.close()


def test_a_command_line_that_is_almost_right(daemon):
    for method in METHODS:
        params = {"id": "00", "name": "x"}
        # What is wrong with the number or the method is the same whatever the method was to be.
        wrong = [] if method != METHODS[0] else list(almost([m.REQUEST, 9, method, params]))
        for message in wrong or [[m.REQUEST, 9, method, each] for each in changed(params)]:
            ask(daemon, message)


@pytest.mark.parametrize("kind", range(KINDS))
def test_a_driver_that_is_almost_right(daemon, kind):
    position = 0
    while True:
        client, messages = driver(daemon)
        message = next(islice(almost(messages[kind]), position, None), None)
        if message is not None:
            client.sock.sendall(encode_batch([message]))
        leave(daemon, client)
        if message is None:
            break
        position += 1


def test_a_command_line_is_told_of_what_was_almost_right(daemon):
    """Once for each method: what the tests before have left makes some answers long."""
    for method in METHODS:
        ask(daemon, [m.REQUEST, 9, method, {"id": "00", "name": "x"}])
