"""Connections with TLS in the daemon: as sockets, and what a listener that wants it says to everybody else."""

import os
import random
import select
import socket
import threading
import time

import pytest

from shoal.config import Config
from shoal.wire import auth
from shoald.shell.identity import Identity
from shoald.shell.listener import TcpListener
from shoald.shell.loop import Loop
from shoald.shell.tcp import Dial

SECRET = b"s" * 32
WAIT_S = 60.0


@pytest.fixture
def identity(tmp_path):
    return Identity(SECRET, "on", str(tmp_path))


@pytest.fixture
def pair(identity):
    """(client, server) whose handshake is done."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        raw = socket.create_connection(listener.getsockname()), listener.accept()[0]
    for sock in raw:
        sock.setblocking(False)
    both = identity.wrap(raw[0], server_side=False), identity.wrap(raw[1], server_side=True)
    done = [False, False]
    while not all(done):
        done = [sock.greet() for sock in both]
    yield both
    for sock in both:
        sock.close()


def test_what_would_block_says_so(pair):
    client, server = pair
    with pytest.raises(BlockingIOError):
        server.recv(1000)
    with pytest.raises(BlockingIOError):
        while True:
            client.send(bytes(100_000))
    started = time.monotonic()
    client.set_patience(0.05, 0.05)
    with pytest.raises(BlockingIOError):
        client.recv_into(bytearray(10))
    with pytest.raises(BlockingIOError):
        while True:
            client.sendmsg([bytes(100_000)])
    assert time.monotonic() - started >= 0.1


def test_scattered_and_gathered_bytes_arrive_in_order(pair):
    client, server = pair
    client.set_patience(WAIT_S, WAIT_S)
    server.set_patience(WAIT_S, WAIT_S)
    data = os.urandom(3_000_000)

    def send():
        left = memoryview(data)
        while left:
            left = left[client.sendmsg([left[:700_000], left[700_000:]]) :]

    sender = threading.Thread(target=send)
    sender.start()
    received = bytearray(len(data))
    left = memoryview(received)
    while left:
        left = left[server.recvmsg_into([left[: len(left) // 2 or 1], left], 0, socket.MSG_WAITALL)[0] :]
    sender.join()
    assert received == data


def test_nothing_waits_where_epoll_cannot_see_it(pair):
    """The callers' smallest read takes a whole record."""
    client, server = pair
    client.send(b"x" * 16384)
    server.set_patience(WAIT_S, WAIT_S)
    assert server.recv(64 * 1024) == b"x" * 16384
    assert server.pending() == 0


def test_a_thread_that_waits_is_woken_by_another_ones_shutdown(pair):
    client, server = pair
    server.set_patience(0, 0)
    found = []

    def read():
        try:
            found.append(server.recv(10))
        except BrokenPipeError:  # newer versions of OpenSSL first want to send something
            found.append(b"")

    reader = threading.Thread(target=read)
    reader.start()
    server.shutdown(socket.SHUT_RDWR)
    reader.join(WAIT_S)
    assert found == [b""]
    client.set_patience(WAIT_S, WAIT_S)
    assert client.recv(10) == b""


class Bench:
    """A listener with TLS, and what came of its connections."""

    def __init__(self, identity, **settings):
        self.faults, self.taken, self.lines = [], [], []
        self.loop = Loop(lambda text, error: self.faults.append(error))
        self.loop.on_turn_end = lambda now: now + 0.01
        self.config = Config(**settings)
        arguments = (self.loop, "127.0.0.1", SECRET, self.config)
        self.listener = TcpListener(*arguments, lambda *taken: self.taken.append(taken), self.lines.append)
        if identity is not None:
            self.listener.encrypts = identity
        self.address = f"127.0.0.1:{self.listener.port}"

    def until(self, condition):
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, (self.taken, self.lines, self.faults)
            self.loop.turn()

    def prove(self, sock, preamble):
        """The handshake in clear."""
        sock.sendall(preamble)
        self.until(lambda: _waiting(sock) >= auth.CHALLENGE_SIZE)
        sock.sendall(auth.answer_challenge(SECRET, preamble, sock.recv(auth.CHALLENGE_SIZE)))

    def close(self):
        for taken in self.taken:
            taken[2].close()
        self.listener.close()
        self.loop.close()
        assert not self.faults


def _waiting(sock):
    return len(sock.recv(1000, socket.MSG_PEEK)) if select.select([sock], [], [], 0)[0] else 0


@pytest.fixture
def bench(identity):
    made = []

    def make(with_tls=identity, **settings):
        made.append(Bench(with_tls, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_garbage_after_the_proof_is_refused(bench):
    it = bench()
    with socket.create_connection(("127.0.0.1", it.listener.port), WAIT_S) as sock:
        it.prove(sock, auth.make_preamble(auth.KIND_PEER, tls=True))
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
        it.until(lambda: it.lines)
    assert "no TLS" in it.lines[0]
    assert not it.taken


def test_no_bytes_after_the_proof_disturb_the_next_one(bench, identity):
    it = bench()
    dice = random.Random(7)
    for number in range(60):
        kind = dice.choice((auth.KIND_PEER, auth.KIND_DATA))
        garbage = dice.randbytes(dice.randint(1, 3000))
        if number % 2:  # what looks like a first record of TLS
            size = len(garbage).to_bytes(2, "big")
            garbage = b"\x16\x03\x01" + size + garbage
        with socket.create_connection(("127.0.0.1", it.listener.port), WAIT_S) as sock:
            it.prove(sock, auth.make_preamble(kind, tls=True))
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            it.until(lambda: len(it.lines) > number)  # noqa: B023 - called in this round
    assert all("no TLS" in line for line in it.lines)
    assert not it.taken
    _, opened, _ = dialed(it, identity)
    it.until(lambda: opened and it.taken)
    opened[0].close()


def test_who_goes_on_in_clear_is_refused_before_anything_is_proven_to_it(bench):
    it = bench()
    with socket.create_connection(("127.0.0.1", it.listener.port), WAIT_S) as sock:
        sock.sendall(auth.make_preamble(auth.KIND_PEER))
        it.until(lambda: it.lines)
        assert sock.recv(100) == b""
    assert "wants no TLS, which is on here" in it.lines[0]


def test_tls_cannot_be_talked_out_of_a_connection(bench):
    """Somebody on the way who clears the mark does not get past the proof."""
    it = bench(None)
    wanted = auth.make_preamble(auth.KIND_PEER, tls=True)
    with socket.create_connection(("127.0.0.1", it.listener.port), WAIT_S) as sock:
        sock.sendall(wanted[:9] + b"\0" + wanted[10:])
        it.until(lambda: _waiting(sock) >= auth.CHALLENGE_SIZE)
        with pytest.raises(auth.HandshakeFailed):
            auth.answer_challenge(SECRET, wanted, sock.recv(auth.CHALLENGE_SIZE))
        sock.sendall(wanted)
        it.until(lambda: it.lines)


def test_one_who_is_silent_after_the_proof_is_closed(bench):
    it = bench(handshake_ms_max=50.0)
    with socket.create_connection(("127.0.0.1", it.listener.port), WAIT_S) as sock:
        it.prove(sock, auth.make_preamble(auth.KIND_DATA, tls=True))
        it.until(lambda: it.lines)
        assert sock.recv(100) == b""
    assert "took too long" in it.lines[0]


def dialed(it, identity, kind=auth.KIND_PEER):
    opened, failed = [], []
    target = bytes(auth.TARGET_SIZE)
    dial = Dial(it.loop, it.address, identity, kind, target, it.config, opened.append, failed.append)
    return dial, opened, failed


def test_a_dial_and_a_listener_shake_hands(bench, identity):
    it = bench()
    dial, opened, failed = dialed(it, identity)
    it.until(lambda: opened and it.taken)
    assert dial.tls
    assert not failed
    opened[0].send(b"hello")
    it.until(lambda: _waiting_tls(it.taken[0][2]))
    opened[0].close()


def _waiting_tls(sock):
    try:
        return sock.recv(100) == b"hello"
    except BlockingIOError:
        return False


def test_a_connection_for_tasks_is_handed_over_as_it_is(bench, identity):
    it = bench()
    _, opened, _ = dialed(it, identity, auth.KIND_TASKS)
    it.until(lambda: opened and it.taken)
    assert type(opened[0]) is type(it.taken[0][2]) is socket.socket
    opened[0].close()


def test_a_peer_with_another_authority_is_refused_though_it_knows_the_secret(bench, tmp_path):
    it = bench()
    (tmp_path / "other").mkdir()
    other = Identity(b"o" * 32, "on", str(tmp_path / "other"))
    other.certificates()
    other.secret = SECRET
    _, opened, failed = dialed(it, other)
    it.until(lambda: failed and it.lines)
    assert "certificate verify failed" in failed[0]
    assert not opened
    assert not it.taken


def test_a_listener_without_tls_does_not_hear_who_wants_it(bench, identity):
    it = bench(None)
    _, opened, failed = dialed(it, identity)
    it.until(lambda: failed and it.lines)
    assert "wants TLS, which is off here" in it.lines[0]
    assert not opened
