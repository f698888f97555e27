"""Runs scenarios on shoal and its peers in turn, in fresh processes, and keeps what they measured.

    python benchmarks/run.py                        everything, into results.json and RESULTS.md
    python benchmarks/run.py tasks_sync chain       some scenarios; the figures of the others stay
    python benchmarks/run.py --rounds 5             more rounds (A B A B A B ...), default 3
    python benchmarks/run.py --only shoal           one system; those of the others stay, but from another run
    python benchmarks/run.py --no-write             print only

Peers run in `.venv-peers` in the root of the repository, made from PyPI when it is missing. The machine
should do nothing else: its figures drift, and only ratios of one run count. A round of everything takes about ten
minutes. A run that fails or hangs is reported, here and at the end, and the others go on; each is bounded by TIMEOUT_S.
"""

import argparse
import compileall
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PEERS_VENV = ROOT / ".venv-peers"
PEERS = ("ray==2.60.0", "dask==2026.8.0", "distributed==2026.8.0", "numpy", "psutil", "cloudpickle")
SYSTEMS = ("ray", "shoal", "pool", "dask")
TIMEOUT_S = 180  # of one scenario on one system; the slowest, 100,000 tasks on Ray, needs a quarter of it


def load(name: str) -> ModuleType:
    """The module of a scenario; it imports no system."""
    return importlib.import_module(f"scenarios.{name}")


def systems_of(scenario: ModuleType, only: list[str]) -> list[str]:
    """The systems that the scenario can run on, of those asked for."""
    able = {"ray", "shoal"}
    able |= {system for system in ("pool", "dask") if hasattr(scenario, f"run_{system}")}
    return [system for system in SYSTEMS if system in able and (not only or system in only)]


def make_peers() -> None:
    """Create the environment of the peers, if there is none."""
    if (PEERS_VENV / "bin" / "python").exists():
        return
    print(f"making {PEERS_VENV.name} with {', '.join(PEERS)}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(PEERS_VENV)], check=True)
    subprocess.run([PEERS_VENV / "bin" / "python", "-m", "pip", "install", "--quiet", *PEERS], check=True)


def compile_own() -> None:
    """Give shoal the bytecode that the peers have from their installation: an editable one leaves it to the first import."""
    for source in ("src", "daemons"):
        compileall.compile_dir(ROOT / source, quiet=1)


def run_one(name: str, system: str) -> dict[str, float] | str:
    """One scenario on one system in a fresh process: its figures, or why there are none, with more of that printed."""
    python = sys.executable if system in {"shoal", "pool"} else str(PEERS_VENV / "bin" / "python")
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        # Files, not pipes: what outlives the process could keep a pipe open. A session: all of it can end.
        process = subprocess.Popen(
            [python, str(HERE / "one.py"), name, system], stdout=output, stderr=errors, start_new_session=True
        )
        try:
            status = process.wait(TIMEOUT_S)
            problem = f"exit status {status}" if status else ""
        except subprocess.TimeoutExpired:
            problem = f"killed after {TIMEOUT_S} s"
        finally:
            if process.poll() is None:  # it hangs, or we were interrupted
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        errors.seek(0)
        if not problem:
            try:
                return json.loads(output.read().splitlines()[-1])
            except (ValueError, IndexError):
                problem = "no figures in its output"
        print(f"{name} on {system}: {problem}\n{errors.read()[-2000:]}", file=sys.stderr, flush=True)
        return problem


def run_scenario(
    name: str, only: list[str], rounds: int
) -> tuple[dict[str, dict[str, list[float]]], list[str]]:
    """All rounds of one scenario: metric → system → figures; and a line for each run that failed."""
    figures: dict[str, dict[str, list[float]]] = {}
    failures: list[str] = []
    systems = systems_of(load(name), only)
    for number in range(rounds):
        for system in systems:
            start = time.monotonic()
            result = run_one(name, system)
            if isinstance(result, str):
                failures.append(f"{name} on {system}, round {number + 1}: {result}")
                shown = f"failed: {result}"
            else:
                for metric, figure in result.items():
                    figures.setdefault(metric, {}).setdefault(system, []).append(figure)
                shown = str({metric: float(f"{figure:.4g}") for metric, figure in result.items()})
            took = f"{time.monotonic() - start:.0f} s"
            print(f"{name:16} {number + 1}/{rounds} {system:6} {took:>6}  {shown}", flush=True)
    return figures, failures


def main() -> int:
    """Entry point; the exit status is 1 when a scenario failed to run (not when a target was missed)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios to run (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", default=[], choices=SYSTEMS)
    parser.add_argument("--list", action="store_true", help="print the scenarios and end")
    parser.add_argument("--no-write", action="store_true", help="print figures, change no file")
    options = parser.parse_args()
    known = report.scenario_names(HERE)
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(known)}")
    if options.list:
        for name in known:
            print(f"{name:16} {(load(name).__doc__ or '').splitlines()[0]}")
        return 0
    if not options.only or {"ray", "dask"} & set(options.only):
        make_peers()
    compile_own()
    origin = report.origin(ROOT, PEERS_VENV) | {"date": datetime.now(UTC).date().isoformat()}
    failed: list[str] = []
    for name in options.names or known:
        figures, failures = run_scenario(name, options.only, options.rounds)
        failed += failures
        if figures and not options.no_write:
            # After each scenario: a run that is broken off has kept what it measured.
            report.keep(HERE / "results.json", name, figures, origin)
            report.write(HERE)
    for line in failed:
        print(f"FAILED {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
