"""Streams between nodes: whatever becomes of connections, each message arrives once, and in order."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoal.wire import messages as m
from shoal.wire.frames import FrameDecoder, decode_batch
from shoald.node.peerstream import FRAME_BYTES, InStream, OutStream
from shoald.store.errors import ProtocolError

WINDOW = 400


def messages_of(frames):
    return [
        message
        for data in frames
        for body in FrameDecoder(2**30).feed(data)
        for message in decode_batch(body)
    ]


class LossyLink(RuleBasedStateMachine):
    """A sender and a receiver whose connections lose any tail of what is under way, both ways."""

    def __init__(self):
        super().__init__()
        self.out = OutStream(WINDOW, 10_000)
        self.into = InStream()
        self.said = []
        self.heard = []
        self.wire = None  # frames under way; None without a connection
        self.acks = []

    @rule(size=st.integers(0, 300), count=st.integers(1, 5))
    def send(self, size, count):
        for _ in range(count):
            message = [310, len(self.said), b"x" * size]
            self.out.send(message)
            self.said.append(message)

    @rule()
    def flush(self):
        if self.wire is not None:
            self.wire += self.out.take()

    @rule(count=st.integers(1, 3))
    def deliver(self, count):
        for _ in range(count):
            if self.wire:
                for frame in messages_of([self.wire.pop(0)]):
                    self.hear(frame)

    def hear(self, frame):
        for message in self.into.fresh(frame):
            self.into.handled += 1
            self.heard.append(message)

    @rule()
    def fail_in_the_middle(self):
        """A handler fails: the connection ends with the rest of its frame; that message does not come again."""
        if self.wire:
            (frame,) = messages_of([self.wire.pop(0)])
            for message in self.into.fresh(frame)[:1]:
                self.into.handled += 1
                self.heard.append(message)
            self.wire = None

    @rule()
    def acknowledge(self):
        self.acks.append(self.into.acknowledge())

    @rule(count=st.integers(1, 3))
    def deliver_acks(self, count):
        if self.wire is not None:
            for _ in range(min(count, len(self.acks))):
                self.out.acknowledged(self.acks.pop(0))

    @rule()
    def break_connection(self):
        self.wire = None
        self.acks = []

    @rule()
    def connect(self):
        self.acks = []
        self.wire = []
        self.out.connected(self.into.acknowledge())

    @invariant()
    def in_order_once(self):
        assert self.heard == self.said[: len(self.heard)]
        self.out.validate()

    def teardown(self):
        self.connect()
        while self.out.waiting_bytes:
            self.flush()
            assert self.wire, "nothing moves"
            while self.wire:
                self.deliver(1)
            self.out.acknowledged(self.into.acknowledge())
        assert self.heard == self.said


TestLossyLink = LossyLink.TestCase


def test_a_turn_is_one_frame():
    out = OutStream(WINDOW, 10_000)
    for number in range(3):
        out.send([310, number])
    assert messages_of(out.take()) == [[m.P_STREAM, 1, [[310, 0], [310, 1], [310, 2]]]]
    assert out.take() == []


def test_the_window_holds_back_what_comes_after():
    out = OutStream(WINDOW, 10_000)
    out.send([310, b"x" * WINDOW])
    assert len(out.take()) == 1
    out.send([310, 2])
    assert out.take() == []
    out.acknowledged(1)
    assert messages_of(out.take()) == [[m.P_STREAM, 2, [[310, 2]]]]
    out.acknowledged(2)
    assert out.waiting_bytes == 0


def test_long_turns_are_cut():
    out = OutStream(2**30, 2**30)
    for _ in range(3):
        out.send([310, b"x" * (FRAME_BYTES // 2)])
    assert [frame[1] for frame in messages_of(out.take())] == [1, 2, 3]


def test_a_message_is_taken_as_it_is():
    out = OutStream(WINDOW, 10_000)
    message = [310, [1]]
    out.send(message)
    message[1].append(2)
    assert messages_of(out.take())[0][2] == [[310, [1]]]


def test_too_long_a_message_is_refused_and_changes_nothing():
    out = OutStream(WINDOW, 100)
    with pytest.raises(ValueError, match="limit is 100"):
        out.send([310, b"x" * 100])
    assert out.number == 0
    out.validate()


@pytest.mark.parametrize("number", [-1, 2, "1", None])
def test_an_impossible_acknowledgement(number):
    out = OutStream(WINDOW, 10_000)
    out.send([310])
    out.take()
    with pytest.raises(ProtocolError):
        out.acknowledged(number)
    out.validate()


@pytest.mark.parametrize(
    "frame", [[302], [302, 2, [[310]]], [302, 0, [[310]]], [302, 1, [[]]], [302, 1, ["x"]], [302, "1", []]]
)
def test_an_impossible_stream(frame):
    into = InStream()
    with pytest.raises(ProtocolError):
        into.fresh(frame)
    assert into.handled == 0
