"""HeadStorage: what survives, and what is refused. And what a head keeps that nothing outlives."""

import sqlite3
from dataclasses import replace

import pytest

from shoal.config import load
from shoald.head import events as ev
from shoald.head.actors import Actor, ForgetKill, SaveKill
from shoald.head.core import Durable
from shoald.head.ephemeral import EphemeralStorage
from shoald.head.groupwords import ForgetGroup, Group, GroupState, SaveGroup
from shoald.head.storage import HeadStorage, StorageError

CONFIG = load({"key_bytes_max": 10, "value_bytes_max": 20, "keys_max": 3})


@pytest.fixture
def opened(tmp_path):
    """Opens the storage of this test's directory, any number of times in turn; the last one is closed."""
    storages = []

    def open_it(name="c"):
        for storage in storages:
            storage.close()
        storages.append(HeadStorage(str(tmp_path), CONFIG, lambda: name))
        return storages[-1]

    yield open_it
    for storage in storages:
        storage.close()


def view(name, state=ev.ALIVE):
    info = ev.NodeInfo("h:1", "host", 5, "n", {"CPU": 20000}, {"zone": "a"}, 100)
    return ev.NodeView(name, name + "1", info, state, "why", False, 0, ev.Gauges())


def test_nodes_jobs_and_the_cluster_survive(opened):
    storage = opened("first")
    job = ev.Job("j", "a", "name", "space", 5, ev.JOB_RUNNING, "", 1.5, 0.0)
    storage.save([ev.SaveNode(view("a")), ev.SaveNode(view("b")), ev.SaveJob(job), ev.Note("not durable")])
    storage.save([ev.SaveNode(view("a", ev.DEAD)), ev.ForgetNode("b", "b1")])
    storage = opened("second")
    assert storage.cluster_id == "first"
    durable = storage.load()
    assert durable.nodes == (view("a", ev.DEAD),)
    assert durable.jobs == (job,)
    storage.save([ev.ForgetJob("j")])
    assert opened().load().jobs == ()


def test_kills_survive_in_their_order(opened):
    kills = [Actor(bytes([number]) * 16, name="n", state="DEAD", reason="killed") for number in (3, 1, 2)]
    storage = opened()
    storage.save([SaveKill(actor) for actor in kills])
    storage = opened()
    assert storage.load().kills == tuple(kills)
    storage.save([ForgetKill(kills[0].actor_id)])
    assert opened().load().kills == tuple(kills[1:])


def test_placement_groups_survive(opened):
    group = Group(b"g" * 16, "n", "s", "SPREAD", ({"CPU": 5}, {"CPU": 1, "disk": 2}), True, "j", "aa")
    group = replace(group, selectors=({}, {"zone": "in(a, b)"}))
    state = GroupState(group, "CREATED", "why", ("aa", "bb"))
    storage = opened()
    storage.save([SaveGroup(replace(state, state="PENDING")), SaveGroup(state)])
    storage = opened()
    assert storage.load().groups == (state,)
    storage.save([ForgetGroup(b"g" * 16)])
    assert opened().load().groups == ()


@pytest.fixture(params=["durable", "ephemeral"])
def storage(opened, request):
    """Either kind: they are one to who uses them."""
    return opened() if request.param == "durable" else EphemeralStorage(CONFIG, "c")


def test_a_new_storage_remembers_nothing(storage):
    assert storage.load() == Durable()
    assert storage.cluster_id == "c"


def test_keys_survive(opened):
    assert opened().put_key("k", b"1", only_new=True)
    assert opened().get_key("k") == b"1"


def test_keys(storage):
    assert storage.put_key("k", b"1", only_new=True)
    assert not storage.put_key("k", b"2", only_new=True)
    assert storage.get_key("k") == b"1"
    assert storage.put_key("k", b"3", only_new=False)
    assert storage.get_key("k") == b"3"
    assert storage.delete_key("k")
    assert not storage.delete_key("k")
    assert storage.get_key("k") is None


def test_keys_are_bounded(storage):
    for key, value in (("x" * 11, b""), ("k", b"x" * 21)):
        with pytest.raises(ValueError, match="bytes"):
            storage.put_key(key, value, only_new=False)
    for number in range(3):
        storage.put_key(str(number), b"", only_new=False)
    storage.put_key("0", b"again", only_new=False)
    with pytest.raises(ValueError, match="keys_max"):
        storage.put_key("3", b"", only_new=False)


def test_a_second_head_is_refused(opened, tmp_path):
    opened()
    with pytest.raises(StorageError, match="another head"):
        HeadStorage(str(tmp_path), CONFIG, lambda: "x")


def test_another_schema_and_garbage_are_refused(opened, tmp_path):
    opened().close()
    path = tmp_path / "head.sqlite"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StorageError, match="schema 99"):
        HeadStorage(str(tmp_path), CONFIG, lambda: "x")
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(StorageError, match="damaged"):
        HeadStorage(str(tmp_path), CONFIG, lambda: "x")


def test_a_failed_save_changes_nothing(opened, monkeypatch):
    storage = opened()
    bad = ev.SaveJob(ev.Job(None))  # type: ignore[arg-type]
    storage._db.execute("CREATE TRIGGER no BEFORE INSERT ON jobs BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(sqlite3.Error):
        storage.save([ev.SaveNode(view("a")), bad])
    assert storage.load().nodes == ()


def test_the_file_is_private(opened, tmp_path):
    opened()
    assert (tmp_path / "head.sqlite").stat().st_mode & 0o077 == 0
