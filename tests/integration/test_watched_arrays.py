"""Arrays passed by value again and again: tasks get what was passed; what did not change is stored once.

From the third call on the kernel watches an array, where it can; elsewhere, and in the second run of these tests, it is hashed.
"""

import ctypes
import gc
import mmap
import os
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import shoal
from ledger import everything_came_back
from marks import until
from shoal import session
from shoal.store.writetracking import open_tracker

SIZE = 8 * 1024 * 1024
PLACE = 5_000_000
PASSES_MAX = 500
LIBC = ctypes.CDLL(None, use_errno=True)


def kernel_can():
    tracker = open_tracker(1)
    if tracker is not None:
        tracker.close()
    return tracker is not None


@pytest.fixture(scope="module", params=["watched", "hashed"])
def shoal_session(request, module_leaves_nothing):
    """A cluster whose drivers keep copies for as long as they run; one whose drivers watch arrays, if the kernel can, one not."""
    watched = 16 if request.param == "watched" else 0
    shoal.init(
        num_cpus=1, _system_config={"shared_copy_ms": 3_600_000.0, "write_tracked_ranges_max": watched}
    )
    yield request.param
    shoal.shutdown()


@shoal.remote
def look(array):
    """What was passed, and where it lies: a copy that is used again is at the same address."""
    return int(array[PLACE]), int(array.sum(dtype=np.int64)), array.ctypes.data


def looked(array):
    return shoal.get(look.remote(array))


def watched_count():
    watch = session.current().packer._watch
    return watch.count if watch is not None else 0


def passed_often(array, mode):
    """Pass it until it is watched, if it can be; what the tasks saw."""
    watches = mode == "watched" and kernel_can()
    seen = {looked(array) for _ in range(5)}
    # Only after a while where pages were being moved by the kernel, or an array that has ended had this place, and was rewritten.
    for _ in range(PASSES_MAX if watches else 0):
        if watched_count() == 1:
            break
        seen.add(looked(array))
    assert len(seen) == 1, "it was stored more than once"
    if watches:
        assert watched_count() == 1
    return seen.pop()


def by_numpy(array):
    array[PLACE] = 7


def by_memoryview(array):
    memoryview(array)[PLACE] = 7


def by_ctypes(array):
    ctypes.memset(array.ctypes.data + PLACE, 7, 1)


def by_struct(array):
    struct.pack_into("<B", array, PLACE, 7)


def by_readinto(array):
    read_end, write_end = os.pipe()
    os.write(write_end, b"\x07")
    with open(read_end, "rb", buffering=0) as file:
        assert file.readinto(memoryview(array)[PLACE : PLACE + 1]) == 1
    os.close(write_end)


def by_thread(array):
    thread = threading.Thread(target=by_numpy, args=[array])
    thread.start()
    thread.join()


def by_view(array):
    array.reshape(-1, 2)[PLACE // 2, 0] = 7


@pytest.mark.parametrize(
    "write", [by_numpy, by_memoryview, by_ctypes, by_struct, by_readinto, by_thread, by_view]
)
def test_a_change_between_two_calls_is_seen_by_the_second(shoal_session, write):
    array = np.ones(SIZE, np.uint8)
    value, total, _ = passed_often(array, shoal_session)
    assert (value, total) == (1, SIZE)
    write(array)
    for _ in range(3):
        assert looked(array)[:2] == (7, SIZE + 6)
    array[PLACE] = 9  # watched at once now
    for _ in range(3):
        assert looked(array)[:2] == (9, SIZE + 8)


@pytest.mark.parametrize("place", [0, 1, 5000, SIZE - 5000, SIZE - 1])
def test_bytes_at_both_ends_count(shoal_session, place):
    """The first and last ones are in pages that are not the array's alone."""
    array = np.ones(SIZE, np.uint8)
    passed_often(array, shoal_session)
    for value in (2, 3, 4):
        array[place] = value
        assert looked(array)[1] == SIZE + value - 1
        assert looked(array)[1] == SIZE + value - 1


def test_all_of_it_is_written_between_rounds(shoal_session):
    array = np.ones(SIZE, np.uint8)
    for value in (1, 2, 3, 4):
        array[:] = value
        seen = {looked(array) for _ in range(6)}
        assert len(seen) == 1
        assert seen.pop()[:2] == (value, value * SIZE)


def test_discarded_pages_are_zero(shoal_session):
    memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(memory, np.uint8)
    array[:] = 1
    passed_often(array, shoal_session)
    memory.madvise(mmap.MADV_DONTNEED)
    assert looked(array)[:2] == (0, 0)


def test_memory_of_files_is_not_watched_and_its_changes_are_seen(shoal_session, tmp_path):
    path = tmp_path / "values"
    path.write_bytes(b"\x01" * SIZE)
    array = np.memmap(path, np.uint8, "r+").view(np.ndarray)
    assert {looked(array)[:2] for _ in range(5)} == {(1, SIZE)}
    assert watched_count() == 0
    with open(path, "r+b") as file:
        file.seek(PLACE)
        file.write(b"\x07")
    assert looked(array)[:2] == (7, SIZE + 6)


def test_arrays_that_end_leave_nothing_watched(shoal_session):
    for value in range(6):
        array = np.full(SIZE, value, np.uint8)
        assert passed_often(array, shoal_session)[:2] == (value, value * SIZE)
        del array
        gc.collect()
        until(lambda: watched_count() == 0)
        array = np.full(SIZE, 77, np.uint8)  # perhaps in the same place
        assert looked(array)[:2] == (77, 77 * SIZE)
        del array


def test_views_of_one_array(shoal_session):
    """They overlap, so protecting one takes away what is known of the other."""
    array = np.ones(2 * SIZE, np.uint8)
    front, back = array[:SIZE], array[SIZE // 2 : SIZE // 2 + SIZE]
    for value in range(1, 6):
        for _ in range(4):
            assert looked(front)[1] == int(front.sum(dtype=np.int64))
            assert looked(back)[1] == int(back.sum(dtype=np.int64))
        array[SIZE // 2 + 100] = value
        array[SIZE + SIZE // 4] = value + 1


def test_more_arrays_than_are_watched(shoal_session):
    arrays = [np.full(SIZE, value, np.uint8) for value in range(6)]
    for round_ in range(5):
        for value, array in enumerate(arrays):
            array[PLACE] = 100 + round_ // 3
            assert looked(array)[0] == 100 + round_ // 3
            assert looked(array)[1] == value * (SIZE - 1) + 100 + round_ // 3


def test_a_copy_that_is_gone_is_made_again(shoal_session):
    array = np.ones(SIZE, np.uint8)
    passed_often(array, shoal_session)
    with session.current().lock:
        session.current().packer.drop_recent(None)
    everything_came_back()
    assert {looked(array)[:2] for _ in range(4)} == {(1, SIZE)}
    array[PLACE] = 7
    assert looked(array)[:2] == (7, SIZE + 6)


def test_named_arguments_are_stored_once_too(shoal_session):
    array = np.ones(SIZE, np.uint8)
    assert len({shoal.get(look.remote(array=array)) for _ in range(5)}) == 1
    array[PLACE] = 7
    assert shoal.get(look.remote(array=array))[:2] == (7, SIZE + 6)


def test_several_threads_pass_one_array(shoal_session):
    array = np.ones(SIZE, np.uint8)
    with ThreadPoolExecutor(3) as pool:
        seen = set(pool.map(lambda _: looked(array)[:2], range(30)))
    assert seen == {(1, SIZE)}
    array[PLACE] = 7
    assert looked(array)[:2] == (7, SIZE + 6)


def test_a_child_does_not_disturb_its_parent(shoal_session):
    array = np.ones(SIZE, np.uint8)
    passed_often(array, shoal_session)
    child = os.fork()
    if child == 0:
        array[:] = 9
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert looked(array)[:2] == (1, SIZE)
    array[PLACE] = 7
    assert looked(array)[:2] == (7, SIZE + 6)


def test_a_task_passes_an_array_again_and_again(shoal_session):
    @shoal.remote
    def parent():
        array = np.ones(SIZE, np.uint8)
        before = [shoal.get(look.remote(array)) for _ in range(5)]
        array[PLACE] = 7
        return len(set(before)), before[0][:2], shoal.get(look.remote(array))[:2]

    assert shoal.get(parent.remote()) == (1, (1, SIZE), (7, SIZE + 6))


def patience_with(array):
    key = (id(array), array.ctypes.data, array.nbytes)
    return session.current().packer._last_arrays[key].history._patience


def array_at(memory, identity):
    """An array over ``memory`` that is the object ``identity``, as that of one which has ended may be."""
    others = []
    for _ in range(100_000):
        others.append(np.frombuffer(memory, np.uint8))
        if id(others[-1]) == identity:
            return others.pop()
    pytest.fail("no object came to lie where one had been")


def test_what_happened_to_an_array_is_not_held_against_its_successor(shoal_session, tmp_path):
    """One at the same place, with the same bytes and the same id; the first could not be watched, being in a file."""
    path = tmp_path / "values"
    path.write_bytes(b"\x01" * SIZE)
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), SIZE)
    array = np.frombuffer(memory, np.uint8)
    seen = {looked(array) for _ in range(5)}
    if shoal_session == "watched" and kernel_can():
        assert patience_with(array) > 1
    identity = id(array)
    del array
    array = array_at(memory, identity)
    seen.add(looked(array))
    assert patience_with(array) == 1
    assert len(seen) == 1, "it was stored more than once"
