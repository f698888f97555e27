"""The death of a node is told to all who have something with it, also after one of them has failed."""

from types import SimpleNamespace

from shoald.node.clusterside import ClusterSide


def test_a_death_is_told_to_all():
    told, faults = [], []

    def fails(node_id, reason):
        raise MemoryError

    daemon = SimpleNamespace(
        log=SimpleNamespace(line=lambda _: None, fault=lambda _, error: faults.append(type(error))),
        on_node_dead=[fails, lambda node_id, reason: told.append((node_id, reason))],
    )
    side = SimpleNamespace(_daemon=daemon, peers=SimpleNamespace(died=lambda node: told.append("links")))
    ClusterSide._died(side, SimpleNamespace(node_id="1", reason="no power"))
    assert told == ["links", ("1", "no power")]
    assert faults == [MemoryError]
