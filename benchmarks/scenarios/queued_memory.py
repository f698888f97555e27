"""What a queued task costs in the driver's memory: 100,000 of them behind tasks that hold every CPU."""

import gc
import os
import tempfile

import psutil

from measure import Metric

METRICS = {"bytes": Metric("memory per queued task", "B", "lower", at_most=1024)}
TASKS = 100_000
CPUS = 2


def run(api):
    gate = tempfile.NamedTemporaryFile(prefix="gate-")  # noqa: SIM115 - removed below, which opens the gate

    @api.remote
    def hold():
        import time

        while os.path.exists(gate_path):
            time.sleep(0.01)

    gate_path = gate.name
    task = api.remote(lambda: None)
    api.get([task.remote() for _ in range(1000)])
    holding = [hold.remote() for _ in range(CPUS)]
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    queued = [task.remote() for _ in range(TASKS)]
    used = process.memory_info().rss - before
    gate.close()
    api.get(holding)
    api.get(queued[:1000])
    return {"bytes": used / TASKS}
