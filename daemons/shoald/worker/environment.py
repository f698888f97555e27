"""Entering a `runtime_env`: what a worker does before it runs the first code of a user. Variables, packages, directory, path.

A worker that was forked for nobody is bound to the environment of its first lease, and gets no other (`node/pool`). Variables
are set as soon as that is known. Packages are unpacked, and installed (`installs`), when the first function is loaded, on the
main thread, since that may have to wait for their objects; what goes wrong there is raised in that task, and in every later one
of this worker.

A package is unpacked once per node: into a directory of the session named by its content (`folders`). The rest goes with the
session's directory.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

from shoal import maththreads
from shoal.client.environments import folders_of
from shoal.exceptions import RuntimeEnvSetupError, ShoalError
from shoal.refs import ObjectRef

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shoal.client.runtime import Runtime

FOLDER = "packages"
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def set_variables(environment: Mapping[str, Any]) -> None:
    """Set the variables of ``environment`` in this process; "${NAME}" in a value is what NAME was before."""
    before = dict(os.environ)
    for name, value in environment.get("env_vars", {}).items():
        os.environ[name] = _VARIABLE.sub(lambda found: before.get(found[1], ""), value)
    maththreads.said({name: os.environ[name] for name in environment.get("env_vars", {})})
    if "PYTHONPATH" in environment.get("env_vars", {}):  # which Python read when the fork server began
        _import_from([path for path in os.environ["PYTHONPATH"].split(os.pathsep) if path])


def enter_packages(
    runtime: Runtime, environment: Mapping[str, Any], task_id: bytes, stopped: Callable[[], bool]
) -> None:
    """Have the packages of ``environment`` on this node, and import from them; the working directory is entered.

    Args:
        task_id: the task or actor that waits for it.
        stopped: whether that is to stop waiting.

    Raises RuntimeEnvSetupError.
    """
    folders = [_unpacked(runtime, *package[:2]) for package in folders_of(environment)]
    if environment.get("pip"):
        from shoald.worker.installs import Install  # as below

        working_dir = folders[0] if environment.get("working_dir") else ""
        Install(runtime, environment, working_dir, task_id, stopped).enter()
    _import_from(folders)
    if environment.get("working_dir"):
        os.chdir(folders[0])


def _import_from(folders: list[str]) -> None:
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]


def _unpacked(runtime: Runtime, key: str, object_id: bytes) -> str:
    """The directory of a package, made if this is the first worker of the node that needs it."""
    from shoal.packages import unpack  # only workers that have any
    from shoald.worker.folders import used_folder

    target = os.path.join(runtime.identity.session_dir, FOLDER, key)
    try:
        return used_folder(
            target,
            runtime.config.package_cache_bytes_max,
            lambda making: unpack(runtime.values.get(ObjectRef(object_id), None), making),
        )
    except (OSError, ShoalError) as error:
        raise RuntimeEnvSetupError(
            f"a package of runtime_env could not be unpacked on node {runtime.identity.node_id}: {error}",
            next_step="check that who submitted it lives, and that the session's disk has room, and submit again",
        ) from error
