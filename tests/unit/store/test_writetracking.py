"""The kernel sees every write to tracked memory, of whatever kind, and errs only by seeing one where there was none."""

import ctypes
import mmap
import os
import platform
import struct
import threading

import numpy as np
import pytest

from shoal.store import writetracking
from shoal.store.writetracking import PAGE_BYTES, devices_present, open_tracker

PAGES = 1200  # more than two huge pages
SIZE = PAGES * PAGE_BYTES
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = LIBC.mremap.restype = ctypes.c_void_p
LIBC.syscall.restype = ctypes.c_long
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MAP_FIXED = 0x10
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2
MADV_DONTNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_COLLAPSE = 4, 14, 15, 25
IO_URING_SETUP = 425


@pytest.fixture
def tracker():
    found = open_tracker(4)
    if found is None:
        pytest.skip(
            "this kernel (before 6.7, or a filter of system calls) does not say what was written, or a GPU is here"
        )
    yield found
    found.close()


class Memory:
    """Private memory of SIZE bytes, all of it there."""

    def __init__(self, advice=MADV_NOHUGEPAGE, at=0, flags=PRIVATE):
        self.start = map_memory(SIZE, at, flags)
        self.end = self.start + SIZE
        LIBC.madvise(ctypes.c_void_p(self.start), ctypes.c_size_t(SIZE), advice)
        self.buffer = (ctypes.c_uint8 * SIZE).from_address(self.start)
        self.array = np.frombuffer(self.buffer, np.uint8)
        self.array[:] = 1

    def unmap(self):
        LIBC.munmap(ctypes.c_void_p(self.start), ctypes.c_size_t(SIZE))


def map_memory(size, at=0, flags=PRIVATE):
    """The address of a new mapping."""
    fixed = MAP_FIXED if at else 0
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    return LIBC.mmap(
        ctypes.c_void_p(at), ctypes.c_size_t(size), protection, flags | fixed, -1, ctypes.c_long(0)
    )


@pytest.fixture(params=[MADV_NOHUGEPAGE, MADV_HUGEPAGE], ids=["small", "huge"])
def memory(request):
    made = Memory(request.param)
    yield made
    made.unmap()


def protected(tracker, memory):
    token = tracker.protect(memory.start, memory.end)
    assert token is not None
    assert tracker.unwritten(token) is True
    return token


def by_numpy(memory):
    memory.array[SIZE // 2] += 1


def by_memoryview(memory):
    memoryview(memory.buffer).cast("B")[SIZE // 2 : SIZE // 2 + 4] = b"abcd"


def by_ctypes(memory):
    ctypes.memmove(memory.start + SIZE // 2, b"abcd", 4)


def by_struct(memory):
    struct.pack_into("<Q", memory.buffer, SIZE // 2, 12345)


def by_readinto(memory):
    with open("/proc/self/exe", "rb", buffering=0) as file:
        assert file.readinto(memoryview(memory.buffer)[SIZE // 2 : SIZE // 2 + 100]) == 100


def by_recv(memory):
    read_end, write_end = os.pipe()
    os.write(write_end, b"abcd")
    assert os.readv(read_end, [memoryview(memory.buffer)[SIZE // 2 : SIZE // 2 + 4]]) == 4
    os.close(read_end)
    os.close(write_end)


def by_another_thread(memory):
    thread = threading.Thread(target=by_numpy, args=[memory])
    thread.start()
    thread.join()


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def write_by_process_vm(pid, address, content):
    """process_vm_writev: as a debugger, or a library for messages between processes, writes."""
    source = ctypes.create_string_buffer(content, len(content))
    local = _IoVec(ctypes.addressof(source), len(content))
    remote = _IoVec(address, len(content))
    arguments = (
        ctypes.byref(local),
        ctypes.c_ulong(1),
        ctypes.byref(remote),
        ctypes.c_ulong(1),
        ctypes.c_ulong(0),
    )
    assert LIBC.process_vm_writev(pid, *arguments) == len(content)


def by_process_vm(memory):
    write_by_process_vm(os.getpid(), memory.start + SIZE // 2, b"abcd")


def by_proc_mem(memory):
    with open("/proc/self/mem", "r+b", buffering=0) as file:
        file.seek(memory.start + SIZE // 2)
        file.write(b"abcd")


WAYS = [
    by_numpy,
    by_memoryview,
    by_ctypes,
    by_struct,
    by_readinto,
    by_recv,
    by_another_thread,
    by_process_vm,
    by_proc_mem,
]


@pytest.mark.parametrize("write", WAYS)
def test_every_way_to_write_is_seen(tracker, memory, write):
    token = protected(tracker, memory)
    write(memory)
    assert tracker.unwritten(token) is False
    assert tracker.pages_written(token) == 1


def test_reading_is_no_write(tracker, memory):
    token = protected(tracker, memory)
    assert int(memory.array.sum()) == SIZE
    with open(os.devnull, "wb", buffering=0) as file:
        file.write(memory.buffer)
    assert tracker.unwritten(token) is True
    assert tracker.pages_written(token) == 0


@pytest.mark.parametrize("place", [0, SIZE - 1])
def test_the_first_and_the_last_byte_count(tracker, memory, place):
    token = protected(tracker, memory)
    memory.array[place] = 7
    assert tracker.unwritten(token) is False


def test_a_second_tracking_begins_without_marks(tracker, memory):
    first = protected(tracker, memory)
    memory.array[5] = 5
    second = protected(tracker, memory)
    assert tracker.unwritten(first) is False  # that one has ended
    memory.array[PAGE_BYTES * 9] = 5
    assert tracker.unwritten(second) is False


def test_protecting_a_part_again_ends_what_was_known_of_the_whole(tracker, memory):
    token = protected(tracker, memory)
    memory.array[PAGE_BYTES] = 5
    part = tracker.protect(memory.start, memory.start + 4 * PAGE_BYTES)
    assert part is not None
    assert tracker.unwritten(token) is False
    assert tracker.pages_written(token) is None


def test_writes_to_many_places_are_as_good_as_to_all(tracker, memory):
    token = protected(tracker, memory)
    memory.array[:: 2 * PAGE_BYTES] = 5
    assert tracker.unwritten(token) is False
    assert tracker.pages_written(token) is None


def test_a_write_to_all_of_it_is_one_place(tracker, memory):
    token = protected(tracker, memory)
    memory.array[:] = 5
    assert tracker.pages_written(token) == PAGES


def test_discarded_pages_count_as_written(tracker, memory):
    token = protected(tracker, memory)
    LIBC.madvise(ctypes.c_void_p(memory.start), ctypes.c_size_t(SIZE), MADV_DONTNEED)
    assert tracker.unwritten(token) is False
    assert memory.array[0] == 0
    assert tracker.unwritten(token) is False


def test_one_discarded_page_counts(tracker, memory):
    token = protected(tracker, memory)
    place = memory.start + 700 * PAGE_BYTES
    LIBC.madvise(ctypes.c_void_p(place), ctypes.c_size_t(PAGE_BYTES), MADV_DONTNEED)
    assert tracker.unwritten(token) is False
    assert tracker.pages_written(token) == 1


def test_another_mapping_at_the_same_address_is_not_the_tracked_one(tracker):
    old = Memory()
    token = protected(tracker, old)
    old.unmap()
    new = Memory(at=old.start)
    assert new.start == old.start
    assert tracker.unwritten(token) is False
    assert tracker.pages_written(token) is None
    new.unmap()


def test_a_mapping_over_a_part_of_it_is_seen(tracker, memory):
    token = protected(tracker, memory)
    map_memory(PAGE_BYTES, at=memory.start + 3 * PAGE_BYTES)
    assert tracker.unwritten(token) is False


def test_a_hole_is_seen(tracker, memory):
    token = protected(tracker, memory)
    LIBC.munmap(ctypes.c_void_p(memory.start + 3 * PAGE_BYTES), ctypes.c_size_t(PAGE_BYTES))
    assert tracker.unwritten(token) is False


def test_what_moved_there_is_not_what_was_there(tracker, memory):
    """mremap on top of it, of memory that is tracked too."""
    token = protected(tracker, memory)
    other = Memory()
    other.array[:] = 2
    protected(tracker, other)
    moved = LIBC.mremap(
        ctypes.c_void_p(other.start),
        ctypes.c_size_t(SIZE),
        ctypes.c_size_t(SIZE),
        MREMAP_MAYMOVE | MREMAP_FIXED,
        ctypes.c_void_p(memory.start),
    )
    assert moved == memory.start
    assert memory.array[0] == 2
    assert tracker.unwritten(token) is False


def test_memory_that_moves_away_is_seen(tracker):
    """As by realloc, when an array of its own mapping is resized; memory in the heap is copied, and stays as it was."""
    memory = Memory()
    token = protected(tracker, memory)
    moved = LIBC.mremap(
        ctypes.c_void_p(memory.start),
        ctypes.c_size_t(SIZE),
        ctypes.c_size_t(SIZE),
        MREMAP_MAYMOVE | MREMAP_FIXED,
        ctypes.c_void_p(map_memory(SIZE)),
    )
    assert moved != memory.start
    assert tracker.unwritten(token) is False
    LIBC.munmap(ctypes.c_void_p(moved), ctypes.c_size_t(SIZE))


def test_protection_that_comes_and_goes_changes_nothing(tracker, memory):
    token = protected(tracker, memory)
    for protection in (mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE):
        assert LIBC.mprotect(ctypes.c_void_p(memory.start), ctypes.c_size_t(SIZE), protection) == 0
        assert tracker.unwritten(token) is True
    memory.array[SIZE // 3] = 5
    assert tracker.unwritten(token) is False


def test_marks_outlive_the_joining_of_small_pages(tracker):
    memory = Memory(MADV_NOHUGEPAGE)
    token = protected(tracker, memory)
    memory.array[SIZE // 2] = 5
    LIBC.madvise(ctypes.c_void_p(memory.start), ctypes.c_size_t(SIZE), MADV_HUGEPAGE)
    LIBC.madvise(ctypes.c_void_p(memory.start), ctypes.c_size_t(SIZE), MADV_COLLAPSE)  # may be refused
    assert tracker.unwritten(token) is False
    memory.array[:] = 6
    LIBC.madvise(ctypes.c_void_p(memory.start), ctypes.c_size_t(SIZE), MADV_COLLAPSE)
    assert tracker.unwritten(token) is False
    memory.unmap()


def test_pages_that_were_never_written_can_be_tracked(tracker):
    """The zero page, which an array of `numpy.zeros` has until it is written."""
    memory = map_memory(SIZE)
    array = np.frombuffer((ctypes.c_uint8 * SIZE).from_address(memory), np.uint8)
    assert tracker.protect(memory, memory + SIZE) is None  # nothing is there yet
    assert array.sum() == 0
    token = tracker.protect(memory, memory + SIZE)
    assert tracker.unwritten(token) is True
    array[SIZE // 2] = 1
    assert tracker.unwritten(token) is False
    LIBC.munmap(ctypes.c_void_p(memory), ctypes.c_size_t(SIZE))


def test_a_forked_child_asks_nothing_and_its_writes_are_its_own(tracker, memory):
    token = protected(tracker, memory)
    child = os.fork()
    if child == 0:
        refused = tracker.unwritten(token) is None and tracker.protect(memory.start, memory.end) is None
        memory.array[:] = 9
        tracker.close()  # its copies of the descriptors only
        os._exit(0 if refused else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert memory.array[0] == 1
    assert tracker.unwritten(token) is True
    memory.array[0] = 5
    assert tracker.unwritten(token) is False


def test_another_process_writes(tracker, memory):
    token = protected(tracker, memory)
    parent = os.getpid()
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        write_by_process_vm(parent, memory.start + 5, b"abcd")
        os._exit(0)
    os.close(read_end)
    os.close(write_end)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bytes(memory.array[5:9]) == b"abcd"
    assert tracker.unwritten(token) is False


def test_shared_memory_is_refused(tracker):
    memory = Memory(flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    assert tracker.protect(memory.start, memory.end) is None
    memory.unmap()


@pytest.mark.parametrize("access", [mmap.ACCESS_COPY, mmap.ACCESS_WRITE])
def test_files_are_refused(tracker, tmp_path, access):
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * PAGE_BYTES))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0, access=access) as mapping:
        array = np.frombuffer(mapping, np.uint8)
        assert array.sum() == 0
        start = array.ctypes.data
        assert tracker.protect(start, start + 4 * PAGE_BYTES) is None
        del array


def test_memory_that_is_not_mapped_is_refused(tracker):
    memory = Memory()
    memory.unmap()
    assert tracker.protect(memory.start, memory.end) is None


def test_an_io_uring_may_have_buffers_anywhere(tracker, memory):
    descriptor = LIBC.syscall(IO_URING_SETUP, 4, ctypes.create_string_buffer(120))
    if descriptor < 0:
        pytest.skip("this process may not have an io_uring")
    try:
        assert tracker.protect(memory.start, memory.end) is None
    finally:
        os.close(descriptor)
    protected(tracker, memory)


def test_beyond_the_bound_the_least_used_ends(tracker, memory):
    step = 10 * PAGE_BYTES
    tokens = [tracker.protect(memory.start + i * step, memory.start + (i + 1) * step) for i in range(4)]
    assert tracker.unwritten(tokens[0]) is True
    tracker.protect(memory.start + 4 * step, memory.start + 5 * step)
    assert [tracker.unwritten(token) for token in tokens] == [True, False, True, True]


def test_what_was_released_is_not_known(tracker, memory):
    token = protected(tracker, memory)
    assert tracker.release(token)
    assert tracker.unwritten(token) is False
    assert tracker.release(token)


def test_who_comes_in_between_gets_no_answer(tracker, memory):
    token = protected(tracker, memory)
    with tracker._busy:
        assert tracker.unwritten(token) is None
        assert tracker.protect(memory.start, memory.end) is None
        assert not tracker.release(token)
    assert tracker.unwritten(token) is True


def test_close_leaves_nothing(memory):
    before = sorted(os.listdir("/proc/self/fd"))
    tracker = open_tracker(4)
    if tracker is None:
        pytest.skip("this kernel does not say what was written, or a GPU is here")
    token = protected(tracker, memory)
    tracker.close()
    tracker.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert not tracker.unwritten(token)
    assert tracker.protect(memory.start, memory.end) is None
    memory.array[:] = 3


def test_devices_that_write_to_memory_are_found(tmp_path):
    assert not devices_present(tmp_path)
    (tmp_path / "null").touch()
    assert not devices_present(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert devices_present(tmp_path)


def test_where_it_is_not_to_be_had_there_is_none(monkeypatch):
    before = sorted(os.listdir("/proc/self/fd"))
    assert open_tracker(0) is None
    with monkeypatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "vax")
        assert open_tracker(4) is None
    with monkeypatch.context() as patch:  # a filter of system calls
        patch.setattr(writetracking, "_syscall", lambda *_: -1)
        assert open_tracker(4) is None
    with monkeypatch.context() as patch:  # an older kernel
        patch.setattr(writetracking, "_FEATURES", 1 << 60)
        assert open_tracker(4) is None
    with monkeypatch.context() as patch:  # one that does not know the scan
        patch.setattr(writetracking, "_PAGEMAP_SCAN", 0xC0606611)
        assert open_tracker(4) is None
    assert sorted(os.listdir("/proc/self/fd")) == before
