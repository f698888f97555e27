"""What cannot be serialized is named, with the way to it."""

import dataclasses
import io
import threading

import numpy as np
import pytest

from shoal.serialization import culprit, dumps_code, inspect_serializability, serialize


class Holder:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("lock", "unset")


@dataclasses.dataclass
class Data:
    inner: object


LOCK = threading.Lock()


def slotted():
    made = Slotted()
    made.lock = LOCK
    return made


def closure():
    lock = LOCK
    return lambda: lock


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "value: _thread.lock object"),
        ([1, LOCK], "value[1]: "),
        ({"model": Holder(lock=LOCK)}, "value['model'].lock: _thread.lock object"),
        ((1, {"a": [np.arange(10_000), Data(Holder(x=(1, LOCK)))]}), "value[1]['a'][1].inner.x[1]: "),
        ({LOCK: 1}, "value key "),
        ({1, LOCK}, "value member "),
        ([slotted()], "value[0].lock: "),
        ([closure()], "value[0] closure variable 'lock': "),
        (Holder(call=Holder(lock=LOCK).__init__), "value.call.__self__.lock: "),
        ((i for i in ()), "value: generator object"),
        ([*range(5000), LOCK, *range(3000)], "value[5000]: "),
        ({i: (LOCK if i == 700 else i) for i in range(1000)}, "value[700]: "),
        (ValueError("x", LOCK), "value.args[1]: "),
    ],
)
def test_paths(value, path):
    with pytest.raises(TypeError, match="cannot serialize") as caught:
        serialize(value)
    message = str(caught.value)
    assert message.startswith(f"cannot serialize {path}"), message
    assert "register_serializer" in message
    assert caught.value.__cause__ is not None


def test_of_code():
    with pytest.raises(
        TypeError,
        match=r"cannot serialize function closure.<locals>.\S+ closure variable 'lock': _thread\.lock",
    ):
        dumps_code(closure())


def test_what_a_value_does_itself_is_reported_too():
    class Refuses:
        def __reduce__(self):
            raise LookupError("not today")

    with pytest.raises(TypeError, match=r"value\[0\]: .*Refuses object; LookupError: not today"):
        serialize([Refuses()])


def test_what_a_value_leaves_out_is_not_the_culprit():
    class Reduced(Holder):
        def __reduce__(self):
            return (Holder, (), {"kept": self.kept})

    class Kept(Holder):
        def __getstate__(self):
            return {"kept": self.kept}

    class Refuses(Holder):
        def __getstate__(self):
            raise TypeError("it stays here")

    for kind, path in (
        (Reduced, "value.__reduce__()[2]['kept']: _thread.lock object"),
        (Kept, "value.kept: _thread.lock object"),
        (
            Refuses,
            f"value: {__name__}.test_what_a_value_leaves_out_is_not_the_culprit.<locals>.Refuses object; ",
        ),
    ):
        with pytest.raises(TypeError) as caught:
            serialize(kind(left_out=threading.Lock(), kept=LOCK))
        assert str(caught.value).startswith(f"cannot serialize {path}")


def test_recursive_values_and_broken_representations():
    class Silent:
        def __init__(self):
            self.lock = LOCK
            self.me = self

        def __repr__(self):
            raise RuntimeError

    value = {"a": Silent()}
    value["self"] = value
    with pytest.raises(TypeError, match=r"value.*\.lock: "):
        serialize({Silent(): value})


def test_the_search_is_bounded(monkeypatch):
    monkeypatch.setattr(culprit, "TRIALS_MAX", 5)
    deep = LOCK
    for _ in range(50):
        deep = [0, deep]
    with pytest.raises(TypeError, match=r"cannot serialize value(\[1\])+"):
        serialize(deep)


def test_inspect():
    output = io.StringIO()
    assert inspect_serializability([1], "numbers", print_file=output) == (True, set())
    assert output.getvalue() == "numbers can be serialized.\n"
    good, failures = inspect_serializability(
        Holder(a=LOCK, b=[LOCK], c=closure()), name="h", print_file=output
    )
    assert not good
    assert "h.a" in {failure.name for failure in failures}
    assert all(failure.obj is LOCK for failure in failures)
    assert "h.a: _thread.lock object, in <" in output.getvalue()
    assert inspect_serializability(closure(), print_file=output)[0] is False
    assert inspect_serializability(Holder, print_file=output)[0] is True


def test_inspect_prints(capsys):
    inspect_serializability(LOCK)
    assert "lock cannot be serialized" in capsys.readouterr().out
