"""What `shoal get`, `summary` and `stack` print of the rows that daemons answer with."""

from shoal.cli.format import table_lines
from shoal.cli.stack import stack_lines, with_tasks
from shoal.cli.states import field_lines, summary_table
from shoal.states import summarize


class TestGet:
    def test_a_line_for_each_field(self):
        row = {"id": "ab", "pid": None, "name": "", "age_s": 1.5, "resources": {"CPU": 1}, "raw": b"\x01"}
        assert field_lines(row) == [
            "id         ab",
            "pid        -",
            "name       -",
            "age_s      1.5",
            'resources  {"CPU": 1}',
            "raw        01",
        ]

    def test_rows_within(self):
        assert field_lines({"id": "ab", "known_by": [{"pid": 7}, {"pid": 8}]}) == [
            "id        ab",
            "known_by",
            "  1:",
            "    pid  7",
            "  2:",
            "    pid  8",
        ]

    def test_nothing(self):
        assert field_lines({}) == []


class TestSummary:
    def test_tasks(self):
        rows = [{"name": "f", "state": state} for state in ("RUNNING", "FAILED", "RUNNING")]
        lines = table_lines(summary_table("tasks", summarize("tasks", rows), ["a note"]), None)
        assert lines[0] == "3 tasks"
        assert lines[-2].split() == ["f", "3", "2", "RUNNING,", "1", "FAILED"]
        assert lines[-1] == "a note"

    def test_objects(self):
        row = {"id": "1", "state": "STORED", "size_bytes": 2000, "references": 3, "callsite": "/x.py:1"}
        lines = table_lines(summary_table("objects", summarize("objects", [row]), []), None)
        assert lines[0] == "1 objects, 2.0 KB"
        assert lines[-1].split() == ["/x.py:1", "1", "2.0", "KB", "3", "1", "STORED"]


def thread(name, main=False, cut=0):
    return {"thread": name, "main": main, "cut": cut, "frames": [["/x.py", 3, "f"]], "own": [False]}


class TestStack:
    rows = (
        {
            "node_id": "n",
            "pid": 7,
            "process": "worker 7",
            "task_id": "ab",
            "task": "f",
            "threads": [thread("MainThread", True, 2), thread("shoal-backup"), thread("mine")],
        },
    )

    def test_threads_of_users(self):
        assert stack_lines(self.rows, False) == [
            "worker 7, task ab f",
            "  thread MainThread",
            "    (2 outer frames left out)",
            "    /x.py:3 in f",
            "  thread mine",
            "    /x.py:3 in f",
            "  and 1 thread of shoal's own (--all shows them)",
            "",
        ]

    def test_all_threads(self):
        lines = stack_lines(self.rows, True)
        assert "  thread shoal-backup" in lines
        assert not any("--all" in line for line in lines)

    def test_neither_how_the_worker_came_there_nor_how_shoal_waits(self):
        frames = [
            ["<frozen runpy>", 1, "main"],
            ["/lib/shoald/worker/executor.py", 2, "run"],
            ["/home/shoal/x.py", 3, "f"],
            ["/lib/shoal/api.py", 4, "get"],
            ["/lib/shoal/client/values.py", 5, "wait"],
            ["/lib/python/threading.py", 6, "wait"],
            ["/lib/shoal/client/runtime.py", 7, "<lambda>"],
        ]
        own = [False, True, False, True, True, False, True]
        row = {
            **self.rows[0],
            "threads": [{**thread("MainThread", True), "frames": frames[:5], "own": own[:5]}],
        }
        assert stack_lines([row], False)[2:] == [
            "    /home/shoal/x.py:3 in f",
            "    /lib/shoal/api.py:4 in get",
            "  and 3 frames of shoal's own (--all shows them)",
            "",
        ]
        assert len(stack_lines([row], True)) == 8
        idle = {**row, "threads": [{**row["threads"][0], "frames": frames[:2], "own": own[:2]}]}
        assert stack_lines([idle], False)[2:4] == [
            "    in shoal's own code",
            "  and 2 frames of shoal's own (--all shows them)",
        ]

    def test_nobody(self):
        assert stack_lines([], False) == ["no process has answered"]

    def test_what_runs_there(self):
        rows = [{"node_id": "n", "pid": 7}, {"node_id": "m", "pid": 7}, {"node_id": "n", "pid": 8}]
        workers = [
            {"node_id": "n", "pid": 7, "task_id": "ab"},
            {"node_id": "n", "pid": 8, "task_id": "0000"},
        ]
        tasks = [{"id": "ab", "name": "f"}]
        found = [(row["task_id"], row["task"]) for row in with_tasks(rows, workers, tasks)]
        assert found == [("ab", "f"), ("", ""), ("", "")]
