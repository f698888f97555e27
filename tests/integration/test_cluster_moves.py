"""Actors that leave a draining node: what runs ends in peace, in threads, on a loop, in generators."""

import asyncio
import os
import time
from contextlib import contextmanager

import pytest

import shoal
from marks import Marks
from nodeclient import until
from shoal.control import request
from shoal.testing import Cluster

BEHIND = 8


@contextmanager
def nodes(config):
    """A driver on a node without CPUs, and one with; yields that cluster, and the node that is to drain."""
    with Cluster(num_cpus=0, system_config=config) as cluster:
        leaving = cluster.add_node(num_cpus=1, system_config=config)
        shoal.init(cluster.address)
        try:
            yield cluster, leaving
        finally:
            shoal.shutdown()


def drain(cluster, leaving, config):
    """Have it leave once there is another one."""
    other = cluster.add_node(num_cpus=1, system_config=config)
    head = cluster.head
    request(head.socket, head.secret, "drain", {"node": leaving.node_id})
    until(lambda: "this node drains" in _log(leaving), "it drains")
    return other


def _log(node):
    with open(os.path.join(node.session_dir, "logs", "node.log"), encoding="utf-8") as file:
        return file.read()


def wait_there(node, actors, count):
    """Wait until so many calls wait at each actor, as its process says."""

    def is_so(actor):
        answer = request(node.socket, node.secret, "why", {"id": actor._actor_id.hex()})
        return f"and {count} wait here" in str(answer)

    until(lambda: all(map(is_so, actors.values())), f"{count} calls wait at each")


def get(refs):
    return shoal.get(refs, timeout=60)


def here():
    return shoal.get_runtime_context().get_node_id()


class Threads:
    """Runs calls in threads; in a class with async methods, and the same names, on a loop."""

    def __init__(self, marks, kind):
        self.marks, self.kind = marks, kind
        self.ran = []

    def hold(self):
        self.marks.add(f"{self.kind}-holds")
        self.marks.wait("release")
        return here()

    def items(self):
        for number in range(6):
            yield number, here()
            if not number:
                self.marks.add(f"{self.kind}-holds")
                self.marks.wait("release")

    def add(self, number):
        self.marks.add(f"{self.kind}-ran-{number}")
        self.ran.append(number)
        return here()

    def seen(self):
        return self.ran


class Loop(Threads):
    async def _released(self):
        self.marks.add(f"{self.kind}-holds")
        await asyncio.to_thread(self.marks.wait, "release")

    async def hold(self):
        await self._released()
        return here()

    async def items(self):
        for number in range(6):
            yield number, here()
            if not number:
                await self._released()


class Groups(Threads):
    @shoal.method(concurrency_group="io")
    def hold(self):
        return super().hold()

    @shoal.method(concurrency_group="io")
    def items(self):
        return super().items()

    @shoal.method(concurrency_group="io")
    def add(self, number):
        return super().add(number)


KINDS = {
    "inorder": (Threads, {}),
    "threads": (Threads, {"max_concurrency": 2}),
    "groups": (Groups, {"concurrency_groups": {"io": 1, "other": 2}}),
    "loop": (Loop, {"max_concurrency": 1}),
    "loops": (Loop, {"max_concurrency": 2}),
}
WIDTH = {"threads": 2, "loops": 2}


def make(marks, kind):
    cls, options = KINDS[kind]
    return shoal.remote(cls).options(max_restarts=1, **options).remote(marks, kind)


def test_calls_of_every_kind_end_where_they_run_and_what_waits_runs_elsewhere(no_leaks, tmp_path):
    marks = Marks(tmp_path)
    with nodes({}) as (cluster, leaving):
        actors = {kind: make(marks, kind) for kind in KINDS}
        held = {kind: [actors[kind].hold.remote() for _ in range(WIDTH.get(kind, 1))] for kind in KINDS}
        for kind, refs in held.items():
            marks.wait(f"{kind}-holds", len(refs))
        behind = {kind: [actors[kind].add.remote(number) for number in range(BEHIND)] for kind in KINDS}
        wait_there(leaving, actors, BEHIND)
        other = drain(cluster, leaving, {})
        wait_there(leaving, actors, 0)  # they know that they leave
        late = {kind: actors[kind].add.remote(BEHIND) for kind in KINDS}
        marks.add("release")
        for kind, actor in actors.items():
            assert get(held[kind]) == [leaving.node_id] * len(held[kind]), f"{kind}: what ran was cut off"
            assert get([*behind[kind], late[kind]]) == [other.node_id] * (BEHIND + 1), kind
            assert [marks.count(f"{kind}-ran-{number}") for number in range(BEHIND + 1)] == [1] * (BEHIND + 1)
            ran = get(actor.seen.remote())
            assert (sorted(ran) if kind in WIDTH else ran) == list(range(BEHIND + 1)), kind


def test_generators_of_every_kind_stream_to_their_end_where_they_run(no_leaks, tmp_path):
    marks = Marks(tmp_path)
    with nodes({}) as (cluster, leaving):
        actors = {kind: make(marks, kind) for kind in KINDS}
        streams = {kind: actors[kind].items.options(num_returns="streaming").remote() for kind in KINDS}
        for kind in KINDS:
            marks.wait(f"{kind}-holds")
        other = drain(cluster, leaving, {})
        marks.add("release")
        for kind in KINDS:
            items = [get(ref) for ref in streams[kind]]
            assert items == [(number, leaving.node_id) for number in range(6)], kind
            until(lambda kind=kind: get(actors[kind].add.remote(0)) == other.node_id, f"{kind} has left")


class Stuck:
    """Its first calls never end; on the other node there is nothing to wait for."""

    def __init__(self, marks):
        self.marks = marks

    def hold(self, name):
        if self.marks.add(name):
            return here()
        while True:
            time.sleep(0.02)

    def add(self, number):
        self.marks.add(f"ran-{number}")
        return here()


class StuckLoop(Stuck):
    async def hold(self, name):
        if self.marks.add(name):
            return here()
        await asyncio.Event().wait()
        return None


@shoal.remote(num_cpus=0)
def call_beside(actor, marks):
    ref = actor.add.remote(BEHIND)
    marks.add("sent")
    return get([ref])


@pytest.mark.parametrize(
    ("cls", "width"), [(Stuck, 1), (Stuck, 2), (StuckLoop, 2)], ids=["in order", "threads", "loop"]
)
def test_what_does_not_end_in_time_is_cut_off_and_only_that(no_leaks, tmp_path, cls, width):
    marks, config = Marks(tmp_path), {"drain_ms_max": 700}
    with nodes(config) as (cluster, leaving):
        actor = shoal.remote(cls).options(max_restarts=1, max_concurrency=width).remote(marks)
        names = ["fails", "again"][-width:]
        held = [actor.hold.options(max_task_retries=int(name == "again")).remote(name) for name in names]
        for name in names:
            marks.wait(name)
        behind = [actor.add.remote(number) for number in range(BEHIND)]
        beside = call_beside.remote(actor, marks)  # from another process, of whose calls none has begun
        marks.wait("sent")
        other = drain(cluster, leaving, config)
        assert get(held[-1]) == other.node_id, "it may run twice"
        if width > 1:
            with pytest.raises(shoal.exceptions.ActorUnavailableError):
                get(held[0])
        assert get(behind) == [other.node_id] * BEHIND
        assert get(beside) == [other.node_id]
        assert [marks.count(f"ran-{number}") for number in range(BEHIND + 1)] == [1] * (BEHIND + 1)
        assert [marks.count(name) for name in names] == [1, 2][-width:]
