"""The one tree of errors. Each has typed fields, survives pickling, and ends its text with the next step.

`fault` says whose it is: the caller's (an argument, a too tight timeout, the task's own code), the
cluster's (a process, machine, disk or network, or too little of something), or shoal's (a bug).

A task's exception arrives as `TaskError`, and at `get` also as an instance of the exception's own class, so
that `except ValueError` works across machines. The exceptions that steer Python rather than report arrive as
plain `TaskError`: KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError, StopIteration,
StopAsyncIteration and groups of BaseExceptions. In a task, SystemExit is an intended end of its worker, as
in Ray: the worker ends with that status and the caller gets WorkerCrashedError, after `max_retries`.

The names that Ray users know are at the end, as aliases.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar

from shoal.causes import (
    Packed,
    bare_exception,
    members_of,
    mixed_class,
    pack_cause,
    remedy,
    safe_repr,
    set_state,
    unpack_cause,
)
from shoal.tracebacks import class_name, describe
from shoal.tracebacks import format_remote_traceback as format_remote_traceback  # noqa: PLC0414  exported from here

AnyError = TypeVar("AnyError", bound="ShoalError")

# Fields of errors that their texts mention, in this order.
_FACTS = {
    "task_name": "task {}",
    "actor_name": "actor {}",
    "actor_id": "actor {}",
    "object_id": "object {}",
    "pid": "pid {}",
    "node": "node {}",
    "signal_name": "{}",
    "exit_code": "exit code {}",
    "address": "address {}",
    "path": "{}",
    "size_bytes": "{} bytes wanted",
    "capacity_bytes": "capacity {} bytes",
    "used_bytes": "{} bytes used",
    "limit_bytes": "limit {} bytes",
    "limit": "limit {}",
    "log_path": "log {}",
}


@dataclass(eq=False, repr=False)
class ShoalError(Exception):
    """What all errors of shoal are. Catch it to catch them all.

    Attributes:
        message: what happened, in a sentence.
        dependents: names of tasks that could not run because of this, the nearest first.
        next_step: what to do about it; each class has a default.
    """

    message: str = ""
    dependents: tuple[str, ...] = field(default=(), kw_only=True)
    next_step: str = field(default="", kw_only=True)

    fault: ClassVar[Literal["caller", "cluster", "bug"]] = "cluster"
    default_message: ClassVar[str] = "something in shoal failed"
    default_next_step: ClassVar[str] = "look at the logs of this session with `shoal logs`"

    def __post_init__(self) -> None:
        self.args = (self.message,)

    def facts(self) -> list[str]:
        """Short facts from the fields: those that the message does not mention are added to the text."""
        found = {name: getattr(self, name, None) for name in _FACTS}
        if found["exit_code"] == 0:  # a fact, where a pid or size of 0 was not given
            found["exit_code"] = "0"
        if found["signal_name"]:
            found["exit_code"] = None
        return [_FACTS[name].format(value) for name, value in found.items() if value]

    def __str__(self) -> str:
        text = self.message or self.default_message
        missing = [fact for fact in self.facts() if fact not in text]
        if missing:
            text = f"{text.rstrip('.')} ({', '.join(missing)})"
        if self.dependents:
            text += f"\nBecause of that these tasks did not run: {', '.join(self.dependents)}."
        return f"{text}\nNext: {self.next_step or self.default_next_step}."

    def __repr__(self) -> str:
        default = {each.name: each.default for each in fields(self) if each.repr}
        given = [
            f"{name}={safe_repr(self.__dict__[name])}"
            for name in default
            if self.__dict__.get(name, default[name]) != default[name]
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        # Not by calling the constructor: a subclass may have another one.
        return _restore, (type(self), self.args, dict(self.__dict__))

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__reduce_ex__(2)

    def with_dependent(self, task_name: str) -> Self:
        """The same error, for a task that did not run because it depends on what failed."""
        state = {**self.__dict__, "dependents": (*self.dependents, task_name)}
        return _restore(type(self), self.args, state)


def _restore(cls: type[AnyError], args: tuple[Any, ...], state: dict[str, Any]) -> AnyError:
    error = bare_exception(cls, args)
    error.__dict__.update(state)
    return error


# --- tasks ---


class TaskHop(NamedTuple):
    """A task that got the error of another one from its own `get`, and let it pass."""

    task_name: str
    pid: int
    node: str
    traceback_text: str


@dataclass(eq=False, repr=False, kw_only=True)
class TaskError(ShoalError):
    """A task raised an exception. At `get`, the error is also an instance of that exception's class.

    What the exception's class offers (attributes, methods, errno of an OSError) is there as well; the fields
    here go first, and the exception as it was is in `cause`.

    Attributes:
        task_name, pid, node: where it was raised; `node` is an id in hexadecimal digits.
        traceback_text: as Python printed it there, without frames of the runtime.
        cause: the exception; None if it could not travel or cannot be loaded here.
        cause_class: the name of its class, with module.
        hops: the tasks that it passed through on the way here, the first one first.
    """

    task_name: str = ""
    pid: int = 0
    node: str = ""
    traceback_text: str = field(default="", repr=False)
    cause: BaseException | None = None
    cause_class: str = ""
    hops: tuple[TaskHop, ...] = ()

    fault = "caller"
    default_message = "a task raised an exception"
    default_next_step = "mend the task, or catch TaskError around shoal.get()"

    # The class of a cause may define any of these; as a TaskError an error behaves like one.
    __setattr__ = BaseException.__setattr__
    __delattr__ = BaseException.__delattr__
    __getattribute__ = BaseException.__getattribute__
    __hash__ = BaseException.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    @classmethod
    def from_exception(
        cls, exc: BaseException, task_name: str, pid: int, node: str, traceback_text: str, unsent: str = ""
    ) -> TaskError:
        """The error for a task that raised ``exc``; made in its worker. Never raises.

        ``traceback_text`` is that of `format_remote_traceback(exc)`. If ``exc`` is itself the error of a task
        whose result this one had asked for, the answer is that error, with this task added to its `hops`.
        ``unsent``: why that could not be sent; what is long in the exception is shortened then, or left out.
        """
        if isinstance(exc, TaskError) and not unsent:
            hop = TaskHop(task_name, pid, node, traceback_text)
            return exc._plain(hops=(*exc.hops, hop))
        exc = (exc.cause if isinstance(exc, TaskError) else None) or exc
        error = TaskError(
            f"{describe(exc)} (it could not be sent as it is: {unsent})" if unsent else describe(exc),
            task_name=task_name,
            pid=pid,
            node=node,
            traceback_text=traceback_text,
            cause=exc,
            cause_class=class_name(type(exc)),
        )
        notes = getattr(exc, "__notes__", None)
        if isinstance(notes, list) and not unsent:
            error.__notes__ = [str(note) for note in notes]
        error.__dict__["_packed"] = pack_cause(exc, shortened=bool(unsent))
        return error

    def as_instanceof_cause(self) -> TaskError:
        """This error, to be raised: also an instance of the cause's class where there can be such a class."""
        cause = self.cause
        if type(self) is not TaskError or cause is None or isinstance(self, type(cause)):
            return self
        cls = mixed_class(TaskError, type(cause))
        if cls is None:
            return self
        try:
            error = bare_exception(cls, cause.args)
        except Exception:  # noqa: BLE001  a class made by its constructor only; TaskError alone it is then
            return self
        set_state(error, (members_of(cause), {**vars(cause), **vars(self)}))
        if isinstance(error, SyntaxError):
            # Python prints the place of a SyntaxError, not its text: the remote traceback would be lost.
            error.__notes__ = [*getattr(self, "__notes__", ()), str(self)]
        return error

    def with_dependent(self, task_name: str) -> TaskError:
        """The same error, for a task that did not run because it depends on what failed."""
        return self._plain(dependents=(*self.dependents, task_name))

    def _plain(self, **changes: Any) -> TaskError:
        """A copy with some fields changed, of class TaskError only: what travels from process to process."""
        return _restore(TaskError, (self.message,), {**self._own_state(), **changes})

    def _own_state(self) -> dict[str, Any]:
        """The fields, without what was copied from the cause to be found here too."""
        if type(self) is TaskError:
            return dict(self.__dict__)
        return {name: value for name, value in self.__dict__.items() if name in _TASK_ERROR_STATE}

    def __getattr__(self, name: str) -> Any:
        # Only for what is not found elsewhere: attributes of the cause.
        cause = self.__dict__.get("cause")
        if cause is None or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(cause, name)

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        state = self._own_state()
        cause = state.pop("cause", None)
        if cause is not None and "_packed" not in state:
            state["_packed"] = pack_cause(cause)
        return _restore_task_error, (self.message, state, type(self) is not TaskError)

    def __str__(self) -> str:
        parts = [f"{_place(self.task_name, self.pid, self.node)} raised {self.message or 'an exception'}"]
        if self.traceback_text:
            parts.append(self.traceback_text.rstrip())
        for hop in self.hops:
            got = f"{_place(hop.task_name, hop.pid, hop.node)} got that from shoal.get() and let it pass"
            parts.append(f"{got}\n{hop.traceback_text.rstrip()}".rstrip())
        if self.dependents:
            parts.append(
                f"these tasks, which had that as an argument, did not run: {', '.join(self.dependents)}"
            )
        return "\n\n".join([*parts, f"Next: {self.next_step or self._advice()}."])

    def _advice(self) -> str:
        if self.cause is None and self.cause_class:
            return (
                f"{self.cause_class} could not be brought here (only its text is above); catch TaskError, or "
                "make that class importable here and its attributes picklable"
            )
        name = self.cause_class.rpartition(".")[2]
        if self.cause is None or mixed_class(TaskError, type(self.cause)) is None:
            return self.default_next_step
        mend = remedy(self.cause) or f"mend {self.task_name or 'the task'}"
        return (
            f"{mend}, or catch {name} (or TaskError) around shoal.get(), or have it retried with "
            f"retry_exceptions=[{name}]"
        )


_TASK_ERROR_STATE = frozenset({*(each.name for each in fields(TaskError)), "_packed", "__notes__"})


def _restore_task_error(message: str, state: dict[str, Any], mixed: bool) -> TaskError:
    packed: Packed | None = state.get("_packed")
    cause = unpack_cause(packed) if packed is not None else None
    error = _restore(TaskError, (message,), {**state, "cause": cause})
    return error.as_instanceof_cause() if mixed else error


def _place(task_name: str, pid: int, node: str) -> str:
    facts = [f"{key}={value}" for key, value in (("pid", pid), ("node", node)) if value]
    return f"task {task_name or '?'} ({', '.join(facts)})" if facts else f"task {task_name or '?'}"


@dataclass(eq=False, repr=False, kw_only=True)
class TaskCancelledError(ShoalError):
    """The task was cancelled: by `shoal.cancel`, by Ctrl-C in a `get` of it, with its parent, or because its driver ended."""

    task_name: str = ""

    fault = "caller"
    default_message = "the task was cancelled"
    default_next_step = (
        "submit it again if its result is needed; shoal.cancel() does this, and Ctrl-C in a shoal.get() of it"
    )


@dataclass(eq=False, repr=False, kw_only=True)
class WorkerCrashedError(ShoalError):
    """The worker process ended while it ran the task, and `max_retries` is used up.

    Attributes:
        exit_code: how it ended by itself; None if by a signal. `sys.exit(3)` in a task gives 3.
        signal_number: what it was killed with; None if it was not.
        log_path: its output, on `node`.
    """

    task_name: str = ""
    pid: int = 0
    node: str = ""
    exit_code: int | None = None
    signal_number: int | None = None
    log_path: str = ""

    default_message = "the worker process ended while it ran the task"

    @property
    def signal_name(self) -> str:
        """As in SIGKILL; empty if it was no signal."""
        if not self.signal_number:
            return ""
        try:
            return signal.Signals(self.signal_number).name
        except ValueError:  # a real-time signal
            return f"signal {self.signal_number}"

    @property
    def default_next_step(self) -> str:  # type: ignore[override]  # here it depends on how the worker ended
        """Where to look first."""
        where = f"read {self.log_path}" if self.log_path else "read the worker's output with `shoal logs`"
        if self.signal_name == "SIGKILL":
            return f"{where}; SIGKILL often means that the machine ran out of memory (`dmesg` tells)"
        if self.signal_name in {"SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL"}:
            return f"{where}; {self.signal_name} comes from compiled code that the task uses"
        return f"{where}; max_retries decides how often such a task is started again"


# --- actors ---


@dataclass(eq=False, repr=False, kw_only=True)
class ActorError(ShoalError):
    """An actor could not answer a call."""

    actor_id: str = ""
    actor_name: str = ""
    node: str = ""

    default_message = "the actor could not answer"


@dataclass(eq=False, repr=False, kw_only=True)
class ActorDiedError(ActorError):
    """The actor is dead, and is not restarted (again)."""

    pid: int = 0
    exit_code: int | None = None

    default_message = "the actor is dead"
    default_next_step = "make a new one; max_restarts has an actor restarted after a crash"


@dataclass(eq=False, repr=False, kw_only=True)
class ActorUnavailableError(ActorError):
    """The actor cannot be reached now; whether the call ran is not known."""

    default_message = "the actor cannot be reached now"
    default_next_step = "call again if a second run does no harm; max_task_retries does it by itself"


# --- room ---


@dataclass(eq=False, repr=False, kw_only=True)
class ObjectStoreFullError(ShoalError):
    """There was no room for an object in the node's store, nor could any be made in time."""

    node: str = ""
    size_bytes: int = 0
    capacity_bytes: int = 0

    default_message = "the object store is full"
    default_next_step = (
        "drop refs and arrays that are no longer needed (`shoal memory` lists them with their call sites), or start the "
        "node with a larger object_store_memory"
    )


@dataclass(eq=False, repr=False, kw_only=True)
class OutOfDiskError(ShoalError):
    """The disk that the store spills to is full; nothing that was stored is lost."""

    path: str = ""
    node: str = ""

    default_message = "the disk for spilled objects is full"
    default_next_step = "make room there, or start with another object_spilling_directory"


@dataclass(eq=False, repr=False, kw_only=True)
class OutOfMemoryError(ShoalError):
    """The task's worker was ended before it could push the machine out of memory."""

    task_name: str = ""
    node: str = ""
    used_bytes: int = 0
    limit_bytes: int = 0

    default_message = "the task was ended because the machine runs out of memory"
    default_next_step = (
        "run fewer such tasks at once (num_cpus, or memory= with what one needs), or give each less data"
    )


# --- nodes and objects ---


@dataclass(eq=False, repr=False, kw_only=True)
class NodeDiedError(ShoalError):
    """A node daemon or its machine is gone, or this process lost its own."""

    node: str = ""

    default_message = "the node is gone"
    default_next_step = "see `shoal status` for what is left, and the log of that node for why"


@dataclass(eq=False, repr=False, kw_only=True)
class ObjectLostError(ShoalError):
    """An object's value is nowhere any more. `object_id` in hexadecimal digits."""

    object_id: str = ""

    default_message = "the object is lost"
    default_next_step = "make it again: call its task once more, or put it again"


@dataclass(eq=False, repr=False, kw_only=True)
class ObjectFreedError(ObjectLostError):
    """The object was freed before it was read: nobody was known to hold it."""

    default_message = "the object was freed"
    default_next_step = "keep a ref to it (not only its id) for as long as it is needed"


@dataclass(eq=False, repr=False, kw_only=True)
class OwnerDiedError(ObjectLostError):
    """The process that was to make the object, or knew how, is gone."""

    default_message = "the object's owner died before the object was stored"
    default_next_step = "see why the owner ended (`shoal logs`), and have another process make the object"


@dataclass(eq=False, repr=False, kw_only=True)
class ObjectReconstructionFailedError(ObjectLostError):
    """All copies are lost, and running its task again did not bring the object back."""

    default_message = "the object is lost and could not be made again"
    default_next_step = (
        "call its task again; max_retries bounds how often shoal does so by itself (never for put)"
    )


# --- waiting, placing, joining ---


@dataclass(eq=False, repr=False, kw_only=True)
class GetTimeoutError(ShoalError, TimeoutError):
    """`get` waited as long as it was allowed to.

    Attributes:
        timeout_s: how long that was.
        missing: what was still missing, and why, a line each.
    """

    timeout_s: float | None = None
    missing: tuple[str, ...] = ()

    fault = "caller"
    default_message = "get timed out"
    default_next_step = "allow more time, or ask `shoal why ID` what it waits for; the tasks go on"

    def facts(self) -> list[str]:
        waited = [f"after {self.timeout_s:g} s"] if self.timeout_s is not None else []
        return [*waited, *self.missing]


@dataclass(eq=False, repr=False, kw_only=True)
class PendingCallsLimitExceeded(ShoalError):
    """An actor has `max_pending_calls` calls waiting."""

    limit: int = 0

    fault = "caller"
    default_message = "too many calls wait for this actor"
    default_next_step = "wait for some results before calling again, or raise max_pending_calls"


@dataclass(eq=False, repr=False, kw_only=True)
class PlacementError(ShoalError):
    """Nothing can run this: no node has, or will have, what it asks for, or a bound on processes is reached.

    Attributes:
        demand: what is asked for, per resource.
        available: the most that one node has of each of these.
    """

    demand: dict[str, float] = field(default_factory=dict)
    available: dict[str, float] = field(default_factory=dict)

    fault = "caller"
    default_message = "no node can run this"
    default_next_step = "ask for less, or add a node that has it; `shoal status` shows what there is"

    def facts(self) -> list[str]:
        return [
            f"{name}: {amount:g} wanted, {self.available.get(name, 0):g} on the best node"
            for name, amount in self.demand.items()
        ]


@dataclass(eq=False, repr=False, kw_only=True)
class RuntimeEnvSetupError(ShoalError):
    """The runtime environment of a task could not be made."""

    log_path: str = ""

    fault = "caller"
    default_message = "the runtime environment could not be made"
    default_next_step = "check runtime_env; the log of the node has the output of what failed"


@dataclass(eq=False, repr=False, kw_only=True)
class ClusterNotFoundError(ShoalError, ConnectionError):
    """Nobody answers where a cluster should be."""

    address: str = ""

    fault = "caller"
    default_message = "no cluster was found"
    default_next_step = (
        "start one with `shoal start-head`, or call shoal.init() without an address for a local one"
    )


@dataclass(eq=False, repr=False, kw_only=True)
class AuthenticationError(ShoalError, ConnectionError):
    """The two sides do not share a secret; nothing was exchanged beyond the proof."""

    address: str = ""

    fault = "caller"
    default_message = "the cluster and this process do not have the same secret"
    default_next_step = "use the secret file that start-head wrote for this cluster, as the user who owns it"


@dataclass(eq=False, repr=False, kw_only=True)
class ClusterStartError(ShoalError, ConnectionError):
    """A daemon did not start. Nothing is left of it."""

    log_path: str = ""

    default_message = "the cluster did not start"
    default_next_step = "see what it logged, above; a full /tmp and too little memory are usual reasons"


@dataclass(eq=False, repr=False, kw_only=True)
class InternalError(ShoalError):
    """Something that cannot happen did: a bug in shoal."""

    fault = "bug"
    default_message = "shoal made a mistake"
    default_next_step = "report it with this text and the logs of the session"


# --- Ray's names ---

RayError = ShoalError
RayTaskError = TaskError
RayActorError = ActorError
RaySystemError = InternalError
UserCodeException = TaskError
LocalRayletDiedError = NodeDiedError
ObjectFetchTimedOutError = ObjectLostError
ReferenceCountingAssertionError = ObjectLostError
PlasmaObjectNotAvailable = ObjectLostError
TaskUnschedulableError = PlacementError
ActorUnschedulableError = PlacementError
ObjectReconstructionFailedMaxAttemptsExceededError = ObjectReconstructionFailedError
ObjectReconstructionFailedLineageEvictedError = ObjectReconstructionFailedError
TaskPlacementGroupRemoved = PlacementError
ActorPlacementGroupRemoved = ActorDiedError
