"""A cluster of four nodes on one machine, from nothing to the first result."""

from measure import Metric, seconds

METRICS = {"time": Metric("a 4-node cluster on one machine up", "s", "lower", ratio=5)}


def run_nodes(nodes):
    def up():
        nodes.stop()
        api = nodes.start(3, store_bytes=256 * 2**20)
        assert api.get(api.remote(lambda: 1).remote()) == 1

    return {"time": seconds(up, repeats=3, warmups=0)}
