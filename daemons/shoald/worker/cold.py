"""A worker with an interpreter of its own: for environments that replace what the fork server has imported (`installs`).

It is forked as all others, so it is the fork server's child with everything that follows from that, and then becomes another
program: the Python of a virtual environment, which imports what it needs itself. That takes some tenths of a second and tens of
megabytes, where a warm worker takes a millisecond and one. What it is told goes through a pipe, since arguments can be read by
others.
"""

from __future__ import annotations

import importlib
import mmap
import os
import pickle
import sys
from typing import Any, NoReturn

from shoal import maththreads
from shoald.worker import forkserver

_FACTS_BYTES_MAX = 60_000  # which a pipe takes without a reader
_MODULE = "shoald.worker.cold"
_NEEDED = ("numpy", "cloudpickle", "shoald.worker.main")
TRY = "try"  # as only argument: see whether workers could run, and exit


def become(python: str, facts: dict[str, Any], region: int, status: int) -> NoReturn:
    """Go on as ``python``, with `main`; raises OSError if that cannot be run.

    Args:
        facts: what `main` needs, plain values.
        region, status: descriptors of the store's region, for reading, and of the status board.
    """
    import msgpack

    content = msgpack.packb(facts, use_bin_type=True)
    if len(content) > _FACTS_BYTES_MAX:
        raise ValueError(f"{len(content)} bytes to tell a worker; {_FACTS_BYTES_MAX} fit into a pipe")
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    for descriptor in (reader, region, status):
        os.set_inheritable(descriptor, True)
    maththreads.leave()
    # -P: a file of the user's directory must not be imported instead of ours.
    arguments = [python, "-P", "-m", _MODULE, *(str(each) for each in (reader, region, status))]
    os.execv(python, arguments)  # noqa: S606  (a Python, which this node has made)


def main() -> None:
    """Be the worker that the pipe says; does not return."""
    import msgpack

    maththreads.begin()
    for name in _NEEDED:  # now, those of the environment: the job's path may have others
        importlib.import_module(name)
    if sys.argv[1:] == [TRY]:
        _try(msgpack)
        return
    importlib.import_module("shoald.worker.folders").hold(sys.prefix)
    reader, region, status = (int(each) for each in sys.argv[1:])
    with open(reader, "rb") as pipe:
        facts = msgpack.unpackb(pipe.read(), raw=False)
    config = importlib.import_module("shoal.config").Config(**facts["config"])
    mapped = importlib.import_module("shoal.store.region").Region(region, None, facts["capacity"])
    board = memoryview(mmap.mmap(status, facts["slots"] * forkserver.STATUS_SLOT_BYTES))
    os.close(region)
    os.close(status)
    importlib.import_module("shoal.client.heap").keep_arrays_of_tasks(config.worker_heap_kept_bytes_max)
    start = facts["slot"] * forkserver.STATUS_SLOT_BYTES
    importlib.import_module(facts["worker_main"]).run_worker(
        facts["worker_id"],
        facts["socket_path"],
        facts["secret"],
        facts["node_id"],
        mapped,
        board[start : start + forkserver.STATUS_SLOT_BYTES],
        config,
    )


def _try(msgpack: Any) -> None:
    """What a worker does with the modules that it needs, before it runs anything: they may import, and be too old for that."""
    cloudpickle, numpy = (importlib.import_module(name) for name in ("cloudpickle", "numpy"))
    facts = {"bytes": b"\0", "text": "t"}
    if msgpack.unpackb(msgpack.packb(facts, use_bin_type=True), raw=False) != facts:
        raise RuntimeError("its msgpack does not give back what it was given")
    pickle.loads(cloudpickle.dumps(lambda: numpy.zeros(1)))()


if __name__ == "__main__":
    forkserver.run_to_end(main)
