"""A worker process, from the fork to its end: joins the daemon, then runs tasks."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

from shoal import session
from shoal.client import timeline
from shoal.client.runtime import Runtime
from shoal.config import GC_THRESHOLD, Config
from shoald.worker import output
from shoald.worker.actor import ActorExecutor
from shoald.worker.executor import Executor

if TYPE_CHECKING:
    from shoal.store.region import Region

_RECURSION_LIMIT = 10_000  # tasks that run in place inside their parents' get nest deeply
_SWITCH_INTERVAL_S = 0.0005


def run_worker(
    worker_id: bytes,
    socket_path: str,
    secret: bytes,
    node_id: str,
    region: Region,
    status: memoryview,
    config: Config,
) -> None:
    """Run tasks until the daemon says so or is gone; does not return.

    Args:
        worker_id: what the daemon calls this process.
        node_id: the daemon's node.
        region: the store's mapping, inherited from the fork server.
        status: 64 bytes shared with the daemon (see Executor).
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    sys.setrecursionlimit(_RECURSION_LIMIT)
    output.install(config)
    runtime = Runtime(socket_path, secret, node_id, "worker", {"worker_id": worker_id}, config, region)
    runtime.on_exit = lambda: _leave(runtime)
    session.adopt(runtime)
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    become = Executor(runtime, status, output.set_task).run()
    ActorExecutor(runtime, status, output.set_task, become).run()


def _leave(runtime: Runtime) -> None:
    output.flush()
    timeline.hand_over(runtime)
    os._exit(0)
