"""Placement groups of two bundles made, waited for and removed, one after the other."""

import importlib

from measure import Metric, seconds

METRICS = {"rate": Metric("placement groups made, ready, removed", "/s", ratio=100, at_least=200)}


def run(api):
    groups = importlib.import_module(f"{api.__name__}.util.placement_group")

    def one():
        group = groups.placement_group([{"CPU": 1}, {"CPU": 1}], strategy="PACK")
        api.get(group.ready())
        groups.remove_placement_group(group)

    one()
    many = 5 if api.__name__ == "ray" else 500

    def batch():
        for _ in range(many):
            one()

    return {"rate": many / seconds(batch, warmups=0)}
