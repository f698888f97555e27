"""Which of many workers gets the next task: one without tasks, and never one that is full."""

from types import SimpleNamespace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.config import Config
from shoal.owner.leases import SCAN_MAX, Lease, ShapeQueue


def task_of(mean_us):
    options = SimpleNamespace(max_calls=0)
    return SimpleNamespace(function=SimpleNamespace(mean_us=mean_us), stream=None, options=options)


SHORT, LONG = task_of(100.0), task_of(1e6)


class Many(RuleBasedStateMachine):
    """Leases of one shape, around the number from which on not all are looked at."""

    def __init__(self):
        super().__init__()
        self.queue = ShapeQueue(1, "cpu", {}, Config(), lambda queue: None)
        self.numbers = 0
        for _ in range(SCAN_MAX - 2):
            self.join()

    @rule()
    def join(self):
        self.numbers += 1
        self.queue.joined(Lease(self.numbers, b"", 0, self.queue, None))

    @precondition(lambda self: self.queue.leases)
    @rule(data=st.data())
    def leave(self, data):
        self.queue.left(data.draw(st.sampled_from(self.queue.leases)))

    @rule(count=st.integers(1, 100), task=st.sampled_from([SHORT, LONG]))
    def send(self, count, task):
        for number in range(count):
            lease = self.queue.choose(task)
            empty = [each for each in self.queue.leases if not each.inflight and not each.held_back]
            assert (lease in empty) or not empty, "somebody has nothing to do"
            if lease is None:
                break
            assert len(lease.inflight) < self.queue.window(task)
            assert not lease.held_back
            lease.inflight[number, self.numbers] = task

    @precondition(lambda self: any(lease.inflight for lease in self.queue.leases))
    @rule(data=st.data(), some=st.booleans())
    def answer(self, data, some):
        lease = data.draw(st.sampled_from([lease for lease in self.queue.leases if lease.inflight]))
        if some:
            lease.inflight.popitem()
        else:
            lease.inflight.clear()
        if self.queue.many:
            self.queue.answered(lease)
        if not lease.held_back:
            assert self.queue.choose(SHORT) is not None, "it has room, and nobody else will say so"

    @precondition(lambda self: self.queue.leases)
    @rule(data=st.data())
    def hold_back(self, data):
        lease = data.draw(st.sampled_from(self.queue.leases))
        lease.held_back = not lease.held_back

    @invariant()
    def sound(self):
        self.queue.validate()


TestMany = Many.TestCase
TestMany.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
