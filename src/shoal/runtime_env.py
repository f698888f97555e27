"""`runtime_env`: in which environment the code of a job, task or actor runs. What users write, its checks, who inherits what.

    init(runtime_env=…)  →  what the driver submits  →  what tasks and actors submit

Each inherits the environment of whoever submits it. Its own fields replace the inherited ones, but variables are added to the
inherited variables. Everything is checked where it is given, not where it is needed; what shoal does not implement is refused.

Light: `import shoal` comes by here. Packing is in `packages`, what a worker does with it in `shoald.worker.environment`.
"""

from __future__ import annotations

import os
import types
from collections.abc import Mapping
from typing import Any

from shoal.suggest import UnknownNameError

FIELDS = ("env_vars", "working_dir", "py_modules", "excludes", "pip")
# Of Ray's, and not here: what to do instead.
_REFUSED = {
    "uv": "pass the same list as pip",
    **dict.fromkeys(
        ("conda", "py_executable"),
        "workers run with the Python of their node: pass pip for packages, or start the node in that environment",
    ),
    **dict.fromkeys(
        ("container", "image_uri"), "start the node in the container instead, with `shoal start-node`"
    ),
    "worker_process_setup_hook": "call it at the beginning of the task, or in the actor's constructor",
}
_ZIP = ".zip"


class RuntimeEnv(dict[str, Any]):
    """A runtime environment as an object; a plain dict of the same keys does as well.

    Args:
        env_vars: variables, set before any code of the user runs. "${NAME}" stands for the node's value. Those that a library
            reads when it is loaded have no effect on numpy, which workers have loaded by then.
        working_dir: a directory or .zip file; its content is the current directory and the first place of imports.
        py_modules: packages (directories), modules (.py files), .zip files with such in them, or imported modules.
        excludes: patterns as in .gitignore for what of these is left out. Files called .gitignore count too.
        pip: what each node is to install for it: a list of requirements ("name==1.2", local wheels and directories), the path of
            a requirements file, or {"packages": either, "pip_check": bool, "pip_install_options": [...], "constraints": [...],
            "pip_version": "==24.0"}.
    """

    def __init__(
        self,
        *,
        env_vars: Mapping[str, str] | None = None,
        working_dir: str | os.PathLike[str] | None = None,
        py_modules: list[Any] | None = None,
        excludes: list[str] | None = None,
        pip: str | os.PathLike[str] | list[str] | Mapping[str, Any] | None = None,
        **others: Any,
    ) -> None:
        given = {
            "env_vars": env_vars,
            "working_dir": working_dir,
            "py_modules": py_modules,
            "excludes": excludes,
            "pip": pip,
        }
        super().__init__(check("runtime_env", {**given, **others}))


def check(name: str, value: Any) -> dict[str, Any]:
    """A checked copy of ``value``, paths made absolute, without fields that are None.

    Raises TypeError for what is of the wrong kind, ValueError for a field that shoal does not have or a path that is not there.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} needs a dict, not {type(value).__name__}")
    found: dict[str, Any] = {}
    for field, content in value.items():
        if not isinstance(field, str):
            raise TypeError(f"{name} needs strings as keys, not {field!r}")
        if field in _REFUSED and content:
            raise ValueError(f"{name}[{field!r}] is not supported: {_REFUSED[field]}")
        if field not in FIELDS and field not in _REFUSED:
            raise UnknownNameError(f"field of {name}", field, [*FIELDS])
        if content is not None and field in FIELDS:
            found[field] = _CHECKS[field](f"{name}[{field!r}]", content)
    if found.get("excludes") and not any(found.get(field) for field in ("working_dir", "py_modules", "pip")):
        raise ValueError(f"{name}['excludes'] has no effect without working_dir, py_modules or pip")
    return found


def merge(inherited: Mapping[str, Any] | None, own: Mapping[str, Any] | None) -> dict[str, Any]:
    """The environment of what is submitted with ``own`` from within ``inherited``."""
    merged = {**(inherited or {}), **(own or {})}
    variables = {**(inherited or {}).get("env_vars", {}), **(own or {}).get("env_vars", {})}
    if variables:
        merged["env_vars"] = variables
    return merged


def described(made: Mapping[str, Any] | None) -> dict[str, Any]:
    """For people: what workers are told (client.environments), packages as URIs of their content."""
    found = {field: made[field] for field in FIELDS if field in made} if made else {}
    if "working_dir" in found:
        found["working_dir"] = _uri(found["working_dir"])
    if "py_modules" in found:
        found["py_modules"] = [_uri(each) for each in found["py_modules"]]
    if "pip" in found:
        packages = [each if isinstance(each, str) else each[2] for each in found["pip"]["packages"]]
        found["pip"] = {**found["pip"], "packages": packages}
    return found


def _uri(package: list[Any]) -> str:
    return f"package://{package[0]}.zip"


def _variables(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} needs a dict of strings, not {type(value).__name__}")
    for key, content in value.items():
        if not isinstance(key, str) or not isinstance(content, str):
            raise TypeError(f"{name} needs strings as names and values, not {key!r}: {content!r}")
        if not key or "=" in key or "\0" in key + content:
            raise ValueError(f"{name}: {key!r} cannot be the name or value of a variable")
    return dict(value)


def _directory(name: str, value: Any) -> str:
    path = _local_path(name, value)
    if not os.path.isdir(path) and not (path.endswith(_ZIP) and os.path.isfile(path)):
        raise ValueError(f"{name}: {path} is neither a directory nor a .zip file")
    return path


def _modules(name: str, value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name} needs a list of paths or modules, not {type(value).__name__}")
    return [_module(f"{name}[{index}]", each) for index, each in enumerate(value)]


def _module(name: str, value: Any) -> str:
    if isinstance(value, types.ModuleType):
        file = getattr(value, "__file__", None)
        if not file:
            raise ValueError(f"{name}: module {value.__name__} has no file")
        value = os.path.dirname(file) if hasattr(value, "__path__") else file
    path = _local_path(name, value)
    if not os.path.isdir(path) and not (path.endswith((_ZIP, ".py")) and os.path.isfile(path)):
        raise ValueError(f"{name}: {path} is no directory, .py file or .zip file")
    return path


def _local_path(name: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} needs a path, not {type(value).__name__}")
    path = os.fsdecode(value)
    if "://" in path:
        raise ValueError(f"{name}={path!r}: only local directories and files are supported")
    return os.path.abspath(os.path.expanduser(path))


def _patterns(name: str, value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise TypeError(f"{name} needs a list of patterns as in .gitignore")
    return list(value)


def _pip(name: str, value: Any) -> dict[str, Any]:
    from shoal.requirements import checked  # only for those who have any

    return checked(name, value)


_CHECKS = {
    "env_vars": _variables,
    "working_dir": _directory,
    "py_modules": _modules,
    "excludes": _patterns,
    "pip": _pip,
}
