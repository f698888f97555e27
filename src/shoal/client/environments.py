"""Environments of what one process submits: `runtime_env` as it was given, made into what goes to workers.

What goes to workers is a dict of plain values, the same whoever makes it from the same content: "key" (its hash, which tells
workers apart: a worker is bound to one environment by its first task), "env_vars", "working_dir" and "py_modules", the latter as
packages: [key of the content, id of the object that has it]. Of "pip", lists of lines for pip, the local wheels and directories
among them as packages too, with a name: what pip is to be told.

A directory is packed once per process, when the first task that needs it is submitted, and put into the store, which brings it
to other nodes as any object. This process keeps the refs for as long as it lives; what may outlive it (an actor) holds them in
its lifetime object (`refs_of`).
"""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any

from shoal import runtime_env
from shoal.digests import blake2b
from shoal.refs import ObjectRef

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoal.client.runtime import Runtime

Environment = dict[str, Any]
_WHERE = "package of runtime_env"


class Environments:
    """Those of one process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._packed: dict[tuple[str, tuple[str, ...], bool, bool], list[Any]] = {}
        self._refs: dict[bytes, ObjectRef[Any]] = {}
        self._lock = (
            threading.Lock()
        )  # a directory is packed once, whatever the number of threads that need it

    def own(self) -> Environment | None:
        """The environment that this process runs in, or that the driver gave to its job."""
        found: Environment | None = self._runtime.job.get("runtime_env")
        return found

    def of(self, given: Mapping[str, Any] | None) -> Environment | None:
        """The environment of what is submitted with ``given``; None if that is the node's own.

        Packs directories: not to be called with the runtime's lock held. Raises RuntimeEnvSetupError for what cannot be packed.
        """
        own = self.own()
        if not given:
            return own
        made = runtime_env.merge(own, self._with_packages(given))
        made.pop("key", None)
        if not made:
            return None
        # Objects of the same content differ by process; the content is what counts.
        content = json.dumps(made, sort_keys=True, default=lambda value: None)
        return {**made, "key": blake2b(content.encode(), digest_size=8).hexdigest()}

    def _with_packages(self, given: Mapping[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        excludes = tuple(given.get("excludes", ()))
        if given.get("env_vars"):
            made["env_vars"] = dict(given["env_vars"])
        if given.get("working_dir"):
            made["working_dir"] = self._package(given["working_dir"], excludes, module=False)
        if given.get("py_modules"):
            made["py_modules"] = [self._package(path, excludes, module=True) for path in given["py_modules"]]
        if (given.get("pip") or {}).get("packages"):
            lines = [self._requirement(line, excludes) for line in given["pip"]["packages"]]
            made["pip"] = {**given["pip"], "packages": lines}
        return made

    def _requirement(self, line: str, excludes: tuple[str, ...]) -> str | list[Any]:
        """``line``; of a local wheel or directory its package, which goes along, and what it is called there."""
        from shoal.requirements import local  # only for those who have any

        found = local(line)
        if found is None:
            return line
        name = os.path.basename(found.path)
        return [*self._package(found.path, excludes, module=False, whole=True), name + found.extras]

    def _package(
        self, path: str, excludes: tuple[str, ...], *, module: bool, whole: bool = False
    ) -> list[Any]:
        kind = (path, excludes, module, whole)
        with self._lock:
            found = self._packed.get(kind)
            if found is None:
                found = self._packed[kind] = self._upload(path, list(excludes), module, whole)
            return found

    def _upload(self, path: str, excludes: list[str], module: bool, whole: bool) -> list[Any]:
        from shoal.packages import pack  # what it imports, only those need who have packages
        from shoal.serialization import serialize

        runtime = self._runtime
        inside = os.path.basename(path) if module or whole else ""
        package = pack(path, excludes, runtime.config.package_bytes_max, inside=inside, whole=whole)
        ref = runtime.values.put_stored(serialize(package.content), _WHERE)
        runtime.round_trip()  # the daemon has it before any task's worker asks for it
        self._refs[ref.binary()] = ref
        return [package.key, ref.binary()]

    def refs_of(self, environment: Environment | None) -> list[ObjectRef[Any]]:
        """Refs to the packages that ``environment`` needs, to be held by whatever outlives this process."""
        return [self._refs.get(package[1]) or ObjectRef(package[1]) for package in packages_of(environment)]


def packages_of(environment: Mapping[str, Any] | None) -> list[list[Any]]:
    """All packages of an environment, [key, object id, …] each: those to import from, and those that pip is to install."""
    if not environment:
        return []
    lines = (environment.get("pip") or {}).get("packages", ())
    return folders_of(environment) + [line for line in lines if not isinstance(line, str)]


def folders_of(environment: Mapping[str, Any]) -> list[list[Any]]:
    """Packages to import from, [key, object id] each, the working directory first."""
    first = [environment["working_dir"]] if environment.get("working_dir") else []
    return first + list(environment.get("py_modules", ()))
