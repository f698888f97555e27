"""The public types are what users' type checkers see: mypy agrees with every line of public_types.py."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """mypy's cache: what it learns of the package in one test serves the next."""
    return tmp_path_factory.mktemp("mypy")


def check(path: Path, cache: Path) -> tuple[str, int]:
    """What mypy prints about one file, and its exit status; errors in the package are for `make check`.

    In a process of its own: its millions of objects would stay, and slow down every later test.
    """
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(cache)]
    command = [sys.executable, "-m", "mypy", *config, "--follow-imports=silent", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr, done.returncode


def test_public_types(cache):
    printed, status = check(HERE / "public_types.py", cache)
    assert status == 0, printed


def test_canary(tmp_path, cache):
    """A wrong use is found: the check does not pass because the types are Any."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import shoal\n"
        "@shoal.remote\n"
        "def double(x: int) -> int:\n"
        "    return 2 * x\n"
        "text: shoal.ObjectRef[str] = double.remote(1)\n"
        "shoal.get(double.remote(1)).upper()\n"
    )
    printed, status = check(wrong, cache)
    assert status == 1
    assert "wrong.py:5: error: Incompatible types in assignment" in printed
    assert 'wrong.py:6: error: "int" has no attribute "upper"' in printed
