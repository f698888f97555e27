"""The stored form: written, hashed and compared without temporaries; broken forms are refused."""

import itertools
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from largebytes import large_bytes
from shoal.serialization import BrokenFormatError, contained_ids, deserialize, hashing, serialize, sources
from shoal.serialization.format import HEADER_SIZE

WIDE = np.arange(600_000.0).reshape(600, 1000)
VALUES = {
    "plain": [1, 2, {"a": "b"}],
    "long pickle": list(range(50_000)),
    "large bytes": [b"x" * 300_000, 1, bytearray(b"y" * 300_000)],
    "array": np.arange(200_000),
    "several": [np.arange(200_001, dtype="u1"), np.asfortranarray(WIDE), np.arange(5_000)],
    "strided": [WIDE[::2, ::3], WIDE[::2, ::3].T, WIDE.reshape(6, 100, 1000)[:, ::2, 1:].transpose(2, 0, 1)],
    "long rows": np.zeros((3, 300_000))[:, ::2],
}


@pytest.mark.parametrize("name", VALUES)
def test_forms_agree(name):
    packed, again = serialize(VALUES[name]), serialize(VALUES[name])
    data = packed.to_bytes()
    window = np.full(packed.size + 10, 255, np.uint8)
    packed.write_into(window)
    assert (window[packed.size :] == 255).all()
    assert packed.equals(window)
    assert packed.equals(np.frombuffer(data, np.uint8))
    assert again.content_hash() == packed.content_hash()
    assert len(packed.content_hash()) == 16
    assert again.glance() == packed.glance()
    hashed = np.full(packed.size + 10, 255, np.uint8)
    assert packed.write_hashed(hashed) == packed.content_hash()
    assert (hashed[packed.size :] == 255).all()
    assert packed.equals(hashed)
    assert not packed.equals(window[: packed.size - 1])
    for position in (0, packed.size // 3, packed.size // 2, packed.size - 1):
        changed = window.copy()
        changed[position] ^= 1
        assert not packed.equals(changed)


def test_content_decides_the_hash():
    a = np.zeros(100_000)
    before = serialize(a).content_hash()
    assert serialize(a.copy()).content_hash() == before
    a[5_000] = 1
    assert serialize(a).content_hash() != before
    assert serialize(a.astype(np.int64)).content_hash() != before
    assert serialize(a.reshape(10, -1)).content_hash() != before


def test_the_hash_of_a_copy_is_that_of_the_copy(monkeypatch):
    array = np.zeros(1_000_000, np.uint8)
    packed = serialize(array)
    before = packed.content_hash()
    window = np.zeros(packed.size, np.uint8)
    copyto = np.copyto

    def copy_and_change(target, source):
        copyto(target, source)
        array[:] = 1  # as another thread might, while the array is copied

    monkeypatch.setattr(hashing, "np", SimpleNamespace(copyto=copy_and_change))
    content_hash = packed.write_hashed(window)
    monkeypatch.undo()
    assert content_hash not in {before, packed.content_hash()}
    assert content_hash == deserialize_and_hash(window)


def deserialize_and_hash(window):
    return serialize(deserialize(window)).content_hash()


@pytest.mark.parametrize("place", [0, -1])
def test_a_glance_sees_other_shapes_and_changes_at_the_ends(place):
    array = np.zeros(300_000)
    before = serialize(array).glance()
    assert serialize(array.copy()).glance() == before
    assert serialize(array.reshape(10, -1)).glance() != before
    assert serialize([array, array[1:]]).glance() != before
    array[place] = 1
    assert serialize(array).glance() != before


def test_no_temporaries_of_the_size_of_the_data():
    whole = np.ones((4000, 2000))
    value = [whole, whole[:, ::2], np.asfortranarray(whole)]
    packed = serialize(value)
    window = np.zeros(packed.size, np.uint8)
    tracemalloc.start()
    packed.write_into(window)
    packed.content_hash()
    assert packed.equals(window)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000


def test_large_copies_are_split(monkeypatch):
    monkeypatch.setattr(sources, "PARALLEL_BYTES_MIN", 1000)
    monkeypatch.setattr(sources.os, "cpu_count", lambda: 3)
    value = [WIDE, np.asfortranarray(WIDE), WIDE[::2, ::3], WIDE[::2, ::3].T, np.arange(1001, dtype="u1")]
    packed = serialize(value)
    window = np.zeros(packed.size, np.uint8)
    packed.write_into(window)
    for loaded, array in zip(deserialize(window), value, strict=True):
        assert np.array_equal(loaded, array)


def test_windows_that_do_not_fit():
    packed = serialize(np.arange(100_000))
    for window in (
        np.zeros(packed.size - 1, np.uint8),
        np.zeros(packed.size),
        np.zeros((packed.size, 1), np.uint8),
    ):
        with pytest.raises(ValueError, match="need"):
            packed.write_into(window)


def test_padding_has_no_meaning():
    packed = serialize([np.arange(5001, dtype="u1"), np.arange(5001, dtype="u1")])
    windows = [np.full(packed.size, fill, np.uint8) for fill in (0, 255)]
    for window in windows:
        packed.write_into(window)
        assert packed.equals(window)
    assert not np.array_equal(*windows)


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"x", b"\x80\x04.", b"\x80\x05", bytes(100), b"shl1" + bytes(100)]
)
def test_garbage(data):
    for form in (data, memoryview(data), np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)):
        with pytest.raises(BrokenFormatError):
            deserialize(form)


def test_torn_anywhere(ref_type):
    packed = serialize([np.arange(2_000), ref_type(1), np.arange(2_000.0)])
    data = packed.to_bytes()
    for size in itertools.chain(range(400), range(400, len(data), 997), [len(data) - 1]):
        with pytest.raises(BrokenFormatError):
            deserialize(data[:size], packed.refs)
    plain = serialize(list(range(100))).to_bytes()
    for size in range(len(plain)):
        with pytest.raises(BrokenFormatError):
            deserialize(plain[:size])


def test_any_change_to_the_head_is_noticed(ref_type):
    packed = serialize([np.arange(2_000), ref_type(1), np.arange(2_000.0)])
    data = bytearray(packed.to_bytes())
    for position in range(HEADER_SIZE + 3 * 16 + 16):
        data[position] ^= 0x41
        with pytest.raises(BrokenFormatError):
            deserialize(bytes(data), packed.refs)
        with pytest.raises(BrokenFormatError):
            contained_ids(bytes(data))
        data[position] ^= 0x41
    assert deserialize(bytes(data), packed.refs)[2][3] == 3


def test_not_bytes():
    for data in (np.zeros(10), np.zeros((2, 100), np.uint8), np.zeros(200, np.uint8)[::2]):
        with pytest.raises(BrokenFormatError, match="plain bytes"):
            deserialize(data)


def test_nothing_loaded_from_writable_memory_can_write_to_it():
    packed = serialize(np.arange(100_000))
    window = np.zeros(packed.size, np.uint8)
    packed.write_into(window)
    for form in (window, memoryview(window), bytearray(packed.to_bytes())):
        loaded = deserialize(form)
        with pytest.raises(ValueError, match="read-only"):
            loaded[0] = 1


@pytest.fixture(scope="module")
def large_window():
    """Room for what is larger than 2 GiB: the system makes its pages once, which takes longer than to fill them."""
    return np.empty(2**31 + 2**27, np.uint8)


def more_than_two_gibibytes(kind):
    size = 2**31 + 10
    if kind == "buffer":
        return np.frombuffer(large_bytes(size, b"\x07"), np.uint8)
    if kind == "pickle":
        return large_bytes(size, b"\x07")
    if kind == "bytearray in a pickle":
        value = [1, bytearray(size)]
        value[1][-1] = 7
        return value
    return [*(large_bytes(2**27, b"%d" % number) for number in range(16)), "x" * 2**20]


@pytest.mark.slow
@pytest.mark.large
@pytest.mark.parametrize("kind", ["buffer", "pickle", "bytearray in a pickle", "long pickle"])
def test_more_than_two_gibibytes(large_window, kind):
    value = more_than_two_gibibytes(kind)
    packed = serialize(value)
    window = large_window[: packed.size]
    packed.write_into(window)
    assert packed.equals(window)
    loaded = deserialize(window)
    if kind != "buffer":
        assert loaded == value
    if kind != "long pickle":
        last = loaded[1] if kind == "bytearray in a pickle" else loaded
        assert len(last) == 2**31 + 10
        assert last[-1] == 7
