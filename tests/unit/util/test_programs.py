"""Programs: what is sent of them, and what they do."""

import operator
import pickle
import weakref

import numpy as np

from shoal.util.programs import Encoder, Instruction, run


def encode(program, needs=0):
    return Encoder(lambda value: ("stored", value)).encode(tuple(program), needs)


def test_operands_constants_and_keywords():
    program = [
        Instruction(operator.add, (~0, None), (10,), ()),
        Instruction(dict, (0, ~1, None), ("last",), ("a", "b", "c")),
    ]
    assert run(encode(program, 2)[0], 1, "value") == {"a": 11, "b": "value", "c": "last"}


def test_what_is_plain_is_sent_as_bytes():
    plain = (
        1,
        "text",
        None,
        slice(1, 2),
        (2.0, [b"x", {"a": 1}]),
        np.dtype("f8"),
        np.float64(3),
        np.arange(3),
        dict,
        np.add,
    )
    sent, functions = encode([Instruction(print, (None,) * len(plain), plain, ())])
    assert type(sent) is bytes
    assert functions == []


def test_what_is_not_plain_is_left_to_the_pickler_that_knows_how():
    class Local:
        pass

    for value in (Local(), Local, lambda: 1, [lambda: 1], {"a": Local()}, np.array([Local()]), {1, 2}):
        sent, _ = encode([Instruction(print, (None,), (value,), ())])
        assert type(sent) is list


def test_a_function_is_pickled_once_and_unpickled_once():
    captured = object.__new__(_Counted)
    function = lambda number: (number, captured)
    encoder = Encoder(lambda value: value)
    sent = [encoder.encode((Instruction(function, (None,), (n,), ()),), 0)[0] for n in range(3)]
    assert _Counted.pickled == 1
    results = [run(program) for program in sent]
    assert [number for number, _ in results] == [0, 1, 2]
    assert results[0][1] is results[2][1]


class _Counted:
    pickled = 0

    def __reduce__(self):
        _Counted.pickled += 1
        return _made, ()


def _made():
    return object.__new__(_Counted)


def test_a_large_function_is_stored_and_follows_the_values():
    text = "x" * 100_000
    function = lambda number: len(text) + number
    (sent, stored) = encode([Instruction(function, (~0,), (), ())], 1)
    assert stored == [("stored", function)]
    assert len(sent) < 200
    assert run(sent, 5, function) == 100_005


def test_a_result_goes_after_its_last_use():
    seen = []

    class Value:
        pass

    def make():
        value = Value()
        seen.append(weakref.ref(value))
        return value

    functions = [make, lambda value: 5, lambda number: (number, seen[0]() is None)]
    program = [(0, (), (), (), ()), (1, (0,), (), (), (0,)), (2, (1,), (), (), (1,))]
    assert run(program, *functions) == (5, True)


def test_bytes_are_small():
    sent, _ = encode([Instruction(operator.add, (~0, ~1), (), ())])
    assert len(sent) < 150
    assert len(pickle.loads(sent)) == 1
