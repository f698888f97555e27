"""The habits of the code hold in every file, and each rule is shown to catch what it is for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tidy import rules

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "daemons", "tools", "benchmarks", "examples", "tests")
GENERATED = ("_pb2.py", "_pb2_grpc.py")


def sources() -> dict[str, str]:
    """Every checked file: path relative to the repository → text."""
    paths = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for path in paths
        if not path.name.endswith(GENERATED) and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule):
    found = [problem for path, source in sources().items() for problem in rule(path, source)]
    assert not found, "\n" + "\n".join(found)


LONG_FUNCTION = "def f():\n" + "    g()\n" * rules.FUNCTION_LINES_MAX
CANARIES = [
    (rules.file_length, "src/shoal/x.py", "\n" * (rules.FILE_LINES_MAX + 1)),
    (rules.function_length, "src/shoal/x.py", LONG_FUNCTION),
    (rules.function_length, "src/shoal/x.py", "async " + LONG_FUNCTION),
    (rules.opening, "src/shoal/x.py", "import os\n"),
    (rules.pure_core, "src/shoal/owner/x.py", "import time\n"),
    (rules.pure_core, "daemons/shoald/head/core.py", "def f():\n    from asyncio import sleep\n"),
    (rules.pure_core, "daemons/shoald/store/core.py", "import concurrent.futures\n"),
    (rules.one_direction, "src/shoal/x.py", "def f():\n    import shoald.node\n"),
    (rules.one_direction, "src/shoal/x.py", "from shoald import node\n"),
    (rules.no_swallowed_error, "src/shoal/x.py", "try:\n    f()\nexcept:\n    raise\n"),
    (rules.no_swallowed_error, "src/shoal/x.py", "try:\n    f()\nexcept Exception:\n    pass\n"),
    (
        rules.no_swallowed_error,
        "src/shoal/x.py",
        "try:\n    f()\nexcept (OSError, BaseException):\n    ...\n",
    ),
    (rules.no_later, "src/shoal/x.py", "# TO" + "DO: later\n"),
]


@pytest.mark.parametrize(("rule", "path", "source"), CANARIES)
def test_rule_catches_its_canary(rule, path, source):
    ast.parse(source)
    assert list(rule(path, source))


INNOCENT = '''"""What this is."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

try:
    os.getpid()
except OSError:
    pass
'''


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_rule_accepts_what_is_right(rule):
    assert not list(rule("src/shoal/owner/x.py", INNOCENT))


def test_every_rule_has_a_canary():
    assert {rule for rule, _, _ in CANARIES} == set(rules.RULES)


def test_every_core_exists():
    """A core that was renamed would not be checked any more."""
    paths = sources()
    for folder, names in rules.CORES.items():
        for name in names.split():
            path = f"{folder}/{'__init__' if name == '*' else name}.py"
            assert path in paths
            assert rules.is_core(path)


# What `import shoal` alone must not load: it would cost every start, and grpc the forks of workers.
HEAVY = (
    *("grpc", "pandas", "pyarrow", "rich", "click", "torch", "polars", "asyncio", "sqlite3", "shoald"),
    *("numpy", "cloudpickle", "logging"),
)
# OpenSSL: 1.5 MB of each process (see shoal.digests), and 3 in a daemon with ssl.
OPENSSL = {"hashlib", "_hashlib", "hmac", "ssl", "_ssl"}


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `statement`, and had not before."""
    script = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    return {name.partition(".")[0] for name in output.split()}


def test_import_is_light():
    assert loaded_by("import shoal") & set(HEAVY) == set()


def daemon_loads(modules: str, first: str = "pass") -> set[str]:
    """What is loaded by a daemon that has executed ``first``, and loads these modules."""
    start = "from shoald.bare import skip_user_api; skip_user_api()"
    return loaded_by("; ".join([start, first, *(f"import shoald.{module}" for module in modules.split())]))


ALONE = "node.lifecycle node.daemon node.forkclient node.headside store.populate head.link head.server"


def test_a_daemon_loads_nothing_that_only_clients_need():
    heavy = {"numpy", "cloudpickle", "click", "rich"}
    assert daemon_loads(f"{ALONE} objects.manager head.storage") & heavy == set()


def test_the_daemon_of_one_machine_loads_neither_openssl_nor_sqlite():
    first = "import shoald.node.headside as side; side.load_asyncio()"
    assert daemon_loads(ALONE, first) & {*OPENSSL, "sqlite3", "argparse"} == set()


def test_a_driver_loads_nothing_that_only_daemons_need():
    statement = "import shoal, shoal.client.runtime"
    assert loaded_by(statement) & ({"numpy", "asyncio", "sqlite3", "zipfile"} | OPENSSL) == set()


def test_a_fork_server_loads_nothing_that_only_some_workers_need():
    statement = "import numpy, cloudpickle, shoald.worker.forkserver, shoald.worker.main, shoal.wire.auth"
    assert loaded_by(statement) & ({"grpc", "asyncio", "sqlite3", "zipfile"} | OPENSSL) == set()


def test_a_worker_waits_for_nothing_that_starts_clusters_or_makes_folders():
    loaded = loaded_by("import shoald.worker.forkserver, shoald.worker.main")
    assert loaded & {"subprocess", "shutil", "tempfile", "concurrent"} == set()


def test_what_is_exported_and_loaded_late_is_there():
    loaded = loaded_by("import shoal; [getattr(shoal, name) for name in shoal.__all__]; from shoal import *")
    assert "cloudpickle" in loaded
    assert "numpy" not in loaded
    assert loaded_by("import shoal; assert not hasattr(shoal, 'no_such_name') and 'util' in dir(shoal)")


def test_import_canary():
    assert "sqlite3" in loaded_by("import sqlite3")
