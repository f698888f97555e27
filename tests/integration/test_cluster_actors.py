"""Actors on several nodes: placed, called, named and restarted across them."""

import os
import signal

import pytest

import shoal
from clusteractors import Counter, at, node_named, three_nodes
from marks import until
from shoal.exceptions import ActorDiedError


@pytest.fixture(scope="module")
def cluster(module_leaves_nothing):
    """The nodes that most tests share; they leave them as they were."""
    with three_nodes({}) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def shoal_session(cluster):
    """Tests that have this are not checked for leaks one by one, but as a module."""


@shoal.remote
class Async:
    async def add(self, number):
        return number + 1


@shoal.remote
def call(counter, number):
    return shoal.get(counter.add.remote(number))


def test_an_actor_runs_where_its_resources_are_and_is_called_from_anywhere(cluster):
    counter = Counter.options(**at("one")).remote(10)
    assert shoal.get(counter.where.remote())[0] == node_named(cluster, "one").node_id
    assert shoal.get([counter.add.remote() for _ in range(100)]) == list(range(11, 111))
    assert shoal.get(call.options(**at("two")).remote(counter, 5)) == 115
    adder = Async.options(**at("two")).remote()
    assert shoal.get([adder.add.remote(number) for number in range(50)]) == list(range(1, 51))


def test_calls_of_one_caller_arrive_in_order_from_wherever_they_come(cluster):
    @shoal.remote
    class Log:
        def __init__(self):
            self.seen = {}

        def note(self, caller, number):
            self.seen.setdefault(caller, []).append(number)

        def all(self):
            return self.seen

    @shoal.remote
    def write(log, caller):
        shoal.get([log.note.remote(caller, number) for number in range(200)])

    log = Log.options(**at("one")).remote()
    shoal.get([write.options(**at(name)).remote(log, name) for name in ("one", "two")])
    assert shoal.get(log.all.remote()) == {"one": list(range(200)), "two": list(range(200))}


def test_a_name_is_one_actor_in_the_whole_cluster(cluster):
    counter = Counter.options(name="the counter", **at("one")).remote(1)
    shoal.get(counter.add.remote())

    @shoal.remote
    def find():
        return shoal.get(shoal.get_actor("the counter").add.remote())

    @shoal.remote
    def make():
        try:
            Counter.options(name="the counter").remote()
        except ValueError as error:
            return str(error)

    @shoal.remote
    def get_or_make():
        again = Counter.options(name="the counter", get_if_exists=True).remote(100)
        return shoal.get(again.add.remote())

    assert shoal.get(find.options(**at("two")).remote()) == 3
    assert "exists already" in shoal.get(make.options(**at("two")).remote())
    assert shoal.get(get_or_make.options(**at("two")).remote()) == 4
    assert shoal.get(find.remote()) == 5
    shoal.kill(counter)
    until(lambda: "exists already" not in (shoal.get(make.options(**at("two")).remote()) or ""))


def test_whoever_makes_or_finds_a_name_at_the_same_time_gets_one_actor(cluster):
    """The head may hear of an actor's node before that node hears of the actor: who asks it then has to ask again."""

    @shoal.remote
    def get_or_make_all(round_):
        settings = {"get_if_exists": True, "num_cpus": 0}
        made = [Counter.options(name=f"{round_}, {number}", **settings).remote() for number in range(10)]
        return made, shoal.get([each.where.remote() for each in made])

    makers = [get_or_make_all.options(**at(name)) for name in ("one", "two")]
    for round_ in range(3):
        (here, places), (there, same_places) = shoal.get([make.remote(round_) for make in makers])
        assert places == same_places, f"round {round_}"
        del here, there


def test_an_actor_elsewhere_is_killed_and_its_death_is_told_everywhere(cluster):
    @shoal.remote
    def kill(handle):
        shoal.kill(handle)

    for _ in range(6):  # at once, when the head may not have heard yet where it is; the killer is warm
        counter = Counter.options(**at("one")).remote()
        _, pid = shoal.get(counter.where.remote())
        shoal.get(kill.options(**at("two")).remote(counter))
        until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))
        with pytest.raises(ActorDiedError, match="kill"):
            shoal.get(counter.add.remote())
    with pytest.raises(ActorDiedError):
        shoal.get(call.options(max_retries=0, **at("two")).remote(counter, 1))


def test_a_process_that_dies_is_started_again_at_its_node(cluster):
    counter = Counter.options(max_restarts=1, max_task_retries=-1, **at("one")).remote(5)
    node, pid = shoal.get(counter.where.remote())
    os.kill(pid, signal.SIGKILL)
    again, other = shoal.get(counter.where.remote())
    assert again == node
    assert other != pid
    os.kill(other, signal.SIGKILL)
    with pytest.raises(ActorDiedError):
        shoal.get(counter.add.remote())


def test_an_actor_ends_with_its_driver_unless_it_is_detached(cluster):
    counter = Counter.options(**at("one")).remote()
    kept = Counter.options(name="kept", namespace="all", lifetime="detached", **at("two")).remote(1)
    _, pid = shoal.get(counter.where.remote())
    _, kept_pid = shoal.get(kept.where.remote())
    shoal.shutdown()
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert os.path.exists(f"/proc/{kept_pid}")
    shoal.init(cluster.address)
    again = shoal.get_actor("kept", namespace="all")
    assert shoal.get(again.add.remote()) == 2
    shoal.kill(again)
    until(lambda: not os.path.exists(f"/proc/{kept_pid}"))


def test_an_actor_on_another_node_ends_with_its_last_handle(cluster):
    counter = Counter.options(**at("one")).remote()
    _, pid = shoal.get(counter.where.remote())
    del counter
    until(lambda: not os.path.exists(f"/proc/{pid}"))
