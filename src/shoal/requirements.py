"""`runtime_env["pip"]` as users write it, read where it is given: lists, requirements files, dicts with options.

What comes out is a dict of plain values, whose packages are lines as pip reads them from a file. Files are read at once, with
those that they name, since the nodes do not have them; a local wheel or directory becomes an absolute path, which is packed
when the first task is submitted (`client.environments`). Whether there are such packages only pip can tell, on the node
(`shoald.worker.installs`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from shoal.suggest import UnknownNameError

FIELDS = ("packages", "constraints", "pip_check", "pip_install_options", "pip_version")
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
_COMMENT = re.compile(r"(^|\s+)#.*$")
_OPTION = re.compile(
    r"(-r|--requirement|-c|--constraint|-e|--editable|-f|--find-links)(?:\s+|=)(.+)|(-[rcef])(\S.*)"
)
_EXTRAS = re.compile(r"(.+?)(\[[^\]]*\])?")
_DEPTH_MAX = 10  # of files that name files; those that name themselves end here


class Local(NamedTuple):
    """A wheel, source archive or directory on this machine, and which extras of it are wanted, like "[a,b]"."""

    path: str
    extras: str


def checked(name: str, value: Any) -> dict[str, Any]:
    """``value``, of a "pip" field, as {"packages": lines, …}; a result of this may be checked again.

    Raises TypeError for what is of the wrong kind, ValueError for a file that is not there or cannot be read.
    """
    if isinstance(value, Mapping):
        return _checked_dict(name, value)
    constraints: list[str] = []
    packages = _lines(name, value, constraints)
    return {"packages": packages, "constraints": constraints} if constraints else {"packages": packages}


def local(line: str) -> Local | None:
    """The local wheel, archive or directory that a line of `checked` is about; None if it is about something else."""
    found = _EXTRAS.fullmatch(line)
    if found is None or not line.startswith("/"):
        return None
    return Local(found[1], found[2] or "")


def _checked_dict(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    for field in value:
        if field not in FIELDS:
            raise UnknownNameError(f"field of {name}", str(field), [*FIELDS])
    constraints = list(_texts(f"{name}['constraints']", value.get("constraints") or []))
    made: dict[str, Any] = {"packages": _lines(name, value.get("packages") or [], constraints)}
    if constraints:
        made["constraints"] = constraints
    if value.get("pip_check"):
        made["pip_check"] = True
    options = _texts(f"{name}['pip_install_options']", value.get("pip_install_options") or [])
    if options:
        made["pip_install_options"] = options
    version = value.get("pip_version")
    if version:
        if not isinstance(version, str):
            raise TypeError(f"{name}['pip_version'] needs a text like '==24.0', not {version!r}")
        made["pip_version"] = version
    return made


def _lines(name: str, value: Any, constraints: list[str]) -> list[str]:
    if isinstance(value, str | os.PathLike):
        path = os.path.abspath(os.path.expanduser(os.fsdecode(value)))
        return _of_file(name, path, constraints, 0)
    here = os.getcwd()
    found: list[str] = []
    for text in _texts(name, value):
        found += _of_line(name, text, here, constraints, 0)
    return found


def _texts(name: str, value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise TypeError(f"{name} needs a list of texts, not {value!r}")
    for each in value:
        if "\n" in each or not each.strip():
            raise ValueError(f"{name}: {each!r} is no single requirement or option")
    return [each.strip() for each in value]


def _of_file(name: str, path: str, constraints: list[str], depth: int) -> list[str]:
    if depth > _DEPTH_MAX:
        raise ValueError(f"{name}: {path} is named by more than {_DEPTH_MAX} files in a row")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: {path} cannot be read as a file of requirements: {error}") from None
    found: list[str] = []
    for whole in text.replace("\\\n", " ").splitlines():
        line = _COMMENT.sub("", whole).strip()
        if line:
            found += _of_line(name, line, os.path.dirname(path), constraints, depth)
    return found


def _of_line(name: str, line: str, base: str, constraints: list[str], depth: int) -> list[str]:
    """The lines that ``line``, of a file in ``base``, stands for; what it says of constraints is added to those."""
    option = _OPTION.fullmatch(line)
    if option is None:
        return [line] if line.startswith("-") else [_absolute(name, line, base)]
    kind, argument = (option[1] or option[3]).lstrip("-")[0], (option[2] or option[4]).strip()
    if kind == "e":
        return [_absolute(name, argument, base)]
    if "://" in argument:
        return [line]
    path = os.path.join(base, os.path.expanduser(argument))
    if kind == "f":
        return [f"--find-links {os.path.abspath(path)}"]
    lines = _of_file(name, os.path.abspath(path), constraints, depth + 1)
    if kind == "c":
        constraints += lines
        return []
    return lines


def _absolute(name: str, line: str, base: str) -> str:
    """A requirement, with an absolute path if it is a local one; what pip takes for one is."""
    text = line.partition(" ;")[0].strip()
    found = _EXTRAS.fullmatch(text)
    if found is None or "://" in text or " @ " in text or text.startswith("$"):
        return line
    path = os.path.abspath(os.path.join(base, os.path.expanduser(found[1])))
    archive = found[1].endswith(_ARCHIVES)
    if not (os.sep in found[1] or found[1].startswith(".") or archive):
        return line
    if not (os.path.isdir(path) or (archive and os.path.isfile(path))):
        raise ValueError(f"{name}: {path} is neither a directory nor a wheel or archive of a package")
    return path + (found[2] or "")
