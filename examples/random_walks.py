"""Which packages does everything else rest on? Random walks along the dependencies of this machine.

Each step goes from a Debian package to one that it depends on, or, where there is none, to any package. Where
many walks pass, much depends. Without Debian's package list, the modules of Python's library and what they
import serve as well.

The graph is an adjacency list: one array of neighbours per node, of different lengths. It is stored as one
object, packed, and read in place by every task; with millions of rows this works just the same.

    python examples/random_walks.py
"""

import ast
import re
import sys
import sysconfig
from pathlib import Path

import numpy as np

import shoal

DPKG_STATUS = Path("/var/lib/dpkg/status")
TASKS = 16
WALKS = 200
STEPS = 50
# At each step, the chance to begin anew at any node.
RESTART = 0.15


def debian_dependencies(status: str) -> dict[str, list[str]]:
    """Package → the packages it depends on, from the text of dpkg's status file."""
    depends: dict[str, list[str]] = {}
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Depends|Pre-Depends): (.*)$", paragraph, re.MULTILINE))
        if "Package" in fields:
            needed = f"{fields.get('Depends', '')},{fields.get('Pre-Depends', '')}"
            depends[fields["Package"]] = re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]*)", needed)
    return depends


def python_imports(library: Path) -> dict[str, list[str]]:
    """Module → the modules it imports, for the single-file modules of Python's standard library."""
    imports = {}
    for path in library.glob("*.py"):
        tree = ast.parse(path.read_bytes())
        names = [
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        ]
        names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        imports[path.stem] = names
    return imports


def load_graph() -> tuple[list[str], np.ndarray]:
    """The names of the nodes, and for each node the sorted numbers of its neighbours (an int32 array)."""
    if DPKG_STATUS.exists():
        edges = debian_dependencies(DPKG_STATUS.read_text(encoding="utf-8"))
    else:
        edges = python_imports(Path(sysconfig.get_path("stdlib")))
    names = sorted(edges)
    number = {name: index for index, name in enumerate(names)}
    neighbours = np.empty(len(names), dtype=object)
    for index, name in enumerate(names):
        known = {number[other] for other in edges[name] if other in number and other != name}
        neighbours[index] = np.array(sorted(known), dtype=np.int32)
    return names, neighbours


def walk(neighbours: np.ndarray, seed: int) -> np.ndarray:
    """How often each node was visited in WALKS random walks of STEPS steps; the same for the same seed."""
    random = np.random.default_rng(seed)
    visits = np.zeros(len(neighbours), dtype=np.int64)
    for start in random.integers(len(neighbours), size=WALKS):
        node = start
        chances, anywhere = random.random(STEPS), random.integers(len(neighbours), size=STEPS)
        for chance, elsewhere in zip(chances, anywhere, strict=True):
            choices = neighbours[node]
            if len(choices) == 0 or chance < RESTART:
                node = elsewhere
            else:
                # What is left of the chance picks one of the neighbours.
                node = choices[int((chance - RESTART) / (1 - RESTART) * len(choices))]
            visits[node] += 1
    return visits


walk_remotely = shoal.remote(walk)


def visits(neighbours: np.ndarray) -> np.ndarray:
    """The visits of all walks, in TASKS tasks over one stored graph."""
    graph = shoal.put(neighbours)
    return np.sum(shoal.get([walk_remotely.remote(graph, seed) for seed in range(TASKS)]), axis=0)


def main() -> list[str]:
    """Print and return the ten nodes that most walks pass."""
    names, neighbours = load_graph()
    edges = sum(len(row) for row in neighbours)
    print(
        f"{len(names):,} nodes, {edges:,} edges, {TASKS * WALKS:,} walks of {STEPS} steps on {sys.platform}\n"
    )
    counts = visits(neighbours)
    top = np.argsort(-counts, kind="stable")[:10]
    for index in top:
        print(f"{names[index]:30} {counts[index] / counts.sum():7.2%} of all steps")
    return [names[index] for index in top]


if __name__ == "__main__":
    main()
    shoal.shutdown()
