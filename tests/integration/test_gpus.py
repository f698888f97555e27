"""Tasks and actors on GPUs, as far as that needs none: which they are given, and that nobody else has the same."""

import os

import pytest

import shoal
from marks import Marks, until
from shoal.util import placement_group, remove_placement_group
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from twonodes import two_nodes


@pytest.fixture
def two_gpus(no_leaks, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    shoal.init(num_cpus=8, num_gpus=2, object_store_memory=64 * 2**20)
    yield
    shoal.shutdown()


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path)


@shoal.remote
def look(marks=None):
    if marks is not None:
        marks.add("begun")
        marks.wait("end")
    return shoal.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()


@shoal.remote
class Looker:
    def look(self):
        return shoal.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES")

    def context(self):
        return shoal.get_runtime_context().get_accelerator_ids()


def test_each_task_has_gpus_of_its_own(two_gpus, marks):
    assert shoal.get_gpu_ids() == []
    refs = [look.options(num_gpus=1).remote(marks) for _ in range(2)]
    marks.wait("begun", 2)
    waits = look.options(num_gpus=2).remote()
    marks.add("end")
    found = shoal.get(refs)
    assert sorted(ids for ids, _, _ in found) == [[0], [1]]
    assert all(variable == str(ids[0]) for ids, variable, _ in found)
    assert shoal.get(waits)[:2] == ([0, 1], "0,1")
    ids, variable, pid = shoal.get(look.remote())
    assert (ids, variable) == ([], None)
    assert pid not in [pid for _, _, pid in found], "what had a GPU may keep its memory"


def test_shares_of_one_gpu_are_together(two_gpus, marks):
    refs = [look.options(num_gpus=share).remote(marks) for share in (0.5, 0.25, 0.25)]
    marks.wait("begun", 3)  # else it may be the first of all
    whole = Looker.options(num_gpus=1).remote()
    assert shoal.get(whole.look.remote()) == ([1], "1")
    assert shoal.get(whole.context.remote()) == {"GPU": ["1"]}
    marks.add("end")
    assert [ids for ids, _, _ in shoal.get(refs)] == [[0]] * 3


def test_members_of_a_group_have_gpus_too(two_gpus):
    group = placement_group([{"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}])
    shoal.get(group.ready())
    actors = [
        Looker.options(
            num_gpus=1, scheduling_strategy=PlacementGroupSchedulingStrategy(group, number)
        ).remote()
        for number in range(2)
    ]
    assert sorted(ids for ids, _ in shoal.get([actor.look.remote() for actor in actors])) == [[0], [1]]
    del actors
    remove_placement_group(group)
    until(lambda: shoal.available_resources().get("GPU") == 2)


def test_gpus_of_another_node(no_leaks, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with two_nodes(resources={"GPU": 2}):
        assert shoal.get(look.options(num_gpus=2).remote())[:2] == ([0, 1], "0,1")
        until(lambda: shoal.available_resources().get("GPU") == 2)
        assert shoal.get(Looker.options(num_gpus=1).remote().look.remote()) == ([0], "0")


def test_the_gpus_that_the_node_sees(no_leaks, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    shoal.init(num_cpus=1, num_gpus=2, object_store_memory=64 * 2**20)
    try:
        assert shoal.get(look.options(num_gpus=2).remote())[:2] == ([3, 5], "3,5")
        assert shoal.get(look.remote())[:2] == ([], "3,5")
    finally:
        shoal.shutdown()
