"""Messages to and from workers stay within bounds of bytes, whatever tasks are given and give back."""

import os
import signal

import numpy as np
import pytest

import shoal
from marks import until
from shoal import session

KIB = 1024


def some_bytes(number, size):
    return np.random.default_rng(number).bytes(size)


@pytest.fixture(scope="module")
def shoal_session(module_leaves_nothing):
    """A cluster whose frames are short and whose outboxes are small."""
    shoal.init(
        num_cpus=1,
        _system_config={
            "frame_bytes_max": 400 * KIB,
            "batch_bytes_max": 100 * KIB,
            "outbox_bytes_max": 1024 * KIB,
            "inline_bytes_max": 20 * KIB,
            "inline_args_bytes_max": 100 * KIB,
            "function_bytes_max": 200 * KIB,
            "function_warning_bytes": 100 * KIB,
        },
    )
    yield shoal
    shoal.shutdown()


@shoal.remote
def size_of(*values):
    return sum(len(value) for value in values)


@shoal.remote
def several(count, size):
    return [some_bytes(number, size) for number in range(count)]


@shoal.remote
class Sizer:
    def size_of(self, *values):
        return sum(len(value) for value in values)

    def several(self, count, size):
        return [some_bytes(number, size) for number in range(count)]


def heavy_arguments(count):
    return [[some_bytes(number * 10 + part, 15 * KIB) for part in range(6)] for number in range(count)]


def test_many_tasks_with_heavy_arguments(shoal_session):
    assert shoal.get([size_of.remote(b"x") for _ in range(100)]) == [1] * 100  # it is known to be short
    refs = [size_of.remote(*arguments) for arguments in heavy_arguments(60)]
    assert shoal.get(refs, timeout=60) == [90 * KIB] * 60


def test_many_calls_with_heavy_arguments(shoal_session):
    sizer = Sizer.remote()
    refs = [sizer.size_of.remote(*arguments) for arguments in heavy_arguments(60)]
    assert shoal.get(refs, timeout=60) == [90 * KIB] * 60


def test_refs_to_many_small_values(shoal_session):
    refs = [shoal.put(some_bytes(number, 10 * KIB)) for number in range(100)]
    assert shoal.get(size_of.remote(*refs), timeout=60) == 1000 * KIB
    assert shoal.get(Sizer.remote().size_of.remote(*refs), timeout=60) == 1000 * KIB
    assert shoal.get(size_of.remote(*refs[::-1]), timeout=60) == 1000 * KIB  # some are stored by now


def test_many_heavy_results(shoal_session):
    for call in (several, Sizer.remote().several):
        refs = [call.options(num_returns=6).remote(6, 15 * KIB) for _ in range(60)]
        for returned in refs:
            assert [len(value) for value in shoal.get(returned, timeout=60)] == [15 * KIB] * 6


def test_what_waits_for_a_stopped_worker_is_bounded_and_the_rest_waits_in_line(shoal_session):
    @shoal.remote
    def pid(*values):
        return os.getpid()

    stopped = shoal.get([pid.remote() for _ in range(100)])[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        refs = [pid.remote(*arguments) for arguments in heavy_arguments(60)]
        leases = session.runtime().dispatch.leases
        until(lambda: any(lease.held_back for lease in leases.values()))
        (lease,) = [lease for lease in leases.values() if lease.held_back]
        assert 1024 * KIB < lease.connection.out_bytes < 1400 * KIB
        assert not shoal.wait(refs, timeout=0)[0]
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert shoal.get(refs, timeout=60) == [stopped] * 60


def test_a_function_that_captured_much_is_refused_or_warned_of(shoal_session, capfd):
    table = bytes(150 * KIB)

    @shoal.remote
    def reads():
        return len(table)

    assert shoal.get(reads.remote(), timeout=60) == 150 * KIB
    assert "function test_a_function_that" in (warning := capfd.readouterr().err)
    assert "most of it 'table' (15" in warning
    table = bytes(250 * KIB)

    @shoal.remote
    def reads_more():
        return len(table)

    with pytest.raises(ValueError, match="most of it 'table'") as caught:
        reads_more.remote()
    assert "shoal.put()" in str(caught.value)
