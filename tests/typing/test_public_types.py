"""The public types are what users' type checkers see: mypy agrees with every line of public_types.py."""

from pathlib import Path

from mypy import api

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def check(path: Path, cache: Path) -> tuple[str, int]:
    """What mypy prints about one file, and its exit status; errors in the package are for `make check`."""
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(cache)]
    printed, problems, status = api.run([*config, "--follow-imports=silent", str(path)])
    return printed + problems, status


def test_public_types(tmp_path):
    printed, status = check(HERE / "public_types.py", tmp_path / "cache")
    assert status == 0, printed


def test_canary(tmp_path):
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
    printed, status = check(wrong, tmp_path / "cache")
    assert status == 1
    assert "wrong.py:5: error: Incompatible types in assignment" in printed
    assert 'wrong.py:6: error: "int" has no attribute "upper"' in printed
