"""A scheduler under test: its workers start, end and return as told, and the clock is moved by hand."""

import dataclasses

from shoal.config import Config
from shoal.wire import messages as m
from shoald.node.effects import EndWorker, Grant, Send, StartWorker
from shoald.node.pool import STARTING, Pool
from shoald.node.scheduler import SchedulerCore

CPU1 = {"CPU": 10_000}
DRIVER, OTHER = b"driver-1", b"driver-2"


class Node:
    """A scheduler whose workers start, end and return as told; the clock is moved by hand."""

    def __init__(self, resources=None, **config):
        self.config = dataclasses.replace(Config(), **config)
        self.core = SchedulerCore(
            resources or {"CPU": 20_000}, Pool(b"prefix00", self.config.workers_max), self.config
        )
        self.now = 100.0
        self.sent = []
        self.grants = []
        self.starting = []
        self.pythons = []  # of the workers that were started
        self.procs = 0
        self.core.start(self.now)
        self.run()

    def run(self, ready=True, passed_s=0.0):
        """Decide; fork what is asked for, and let the forks say hello if ``ready``."""
        self.now += passed_s
        for _ in range(100):
            due = self.core.schedule(self.now)
            effects, self.core.outbox = self.core.outbox, []
            for effect in effects:
                self._carry_out(effect)
            forked, self.starting = (self.starting, []) if ready else ([], self.starting)
            for worker_id in forked:
                self._hello(worker_id)
            self.core.validate()
            if not effects and not forked:
                assert due is None or due > self.now, "the scheduler is due at once, again and again"
                return
        raise AssertionError("the scheduler does not come to rest")

    def _carry_out(self, effect):
        if isinstance(effect, StartWorker):
            self.pythons.append(effect.python)
            self.starting.append(effect.worker_id)
        elif isinstance(effect, Grant):
            self.grants.append(effect)
        elif isinstance(effect, Send):
            self.sent.append((effect.proc, effect.message))
        elif isinstance(effect, EndWorker):
            self.exited(effect.worker_id, signal=9)

    def _hello(self, worker_id):
        if worker_id in self.core.pool.workers and self.core.pool.workers[worker_id].state == STARTING:
            self.procs += 1
            proc = b"wrk%05d" % self.procs
            self.core.worker_forked(worker_id, 1000 + self.procs)
            self.core.worker_ready(worker_id, proc, 1000 + self.procs, self.now)
            self.core.client_joined(proc, "worker", "")

    def exited(self, worker_id, exit_code=0, signal=0, current=b"t" * 16):
        worker = self.core.pool.workers.get(worker_id)
        if worker is not None:
            if worker.proc:
                self.core.client_left(worker.proc, self.now)
            self.core.worker_exited(worker_id, exit_code, signal, current, self.now)
            self.starting = [other for other in self.starting if other != worker_id]

    def driver(self, proc, job):
        self.core.client_joined(proc, "driver", job)

    def demand(self, proc, shape, backlog, resources=None, **options):
        message = [m.DEMAND, shape, CPU1 if resources is None else resources, backlog, options]
        self.core.handle(proc, message, self.now)

    def give_back(self, grant, state=m.RETURN_OK):
        self.core.handle(grant.proc, [m.RETURN, grant.lease_id, state], self.now)

    def worker_proc(self, grant):
        return self.core.pool.workers[grant.worker_id].proc

    def messages(self, tag):
        return [message for _, message in self.sent if message[0] == tag]
