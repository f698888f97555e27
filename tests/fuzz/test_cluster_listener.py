"""A node's TCP port under garbage, unproven input, and messages of another node that make no sense: that connection ends,
nothing else happens.

One daemon takes all of it, and each test ends by leasing a worker from it. The other node is a registration at the head
without a daemon behind it.
"""

import contextlib
import os
import queue
import random
import socket

import pytest

from nodeclient import WAIT_S, Client, Daemon, tell, until
from shoal.config import Config
from shoal.wire import auth
from shoal.wire import messages as m
from shoal.wire.frames import FrameDecoder, decode_batch, encode_batch
from shoald.head.link import HeadLink
from shoald.shell.identity import Identity

ROUNDS = 15
OTHER = os.urandom(16).hex()
LEASES = (m.P_PING, m.P_PONG, *range(m.P_DEMAND, m.P_TAKEN + 1), m.P_QUERY, m.P_ANSWER)


@pytest.fixture(scope="module")
def shared(module_leaves_nothing):
    config = {"goodbye_ms_max": 50, "handshake_ms_max": 1500, "frame_bytes_max": 1024 * 1024}
    with Daemon("--head", config=config) as running:
        running.data_address = _own_row(running)["address"]
        node = {"node_id": OTHER, "incarnation": "1", "resources": {}}
        heard = queue.Queue()
        link = HeadLink(
            running.ready["address"], Identity(running.secret, "off", ""), node, heard.put, Config()
        )
        link.start()
        link.wait_registered(WAIT_S)
        yield running
        link.stop()
        heard.queue.clear()


def _own_row(daemon):
    client = daemon.client("cli", hello=False)
    rows = client.request("nodes")["rows"]
    return next(row for row in rows if row["node_id"] == daemon.ready["node_id"])


@pytest.fixture
def no_leaks(module_leaves_nothing):
    """The module's check covers the daemon that its tests share."""


@pytest.fixture
def daemon(shared):
    yield shared
    assert shared.process.poll() is None
    client = shared.client()
    ((_, peer),) = client.lease()
    assert tell(peer, "hello") == "done"
    assert "fault" not in shared.log
    client.send([m.GOODBYE])
    client.receive(m.GOODBYE_OK)
    while shared.clients:
        shared.clients.pop().close()


def connect(daemon):
    host, _, port = daemon.data_address.rpartition(":")
    sock = socket.create_connection((host, int(port)), WAIT_S)
    # As nodes do; else each second piece waits 40 ms for an acknowledgement.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    return sock


def is_closed(sock):
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while sock.recv(65536):
            pass
    return True


def greeted(daemon, kind=auth.KIND_PEER, target=bytes(16)):
    """A connection whose handshake is done."""
    sock = connect(daemon)
    preamble = auth.make_preamble(kind, target)
    sock.sendall(preamble)
    challenge = b""
    while len(challenge) < auth.CHALLENGE_SIZE:
        challenge += sock.recv(auth.CHALLENGE_SIZE - len(challenge))
    sock.sendall(auth.answer_challenge(daemon.secret, preamble, challenge))
    return sock


class Peer:
    """The other node's connection to the daemon, for messages of its stream."""

    number = 0  # of the stream, over all connections

    def __init__(self, daemon):
        self.sock = greeted(daemon)
        self.sock.sendall(encode_batch([[m.P_HELLO, OTHER, "1", daemon.ready["node_id"]]]))
        body = None
        decoder = FrameDecoder(2**20)
        while not body:
            body = decoder.feed(self.sock.recv(65536))
        tag, Peer.number = decode_batch(body[0])[0]
        assert tag == m.P_READY

    def say(self, *messages):
        self.sock.sendall(encode_batch([[m.P_STREAM, Peer.number + 1, list(messages)]]))


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, auth.make_preamble(99), b"SHOAL"],
    ids=["http", "zeros", "unknown kind", "cut short"],
)
def test_no_handshake(daemon, data):
    with connect(daemon) as sock:
        sock.sendall(data)
        assert is_closed(sock)


def test_without_the_secret_nothing_is_heard(daemon):
    with connect(daemon) as sock:
        preamble = auth.make_preamble(auth.KIND_PEER)
        sock.sendall(preamble)
        sock.sendall(
            bytes(auth.PROOF_SIZE) + encode_batch([[m.P_HELLO, OTHER, "1", daemon.ready["node_id"]]])
        )
        assert is_closed(sock)
    until(
        lambda: "wrong secret" in daemon.log, "the refusal in the log"
    )  # written after the connection was closed


@pytest.mark.parametrize("kind", [auth.KIND_CLIENT, auth.KIND_CONTROL])
def test_clients_are_not_heard_on_this_port(daemon, kind):
    with greeted(daemon, kind) as sock:
        assert is_closed(sock)


def test_a_token_that_nobody_was_given(daemon):
    with greeted(daemon, auth.KIND_TASKS, os.urandom(16)) as sock:
        assert is_closed(sock)


@pytest.mark.parametrize(
    "batch",
    [
        [[m.P_STREAM, 1, [[m.P_PING, 1]]]],
        [[m.P_HELLO, OTHER, 1, 2]],
        [[m.P_HELLO]],
        [[m.P_HELLO, OTHER, "1", "another node"]],
        [[m.P_HELLO, OTHER, "an older life", None]],
        [[m.P_HELLO, OTHER, "1", "x"], [m.P_STREAM, 1, []]],
    ],
)
def test_hellos_that_make_no_sense(daemon, batch):
    with greeted(daemon) as sock:
        sock.sendall(encode_batch(batch))
        assert is_closed(sock)


def test_streams_that_make_no_sense(daemon):
    for frame in (
        [m.P_STREAM, 10**6, [[m.P_PING, 1]]],
        [m.P_STREAM],
        [m.P_PING, 1],
        [m.P_STREAM, 1, [7]],
        [1],
    ):
        peer = Peer(daemon)
        with peer.sock as sock:
            sock.sendall(encode_batch([frame]))
            assert is_closed(sock)


def junk(rng, depth=0):
    kinds = [
        lambda: rng.randrange(-3, 1000),
        lambda: rng.randbytes(rng.choice([0, 1, 8, 16])),
        lambda: rng.choice(["", "driver", "worker", "x", "ok", OTHER]),
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.random(),
        dict,
        lambda: {"id": rng.choice(["job", 1, ""]), "node": rng.choice([OTHER, "n", 2])},
        lambda: {"CPU": rng.choice([10_000, -1, "1", 2**70 if depth else 5])},
        lambda: [rng.choice([m.RETURN, m.KILL_WORKER, m.RECALL_LEASE, m.WORKER_DIED, m.DEMAND_STATUS, 7])],
    ]
    if depth < 2:
        kinds.append(lambda: [junk(rng, depth + 1) for _ in range(rng.randrange(8))])
    return rng.choice(kinds)()


@pytest.mark.parametrize("tag", LEASES)
def test_messages_of_nodes_that_make_no_sense(daemon, tag):
    rng = random.Random(tag)
    for _ in range(ROUNDS):
        peer = Peer(daemon)
        with peer.sock, contextlib.suppress(ConnectionResetError, BrokenPipeError, OverflowError):
            for _ in range(5):
                peer.say([tag, *(junk(rng) for _ in range(rng.randrange(9)))])
                Peer.number += 1


def test_a_message_after_bad_ones_is_handled(daemon):
    peer = Peer(daemon)
    with peer.sock as sock:
        peer.say([m.P_DEMAND, 1])
        assert is_closed(sock)
    before = Peer.number
    peer = Peer(daemon)
    assert Peer.number == before + 1, "it is not asked for again"
    with peer.sock as sock:
        demand = [b"d" * 8, "driver", {"id": "j", "node": OTHER}, 1, {"CPU": 10_000}, 1, {}]
        peer.say([m.P_DEMAND, *demand])
        client = daemon.client("cli", hello=False)
        until(lambda: any(row["job"] == "j" for row in client.request("workers")["rows"]), "the lease")
        Peer.number += 1
        peer.say([m.P_CLIENT_LEFT, b"d" * 8], [m.P_JOB_ENDED, "j"])
        until(lambda: not any(row["job"] == "j" for row in client.request("workers")["rows"]), "its end")
    assert isinstance(client, Client)
