"""Where the threads of this process are."""

import json
import threading

import pytest

from shoal.client import stacks


@pytest.fixture
def waiting():
    """A thread that waits in a function of this file, until the test is over."""
    there, go = threading.Event(), threading.Event()

    def waits_here():
        there.set()
        go.wait()

    thread = threading.Thread(target=waits_here, name="mine")
    thread.start()
    there.wait()
    yield thread
    go.set()
    thread.join()


def test_every_thread_has_its_frames_innermost_last(waiting):
    rows = stacks.stack_rows()
    [row] = [row for row in rows if row["thread"] == "mine"]
    assert (row["ident"], row["main"], row["answers"], row["cut"]) == (waiting.ident, False, False, 0)
    names = [name for _, _, name in row["frames"]]
    place = next(number for number, name in enumerate(names) if name.endswith("waits_here"))
    assert row["frames"][place][0] == __file__
    assert names[-1] == "Condition.wait"
    json.dumps(rows)


def test_who_answers_is_shown_without_the_answer():
    main = stacks.stack_rows()[0]
    assert main["main"]
    assert main["answers"]
    assert main["frames"][-1][2] == "test_who_answers_is_shown_without_the_answer"


def test_which_frames_are_shoals_own():
    main = stacks.stack_rows()[0]
    assert not any(main["own"])
    scope = {"rows": stacks.stack_rows, "__name__": "__main__", "__package__": "shoald.node"}
    exec(compile("found = rows()", "/anywhere.py", "exec"), scope)
    assert scope["found"][0]["own"] == [*main["own"], True]


def test_of_deep_recursion_the_innermost_frames():
    def deeper(depth):
        return deeper(depth - 1) if depth else stacks.stack_rows()[0]

    row = deeper(150)
    assert len(row["frames"]) == 100
    assert row["cut"] > 50
    assert row["frames"][-1][2].endswith("deeper")


def test_names_that_are_no_text(monkeypatch):
    code = compile("found = rows()", "bad\udcff.py", "exec")
    scope = {"rows": stacks.stack_rows}
    exec(code, scope)
    assert "bad\\udcff.py" in [file for file, _, _ in scope["found"][0]["frames"]]
