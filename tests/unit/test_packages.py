"""Packages of runtime_env: what is in them, what is left out, and that the same content is the same package."""

import io
import os
import zipfile

import pytest

from shoal.exceptions import RuntimeEnvSetupError
from shoal.packages import files_of, pack

MIB = 1024 * 1024


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def names_of(folder, excludes=()):
    return [name for _, name in files_of(str(folder), list(excludes))]


def contents(package):
    with zipfile.ZipFile(io.BytesIO(package.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_same_content_is_the_same_package_wherever_and_whenever(tmp_path):
    for place in ("one", "two"):
        make(tmp_path / place, "a.py", "sub/b.txt")
    os.utime(tmp_path / "two" / "a.py", (1e9, 1e9))
    first, second = (pack(str(tmp_path / place), [], MIB) for place in ("one", "two"))
    assert first.key == second.key
    assert contents(first) == {"a.py": b"a.py", "sub/b.txt": b"sub/b.txt"}
    (tmp_path / "two" / "a.py").write_text("other")
    assert pack(str(tmp_path / "two"), [], MIB).key != first.key


def test_modules_are_packed_under_their_names(tmp_path):
    make(tmp_path, "pkg/__init__.py", "one.py")
    assert list(contents(pack(str(tmp_path / "pkg"), [], MIB, inside="pkg"))) == ["pkg/__init__.py"]
    assert list(contents(pack(str(tmp_path / "one.py"), [], MIB, inside="one.py"))) == ["one.py"]


def test_an_archive_is_taken_as_it_is_and_what_is_none_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.txt", "x")
    assert contents(pack(str(tmp_path / "a.zip"), [], MIB)) == {"x.txt": b"x"}
    (tmp_path / "b.zip").write_text("no archive")
    with pytest.raises(RuntimeEnvSetupError, match="no zip archive"):
        pack(str(tmp_path / "b.zip"), [], MIB)


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ([], ["a.log", "data/big.bin", "data/keep.txt", "src/a.log", "src/data/x.py", "src/m.py"]),
        (["*.log"], ["data/big.bin", "data/keep.txt", "src/data/x.py", "src/m.py"]),
        (["/data/"], ["a.log", "src/a.log", "src/data/x.py", "src/m.py"]),
        (["data/"], ["a.log", "src/a.log", "src/m.py"]),
        (["data/*", "!data/keep.txt"], ["a.log", "data/keep.txt", "src/a.log", "src/data/x.py", "src/m.py"]),
        (["src/**/x.py"], ["a.log", "data/big.bin", "data/keep.txt", "src/a.log", "src/m.py"]),
        (["**/a.log", "data"], ["src/m.py"]),
        (["[ab].lo?"], ["data/big.bin", "data/keep.txt", "src/data/x.py", "src/m.py"]),
    ],
)
@pytest.mark.parametrize("way", ["excludes", "gitignore"])
def test_patterns_mean_what_they_mean_to_git(tmp_path, patterns, left, way):
    make(tmp_path, "a.log", "data/big.bin", "data/keep.txt", "src/a.log", "src/data/x.py", "src/m.py")
    make(tmp_path, ".git/HEAD", "src/__pycache__/m.pyc")
    if way == "excludes":
        assert names_of(tmp_path, patterns) == left
    else:
        (tmp_path / ".gitignore").write_text("# comment\n\n" + "\n".join(patterns) + "\n")
        assert names_of(tmp_path) == [".gitignore", *left]


def test_an_ignore_file_counts_in_its_directory(tmp_path):
    make(tmp_path, "a.txt", "sub/a.txt", "sub/deep/a.txt", "sub/b.txt")
    (tmp_path / "sub" / ".gitignore").write_text("/a.txt\n")
    assert names_of(tmp_path) == ["a.txt", "sub/.gitignore", "sub/b.txt", "sub/deep/a.txt"]
    assert "sub/b.txt" not in names_of(tmp_path, ["sub/b.txt"])


def test_what_is_too_large_is_named(tmp_path):
    make(tmp_path, "small.txt")
    (tmp_path / "large.bin").write_bytes(bytes(3000))
    with pytest.raises(RuntimeEnvSetupError, match=r"large\.bin") as raised:
        pack(str(tmp_path), [], 2000)
    assert "excludes" in str(raised.value)
    pack(str(tmp_path), ["*.bin"], 2000)
