"""init, get, put, wait, cancel and remote: the functions users call.

They check arguments, find the session, and leave the rest to `shoal.client`. Names, defaults and semantics follow Ray 2.x.

What starts clusters is imported where that happens: workers import this too, and the first task waits for that.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import inspect
import json
import os
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, Self, TypeVar, overload

from shoal import config, session
from shoal.actors.actor_class import ActorClass
from shoal.arguments import InitArguments
from shoal.context import RuntimeContext, current_task
from shoal.exceptions import ClusterNotFoundError, ClusterStartError
from shoal.generator import DynamicObjectRefGenerator, ObjectRefGenerator
from shoal.option_checks import flag, seconds, whole
from shoal.options import ActorOptions, TaskOptions
from shoal.refs import ObjectRef
from shoal.remote_function import RemoteFunction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.bootstrap import DaemonInfo, DaemonOptions
    from shoal.client.driver_output import DriverOutput
    from shoal.client.runtime import Runtime
    from shoal.sessions import Session

P = ParamSpec("P")
_LOOPBACK = "127.0.0.1"  # where a node is that has not opened its port for others yet
T = TypeVar("T")
W = TypeVar("W", bound=ObjectRef[Any] | ObjectRefGenerator[Any])

_SWITCH_INTERVAL_S = 0.0005
_ADDRESS_LOOK_S = 0.02
_GC_DEFAULT = (700, 10, 10)
_lock = threading.RLock()
_owned_daemon: DaemonInfo | None = None
_output: DriverOutput | None = None


class ClientContext:
    """What `init` returns: where the cluster is; as a context manager it shuts down at the end."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.node_id = runtime.identity.node_id

    @property
    def dashboard_url(self) -> str | None:
        """A link that opens the dashboard once, made anew each time; None if the node here serves none.

        Waits for one that is just starting. One that could not be started is a warning that says why.
        """
        return _dashboard_link(self._runtime)

    @property
    def address_info(self) -> dict[str, str]:
        """node_id, address ("host:port" of the head, waited for if it is just starting), session_dir, job_id."""
        identity = self._runtime.identity
        return {
            "node_id": self.node_id,
            "address": address_of_head(self._runtime),
            "session_dir": identity.session_dir,
            "job_id": identity.job_id,
        }

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutdown()

    def disconnect(self) -> None:
        """The same as `shutdown()`."""
        shutdown()

    def __repr__(self) -> str:
        return f"ClientContext(node_id={self.node_id!r}, session_dir={self._runtime.identity.session_dir!r})"


def address_of_head(runtime: Runtime) -> str:
    """Host and port. The head of a local cluster starts after `init` has returned; "" if it does not."""
    identity = runtime.identity
    deadline = time.monotonic() + runtime.config.control_ms_max / 1000
    while not identity.address and not runtime.closed and time.monotonic() < deadline:
        head = runtime.request("status", {})["head"]
        identity.address = head["address"]
        if head["trouble"]:
            break
        time.sleep(_ADDRESS_LOOK_S)
    return identity.address


def _dashboard_link(runtime: Runtime) -> str | None:
    deadline = time.monotonic() + runtime.config.dashboard_start_ms_max / 1000
    known = runtime.request("status", {})["dashboard"]
    while known is not None and not known["url"]:
        if known["trouble"] or time.monotonic() > deadline:
            reason = known["trouble"] or "it does not start"
            warnings.warn(f"there is no dashboard: {reason}; try another dashboard_port", stacklevel=3)
            return None
        time.sleep(_ADDRESS_LOOK_S)
        known = runtime.request("status", {})["dashboard"]
    if known is None:
        return None
    from shoal.bootstrap import dashboard_link
    from shoal.sessions import SECRET_FILE, read_secret

    secret = read_secret(os.path.join(runtime.identity.session_dir, SECRET_FILE))
    return dashboard_link(known["url"], secret)


def init(address: str | None = None, **kwargs: Any) -> ClientContext:
    """Join a cluster, or start one for this process.

    Args:
        address: None: a local cluster, stopped at exit; "auto": the one running on this machine; "host:port": that one.
            If no node of it runs on this machine, and SHOAL_SECRET_FILE names a file with its secret (or what `shoal join-string`
            printed), a node without CPUs is started, which ends with this process.
        num_cpus, num_gpus, resources, object_store_memory (bytes), labels, …: of a local cluster; see docs.
        include_dashboard, dashboard_host, dashboard_port: of a local cluster: a web page, and metrics for Prometheus, for who has
            the context's `dashboard_url`; off unless asked for.
        huge_pages: the local cluster's store is made of huge pages, which the system must have set aside.

    Raises RuntimeError if there is a session already (unless `ignore_reinit_error`), ValueError for bad arguments,
    ConnectionError if the cluster cannot be reached. After a failure there is no session and no process is left.
    """
    with _lock:
        arguments = InitArguments.parse(address, **kwargs)
        running = session.current()
        if running is not None and not running.closed:
            if running.kind == "worker" or arguments.ignore_reinit_error:
                return ClientContext(running)
            raise RuntimeError(
                "shoal.init() was called a second time; call shoal.shutdown() first, or pass ignore_reinit_error=True"
            )
        if running is not None:
            shutdown()
        _collect_seldom(True)  # from the imports on
        try:
            return ClientContext(_start_session(arguments))
        except BaseException:
            _collect_seldom(False)
            raise


def _start_session(arguments: InitArguments) -> Runtime:
    settings = config.load(arguments.system_config)
    info = _facts(arguments)
    from shoal.bootstrap import keep_standard_descriptors

    keep_standard_descriptors()
    try:
        session_of = _cluster(arguments)
        from shoal.client.runtime import Runtime

        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL_S))
        runtime = Runtime(session_of.socket, session_of.secret, session_of.node_id, "driver", info, settings)
    except BaseException:
        _stop_owned()
        raise
    try:
        _begin(runtime, arguments, info)
    except BaseException:
        runtime.close()
        _stop_owned()
        raise
    session.adopt(runtime)
    return runtime


def _cluster(arguments: InitArguments) -> Session:
    """The node to connect to: of a local cluster that is started, or of the one at the address."""
    global _owned_daemon
    from shoal.bootstrap import BootstrapError, start_daemon

    try:
        if arguments.address is not None:
            return _join(arguments.address, arguments)
        _owned_daemon = start_daemon(_local_cluster(arguments), meanwhile=_load)
        return _owned_daemon.session
    except BootstrapError as error:
        if arguments.address is not None:
            what, _, step = str(error).partition("; ")
            raise ClusterNotFoundError(what, next_step=step) from None
        step = "mend that, and call shoal.init() again" if error.refused else ""
        raise ClusterStartError(str(error), next_step=step) from None


def _facts(arguments: InitArguments) -> dict[str, Any]:
    """What the daemon and the workers are told of this driver."""
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        raise ClusterStartError(
            "the directory that this process runs in was deleted",
            next_step="change to one that exists (os.chdir), and call shoal.init() again",
        ) from None
    return {
        "namespace": arguments.namespace or "",
        "sys_path": [os.path.abspath(path) if path else cwd for path in sys.path],
        "cwd": cwd,
        "argv0": sys.argv[0] if sys.argv else "",
        "log_to_driver": arguments.log_to_driver,
    }


def _begin(runtime: Runtime, arguments: InitArguments, info: dict[str, Any]) -> None:
    global _output
    namespace = runtime.identity.namespace = arguments.namespace or runtime.identity.job_id
    runtime.job = {"job_id": runtime.identity.job_id, **info, "namespace": namespace}
    if arguments.runtime_env:
        runtime.job["runtime_env"] = runtime.environments.of(arguments.runtime_env)
    if arguments.log_to_driver:
        from shoal.client.driver_output import DriverOutput

        _output = DriverOutput(runtime.identity.node_id, runtime.config)
        runtime.log_handler = _output.entries


def _join(address: str, arguments: InitArguments) -> Session:
    """The node of this machine in the cluster at ``address``; one of this process's own if there is none."""
    global _owned_daemon
    from shoal.bootstrap import NoNodeHereError, guest_options, resolve_address, start_daemon

    try:
        return resolve_address(address, arguments.temp_dir)
    except NoNodeHereError:
        options = guest_options(address, arguments.temp_dir, arguments.system_config)
        if options is None:
            raise
        _owned_daemon = start_daemon(options, meanwhile=_load)
        return _owned_daemon.session


def _collect_seldom(seldom: bool) -> None:
    """Have the collector of cycles come by seldom, or as usual again; unless the user has set how often."""
    before, after = (_GC_DEFAULT, config.GC_THRESHOLD) if seldom else (config.GC_THRESHOLD, _GC_DEFAULT)
    if gc.get_threshold() == before:
        gc.set_threshold(*after)


def _load() -> None:
    """Import what a session needs: a part of the time that the daemon takes to start."""
    for module in ("shoal.client.runtime", "shoal.client.driver_output"):
        importlib.import_module(module)


def _local_cluster(arguments: InitArguments) -> DaemonOptions:
    from shoal.bootstrap import DaemonOptions

    resources = dict(arguments.resources)
    if arguments.num_gpus:
        resources["GPU"] = float(arguments.num_gpus)
    if arguments.memory:
        resources["memory"] = float(arguments.memory)
    return DaemonOptions(
        head=True,
        num_cpus=arguments.num_cpus,
        resources=resources,
        labels=arguments.labels,
        object_store_memory=arguments.object_store_memory,
        huge_pages=arguments.huge_pages,
        spilling_directories=arguments.spilling_directories,
        owner_pid=os.getpid(),
        config=arguments.system_config,
        kind="local",
        temp_dir=arguments.temp_dir,
        dashboard_host=arguments.dashboard_host,
        dashboard_port=arguments.dashboard_at,
    )


def shutdown() -> None:
    """Leave the cluster, and stop it if `init` started it. Nothing is left behind; may be called any number of times.

    Arrays that `get` has returned stay as they are.
    """
    global _output
    with _lock:
        runtime = session.current()
        if runtime is None or runtime.kind == "worker":
            return
        session.adopt(None)
        _collect_seldom(False)
        try:
            runtime.close()
        finally:
            if _output is not None:
                _output.close()
                _output = None
            if _stop_owned() and runtime.kept_views is not None:
                runtime.kept_views.end()


def _stop_owned() -> bool:
    """Whether there was a daemon of this process, which has ended now."""
    global _owned_daemon
    daemon, _owned_daemon = _owned_daemon, None
    if daemon is not None:
        from shoal.bootstrap import stop_session

        stop_session(daemon.session)
        daemon.process.wait()  # it has ended: without this it would stay a zombie
    return daemon is not None


def _at_exit() -> None:
    """Leave, and start nothing any more: a cluster that a late finalizer or thread would start has no use."""
    session.on_first_use(_refuse_at_exit)
    shutdown()


def _refuse_at_exit() -> None:
    raise RuntimeError("the interpreter is ending, and its shoal session has ended; use shoal before that")


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # another thread, which is not here, may have been in `init` or `shutdown`


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
session.on_first_use(init)


def is_initialized() -> bool:
    """Whether this process has a session."""
    runtime = session.current()
    return runtime is not None and not runtime.closed


# --- objects ---


def put(value: T) -> ObjectRef[T]:
    """Store ``value`` and return a ref to it; later changes to the original are not seen.

    Raises TypeError for a ref, or naming the part that cannot be serialized; ObjectStoreFullError if there is no room.
    """
    if isinstance(value, ObjectRef):
        raise TypeError(
            "put needs a value, not an ObjectRef; to pass the ref on, use it as it is, or inside a list"
        )
    return session.runtime().values.put(value)


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...
@overload
def get(refs: Sequence[ObjectRef[T]], *, timeout: float | None = None) -> list[T]: ...


def get(refs: Any, *, timeout: float | None = None) -> Any:
    """The value of a ref, or the values of a list of refs, in order.

    Arrays come back read-only, and over 100 KiB they are views into shared memory. ``timeout`` in seconds; 0 polls. In tasks that
    are nested deep (config.inline_timed_depth_min) a ``timeout`` is not looked at while a child runs in its parent's place.
    Ctrl-C in a driver's get cancels the tasks that it waits for.

    Raises the task's exception (also an instance of `TaskError`), the first one of a list at once; GetTimeoutError; ValueError
    for what is no ref. A get of an argument of the running task that was a ref when it was passed returns it as it is.
    """
    if type(refs) is ObjectRef:
        runtime = session.current() or session.runtime()
        return runtime.values.get(refs, timeout)
    context = current_task.get()
    # A long list of refs is passed in the store, like a value that was a ref; it still is a list of refs to get.
    is_list = isinstance(refs, list | tuple) and bool(refs) and type(refs[0]) is ObjectRef
    if context is not None and not is_list and any(refs is value for value in context.arguments):
        return refs
    if isinstance(refs, list | tuple):
        arguments = context.arguments if context is not None else ()
        for ref in refs:
            if type(ref) is not ObjectRef and not any(ref is value for value in arguments):
                if _is_dynamic(ref):
                    return _get_each(refs, timeout)
                raise TypeError(f"get needs ObjectRefs; the list contains {type(ref).__name__}")
        runtime = session.runtime()
        if not arguments or all(type(ref) is ObjectRef for ref in refs):
            return runtime.values.get_all(refs, timeout)
        return [runtime.values.get(ref, timeout) if type(ref) is ObjectRef else ref for ref in refs]
    if isinstance(refs, ObjectRefGenerator):
        if refs.is_dynamic:
            return refs.gathered(timeout)
        raise ValueError("get needs ObjectRefs; iterate over the generator, and get each ref that it gives")
    if isinstance(refs, DynamicObjectRefGenerator):
        return refs
    raise ValueError(f"get needs an ObjectRef or a list of them, not {type(refs).__name__}")


def _is_dynamic(ref: object) -> bool:
    """Whether `get` takes it though it is no ref: it stands for the items of a task with num_returns="dynamic"."""
    return isinstance(ref, DynamicObjectRefGenerator) or (
        isinstance(ref, ObjectRefGenerator) and ref.is_dynamic
    )


def _get_each(refs: Sequence[Any], timeout: float | None) -> list[Any]:
    """As `get` of a list, one after the other, for lists with dynamic generators in them."""
    deadline = None if timeout is None else time.monotonic() + timeout
    return [
        get(ref, timeout=None if deadline is None else max(0.0, deadline - time.monotonic())) for ref in refs
    ]


def wait(
    refs: list[W],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[W], list[W]]:
    """Split ``refs`` into (ready, not ready), both in input order; at most ``num_returns`` are in the first.

    Returns when that many are ready, or after ``timeout`` seconds. An object of another node is ready when it is on this one;
    without ``fetch_local`` it stays there, and is ready when it is complete. A generator of refs may be among them: it is ready
    when `next` gives a ref, or ends, at once. Ready is not well: a task that failed and an object that is lost are ready too, and
    `get` raises why. A copy is not looked at before it is read: if it turns out to be lost then, `get` waits for the task that
    makes it again, or raises.
    Raises TypeError or ValueError for what cannot be waited for.
    """
    if not isinstance(refs, list):
        raise TypeError(f"wait needs a list of ObjectRefs, not {type(refs).__name__}")
    if timeout is not None and seconds("timeout", timeout) < 0:
        raise ValueError(f"timeout={timeout}; it must be 0 or more seconds, or None")
    values = session.runtime().values
    both = values.take_next(refs, num_returns, fetch_local)
    if both is not None:
        return both
    state = values.continued(refs, fetch_local)
    if state is None:
        for ref in refs:
            if type(ref) is not ObjectRef and type(ref) is not ObjectRefGenerator:
                raise TypeError(f"wait needs ObjectRefs; the list contains {type(ref).__name__}")
        # Without a call of __hash__ for each.
        if len({ref.id if isinstance(ref, ObjectRef) else ref for ref in refs}) != len(refs):
            raise ValueError("wait needs each ref once; the list contains duplicates")
    flag("fetch_local", fetch_local)
    if not refs:
        return [], []
    if type(num_returns) is not int:
        num_returns = whole(0)("num_returns", num_returns)
    if num_returns <= 0 or num_returns > len(refs):
        raise ValueError(
            f"num_returns={num_returns} with {len(refs)} ref(s); it must be between 1 and their number"
        )
    return values.wait(refs, num_returns, timeout, state, fetch_local)


def cancel(
    ref: ObjectRef[Any] | ObjectRefGenerator[Any], *, force: bool = False, recursive: bool = True
) -> None:
    """Cancel the task that makes ``ref``; its `get` raises TaskCancelledError.

    A queued task never runs; a running one gets a KeyboardInterrupt at its next bytecode (so its `finally` clauses run), or
    its worker is killed with ``force``. ``recursive``: its children too. Does nothing if it has finished. Whoever has the
    ref may cancel. Raises TypeError for what is no ref, ValueError for a call of an actor with ``force``.
    """
    if isinstance(ref, ObjectRefGenerator):
        ref = ref.completed()
    if type(ref) is not ObjectRef:
        raise TypeError(f"cancel needs an ObjectRef, not {type(ref).__name__}")
    flag("force", force)
    flag("recursive", recursive)
    from shoal.client.cancelling import cancel_ref

    cancel_ref(session.runtime(), ref, force, recursive)


# --- tasks ---


class _MakeRemote(Protocol):
    """What `remote(num_cpus=…)` returns: a decorator for functions and classes."""

    @overload
    def __call__(self, target: type[T], /) -> ActorClass[T]: ...  # type: ignore[overload-overlap]  # a class is callable
    @overload
    def __call__(self, target: Callable[P, T], /) -> RemoteFunction[P, T]: ...


@overload
def remote(target: type[T], /) -> ActorClass[T]: ...  # type: ignore[overload-overlap]  # a class is callable
@overload
def remote(target: Callable[P, T], /) -> RemoteFunction[P, T]: ...
@overload
def remote(**options: Any) -> _MakeRemote: ...


def remote(*args: Any, **options: Any) -> Any:
    """Make a function remote, or a class one of actors: `@remote`, or `@remote(num_cpus=2, …)`.

    Raises TypeError or ValueError for bad options, at once.
    """
    if len(args) == 1 and not options:
        return _make_remote(args[0], {})
    if args:
        raise TypeError("use @shoal.remote, or @shoal.remote(num_cpus=…, …) with keyword arguments")
    return lambda function: _make_remote(function, options)


def _make_remote(target: Any, options: dict[str, Any]) -> Any:
    if inspect.isclass(target):
        return ActorClass(target, ActorOptions().merged(**options))
    if isinstance(target, ActorClass):
        raise TypeError("the class is remote already; use .options(...) to change its options")
    if isinstance(target, RemoteFunction):
        raise TypeError("the function is remote already; use .options(...) to change its options")
    if not callable(target):
        raise TypeError(f"@shoal.remote needs a function, not {type(target).__name__}")
    streams = inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target)
    if streams and "num_returns" not in options:
        options = {**options, "num_returns": "streaming"}
    return RemoteFunction(target, TaskOptions().merged(**options))


# --- looking around ---


def get_runtime_context() -> RuntimeContext:
    """Ids and assigned resources of the running code."""
    return RuntimeContext(session.runtime().identity)


def nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster, with health and resources, in units of each; keys as in Ray.

    A node that has just started with its driver has port 0 until it has registered at the head.
    """
    return [
        {
            "NodeID": row["node_id"],
            "Alive": row["state"] == "ALIVE",
            "State": row["state"],
            "NodeName": row["name"] or row["hostname"],
            "NodeManagerHostname": row["hostname"],
            "NodeManagerAddress": row["address"].rpartition(":")[0] or _LOOPBACK,
            "NodeManagerPort": int(row["address"].rpartition(":")[2] or 0),
            "Resources": row["resources"],
            "Available": row["available"],
            "Labels": row["labels"],
            "object_store_memory": row["store_capacity_bytes"],
        }
        for row in session.runtime().request("nodes", {})["rows"]
    ]


def cluster_resources() -> dict[str, float]:
    """All resources of the cluster, in units of each."""
    found: dict[str, float] = session.runtime().request("cluster_resources", {})
    return found


def available_resources() -> dict[str, float]:
    """What no task holds at this moment."""
    found: dict[str, float] = session.runtime().request("available_resources", {})
    return found


def timeline(filename: str | os.PathLike[str] | None = None) -> list[dict[str, Any]] | None:
    """What ran when in the cluster: the events of a Chrome trace, for chrome://tracing or ui.perfetto.dev.

    Each process remembers its newest tasks and calls of actors (`timeline_tasks_max`); what a killed one ran is lost. With
    ``filename`` they are written there as JSON, and None is returned. `ts` (since 1970) and `dur` are in µs.
    """
    if filename is not None and not isinstance(filename, str | os.PathLike):
        raise TypeError(f"timeline needs the name of a file, or None, not {type(filename).__name__}")
    from shoal.client.timeline import chrome_events

    events = chrome_events(session.runtime().request("timeline", {"cluster": True})["rows"])
    if filename is None:
        return events
    with open(filename, "w", encoding="utf-8") as file:
        json.dump(events, file)
    return None


def memory_summary() -> dict[str, Any]:
    """This node's store: capacity and used bytes, and the number of objects, among others."""
    answer = session.runtime().request("memory", {"rows": False})
    stats: dict[str, Any] = dict(answer["stats"])
    return stats
