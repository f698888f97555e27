"""The actor that runs one job's script: in the working directory and with the variables of its own environment.

It has two threads: one is in `run` until the script ends, the other takes `stop`. The script has a process group of its own,
all of which ends when the job is stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from shoal.arguments import ADDRESS_VARIABLE, JOB_ENVIRONMENT_VARIABLE
from shoal.jobs import launch

STOP_S = 3.0  # from SIGTERM to SIGKILL


class Supervisor:
    """Runs one script, once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._ended = threading.Event()

    def ready(self) -> None:
        """Returns when there is this actor."""

    def run(self, entrypoint: str, log_path: str, address: str, runtime_env: dict[str, Any]) -> int:
        """Run the script to its end; returns the exit status, negative for a signal.

        Raises OSError if the log cannot be written or the shell not be started.
        """
        # <temporary directory>/shoal-<user>/<session>/logs/…: where the script finds its node.
        temp_dir = str(Path(log_path).parents[3])
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]),
            "PYTHONUNBUFFERED": "1",
            ADDRESS_VARIABLE: address,
            "SHOAL_TEMP_DIR": temp_dir,
            **runtime_env.get("env_vars", {}),
        }
        if runtime_env:
            inherited = {"working_dir": os.getcwd()} if "working_dir" in runtime_env else {}
            environment[JOB_ENVIRONMENT_VARIABLE] = json.dumps({**runtime_env, **inherited})
        command = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), entrypoint]
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            with self._lock:
                if self._stopped:
                    return -signal.SIGTERM
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
        finally:
            os.close(log)
        try:
            return self._process.wait()
        finally:
            self._ended.set()

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
