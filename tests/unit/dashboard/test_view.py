"""What the page is told, and the page itself."""

import base64
import hashlib
import json
import re

from shoald.dashboard.server import make_page
from shoald.dashboard.view import state_of

STORE = {
    **dict.fromkeys(("capacity", "free"), 100), **dict.fromkeys(("used", "objects", "pinned", "evictions", "spilled"), 0),
    **dict.fromkeys(("restored", "fetched_bytes", "served_bytes", "disk", "disk_live", "disk_spare"), 0),
}  # fmt: skip
PLACE = {
    "name": "",
    "hostname": "h",
    "pid": 1,
    "reason": "",
    "draining": False,
    "silent_ms": 5,
    "pending": [],
}


def figures(node_id, tasks, finished=0):
    return {
        "node_id": node_id, "uptime_s": 1.0, "resources": {"CPU": 1.0}, "available": {}, "workers": {}, "tasks": tasks,
        "sums": {"finished": finished}, "cpu": {}, "memory": {}, "waiting": {}, "store": STORE, "actors": {"ALIVE": 1},
    }  # fmt: skip


def demand(name, waiting_s):
    row = {"name": name, "backlog": 3, "resources": {"CPU": 1.0}, "waiting_s": waiting_s}
    return {**row, "submitter": "driver 1", "reason": "waits"}


def answers():
    away = {"count": 2, "resources": {"tpu": 1.0}, "reason": "no node has that"}
    nodes = [
        {**PLACE, "node_id": "dd", "state": "DEAD", "reason": "it burned", "pending": [away]},
        {**PLACE, "node_id": "bb", "state": "ALIVE", "name": "b", "pending": [away]},
        {**PLACE, "node_id": "aa", "state": "ALIVE", "name": "a", "pending": [away]},
        {**PLACE, "node_id": "cc", "state": "SUSPECTED", "name": "c"},
    ]
    group = {"group_id": "99", "name": "g", "bundles": [1, 2], "state": "PENDING", "reason": "too large"}
    status = {
        "node_id": "aa", "head": {"address": "h:1", "trouble": ""}, "nodes": nodes,
        "pending": [demand("young", 1.0), demand("old", 9.0)], "groups": [group, {**group, "state": "CREATED"}],
    }  # fmt: skip
    actor = dict.fromkeys(("actor_id", "class", "name", "namespace", "state", "node_id", "reason"), "x")
    rows = [
        figures("aa", {"RUNNING": 1}, 5),
        figures("bb", {"RUNNING": 2, "AT_WORKER": 1}, 6),
        figures("dd", {}, 0),
    ]
    return {
        "status": status, "figures": {"rows": rows, "silent": ["worker 7"]}, "jobs": {"rows": [{"job_id": "j"}] * 5},
        "actors": {"rows": [{**actor, "pid": 1, "restarts": 0, "since_s": 1.0, "secret": "no"}]},
    }  # fmt: skip


def test_nodes_are_ordered_and_only_the_living_have_figures():
    state = state_of(answers(), 1.5, 10)
    assert [(node["node_id"], node["figures"] is not None) for node in state["nodes"]] == [
        ("aa", True), ("bb", True), ("cc", False), ("dd", False),
    ]  # fmt: skip
    assert state["nodes"][3]["reason"] == "it burned"
    assert sum(state["nodes"][0]["figures"]["store"]["states"].values()) == 100


def test_tasks_are_added_up_over_nodes():
    state = state_of(answers(), 1.5, 10)
    assert state["tasks"] == {"RUNNING": 3, "AT_WORKER": 1}
    assert state["sums"] == {"finished": 11}
    assert state["actor_states"] == {"ALIVE": 3}
    assert state["silent"] == ["worker 7"]


def test_what_waits_is_told_with_its_reason_oldest_first_then_of_other_nodes():
    rows = state_of(answers(), 1.5, 10)["pending"]["rows"]
    assert [(row["name"], row["count"], row["by"]) for row in rows] == [
        ("old", 3, "driver 1"), ("young", 3, "driver 1"), ("", 2, "node b"), ("placement group g", 2, ""),
    ]  # fmt: skip
    assert rows[2]["reason"] == "no node has that"


def test_tables_are_bounded_and_say_so():
    state = state_of(answers(), 1.5, 2)
    assert [len(state[table]["rows"]) for table in ("pending", "jobs", "actors")] == [2, 2, 1]
    assert [state[table]["left_out"] for table in ("pending", "jobs", "actors")] == [2, 3, 0]
    assert "secret" not in json.dumps(state)
    assert state_of({**answers(), "actors": None}, 1.5, 2)["actors"] is None


def test_the_page_is_one_file_that_needs_nothing_and_runs_only_its_own_script():
    page = make_page()
    text, policy = page.body.decode(), page.fields["Content-Security-Policy"]
    for tag in ("script", "style"):
        [(attributes, content)] = re.findall(rf"<{tag}([^>]*)>(.*?)</{tag}>", text, re.DOTALL)
        assert attributes == ""
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert set(re.findall(r"https?://[^\"'\s]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\son\w+=", text)


def test_all_parts_that_the_script_fills_are_in_the_page():
    page = make_page().body.decode()
    filled = set(re.findall(r'(?:show|getElementById)\("(\w+)"', page))
    assert filled == set(re.findall(r'\bid="(\w+)"', page))
