"""Connections to actors that break while the actor lives: no call is lost, none runs twice, the order holds."""

import asyncio
import os
import pickle
import signal
import socket
import threading
import time

import pytest

import shoal
from actorparts import get, wait_until
from shoal import session
from shoal.exceptions import ActorUnavailableError, TaskCancelledError
from shoal.wire import messages as m
from shoal.wire.frames import frame

QUICK = {"actor_reconnect_ms_max": 5.0}  # so that many breaks fit into a test


@pytest.fixture(scope="module")
def shoal_session(module_leaves_nothing):
    """Takes the place of the usual one: this cluster makes new connections soon."""
    shoal.init(num_cpus=2, _system_config=QUICK)
    yield
    shoal.shutdown()


def connection_to(handle):
    """This process's connection to the actor, None while there is none."""
    calls = session.runtime().actors.calls.get(handle._actor_id)
    lease = calls.lease if calls is not None else None
    return lease.connection if lease is not None and not lease.broken else None


def cut(handle):
    """Break the connection, wherever the messages on it are; whether there was one."""
    connection = connection_to(handle)
    if connection is None:
        return False
    try:
        connection.sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is being closed just now
        return False
    return True


class Cutter:
    """Breaks the connection to an actor again and again while the block runs, whenever something came over it."""

    def __init__(self, handle, pause_s=0.005):
        self._handle = handle
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.cuts = 0

    def _run(self):
        heard = -1
        while not self._stop.wait(self._pause_s):
            calls = session.runtime().actors.calls.get(self._handle._actor_id)
            if calls is not None and calls.heard != heard and cut(self._handle):
                heard = calls.heard
                self.cuts += 1

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


@shoal.remote
class Log:
    """Remembers what it was told, in order."""

    def __init__(self):
        self.seen = []

    def note(self, number, payload=b""):
        self.seen.append(number)
        return number, payload

    def all(self):
        return self.seen

    def stream(self, count):
        yield from range(count)

    def wait_for(self, mark):
        while not os.path.exists(mark):
            time.sleep(0.005)
        return "done"


@shoal.remote
class AsyncLog:
    """The same on a loop."""

    def __init__(self):
        self.seen = []

    async def note(self, number, payload=b""):
        self.seen.append(number)
        await asyncio.sleep(0)
        return number, payload

    async def all(self):
        return self.seen


@pytest.mark.parametrize("kind", ["in order", "threads", "loop"])
@pytest.mark.parametrize("size", [0, 20_000])
def test_calls_survive_broken_connections(shoal_session, kind, size):
    log = {
        "in order": lambda: Log.remote(),
        "threads": lambda: Log.options(max_concurrency=4).remote(),
        "loop": lambda: AsyncLog.remote(),
    }[kind]()
    get(log.all.remote())
    total = 1000 if size else 6000
    refs, values = [], []
    number = 0
    with Cutter(log) as cutter:
        while cutter.cuts < 20 or number < total:
            refs += [log.note.remote(number + k, os.urandom(size)) for k in range(50)]
            number += 50
            while len(refs) > 500:
                values.append(get(refs.pop(0))[0])
        values += [value for value, _ in get(refs)]
    assert values == list(range(number))
    seen = get(log.all.remote())
    assert sorted(seen) == list(range(number))
    if kind != "threads":
        assert seen == list(range(number))


def test_a_running_call_is_answered_over_the_next_connection(shoal_session, tmp_path):
    log = Log.remote()
    mark = str(tmp_path / "mark")
    running = log.wait_for.remote(mark)
    wait_until(lambda: connection_to(log))
    later = [log.note.remote(number) for number in range(10)]
    for _ in range(3):
        wait_until(lambda: cut(log))
    open(mark, "w").close()
    assert get(running) == "done"
    assert [number for number, _ in get(later)] == list(range(10))
    assert get(log.all.remote()) == list(range(10))


def test_a_stream_goes_on(shoal_session):
    log = Log.remote()
    stream = log.stream.remote(2000)
    with Cutter(log):
        items = [get(ref) for ref in stream]
    assert items == list(range(2000))


def test_a_cancel_that_was_lost_is_said_again(shoal_session, tmp_path):
    log = Log.remote()
    mark = str(tmp_path / "mark")
    get(log.all.remote())
    running, queued = log.wait_for.remote(mark), log.note.remote(1)
    wait_until(lambda: session.runtime().actors.calls[log._actor_id].sent == 3)
    wait_until(lambda: cut(log))
    shoal.cancel(running)
    shoal.cancel(queued)
    for ref in (running, queued):
        with pytest.raises(TaskCancelledError):
            get(ref)
    assert get(log.all.remote()) == []


def test_callers_in_other_processes_survive_too(shoal_session):
    log = Log.remote()

    @shoal.remote(num_cpus=0)
    def call(handle, start):
        with Cutter(handle):
            refs = [handle.note.remote(number) for number in range(start, start + 1000)]
            return [number for number, _ in shoal.get(refs)]

    starts = [0, 10_000, 20_000]
    results = get([call.remote(log, start) for start in starts])
    assert results == [list(range(start, start + 1000)) for start in starts]
    seen = get(log.all.remote())
    assert len(seen) == 3000
    for start in starts:
        own = [number for number in seen if start <= number < start + 1000]
        assert own == list(range(start, start + 1000))


@shoal.remote(max_restarts=-1)
class Noter:
    """Notes every call in a file, where its death cannot undo it."""

    def note(self, path, number):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{number}\n".encode())
        os.close(fd)
        return number

    def pid(self):
        return os.getpid()


def call_and_cancel(noter, path, start, done, outcomes):
    """Call until ``done``, cancelling each fiftieth call; what came of them."""
    refs = []

    def take():
        number, ref = refs.pop(0)
        try:
            assert get(ref) == number
            outcomes.append("answered")
        except ActorUnavailableError:
            outcomes.append("in doubt")
        except TaskCancelledError:
            assert number % 50 == 0
            outcomes.append("cancelled")

    number = start
    while not done.is_set() or refs:
        if not done.is_set():
            number += 1
            refs.append((number, noter.note.remote(path, number)))
            if number % 50 == 0:
                shoal.cancel(refs[-1][1])
        if len(refs) > 40 or done.is_set():
            take()


@pytest.mark.parametrize("options", [{}, {"max_concurrency": 4}])
def test_kills_broken_connections_and_cancels_at_once(shoal_session, tmp_path, options):
    path = str(tmp_path / "notes")
    noter = Noter.options(**options).remote()
    pids = {get(noter.pid.remote())}
    done, outcomes = threading.Event(), []
    threads = [
        threading.Thread(target=call_and_cancel, args=(noter, path, start, done, outcomes))
        for start in (0, 1_000_000)
    ]
    for thread in threads:
        thread.start()
    with Cutter(noter) as cutter:
        while len(pids) < 5 or cutter.cuts < 15:
            try:
                pid = get(noter.pid.remote())
            except ActorUnavailableError:
                continue
            if pid not in pids:
                pids.add(pid)
                os.kill(pid, signal.SIGKILL)
            elif len(pids) == 1:
                os.kill(pid, signal.SIGKILL)
    done.set()
    for thread in threads:
        thread.join()
    with open(path) as file:
        notes = [int(line) for line in file]
    assert len(notes) == len(set(notes)), "a call ran twice"
    assert outcomes.count("answered") <= len(notes) <= len(outcomes)


BAD = [
    [(m.HEARD, 10**9)], [(m.HEARD, "x")], [(m.HEARD,)], [(m.RESUME, 1, 0)], [(m.JOB, {})], [(m.CANCEL,)], [(m.CONSUMED, b"x")],
    [(999,)], [("x",)], [()], [None], None, 7,
]  # fmt: skip


@pytest.mark.parametrize("kind", ["in order", "threads", "loop"])
def test_messages_that_make_no_sense_cost_the_connection_and_nothing_else(shoal_session, kind):
    log = {
        "in order": lambda: Log.remote(),
        "threads": lambda: Log.options(max_concurrency=2).remote(),
        "loop": lambda: AsyncLog.remote(),
    }[kind]()
    get(log.all.remote())
    for number, bad in enumerate(BAD):
        wait_until(lambda: connection_to(log))
        before = log.note.remote(2 * number)
        with session.runtime().lock:
            session.runtime().flush()
            connection_to(log).send(frame(pickle.dumps(bad)))
        after = log.note.remote(2 * number + 1)
        assert [get(before)[0], get(after)[0]] == [2 * number, 2 * number + 1]
    wait_until(lambda: connection_to(log))
    with session.runtime().lock:
        connection_to(log).send(frame(b"no pickle at all"))
    assert get(log.all.remote()) == list(range(2 * len(BAD)))
