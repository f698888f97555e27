"""What memory, status, list and why say, from what daemons answer."""

from shoal.cli import memory_report as memory
from shoal.cli import status_report as status
from shoal.cli.format import table_lines


def row(name, size, pid=None, kind="hold", **more):
    holders = [{"pid": pid, "role": "worker", "kind": kind, "count": 1, "proc": "aa"}] if pid else []
    return {
        "id": name,
        "size_bytes": size - 1,
        "allocated_bytes": size,
        "state": "sealed",
        "holders": holders,
        "callsite": f"/x.py:{size}",
        "age_s": 1.0,
        "node_id": "n" * 32,
        **more,
    }


def node(rows, **stats):
    used = sum(r["allocated_bytes"] for r in rows) + stats.get("leased", 0)
    return {
        "node_id": "n" * 32,
        "rows": rows,
        "left_out": 0,
        "stats": {"capacity": 1000, "used": used, **stats},
    }


class TestMemory:
    def test_sorting(self):
        rows = [row("a", 1, 9), row("b", 3), row("c", 2, 5, age_s=9.0)]
        assert [r["id"] for r in memory.sort_rows(rows, "size")] == ["b", "c", "a"]
        assert [r["id"] for r in memory.sort_rows(rows, "age")] == ["c", "a", "b"]
        assert [r["id"] for r in memory.sort_rows(rows, "pid")] == ["c", "a", "b"]

    def test_rows_add_up_to_what_is_used(self):
        rows = [row("a", 300), row("b", 200)]
        table = memory.objects_table(rows, [node(rows, leased=100)], "B", None)
        assert table.notes == [
            "500 B in 2 rows + 100 B leased to writers = 600 B, which is all that is used of 1000 B"
        ]

    def test_hidden_rows_are_counted(self):
        rows = [row("a", 300), row("b", 200)]
        table = memory.objects_table(rows, [node(rows)], "B", 1)
        assert len(table.rows) == 1
        assert table.notes[0] == "and 1 more rows with 200 B (-n shows more)"
        assert table.notes[1].startswith("500 B in 2 rows")

    def test_rows_that_the_daemon_left_out_are_counted(self):
        rows = [row("a", 300)]
        answer = {**node(rows), "left_out": 7, "stats": {"capacity": 1000, "used": 450, "leased": 50}}
        first, total = memory.objects_table(rows, [answer], "B", None).notes
        assert first.startswith("and 7 smaller objects with 100 B")
        assert total.startswith("400 B in 8 rows + 50 B leased to writers = 450 B, which is all")

    def test_a_sum_that_differs_says_so(self):
        answer = node([row("a", 300)])
        answer["stats"]["used"] = 999
        assert "the stores say 999 B" in memory.objects_table([row("a", 300)], [answer], "B", None).notes[-1]

    def test_holders(self):
        holders = [
            {"name": "driver 5", "pid": 5, "kind": "hold", "count": 2},
            {"name": "driver 5", "pid": 5, "kind": "pin", "count": 1},
            {"proc": "ab" * 16, "pid": None, "role": "object", "kind": "container", "count": 1},
        ]
        assert memory.holders_text(holders) == f"driver 5 (hold ×2, pin), object {'ab' * 16} (contains it)"
        assert memory.holders_text([]) == "nobody"

    def test_workers_are_named_with_what_they_run(self):
        tasks = [
            {"state": "AT_WORKER", "worker_pid": 5, "worker_node": "n" * 32, "name": "later"},
            {"state": "RUNNING", "worker_pid": 5, "worker_node": "m" * 32, "name": "elsewhere"},
            {"state": "RUNNING", "worker_pid": 5, "worker_node": "n" * 32, "name": "now"},
            {"state": "FINISHED", "worker_pid": None, "worker_node": "", "name": "before"},
        ]
        answer = node([row("a", 1, 5), row("b", 1, 6)])
        named = memory.rows_of(memory.with_tasks([answer], tasks))
        assert [memory.holders_text(r["holders"]) for r in named] == [
            "worker 5 in now (hold)",
            "worker 6 (hold)",
        ]

    def test_groups(self):
        rows = [row("a", 10, 1, "pin"), row("b", 20, state="error"), row("c", 5, callsite="/x.py:10")]
        groups = memory.group_rows(rows, "call-site")
        assert [(g["group"], g["objects"], g["bytes"], g["pinned_bytes"]) for g in groups] == [
            ("/x.py:20", 1, 20, 0),
            ("/x.py:10", 2, 15, 10),
        ]
        assert [g["group"] for g in memory.group_rows(rows, "state")] == ["error", "sealed"]
        table = memory.groups_table(rows, [node(rows)], "state", "B", 1)
        assert table.notes[0] == "and 1 more groups (-n shows more)"
        assert table.notes[-1].startswith("35 B in 3 rows")

    def test_stats_of_several_nodes_are_added(self):
        a, b = (
            node([row("a", 100)], free=100, largest_free=50),
            node([row("b", 50)], free=100, largest_free=100),
        )
        tables = memory.stats_tables([a, b], "B")
        assert tables[0].columns == ("", ">nnnnnnnn", ">nnnnnnnn", ">all")
        assert tables[0].rows[:2] == [
            ("capacity", "1000 B", "1000 B", "2000 B"),
            ("used", "100 B", "50 B", "150 B"),
        ]
        assert ("fragmented", "0%", "0%", "25%") in tables[0].rows
        assert memory.stats_tables([a], "B")[0].columns == ("", ">nnnnnnnn")


NODE = {
    "node_id": "ab" * 16,
    "state": "ALIVE",
    "reason": "registered",
    "pid": 7,
    "hostname": "host",
    "resources": {"CPU": 2.0},
    "available": {"CPU": 0.5},
    "store_capacity_bytes": 1000,
    "store_used_bytes": 10,
    "pending": [],
}


def make_status(**more):
    return {
        "node_id": "ab" * 16,
        "resources": {"CPU": 2.0},
        "available": {"CPU": 1.0},
        "workers": {"IDLE": 1, "LEASED": 0},
        "pending": [],
        "jobs": [],
        "store": {"capacity": 1000, "used": 10, "objects": 1, "pinned": 0},
        "head": {"address": "127.0.0.1:7462", "trouble": ""},
        "nodes": [NODE],
        **more,
    }


class TestStatus:
    def test_this_nodes_own_figures_are_fresher_than_the_heads(self):
        other = {**NODE, "node_id": "cd"}
        own, unchanged = status.fresh_nodes(
            make_status(nodes=[NODE, other], store={"used": 77, "objects": 2})
        )
        assert (own["available"], own["store_used_bytes"]) == ({"CPU": 1.0}, 77)
        assert unchanged == other

    def test_lines(self):
        lines = status.status_lines(make_status())
        assert "head      127.0.0.1:7462" in lines
        assert "nodes     1 (1 alive)" in lines
        assert "resources 1/2 CPU in use" in lines, "this node's own figures are the freshest"
        assert lines[-1] == "waiting   nothing"

    def test_trouble_with_the_head_is_said(self):
        lines = status.status_lines(make_status(head={"address": "h:1", "trouble": "refused"}))
        assert any("no connection: refused" in line for line in lines)

    def test_dead_nodes_come_last_with_the_reason(self):
        dead = {**NODE, "node_id": "00", "state": "DEAD", "reason": "silent for 10.0 s"}
        table = status.nodes_table([dead, NODE])
        assert [line[0] for line in table.rows] == ["abababab", "00"]
        assert table.rows[1][-1] == "silent for 10.0 s"
        assert table.rows[0][4] == "1.5/2 CPU"

    def test_what_waits_and_why(self):
        own = {
            "name": "f",
            "submitter": "driver 5",
            "resources": {"CPU": 1.0},
            "backlog": 3,
            "waiting_s": 2.0,
        }
        other = {
            **NODE,
            "node_id": "cd",
            "pending": [{"resources": {"GPU": 1.0}, "count": 2, "reason": "no GPU"}],
        }
        table = status.pending_table(make_status(pending=[{**own, "reason": "busy"}], nodes=[NODE, other]))
        assert table.rows == [
            ("f", "3", "1 CPU", "2 s", "driver 5", "busy"),
            ("-", "2", "1 GPU", "-", "node cd", "no GPU"),
        ]
        assert status.pending_table(make_status()) is None

    def test_placement_groups(self):
        row = {
            "group_id": "ab" * 16, "name": "g", "detached": True, "strategy": "SPREAD", "state": "PENDING", "job_id": "1",
            "bundles": [{"CPU": 1}, {"CPU": 0.5}], "nodes": ["cd" * 16, ""], "reason": "waits for room",
        }  # fmt: skip
        (line,) = status.list_table("placement-groups", [row], 0.0).rows
        assert line[1:5] == ("g (detached)", "SPREAD", "PENDING", "1 CPU on cdcdcdcd; 0.5 CPU")
        assert f"          {'ab' * 16}: waits for room" in status.status_lines(make_status(groups=[row]))

    def test_lists(self):
        worker = {
            "pid": 5,
            "worker_id": "ff" * 16,
            "node_id": "ab" * 16,
            "state": "leased",
            "since_s": 2.0,
            "job": "j",
            "submitter": "driver 4",
            "resources": {"CPU": 1.0},
            "reason": "",
            "task_id": "0" * 32,
        }
        assert status.list_table("workers", [worker], 0.0).rows[0][-1] == "-"
        running = {**worker, "task_id": "ab" * 16}
        assert status.list_table("workers", [running], 0.0).rows[0][-1] == "task " + "ab" * 16
        task = {
            "id": "t",
            "name": "f",
            "state": "RUNNING",
            "worker_pid": 5,
            "worker_node": "ab" * 16,
            "retries_left": 0,
            "process": "driver 4",
        }
        assert status.list_table("tasks", [task], 0.0).rows == [
            ("t", "f", "RUNNING", "5", "abababab", "0", "driver 4")
        ]
        job = {
            "job_id": "j",
            "pid": 5,
            "node_id": "ab" * 16,
            "entrypoint": "x.py",
            "namespace": "",
            "started_s": 90.0,
        }
        assert status.list_table("jobs", [job], 100.0).rows[0][5] == "10 s"
        found = {
            "id": "o",
            "state": "INLINE",
            "size_bytes": None,
            "references": 1,
            "callsite": "",
            "task": "",
        }
        assert status.list_table("objects", [found], 0.0).rows[0][2] == "-"

    def test_all_of_the_reason_of_an_actor_can_be_read_in_a_narrow_terminal(self):
        reason = f"needs CPU 64, and this node has {', '.join(f'r{n} {n}' for n in range(40))}; ask for less"
        actor = {
            "actor_id": "ab" * 16, "class": "A", "name": "", "state": "PENDING_CREATION", "since_s": 2.0, "pid": 0, "restarts": 0,
            "callers": 1, "node_id": "cd" * 16, "reason": reason,
        }  # fmt: skip
        lines = table_lines(status.list_table("actors", [actor], 0.0), 80)
        assert max(map(len, lines)) <= 80
        assert reason in " ".join(" ".join(lines).split())
        assert "node: cdcdcdcd" in " ".join(" ".join(lines).split())

    def test_why(self):
        stored = {**row("ab" * 16, 2_000_000, 5), "age_s": 3.0}
        answer = {
            "rows": [
                {"process": "store", "node_id": "n" * 32, "object": stored},
                {"process": "driver 5", "lines": ["object 1 of task 'f'", "  object 2"]},
                {"process": "driver 5", "lines": ["object 3"]},
            ],
            "silent": ["worker 6"],
        }
        stored_line = (
            f"  object {'ab' * 16} is there, on node nnnnnnnn (2.00 MB, sealed, 3 s old); "
            "call site: /x.py:2000000; held by: worker 5 (hold)"
        )
        assert status.why_lines("1", answer) == [
            "store:",
            stored_line,
            "driver 5:",
            "  object 1 of task 'f'",
            "    object 2",
            "  object 3",
            "no answer from worker 6 in time: what only they know is missing",
        ]
        assert "nobody here knows 1" in status.why_lines("1", {"rows": []})[0]


def test_tables_print():
    assert table_lines(status.nodes_table([NODE]))[2].startswith("abababab  host")
