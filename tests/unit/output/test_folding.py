"""Repeated lines are folded across workers, and none is lost."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoal.client.folding import OutputFolding

WINDOW = 1.0


def entry(text, pid=1, task="f", node="", stream="stdout"):
    return [task, pid, node, stream, [text] if isinstance(text, str) else text]


def whole(lines):
    return [line.whole for line in lines]


def folding(lines_max=100):
    return OutputFolding("here", WINDOW, lines_max)


def test_lines_name_their_task_and_pid():
    core = folding()
    printed = core.handle([entry(["a", "b"]), entry("c", 2, node="there"), entry("d", 3, "", "here")], 0.0)
    assert whole(printed) == ["(f pid=1) a", "(f pid=1) b", "(f pid=2, node=there) c", "(worker pid=3) d"]


def test_the_same_line_of_other_workers_is_counted():
    core = folding()
    assert whole(core.handle([entry("x", pid) for pid in range(5)], 0.0)) == ["(f pid=0) x"]
    assert core.next_deadline() == WINDOW
    assert core.due(0.9) == []
    assert whole(core.due(WINDOW)) == ["(f pid=4) x [repeated 4x across cluster]"]
    assert core.next_deadline() is None
    assert whole(core.handle([entry("x", 7)], 1.1)) == ["(f pid=7) x"]  # a new window


def test_a_single_repetition_is_the_line_itself():
    core = folding()
    core.handle([entry("x", 1), entry("x", 2)], 0.0)
    assert whole(core.flush()) == ["(f pid=2) x"]


def test_what_one_worker_repeats_is_not_changed():
    core = folding()
    assert whole(core.handle([entry(["x"] * 3)], 0.0)) == ["(f pid=1) x"] * 3
    assert core.next_deadline() is None


def test_other_tasks_and_streams_are_other_lines():
    core = folding()
    lines = core.handle([entry("x"), entry("x", 2, "g"), entry("x", 3, stream="stderr")], 0.0)
    assert len(lines) == 3
    assert [line.stream for line in lines] == ["stdout", "stdout", "stderr"]


def test_the_same_pid_on_another_node_is_another_worker():
    core = folding()
    assert len(core.handle([entry("x"), entry("x", node="there")], 0.0)) == 1


def test_the_oldest_window_ends_early_at_the_bound():
    core = folding(lines_max=2)
    core.handle([entry("a"), entry("a", 2), entry("b")], 0.0)
    assert whole(core.handle([entry("c")], 0.1)) == ["(f pid=1) c", "(f pid=2) a"]


def test_without_a_window_nothing_is_folded():
    core = OutputFolding("", 0.0, 10)
    assert len(core.handle([entry("x", pid) for pid in range(5)], 0.0)) == 5


class Machine(RuleBasedStateMachine):
    """Whatever comes when: lines printed stand for lines received."""

    def __init__(self):
        super().__init__()
        self.core = OutputFolding("", WINDOW, 3)
        self.now = 0.0
        self.received = Counter()
        self.printed = Counter()

    def count(self, lines):
        for line in lines:
            self.printed[line.stream, line.prefix.partition(" ")[0], line.text] += line.times

    @rule(
        text=st.sampled_from("abcde"),
        pid=st.integers(1, 3),
        task=st.sampled_from("fg"),
        times=st.integers(1, 3),
        stream=st.sampled_from(["stdout", "stderr"]),
    )
    def print(self, text, pid, task, times, stream):
        self.received[stream, f"({task}", text] += times
        self.count(self.core.handle([entry([text] * times, pid, task, stream=stream)], self.now))

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0]))
    def wait(self, seconds):
        self.now += seconds
        self.count(self.core.due(self.now))
        deadline = self.core.next_deadline()
        assert deadline is None or deadline > self.now

    @invariant()
    def valid(self):
        self.core.validate()
        assert self.printed <= self.received

    def teardown(self):
        self.count(self.core.flush())
        assert self.printed == self.received


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=50, stateful_step_count=30)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 3))))
def test_the_first_worker_is_always_heard_at_once(said):
    core = folding()
    first = {}
    for text, pid in said:
        printed = core.handle([entry(text, pid)], 0.0)
        if first.setdefault(text, pid) == pid:
            assert whole(printed) == [f"(f pid={pid}) {text}"]
