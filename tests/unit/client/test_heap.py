"""Freed memory: kept while there is work, given back when there is none. In a process of its own: it changes the allocator."""

import platform
import subprocess
import sys

import pytest

from shoal.client import heap

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="without glibc nothing is changed")

_SCRIPT = """
import os, resource
import numpy as np
from shoal.client.heap import IdleHeap, keep_arrays_of_tasks

MIB = 1024**2

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def task():
    return float(np.ones(5 * MIB)[-1])  # 40 MiB, which glibc maps and unmaps by itself

keep_arrays_of_tasks(64 * MIB)
heap = IdleHeap(10.0)
task()
before = faults()
for _ in range(5):
    task()
again = faults() - before
heap.look(0.0)
kept = resident()
heap.look(9.0)
early = resident()
heap.look(10.5)
idle = resident()
heap.look(30.0)
task()
print(again, (kept - early) // MIB, (kept - idle) // MIB, (resident() - idle) // MIB)
"""


def test_a_worker_keeps_the_memory_of_its_tasks_until_it_is_idle():
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    again, early, idle, later = map(int, done.stdout.split())
    assert again < 20
    assert early < 5
    assert idle > 35
    assert later > 35


def test_free_pages_between_blocks_in_use_are_given_back():
    script = """
import os
from shoal.client.heap import give_back

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

blocks = [bytearray(32 * 1024) for _ in range(1024)]
del blocks[::2]
before = resident()
give_back()
print((before - resident()) // 1024**2)
"""
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert int(output) >= 8  # of 16 MiB; each hole keeps the parts of pages at its ends


def test_what_an_idle_process_uses_to_look_is_no_work(monkeypatch):
    """A wake-up took 4 ms on a shared machine: three of them, and memory was given back again that nobody had used."""
    used, trims = 0.0, []
    monkeypatch.setattr(heap.time, "process_time", lambda: used)
    idle = heap.IdleHeap(0.5)
    idle._trim = trims.append
    for second in range(100):
        used += 0.004
        assert not idle.look(float(second))
    assert not trims
    used += 1.0
    assert idle.look(100.0)
    assert not idle.look(101.0)
    assert trims == [0]
