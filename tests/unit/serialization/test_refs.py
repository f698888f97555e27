"""Refs inside values: found at the dump, the riders themselves at the load."""

import numpy as np
import pytest

from shoal.serialization import (
    BrokenFormatError,
    contained_ids,
    deserialize,
    dumps_code,
    loads_code,
    serialize,
)


def test_riders_are_what_comes_back(ref_type, both):
    refs = [ref_type(i) for i in range(2000)]
    for loaded in both({"refs": refs, "array": np.arange(50_000)}):
        assert all(a is b for a, b in zip(loaded["refs"], refs, strict=True))


def test_each_id_once_in_order_of_appearance(ref_type):
    a, b, again = ref_type(1), ref_type(2), ref_type(1)
    packed = serialize([b, a, again, {"x": (b, a)}, again, ref_type(3)])
    assert [ref.id for ref in packed.refs] == [b.id, a.id, ref_type(3).id]
    data = packed.to_bytes()
    assert contained_ids(data) == b"".join(ref.id for ref in packed.refs)
    riders = [ref_type(2), ref_type(1), ref_type(3)]
    loaded = deserialize(data, riders)
    assert loaded[0] is loaded[3]["x"][0] is riders[0]
    assert loaded[1] is loaded[2] is loaded[4] is loaded[3]["x"][1] is riders[1]
    assert loaded[5] is riders[2]


def test_between_buffers(ref_type, both):
    first, second = ref_type(1), ref_type(2)
    value = [np.arange(9_000), first, np.arange(9_000.0), ref_type(1), second, np.arange(9_000, dtype="u2")]
    for loaded in both(value):
        assert loaded[1] is first
        assert loaded[3] is first
        assert loaded[4] is second
        for index in (0, 2, 5):
            assert np.array_equal(loaded[index], value[index])


def test_a_ref_alone_and_none(ref_type, both):
    ref = ref_type(9)
    for loaded in both(ref):
        assert loaded is ref
    assert serialize([1, 2]).refs == []
    assert contained_ids(serialize([1, 2]).to_bytes()) == b""
    assert contained_ids(serialize(np.arange(90_000)).to_bytes()) == b""


def test_with_cloudpickle(ref_type, both):
    ref = ref_type(4)

    class Local:
        def __init__(self):
            self.ref = ref

    for loaded, call in both((Local(), lambda: ref)):
        assert loaded.ref is ref
        assert call() is ref


def test_in_code(ref_type):
    ref, table = ref_type(4), np.arange(50_000)
    data, refs = dumps_code(lambda: (ref, table))
    assert refs == [ref]
    assert contained_ids(data) == ref.id
    other = ref_type(4)
    loaded = loads_code(data, [other])()
    assert loaded[0] is other
    assert loaded[1].flags.writeable


def test_missing_riders(ref_type):
    data = serialize([ref_type(1), ref_type(2)]).to_bytes()
    with pytest.raises(BrokenFormatError, match="2 refs inside"):
        deserialize(data, [ref_type(1)])


def test_a_failed_dump_leaves_nothing_behind(ref_type):
    with pytest.raises(TypeError, match="cannot serialize"):
        serialize([ref_type(1), np.arange(9_000), (i for i in ())])
    packed = serialize([ref_type(5)])
    assert [ref.id for ref in packed.refs] == [ref_type(5).id]
    assert deserialize(packed.to_bytes(), packed.refs)[0].id == ref_type(5).id
