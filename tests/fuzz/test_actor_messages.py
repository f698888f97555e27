"""An actor under messages of a caller that are almost right: with one field of another type, size or value.

Whatever it makes of one, it answers, or closes that caller's connection and says why. It lives, and nobody else notices:
another caller's calls go on all the time, each run once.
"""

import os
import pickle
import select
import socket
from pathlib import Path

import pytest

import shoal
from almostright import VALUES, almost
from nodeclient import WAIT_S, Client, until
from shoal import session
from shoal.ids import IdSource
from shoal.serialization import dumps_call
from shoal.wire import messages as m
from shoal.wire.frames import FrameDecoder, frame

DETAILS = {
    "returns": 1, "only": None, "stream": False, "depth": 0, "max_calls": 0, "name": None, "stamp": None, "stamps": None,
    "attempt": 0, "careful": False, "backlog": None, "taken": 0, "received": 0,
}  # fmt: skip


class Counter:
    def __init__(self):
        self.count = 0

    def add(self, amount=1):
        self.count += amount
        return self.count

    def pid(self):
        return os.getpid()


class AsyncCounter(Counter):
    async def add(self, amount=1):
        return Counter.add(self, amount)


KINDS = {
    "in order": lambda: shoal.remote(Counter).remote(),
    "threads": lambda: shoal.remote(Counter).options(max_concurrency=2).remote(),
    "event loop": lambda: shoal.remote(AsyncCounter).remote(),
}


class Stranger:
    """A second process, as the daemon sees it, that calls the actor and speaks to it itself."""

    def __init__(self, actor):
        identity = session.runtime().identity
        directory = Path(identity.session_dir)
        secret = bytes.fromhex((directory / "secret").read_text())
        self.client = Client(str(directory / "node.sock"), secret, identity.node_id)
        self.ids = IdSource(self.client.proc)
        self.actor_id = actor._actor_id
        self.peer = None
        self.sessions = 0

    def call(self, **details):
        return [m.TASK, self.ids.next_id(), b"add", dumps_call((0,), {}), (), {**DETAILS, **details}]

    def connect(self):
        self.hang_up()
        self.client.send([m.CONNECT_ACTOR, self.actor_id, 0])
        self.client.receive(m.ACTOR_PEER)
        self.peer = socket.socket(fileno=self.client.fds.pop())
        self.peer.settimeout(WAIT_S)
        self.decoder = FrameDecoder(2**28)

    def begin(self):
        self.connect()
        self.sessions += 1
        self.send((m.JOB, {"caller": self.client.proc, "session": self.sessions}))

    def send(self, *messages):
        self.peer.sendall(frame(pickle.dumps(list(messages), 5)))

    def closes(self, good=None):
        """Read until the actor closes the connection (True), or has answered the call ``good`` (False)."""
        while True:
            try:
                data = self.peer.recv(2**16)
            except ConnectionResetError:
                return True
            if not data:
                return True
            for body in self.decoder.feed(data):
                for message in pickle.loads(body):
                    if good is not None and message[1] == good[1]:
                        assert message[0] == m.DONE
                        return False

    def tries(self, *messages):
        """Say these, then a good call; whether the connection is closed rather than that call answered."""
        if self.peer is None:
            self.begin()
        good = self.call()
        try:
            self.send(*map(tuple, messages))
            self.send(tuple(good))
        except (BrokenPipeError, ConnectionResetError):
            closed = True
        else:
            closed = self.closes(good)
        if closed:
            self.hang_up()
        return closed

    def hang_up(self):
        if self.peer is not None:
            self.peer.close()
            self.peer = None

    def close(self):
        self.hang_up()
        self.client.close()


@pytest.fixture(scope="module", params=sorted(KINDS))
def actor(request, module_leaves_nothing):
    shoal.init(num_cpus=2)
    made = KINDS[request.param]()
    yield made
    del made
    shoal.shutdown()


@pytest.fixture
def no_leaks(module_leaves_nothing):
    """The module's check covers the session that its tests share."""


@pytest.fixture
def stranger(actor):
    """At the end the actor is the process that it was, and has run the other caller's calls once each, without a break."""
    pid = shoal.get(actor.pid.remote(), timeout=WAIT_S)
    before = shoal.get(actor.add.remote(), timeout=WAIT_S)
    calls = session.runtime().actors.calls[actor._actor_id]
    lease = calls.lease
    made = Stranger(actor)
    made.others = lambda: shoal.get([actor.add.remote() for _ in range(3)], timeout=WAIT_S)
    made.others_called = 0
    yield made
    assert not made.tries(made.call())
    assert shoal.get(actor.pid.remote(), timeout=WAIT_S) == pid
    assert shoal.get(actor.add.remote(), timeout=WAIT_S) == before + 1 + 3 * made.others_called
    assert calls.lease is lease
    assert not lease.broken
    made.close()


def try_all(stranger, messages):
    """How many of these ended the connection; every now and then, what others are answered."""
    closed = 0
    for number, message in enumerate(messages):
        closed += stranger.tries(message)
        if number % 10 == 0:
            stranger.others()
            stranger.others_called += 1
    return closed


def test_good_calls_are_answered(stranger):
    assert try_all(stranger, [stranger.call() for _ in range(3)]) == 0
    plain = stranger.call()
    plain[5] = None
    assert not stranger.tries(plain)


def test_calls(stranger):
    messages = []
    for field in range(1, 6):
        for value in VALUES:
            message = stranger.call()
            message[field] = value
            messages.append(message)
    messages += [[m.TASK], [m.TASK, b"x"], [*stranger.call(), None]]
    assert try_all(stranger, messages) > 50


def test_options_of_calls(stranger):
    messages = []
    for key in DETAILS:
        messages += [stranger.call(**{key: value}) for value in VALUES]
        without = stranger.call()
        del without[5][key]
        messages.append(without)
    assert try_all(stranger, messages) > 100


def test_what_only_the_call_is_to_blame_for_is_answered(stranger):
    for field, value in (
        (2, b"no_such_method"),
        (2, b"\xff\xfe"),
        (3, b"garbage"),
        (3, b""),
        (4, (None, 5)),
        (4, (1,)),
    ):
        message = stranger.call()
        message[field] = value
        assert not stranger.tries(message), (field, value)


def test_other_messages(stranger):
    call_id = stranger.ids.next_id()
    messages = [
        [m.CANCEL, call_id, False, True],
        [m.CONSUMED, call_id, 1],
        [m.HEARD, 0],
        [m.LEAVE],
        [0],
        [250, 1],
    ]
    assert try_all(stranger, [wrong for message in messages for wrong in almost(message)]) > 10


def test_batches_that_are_none(stranger):
    for data in [*(pickle.dumps(value, 5) for value in VALUES), b"", b"garbage", b"\x80\x05", b"(" * 1000]:
        stranger.begin()
        stranger.peer.sendall(frame(data))
        good = stranger.call()
        try:
            stranger.send(tuple(good))
        except (BrokenPipeError, ConnectionResetError):
            continue
        stranger.closes(good)
    stranger.hang_up()


def test_openings(stranger):
    job = {"caller": stranger.client.proc, "session": 2**40}
    messages = [
        *(["first", value] for value in VALUES), stranger.call(), [m.JOB], [m.JOB, {}], *([m.JOB, value] for value in VALUES),
        *([m.JOB, {**job, "session": value}] for value in VALUES if type(value) is not int),
        *([m.RESUME, value, 0] for value in VALUES if type(value) is not int),
        *([m.RESUME, 2**41, value] for value in VALUES if type(value) is not int), [m.RESUME], [m.RESUME, 1],
    ]  # fmt: skip
    for message in messages:
        stranger.connect()
        stranger.send(tuple(message))
        assert stranger.closes(), message
    stranger.hang_up()


def test_a_session_is_resumed_after_nonsense_about_it(stranger):
    stranger.begin()
    stranger.send(tuple(good := stranger.call()))
    assert not stranger.closes(good)
    before, stranger.peer = stranger.peer, None
    stranger.connect()
    stranger.send((m.RESUME, stranger.sessions, 1000))  # it cannot have heard that much
    assert stranger.closes()
    assert not select.select([before], [], [], 0)[0]  # the connection that works is left alone
    stranger.peer.close()
    stranger.peer = before
    stranger.send(tuple(good := stranger.call()))
    assert not stranger.closes(good)


def test_the_log_says_why_a_connection_is_closed(stranger):
    def log():
        logs = Path(session.runtime().identity.session_dir, "logs")
        return "".join(path.read_text(errors="replace") for path in logs.iterdir())

    message = stranger.call()
    message[1] = b"short"
    assert stranger.tries(message)
    stranger.begin()
    stranger.peer.sendall(frame(b"garbage"))
    assert stranger.closes()
    stranger.hang_up()
    for why in ("a call whose id has 5 bytes", "a frame that is no pickle: "):
        until(lambda why=why: f"closing a connection: {why}" in log())
