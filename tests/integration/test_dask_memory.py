"""A graph with more data than the store holds: no more is under way than there is room for."""

import dask
import dask.array as da

import commandline
import shoal
from shoal.util.dask import shoal_dask_get

MIB = 1024**2


def test_what_passes_through_a_small_store_is_not_spilled(no_leaks):
    shoal.init(num_cpus=2, object_store_memory=80 * MIB)
    try:
        blocks = da.ones((24, MIB), chunks=(1, MIB))  # 8 MiB each, more than twice the store
        added = blocks + 1
        # Two tasks need each block, which is stored; Dask's optimizations would have each make it anew.
        both = dask.compute(added.sum(), added.max(), scheduler=shoal_dask_get, optimize_graph=False)
        assert both == (2 * 24 * MIB, 2)
        summary = commandline.run("memory", "--stats-only", "--json").json
        assert summary["total"]["spilled"] == 0, summary
    finally:
        shoal.shutdown()
