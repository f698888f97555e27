"""Mutated headers, tables and refs: refused, or read without leaving the bytes; never anything else."""

import struct
import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal.serialization import BrokenFormatError, contained_ids, deserialize, pickler, serialize
from shoal.serialization.format import HEADER_SIZE


class Ref:
    __slots__ = ("id",)

    def __init__(self, number):
        self.id = number.to_bytes(16, "little")


def make():
    before = pickler._ref_type
    pickler.set_ref_type(Ref)
    try:
        packed = serialize([np.arange(1_000), Ref(1), np.arange(1_000.0), Ref(2)])
    finally:
        pickler._ref_type = before
    return packed.to_bytes(), packed.refs


DATA, REFS = make()
HEAD = HEADER_SIZE + 3 * 16 + 2 * 16
NUMBERS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from(
        [0, 1, 63, 64, len(DATA) - 1, len(DATA), len(DATA) + 1, 2**31, 2**63, 2**64 - 64, 2**64 - 1]
    ),
    st.integers(0, len(DATA) + 64),
)


def read(data):
    """Loading may fail in these ways only: the head is refused, or does not suit what is pickled."""
    try:
        contained_ids(data)
        deserialize(data, REFS)
    except BrokenFormatError:
        return
    except (TypeError, ValueError, StopIteration) as error:
        # The head was consistent, but the pickle got other buffers than it was made with.
        assert "buffer" in str(error) or "callable" in str(error) or isinstance(error, StopIteration), error


@given(st.binary(max_size=300))
def test_any_bytes_behind_the_magic(tail):
    read(b"shl1" + tail)


@given(
    st.lists(st.tuples(st.integers(0, HEAD - 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 200),
)
def test_changed_bytes(changes, cut):
    data = bytearray(DATA[: len(DATA) - cut])
    for position, value in changes:
        data[position] = value
    if data != DATA:
        try:
            deserialize(bytes(data), REFS)
        except BrokenFormatError:
            return
        raise AssertionError("a changed head was accepted")


@given(st.lists(st.tuples(st.integers(0, 9), NUMBERS), min_size=1, max_size=4))
def test_changed_numbers_under_a_right_checksum(changes):
    """An attacker, or a bug, that computes the checksum as well: bounds alone protect."""
    data = bytearray(DATA)
    for index, value in changes:
        struct.pack_into("<Q", data, 8 + 8 * index, value)
    buffers, refs = struct.unpack_from("<QQ", data, 24)
    end = HEADER_SIZE + 16 * (buffers + refs)
    if end <= len(data):
        struct.pack_into("<I", data, 4, zlib.crc32(data[8:end]))
    # Guarded by its own allocation: reading outside of it would show under a memory checker, and
    # all views that the load makes are slices, which cannot leave it.
    read(bytes(data))
