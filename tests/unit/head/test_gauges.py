"""What nodes have free, passed on: the newest figures, and never more messages than the bound."""

import pytest

from shoal.config import load
from shoald.head import events as ev
from shoald.head.core import Durable, HeadCore
from shoald.head.gauges import GaugeBatches, NodeGauges

VERSIONS = ev.Versions(1, 3, 11)
CONFIG = load({"view_ms": 100, "view_ms_per_node": 1, "view_rows_max": 50, "heartbeat_ms": 2000})


def cluster(count):
    core = HeadCore(CONFIG, VERSIONS, Durable(), 0.0, 0.0)
    for number in range(count):
        core.handle(ev.NodeRegisters(number + 1, f"n{number}", "1", ev.NodeInfo(), VERSIONS), 0.0)
    return core


def report(core, stream, cpus, now, pending=()):
    gauges = ev.Gauges({"CPU": cpus}, 7, 0, 1, tuple(pending))
    return core.handle(ev.NodeReports(stream, 1, gauges), now)


def sent(effects):
    return [
        (effect.stream, effect.message.nodes)
        for effect in effects
        if isinstance(effect, ev.Send) and isinstance(effect.message, ev.GaugesChanged)
    ]


def test_all_nodes_hear_the_newest_figures_once():
    core = cluster(3)
    assert not sent(report(core, 1, 1, 0.01))
    report(core, 1, 2, 0.02, [ev.Demand({"CPU": 1}, 3), ev.Demand({}, 2)])
    report(core, 2, 5, 0.03)
    due = core.next_deadline()
    told = sent(core.handle(ev.TimePasses(), due))
    rows = (NodeGauges("n0", {"CPU": 2}, 7, 5), NodeGauges("n1", {"CPU": 5}, 7, 0))
    assert told == [(1, rows), (2, rows), (3, rows)]
    assert not sent(core.handle(ev.TimePasses(), due + 1))


def test_a_node_that_is_alone_or_silent_causes_nothing():
    core = cluster(1)
    report(core, 1, 1, 0.0)
    assert core.next_deadline() >= CONFIG.node_suspect_ms / 1000
    core = cluster(3)
    core.handle(ev.TimePasses(), 0.5)  # who came last is announced
    assert core.next_deadline() >= CONFIG.node_suspect_ms / 1000


def test_the_dead_are_not_passed_on():
    core = cluster(3)
    report(core, 1, 1, 0.0)
    core.handle(ev.NodeLeaves(1, "left"), 0.0)
    assert not sent(core.handle(ev.TimePasses(), 1.0))


@pytest.mark.parametrize("count", [2, 10, 100, 400])
def test_messages_are_bounded_however_many_nodes_there_are_and_however_often_they_change(count):
    core = cluster(count)
    now, messages, rows = 0.0, 0, {}
    while now < 2.0:
        now += 0.02
        for stream in range(1, count + 1):
            report(core, stream, int(now * 100), now)
        for stream, nodes in sent(core.handle(ev.TimePasses(), now)):
            messages += 1
            assert len(nodes) <= CONFIG.view_rows_max
            if stream == 1:
                rows.update({row.node_id: row.available["CPU"] for row in nodes})
    assert messages <= 2.1 * 1000 / CONFIG.view_ms_per_node
    assert messages >= count, "everybody hears something"
    if count <= 2 * CONFIG.view_rows_max:
        assert len(rows) == count


def test_those_that_wait_longest_come_first():
    batches = GaugeBatches(load({"view_rows_max": 2, "view_ms": 100}))
    for node_id in ("a", "b", "c"):
        batches.changed(NodeGauges(node_id, {}))
    batches.changed(NodeGauges("a", {"CPU": 1}))
    assert [row.node_id for row in batches.take(3, 1.0)] == ["a", "b"]
    batches.changed(NodeGauges("a", {"CPU": 2}))
    assert batches.take(3, 1.05) == ()
    assert [row.node_id for row in batches.take(3, 1.1)] == ["c", "a"]
    assert batches.next_deadline(3) is None
