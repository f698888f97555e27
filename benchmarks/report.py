"""Keeps measured figures (results.json) and writes them for people (RESULTS.md, the table in README.md).

    python benchmarks/report.py     writes both again from results.json

A figure is kept with where it comes from: commit, date, machine, versions. Two systems are compared by the
median of their rounds.
"""

import importlib
import json
import os
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Any

from measure import Metric

README_MARKS = ("<!-- figures: begin -->", "<!-- figures: end -->")
# In the README: what most people ask first.
README_SCENARIOS = (
    "startup",
    "tasks_sync",
    "tasks_batch",
    "queued_tasks",
    "stored_array",
    "large_put",
    "large_results",
    "by_value",
    "ragged",
    "wait_each",
    "idle",
)
TABLE_HEAD = "| scenario | Ray | shoal | ratio | target | met |\n|---|--:|--:|--:|---|:-:|\n"
PAGE_HEAD = """# Figures

Medians over rounds of fresh processes, Ray and shoal in turn on the same machine; the last table says how many
rounds, and when: one round on a shared machine is a hint. `make bench` makes this file. A ratio says how many times
better shoal is. What each scenario does is in its file in `scenarios/`.

"""
OTHERS_HEAD = """
## Beside other neighbours

| scenario | ProcessPoolExecutor | Dask distributed | shoal |
|---|--:|--:|--:|
"""
ORIGINS_HEAD = """
## Where they come from

| scenarios | system | rounds | commit | date | machine | versions |
|---|---|--:|---|---|---|---|
"""
# The order of the tables: start, tasks, actors, objects, costs. What is not named here follows.
ORDER = (
    *("startup", "tasks_sync", "tasks_batch", "queued_tasks", "queued_memory", "chain", "children"),
    *("actor_sync", "actor_batch", "actor_async", "actor_creation", "placement_groups"),
    *(
        "stored_array",
        "ref_arguments",
        "many_returns",
        "fine_shuffle",
        "sort",
        "small_values",
        "small_arrays",
    ),
    *("refs_in_object", "wait_each", "large_put", "first_put", "large_results", "get_again", "by_value"),
    *("predictions", "ragged", "spill", "idle"),
    *("transfer_1g", "broadcast", "remote_args", "remote_tasks", "many_small_objects", "cluster_start"),
)
Results = dict[str, Any]


def scenario_names(folder: Path) -> list[str]:
    """Every scenario in `folder`/scenarios, in the order of the tables."""
    found = {path.stem for path in (folder / "scenarios").glob("*.py")}
    return [name for name in ORDER if name in found] + sorted(found.difference(ORDER))


def origin(root: Path, peers_venv: Path) -> dict[str, str]:
    """Where figures of a run made now come from: commit, machine, versions."""
    git = ["git", "-C", str(root)]
    described = subprocess.run(
        [*git, "describe", "--always", "--dirty", "--abbrev=10"], check=False, capture_output=True, text=True
    )
    return {
        "commit": described.stdout.strip() or "unknown",
        "machine": machine(),
        "python": platform.python_version(),
        "ray": installed_version(peers_venv, "ray"),
        "dask": installed_version(peers_venv, "distributed"),
    }


def machine() -> str:
    """Processor, cores, memory and kernel of this machine, in one line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kernel = ".".join(platform.release().split(".")[:2])
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, {memory_gib:.0f} GiB, {platform.system()} {kernel}"


def installed_version(venv: Path, package: str) -> str:
    """The version of `package` in `venv`, or "-"."""
    found = sorted(venv.glob(f"lib/python*/site-packages/{package}-*.dist-info"))
    return found[0].name.removesuffix(".dist-info").partition("-")[2] if found else "-"


def keep(path: Path, name: str, figures: dict[str, dict[str, list[float]]], where: dict[str, str]) -> None:
    """Merge the figures of one scenario into the file: what was measured now replaces what was there."""
    results: Results = json.loads(path.read_text()) if path.exists() else {}
    kept = results.setdefault(name, {})
    for metric, systems in figures.items():
        for system, rounds in systems.items():
            entry = {"rounds": [float(f"{figure:.5g}") for figure in rounds], "origin": where}
            kept.setdefault(metric, {})[system] = entry
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def write(folder: Path) -> None:
    """Write RESULTS.md from results.json, and the README's table if the README has its marks."""
    results: Results = json.loads((folder / "results.json").read_text())
    names = [name for name in scenario_names(folder) if name in results]
    (folder / "RESULTS.md").write_text(_results_page(results, names))
    readme = folder.parent / "README.md"
    begin, end = README_MARKS
    text = readme.read_text() if readme.exists() else ""
    if begin in text and end in text:
        shown = [name for name in README_SCENARIOS if name in results]
        table = TABLE_HEAD + "".join(_rows(results, shown))
        readme.write_text(text.partition(begin)[0] + f"{begin}\n{table}{end}" + text.partition(end)[2])


def _results_page(results: Results, names: list[str]) -> str:
    tables = [TABLE_HEAD, *_rows(results, names), _others(results, names)]
    return "".join([PAGE_HEAD, *tables, ORIGINS_HEAD, *_origins(results, names)])


def _rows(results: Results, names: list[str]) -> list[str]:
    rows = []
    for name in names:
        metrics: dict[str, Metric] = importlib.import_module(f"scenarios.{name}").METRICS
        for key, metric in metrics.items():
            figures = {system: _median(entry) for system, entry in results[name].get(key, {}).items()}
            rows.append(_row(metric, figures))
    return rows


def _row(metric: Metric, figures: dict[str, float]) -> str:
    ray, shoal = figures.get("ray"), figures.get("shoal")
    ratio = None if ray is None or shoal is None else _ratio(metric, shoal, ray)
    met = "" if shoal is None else ("yes" if _is_met(metric, figures, ratio) else "no")
    # Ray's figure of a metric that compares shoal with itself or a bound is shown, the ratio is not.
    shown_ratio = f"{ratio:.3g}×" if ratio is not None and metric.ratio is not None else ""
    cells = (metric.label, _figure(ray, metric.unit), _figure(shoal, metric.unit), shown_ratio)
    return f"| {' | '.join(cells)} | {_target(metric)} | {met} |\n"


def _ratio(metric: Metric, ours: float, theirs: float) -> float:
    return ours / theirs if metric.better == "higher" else theirs / ours


def _is_met(metric: Metric, figures: dict[str, float], ratio: float | None) -> bool:
    shoal = figures["shoal"]
    return (
        (metric.ratio is None or (ratio is not None and ratio >= metric.ratio))
        and (metric.at_least is None or shoal >= metric.at_least)
        and (metric.at_most is None or shoal <= metric.at_most)
        and (metric.of_pool is None or "pool" not in figures or shoal >= metric.of_pool * figures["pool"])
    )


def _target(metric: Metric) -> str:
    parts = []
    if metric.ratio is not None:
        parts.append(f"≥ {metric.ratio:g}×")
    if metric.at_least is not None:
        parts.append(f"≥ {metric.at_least:g} {metric.unit}".rstrip())
    if metric.at_most is not None:
        parts.append(f"≤ {metric.at_most:g} {metric.unit}".rstrip())
    if metric.of_pool is not None:
        parts.append(f"≥ {metric.of_pool:g}× a process pool")
    return ", ".join(parts)


def _figure(figure: float | None, unit: str) -> str:
    if figure is None:
        return "–"
    digits = f"{figure:,.0f}" if figure >= 1000 else f"{figure:.3g}"
    return f"{digits} {unit}".rstrip().replace(" /s", "/s")


def _others(results: Results, names: list[str]) -> str:
    """The figures of a process pool and of Dask, where a scenario runs on them."""
    lines = []
    for name in names:
        metrics: dict[str, Metric] = importlib.import_module(f"scenarios.{name}").METRICS
        for key, metric in metrics.items():
            systems = results[name].get(key, {})
            if "pool" in systems or "dask" in systems:
                medians = (_median(systems.get(system)) for system in ("pool", "dask", "shoal"))
                shown = (_figure(median, metric.unit) for median in medians)
                lines.append(f"| {metric.label} | {' | '.join(shown)} |\n")
    return OTHERS_HEAD + "".join(lines) if lines else ""


def _origins(results: Results, names: list[str]) -> list[str]:
    """One line per system and run, with how many rounds it had, and the scenarios whose figures are from there."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        for systems in results[name].values():
            for system, entry in systems.items():
                where = entry["origin"]
                versions = f"Python {where['python']}"
                if system in {"ray", "dask"}:
                    versions += f", {system} {where[system]}"
                rounds = str(len(entry["rounds"]))
                run = (system, rounds, where["commit"], where["date"], where["machine"], versions)
                group = groups.setdefault(run, [])
                if name not in group:
                    group.append(name)
    return [f"| {', '.join(group)} | {' | '.join(key)} |\n" for key, group in groups.items()]


def _median(entry: dict[str, Any] | None) -> float | None:
    return statistics.median(entry["rounds"]) if entry else None


if __name__ == "__main__":
    write(Path(__file__).resolve().parent)
