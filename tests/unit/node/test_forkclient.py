"""The daemon's side of the fork server: a server that is lost is replaced, also where that is not possible at once."""

import errno
import os
import socket

import msgpack
import pytest

from shoald.node import forkclient
from shoald.node.forkclient import ForkClient
from shoald.shell.loop import Loop
from shoald.worker import forkserver as fs

WORKER = b"w" * 16


class News:
    """What a listener was told."""

    def __init__(self):
        self.forks = []
        self.failed = []
        self.exits = []
        self.lost = []

    def forked(self, worker_id, pid):
        self.forks.append((worker_id, pid))

    def fork_failed(self, worker_id, reason):
        self.failed.append(worker_id)

    def exited(self, worker_id, exit_code, signal_number):
        self.exits.append(worker_id)

    def server_lost(self, reason, final):
        self.lost.append((reason, final))


class Server:
    """The other end of the socket."""

    def __init__(self):
        self.ours, self.theirs = fs._socket_pair()
        self.theirs.settimeout(10)

    def packet(self):
        data, fds, _, _ = socket.recv_fds(self.theirs, fs.PACKET_BYTES_MAX, fs.DESCRIPTORS_MAX)
        for fd in fds:
            os.close(fd)
        return msgpack.unpackb(data), len(fds)

    def say(self, *message):
        self.theirs.send(msgpack.packb(message))


class Bench:
    def __init__(self, monkeypatch):
        monkeypatch.setattr(forkclient, "_RESTART_PAUSE_S", 0.001)
        monkeypatch.setattr(fs, "start_fresh", self.start_fresh)
        monkeypatch.setattr(fs, "end_children", lambda limit_s: None)
        monkeypatch.setattr(forkclient, "_reap", lambda pid, limit_s: None)
        self.faults = []
        self.loop = Loop(lambda where, error: self.faults.append(error))
        self.news = News()
        self.servers = [Server()]
        self.refusals = 0
        self.client = ForkClient(self.loop, 0, self.servers[0].ours, self.news)
        self.fd = os.open(os.devnull, os.O_RDONLY)
        self.client.setup({}, [self.fd])
        assert self.servers[0].packet() == ([fs.SETUP, {}], 1)

    def start_fresh(self):
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.servers.append(Server())
        return 0, self.servers[-1].ours

    def fork(self, worker_id=WORKER):
        self.client.fork(worker_id, 0, os.dup(self.fd), os.dup(self.fd))

    def until(self, condition):
        for _ in range(1000):
            if condition():
                return
            self.loop.call_later(0.001, lambda: None)
            self.loop.turn()
        raise AssertionError((vars(self.news), self.faults))

    def close(self):
        self.client.close()
        for server in self.servers:
            server.theirs.close()
        os.close(self.fd)
        self.loop.close()
        assert not self.faults


@pytest.fixture
def bench(monkeypatch):
    before = len(os.listdir("/proc/self/fd"))
    made = Bench(monkeypatch)
    yield made
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_server_that_cannot_be_replaced_at_once_is_replaced_later(bench):
    bench.fork()
    assert bench.servers[0].packet() == ([fs.FORK, WORKER, 0, ""], 2)
    bench.servers[0].say(fs.FORKED, WORKER, 4711)
    bench.until(lambda: bench.news.forks)
    bench.refusals = 3
    bench.servers[0].theirs.close()
    bench.until(lambda: bench.news.exits)
    bench.fork(b"v" * 16)  # while there is none
    bench.until(lambda: len(bench.servers) == 2)
    assert bench.servers[1].packet() == ([fs.SETUP, {}], 1)
    assert bench.servers[1].packet() == ([fs.FORK, b"v" * 16, 0, ""], 2)
    assert [final for _, final in bench.news.lost] == [False] * 4
    assert "no fork server can be started" in bench.news.lost[-1][0]


def test_a_server_that_can_never_be_replaced_is_the_end(bench):
    bench.refusals = 100
    bench.servers[0].theirs.close()
    bench.until(lambda: bench.news.lost and bench.news.lost[-1][1])
    assert len(bench.servers) == 1
    bench.fork()  # nobody will see to it; its descriptors go with the client


def test_a_request_that_the_kernel_has_no_memory_for_is_sent_later(bench):
    class Full:
        """A socket that nothing can be sent with."""

        def __init__(self, sock):
            self.sock = sock

        def fileno(self):
            return self.sock.fileno()

        def sendmsg(self, *_):
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    sock = bench.client._sock
    bench.client._sock = full = Full(sock)
    bench.fork()
    full.sendmsg = sock.sendmsg
    full.recv = sock.recv
    full.close = sock.close
    bench.servers[0].theirs.setblocking(False)
    packets = []

    def arrived():
        try:
            packets.append(bench.servers[0].packet())
        except BlockingIOError:
            return False
        return True

    bench.until(arrived)
    assert packets == [([fs.FORK, WORKER, 0, ""], 2)]


def test_a_start_that_fails_leaves_no_descriptor(monkeypatch):
    def refuses(*_):
        raise OSError(errno.EAGAIN, "no process")

    monkeypatch.setattr(os, "posix_spawn", refuses)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="no process"):
        fs.start_fresh()
    assert os.listdir("/proc/self/fd") == before
