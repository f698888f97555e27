"""What an idle cluster costs: memory and processor time of the driver, its daemons and warm workers.

Memory is the proportional share of each process (PSS), store pages that are populated left out: shared memory
there is data, or room for it. Descendants count, and whatever inherited this process's mark and was adopted.
"""

import os
import time
import uuid
from pathlib import Path

import psutil

from measure import Metric

METRICS = {
    "memory": Metric("idle cluster: memory", "MB", "lower", ratio=5),
    "cpu": Metric("idle cluster: CPU", "%", "lower", at_most=0.5),
}
SETTLE_S = 8.0
OBSERVE_S = 10.0
STORE_MAPPINGS = ("/dev/shm/", "/memfd:")
MARK = "SHOAL_BENCHMARK_RUN"


def run_cold(start):
    mark = f"{MARK}={uuid.uuid4().hex}"
    os.environ[MARK] = mark.partition("=")[2]
    api = start()

    @api.remote
    def warm():
        time.sleep(0.05)

    api.get([warm.remote() for _ in range(20)])
    time.sleep(SETTLE_S)
    processes = [psutil.Process(), *started_by(mark)]
    before = sum(busy_s(process) for process in processes)
    time.sleep(OBSERVE_S)
    cpu = sum(busy_s(process) for process in processes) - before
    memory = sum(pss_bytes(process.pid) for process in processes)
    return {"memory": memory / 1e6, "cpu": 100 * cpu / OBSERVE_S}


def started_by(mark: str) -> set[psutil.Process]:
    """This process's descendants, and the processes that inherited `mark` in their environment."""
    found = set(psutil.Process().children(recursive=True))
    for process in psutil.process_iter():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:  # gone, or another user's
            continue
        if mark.encode() in environment and process.pid != os.getpid():
            found.add(process)
    return found


def busy_s(process: psutil.Process) -> float:
    """Processor seconds that the process has used so far."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def pss_bytes(pid: int) -> int:
    """The process's proportional share of memory in bytes, mappings of the store left out."""
    total_kib = 0
    counted = True
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    except OSError:  # it ended while we looked
        return 0
    for line in lines:
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            counted = not any(store in rest for store in STORE_MAPPINGS)
        elif first == "Pss:" and counted:
            total_kib += int(rest.split()[0])
    return total_kib * 1024
