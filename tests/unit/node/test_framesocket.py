"""Framed connections of the daemon: what a peer that ended had sent counts, whoever notices its end first."""

import errno
import os
import socket

import pytest

from shoal.config import Config
from shoal.wire.frames import FrameDecoder, decode_batch, encode_batch
from shoald.shell.framesocket import RECEIVE_BYTES, FrameSocket
from shoald.shell.loop import Loop


class Bench:
    def __init__(self):
        self.faults = []
        self.loop = Loop(lambda where, error: self.faults.append(error))
        self.to_flush = set()
        self.loop.on_turn_end = self.turn_end
        self.heard = []
        self.closed = []
        ours, self.peer = socket.socketpair()
        ours.setblocking(False)
        self.sock = FrameSocket(
            self.loop, ours, Config(), self.heard.extend, self.closed.append, self.to_flush
        )

    def turn_end(self, now):
        while self.to_flush:
            self.to_flush.pop().flush()
        return now + 0.01

    def until_closed(self):
        for _ in range(1000):
            if self.closed:
                return
            self.loop.turn()
        raise AssertionError("it is still open")


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.peer.close()
    made.sock.close("")
    made.loop.close()
    assert not made.faults


def test_the_last_words_of_a_dead_peer_count_though_writing_to_it_failed_first(bench):
    messages = [[1, bytes(1000), number] for number in range(100)]
    data = b"".join(encode_batch([message]) for message in messages)
    assert len(data) > RECEIVE_BYTES
    bench.peer.sendall(data)
    bench.peer.close()
    bench.sock.send([2])
    bench.sock.flush()
    assert not bench.closed
    bench.until_closed()
    assert bench.heard == messages
    assert bench.closed == [""]


def test_nothing_is_kept_for_a_peer_that_hears_nothing(bench):
    bench.peer.close()
    bench.sock.send([2])
    bench.sock.flush()
    read_end, write_end = os.pipe()
    bench.sock.send([3], write_end)
    bench.sock.send_frame(b"frame")
    bench.sock.flush()
    assert bench.sock.out_bytes == 0
    assert os.read(read_end, 1) == b""  # the other end was closed, not kept
    os.close(read_end)


def test_what_waits_for_room_goes_with_a_peer_that_ends(bench):
    for _ in range(64):
        bench.sock.send([2, bytes(64 * 1024)])
        bench.sock.flush()
    assert bench.sock.out_bytes > 0
    bench.peer.sendall(encode_batch([[1]]))
    bench.peer.close()
    bench.until_closed()
    assert bench.heard == [[1]]
    assert bench.sock.out_bytes == 0


def test_a_message_that_the_kernel_has_no_memory_for_is_sent_later(bench):
    class Full:
        def __init__(self, sock):
            self.sock = sock

        def send(self, _):
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

        def __getattr__(self, name):
            return getattr(self.sock, name)

    real = bench.sock.sock
    bench.sock.sock = Full(real)
    bench.sock.send([2])
    bench.sock.flush()
    bench.sock.send([3])
    bench.sock.flush()
    bench.sock.sock = real
    bench.peer.setblocking(False)
    decoder = FrameDecoder(1000)
    heard = []
    for _ in range(1000):
        bench.loop.turn()
        try:
            heard += [decode_batch(body) for body in decoder.feed(bench.peer.recv(1000))]
        except BlockingIOError:
            continue
        if len(heard) == 2:
            break
    assert heard == [[[2]], [[3]]]
    assert not bench.closed
