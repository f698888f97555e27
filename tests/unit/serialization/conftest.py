"""A store of one object after the other: read-only memory, and exporters that say when they die."""

import gc
import mmap
import os
import tempfile

import numpy as np
import pytest

from shoal import serialization
from shoal.serialization import pickler
from shoal.serialization.tensors import private_pages


class FakeRef:
    """What the serializer needs of an ObjectRef."""

    __slots__ = ("id",)

    def __init__(self, number):
        self.id = number.to_bytes(16, "little")

    def __reduce__(self):
        raise TypeError("a ref can only be pickled by shoal")


class Exporter(np.ndarray):
    store = None
    key = None
    start = 0

    def __del__(self):
        if self.store is not None:
            self.store.died.append(self.key)

    def private_view(self, address, size):
        return private_pages(self.store.file.fileno(), address - self.store.address, size, self)


class FakeStore:
    def __init__(self, size):
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the store
        os.ftruncate(self.file.fileno(), size)
        self.written = mmap.mmap(self.file.fileno(), size)
        self.mapping = mmap.mmap(self.file.fileno(), size, prot=mmap.PROT_READ)
        self.address = np.frombuffer(self.mapping, np.uint8).ctypes.data
        self.size = size
        self.position = 0
        self.died = []

    def put(self, value):
        packed = serialization.serialize(value)
        start = self.position
        assert start + packed.size <= self.size
        window = np.frombuffer(self.written, np.uint8)[start : start + packed.size]
        packed.write_into(window)
        assert packed.equals(window)
        self.position = (start + packed.size + 4095) & -4096
        return start, packed

    def get(self, where, key=None):
        start, packed = where
        exporter = np.ndarray.__new__(Exporter, packed.size, np.uint8, self.mapping, start)
        exporter.store, exporter.key, exporter.start = self, key, start
        return serialization.deserialize(exporter, packed.refs)

    def contains(self, address):
        return self.address <= address < self.address + self.size

    def dead(self):
        gc.collect()
        return sorted(self.died)


@pytest.fixture
def store():
    return FakeStore(1 << 26)


@pytest.fixture
def ref_type():
    before = pickler._ref_type
    serialization.set_ref_type(FakeRef)
    yield FakeRef
    pickler._ref_type = before


@pytest.fixture
def both(store):
    """Serializes a value, and gives what comes back inline and out of the store."""

    def run(value):
        packed = serialization.serialize(value)
        data = packed.to_bytes()
        assert len(data) == packed.size
        return serialization.deserialize(data, packed.refs), store.get(store.put(value))

    return run
