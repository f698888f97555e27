"""The actor that runs one job's script: in the working directory and with the variables of its own environment.

It has two threads: one is in `run` until the script ends, the other takes `stop`. A registry that began anew calls `run` again,
which takes one thread more, and returns how the one run of the script ends. The script has a process group of its own, all of
which ends when the job is stopped. Its end is noted beside its log, in case nobody hears of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from shoal import maththreads, session
from shoal.api import get_runtime_context
from shoal.arguments import ADDRESS_VARIABLE, JOB_ENVIRONMENT_VARIABLE
from shoal.jobs import launch
from shoal.jobs.archive import ScriptEnd, note_end
from shoal.packages import unpack
from shoal.refs import ObjectRef

STOP_S = 3.0  # from SIGTERM to SIGKILL


class Supervisor:
    """Runs one script, once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._ended = threading.Event()
        self._packages: list[str] = []

    def ready(self) -> None:
        """Returns when there is this actor."""

    def run(self, entrypoint: str, log_path: str, address: str, runtime_env: dict[str, Any]) -> int:
        """Run the script to its end, unless it was begun before; returns its exit status, negative for a signal.

        Raises OSError if the log cannot be written or the shell not be started.
        """
        with self._lock:
            process = self._process
            if process is None:
                if self._stopped:
                    return -signal.SIGTERM
                try:
                    process = self._process = self._start(entrypoint, log_path, address, runtime_env)
                except BaseException:
                    self._remove_packages()
                    raise
                first = True
            else:
                first = False
        try:
            exit_code = process.wait()
            if first:
                self._note_end(log_path, exit_code)
                self._remove_packages()
        finally:
            self._ended.set()
        return exit_code

    def _start(
        self, entrypoint: str, log_path: str, address: str, runtime_env: dict[str, Any]
    ) -> subprocess.Popen[bytes]:
        # <temporary directory>/shoal-<user>/<session>: where the script finds its node.
        temp_dir = str(Path(get_runtime_context().get_session_dir()).parents[1])
        environment = {
            **maththreads.environment_without(os.environ),
            "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]),
            "PYTHONUNBUFFERED": "1",
            ADDRESS_VARIABLE: address,
            "SHOAL_TEMP_DIR": temp_dir,
            **runtime_env.get("env_vars", {}),
        }
        if runtime_env:
            inherited: dict[str, Any] = {}
            if "working_dir" in runtime_env:
                inherited["working_dir"] = os.getcwd()
            if runtime_env.get("pip", {}).get("packages"):
                inherited["pip"] = {**runtime_env["pip"], "packages": self._requirements()}
            environment[JOB_ENVIRONMENT_VARIABLE] = json.dumps({**runtime_env, **inherited})
        command = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), entrypoint]
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        finally:
            os.close(log)

    def _requirements(self) -> list[str]:
        """What pip is told, for the script to tell in turn: local packages, which came along, are files of this node now."""
        runtime = session.runtime()
        folder = os.path.join(runtime.identity.session_dir, "packages")
        lines = []
        for line in runtime.job["runtime_env"]["pip"]["packages"]:
            if isinstance(line, str):
                lines.append(line)
                continue
            _, object_id, name = line
            self._packages.append(tempfile.mkdtemp(prefix="job-", dir=folder))
            unpack(runtime.values.get(ObjectRef(object_id), None), self._packages[-1])
            lines.append(os.path.join(self._packages[-1], name))
        return lines

    def _remove_packages(self) -> None:
        for folder in self._packages:
            shutil.rmtree(folder, ignore_errors=True)  # else it goes with the session

    @staticmethod
    def _note_end(log_path: str, exit_code: int) -> None:
        try:
            note_end(log_path, ScriptEnd(exit_code, int(1000 * time.time())))
        except OSError:
            traceback.print_exc()  # whoever waits hears of the end all the same

    def stop(self) -> None:
        """End the script and all processes of its group: politely, then not. Returns when they have ended."""
        with self._lock:
            self._stopped = True
            process = self._process
        if process is None:
            return
        self._signal(process.pid, signal.SIGTERM)
        self._ended.wait(STOP_S)
        self._signal(process.pid, signal.SIGKILL)  # what is left of the group too
        self._ended.wait()

    @staticmethod
    def _signal(group: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
