"""Actors that die, restart, are killed, named, detached; each with processes that really end."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

import shoal
from actorparts import get, wait_until
from processes import alive
from shoal.exceptions import ActorDiedError, ActorError, ActorUnavailableError


@shoal.remote
class Worker:
    """Counts, dies, and tells who it is."""

    def __init__(self):
        self.count = 0

    def add(self):
        self.count += 1
        return self.count

    def pid(self):
        return os.getpid()

    def again(self):
        return shoal.get_runtime_context().was_current_actor_reconstructed

    def die(self, number=signal.SIGKILL):
        os.kill(os.getpid(), number)
        time.sleep(1000)

    def leave(self):
        shoal.exit_actor()

    def exit_with(self, code):
        sys.exit(code)

    def die_once(self, mark):
        if not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return "done"

    def note(self, path, number):
        with open(path, "a") as file:
            file.write(f"{number}\n")
        return number


# --- death ---


def test_a_death_says_why_and_how(shoal_session):
    worker = Worker.remote()
    pid = get(worker.pid.remote())
    running, later = worker.die.remote(), worker.add.remote()
    with pytest.raises(ActorDiedError, match="signal 9") as caught:
        get(running)
    assert caught.value.pid == pid
    assert caught.value.node
    with pytest.raises(ActorDiedError):
        get(later)
    with pytest.raises(ActorDiedError):
        get(worker.add.remote())


def test_an_exit_code_is_told(shoal_session):
    worker = Worker.remote()
    with pytest.raises(ActorDiedError, match="exit code 7") as caught:
        get(worker.exit_with.remote(7))
    assert caught.value.exit_code == 7


def test_exit_actor(shoal_session):
    worker = Worker.options(max_restarts=3).remote()
    pid = get(worker.pid.remote())
    done = worker.add.remote()
    left = worker.leave.remote()
    assert get(done) == 1
    with pytest.raises(ActorDiedError, match="exit_actor"):
        get(left)
    with pytest.raises(ActorDiedError):
        get(worker.add.remote())
    wait_until(lambda: not alive(pid))


def test_exit_actor_outside_of_an_actor(shoal_session):
    with pytest.raises(TypeError):
        shoal.exit_actor()


def test_kill(shoal_session):
    worker = Worker.options(max_restarts=3).remote()
    pid = get(worker.pid.remote())
    shoal.kill(worker)
    with pytest.raises(ActorDiedError, match="kill"):
        get(worker.add.remote())
    assert not alive(pid)
    shoal.kill(worker)  # again: nothing
    with pytest.raises(ValueError):
        shoal.kill("worker")


def test_kill_before_it_is_made(shoal_session):
    worker = Worker.remote()
    shoal.kill(worker)
    with pytest.raises(ActorDiedError):
        get(worker.add.remote())


# --- restarts ---


def test_restart_makes_a_new_instance(shoal_session):
    worker = Worker.options(max_restarts=1).remote()
    assert get([worker.add.remote(), worker.again.remote()]) == [1, False]
    with pytest.raises(ActorUnavailableError):
        get(worker.die.remote())
    assert get([worker.add.remote(), worker.again.remote()]) == [1, True]
    with pytest.raises(ActorDiedError):
        get(worker.die.remote())
    with pytest.raises(ActorDiedError):
        get(worker.add.remote())


def test_restarts_without_limit(shoal_session):
    worker = Worker.options(max_restarts=-1).remote()
    for _ in range(4):
        pid = get(worker.pid.remote())
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: not alive(pid))
        with pytest.raises(ActorError):
            for _ in range(1000):  # the caller may not have heard of it yet
                if get(worker.pid.remote()) != pid:
                    raise ActorUnavailableError


def test_kill_with_restart(shoal_session):
    worker = Worker.options(max_restarts=1).remote()
    pid = get(worker.pid.remote())
    shoal.kill(worker, no_restart=False)
    assert get(worker.pid.remote()) != pid


def test_max_task_retries(shoal_session, tmp_path):
    mark = str(tmp_path / "mark-retry")
    worker = Worker.options(max_restarts=1, max_task_retries=1).remote()
    refs = [worker.add.remote(), worker.die_once.remote(mark), worker.add.remote()]
    assert get(refs[1:]) == ["done", 1]


def test_constructor_arguments_survive_for_the_restart(shoal_session):
    import numpy as np

    @shoal.remote(max_restarts=1)
    class Holder:
        def __init__(self, array, small):
            self.total = array.sum() + small

        def read(self):
            return float(self.total)

        def pid(self):
            return os.getpid()

    holder = Holder.remote(shoal.put(np.ones(100_000)), small=shoal.put(5))
    assert get(holder.read.remote()) == 100_005
    pid = get(holder.pid.remote())
    shoal.kill(holder, no_restart=False)
    assert get(holder.read.remote()) == 100_005
    assert get(holder.pid.remote()) != pid


# --- under load ---


@pytest.mark.parametrize("retries", [0, -1])
def test_kill_in_mid_calls_loses_none_and_runs_none_twice(shoal_session, retries, tmp_path):
    path = str(tmp_path / f"notes-{retries}")
    worker = Worker.options(max_restarts=-1, max_task_retries=retries).remote()
    pid = get(worker.pid.remote())
    refs = [worker.note.remote(path, number) for number in range(1500)]
    get(refs[100])
    os.kill(pid, signal.SIGKILL)
    refs += [worker.note.remote(path, number) for number in range(1500, 3000)]
    failed = 0
    for number, ref in enumerate(refs):
        try:
            assert get(ref) == number
        except ActorUnavailableError:
            failed += 1
    with open(path) as file:
        notes = [int(line) for line in file]
    if retries:
        assert failed == 0
        assert set(notes) == set(range(3000))
    else:
        assert len(notes) == len(set(notes)), "a call ran twice"
        assert len(set(range(3000)) - set(notes)) <= failed, "a call was lost without an error"


def test_no_caller_hangs_when_many_call_a_dying_actor(shoal_session):
    worker = Worker.remote()
    pid = get(worker.pid.remote())

    @shoal.remote(num_cpus=0)
    def call(handle):
        count = 0
        try:
            while True:
                shoal.get(handle.add.remote(), timeout=60)
                count += 1
        except ActorDiedError:
            return count

    callers = [call.remote(worker) for _ in range(4)]
    wait_until(lambda: get(worker.add.remote()) > 400)
    os.kill(pid, signal.SIGKILL)
    counts = get(callers)  # each ends with the error, whatever it had done by then
    assert len(counts) == 4
    assert sum(counts) > 0


# --- names ---


def test_names(shoal_session):
    worker = Worker.options(name="one").remote()
    found = shoal.get_actor("one")
    assert found == worker
    assert get([worker.add.remote(), found.add.remote()]) == [1, 2]
    with pytest.raises(ValueError, match="one"):
        Worker.options(name="one").remote()
    assert "one" in shoal.util.list_named_actors()
    assert Worker.options(name="one", get_if_exists=True).remote() == worker
    del worker, found
    assert "one" not in shoal.util.list_named_actors()
    with pytest.raises(ValueError, match="no actor named 'one'"):
        shoal.get_actor("one")


def test_a_name_is_free_as_soon_as_the_last_handle_has_gone(shoal_session):
    for _ in range(10):
        assert get(Worker.options(name="gone", get_if_exists=True).remote().add.remote()) == 1
        with pytest.raises(ValueError, match="no actor named 'gone'"):
            shoal.get_actor("gone")
        assert "gone" not in shoal.util.list_named_actors()


def test_a_name_is_free_after_kill(shoal_session):
    worker = Worker.options(name="killed").remote()
    shoal.kill(worker)
    with pytest.raises(ValueError):
        shoal.get_actor("killed")
    again = Worker.options(name="killed").remote()
    assert get(again.add.remote()) == 1


def test_namespaces(shoal_session):
    one = Worker.options(name="same", namespace="a").remote()
    two = Worker.options(name="same", namespace="b").remote()
    assert shoal.get_actor("same", namespace="a") == one
    assert shoal.get_actor("same", "b") == two
    with pytest.raises(ValueError):
        shoal.get_actor("same")
    rows = shoal.util.list_named_actors(all_namespaces=True)
    assert {"name": "same", "namespace": "a"} in rows


def test_get_if_exists_raced_by_ten_callers_makes_one_actor(shoal_session):
    @shoal.remote(num_cpus=0)
    def race():
        handle = Worker.options(name="raced", get_if_exists=True).remote()
        return handle, shoal.get(handle.pid.remote(), timeout=60)

    results = get([race.remote() for _ in range(10)])
    assert len({pid for _, pid in results}) == 1
    assert len({handle for handle, _ in results}) == 1


def test_names_inside_actors_and_tasks(shoal_session):
    worker = Worker.options(name="inside").remote()

    @shoal.remote
    def find():
        return shoal.get(shoal.get_actor("inside").pid.remote(), timeout=60)

    assert get(find.remote()) == get(worker.pid.remote())


# --- lives and drivers ---


def test_shutdown_ends_actors(shoal_session):
    shoal.shutdown()
    shoal.init(num_cpus=2)
    pids = get(
        [Worker.remote().pid.remote(), Worker.options(name="n", lifetime="detached").remote().pid.remote()]
    )
    kept = Worker.remote()
    pids.append(get(kept.pid.remote()))
    shoal.shutdown()
    assert not any(alive(pid) for pid in pids)
    shoal.init(num_cpus=2, _system_config={"actor_unknown_ms": 300})
    with pytest.raises(ActorDiedError, match="does not know it"):
        shoal.get(kept.add.remote(), timeout=60)
    shoal.shutdown()
    shoal.init(num_cpus=2)


def test_a_detached_actor_needs_no_handle(shoal_session):
    pid = get(Worker.options(name="stays", lifetime="detached").remote().pid.remote())
    for _ in range(20):
        get(Worker.remote().add.remote())
    assert alive(pid)
    again = shoal.get_actor("stays")
    assert get(again.pid.remote()) == pid
    shoal.kill(again)
    wait_until(lambda: not alive(pid))


CREATE = """
import shoal
shoal.init("auto")
@shoal.remote
class Kept:
    def __init__(self): self.n = 0
    def add(self):
        self.n += 1
        return self.n
kept = Kept.options(name="kept", namespace="jobs", lifetime="detached").remote()
other = Kept.options(name="other", namespace="jobs").remote()
print(shoal.get([kept.add.remote(), other.add.remote()]))
"""
USE = """
import shoal
shoal.init("auto", namespace="jobs")
print(shoal.get(shoal.get_actor("kept").add.remote()))
try:
    shoal.get_actor("other")
except ValueError:
    print("gone")
"""


def test_a_detached_actor_outlives_its_driver(shoal_session):
    folder = tempfile.mkdtemp()  # of a short path, and not where the module's session is known
    environment = {**os.environ, "SHOAL_TEMP_DIR": folder}
    run = [sys.executable, "-m", "shoal"]
    start = [*run, "start-head", "--port", "0", "--num-cpus", "1", "--temp-dir", folder]
    subprocess.run(start, capture_output=True, check=True)
    try:
        outputs = [
            subprocess.run(
                [sys.executable, "-c", text],
                capture_output=True, text=True, env=environment, timeout=60, check=False,
            )
            for text in (CREATE, USE)
        ]  # fmt: skip
        assert outputs[0].stdout.strip() == "[1, 1]", outputs[0].stderr
        assert outputs[1].stdout.split() == ["2", "gone"], outputs[1].stderr
    finally:
        subprocess.run([*run, "stop", "--temp-dir", folder], capture_output=True, check=True)
        shutil.rmtree(folder)
