"""Actors killed under load, in every way of running calls: each call ends, none runs twice unasked, no process is left."""

import asyncio
import os
import signal
import sys
import threading
import time

import pytest
from click.testing import CliRunner

import shoal
from actorparts import get, wait_until
from processes import alive
from shoal.cli.app import app
from shoal.exceptions import ActorDiedError, ActorError, ActorUnavailableError, TaskError


def append(path, line):
    """Write a line in one system call, so that a kill leaves it whole or not at all."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


class Noter:
    """Notes every call where its death cannot undo it."""

    def note(self, path, number):
        append(path, number)
        return number

    def pid(self):
        return os.getpid()

    def items(self, path, count):
        for number in range(count):
            append(path, number)
            yield number


class AsyncNoter:
    """The same on a loop."""

    async def note(self, path, number):
        append(path, number)
        await asyncio.sleep(0)
        return number

    async def pid(self):
        return os.getpid()


KINDS = {"in order": (Noter, {}), "threads": (Noter, {"max_concurrency": 4}), "loop": (AsyncNoter, {})}


def make(kind, **options):
    cls, own = KINDS[kind]
    return shoal.remote(cls).options(**{**own, **options}).remote()


@shoal.remote(num_cpus=0)
def call_many(handle, path, start, count, killed=None):
    """(answered, failed): the numbers of calls that came back, and of those that raised because of the actor.

    There are ``count`` calls, and as many more as it takes until the file ``killed`` is there, and one after that.
    """
    answered, failed, refs = [], [], []

    def take(number, ref):
        try:
            assert shoal.get(ref, timeout=60) == number
            answered.append(number)
        except ActorError:
            failed.append(number)

    number = start
    while number < start + count or (killed is not None and not os.path.exists(killed)):
        refs.append((number, handle.note.remote(path, number)))
        number += 1
        if len(refs) >= 50:
            take(*refs.pop(0))
    if killed is not None:
        refs.append((number, handle.note.remote(path, number)))
    for each in refs:
        take(*each)
    return answered, failed


def numbers_in(path):
    with open(path) as file:
        return [int(line) for line in file]


def kill_now_and_then(handle, times):
    """Kill the actor's process as soon as it has another one, so many times; the last pids."""
    pids = []
    while len(pids) < times:
        try:
            pid = get(handle.pid.remote())
        except ActorUnavailableError:
            continue
        if pid not in pids:
            time.sleep(0.02)
            os.kill(pid, signal.SIGKILL)
            pids.append(pid)
    return pids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("retries", [0, -1])
def test_several_callers_of_an_actor_that_is_killed_again_and_again(shoal_session, kind, retries, tmp_path):
    path = str(tmp_path / "notes")
    actor = make(kind, max_restarts=-1, max_task_retries=retries)
    callers = [call_many.remote(actor, path, start, 400) for start in (0, 10_000, 20_000)]
    wait_until(lambda: os.path.exists(path))
    pids = kill_now_and_then(actor, 4)
    results = get(callers, timeout=60)
    notes = numbers_in(path)
    answered = [number for part, _ in results for number in part]
    failed = [number for _, part in results for number in part]
    assert len(answered) + len(failed) == 1200
    assert set(answered) <= set(notes)
    if retries:
        assert not failed
    else:
        assert len(notes) == len(set(notes)), "a call ran twice"
    wait_until(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize("kind", KINDS)
def test_callers_of_an_actor_that_dies_for_good(shoal_session, kind, tmp_path):
    path, killed = str(tmp_path / "notes"), str(tmp_path / "killed")
    actor = make(kind)
    pid = get(actor.pid.remote())
    callers = [call_many.remote(actor, path, start, 100, killed) for start in (0, 1_000_000)]
    wait_until(lambda: os.path.exists(path) and len(numbers_in(path)) > 100)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid))
    open(killed, "w").close()
    results = get(callers, timeout=60)
    notes = numbers_in(path)
    assert len(notes) == len(set(notes)), "a call ran twice"
    for answered, failed in results:
        assert len(answered) + len(failed) >= 100
        assert failed
        assert set(answered) <= set(notes)
    with pytest.raises(ActorDiedError, match="signal 9") as caught:
        get(actor.pid.remote())
    assert caught.value.pid == pid


def test_a_stream_of_an_actor_that_dies_ends(shoal_session, tmp_path):
    path = str(tmp_path / "notes")
    actor = make("in order")
    pid = get(actor.pid.remote())
    stream = actor.items.remote(path, 1_000_000)
    assert get(next(stream)) == 0
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ActorDiedError):
        for ref in stream:
            get(ref)


def test_a_caller_that_dies_takes_its_waiting_calls_with_it(shoal_session, tmp_path):
    go, die, path = (str(tmp_path / name) for name in ("go", "die", "notes"))

    @shoal.remote
    class Gate:
        def wait_for(self, go):
            append(path, 0)
            while not os.path.exists(go):
                time.sleep(0.005)

        def note(self, path, number):
            append(path, number)

    @shoal.remote(num_cpus=0, max_retries=0)
    def call_and_die(gate, path):
        refs = [gate.note.remote(path, number) for number in range(100)]
        while not os.path.exists(die):
            shoal.wait(refs, timeout=0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    gate = Gate.remote()
    waiting = gate.wait_for.remote(go)
    wait_until(lambda: os.path.exists(path))  # it has begun: calls of two callers have no order
    calling = call_and_die.remote(gate, path)
    why = ["why", gate._actor_id.hex()]
    wait_until(lambda: "and 100 wait here" in CliRunner().invoke(app, why).stdout)
    open(die, "w").close()
    with pytest.raises(shoal.exceptions.WorkerCrashedError):
        get(calling)
    wait_until(lambda: "and 0 wait here" in CliRunner().invoke(app, why).stdout)  # it has noticed
    mine = gate.note.remote(path, 1000)
    open(go, "w").close()
    get([waiting, mine])
    assert numbers_in(path) == [0, 1000]


# --- how it says so ---


class Ender:
    """Ends in several ways."""

    def leave(self):
        shoal.exit_actor()

    def leave_in_items(self):
        yield 1
        shoal.exit_actor()

    def leave_by_exit(self, code):
        sys.exit(code)

    def leave_at_once(self, code):
        os._exit(code)

    def signal(self, number):
        os.kill(os.getpid(), number)
        time.sleep(1000)

    def pid(self):
        return os.getpid()


class AsyncEnder:
    """The same on a loop."""

    async def leave(self):
        await asyncio.sleep(0)
        shoal.exit_actor()

    async def leave_in_items(self):
        yield 1
        shoal.exit_actor()

    async def leave_by_exit(self, code):
        sys.exit(code)

    async def leave_at_once(self, code):
        os._exit(code)

    async def pid(self):
        return os.getpid()


ENDERS = {
    "in order": lambda **o: shoal.remote(Ender).options(**o).remote(),
    "threads": lambda **o: shoal.remote(Ender).options(max_concurrency=3, **o).remote(),
    "loop": lambda **o: shoal.remote(AsyncEnder).options(**o).remote(),
}


@pytest.mark.parametrize("kind", ENDERS)
@pytest.mark.parametrize("way", ["leave", "leave_in_items"])
def test_exit_actor_in_every_kind(shoal_session, kind, way):
    actor = ENDERS[kind](max_restarts=5)
    pid = get(actor.pid.remote())
    if way == "leave":
        ref = actor.leave.remote()
    else:
        stream = actor.leave_in_items.remote()
        assert get(next(stream)) == 1
        ref = next(stream)
    with pytest.raises(ActorDiedError, match="exit_actor"):
        get(ref)
    with pytest.raises(ActorDiedError, match="exit_actor"):
        get(actor.pid.remote())
    wait_until(lambda: not alive(pid))


@pytest.mark.parametrize("kind", ENDERS)
@pytest.mark.parametrize("way", ["leave_by_exit", "leave_at_once"])
def test_exit_codes_in_every_kind(shoal_session, kind, way):
    actor = ENDERS[kind]()
    with pytest.raises(ActorDiedError, match="exit code 7") as caught:
        get(getattr(actor, way).remote(7))
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT])
def test_signals_are_named(shoal_session, number):
    actor = ENDERS["in order"]()
    with pytest.raises(ActorDiedError, match=f"signal {int(number)}|{number.name}"):
        get(actor.signal.remote(number))


def test_unavailable_says_why_and_is_no_death(shoal_session):
    actor = ENDERS["in order"](max_restarts=1)
    pid = get(actor.pid.remote())
    with pytest.raises(ActorUnavailableError, match="signal 9") as caught:
        get(actor.signal.remote(signal.SIGKILL))
    assert not isinstance(caught.value, ActorDiedError)
    assert get(actor.pid.remote()) != pid


# --- constructors ---


def test_constructors_that_end_the_process(shoal_session, tmp_path):
    @shoal.remote
    class Never:
        def __init__(self, how, path):
            append(path, 1)
            how()

        def call(self):
            return 1

    for how, text in ((lambda: os._exit(3), "exit code 3"), (lambda: sys.exit(4), "SystemExit|exit"),
                      (shoal.exit_actor, "exit_actor")):  # fmt: skip
        path = str(tmp_path / text[:5])
        with pytest.raises(ActorDiedError, match=text):
            get(Never.remote(how, path).call.remote())
        assert numbers_in(path) == [1]
    path = str(tmp_path / "again")
    with pytest.raises(ActorDiedError, match="exit code 3"):
        get(Never.options(max_restarts=2).remote(lambda: os._exit(3), path).call.remote())
    assert numbers_in(path) == [1] * 3


def test_a_constructor_s_error_that_cannot_be_pickled(shoal_session):
    class Odd(Exception):
        def __init__(self):
            super().__init__("odd one")
            self.lock = threading.Lock()

    @shoal.remote
    class Never:
        def __init__(self):
            raise Odd

        def call(self):
            return 1

    for kind in (Never, Never.options(max_concurrency=2)):
        with pytest.raises(ActorDiedError, match="odd one"):
            get(kind.remote().call.remote())


def test_kill_of_an_actor_that_restarts(shoal_session, tmp_path):
    """It is killed while its constructor runs for the second time, and while nothing runs at all."""
    block = str(tmp_path / "block")

    @shoal.remote(max_restarts=-1)
    class Slow:
        def __init__(self, block):
            while os.path.exists(block):
                time.sleep(0.005)

        def pid(self):
            return os.getpid()

    for pause in (0.0, 0.05):
        actor = Slow.remote(block)
        pid = get(actor.pid.remote())
        open(block, "w").close()
        os.kill(pid, signal.SIGKILL)
        time.sleep(pause)
        shoal.kill(actor)
        with pytest.raises(ActorError):
            get(actor.pid.remote())
        wait_until(lambda actor=actor: _died(actor))
        os.unlink(block)
    rows = shoal.util.list_named_actors()
    assert rows == []


def _died(actor):
    try:
        get(actor.pid.remote())
    except ActorDiedError as error:
        return "kill" in str(error)
    except ActorUnavailableError:
        return False
    return False


# --- handles ---


@shoal.remote
class Shared:
    """Something that others hold."""

    def pid(self):
        return os.getpid()


def test_handles_in_all_places_keep_it_alive_and_let_it_go(shoal_session):
    @shoal.remote
    class Keeper:
        def __init__(self, kept):
            self.kept = kept

        def ask(self):
            return shoal.get(self.kept["deep"][0].pid.remote())

        def give(self):
            return [self.kept]

    def closure():
        shared = Shared.remote()

        @shoal.remote
        def ask():
            return shoal.get(shared.pid.remote())

        return ask, get(shared.pid.remote())

    @shoal.remote
    def result():
        return {"handle": Shared.remote()}

    @shoal.remote
    def fails():
        shared = Shared.remote()
        raise ValueError("it is in here", shared, shoal.get(shared.pid.remote()))

    ask, pid = closure()
    assert get(ask.remote()) == pid
    del ask
    wait_until(lambda: not alive(pid))

    found = get(result.remote())
    pid = get(found["handle"].pid.remote())
    del found
    wait_until(lambda: not alive(pid))

    with pytest.raises(ValueError, match="it is in here") as caught:
        get(fails.remote())
    _, shared, pid = caught.value.cause.args if isinstance(caught.value, TaskError) else caught.value.args
    assert get(shared.pid.remote()) == pid
    del shared, caught
    wait_until(lambda: not alive(pid))

    keeper = Keeper.remote({"deep": [Shared.remote()]})
    pid = get(keeper.ask.remote())
    given = get(keeper.give.remote())
    del keeper
    assert get(given[0]["deep"][0].pid.remote()) == pid
    del given
    wait_until(lambda: not alive(pid))
