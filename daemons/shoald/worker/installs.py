"""What pip installs for a `runtime_env`: one virtual environment per content and node, from which workers import.

The worker that needs it first makes it, all others wait for that; like packages it is a folder that goes when nobody uses it
(`folders`). Its name is the hash of what pip is told and of the Python that it is for.

**Why so.** A virtual environment that sees what the node has, so that pip installs only what is missing or different, with its
dependencies, and the commands that come along work. Mostly workers are no processes of that environment: they are forked from
the warm template as all others, in a millisecond, and have its modules in front of the node's on their path. But what the
template has imported (numpy, and what it takes to be a worker) cannot be replaced that way. An environment that has other
versions of that is *own*: its workers become its Python (`cold`), for some tenths of a second and tens of megabytes each.
Whether it is shows only when pip is done, in a warm worker. That says so to the daemon (`node/pool`), gives back what it was to
run, and ends.

**How it ends.** pip runs in a process group of its own below this worker, so it ends with it, however that ends, and with the
daemon. It ends also when its time is up, or its task is cancelled. What it said is in a log file of the session, its last lines
in the error. A failure counts for all who wait, and for a while for who comes (`environment_retry_ms`); then it is tried again.
The lease of the task is kept meanwhile: installing takes a processor, and so no more workers than there are processors wait for
it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import time
from importlib import metadata, util
from typing import TYPE_CHECKING, Any, NoReturn

from shoal.digests import blake2b
from shoal.exceptions import RuntimeEnvSetupError, ShoalError
from shoal.packages import unpack
from shoal.refs import ObjectRef
from shoal.wire import messages as m
from shoald.worker.cold import TRY
from shoald.worker.environment import FOLDER
from shoald.worker.folders import used_folder
from shoald.worker.functions import OtherInterpreterNeeded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shoal.client.runtime import Runtime

_CREDENTIALS = re.compile(r"//[^/@\s]+@")
_WORKING_DIR = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}"
_NODES_PACKAGES = "node.pth"  # in the environment: where the packages of the node are
_TEMPORARY = "tmp"  # also for pip, which leaves what it has there if it is ended
_FAILED = ".failed"
_OWN = "own"  # a file of environments with an interpreter of their own
_OF_STARTS = frozenset(
    {"_distutils_hack"}
)  # of setuptools, whose .pth file imports it everywhere, and which may be replaced
_OURS = frozenset({"shoal", "shoald"})
_MODULE = ("-P", "-m")  # a file of the user's directory must not be run instead of ours
_LOOK_S = 0.02
_LAST_LINES, _LAST_CHARS = 12, 3000
_SHOWN_CHARS = 80


class Install:
    """The environment of this worker.

    Args:
        working_dir: where that was unpacked; "" if there is none.
        task_id: the task or actor that waits for it.
        stopped: whether that is to stop waiting.
    """

    def __init__(
        self,
        runtime: Runtime,
        environment: Mapping[str, Any],
        working_dir: str,
        task_id: bytes,
        stopped: Callable[[], bool],
    ) -> None:
        self._runtime = runtime
        self._pip = environment["pip"]
        self._task_id = task_id
        self._stopped = stopped
        self._working_dir = working_dir
        variables = {
            name: value for name, value in environment.get("env_vars", {}).items() if name.startswith("PIP_")
        }
        self._key = _key(self._pip, working_dir, variables)
        self._target = os.path.join(runtime.identity.session_dir, FOLDER, f"pip-{self._key}")
        self._log = os.path.join(runtime.identity.session_dir, "logs", f"runtime_env-{self._key}.log")
        self._limit_s = runtime.config.environment_build_ms_max / 1000
        self._due = 0.0
        self._said = False

    def enter(self) -> None:
        """Import from it, made first if need be. Raises RuntimeEnvSetupError, or OtherInterpreterNeeded."""
        config = self._runtime.config
        self._due = time.monotonic() + self._limit_s
        try:
            used_folder(self._target, config.package_cache_bytes_max, self._make, self._wait)
        except (OSError, ShoalError) as error:
            if isinstance(error, RuntimeEnvSetupError):
                raise
            self._fail(
                f"could not be made: {error}", "check that the session's disk has room, and submit again"
            )
        finally:
            self._say("")
        if os.path.exists(os.path.join(self._target, _OWN)) and not os.path.samefile(
            sys.prefix, self._target
        ):
            self._hand_on()
        _use(self._target)

    def _hand_on(self) -> NoReturn:
        runtime = self._runtime
        with runtime.lock:
            runtime.table.to_node([m.WORKER_NOTE, {"python": _python(self._target)}])
            runtime.flush()
        raise OtherInterpreterNeeded

    # --- waiting ---

    def _wait(self) -> None:
        """Look after this wait."""
        self._say(self._title())
        if self._stopped():
            raise RuntimeEnvSetupError("its task was cancelled before its environment was there")
        if time.monotonic() > self._due:
            text = f"was not there after {self._limit_s:g} s (environment_build_ms_max)"
            self._fail(text, f"look at what pip says in {self._log}, and submit again")

    def _title(self) -> str:
        lines = [line if isinstance(line, str) else line[2] for line in self._pip["packages"]]
        text = _without_passwords(", ".join(line for line in lines if not line.startswith("-")))
        shown = text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"
        return f"environment {self._key} ({shown})"

    def _say(self, title: str) -> None:
        """Who asks this process, or its daemon, is told what is being installed; "": nothing any more."""
        if self._said is bool(title):
            return
        self._said = bool(title)
        runtime = self._runtime
        with runtime.lock:
            if title:
                runtime.explain.installing = (self._task_id.hex(), title, time.monotonic())
            else:
                runtime.explain.installing = None
            runtime.table.to_node([m.WORKER_NOTE, {"installing": title}])
            runtime.flush()

    def _fail(self, text: str, next_step: str) -> NoReturn:
        raise RuntimeEnvSetupError(
            f"on node {self._runtime.identity.node_id}, {self._title()} {text}",
            next_step=next_step,
            log_path=self._log,
        )

    # --- making ---

    def _make(self, target: str) -> None:
        """Make it, unless that has just failed; what fails is noted for others, unless it was only the task that ended."""
        self._say(self._title())
        self._raise_recent_failure()
        self._due = time.monotonic() + self._limit_s  # it may have waited for another one, which gave up
        try:
            self._install(target)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._target + _FAILED)
        except (RuntimeEnvSetupError, OSError, ShoalError) as error:
            if not self._stopped():
                self._note_failure(error)
            raise

    def _raise_recent_failure(self) -> None:
        try:
            age_s = time.time() - os.stat(self._target + _FAILED).st_mtime
            if not 0 <= age_s < self._runtime.config.environment_retry_ms / 1000:
                return
            with open(self._target + _FAILED, encoding="utf-8") as file:
                text, next_step = json.load(file)
        except (FileNotFoundError, ValueError):  # none, or it was cut off
            return
        raise RuntimeEnvSetupError(text, next_step=next_step, log_path=self._log)

    def _note_failure(self, error: Exception) -> None:
        noted = [f"{self._title()} could not be made: {error}", "submit again"]
        if isinstance(error, RuntimeEnvSetupError):
            noted = [error.message, error.next_step]
        with open(self._target + _FAILED, "w", encoding="utf-8") as file:
            json.dump(noted, file)

    def _install(self, target: str) -> None:
        temporary = os.path.join(target, _TEMPORARY)
        os.makedirs(temporary)
        os.makedirs(os.path.dirname(self._log), exist_ok=True)
        with open(self._log, "wb") as log:
            self._run(
                log, [sys.executable, *_MODULE, "venv", "--without-pip", target], "make the environment"
            )
            python = _python(target)
            with open(os.path.join(_site_packages(target), _NODES_PACKAGES), "w", encoding="utf-8") as file:
                file.write(
                    "".join(f"import site; site.addsitedir({path!r})\n" for path in _nodes_site_packages())
                )
            if util.find_spec("pip") is None:
                self._run(log, [python, *_MODULE, "ensurepip"], "provide pip, which this node's Python lacks")
            pip = [python, *_MODULE, "pip", "--disable-pip-version-check", "--no-input"]
            if "pip_version" in self._pip:
                self._run(log, [*pip, "install", f"pip{self._pip['pip_version']}"], "install that pip")
            self._run(log, [*pip, "install", *self._arguments(temporary)], "install it")
            if _replaces(target, self._fail):
                self._run(log, [python, *_MODULE, "shoald.worker.cold", TRY], "have workers run in it")
                with open(os.path.join(target, _OWN), "xb"):
                    pass
            if self._pip.get("pip_check"):
                self._run(log, [*pip, "check"], "check it")
        shutil.rmtree(temporary, ignore_errors=True)

    def _arguments(self, folder: str) -> list[str]:
        """For `pip install`: files with what to install, and what is to stay as it is."""
        lines = []
        for number, line in enumerate(self._pip["packages"]):
            if isinstance(line, str):
                lines.append(line.replace(_WORKING_DIR, self._working_dir or _WORKING_DIR))
            else:
                source = os.path.join(folder, f"source-{number}")
                unpack(self._runtime.values.get(ObjectRef(line[1]), None), source)
                lines.append(os.path.join(source, line[2]))
        kept = [f"{name}=={version}" for name, version in _imported().values() if name == "shoal"]
        wanted, constraints = (os.path.join(folder, name) for name in ("requirements.txt", "constraints.txt"))
        for path, content in (
            (wanted, lines),
            (constraints, [*kept, *self._pip.get("constraints", ())]),
        ):
            with open(path, "w", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in content))
        return [*self._pip.get("pip_install_options", ()), "-c", constraints, "-r", wanted]

    def _run(self, log: Any, command: list[str], what: str) -> None:
        """Run one step to its end. Raises RuntimeEnvSetupError with its last lines if it fails, or is not to go on."""
        log.write(_without_passwords(f"$ {' '.join(command)}\n").encode())
        log.flush()
        start = log.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": os.path.join(self._target, _TEMPORARY)},
            process_group=0,
        )
        try:
            while process.poll() is None:
                self._wait()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        log.seek(0, os.SEEK_END)
        if process.returncode:
            said = _end_of(self._log, start)
            self._fail(
                f"could not be made: no way to {what} (exit status {process.returncode}):\n{said}",
                "check the requirements, and that the node can reach a package index",
            )


def _without_passwords(text: str) -> str:
    """URLs may have one."""
    return _CREDENTIALS.sub("//***@", text)


def _key(pip: Mapping[str, Any], working_dir: str, variables: dict[str, str]) -> str:
    """What tells environments apart: what pip is told, whatever its order, and the Python that it is for."""
    lines = [line if isinstance(line, str) else f"{line[0]} {line[2]}" for line in pip["packages"]]
    if any(_WORKING_DIR in line for line in lines):
        lines.append(working_dir)
    told = {**pip, "packages": sorted(set(lines))}
    python = [
        platform.python_implementation(),
        platform.python_version(),
        sysconfig.get_platform(),
        sys.base_prefix,  # of environments too
    ]
    content = json.dumps([told, variables, python], sort_keys=True)
    return str(blake2b(content.encode(), digest_size=8).hexdigest())


def _site_packages(target: str) -> str:
    return str(sysconfig.get_path("purelib", "venv", {"base": target, "platbase": target}))


def _nodes_site_packages() -> list[str]:
    paths = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        paths = [site.getusersitepackages(), *paths]
    return [path for path in paths if os.path.isdir(path)]


def _imported() -> dict[str, tuple[str, str]]:
    """The top-level modules that this process has imported from distributions, with these and their versions."""
    names = {name for name in sys.modules if "." not in name} - sys.stdlib_module_names - _OF_STARTS
    found: dict[str, tuple[str, str]] = {}
    for name, distributions in metadata.packages_distributions().items():
        if name in names:
            found[name] = (distributions[0], metadata.version(distributions[0]))
    return found


def _replaces(target: str, fail: Callable[[str, str], NoReturn]) -> bool:
    """Whether the environment has another version of what this process has imported, which would not be used here."""
    packages = _site_packages(target)
    there = {(dist.metadata["Name"], dist.version) for dist in metadata.distributions(path=[packages])}
    tops = {name.partition(".")[0] for name in os.listdir(packages)}
    if not tops.isdisjoint(_OURS):
        fail("has a shoal of its own, but nodes and workers have to be of one version", "leave it out")
    imported = _imported()
    for name in tops & sys.modules.keys() - sys.stdlib_module_names:
        file = getattr(sys.modules[name], "__file__", None)  # None: a namespace, which grows
        if file is not None and imported.get(name) not in there:  # else it is the same again
            return True
    return False


def _python(target: str) -> str:
    return os.path.join(target, "bin", "python")


def _use(target: str) -> None:
    """Import from the environment: after Python's own modules and what the job added, before what the node has."""
    packages = _site_packages(target)
    before = [path for path in sys.path if path != packages]
    if packages in sys.path:  # this is its own interpreter
        added = [packages]
    else:
        sys.path.append(packages)
        known = set(before)
        for name in sorted(os.listdir(packages)):
            if name.endswith(".pth") and name != _NODES_PACKAGES:
                site.addpackage(packages, name, known)
        added = [path for path in sys.path if path not in before]
    others = [path for path in before if os.path.basename(path) in ("site-packages", "dist-packages")]
    place = before.index(others[0]) if others else len(before)
    sys.path[:] = [*before[:place], *added, *before[place:]]
    os.environ["VIRTUAL_ENV"] = target
    os.environ["PATH"] = os.pathsep.join([os.path.join(target, "bin"), os.environ.get("PATH", os.defpath)])
    sys.executable = _python(target)


def _end_of(path: str, start: int) -> str:
    """The last lines of a file, from ``start`` on."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(start, size - _LAST_CHARS))
        text = file.read().decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines[-_LAST_LINES:]) or "    (it said nothing)"
