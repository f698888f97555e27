"""put, get and wait from the outside: what they give, when, and what they say when they cannot."""

import asyncio
import concurrent.futures
import dataclasses
import datetime as dt
import pickle
import threading
import time

import numpy as np
import pytest

import shoal
from ledger import bytes_of_objects, everything_came_back
from marks import until
from shoal.client.values import Values
from shoal.exceptions import GetTimeoutError, TaskError
from shoal.owner.objects import FAILED

LARGE = 50_000  # float64: more than 100 KiB


@pytest.fixture(autouse=True)
def empty_in_the_end(shoal_session):
    yield
    everything_came_back()


@shoal.remote
def echo(value):
    return value


@shoal.remote
def after(path, value=None):
    """Wait until there is a file."""
    import os

    while not os.path.exists(path):
        time.sleep(0.002)
    return value


@shoal.remote
def fail(text):
    raise ValueError(text)


@pytest.fixture
def gates(tmp_path):
    """Tasks that end when they are told to: `gates.task(name)`, `gates.open(name)`; all are open in the end."""

    class Gates:
        def __init__(self):
            self.names = set()

        def task(self, name, value=None):
            self.names.add(name)
            return after.options(num_cpus=0.1).remote(str(tmp_path / name), value)

        def open(self, name):
            (tmp_path / name).touch()

    gates = Gates()
    yield gates
    for name in gates.names:
        gates.open(name)


# --- put and get ---


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        -5,
        1.5,
        True,
        2**70,
        "text",
        b"bytes",
        b"x" * 300_000,
        "é" * 200_000,
        [1, [2]],
        {"a": {1, 2}},
        (),
        1j,
        bytearray(b"x" * 200_000),
    ],
    ids=lambda value: f"{type(value).__name__}{len(value) if hasattr(value, '__len__') else ''}",
)
def test_what_is_put_comes_back_and_through_a_task_too(shoal_session, value):
    ref = shoal.put(value)
    for got in (
        shoal.get(ref),
        shoal.get(echo.remote(value)),
        shoal.get(echo.remote(ref)),
        shoal.get([ref])[0],
    ):
        assert got == value
        assert type(got) is type(value)


def test_a_list_of_refs_gives_a_list_of_values_in_order(shoal_session):
    refs = [shoal.put(i) for i in range(5)] + [echo.remote(i) for i in range(5, 10)]
    assert shoal.get(refs) == list(range(10))
    assert shoal.get(tuple(refs)) == list(range(10))
    assert shoal.get([]) == []
    assert shoal.get([refs[3], refs[3], refs[7], refs[7]]) == [3, 3, 7, 7]


def test_later_changes_are_not_seen(shoal_session):
    small, large = [1, 2], np.zeros(LARGE)
    refs = [shoal.put(small), shoal.put(large)]
    small.append(3)
    large[:] = 1
    assert shoal.get(refs[0]) == [1, 2]
    assert shoal.get(refs[1]).sum() == 0


def test_plain_values_are_fresh_on_every_get(shoal_session):
    ref = shoal.put({"a": [1]})
    first = shoal.get(ref)
    first["a"].append(2)
    assert shoal.get(ref) == {"a": [1]}


def test_what_cannot_be_put_or_got(shoal_session):
    ref = shoal.put(1)
    with pytest.raises(TypeError, match="not an ObjectRef"):
        shoal.put(ref)
    for wrong in (3, "x", None, {"a": ref}, {ref}, object()):
        with pytest.raises(ValueError, match="needs an ObjectRef"):
            shoal.get(wrong)
    for wrong in ([ref, 3], [None], [[ref]]):
        with pytest.raises(TypeError, match="needs ObjectRefs"):
            shoal.get(wrong)


def test_the_first_failure_raises_at_once(shoal_session, gates):
    slow = gates.task("slow")
    with pytest.raises(ValueError, match="no") as caught:
        shoal.get([slow, fail.remote("no")])
    assert isinstance(caught.value, TaskError)


def test_a_failure_before_the_get_raises_at_once(shoal_session, gates):
    failed = fail.remote("no")
    shoal.wait([failed])
    with pytest.raises(ValueError, match="no"):
        shoal.get([gates.task("slow"), failed], timeout=20)


def test_a_failure_just_before_the_wait_raises_at_once(shoal_session, gates, monkeypatch):
    wait = Values._wait_settled

    def late(values, missing, deadline):
        until(lambda: any(entry.state == FAILED for entry in missing))
        wait(values, missing, deadline)

    monkeypatch.setattr(Values, "_wait_settled", late)
    with pytest.raises(ValueError, match="no"):
        shoal.get([gates.task("slow"), fail.remote("no")], timeout=20)


# --- timeouts ---


def test_timeouts_say_what_is_missing(shoal_session, gates):
    slow = gates.task("slow")
    for timeout in (0, 0.01):
        with pytest.raises(GetTimeoutError, match="after") as caught:
            shoal.get([shoal.put(1), slow], timeout=timeout)
        assert isinstance(caught.value, TimeoutError)
        assert slow.hex() in str(caught.value)
    gates.open("slow")
    assert shoal.get(slow, timeout=60) is None


def test_timeout_0_gives_what_is_there(shoal_session):
    small, large = shoal.put(1), shoal.put(np.ones(LARGE))
    results = [echo.remote(2), echo.remote(np.ones(LARGE))]
    shoal.wait(results, num_returns=2)
    assert shoal.get([small, results[0]], timeout=0) == [1, 2]
    assert shoal.get(large, timeout=0).sum() == LARGE
    assert shoal.get(results[1], timeout=0).sum() == LARGE


def test_timeout_0_of_borrowed_refs(shoal_session, gates):
    @shoal.remote
    def reads(refs, pending):
        values = shoal.get(refs, timeout=0)
        ready, _ = shoal.wait(refs, num_returns=len(refs), timeout=0)
        try:
            shoal.get(pending, timeout=0)
        except shoal.exceptions.GetTimeoutError:
            return values[0], float(values[1].sum()), len(ready), shoal.wait(pending, timeout=0)[0]
        return "no error"

    large = echo.remote(np.ones(LARGE))
    shoal.wait([large])
    slow = gates.task("slow")
    assert shoal.get(reads.remote([shoal.put(1), large], [slow])) == (1, LARGE, 2, [])


def test_timeouts_that_are_none(shoal_session):
    ref = shoal.put(1)
    for wrong in (-1, -0.5):
        with pytest.raises(ValueError, match="timeout"):
            shoal.wait([ref], timeout=wrong)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [("1", TypeError), (dt.timedelta(seconds=1), TypeError), (float("nan"), ValueError)],
)
def test_timeouts_that_are_no_time(shoal_session, gates, wrong, kind):
    slow = gates.task("slow")
    for call in (shoal.get, lambda ref, timeout: shoal.get([ref], timeout=timeout)):
        with pytest.raises(kind, match="timeout needs a number of seconds"):
            call(slow, timeout=wrong)
    with pytest.raises(kind, match="timeout needs a number of seconds"):
        shoal.wait([slow], timeout=wrong)
    gates.open("slow")
    assert shoal.get(slow, timeout=np.float64(20)) is None


# --- wait ---


def test_wait_gives_the_ready_ones_in_input_order(shoal_session, gates):
    refs = [gates.task(str(i), i) for i in range(5)]
    assert shoal.wait(refs, timeout=0) == ([], refs)
    gates.open("3")
    gates.open("1")
    shoal.get([refs[1], refs[3]])
    assert shoal.wait(refs, num_returns=2) == ([refs[1], refs[3]], [refs[0], refs[2], refs[4]])
    assert shoal.wait(refs) == ([refs[1]], [refs[0], refs[2], refs[3], refs[4]])
    assert shoal.wait(refs, num_returns=5, timeout=0) == ([refs[1], refs[3]], [refs[0], refs[2], refs[4]])
    for name in "024":
        gates.open(name)
    assert shoal.wait(refs, num_returns=5) == (refs, [])


def test_wait_is_never_more_than_asked_for(shoal_session):
    refs = [shoal.put(i) for i in range(4)]
    assert shoal.wait(refs) == (refs[:1], refs[1:])
    assert shoal.wait(refs, num_returns=3) == (refs[:3], refs[3:])


def test_wait_counts_failures_as_ready(shoal_session):
    ref = fail.remote("x")
    assert shoal.wait([ref], timeout=60) == ([ref], [])


def test_wait_refuses(shoal_session):
    ref, other = shoal.put(1), shoal.put(2)
    assert shoal.wait([]) == ([], [])
    with pytest.raises(ValueError, match="duplicates"):
        shoal.wait([ref, ref])
    for count in (0, -1, 3):
        with pytest.raises(ValueError, match="num_returns"):
            shoal.wait([ref, other], num_returns=count)
    for count in ("1", None, 1.0, True):
        with pytest.raises(TypeError, match="num_returns needs an int"):
            shoal.wait([ref, other], num_returns=count)
    assert shoal.wait([ref, other], num_returns=np.int64(2)) == ([ref, other], [])
    with pytest.raises(TypeError, match="list"):
        shoal.wait(ref)
    with pytest.raises(TypeError, match="contains int"):
        shoal.wait([ref, 3])


def test_wait_one_by_one_to_the_end(shoal_session):
    refs = rest = [echo.remote(i) for i in range(300)]
    seen = []
    while rest:
        ready, rest = shoal.wait(rest)
        seen += ready
    assert sorted(shoal.get(seen)) == list(range(300))
    assert len(refs) == 300


def test_wait_on_a_list_that_was_changed_since(shoal_session, gates):
    rest = [gates.task("a"), *(echo.remote(i) for i in range(3))]
    ready, rest = shoal.wait(rest)
    extra = echo.remote("extra")
    rest.append(extra)
    rest.remove(next(ref for ref in rest if ref not in ready and ref is not extra and ref is not rest[0]))
    shoal.get(extra)
    ready, rest = shoal.wait(rest, num_returns=2)
    assert len(ready) == 2
    assert extra in ready + rest
    rest.reverse()
    gates.open("a")
    ready, rest = shoal.wait(rest, num_returns=len(rest))
    assert rest == []
    swapped = [echo.remote(1), echo.remote(2)]
    _, left = shoal.wait(swapped)
    left[0] = shoal.put(3)
    assert shoal.get(shoal.wait(left)[0]) == [3]


def test_wait_keeps_nothing_alive(shoal_session):
    refs = [echo.remote(np.ones(LARGE)) for _ in range(4)]
    ready, rest = shoal.wait(refs, num_returns=2)
    shoal.wait(rest)
    del refs, ready, rest
    until(lambda: bytes_of_objects() == 0)


def test_polling_does_not_pile_up(shoal_session, gates):
    from shoal import session

    refs = [gates.task("x"), gates.task("y")]
    for _ in range(50):
        assert shoal.wait(refs, num_returns=2, timeout=0)[0] == []
        with pytest.raises(GetTimeoutError):
            shoal.get(refs, timeout=0)
    entries = [session.runtime().table.entry_of(ref) for ref in refs]
    assert sum(len(entry.waiters or ()) for entry in entries) <= 4


def test_wait_in_many_threads(shoal_session):
    def count(_):
        rest, seen = [echo.remote(i) for i in range(40)], 0
        while rest:
            ready, rest = shoal.wait(rest, num_returns=min(3, len(rest)))
            seen += len(ready)
        return seen

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(count, range(8))) == [40] * 8


# --- ObjectRef ---


def test_what_a_ref_is(shoal_session):
    ref, other = shoal.put(1), shoal.put(1)
    assert ref.hex() == ref.binary().hex()
    assert len(ref.binary()) == 16
    assert ref.hex() in repr(ref)
    assert ref != other
    assert len({ref, other, ref}) == 2
    assert ref.task_id() == ref.binary()[:12]
    (again,) = shoal.get(shoal.put([ref]))
    assert again == ref
    assert hash(again) == hash(ref)
    assert ref != ref.hex()


def test_a_ref_is_pickled_by_shoal_only(shoal_session):
    import copy

    for way in (pickle.dumps, shoal.cloudpickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="only be pickled by shoal"):
            way(shoal.put(1))


def test_await_and_futures(shoal_session, gates):
    slow = gates.task("slow", 5)
    future = slow.future()
    assert isinstance(future, concurrent.futures.Future)
    assert not future.done()

    async def main():
        waiting = asyncio.ensure_future(echo_async(slow))
        await asyncio.sleep(0)
        gates.open("slow")
        large = echo.remote(np.ones(LARGE))
        values = await asyncio.gather(waiting, shoal.put(1), echo.remote(2), large, shoal.put(np.ones(LARGE)))
        with pytest.raises(ValueError, match="no"):
            await fail.remote("no")
        return values

    async def echo_async(ref):
        return await ref

    values = asyncio.run(main())
    assert values[:3] == [5, 1, 2]
    assert values[3].sum() == values[4].sum() == LARGE
    assert future.result(60) == 5
    with pytest.raises(ValueError, match="why"):
        fail.remote("why").future().result(60)
    assert shoal.put(3).future().result(60) == 3


def test_futures_keep_their_object(shoal_session):
    futures = [echo.remote(np.full(LARGE, i)).future() for i in range(4)]
    assert [future.result(60)[0] for future in futures] == [0, 1, 2, 3]


def test_gets_from_many_threads(shoal_session):
    small, large = shoal.put(7), shoal.put(np.ones(LARGE))
    problems = []

    def work():
        try:
            for i in range(30):
                assert shoal.get([small, echo.remote(i)]) == [7, i]
                assert shoal.get(large).sum() == LARGE
                assert shoal.get(echo.remote(large)).sum() == LARGE
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


# --- both idioms ---


@dataclasses.dataclass
class Box:
    value: object


@pytest.mark.parametrize(
    "value", [3, "text", None, [1, 2], {"a": 1}, Box(5), np.ones(LARGE), np.ones(3)], ids=repr
)
def test_get_of_an_argument_that_was_a_ref_returns_it(shoal_session, value):
    @shoal.remote
    def both(x, *, y):
        return (
            shoal.get(x) is x
            and shoal.get(y) is y
            and all(a is b for a, b in zip(shoal.get([x, y]), (x, y), strict=True))
        )

    assert shoal.get(both.remote(shoal.put(value), y=shoal.put(value))) is True
    assert shoal.get(both.remote(echo.remote(value), y=echo.remote(value))) is True


def test_a_list_of_refs_that_is_so_long_that_it_is_stored_is_still_one_to_get(shoal_session):
    refs = [shoal.put(index) for index in range(8000)]
    assert shoal.get(shoal.remote(lambda given: sum(shoal.get(given))).remote(refs)) == sum(range(8000))


def test_get_of_arguments_and_refs_together(shoal_session):
    @shoal.remote
    def mixed(x, nested):
        return shoal.get([x, nested[0], x]), shoal.get(nested[0])

    assert shoal.get(mixed.remote(shoal.put("x"), [shoal.put("y")])) == (["x", "y", "x"], "y")


def test_get_of_anything_else_raises_in_a_task_too(shoal_session):
    @shoal.remote
    def wrong(x, y):
        return shoal.get(y)

    @shoal.remote
    def list_of_wrong(x, y):
        return shoal.get([x, y])

    @shoal.remote
    def three():
        return shoal.get(3)

    with pytest.raises(ValueError, match="needs an ObjectRef"):
        shoal.get(wrong.remote(shoal.put({1}), {1}))
    with pytest.raises(TypeError, match="needs ObjectRefs"):
        shoal.get(list_of_wrong.remote(shoal.put([1]), [1]))
    with pytest.raises(ValueError, match="needs an ObjectRef"):
        shoal.get(three.remote())
    with pytest.raises(ValueError, match="needs an ObjectRef"):
        shoal.get(3)


def test_arguments_of_the_parent_are_not_those_of_a_child_in_its_place(shoal_session):
    @shoal.remote
    def child(x):
        try:
            return shoal.get(x)
        except ValueError:
            return "raised"

    @shoal.remote
    def parent(x):
        return shoal.get(child.remote(x)), shoal.get(x)

    value = {"an": "argument"}
    assert shoal.get(parent.remote(shoal.put(value))) == ("raised", value)


# --- what cannot be serialized ---


class Holds:
    def __init__(self, inner):
        self.inner = inner


def test_errors_name_the_path_to_the_culprit(shoal_session):
    value = {"config": Holds([1, Holds(threading.Lock())])}

    @shoal.remote
    def returns():
        return {"config": Holds([1, Holds(threading.Lock())])}

    @shoal.remote
    def takes(*args, **kwargs):
        return None

    for use in (
        lambda: shoal.put(value),
        lambda: takes.remote(value),
        lambda: takes.remote(1, key=value),
        lambda: shoal.get(returns.remote()),
    ):
        with pytest.raises(TypeError, match=r"config.*inner.*1.*inner.*lock"):
            use()
    with pytest.raises(
        TypeError, match=r"^argument 'key' of test_.*takes\(\): cannot serialize value\['config'\]"
    ):
        takes.remote(1, key=value)
    with pytest.raises(TypeError, match=r"^argument 1 of .*takes\(\): cannot serialize value: _thread.lock"):
        takes.remote(1, threading.Lock())
    lock = threading.Lock()
    captures = shoal.remote(lambda: lock)
    with pytest.raises(TypeError, match=r"cannot serialize function .*<lambda> closure variable 'lock'"):
        captures.remote()


# --- serializers ---


class Sealed:
    """Cannot be pickled by itself."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        raise TypeError("not by pickle")


def test_serializers_go_with_the_values(shoal_session):
    with pytest.raises(TypeError, match="not by pickle"):
        shoal.put(Sealed(1))
    shoal.register_serializer(
        Sealed, serializer=lambda it: it.number, deserializer=lambda number: Sealed(number + 100)
    )
    try:

        @shoal.remote
        def make_and_read(it, nested):
            inner = shoal.get(nested[0])
            return it, Sealed(inner.number + 1), shoal.put([Sealed(7)])

        given = shoal.put(Sealed(1))
        first, second, third = shoal.get(make_and_read.remote(given, [shoal.put(Sealed(2))]))
        assert (first.number, second.number) == (201, 203)  # 100 for each journey
        assert shoal.get(third)[0].number == 107
    finally:
        shoal.deregister_serializer(Sealed)
    with pytest.raises(TypeError, match="not by pickle"):
        shoal.put(Sealed(1))


def test_custom_serializers_are_one_of_three_ways(shoal_session):
    class Plain:
        def __init__(self):
            self.a = 1

    for wrong in (
        {},
        {"use_pickle": True, "use_dict": True},
        {"use_dict": True, "serializer": str, "deserializer": int},
    ):
        with pytest.raises(ValueError, match="one"):
            shoal.register_custom_serializer(Plain, **wrong)
    for right in (
        {"use_pickle": True},
        {"use_dict": True},
        {"serializer": lambda it: it.a, "deserializer": lambda a: Plain()},
    ):
        shoal.register_custom_serializer(Plain, **right)
        assert shoal.get(shoal.put(Plain())).a == 1
        assert shoal.get(echo.remote(Plain())).a == 1
    shoal.deregister_serializer(Plain)
