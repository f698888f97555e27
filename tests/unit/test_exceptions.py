"""The tree of errors: fields survive pickling, texts end with the next step, odd causes arrive."""

import asyncio
import copy
import errno
import pickle
import subprocess
import sys
import threading
import traceback
from dataclasses import dataclass, fields

import cloudpickle
import pytest

from shoal import exceptions
from shoal.exceptions import (
    ActorDiedError,
    ActorError,
    ActorUnavailableError,
    AuthenticationError,
    ClusterNotFoundError,
    GetTimeoutError,
    ObjectFreedError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    OutOfMemoryError,
    OwnerDiedError,
    PlacementError,
    ShoalError,
    TaskError,
    WorkerCrashedError,
    format_remote_traceback,
)

ALL = [cls for cls in vars(exceptions).values() if isinstance(cls, type) and issubclass(cls, ShoalError)]


class TwoArguments(Exception):
    def __init__(self, code, text):
        super().__init__(f"{text} ({code})")
        self.code = code


class KeywordOnly(Exception):
    def __init__(self, *, code):
        super().__init__()
        self.code = code

    def __str__(self):
        return f"code {self.code}"


class Slotted(Exception):
    __slots__ = ("code", "empty")

    def __init__(self, code):
        super().__init__(code)
        self.code = code


class Final(Exception):
    def __init_subclass__(cls):
        raise TypeError("no subclasses")


class WithLock(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()
        self.code = 7


class LockInArguments(Exception):
    pass


class OwnWay(Exception):
    def __init__(self, text, code):
        super().__init__(text)
        self.code = code

    def __reduce__(self):
        return OwnWay, (self.args[0], self.code + 1)


class BrokenWay(Exception):
    def __reduce__(self):
        return BrokenWay, (1, 2, 3, object(), threading.Lock())


class LoudText(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class ClassDefault(Exception):
    code = None


@dataclass
class DataError(Exception):
    code: int


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int


class StubbornError(OSError):
    def __setattr__(self, name, value):
        raise TypeError("read only")


class WithProperty(Exception):
    def __init__(self, inner):
        super().__init__("wrapped")
        self._inner = inner

    @property
    def code(self):
        return self._inner.code

    def twice(self):
        return 2 * self.code


class Meta(type):
    pass


class MetaError(Exception, metaclass=Meta):
    pass


class MultiError(KeyError, AttributeError):
    pass


def raised(error):
    """The error after `raise`, with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def remote(error, name="work", pid=12, node="ab12"):
    return TaskError.from_exception(error, name, pid, node, format_remote_traceback(error))


def received(error, **where):
    """What `get` raises after `error` was raised in a task."""
    return pickle.loads(cloudpickle.dumps(remote(raised(error), **where))).as_instanceof_cause()


# --- the tree ---


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_each_error_ends_with_the_next_step(cls):
    last = str(cls("it broke")).splitlines()[-1]
    assert last.startswith("Next: ")
    assert len(last) > 15
    assert last.endswith(".")
    assert cls.fault in {"caller", "cluster", "bug"}
    assert cls.__doc__
    assert str(cls()).strip()


@pytest.mark.parametrize("cls", [cls for cls in ALL if cls is not TaskError], ids=lambda cls: cls.__name__)
def test_fields_survive_pickling(cls):
    samples = {"int": 3, "str": "text", "float": 1.5, "tuple": ("a", "b"), "dict": {"CPU": 2.0}}
    values = {}
    for field in fields(cls):
        kind = str(field.type).partition("[")[0].partition(" ")[0]
        values[field.name] = samples[kind]
    error = cls(**values)
    for copied in (
        pickle.loads(pickle.dumps(error)),
        pickle.loads(cloudpickle.dumps(error)),
        copy.copy(error),
    ):
        assert type(copied) is cls
        assert {name: getattr(copied, name) for name in values} == values
        assert copied.args == error.args == (values["message"],)
        assert str(copied) == str(error)
        assert repr(copied) == repr(error)


def test_the_tree_is_that_of_the_documentation():
    assert issubclass(GetTimeoutError, TimeoutError)
    assert issubclass(ClusterNotFoundError, ConnectionError)
    assert issubclass(AuthenticationError, ConnectionError)
    for cls in (ActorDiedError, ActorUnavailableError):
        assert issubclass(cls, ActorError)
    for cls in (ObjectFreedError, OwnerDiedError, ObjectReconstructionFailedError):
        assert issubclass(cls, ObjectLostError)


def test_names_of_ray():
    assert exceptions.RayError is ShoalError
    assert exceptions.RayTaskError is TaskError
    assert exceptions.RayActorError is ActorError
    for name in ("RaySystemError", "TaskUnschedulableError", "LocalRayletDiedError", "UserCodeException"):
        assert issubclass(getattr(exceptions, name), ShoalError)


def test_a_subclass_with_another_constructor_survives_pickling():
    class Mine(ShoalError):
        def __init__(self, a, b):
            super().__init__(f"{a}{b}")
            self.a = a

    copied = pickle.loads(cloudpickle.dumps(Mine(1, 2)))
    assert (copied.a, copied.message) == (1, "12")


def test_texts_add_the_facts_that_the_message_lacks():
    text = str(WorkerCrashedError("it ended with exit code 3", task_name="f", pid=7, exit_code=3))
    assert text.count("exit code 3") == 1
    assert "task f" in text
    assert "pid 7" in text
    killed = WorkerCrashedError(signal_number=9, exit_code=-9, log_path="/logs/worker-7.log")
    assert killed.signal_name == "SIGKILL"
    assert "SIGKILL" in str(killed)
    assert "exit code" not in str(killed)
    assert "/logs/worker-7.log" in str(killed)
    assert "memory" in str(killed)
    assert "exit code 0" in str(WorkerCrashedError(exit_code=0))
    assert "compiled" in str(WorkerCrashedError(signal_number=11))
    assert "signal 40" in str(WorkerCrashedError(signal_number=40))
    assert "GPU: 1 wanted, 0 on the best node" in str(PlacementError(demand={"GPU": 1.0}))
    assert "1 of 2" in str(GetTimeoutError(timeout_s=2.5, missing=("1 of 2 tasks waits for a CPU",)))
    assert "5 bytes used, limit 4" in str(OutOfMemoryError(used_bytes=5, limit_bytes=4))
    assert str(ShoalError("x", next_step="do this")).endswith("Next: do this.")


def test_errors_of_the_system_name_their_dependents():
    error = pickle.loads(pickle.dumps(WorkerCrashedError("gone").with_dependent("g").with_dependent("h")))
    assert type(error) is WorkerCrashedError
    assert error.dependents == ("g", "h")
    assert "g, h" in str(error)


# --- causes ---


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        KeyError("missing"),
        TwoArguments(7, "bad"),
        KeywordOnly(code=7),
        Slotted(7),
        WithLock("bad"),
        OwnWay("bad", 6),
        BrokenWay("bad"),
        LockInArguments("bad", threading.Lock()),
        DataError(7),
        FrozenError(7),
        StubbornError(2, "no such", "f.txt"),
        MetaError("bad"),
        MultiError("bad"),
        LoudText("bad"),
        FileNotFoundError(errno.ENOENT, "no such file", "f.txt"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ImportError("no module", name="m"),
        ExceptionGroup("several", [ValueError(1), TwoArguments(7, "inner")]),
        MemoryError("much"),
        GetTimeoutError("late", timeout_s=3.0),
        asyncio.InvalidStateError("x"),
        subprocess.CalledProcessError(7, ["ls"], output=b"out"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_get_raises_an_instance_of_both(error):
    got = received(error)
    assert isinstance(got, TaskError)
    assert isinstance(got, type(error))
    assert type(got) is type(received(error))  # one class per cause class
    with pytest.raises(type(error)) as caught:
        raise got
    assert caught.value is got
    assert hash(got) == hash(got)
    text = str(got)
    assert "task work (pid=12, node=ab12)" in text
    assert "Traceback" in text
    assert "raise error" in text
    assert text.splitlines()[-1].startswith("Next: ")
    assert traceback.format_exception(got)


def test_the_error_has_what_its_cause_has():
    assert received(TwoArguments(7, "bad")).code == 7
    assert received(KeywordOnly(code=7)).code == 7
    assert received(Slotted(7)).code == 7
    assert received(WithLock("bad")).code == 7
    assert not hasattr(received(WithLock("bad")), "lock")
    assert received(DataError(7)).code == 7
    assert received(FrozenError(7)).code == 7
    assert received(OwnWay("bad", 6)).code == 7  # the class's own way to pickle is followed
    assert received(WithProperty(TwoArguments(7, "x"))).twice() == 14
    with_default = ClassDefault("bad")
    with_default.code = 7
    assert received(with_default).code == 7
    found = received(FileNotFoundError(errno.ENOENT, "no such file", "f.txt"))
    assert (found.errno, found.strerror, found.filename) == (errno.ENOENT, "no such file", "f.txt")
    decoded = received(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"))
    assert (decoded.object, decoded.start, decoded.reason) == (b"\xff", 0, "why")
    assert received(ImportError("x", name="m")).name == "m"
    assert received(ValueError("bad", 3)).args == ("bad", 3)
    assert received(LockInArguments("bad", threading.Lock())).args[0] == "bad"
    group = received(ExceptionGroup("several", [ValueError(1), TwoArguments(7, "inner")]))
    assert [type(each) for each in group.exceptions] == [ValueError, TwoArguments]
    assert received(GetTimeoutError("late", timeout_s=3.0)).timeout_s == 3.0
    with pytest.raises(AttributeError):
        _ = received(ValueError("bad")).nothing_like_it


def test_groups_can_be_caught_in_parts():
    found = []
    try:
        raise received(ExceptionGroup("several", [ValueError(1), KeyError(2)]))
    except* ValueError as group:
        found.append(group.exceptions)
    except* KeyError as group:
        found.append(group.exceptions)
    assert [type(part[0]) for part in found] == [ValueError, KeyError]


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
        asyncio.CancelledError(),
        StopIteration(4),
        StopAsyncIteration(),
        BaseExceptionGroup("g", [KeyboardInterrupt()]),
        Final("bad"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_would_steer_python_or_cannot_be_subclassed_is_a_plain_task_error(error):
    got = received(error)
    assert type(got) is TaskError
    assert type(got.cause) is type(error)
    assert type(error).__name__ in str(got)
    assert got.as_instanceof_cause() is got


def test_an_exception_whose_class_cannot_travel_leaves_its_text():
    class Unpicklable(Exception):
        lock = threading.Lock()  # a class of __main__ or a function goes by value, with this

    got = received(Unpicklable("bad news"))
    assert type(got) is TaskError
    assert got.cause is None
    assert got.cause_class.endswith("Unpicklable")
    assert "bad news" in str(got)
    assert "could not be brought here" in str(got)


def test_an_exception_whose_class_is_missing_here_leaves_its_text(monkeypatch):
    data = pickle.dumps(remote(raised(OwnWay("bad", 1))))
    monkeypatch.delattr(sys.modules[__name__], "OwnWay")
    got = pickle.loads(data).as_instanceof_cause()
    assert type(got) is TaskError
    assert got.cause is None
    assert "bad" in str(got)


def test_text_and_repr_that_raise_do_no_harm():
    got = received(LoudText("x"))
    assert isinstance(got, LoudText)
    assert "__str__ raised RuntimeError" in str(got)
    assert repr(got)


def test_notes_travel():
    error = ValueError("bad")
    error.add_note("while reading row 3")
    got = received(error)
    assert got.__notes__ == ["while reading row 3"]
    assert "".join(traceback.format_exception(got)).count("row 3") == 1


def test_the_text_of_a_syntax_error_is_not_lost_in_its_display():
    got = received(raised(_syntax_error()))
    assert isinstance(got, SyntaxError)
    assert got.lineno == 1
    assert "task work (pid=12" in "".join(traceback.format_exception(got))


def _syntax_error():
    try:
        compile("a b", "file.py", "exec")
    except SyntaxError as error:
        return error


def test_a_received_error_can_be_sent_on():
    again = pickle.loads(cloudpickle.dumps(received(TwoArguments(7, "bad"))))
    assert isinstance(again, TwoArguments)
    assert again.code == 7
    assert str(again) == str(received(TwoArguments(7, "bad")))
    assert isinstance(copy.copy(again), TwoArguments)


def test_a_class_of_main_is_that_of_the_driver():
    """A class that went to the worker by value is, after the way back, the one that `except` names."""
    namespace = {"__name__": "__main__"}
    exec("class Mine(Exception):\n    pass", namespace)
    sent = cloudpickle.loads(cloudpickle.dumps(namespace["Mine"]))
    assert isinstance(received(sent("x")), namespace["Mine"])


# --- chains ---


def test_an_error_passes_through_tasks():
    child = received(ValueError("bad"), name="child")
    parent = pickle.loads(pickle.dumps(remote(raised(child), name="parent", pid=13, node="cd34")))
    final = parent.with_dependent("left").with_dependent("right").as_instanceof_cause()
    assert isinstance(final, ValueError)
    assert final.task_name == "child"
    assert [hop.task_name for hop in final.hops] == ["parent"]
    assert final.dependents == ("left", "right")
    text = str(final)
    places = [
        text.index(part) for part in ("task child", "ValueError: bad", "task parent (pid=13", "left, right")
    ]
    assert places == sorted(places)
    assert text.count("ValueError: bad\n") == 2  # in the first line and at the end of the traceback
    assert type(child.with_dependent("x")) is TaskError


def test_an_exception_from_another_one_keeps_the_story():
    child = received(ValueError("bad"), name="child")
    try:
        raise KeyError("lookup") from child
    except KeyError as error:
        got = received(error, name="parent")
    assert isinstance(got, KeyError)
    assert "task child" in str(got)
    assert "direct cause" in str(got)


def test_an_error_that_was_made_by_hand_pickles_too():
    error = TaskError("ValueError: bad", cause=ValueError("bad"), cause_class="ValueError")
    got = pickle.loads(pickle.dumps(error)).as_instanceof_cause()
    assert isinstance(got, ValueError)


# --- tracebacks ---


def test_frames_of_the_runtime_are_left_out():
    from shoal import tracebacks

    namespace = {}
    exec(compile("def run(f):\n    f()\n", tracebacks.__file__, "exec"), namespace)

    def task():
        raise ValueError("bad")

    try:
        namespace["run"](task)
    except ValueError as error:
        text = format_remote_traceback(error)
    assert "in task" in text
    assert "in run" not in text
    assert text.endswith("ValueError: bad\n")


def test_frames_of_the_runtime_stay_where_there_are_no_others():
    from shoal import tracebacks

    namespace = {}
    exec(compile("def run():\n    raise ValueError('own')\n", tracebacks.__file__, "exec"), namespace)
    error = None
    try:
        namespace["run"]()
    except ValueError as caught:
        error = caught.with_traceback(caught.__traceback__.tb_next)
    assert "in run" in format_remote_traceback(error)


def test_a_long_traceback_is_cut_in_its_middle():
    text = format_remote_traceback(raised(ValueError("x" * 5000 + "END")), chars_max=1000)
    assert len(text) < 1100
    assert "characters left out" in text
    assert text.rstrip().endswith("END")


def test_the_cache_of_classes_is_bounded(monkeypatch):
    from shoal import causes

    monkeypatch.setattr(causes, "_classes_max", lambda: 3)
    monkeypatch.setattr(causes, "_mixed", {})
    for number in range(10):
        received(type(f"Error{number}", (Exception,), {})("x"))
    assert len(causes._mixed) <= 3
