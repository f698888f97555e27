"""The node daemon's socket under garbage, torn, oversized and unproven input: that connection ends, nothing
else happens.

One daemon takes all of it, and each test ends by asking it a question over another connection, and for a
lease.
"""

import os
import random
import socket
import struct

import pytest

from nodeclient import CPU1, Client, Daemon, tell, until
from shoal.ids import new_process_id, node_tag
from shoal.wire import auth
from shoal.wire import messages as m
from shoal.wire.frames import encode_batch, frame

FRAME_MAX = 1024 * 1024
ROUNDS = 60


@pytest.fixture(scope="module")
def shared(module_leaves_nothing):
    config = {"frame_bytes_max": FRAME_MAX, "handshake_ms_max": 1500, "handshakes_max": 16, "shapes_max": 20}
    with Daemon(config=config) as running:
        until(lambda: len(running.descendants()) == 3, "the workers")
        yield running


@pytest.fixture
def no_leaks(module_leaves_nothing):
    """The module's check covers the daemon that its tests share."""


@pytest.fixture
def daemon(shared):
    """The shared daemon, which must be as good as new afterwards."""
    pid = shared.process.pid
    yield shared
    assert shared.process.poll() is None
    client = shared.client()
    ((_, peer),) = client.lease()
    assert tell(peer, "hello") == "done"
    assert client.request("status")["pid"] == pid
    assert "fault" not in shared.log
    client.send([m.GOODBYE])
    client.receive(m.GOODBYE_OK)
    while shared.clients:
        shared.clients.pop().close()


def connect(daemon):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(daemon.ready["socket"])
    return sock


def is_closed(sock):
    """Read until the daemon closes; True when it does."""
    try:
        while sock.recv(65536):
            pass
    except (ConnectionResetError, BrokenPipeError):
        return True
    return True


def send(sock, data):
    try:
        sock.sendall(data)
    except (ConnectionResetError, BrokenPipeError):
        pass  # closed before it had read everything, which is its right


def greeted(daemon):
    """A connection whose handshake is done."""
    client = Client(daemon.ready["socket"], daemon.secret, daemon.ready["node_id"], hello=False)
    return client.sock


def test_garbage_instead_of_a_handshake(daemon):
    source = random.Random(1)
    for _ in range(ROUNDS):
        with connect(daemon) as sock:
            send(sock, source.randbytes(source.choice([auth.PREAMBLE_SIZE, 200, 5000])))
            assert is_closed(sock)


def test_torn_handshakes_end_in_time(daemon):
    preamble = auth.make_preamble(auth.KIND_CLIENT)
    socks = []
    for size in range(0, len(preamble), 7):
        sock = connect(daemon)
        sock.sendall(preamble[:size])
        socks.append(sock)
    for sock in socks:
        assert is_closed(sock), "the time limit"
        sock.close()


def test_many_unfinished_handshakes_keep_nobody_out(daemon):
    socks = [connect(daemon) for _ in range(200)]
    assert daemon.client("cli", hello=False).request("status")
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("proof", [bytes(auth.PROOF_SIZE), b"\xff" * auth.PROOF_SIZE])
def test_wrong_proof(daemon, proof):
    with connect(daemon) as sock:
        sock.sendall(auth.make_preamble(auth.KIND_CLIENT))
        assert len(sock.recv(auth.CHALLENGE_SIZE, socket.MSG_WAITALL)) == auth.CHALLENGE_SIZE
        send(sock, proof + encode_batch([[m.REQUEST, 1, "stop", {}]]))
        assert is_closed(sock)


def test_proof_of_another_secret(daemon):
    with connect(daemon) as sock:
        preamble = auth.make_preamble(auth.KIND_CONTROL)
        sock.sendall(preamble)
        challenge = sock.recv(auth.CHALLENGE_SIZE, socket.MSG_WAITALL)
        with pytest.raises(auth.HandshakeFailed):
            auth.answer_challenge(bytes(32), preamble, challenge)
        own = auth.make_challenge(bytes(32), preamble)
        send(sock, auth.answer_challenge(bytes(32), preamble, own))
        assert is_closed(sock)
    until(lambda: "wrong secret" in daemon.log, "the log line")


@pytest.mark.parametrize("kind", [auth.KIND_TASKS, auth.KIND_DATA])
def test_kinds_that_do_not_belong_here(daemon, kind):
    with connect(daemon) as sock:
        preamble = auth.make_preamble(kind)
        sock.sendall(preamble)
        challenge = sock.recv(auth.CHALLENGE_SIZE, socket.MSG_WAITALL)
        send(sock, auth.answer_challenge(daemon.secret, preamble, challenge))
        assert is_closed(sock)


def test_oversized_frame_is_refused_at_its_header(daemon):
    for size in (FRAME_MAX + 1, 2**40, 2**63, 2**64 - 1):
        with greeted(daemon) as sock:
            send(sock, struct.pack("<Q", size) + b"x" * 100)
            assert is_closed(sock)


def test_garbage_after_the_handshake(daemon):
    source = random.Random(2)
    for _ in range(ROUNDS):
        with greeted(daemon) as sock:
            send(sock, frame(source.randbytes(source.randrange(1, 300))))
            sock.shutdown(socket.SHUT_WR)
            assert is_closed(sock)


def test_torn_frames_then_the_end(daemon):
    whole = encode_batch(
        [
            [m.HELLO, new_process_id(node_tag(daemon.ready["node_id"])), "driver", 1, {}],
            [m.DEMAND, 1, CPU1, 1, {}],
        ]
    )
    for size in range(1, len(whole), 5):
        with greeted(daemon) as sock:
            sock.sendall(whole[:size])


def _value(source, depth=0):
    kinds = [
        lambda: source.randrange(-(2**63), 2**64),
        lambda: source.randrange(0, 3),
        lambda: source.randbytes(source.choice([0, 8, 16, 17])),
        lambda: "x" * source.randrange(0, 20),
        lambda: None,
        lambda: source.random(),
        lambda: source.random() < 0.5,
    ]
    if depth < 2:
        kinds.append(lambda: [_value(source, depth + 1) for _ in range(source.randrange(0, 4))])
        kinds.append(lambda: {"CPU": _value(source, depth + 1)})
    return source.choice(kinds)()


TAGS = [1, *range(10, 21), *range(30, 35), 40, 41, 42, 0, 99, 130, 250]


@pytest.mark.parametrize("seed", range(8))
def test_messages_of_random_fields_from_a_driver(daemon, seed):
    source = random.Random(seed)
    for _ in range(ROUNDS):
        client = daemon.client()
        for _ in range(5):
            message = [source.choice(TAGS), *(_value(source) for _ in range(source.randrange(0, 7)))]
            send(client.sock, encode_batch([message]))
        client.sock.shutdown(socket.SHUT_WR)
        assert is_closed(client.sock)
        client.close()


def test_hello_of_every_wrong_shape(daemon):
    proc = new_process_id(node_tag(daemon.ready["node_id"]))
    wrong = [
        [m.HELLO],
        [m.HELLO, proc, "driver", 1],
        [m.HELLO, b"short", "driver", 1, {}],
        [m.HELLO, bytes(8), "driver", 1, {}],
        [m.HELLO, bytes(3) + proc[3:], "driver", 1, {}],
        [m.HELLO, proc, "king", 1, {}],
        [m.HELLO, proc, "driver", "1", {}],
        [m.HELLO, proc, "driver", 1, []],
        [m.HELLO, proc, "worker", 1, {}],
        [m.HELLO, proc, "worker", 1, {"worker_id": bytes(16)}],
        [m.DEMAND, 1, CPU1, 1, {}],
        [m.REQUEST, 1, "stop", {}],
    ]
    for message in wrong:
        with greeted(daemon) as sock:
            send(sock, encode_batch([message]))
            assert is_closed(sock), message


def test_process_id_of_another_client_is_refused(daemon):
    first = daemon.client()
    with greeted(daemon) as sock:
        send(sock, encode_batch([[m.HELLO, first.proc, "driver", 1, {}]]))
        assert is_closed(sock)
    assert first.request("status")


def test_more_shapes_than_allowed(daemon):
    client = daemon.client()
    send(client.sock, encode_batch([[m.DEMAND, shape, CPU1, 1, {}] for shape in range(100)]))
    assert client.closed_by_daemon()
    until(lambda: "shapes_max" in daemon.log, "the log line")


def test_descriptors_that_no_message_needs(daemon):
    client = daemon.client()
    read_end, write_end = os.pipe()
    try:
        for _ in range(3):
            client.send([m.DEMAND, 1, CPU1, 0, {}], fds=[read_end] * 8)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it was closed at the bound
    assert client.closed_by_daemon()
    os.close(read_end)
    with pytest.raises(BrokenPipeError):
        until(lambda: not os.write(write_end, b"x"), "the daemon closed its copies")
    os.close(write_end)
