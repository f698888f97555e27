"""Arguments of waiting tasks are asked for once, and only those that are elsewhere."""

from types import SimpleNamespace

from shoal.config import Config
from shoal.wire import messages as m
from shoald.worker.prefetch import Prefetch

HERE, THERE = b"here-own", b"far-away"
X, Y, Z = (HERE + bytes([0, 0, 0, k, 0, 0, 0, 0]) for k in (1, 2, 3))


def prefetch(limit=10):
    sent = []
    table = SimpleNamespace(proc=HERE, to_node=sent.append)
    return Prefetch(SimpleNamespace(table=table, config=Config(prefetched_ids_max=limit))), sent


def test_what_is_elsewhere_is_watched_with_the_priority_of_arguments():
    it, sent = prefetch()
    it.task_waits([b"inline", (X, (THERE, 5)), (b"with refs", (THERE, 5), {}), (Y, (HERE, 5))])
    assert sent == [[m.WATCH, X, THERE, 5, m.PRIORITY_ARGUMENT]]


def test_many_tasks_with_the_same_argument_ask_once():
    it, sent = prefetch()
    for _ in range(100):
        it.task_waits([(X, (THERE, 5))])
    assert len(sent) == 1


def test_at_the_bound_the_oldest_is_forgotten():
    it, sent = prefetch(limit=2)
    for object_id in (X, Y, Z, Z, X):
        it.task_waits([(object_id, (THERE, 5))])
    assert [message[1] for message in sent] == [X, Y, Z, X]
