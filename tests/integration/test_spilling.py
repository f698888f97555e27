"""A store that is too small slows a job down, and neither stops nor loses it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shoal
from ledger import rows
from marks import until
from shoal import session

MIB = 1024**2
STORE = 64 * MIB
PART = 4 * MIB
FOR_EVER = {"store_full_wait_ms": 3_600_000, "store_relief_wait_ms": 3_600_000}


def start(**more):
    return shoal.init(num_cpus=2, object_store_memory=STORE, **more)


@pytest.fixture
def small(no_leaks):
    """A store of 64 MiB that spills to the session's directory."""
    context = start()
    yield context
    shoal.shutdown()


@pytest.fixture
def spilling_to(no_leaks, tmp_path):
    """Starts such a cluster that spills to the directories of these names; yields a function."""

    def begin(*names, **settings):
        paths = [tmp_path / name for name in names]
        start(object_spilling_directory=",".join(map(str, paths)), _system_config=settings)
        return paths

    yield begin
    shoal.shutdown()


def array(number, size=PART):
    return np.full(size // 8, number, np.int64)


def check(value, number, size=PART):
    assert len(value) == size // 8
    assert (value == number).all()


def spill_files(*folders):
    return [path for folder in folders for path in folder.glob("shoal-spill-*/*.spill")]


def test_four_times_the_store_goes_in_and_comes_back(small):
    count = 4 * STORE // PART
    refs = [shoal.put(array(number)) for number in range(count)]
    for number, ref in enumerate(refs):
        check(shoal.get(ref), number)
    summary = shoal.memory_summary()
    assert summary["spilled"] >= 3 * STORE
    assert summary["spilled_objects"] <= count  # each is written once, whatever happens to it later
    assert summary["restored_objects"] <= count
    assert summary["used"] <= STORE
    assert summary["disk"] >= summary["disk_live"] > 0


def test_a_value_larger_than_the_store_has_another_way_out_than_dropping_refs(no_leaks):
    start(_system_config={"spilling": False})
    try:
        with pytest.raises(
            shoal.exceptions.ObjectStoreFullError,
            match="can never be stored: the object store of this node has",
        ) as raised:
            shoal.put(np.zeros(2 * STORE, np.uint8))
        assert "store the value in parts" in str(raised.value)
        assert "drop refs" not in str(raised.value)
    finally:
        shoal.shutdown()


def test_tasks_whose_arguments_fill_the_store_do_not_thrash(small):
    """Each task needs half of the store, and two run at a time; all objects together are four times the store."""

    @shoal.remote
    def total(*parts):
        return sum(int(part[0]) for part in parts)

    count, group = 4 * STORE // PART, STORE // PART // 2
    refs = [shoal.put(array(number)) for number in range(count)]
    groups = [refs[start : start + group] for start in range(0, count, group)]
    sums = shoal.get([total.remote(*each) for each in groups])
    assert sums == [sum(range(start, start + group)) for start in range(0, count, group)]
    # Once, if both tasks go on at the same pace; what thrashes comes back again and again.
    assert shoal.memory_summary()["restored_objects"] <= 4 * count


def test_a_chain_of_tasks_with_a_working_set_of_four_stores_finishes(small):
    @shoal.remote
    def add_one(part):
        return part + 1

    count = 4 * STORE // PART
    refs = [shoal.put(array(number)) for number in range(count)]
    for _ in range(2):
        refs = [add_one.remote(ref) for ref in refs]
    for number, ref in enumerate(refs):
        check(shoal.get(ref), number + 2)
    assert shoal.memory_summary()["restored_objects"] <= 4 * count


def test_files_go_with_their_objects_and_the_directory_with_the_session(spilling_to):
    folders = spilling_to("a", "b", spill_spare_ms=200)
    refs = [shoal.put(array(number)) for number in range(2 * STORE // PART)]
    assert all(spill_files(folder) for folder in folders), "they take turns"
    del refs
    until(lambda: not spill_files(*folders))
    until(lambda: not shoal.memory_summary()["disk"])
    shoal.shutdown()
    assert [list(folder.iterdir()) for folder in folders] == [[], []]


def test_small_objects_share_files_and_dead_ones_make_room(spilling_to):
    (folder,) = spilling_to("a", spill_batch_bytes_min=4 * MIB, spill_file_bytes_max=4 * MIB)
    size = 256 * 1024
    refs = [shoal.put(array(number, size)) for number in range(3 * STORE // size)]
    until(lambda: not shoal.memory_summary()["restoring"])
    files = len(spill_files(folder))
    assert files <= len(refs) // 4, "they share files, though a busy machine has fewer victims at a time"
    kept = dict(list(enumerate(refs))[::8])
    del refs
    until(lambda: shoal.memory_summary()["disk"] <= 2 * len(kept) * (size + 4096))
    for number, ref in kept.items():
        check(shoal.get(ref), number, size)


@pytest.mark.parametrize("whole", [True, False])
def test_a_directory_that_was_removed_is_made_again(spilling_to, whole):
    """By who cleans up, for instance: what was in it is lost, but the store goes on."""
    (folder,) = spilling_to("a")
    before = [shoal.put(array(number)) for number in range(2 * STORE // PART)]
    removed = folder if whole else next(folder.glob("shoal-spill-*"))
    shutil.rmtree(removed.rename(folder.parent / "away"))  # at once: files are being written there
    after = [shoal.put(array(number)) for number in range(2 * STORE // PART)]
    for number, ref in enumerate(after):
        check(shoal.get(ref), number)
    with pytest.raises(shoal.exceptions.ObjectLostError, match="No such file"):
        shoal.get(before)
    log = Path(session.runtime().identity.session_dir, "logs", "node.log").read_text()
    assert log.count("somebody has removed") == 1


def test_also_where_files_of_dead_objects_were_to_be_used_again(spilling_to):
    """A creator is lent one as it is: it notices, and its value goes the usual way."""
    (folder,) = spilling_to("a", spill_in_place_bytes_min=PART)
    refs = [shoal.put(array(number)) for number in range(2 * STORE // PART)]
    del refs
    until(lambda: shoal.memory_summary()["disk_spare"] >= 4 * PART)
    written = shoal.memory_summary()["written_in_files"]
    shutil.rmtree(folder.rename(folder.parent / "away"))
    refs = [shoal.put(array(number)) for number in range(2 * STORE // PART)]
    for number, ref in enumerate(refs):
        check(shoal.get(ref), number)
    assert written > 0
    log = Path(session.runtime().identity.session_dir, "logs", "node.log").read_text()
    assert log.count("somebody has removed") == 1


def test_who_fills_the_store_is_called_as_people_know_it(no_leaks):
    @shoal.remote
    class Hoard:
        def fill(self):
            self.refs = [shoal.put(array(number)) for number in range(STORE // PART - 2)]

    start(_system_config={"spilling": False, "store_full_wait_ms": 100})
    try:
        hoard = Hoard.options(name="dragon").remote()
        shoal.get(hoard.fill.remote())
        with pytest.raises(
            shoal.exceptions.ObjectStoreFullError, match=r"actor \S*Hoard 'dragon' \d+ holds 14 objects"
        ):
            shoal.put(array(0, 4 * PART))
    finally:
        shoal.shutdown()


def test_a_damaged_file_is_a_lost_copy(spilling_to):
    (folder,) = spilling_to("a", spill_threshold=1.0)
    refs = {ref.hex(): ref for ref in (shoal.put(array(number)) for number in range(2 * STORE // PART))}
    spilled = [row["id"] for row in rows() if row["state"] == "spilled"]
    for path in spill_files(folder):
        content = bytearray(path.read_bytes())
        for place in range(0, len(content), MIB):
            content[place] ^= 1
        path.write_bytes(content)
    with pytest.raises(shoal.exceptions.ObjectLostError, match="checksum"):
        shoal.get(refs[spilled[0]])
    with pytest.raises(shoal.exceptions.ObjectLostError, match="damaged"):
        shoal.get(refs[spilled[0]])
    assert [row["id"] for row in rows() if row["state"] == "lost"] == [spilled[0]]
    here = next(row["id"] for row in rows() if row["state"] == "sealed")
    assert len(shoal.get(refs[here])) == PART // 8


def test_a_result_whose_file_is_damaged_is_made_again(spilling_to, tmp_path):
    (folder,) = spilling_to("a", spill_threshold=1.0)
    marks = tmp_path / "marks"

    @shoal.remote
    def make(number):
        with open(marks, "a") as file:
            print(number, file=file)
        return array(number)

    refs = [make.remote(number) for number in range(2 * STORE // PART)]
    shoal.wait(refs, num_returns=len(refs))
    spilled = {row["id"] for row in rows() if row["state"] == "spilled"}
    (number, *_) = [number for number, ref in enumerate(refs) if ref.hex() in spilled]
    for path in spill_files(folder):
        path.write_bytes(bytes(path.stat().st_size))
    check(shoal.get(refs[number]), number)
    assert marks.read_text().split().count(str(number)) == 2
    here = next(number for number, ref in enumerate(refs) if ref.hex() not in spilled)
    check(shoal.get(refs[here]), here)


def damage(*folders):
    for path in spill_files(*folders):
        path.write_bytes(bytes(path.stat().st_size))


def test_a_result_whose_file_its_reader_finds_damaged_is_made_again(spilling_to, tmp_path):
    """It is larger than the store, so it is read where it was written, by the driver and by a task."""
    (folder,) = spilling_to("a")
    marks = tmp_path / "marks"

    @shoal.remote
    def make():
        with open(marks, "a") as file:
            print("run", file=file)
        return array(7, 2 * STORE)

    @shoal.remote
    def first(part):
        return int(part[0])

    ref = make.remote()
    shoal.wait([ref])
    damage(folder)
    check(shoal.get(ref), 7, 2 * STORE)
    assert marks.read_text().split() == ["run"] * 2
    damage(folder)
    assert shoal.get(first.remote(ref)) == 7
    assert marks.read_text().split() == ["run"] * 3


def test_a_chain_whose_files_are_damaged_is_made_again_on_two_cpus(spilling_to):
    """That an argument is lost shows when it is read; the task that waits for it leaves its CPU to the one that makes it."""
    (folder,) = spilling_to("a", spill_threshold=1.0, arguments_lend_ms=3_600_000)

    @shoal.remote
    def grow(values, number):
        return array(number + 1) if values is None else values + 1

    chain = [grow.remote(None, 0)]
    for number in range(6):
        chain.append(grow.remote(chain[-1], number))
    shoal.wait(chain, num_returns=len(chain))
    expected = [int(shoal.get(ref)[-1]) for ref in chain]
    others = [shoal.put(array(number)) for number in range(2 * STORE // PART)]
    damage(folder)
    del others
    assert [int(shoal.get(ref, timeout=60)[-1]) for ref in reversed(chain)] == expected[::-1]


def test_who_lacks_a_put_value_to_make_a_result_again_is_told_so(spilling_to):
    (folder,) = spilling_to("a", spill_threshold=1.0)

    @shoal.remote
    def double(values):
        return values * 2

    values = shoal.put(array(7))
    ref = double.remote(values)
    shoal.get(ref)
    others = [shoal.put(array(number)) for number in range(2 * STORE // PART)]
    del others
    damage(folder)
    with pytest.raises(shoal.exceptions.ObjectLostError, match=f"argument {values.hex()} is lost"):
        shoal.get(ref, timeout=60)
    check(shoal.get(double.remote(array(3)), timeout=60), 6)


@pytest.mark.parametrize("left", [2 * STORE, PART, 0])
def test_a_put_value_whose_file_its_reader_finds_damaged_is_lost_and_says_why(spilling_to, left):
    (folder,) = spilling_to("a")
    ref = shoal.put(array(7, 2 * STORE))
    (path,) = spill_files(folder)
    path.write_bytes(bytes(left))
    for _ in range(2):
        assert shoal.wait([ref]) == ([ref], [])  # an error is ready, and so is what nobody has looked at yet
        with pytest.raises(shoal.exceptions.ObjectLostError, match=r"damaged.* put"):
            shoal.get(ref)
    assert shoal.wait([ref]) == ([ref], [])
    assert [row["state"] for row in rows() if row["id"] == ref.hex()] == ["lost"]


def test_without_spilling_a_full_store_is_an_error_that_names_who_fills_it(no_leaks):
    start(_system_config={"spilling": False, "store_full_wait_ms": 3_600_000})  # it is certain at once
    try:
        refs = []
        with pytest.raises(
            shoal.exceptions.ObjectStoreFullError, match=f"driver {os.getpid()} holds"
        ) as caught:
            for number in range(2 * STORE // PART):
                refs.append(shoal.put(array(number)))  # noqa: PERF401 - up to the error
        assert str(caught.value).count("shoal memory") == 1, "what to do is said once"
        for number, ref in enumerate(refs):
            check(shoal.get(ref), number)
    finally:
        shoal.shutdown()


def test_what_is_read_stays_in_place_and_what_was_read_makes_room(small):
    views = [shoal.get(shoal.put(array(number))) for number in range(STORE // PART // 2)]
    refs = [shoal.put(array(100 + number)) for number in range(2 * STORE // PART)]
    for number, view in enumerate(views):
        check(view, number)
    for number, ref in enumerate(refs):
        check(shoal.get(ref), 100 + number)
    for number, view in enumerate(views):
        check(view, number)


def test_a_dead_daemon_leaves_files_and_the_next_one_there_removes_them(spilling_to, tmp_path):
    folder = tmp_path / "a"
    dead = folder / "shoal-spill-dead"
    alive = folder / "other"
    dead.mkdir(parents=True)
    alive.mkdir()
    (dead / "owner").touch()
    (dead / "1.spill").write_bytes(b"rest")
    spilling_to("a")

    @shoal.remote
    def nothing():
        return None

    shoal.get(nothing.remote())
    until(lambda: not dead.exists())
    assert alive.exists()


def test_a_place_that_cannot_be_used_is_said_at_once(no_leaks):
    with pytest.raises(Exception, match="cannot spill objects to /proc/nowhere"):
        start(object_spilling_directory="/proc/nowhere")
    assert not shoal.is_initialized()


def test_the_configuration_of_ray_says_where(no_leaks, tmp_path):
    config = json.dumps({"type": "filesystem", "params": {"directory_path": str(tmp_path)}})
    start(_system_config={"object_spilling_config": config})
    try:
        refs = [shoal.put(array(number)) for number in range(2 * STORE // PART)]
        assert spill_files(Path(tmp_path))
        check(shoal.get(refs[0]), 0)
    finally:
        shoal.shutdown()


def test_a_list_that_is_larger_than_the_store_is_read_all_the_same(small):
    count = 2 * STORE // PART
    refs = [shoal.put(array(number)) for number in range(count)]
    values = shoal.get(refs)
    summary = shoal.memory_summary()
    assert summary["read_in_files"] > 0
    assert summary["used"] <= STORE
    del refs
    for number, value in enumerate(values):
        check(value, number)
        with pytest.raises(ValueError, match="read-only"):
            value[0] = 1
    assert not any(row["holders"] for row in rows() if row["state"] == "spilled")


def test_a_task_whose_arguments_do_not_fit_runs_all_the_same(small):
    @shoal.remote
    def total(*parts):
        return sum(int(part[0]) for part in parts)

    count = 3 * STORE // PART // 2
    refs = [shoal.put(array(number)) for number in range(count)]
    assert shoal.get(total.remote(*refs)) == sum(range(count))


def test_a_store_full_of_views_has_the_rest_written_to_files(no_leaks):
    start(_system_config=FOR_EVER)
    try:
        views = [shoal.get(shoal.put(array(number))) for number in range(STORE // PART + 4)]
        for number, view in enumerate(views):
            check(view, number)
        assert shoal.memory_summary()["read_in_files"] > 0
        del view, views
        until(lambda: not shoal.memory_summary()["disk"])
    finally:
        shoal.shutdown()


def test_an_object_larger_than_the_store(small):
    ref = shoal.put(array(5, 2 * STORE))
    check(shoal.get(ref), 5, 2 * STORE)

    @shoal.remote
    def doubled(part):
        return part * 2

    check(shoal.get(doubled.remote(ref)), 10, 2 * STORE)
    del ref
    until(lambda: not shoal.memory_summary()["disk"])


def test_tasks_whose_arguments_and_results_cannot_all_be_in_memory_finish(no_leaks):
    """Two tasks at a time, each with two fifths of the store as argument and as result: nobody is waited for in vain."""
    start(_system_config=FOR_EVER)
    try:

        @shoal.remote
        def more(part):
            return part + 1

        size = STORE * 2 // 5
        refs = [more.remote(shoal.put(array(number, size))) for number in range(4)]
        for number, ref in enumerate(refs):
            check(shoal.get(ref), number + 1, size)
    finally:
        shoal.shutdown()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 48 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_loses_nothing(no_leaks, small_disk):
    start(object_spilling_directory=str(small_disk), _system_config={"store_full_wait_ms": 500})
    try:
        refs = []
        with pytest.raises(shoal.exceptions.OutOfDiskError, match="left"):
            for number in range(4 * STORE // PART):
                refs.append(shoal.put(array(number)))  # noqa: PERF401 - up to the error
        assert len(refs) * PART > STORE, "what there was of the disk was used"
        for number, ref in enumerate(refs):
            check(shoal.get(ref), number)
        del ref, refs
        until(lambda: not shoal.memory_summary()["disk"])
        check(shoal.get(shoal.put(array(7))), 7)
    finally:
        shoal.shutdown()


def spill_and_read(url):
    start(object_spilling_directory=url)
    try:
        refs = [shoal.put(array(number)) for number in range(2 * STORE // PART)]
        for number, ref in enumerate(refs):
            check(shoal.get(ref), number)
        assert shoal.memory_summary()["restored_objects"] > 0
    finally:
        shoal.shutdown()


def test_remote_directories_work_through_fsspec(no_leaks):
    pytest.importorskip("fsspec")
    spill_and_read("memory://spilled")


def test_spilling_to_s3(no_leaks, monkeypatch):
    """Against a server that speaks S3."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    s3 = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name, value in (
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    try:
        client.create_bucket(Bucket="spilled")
        spill_and_read("s3://spilled/objects")
        assert client.list_objects_v2(Bucket="spilled").get("Contents", []) == []
        with pytest.raises(shoal.exceptions.ObjectStoreFullError, match=r"no-such-bucket.*does not exist"):
            spill_and_read("s3://no-such-bucket/objects")
        assert [each["Name"] for each in client.list_buckets()["Buckets"]] == ["spilled"], "none was made"
        with pytest.raises(shoal.exceptions.ClusterStartError, match="names no bucket"):
            spill_and_read("s3://")
    finally:
        client.close()
        s3.stop()


def test_the_command_line_accounts_for_every_byte(small):
    refs = [shoal.put(array(number)) for number in range(2 * STORE // PART)]
    view = shoal.get(refs[-1])
    session_dir = Path(small.address_info["session_dir"])
    command = [sys.executable, "-m", "shoal", "memory", "--stats", "--json"]

    def settled():
        done = subprocess.run(command, capture_output=True, check=True)
        answer = json.loads(done.stdout)
        total, found = answer["total"], answer["rows"]
        in_files = sum(path.stat().st_size for path in spill_files(session_dir / "spill"))
        in_memory = sum(row["allocated_bytes"] for row in found)
        assert {row["state"] for row in found} <= {"sealed", "spilled", "restoring"}
        assert len(found) == len(refs)
        return (
            in_memory + total["leased"] + total["restoring"] == total["used"]
            and sum(row["disk_bytes"] for row in found) == total["disk_live"]
            and in_files == total["disk"] + total["disk_spare"]
        )

    until(settled)
    check(view, len(refs) - 1)
