"""Packages of `runtime_env`: a directory, module or .zip file as bytes that are the same whenever the content is.

A package is a zip archive: it is made on the machine of whoever submits, travels as an object of the store, and is unpacked once
on each node (`shoald.worker.environment`). Left out is what the patterns in `excludes` and in files called .gitignore match,
with the meaning that git gives them, and what nobody wants: .git, __pycache__.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator

from shoal.digests import blake2b
from shoal.exceptions import RuntimeEnvSetupError
from shoal.sizes import bytes_text

_NEVER = frozenset({".git", "__pycache__"})
_TIME = (1980, 1, 1, 0, 0, 0)  # archives of the same content are the same
_LEVEL = 1
_LARGEST_SHOWN = 3


class Package:
    """An archive, and `key`: the hash of its content, hexadecimal."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.key = blake2b(content, digest_size=16).hexdigest()


def pack(path: str, excludes: list[str], bytes_max: int, *, inside: str = "", whole: bool = False) -> Package:
    """The directory, file or archive at ``path``; ``inside``: the folder of the archive that it is to be in. ``whole``: a
    .zip file is a file like any other.

    Raises RuntimeEnvSetupError if it cannot be read, or its files take more than ``bytes_max``, naming the largest.
    """
    try:
        if path.endswith(".zip") and os.path.isfile(path) and not whole:
            return _ready_made(path, bytes_max)
        if os.path.isfile(path):
            files = [(path, os.path.basename(path))]
        else:
            files = [(full, os.path.join(inside, name)) for full, name in files_of(path, excludes)]
        _check_size(path, files, bytes_max)
        return Package(_archive(files))
    except OSError as error:
        raise RuntimeEnvSetupError(f"cannot pack {path} for runtime_env: {error}") from None


def unpack(content: bytes, target: str) -> None:
    """Make the directory ``target`` of the archive ``content``; raises OSError."""
    os.makedirs(target, exist_ok=True)  # of an empty archive too
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(target)
            for entry in archive.infolist():  # which the library forgets
                mode = entry.external_attr >> 16 & 0o777
                if mode and not entry.is_dir():
                    os.chmod(os.path.join(target, entry.filename), mode)
    except zipfile.BadZipFile as error:
        raise OSError(f"it is no archive: {error}") from error


def _ready_made(path: str, bytes_max: int) -> Package:
    if not zipfile.is_zipfile(path):
        raise RuntimeEnvSetupError(f"{path}, of a runtime_env, is no zip archive")
    _check_size(path, [(path, path)], bytes_max)
    with open(path, "rb") as file:
        return Package(file.read())


def _check_size(path: str, files: list[tuple[str, str]], bytes_max: int) -> None:
    sizes = [(os.stat(full).st_size, name) for full, name in files]
    total = sum(size for size, _ in sizes)
    if total > bytes_max:
        largest = ", ".join(
            f"{name} ({bytes_text(size)})" for size, name in sorted(sizes, reverse=True)[:_LARGEST_SHOWN]
        )
        raise RuntimeEnvSetupError(
            f"{path} takes {bytes_text(total, beside=[bytes_max])}, and a package of runtime_env may have "
            f"{bytes_text(bytes_max, beside=[total])}; largest: {largest}",
            next_step="leave files out with runtime_env={'excludes': [...]} or .gitignore, or set SHOAL_PACKAGE_BYTES_MAX",
        )


def _archive(files: list[tuple[str, str]]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for full, name in files:
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (os.stat(full).st_mode & 0o777 | 0o600) << 16
            with open(full, "rb") as source:
                archive.writestr(entry, source.read())
    return made.getvalue()


def files_of(top: str, excludes: list[str]) -> list[tuple[str, str]]:
    """(path, name relative to ``top``) of every file that is to be packed, sorted. Links to files count as files."""
    given = [_Rule(pattern, "") for pattern in excludes]
    return sorted(_walk(top, "", given, []), key=lambda each: each[1])


def _walk(top: str, folder: str, given: list[_Rule], ignored: list[_Rule]) -> Iterator[tuple[str, str]]:
    here = os.path.join(top, folder) if folder else top
    ignore = os.path.join(here, ".gitignore")
    if os.path.isfile(ignore):
        with open(ignore, encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip() for line in file]
        ignored = ignored + [_Rule(line, folder) for line in lines if line and not line.startswith("#")]
    with os.scandir(here) as entries:
        found = list(entries)
    for entry in found:
        name = f"{folder}/{entry.name}" if folder else entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name in _NEVER or any(_excluded(name, is_folder, rules) for rules in (given, ignored)):
            continue
        if is_folder:
            yield from _walk(top, name, given, ignored)
        elif entry.is_file():
            yield entry.path, name


def _excluded(name: str, is_folder: bool, rules: list[_Rule]) -> bool:
    """Of the rules that match, the last one decides."""
    decision = False
    for rule in rules:
        if decision is rule.includes and rule.matches(name, is_folder):
            decision = not decision
    return decision


class _Rule:
    """One pattern of a .gitignore in ``folder``."""

    def __init__(self, pattern: str, folder: str) -> None:
        self.includes = pattern.startswith("!")
        pattern = pattern.removeprefix("!")
        self._folders_only = pattern.endswith("/")
        pattern = pattern.rstrip("/")
        anchored = "/" in pattern
        start = re.escape(f"{folder}/") if folder else ""
        anywhere = "" if anchored else "(?:.*/)?"
        self._regex = re.compile(start + anywhere + _translate(pattern.removeprefix("/")), re.DOTALL)

    def matches(self, name: str, is_folder: bool) -> bool:
        return (is_folder or not self._folders_only) and self._regex.fullmatch(name) is not None


_PARTS = re.compile(r"\*\*/|/\*\*|\*|\?|\[[^]]+\]|.", re.DOTALL)


def _translate(pattern: str) -> str:
    wild = {"**/": "(?:.*/)?", "/**": "/.*", "*": "[^/]*", "?": "[^/]"}
    parts = []
    for part in _PARTS.findall(pattern):
        if len(part) > 1 and part.startswith("["):
            parts.append(part.replace("[!", "[^", 1))
        else:
            parts.append(wild.get(part) or re.escape(part))
    return "".join(parts)
