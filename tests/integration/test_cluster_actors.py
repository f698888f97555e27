"""Actors on several nodes: placed, called, named and restarted across them."""

import os
import signal
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest

import shoal
from marks import until
from shoal.exceptions import ActorDiedError, ActorUnavailableError
from shoal.testing import Cluster

# For tests in which nodes die; elsewhere a node that only is slow would be taken for dead.
FAST_DEATHS = {"heartbeat_ms": 200, "node_suspect_ms": 600, "node_dead_ms": 1500}


@pytest.fixture
def cluster(request):
    """Three nodes of 1 CPU: the head's, "one" and "two"; the driver is on the head's. Its parameter: the system_config."""
    config = getattr(request, "param", {})
    with Cluster(num_cpus=1, system_config=config) as cluster:
        for name in ("one", "two"):
            cluster.add_node(num_cpus=1, resources={name: 1}, name=name, system_config=config)
        shoal.init(cluster.address)
        yield cluster
        shoal.shutdown()


@shoal.remote
class Counter:
    def __init__(self, start=0):
        self.value = start

    def add(self, number=1):
        self.value += number
        return self.value

    def where(self):
        return shoal.get_runtime_context().get_node_id(), os.getpid()


@shoal.remote
class Async:
    async def add(self, number):
        return number + 1


@shoal.remote
def call(counter, number):
    return shoal.get(counter.add.remote(number))


def at(name, **more):
    return {"resources": {name: 0.1}, **more}


def node_named(cluster, name):
    ids = {row["NodeID"] for row in shoal.nodes() if row["NodeName"] == name}
    return next(node for node in cluster.nodes if node.node_id in ids)


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


@pytest.mark.parametrize("cluster", [{"query_ms_max": 50}], indirect=True, ids=["impatient with people"])
def test_the_host_of_a_named_actor_may_be_slow(cluster):
    """A handle takes as long as its host needs to give it: it does not mean that there is no such actor."""
    counter = Counter.options(name="slow", **at("one")).remote(1)
    shoal.get(counter.add.remote())
    host = node_named(cluster, "one").process
    with ThreadPoolExecutor(2) as pool:
        os.kill(host.pid, signal.SIGSTOP)
        try:
            finding = pool.submit(shoal.get_actor, "slow")
            making = pool.submit(Counter.options(name="slow", get_if_exists=True).remote, 100)
            assert not wait([finding, making], timeout=0.5, return_when=FIRST_COMPLETED).done
        finally:
            os.kill(host.pid, signal.SIGCONT)
        assert shoal.get(finding.result().add.remote()) == 3
        assert shoal.get(making.result().add.remote()) == 4


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
    counter = Counter.options(**at("one")).remote()
    _, pid = shoal.get(counter.where.remote())

    @shoal.remote
    def kill(handle):
        shoal.kill(handle)

    shoal.get(kill.options(**at("two")).remote(counter))
    until(lambda: not os.path.exists(f"/proc/{pid}"))
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


def kill_node(cluster, name):
    """A machine is gone: the daemon and its workers, without a word."""
    node = node_named(cluster, name)
    os.kill(node.process.pid, signal.SIGKILL)
    node.process.wait()
    cluster.forget(node)
    return node


@pytest.mark.parametrize("cluster", [FAST_DEATHS], indirect=True, ids=["fast deaths"])
def test_when_its_node_dies_it_goes_to_another_one_if_it_may(cluster):
    moves = Counter.options(max_restarts=1, max_task_retries=-1, resources={"either": 0.1})
    for name in ("three", "four"):
        cluster.add_node(num_cpus=1, resources={"either": 1}, name=name, system_config=FAST_DEATHS)
    mover = moves.remote(7)
    stays = Counter.options(max_restarts=0, resources={"either": 0.1}).remote()
    node, _ = shoal.get(mover.where.remote())
    shoal.get(stays.where.remote())
    there = shoal.get(stays.where.remote())[0]
    name = next(row["NodeName"] for row in shoal.nodes() if row["NodeID"] == node)
    kill_node(cluster, name)
    other, _ = shoal.get(mover.where.remote(), timeout=60)
    assert other != node
    assert shoal.get(mover.add.remote()) == 8
    if there == node:
        with pytest.raises((ActorDiedError, ActorUnavailableError), match="node"):
            shoal.get(stays.add.remote(), timeout=60)


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
