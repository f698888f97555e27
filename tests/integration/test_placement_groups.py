"""Placement groups on one node: made, used by tasks and actors, removed; what cannot be made says so."""

import json
import subprocess
import sys

import pytest

import shoal
from marks import Marks, until
from shoal.exceptions import ActorDiedError, GetTimeoutError, PlacementError
from shoal.util import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup


@pytest.fixture(scope="module")
def shoal_session(module_leaves_nothing):
    shoal.init(num_cpus=4, resources={"disk": 2}, _system_config={"infeasible_ms": 100})
    yield shoal
    shoal.shutdown()


@pytest.fixture(autouse=True)
def all_is_free(shoal_session):
    yield
    until(lambda: shoal.available_resources()["CPU"] == 4)


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path)


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "shoal", *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def rows(*arguments):
    return json.loads(run(*arguments, "--json"))["rows"]


def free_cpus():
    return shoal.available_resources()["CPU"]


@shoal.remote
def group_of():
    group = get_current_placement_group()
    return None if group is None else group.id.hex()


def test_a_group_is_made_ready_and_removed():
    group = placement_group([{"CPU": 1}, {"CPU": 2, "disk": 1}], strategy="PACK")
    assert shoal.get(group.ready(), timeout=60) == group
    assert group.wait(60)
    assert free_cpus() == 1
    assert shoal.available_resources()["disk"] == 1
    assert group.bundle_specs == [{"CPU": 1}, {"CPU": 2, "disk": 1}]
    row = placement_group_table(group)
    assert (row["state"], row["strategy"], row["bundles"]) == (
        "CREATED",
        "PACK",
        {0: {"CPU": 1}, 1: {"CPU": 2, "disk": 1}},
    )
    assert set(row["bundles_to_node_id"].values()) == {shoal.get_runtime_context().get_node_id()}
    assert group.id.hex() in placement_group_table()
    remove_placement_group(group)
    until(lambda: free_cpus() == 4)
    until(lambda: placement_group_table(group).get("state") in (None, "REMOVED"))


def test_tasks_run_in_their_bundles_and_only_so_many(marks):
    group = placement_group([{"CPU": 1}, {"CPU": 1}])

    @shoal.remote(scheduling_strategy=InGroup(group))
    def work(number):
        marks.add("started")
        marks.wait("go")
        return get_current_placement_group().id.hex(), shoal.get_runtime_context().get_placement_group_id()

    refs = [work.remote(number) for number in range(3)]
    until(lambda: marks.count("started") == 2)
    assert free_cpus() == 2
    # What is free outside of the group is for others, and what is free in it is not.
    assert shoal.get(group_of.remote(), timeout=60) is None
    marks.add("go")
    assert shoal.get(refs, timeout=60) == [(group.id.hex(), group.id.hex())] * 3
    remove_placement_group(group)


def test_a_bundle_takes_what_it_has_and_not_more():
    group = placement_group([{"CPU": 1}, {"CPU": 2}])
    for index in (-1, 1):
        ref = group_of.options(num_cpus=2, scheduling_strategy=InGroup(group, index)).remote()
        assert shoal.get(ref, timeout=60) == group.id.hex()
    assert shoal.get(group_of.options(num_cpus=0, scheduling_strategy=InGroup(group, 0)).remote(), timeout=60)
    with pytest.raises(ValueError, match="can never run in this placement group: not bundle 0"):
        group_of.options(num_cpus=2, scheduling_strategy=InGroup(group, 0))
    with pytest.raises(ValueError, match="no bundle of"):
        group_of.options(resources={"disk": 1}, scheduling_strategy=InGroup(group))
    remove_placement_group(group)


def test_children_are_captured_if_that_is_wished():
    group = placement_group([{"CPU": 2}])

    @shoal.remote
    def parent():
        away = group_of.options(scheduling_strategy="DEFAULT")
        return shoal.get([group_of.remote(), away.remote()])

    for capture, expected in ((True, group.id.hex()), (False, None)):
        strategy = InGroup(group, placement_group_capture_child_tasks=capture)
        assert shoal.get(parent.options(scheduling_strategy=strategy).remote(), timeout=60) == [
            expected,
            None,
        ]
    remove_placement_group(group)


def test_a_parent_that_waits_lends_its_bundle_to_its_child():
    group = placement_group([{"CPU": 1}])

    @shoal.remote
    def parent():
        return shoal.get(group_of.remote())

    strategy = InGroup(group, 0, placement_group_capture_child_tasks=True)
    assert shoal.get(parent.options(scheduling_strategy=strategy).remote(), timeout=60) == group.id.hex()
    remove_placement_group(group)


def test_actors_live_in_bundles_and_die_with_them():
    group = placement_group([{"CPU": 1}, {"CPU": 1}])

    @shoal.remote(num_cpus=1)
    class Member:
        def group(self):
            return get_current_placement_group()

        def child(self):
            return shoal.get(group_of.options(num_cpus=0).remote())

    strategy = InGroup(group, 1, placement_group_capture_child_tasks=True)
    actor = Member.options(scheduling_strategy=strategy, max_restarts=5).remote()
    assert shoal.get(actor.group.remote(), timeout=60) == group
    assert shoal.get(actor.child.remote(), timeout=60) == group.id.hex()
    assert free_cpus() == 2
    remove_placement_group(group)
    with pytest.raises(ActorDiedError, match="placement group"):
        until(lambda: shoal.get(actor.group.remote(), timeout=60) is None)


def test_a_detached_actor_takes_its_groups_along():
    @shoal.remote(num_cpus=0, lifetime="detached", name="maker")
    class Maker:
        def make(self):
            self.group = placement_group([{"CPU": 2}])
            return self.group.wait(60)

    maker = Maker.remote()
    assert shoal.get(maker.make.remote(), timeout=60)
    assert free_cpus() == 2
    shoal.kill(maker)
    until(lambda: free_cpus() == 4)


def test_tasks_of_a_group_that_is_removed_fail(marks):
    group = placement_group([{"CPU": 1}])

    @shoal.remote(scheduling_strategy=InGroup(group))
    def work():
        marks.add("started")
        marks.wait("never")

    running, queued = work.remote(), work.remote()
    until(lambda: marks.count("started") == 1)
    remove_placement_group(group)
    for ref in (running, queued):
        with pytest.raises(PlacementError, match="it was removed"):
            shoal.get(ref, timeout=60)
    with pytest.raises(PlacementError, match="it was removed"):
        shoal.get(work.remote(), timeout=60)


def test_a_group_waits_for_room_and_gets_idle_leases_back():
    assert shoal.get([group_of.remote() for _ in range(4)], timeout=60) == [None] * 4
    group = placement_group([{"CPU": 4}])
    assert group.wait(60)
    second = placement_group([{"CPU": 1}])
    assert not second.wait(0.05)
    assert placement_group_table(second)["state"] == "PENDING"
    assert "waits for room" in placement_group_table(second)["stats"]["scheduling_state"]
    remove_placement_group(group)
    assert second.wait(60)
    remove_placement_group(second)


@pytest.mark.parametrize(
    ("bundles", "strategy"),
    [
        ([{"CPU": 5}], "PACK"),
        ([{"CPU": 1}, {"CPU": 1}], "STRICT_SPREAD"),
        ([{"tape": 1}], "SPREAD"),
        ([{"CPU": 1}], "zone"),
    ],
)
def test_what_can_never_be_made_says_so(bundles, strategy, capfd):
    if strategy == "zone":
        group = placement_group(bundles, bundle_label_selector=[{"zone": "x"}])
    else:
        group = placement_group(bundles, strategy=strategy)
    ref = group.ready()
    said = ""

    def is_said():
        nonlocal said
        with pytest.raises(
            GetTimeoutError, match=f"of placement group {group.id.hex()}, which has not been created yet"
        ):
            shoal.get(ref, timeout=0.01)
        said += capfd.readouterr().err
        return f"placement group {group.id.hex()} cannot be created now: infeasible" in said

    until(is_said)
    with pytest.raises(GetTimeoutError, match=r"created yet \(infeasible"):
        shoal.get(ref, timeout=0.01)
    remove_placement_group(group)
    with pytest.raises(PlacementError, match="it was removed"):
        shoal.get(ref, timeout=60)


def test_people_see_groups_and_what_they_wait_for():
    group = placement_group([{"CPU": 3}, {"disk": 1}], name="seen")
    assert group.wait(60)
    more = placement_group([{"CPU": 2}])
    [row] = [row for row in rows("list", "placement-groups") if row["group_id"] == group.id.hex()]
    assert (row["name"], row["state"], row["bundles"]) == (
        "seen",
        "CREATED",
        [{"CPU": 3}, {"disk": 1}],
    )
    assert row["nodes"] == [shoal.get_runtime_context().get_node_id()] * 2
    assert placement_group_table(more)["bundles"] == {0: {"CPU": 2}}
    assert "waits for room" in run("why", more.id.hex()[:20])
    assert "2 created" not in run("status")
    assert f"{more.id.hex()}: waits for room" in run("status")
    ref = group_of.options(num_cpus=2, scheduling_strategy=InGroup(more)).remote()
    until(lambda: f"waits for placement group {more.id.hex()}, which is PENDING" in run("why", ref.hex()))
    remove_placement_group(group)
    assert shoal.get(ref, timeout=60) == more.id.hex()
    remove_placement_group(more)


def test_names():
    group = placement_group([{"CPU": 1}], name="mine", lifetime="detached")
    assert group.wait(60)
    assert get_placement_group("mine") == group
    assert get_placement_group("mine").bundle_specs == [{"CPU": 1}]
    with pytest.raises(ValueError, match="a placement group named 'mine'"):
        placement_group([{"CPU": 1}], name="mine")
    remove_placement_group(group)
    until(lambda: placement_group_table(group)["state"] == "REMOVED")
    with pytest.raises(ValueError, match="no placement group named 'mine'"):
        get_placement_group("mine")


def test_a_group_travels_to_tasks():
    group = placement_group([{"CPU": 2}])

    @shoal.remote(num_cpus=0)
    def inside(given):
        shoal.get(given.ready())
        return shoal.get(group_of.options(scheduling_strategy=InGroup(given)).remote())

    assert shoal.get(inside.remote(group), timeout=60) == group.id.hex()
    remove_placement_group(group)


def test_many_groups_come_and_go():
    for _ in range(200):
        group = placement_group([{"CPU": 1}, {"CPU": 1}])
        assert shoal.get(group.ready(), timeout=60) == group
        remove_placement_group(group)
    until(lambda: free_cpus() == 4)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (([],), ValueError),
        (([{}],), ValueError),
        (([{"CPU": 0}],), ValueError),
        (([{"CPU": -1}],), ValueError),
        (([{"CPU": "1"}],), TypeError),
        (([{"GPU": 1.5}],), ValueError),
        (({"CPU": 1},), TypeError),
        (([3],), TypeError),
        (([{"CPU": 1}], "TIGHT"), ValueError),
        (([{"CPU": 1}], "PACK", 3), TypeError),
        (([{"CPU": 1}], "PACK", "", "forever"), ValueError),
        (([{"CPU": 1}], "PACK", "", None, [{}, {}]), ValueError),
        (([{"CPU": 1}], "PACK", "", None, [{"zone": "in("}]), ValueError),
        (([{"CPU": 1}], "PACK", "", None, {"zone": "x"}), TypeError),
        (([{"CPU": 1}], "PACK", "", None, [{"zone": 1}]), TypeError),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(arguments, error):
    with pytest.raises(error):
        placement_group(*arguments)


def test_strategies_check_their_group():
    group = placement_group([{"CPU": 1}])
    with pytest.raises(TypeError, match="placement_group"):
        InGroup("group")
    with pytest.raises(ValueError, match="1 bundles"):
        InGroup(group, 1)
    with pytest.raises(ValueError, match="label_selector has no effect"):
        group_of.options(scheduling_strategy=InGroup(group), label_selector={"a": "b"})
    remove_placement_group(group)
