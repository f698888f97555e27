"""The ring of what ran, and the trace that is made of several."""

import time

from shoal.client.timeline import Timeline, chrome_events


def test_the_newest_are_kept_with_wall_clock_times():
    timeline = Timeline(3)
    before, monotonic = time.time(), time.perf_counter()
    after = time.time()
    for number in range(5):
        timeline.record(
            (f"task{number}", bytes([number]) * 16, monotonic + number, monotonic + number + 0.25, True)
        )
    rows = timeline.rows()
    assert [row[0] for row in rows] == ["task2", "task3", "task4"]
    assert [row[1] for row in rows] == [bytes([number]).hex() * 16 for number in (2, 3, 4)]
    assert all(before - 0.01 <= row[2] / 1e6 - number <= after + 0.01 for number, row in enumerate(rows, 2))
    assert [round(row[3]) for row in rows] == [250_000] * 3


def test_names_of_calls_are_looked_up_when_they_are_asked_for():
    timeline = Timeline(3)
    timeline.name_of = lambda field: f"Class.{field.decode()}"
    timeline.record((b"method", bytes(16), 0.0, 1.0, False))
    ((name, _, _, _, good),) = timeline.rows()
    assert (name, good) == ("Class.method", False)


def test_a_trace_has_nodes_as_processes_and_workers_as_threads():
    rows = [
        {"node_id": "a" * 32, "pid": 10, "process": "worker 10", "events": [["f", "01", 200, 5.0, True]]},
        {"node_id": "b" * 32, "pid": 10, "process": "worker 10", "events": [["g", "02", 100, 6.5, False]]},
        {"node_id": "b" * 32, "pid": 11, "process": "driver 11", "events": []},
    ]
    names = [event for event in chrome_events(rows) if event["ph"] == "M"]
    events = [event for event in chrome_events(rows) if event["ph"] == "X"]
    assert [(event["name"], event["pid"], event["tid"], event["args"]["name"]) for event in names] == [
        ("process_name", 1, 0, "node aaaaaaaa"),
        ("process_name", 2, 0, "node bbbbbbbb"),
        ("thread_name", 1, 10, "worker 10"),
        ("thread_name", 2, 10, "worker 10"),
    ]
    assert [(event["name"], event["ts"], event["dur"], event["pid"], event["tid"]) for event in events] == [
        ("g", 100, 6.5, 2, 10),
        ("f", 200, 5.0, 1, 10),
    ]
    assert [event["args"]["state"] for event in events] == ["FAILED", "FINISHED"]
