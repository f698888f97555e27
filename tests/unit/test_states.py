"""One row by its id, rows by filters, and sums: what `shoal get`, `summary` and `shoal.util.state` are made of."""

import pytest

from shoal.states import NotOne, find, matching, summarize


def task(task_id, name="f", state="RUNNING"):
    return {"id": task_id, "name": name, "state": state}


def stored(object_id, state="STORED", size=10, **more):
    return {
        "id": object_id, "state": state, "size_bytes": size, "references": 1, "function": "f", "callsite": "", **more,
    }  # fmt: skip


class TestFind:
    rows = (task("ab12"), task("ab34"), task("cd56"))

    def test_by_id_and_by_its_beginning(self):
        assert find("task", self.rows, "ab12") == task("ab12")
        assert find("task", self.rows, " CD ") == task("cd56")

    def test_a_whole_id_is_meant_though_others_begin_so(self):
        assert find("task", [task("ab"), task("ab34")], "ab") == task("ab")

    @pytest.mark.parametrize("wanted", ["ff", "", "  "])
    def test_nothing_is_meant(self, wanted):
        with pytest.raises(NotOne, match=r"no task .* is known; `shoal list tasks`") as caught:
            find("task", self.rows, wanted)
        assert not caught.value.several

    def test_several_are_meant(self):
        with pytest.raises(NotOne, match="each of 2 tasks: ab12, ab34; say more") as caught:
            find("task", self.rows, "ab")
        assert caught.value.several
        with pytest.raises(NotOne, match="and 4 more"):
            find("task", [task(f"a{n}") for n in range(9)], "a")

    def test_a_worker_by_its_pid(self):
        rows = [{"worker_id": "7700", "pid": 12}, {"worker_id": "12ff", "pid": 9}]
        assert find("worker", rows, "12")["worker_id"] == "7700"
        assert find("worker", rows, "12f")["worker_id"] == "12ff"

    def test_an_object_as_it_is_known_best(self):
        rows = [stored("ab", "BORROWED", 0), stored("ab", size=7), stored("cd")]
        found = find("object", rows, "ab")
        assert (found["state"], found["size_bytes"]) == ("STORED", 7)
        assert found["known_by"] == rows[:2]

    def test_other_kinds(self):
        group = {"group_id": "99aa", "state": "CREATED"}
        assert find("placement-group", [group], "99") == group
        with pytest.raises(NotOne, match="no placement group"):
            find("placement-group", [group], "1")


class TestMatching:
    rows = (task("1", "f", "RUNNING"), task("2", "g", "FINISHED"), {**task("3"), "pid": 7})

    def test_all_have_to_hold(self):
        assert matching(self.rows, [("name", "=", "f"), ("state", "=", "running")]) == [
            self.rows[0],
            self.rows[2],
        ]
        assert matching(self.rows, [("state", "!=", "RUNNING")]) == [self.rows[1]]
        assert matching(self.rows, []) == list(self.rows)

    def test_values_are_compared_as_text(self):
        assert matching(self.rows[2:], [("pid", "=", 7)]) == [self.rows[2]]

    @pytest.mark.parametrize("given", [("a", "="), ("state", ">", "1"), "state"])
    def test_no_filter(self, given):
        with pytest.raises(ValueError, match="is no filter: it looks like"):
            matching((), [given])

    def test_an_unknown_field(self):
        with pytest.raises(ValueError, match="no field 'stat'; there are id, name, state"):
            matching(self.rows, [("stat", "=", "x")])


class TestSummarize:
    def test_tasks(self):
        cluster = summarize("tasks", [task("1"), task("2", state="FAILED"), task("3"), task("4", "g")])[
            "cluster"
        ]
        assert cluster["total_tasks"] == 4
        assert list(cluster["summary"]) == ["f", "g"]
        assert cluster["summary"]["f"] == {
            "func_or_class_name": "f", "state_counts": {"RUNNING": 2, "FAILED": 1},
        }  # fmt: skip

    def test_actors(self):
        rows = [{"class": name, "state": "ALIVE"} for name in ("A", "B", "B", "")]
        cluster = summarize("actors", rows)["cluster"]
        assert list(cluster["summary"]) == ["B", "-", "A"]
        assert cluster["total_actors"] == 4

    def test_an_object_counts_once_whoever_knows_it(self):
        rows = [
            stored("a", size=5, callsite="/x.py:1"),
            stored("a", "BORROWED", 0),
            stored("b", size=9, callsite="/x.py:1"),
            stored("c", "PENDING", 0),
        ]
        cluster = summarize("objects", rows)["cluster"]
        assert (cluster["total_objects"], cluster["total_size_bytes"]) == (3, 14)
        assert list(cluster["summary"]) == ["/x.py:1", "f"]
        assert cluster["summary"]["/x.py:1"] == {
            "total_objects": 2, "total_size_bytes": 14, "total_references": 3, "state_counts": {"STORED": 2},
        }  # fmt: skip

    def test_of_nothing(self):
        assert summarize("tasks", []) == {"cluster": {"summary": {}, "total_tasks": 0}}
