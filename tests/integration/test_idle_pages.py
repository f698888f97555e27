"""Store pages that were made ahead of demand are given back when nobody needs them."""

import contextlib
from pathlib import Path

import numpy as np
import psutil

import shoal
from marks import until

MIB = 1024**2


def resident_bytes():
    """Memory that the store's region takes, from the daemon's descriptor of it."""
    for process in psutil.Process().children():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            for path in list(Path(f"/proc/{process.pid}/fd").iterdir()):
                with contextlib.suppress(FileNotFoundError):  # closed since
                    if "shoal-store" in str(path.readlink()):
                        return path.stat().st_blocks * 512
    raise AssertionError("no process here has the store open")


def test_pages_go_while_objects_stay_and_come_back(no_leaks):
    settings = {"populate_idle_ms": 1500, "populate_ahead_bytes_max": 32 * MIB}
    with shoal.init(num_cpus=1, object_store_memory=64 * MIB, _system_config=settings):
        array = np.arange(MIB, dtype=np.uint8)
        ref = shoal.put(array)
        until(lambda: resident_bytes() >= 32 * MIB)
        until(lambda: resident_bytes() < 8 * MIB)
        assert (shoal.get(ref) == array).all()
        more = [shoal.put(array + 1) for _ in range(16)]
        until(lambda: resident_bytes() >= 48 * MIB)
        assert all((shoal.get(each) == array + 1).all() for each in more)
        assert (shoal.get(ref) == array).all()
