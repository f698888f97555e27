"""Small plain arrays, inline: they come back as they were, read-only, and torn bytes are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shoal.serialization import BrokenFormatError, contained_ids, deserialize, dumps_small
from shoal.serialization.raw import dumps_raw, loads_raw


@given(arrays.arrays(st.sampled_from([np.int64, np.float32, np.bool_, np.complex128]), st.integers(1, 50)))
def test_an_array_comes_back(array):
    blob = dumps_small(array)
    back = deserialize(blob)
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()
    assert contained_ids(blob) == b""
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        back.flags.writeable = True


def test_strides_and_byte_order_are_not_lost():
    for array in (np.arange(10)[::2], np.arange(10)[::-1], np.arange(5, dtype=">i4")):
        blob = dumps_raw(array)
        if blob is not None:
            assert np.array_equal(loads_raw(blob), array)


@pytest.mark.parametrize(
    "array", [np.zeros(0), np.zeros((2, 2)), np.array(1.0), np.zeros(2, "i4,i4"), np.array(["a"])]
)
def test_others_take_the_general_way(array):
    assert dumps_raw(array) is None


@given(st.binary(max_size=40), st.integers(0, 40))
def test_torn_bytes_are_refused_or_are_an_array(noise, cut):
    whole = dumps_raw(np.arange(3))
    for data in (b"\x01" + noise, whole[:cut], whole[: cut % 17] + noise):
        try:
            loads_raw(data)
        except BrokenFormatError:
            continue
