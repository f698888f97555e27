"""The runtime's own metrics, computed from figures of nodes."""

from shoal.config import Config
from shoal.figures import disk_states, metrics_of, store_states
from shoal.prometheus import metric_lines, text_of
from shoald.store.core import StoreCore

STORE = {
    "capacity": 1000, "primary": 300, "secondary": 100, "leased": 50, "duplicates": 30, "restoring": 20, "free": 500,
    "disk": 900, "disk_live": 600, "disk_spare": 40, "spilled": 7, "evictions": 3,
}  # fmt: skip
NODE = {
    "node_id": "aa", "name": "one", "hostname": "h", "uptime_s": 1.5, "resources": {"CPU": 2.0}, "available": {"CPU": 0.5},
    "cpu": {"busy_s": 12.0, "count": 2}, "store": STORE, "workers": {"IDLE": 1, "LEASED": 2}, "jobs": 1,
    "memory": {"used": 5, "limit": 10, "workers": 3, "largest_worker": 2, "daemon": 1},
    "leases": {"granted": 9, "returned": 8, "recalled": 1, "oversubscribed": 0, "workers_died": 4},
    "waiting": {"demands": 1, "leases": 6, "oldest_s": 2.5}, "tasks": {"RUNNING": 2},
    "sums": {"submitted": 5, "finished": 2, "failed": 1, "retried": 0}, "actors": {"ALIVE": 1},
}  # fmt: skip
TABLE = [
    {"node_id": "aa", "state": "ALIVE", "silent_ms": 250},
    {"node_id": "bb", "state": "DEAD", "silent_ms": 9000},
]


def lines():
    return metric_lines(metrics_of([NODE], TABLE, 2))


def test_every_metric_is_a_name_with_help_type_and_values():
    heads = [line.split()[:3:2] for line in lines() if line.startswith("# ")]
    names = [name for _, name in heads]
    assert names[::2] == names[1::2]
    assert len(set(names)) == len(names) // 2
    values = [line for line in lines() if not line.startswith("#")]
    assert {line.partition("{")[0].split()[0] for line in values} == set(names)
    assert all(float(line.rpartition(" ")[2]) >= 0 for line in values)


def test_values_are_labelled_by_node_and_state():
    found = lines()
    for line in (
        'shoal_object_store_bytes{node_id="aa",state="secondary"} 100',
        'shoal_spill_bytes{node_id="aa",state="dead"} 300',
        'shoal_resources_available{node_id="aa",resource="CPU"} 0.5',
        'shoal_tasks{node_id="aa",state="RUNNING"} 2',
        'shoal_workers_died_total{node_id="aa"} 4',
        'shoal_nodes{state="DEAD"} 1',
        'shoal_node_heartbeat_age_seconds{node_id="aa"} 0.25',
        'shoal_node_info{node_id="aa",name="one",hostname="h"} 1',
        "shoal_silent 2",
        "# TYPE shoal_spilled_bytes_total counter",
        "# TYPE shoal_object_store_bytes gauge",
    ):
        assert line in found
    assert not any("bb" in line for line in found)


def test_what_a_store_has_adds_up():
    assert sum(store_states(NODE).values()) == STORE["capacity"]
    assert disk_states(NODE) == {"live": 600, "dead": 300, "spare": 40}


def test_user_code_cannot_take_a_name_of_the_runtime():
    metric = {"kind": "gauge", "description": "", "boundaries": [], "series": [[{}, [1]]]}
    row = {
        "node_id": "n",
        "pid": 7,
        "metrics": [{**metric, "name": "shoal_nodes"}, {**metric, "name": "mine"}],
    }
    text = text_of([row], metrics_of([], TABLE, 0))
    assert text.count("# TYPE shoal_nodes ") == 1
    assert 'shoal_nodes{node_id="n"' not in text
    assert text.endswith('mine{node_id="n",pid="7"} 1\n')


class Asked(dict):
    """Notes what was asked for."""

    def __init__(self, values):
        super().__init__(values)
        self.keys_asked = set()

    def get(self, key, default=None):
        self.keys_asked.add(key)
        return super().get(key, default)


def test_what_is_asked_of_a_store_is_what_it_says():
    store = Asked(STORE)
    metric_lines(metrics_of([{**NODE, "store": store}], TABLE, 0))
    core = StoreCore(2**20, Config(), directories=1)
    of_other_nodes = {"fetching", "served_bytes"}
    assert store.keys_asked - of_other_nodes <= set(core.stats())
