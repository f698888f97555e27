"""Each example gives the answer of the plain computation in one process, and runs as a script."""

import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def example(monkeypatch):
    """Imports an example as the script would be, and ends the cluster that it started."""
    import shoal

    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    yield __import__
    shoal.shutdown()


def test_flights(example, capsys):
    flights = example("flights")
    table = flights.main()
    plain = flights.load_flights().groupby(["carrier", "month"])["arr_delay"].mean().unstack()
    assert table.shape == (16, 12)
    assert ((table - plain).abs().fillna(0) < 1e-9).all(axis=None)
    assert (table.isna() == plain.isna()).all(axis=None)
    printed = capsys.readouterr().out
    assert "336,776 flights" in printed
    assert "Objects in the store: 1," in printed


def test_random_walks(example):
    import numpy as np

    walks = example("random_walks")
    names, neighbours = walks.load_graph()
    plain = np.sum([walks.walk(neighbours, seed) for seed in range(walks.TASKS)], axis=0)
    assert np.array_equal(walks.visits(neighbours), plain)
    assert plain.sum() == walks.TASKS * walks.WALKS * walks.STEPS
    assert walks.main()[0] == names[int(np.argmax(plain))]


def test_random_walks_on_python_imports(example):
    """What a machine without Debian's package list gets."""
    import sysconfig

    imports = example("random_walks").python_imports(Path(sysconfig.get_path("stdlib")))
    assert "collections.abc" in imports["typing"]
    assert len(imports) > 100


def test_debian_alternatives_and_versions(example):
    status = "Package: a\nDepends: b (>= 2), c | d:any,\nPre-Depends: e\n\nPackage: b\nStatus: ok\n"
    assert example("random_walks").debian_dependencies(status) == {"a": ["b", "c", "d", "e"], "b": []}


def test_hyperparameters(example):
    search = example("hyperparameters")
    data = {name: array[:600] for name, array in search.load_data().items()}  # of all it is the script's
    grid = product(search.PENALTIES, search.GAMMAS)
    plain = {settings: search.accuracy(data, *settings) for settings in grid}
    assert search.search(data) == pytest.approx(plain)


def test_sort(example, capsys):
    assert example("sort").main(["--megabytes", "60", "--tasks", "6"]) == 7_500_000
    printed = capsys.readouterr().out
    assert "6 of 6" in printed
    assert "MB/s" in printed
    assert "of 3 nodes" in printed


def test_partitions(example, capsys):
    partitions = example("partitions")
    table = partitions.main([])
    flights = example("flights").load_flights()
    assert list(table.index) == list(flights.groupby(["origin", "dest"]).size().nlargest(5).index)
    arrived = flights.dropna(subset=["arr_delay"]).set_index(["origin", "dest"])["arr_delay"]
    for route, row in table.iterrows():
        assert row["arrived"] == len(arrived.loc[route])
        assert row["late"] == (arrived.loc[route] > 15).sum()
    (stayed,) = re.findall(
        r"(\d+) of 12 months were counted where they had been loaded", capsys.readouterr().out
    )
    assert int(stayed) >= 6


def run_script(path):
    command = [sys.executable, str(path)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("name", ["flights", "random_walks", "hyperparameters"])
def test_runs_as_a_script(name):
    done = run_script(ROOT / "examples" / f"{name}.py")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_first_script_of_the_readme(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    script = tmp_path / "first.py"
    script.write_text(code)
    done = run_script(script)
    assert done.returncode == 0, done.stderr
    assert 0.5 < float(done.stdout) < 0.51


def test_model_server(example, capsys):
    accuracy, requests = example("model_server").main()
    assert requests == 600
    assert accuracy > 0.95
    printed = capsys.readouterr().out
    assert "answers/s" in printed
    assert "latency" in printed


def test_parameter_server(example):
    alone, in_step, asynchronous = example("parameter_server").main().values()
    assert alone > 0.85
    assert abs(in_step - alone) < 0.03
    assert asynchronous > 0.85
