"""What the scheduler wants done, at the daemon: an effect that fails costs itself only."""

from types import SimpleNamespace

import pytest

from shoald.node.daemon import NodeDaemon
from shoald.node.effects import EndWorker, Grant, Send

EFFECTS = [Send(b"1", [1]), Grant(b"2", 1, 7, b"worker", {}), Send(b"3", [3]), Send(b"4", [4])]


class Bench:
    """A daemon whose effects fail for some."""

    def __init__(self, fails):
        self.fails = fails
        self.done = []
        self.scheduler = SimpleNamespace(
            outbox=[],
            pool=SimpleNamespace(workers={b"worker": b"worker"}),
            end_worker=lambda worker, reason, now: self.scheduler.outbox.append(
                EndWorker(worker, reason, False)
            ),
        )
        self.loop = SimpleNamespace(now=lambda: 0.0)

    def _carry_out(self, effect):
        if effect is self.fails:
            raise MemoryError
        self.done.append(effect)

    def turn(self):
        effects, self.scheduler.outbox = self.scheduler.outbox, []
        NodeDaemon._carry_out_all(self, effects)


@pytest.mark.parametrize("fails", EFFECTS)
def test_the_effects_after_one_that_fails_are_for_the_next_turn(fails):
    bench = Bench(fails)
    bench.scheduler.outbox = list(EFFECTS)
    with pytest.raises(MemoryError):
        bench.turn()
    bench.turn()
    ends = [effect for effect in bench.done if isinstance(effect, EndWorker)]
    assert [effect for effect in bench.done if effect not in ends] == [
        each for each in EFFECTS if each is not fails
    ]
    # Nobody was told of the lease: it ends with its worker.
    assert [end.worker_id for end in ends] == ([b"worker"] if isinstance(fails, Grant) else [])
