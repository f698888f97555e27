"""Counters, gauges and histograms of one process, and their text for Prometheus."""

import pickle
import uuid

import pytest

from shoal.prometheus import prometheus_lines
from shoal.util import metrics
from shoal.util.metrics import Counter, Gauge, Histogram


@pytest.fixture
def name():
    return f"m_{uuid.uuid4().hex}"


def text(name):
    rows = [row for row in metrics.rows() if row["name"] == name]
    return prometheus_lines([{"node_id": "n", "pid": 7, "metrics": rows}])


def test_a_counter(name):
    counter = Counter(name, "How many\nof them.", tag_keys=("a", "b"))
    counter.set_default_tags({"b": "y"})
    counter.inc(tags={"a": 'q"\\'})
    counter.inc(2.5, tags={"a": "x", "b": "z"})
    counter.inc(tags={"a": 'q"\\'})
    assert text(name) == [
        f"# HELP {name} How many\\nof them.",
        f"# TYPE {name} counter",
        f'{name}{{a="q\\"\\\\",b="y",node_id="n",pid="7"}} 2',
        f'{name}{{a="x",b="z",node_id="n",pid="7"}} 2.5',
    ]
    assert counter.info == {
        "name": name,
        "description": "How many\nof them.",
        "tag_keys": ("a", "b"),
        "default_tags": {"b": "y"},
    }


def test_a_gauge_is_what_it_was_set_to_last(name):
    gauge = Gauge(name)
    for value in (5, -3.5):
        gauge.set(value)
    assert text(name)[-1] == f'{name}{{node_id="n",pid="7"}} -3.5'


def test_a_histogram_counts_up_to_each_boundary(name):
    histogram = Histogram(name, boundaries=[1, 10])
    for value in (0.5, 1, 5, 100):
        histogram.observe(value)
    assert [line.rpartition("pid")[2] for line in text(name)[2:]] == [
        '="7",le="1"} 2',
        '="7",le="10"} 3',
        '="7",le="+Inf"} 4',
        '="7"} 106.5',
        '="7"} 4',
    ]


def test_one_name_is_one_metric_wherever_it_comes_from(name):
    first = Counter(name, tag_keys=("a",))
    first.set_default_tags({"a": "x"})
    for counter in (first, pickle.loads(pickle.dumps(first))):
        counter.inc()
    Counter(name, tag_keys=("a",)).inc(tags={"a": "x"})
    assert text(name)[-1].endswith(" 3")
    with pytest.raises(ValueError, match=r"a counter .* already"):
        Gauge(name, tag_keys=("a",))
    histogram = Histogram(f"{name}_h", boundaries=[1.0])
    pickle.loads(pickle.dumps(histogram)).observe(1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda name: Counter("1a"), "no name of a metric"),
        (lambda name: Counter(name, tag_keys=("a-b",)), "no name of a tag"),
        (lambda name: Counter(name).inc(0), "more than 0"),
        (lambda name: Counter(name).inc(float("nan")), "more than 0"),
        (lambda name: Counter(name).inc(tags={"a": "x"}), "no tag 'a'; it has none"),
        (lambda name: Counter(name, tag_keys=("a",)).inc(), "needs a value for its tag 'a'"),
        (lambda name: Counter(name).set_default_tags({"a": "x"}), "no tag 'a'"),
        (lambda name: Histogram(name), "ascending numbers above 0"),
        (lambda name: Histogram(name, boundaries=[2, 1]), "ascending numbers above 0"),
        (lambda name: Histogram(name, boundaries=[0, 1]), "ascending numbers above 0"),
    ],
)
def test_mistakes(name, make, words):
    with pytest.raises(ValueError, match=words):
        make(name)


def test_wrong_kinds(name):
    with pytest.raises(TypeError, match="tuple of strings"):
        Counter(name, tag_keys="ab")
    with pytest.raises(TypeError, match="needs a string"):
        Counter(name, tag_keys=("a",)).inc(tags={"a": 1})


def test_too_many_series(name, monkeypatch):
    monkeypatch.setattr(metrics, "SERIES_MAX", 2)
    gauge = Gauge(name, tag_keys=("a",))
    for value in ("x", "y", "x"):
        gauge.set(1, {"a": value})
    with pytest.raises(ValueError, match="too many values"):
        gauge.set(1, {"a": "z"})
