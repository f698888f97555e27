"""Frames: however bytes are torn, the same bodies come out; what is no frame is noticed before it is believed."""

import itertools
import pickle
import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.wire.frames import HEADER_SIZE, BrokenFrame, FrameDecoder, decode_batch, encode_batch, frame

LIMIT = 1 << 16
bodies_lists = st.lists(st.binary(max_size=300), max_size=12)


def torn(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(bodies_lists, st.lists(st.integers(min_value=0), max_size=30))
def test_torn_anywhere_the_bodies_are_the_same(bodies, cuts):
    stream = b"".join(map(frame, bodies))
    decoder = FrameDecoder(LIMIT)
    received = [body for piece in torn(stream, cuts) for body in decoder.feed(piece)]
    assert received == bodies
    assert decoder.pending_bytes == 0


@given(bodies_lists)
def test_byte_by_byte(bodies):
    decoder = FrameDecoder(LIMIT)
    stream = b"".join(map(frame, bodies))
    received = [body for at in range(len(stream)) for body in decoder.feed(stream[at : at + 1])]
    assert received == bodies


@given(st.integers(min_value=LIMIT + 1, max_value=2**64 - 1), st.lists(st.integers(min_value=0), max_size=4))
def test_an_announced_length_beyond_the_limit_is_refused_with_its_header(size, cuts):
    decoder = FrameDecoder(LIMIT)
    pieces = torn(frame(b"before") + struct.pack("<Q", size), cuts)
    with pytest.raises(BrokenFrame, match=str(size)):
        for piece in pieces:
            decoder.feed(piece)


def test_the_limit_itself_is_allowed_and_an_empty_body_too():
    decoder = FrameDecoder(100)
    assert decoder.feed(frame(bytes(100)) + frame(b"")) == [bytes(100), b""]
    assert decoder.feed(b"") == []


def test_an_unfinished_frame_costs_what_was_received_and_no_more():
    decoder = FrameDecoder(LIMIT)
    assert decoder.feed(struct.pack("<Q", LIMIT)) == []
    for _ in range(1000):
        assert decoder.feed(b"x") == []
    assert decoder.pending_bytes == HEADER_SIZE + 1000


def test_large_frames_in_small_pieces_are_joined_once():
    decoder = FrameDecoder(1 << 30)
    body = bytes(64 << 20)
    data = memoryview(frame(body))
    pieces = [data[at : at + (1 << 16)] for at in range(0, len(data), 1 << 16)]
    received = [each for piece in pieces for each in decoder.feed(bytes(piece))]
    assert [len(each) for each in received] == [len(body)]


@given(st.binary(max_size=400))
def test_garbage_is_no_frame_or_waits_for_more(data):
    decoder = FrameDecoder(LIMIT)
    try:
        received = decoder.feed(data)
    except BrokenFrame:
        return
    assert sum(len(body) + HEADER_SIZE for body in received) + decoder.pending_bytes == len(data)


@given(st.binary(max_size=400))
def test_garbage_is_no_batch(data):
    try:
        batch = decode_batch(data)
    except BrokenFrame:
        return
    assert all(type(message) is list and type(message[0]) is int for message in batch)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        msgpack.packb(None),
        msgpack.packb({1: 2}),
        msgpack.packb([1]),
        msgpack.packb([[]]),
        msgpack.packb([[True]]),
        msgpack.packb([["tag"]]),
        msgpack.packb([[1], 2]),
        msgpack.packb([[1]]) + b"\x00",
        b"\x91" * 5000,  # nested deeper than anything of ours
        b"\xdd\xff\xff\xff\xff",  # announces 4 G items
        b"\x81\x90\x01",  # a key that cannot be one
        pickle.dumps([[1]]),
    ],
)
def test_what_is_no_batch_of_messages_is_broken(body):
    with pytest.raises(BrokenFrame):
        decode_batch(body)


def test_a_batch_survives_the_way():
    batch = [[1, b"\x00\xff", "text", 2**63, -1, None, {"a": [1.5], 7: b""}], [2]]
    (body,) = FrameDecoder(LIMIT).feed(encode_batch(batch))
    assert decode_batch(body) == batch


def test_a_text_that_is_not_unicode_does_not_stop_its_batch():
    """A call site in a file whose name is in another encoding: one message must not take the others with it."""
    (body,) = FrameDecoder(LIMIT).feed(encode_batch([[1, b"kept"], [2, "caf\udce9.py:3"]]))
    assert decode_batch(body) == [[1, b"kept"], [2, "caf?.py:3"]]
