"""Messages of a node that has lost its mind are refused, and leave nothing behind that breaks a later turn."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.wire import messages as m
from shoald.store.errors import ProtocolError
from unit.objects.world import CHUNK, World, body

values: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**65),
    st.floats(),
    st.binary(max_size=40),
    st.text(max_size=5),
    st.sampled_from([b"", b"C" * 16, b"\1\1\1\0\0\0\0\1\0\0\0\1\0\0\0\0"]),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.binary(max_size=3)), max_size=3),
)


def right(tag: int, req: int, object_id: bytes, proc: bytes) -> list[Any]:
    """A message as it should be."""
    return {
        m.P_FETCH: [tag, req, object_id, [proc], [0], 0, b""],
        m.P_PARCEL: [tag, req, [0], [10], b"C" * 16, ["here"], True],
        m.P_FETCHED: [tag, req, 5 * CHUNK, 0, b"", b"C" * 16, "", b"", CHUNK, b"", 0, []],
        m.P_FETCH_FAILED: [tag, req, "lost", "why", []],
        m.P_FETCH_DONE: [tag, [req], True],
        m.P_CHUNKS: [tag, req, b"\3"],
        m.P_HOLDERS: [tag, req, ["00" * 16]],
    }[tag]


@settings(max_examples=300)
@given(st.data())
def test_any_field_may_be_anything(data: st.DataObject) -> None:
    world = World()
    a, b = world.nodes
    here, there = (node.proc + bytes([0, 0, 0, 1, 0, 0, 0, 0]) for node in (b, a))
    b.seal(here, body(5 * CHUNK))
    a.seal(there, body(5 * CHUNK))
    b.pin(there, a.proc)  # its req is 1
    b.pin_together([a.proc + bytes([0, 0, 0, k, 0, 0, 0, 0]) for k in (2, 3)], a.proc)  # 2 and 3
    for _ in range(3):
        tags = [m.P_FETCH, m.P_FETCHED, m.P_FETCH_FAILED, m.P_FETCH_DONE, m.P_CHUNKS, m.P_HOLDERS, m.P_PARCEL]
        message = right(data.draw(st.sampled_from(tags)), data.draw(st.integers(1, 3)), here, b.proc)
        message[data.draw(st.integers(1, len(message) - 1))] = data.draw(values)
        if data.draw(st.booleans()):
            message = message[: data.draw(st.integers(1, len(message)))]
        try:
            b.core.from_node(a.id, message, 0.0)
        except ProtocolError:
            continue
        finally:
            b.turn()
            b.validate()
