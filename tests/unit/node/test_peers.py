"""Links between two nodes, over real sockets in one loop: connections break, messages do not."""

import os
import socket
from types import SimpleNamespace

import pytest

from shoal.config import Config
from shoal.ids import node_tag
from shoal.wire import auth
from shoal.wire import messages as m
from shoald.node.cluster import ClusterView
from shoald.node.peers import Peers
from shoald.node.refside import RefSide
from shoald.shell.identity import Identity
from shoald.shell.listener import TcpListener
from shoald.shell.loop import Loop
from shoald.store.core import StoreCore
from shoald.store.errors import ProtocolError

SECRET = bytes(range(32))


class Log:
    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)


class Side:
    """One node: its links and its listener."""

    def __init__(self, loop, config, identity):
        self.node_id = os.urandom(16).hex()
        self.view = ClusterView(self.node_id, 10)
        self.log = Log()
        self.given_up = []
        self.to_flush = set()
        self.peers = Peers(loop, self.view, "1", config, self.log, self.to_flush, self.give_up)
        self.peers.identity = identity
        self.socks = []
        self.loop, self.config, self.identity = loop, config, identity
        self.listen()
        self.heard = []
        self.peers.on(310, lambda node_id, message: self.heard.append(message[1]))

    def listen(self):
        loop, config = self.loop, self.config
        self.listener = TcpListener(loop, "127.0.0.1", SECRET, config, self.connected, self.log.line)
        if self.identity.mode == "on":
            self.listener.encrypts = self.identity

    def connected(self, kind, target, sock, pid):
        assert kind == auth.KIND_PEER
        self.socks.append(sock)
        self.peers.on_connection(sock)

    def give_up(self, node, reason):
        self.given_up.append(reason)
        self.view.bury(node, reason)
        self.peers.died(node)

    def row(self, state="ALIVE"):
        address = f"{self.listener.host}:{self.listener.port}"
        return {"node_id": self.node_id, "incarnation": "1", "address": address, "state": state}

    def meet(self, other, state="ALIVE"):
        for node, change in self.view.update([other.row(state)]):
            self.peers.joined(node) if change == "joined" else self.peers.died(node)


class Pair:
    def __init__(self, identity, **config):
        self.faults = []
        self.loop = Loop(lambda text, error: self.faults.append(error))
        self.loop.on_turn_end = self.turn_end
        values = Config(reconnect_ms_min=1.0, reconnect_ms_max=4.0, peer_ack_ms=1.0, **config)
        self.a, self.b = Side(self.loop, values, identity), Side(self.loop, values, identity)

    def turn_end(self, now):
        for side in (self.a, self.b):
            side.peers.flush()
            while side.to_flush:
                side.to_flush.pop().flush()
        return now + 0.01

    def until(self, condition):
        for _ in range(5000):
            if condition():
                return
            self.loop.turn()
        raise AssertionError((self.a.log.lines, self.b.log.lines, self.faults))

    def close(self):
        for side in (self.a, self.b):
            side.listener.close()
            side.peers.close()
        self.loop.close()


@pytest.fixture(params=["off", "on"], ids=["clear", "tls"])
def make(request, tmp_path):
    pairs = []

    def made(**config):
        pairs.append(Pair(Identity(SECRET, request.param, str(tmp_path)), **config))
        return pairs[-1]

    yield made
    for pair in pairs:
        pair.close()


def test_messages_survive_connections(make):
    pair = make()
    a, b = pair.a, pair.b
    a.meet(b)
    b.meet(a)
    for number in range(200):
        a.peers.send(b.node_id, [310, number])
        b.peers.send(a.node_id, [310, number])
        pair.loop.turn()
        if number % 10 == 0:
            for side in (a, b):
                while side.socks:
                    sock = side.socks.pop()
                    if sock.fileno() >= 0:
                        sock.shutdown(2)
    pair.until(lambda: len(a.heard) >= 200 and len(b.heard) >= 200)
    pair.until(lambda: not a.peers.waiting_bytes(b.node_id) and not b.peers.waiting_bytes(a.node_id))
    assert a.heard == b.heard == list(range(200))
    assert not pair.faults


def test_no_message_overtakes_what_was_handed_over_before_it(make):
    pair = make()
    a, b = pair.a, pair.b
    a.meet(b)
    b.meet(a)
    store = StoreCore(1 << 20, Config(), bytes.fromhex(a.node_id))
    giver = node_tag(a.node_id) + b"giver"
    store.register(giver, {"pid": 1, "kind": "worker"})
    refs = RefSide(SimpleNamespace(store=store, peers=a.peers, on_node_dead=[]))
    refs.joined(SimpleNamespace(node_id=b.node_id))
    b.peers.on(m.P_HOLD, lambda node_id, message: b.heard.append(message[3]))
    store.handle(giver, [m.HOLD, node_tag(b.node_id) + b"taker", b"x" * 16], 0.0)
    a.peers.send(b.node_id, [310, "the giver died"])
    pair.until(lambda: len(b.heard) == 2)
    assert b.heard == [b"x" * 16, "the giver died"]
    assert not pair.faults


def test_a_node_that_is_not_known_yet_is_heard_later(make):
    pair = make()
    pair.a.meet(pair.b)
    pair.a.peers.send(pair.b.node_id, [310, 1])
    pair.until(lambda: pair.b.socks)
    for _ in range(5):
        pair.loop.turn()
    assert pair.b.heard == []
    pair.b.meet(pair.a)
    pair.until(lambda: pair.b.heard == [1])


def test_nothing_is_sent_to_the_unknown_and_the_dead(make):
    pair = make()
    pair.a.peers.send(pair.b.node_id, [310, 1])
    pair.a.meet(pair.b)
    pair.a.meet(pair.b, "DEAD")
    pair.a.peers.send(pair.b.node_id, [310, 1])
    assert not pair.a.peers.dirty
    assert pair.a.peers.waiting_bytes(pair.b.node_id) == 0


def test_who_is_dead_to_a_node_is_told_so(make):
    pair = make()
    a, b = pair.a, pair.b
    a.meet(b)
    b.meet(a)
    b.meet(a, "DEAD")
    a.peers.send(b.node_id, [310, 1])
    pair.until(lambda: a.given_up)
    assert b.node_id not in a.view.live
    assert b.heard == []


def test_a_message_that_makes_no_sense_costs_itself_only(make):
    pair = make()
    a, b = pair.a, pair.b

    def refuses(node_id, message):
        raise ProtocolError("no sense in it")

    b.peers.on(311, refuses)
    a.meet(b)
    b.meet(a)
    for message in ([310, 1], [311], [399], [310, 2]):
        a.peers.send(b.node_id, message)
    pair.until(lambda: b.heard == [1, 2])
    assert any("no sense in it" in line for line in b.log.lines)
    assert any("message 399" in line for line in b.log.lines)


def test_who_takes_nothing_is_given_up(make):
    pair = make(peer_window_bytes_max=1000, peer_backlog_bytes_max=5000)
    a, b = pair.a, pair.b
    a.meet(b)  # and b never hears of a
    for _ in range(10):
        a.peers.send(b.node_id, [310, b"x" * 1000])
    pair.until(lambda: a.given_up)
    assert "peer_backlog_bytes_max" in a.given_up[0]


def test_who_cannot_be_reached_is_told_once_it_is_tried_and_again_when_it_is_reached(make):
    pair = make()
    a, b = pair.a, pair.b
    a.meet(b)
    b.meet(a)
    told = []
    a.peers.on_broken = lambda node_id: told.append((node_id, "broken"))
    a.peers.on_reach = lambda node_id, reached: told.append((node_id, reached))
    a.peers.send(b.node_id, [310, 1])
    pair.until(lambda: b.heard == [1] and not a.peers.waiting_bytes(b.node_id))
    assert told == []
    b.listener.close()
    for sock in b.socks:
        if sock.fileno() >= 0:
            sock.shutdown(2)
    pair.until(lambda: told == [(b.node_id, "broken")])
    a.peers.send(b.node_id, [310, 2])  # nothing tries to reach it before something is to be said
    pair.until(lambda: (b.node_id, False) in told)
    assert (b.node_id, True) not in told
    b.listen()
    a.view.live[b.node_id].address = b.row()["address"]
    pair.until(lambda: b.heard == [1, 2])
    assert told[-1] == (b.node_id, True)
    assert told.count((b.node_id, True)) == 1


def test_a_node_joins_whoever_else_has_not_said_yet_who_it_is(make):
    pair = make()
    a, b = pair.a, pair.b
    quiet, silent = socket.socketpair()
    quiet.setblocking(False)
    b.peers.on_connection(quiet)
    a.meet(b)
    a.peers.send(b.node_id, [310, 1])
    pair.until(lambda: b.socks)
    b.meet(a)
    pair.until(lambda: b.heard == [1])
    silent.close()


def test_connections_of_nobody_have_a_bound(make):
    pair = make(connections_max=2)
    ends = []
    for _ in range(3):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.settimeout(10)
        pair.b.peers.on_connection(ours)
        ends.append(theirs)
    assert ends[2].recv(1) == b""
    assert any("connections_max" in line for line in pair.b.log.lines)
    for end in ends:
        end.close()
