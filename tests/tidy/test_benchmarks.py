"""The benchmarks load, their tables render, and figures of different runs merge. Nothing is timed here."""

import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
WHERE = {
    "commit": "c0ffee",
    "date": "2026-01-01",
    "machine": "a box",
    "python": "3.11",
    "ray": "2.60.0",
    "dask": "-",
}


@pytest.fixture
def report(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    return importlib.import_module("report")


def test_every_scenario_says_what_it_measures(report):
    names = report.scenario_names(FOLDER)
    assert set(names) == set(report.ORDER)
    for name in names:
        scenario = importlib.import_module(f"scenarios.{name}")
        assert scenario.METRICS
        assert sum(hasattr(scenario, name) for name in ("run", "run_cold", "run_nodes")) == 1


def test_new_figures_replace_those_of_the_same_system_only(report, tmp_path):
    path = tmp_path / "results.json"
    report.keep(path, "tasks_sync", {"rate": {"ray": [1.0, 2.0], "shoal": [10.0]}}, WHERE)
    report.keep(path, "tasks_sync", {"rate": {"shoal": [40.0]}}, WHERE | {"commit": "beef"})
    kept = json.loads(path.read_text())["tasks_sync"]["rate"]
    assert kept["ray"]["rounds"] == [1.0, 2.0]
    assert kept["shoal"] == {"rounds": [40.0], "origin": WHERE | {"commit": "beef"}}


def test_tables_show_medians_ratios_and_what_was_met(report, tmp_path):
    (tmp_path / "scenarios").mkdir()
    folder = tmp_path
    for name in ("tasks_sync", "idle", "tasks_batch"):
        (folder / "scenarios" / f"{name}.py").touch()
    begin, end = report.README_MARKS
    path = folder / "results.json"
    (tmp_path.parent / "README.md").write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    report.keep(path, "tasks_sync", {"rate": {"ray": [1000.0, 900.0, 1e9], "shoal": [25_000.0]}}, WHERE)
    report.keep(path, "idle", {"memory": {"ray": [800.0], "shoal": [200.0]}, "cpu": {"shoal": [0.1]}}, WHERE)
    report.keep(path, "tasks_batch", {"rate": {"ray": [1.0], "shoal": [30.0], "pool": [20.0]}}, WHERE)
    report.write(folder)
    page = (folder / "RESULTS.md").read_text()
    assert "| tasks, one at a time | 1,000/s | 25,000/s | 25× | ≥ 20× | yes |" in page
    assert "| idle cluster: memory | 800 MB | 200 MB | 4× | ≥ 5× | no |" in page
    assert "| idle cluster: CPU | – | 0.1 % |  | ≤ 0.5 % | yes |" in page
    assert "| tasks, batches of 1,000 | 1/s | 30/s | 30× | ≥ 25×, ≥ 2× a process pool | no |" in page
    assert "| tasks, batches of 1,000 | 20/s | – | 30/s |" in page
    readme = (tmp_path.parent / "README.md").read_text()
    assert readme.startswith(f"before\n{begin}\n| scenario")
    assert readme.endswith(f"{end}\nafter\n")
    assert "old" not in readme
