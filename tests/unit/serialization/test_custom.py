"""Serializers of users, and processes that never heard of them."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from shoal.serialization import (
    deregister_serializer,
    deserialize,
    dumps_code,
    loads_code,
    register_custom_serializer,
    register_serializer,
    serialize,
)


class Connection:
    """Cannot be pickled."""

    def __init__(self, url, data=None):
        self.url = url
        self.data = data
        self.lock = threading.Lock()


class Child(Connection):
    pass


@pytest.fixture
def registered():
    register_serializer(
        Connection, serializer=lambda c: (c.url, c.data), deserializer=lambda state: Connection(*state)
    )
    yield
    deregister_serializer(Connection)


def test_used_and_taken_back(both, registered):
    connection = Connection("a", np.arange(50_000))
    for loaded in both([connection, {"again": connection}]):
        assert loaded[0].url == "a"
        assert loaded[0].data.sum() == connection.data.sum()
        assert not loaded[0].data.flags.writeable
        assert loaded[1]["again"] is loaded[0]
    deregister_serializer(Connection)
    with pytest.raises(TypeError, match="lock"):
        serialize(connection)
    deregister_serializer(Connection)


def test_not_for_subclasses(registered):
    with pytest.raises(TypeError, match="cannot serialize"):
        serialize(Child("a"))


def test_refs_in_what_a_serializer_returns(registered, ref_type, both):
    ref = ref_type(3)
    for loaded in both([Connection("x", [ref])]):
        assert loaded[0].data[0] is ref


def test_shipped_once_per_value(registered):
    one, many = serialize([Connection("a")]), serialize([Connection("a") for _ in range(100)])
    assert many.size < one.size + 100 * 40


SCRIPT = """
import sys, threading
from shoal.serialization import register_serializer, serialize
class Handle:
    def __init__(self, name):
        self.name = name
        self.lock = threading.Lock()
register_serializer(Handle, serializer=lambda h: h.name, deserializer=lambda name: Handle(name + "!"))
sys.stdout.buffer.write(serialize([Handle("h"), Handle("i")]).to_bytes())
"""


def test_another_process_can_load_it():
    data = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True).stdout
    first, second = deserialize(data)
    assert (first.name, second.name) == ("h!", "i!")
    assert type(first) is type(second)
    assert type(deserialize(data)[0]) is type(first)


def test_old_form_with_functions(both):
    register_custom_serializer(
        Connection, serializer=lambda c: c.url, deserializer=Connection, local=True, job_id=1
    )
    try:
        for loaded in both(Connection("u")):
            assert loaded.url == "u"
    finally:
        register_custom_serializer(Connection, use_pickle=True)
    with pytest.raises(TypeError, match="cannot serialize"):
        serialize(Connection("u"))


class Node:
    def __init__(self, required):
        raise AssertionError("not called at the load")

    def __reduce__(self):
        raise AssertionError("not called at the dump")


def test_old_form_by_dict(both):
    node = object.__new__(Node)
    node.me, node.data = node, np.arange(10_000)
    register_custom_serializer(Node, use_dict=True)
    try:
        for loaded in both(node):
            assert type(loaded) is Node
            assert loaded.me is loaded
            assert loaded.data[5] == 5
    finally:
        deregister_serializer(Node)


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"use_pickle": True, "use_dict": True},
        {"serializer": id, "deserializer": id, "use_pickle": True},
        {"serializer": id, "deserializer": id, "use_dict": True},
        {"serializer": id},
        {"deserializer": id},
    ],
)
def test_exactly_one_way(choice):
    with pytest.raises(ValueError, match=r"exactly one|together"):
        register_custom_serializer(Connection, **choice)


def test_wrong_arguments():
    with pytest.raises(TypeError, match="class"):
        register_serializer(Connection("a"), serializer=id, deserializer=id)
    with pytest.raises(TypeError, match="deserializer must be callable"):
        register_serializer(Connection, serializer=id, deserializer=3)
    with pytest.raises(TypeError, match="class"):
        register_custom_serializer("Connection", use_dict=True)


def test_code_takes_registrations_along(registered):
    """A process that was only sent a function can send what the function returns."""
    source = """
import sys
from shoal.serialization import dumps_code, deserialize, loads_code, serialize
function = loads_code(sys.stdin.buffer.read())
sys.stdout.buffer.write(serialize([function()]).to_bytes())
"""

    def function():
        return Connection("made there")

    data, _ = dumps_code(function)
    done = subprocess.run(
        [sys.executable, "-c", source],
        input=data,
        stdout=subprocess.PIPE,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    (loaded,) = deserialize(done.stdout)
    assert loaded.url == "made there"


def test_a_serializer_that_cannot_travel_does_not_keep_code_back():
    lock = threading.Lock()
    register_serializer(Connection, serializer=lambda c: lock and c.url, deserializer=Connection)
    try:
        data, _ = dumps_code(lambda: 5)
        assert loads_code(data)() == 5
        with pytest.raises(TypeError, match="lock"):
            dumps_code(lambda: lock)
    finally:
        deregister_serializer(Connection)
