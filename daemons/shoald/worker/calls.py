"""One call of an actor's method: from its message to its reply, on whichever thread it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal import maththreads
from shoal.actors.api import ActorExit
from shoal.context import TaskContext
from shoal.wire import messages as m
from shoald.worker.arguments import Arguments, Loaded
from shoald.worker.usercode import UserCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.client.runtime import Runtime
    from shoald.worker.blocking import CallWaits
    from shoald.worker.cancels import Cancels
    from shoald.worker.results import Results

_GROUP = b"\0"  # between a method's name and the concurrency group that a call asks for


class Calls:
    """Runs calls on one instance.

    Args:
        reply_now: sends an item of a generator: (caller, message, whether at once).
        cancels: of calls on the main thread.

    Attributes:
        instance: the actor's object, once it is made.
        producers: generators under way, by call; each has `consumed`.
        waits: of calls that run at once, in an actor with a CPU to lend; None in others.
    """

    def __init__(
        self,
        runtime: Runtime,
        arguments: Arguments,
        results: Results,
        class_name: str,
        resources: dict[str, float],
        reply_now: Callable[[bytes, tuple[Any, ...], bool], None],
        set_task_name: Callable[[str], None],
        cancels: Cancels,
    ) -> None:
        self.runtime = runtime
        self.arguments = arguments
        self.results = results
        self.resources = resources
        maththreads.use(resources.get("CPU", 0.0))
        self.reply_now = reply_now
        self.set_task_name = set_task_name
        self.instance: Any = None
        self._code = UserCode(self, cancels)
        self.producers = self._code.producers
        self.waits: CallWaits | None = None
        self._class_name = class_name
        self._cancels = cancels
        self._names: dict[bytes, tuple[str, str, str]] = {}
        self._remember = runtime.timeline.record
        runtime.timeline.name_of = lambda function_id: self.names(function_id)[1]

    def names(self, function_id: bytes) -> tuple[str, str, str]:
        """(method, name for people, concurrency group asked for or "") of the function field of a call."""
        found = self._names.get(function_id)
        if found is None:
            method, _, group = function_id.partition(_GROUP)
            name = method.decode(errors="replace")
            found = name, f"{self._class_name}.{name}", group.decode(errors="replace")
            if (
                getattr(self.instance, name, None) is not None
            ):  # others are asked for by mistake, under any number of names
                self._names[function_id] = found
        return found

    def record(self, message: tuple[Any, ...], started: float, ended: float, good: bool) -> None:
        """A call is over; times of the monotonic clock."""
        self._remember((self.shown(message), message[1], started, ended, good))

    @staticmethod
    def shown(message: tuple[Any, ...]) -> str | bytes:
        """What a call is shown as: its name for people, or the function field that tells it."""
        details = message[5]
        found: str | bytes = details["name"] if details is not None and details["name"] else message[2]
        return found

    def begins(self, task_id: bytes) -> None:
        """A call starts, beside others."""
        if self.waits is not None:
            with self.runtime.lock:
                self.waits.call_begins(task_id)

    def ends(self, task_id: bytes) -> None:
        """It is over."""
        if self.waits is not None:
            with self.runtime.lock:
                self.waits.call_ends(task_id)

    def method(self, name: str) -> Callable[..., Any]:
        """The bound method; every actor answers to Ray's three names."""
        found: Callable[..., Any] | None = getattr(self.instance, name, None)
        if found is not None:
            return found
        if name == "__ray_ready__":
            return lambda: True
        if name == "__ray_call__":
            return lambda function, *args, **kwargs: function(self.instance, *args, **kwargs)
        if name == "__ray_terminate__":
            return _terminate
        raise AttributeError(f"{self._class_name} has no method {name!r}")

    def run(self, caller: bytes, message: tuple[Any, ...]) -> tuple[Any, ...]:
        """(DONE, id, results, kept) or a whole FAILED message.

        Raises ActorExit and SystemExit, which end the actor.
        """
        _, task_id, function_id, payload, lifted, details = message
        loaded = Loaded(task_id)
        method, method_name, _ = self.names(function_id)
        name = method_name
        if details is not None and details["name"]:
            name = details["name"]
        started = False
        try:
            self.set_task_name(name)
            loaded.name = name
            args, kwargs = self.arguments.load(loaded, caller, payload, lifted, details)
            context = TaskContext(
                task_id, name, method_name, details["depth"] if details else 0, self.resources
            )
            context.arguments = loaded.values
            started = True
            try:
                value = self._code.call(context, self.method(method), args, kwargs)
                if details is None:
                    results = self.results.encode(task_id, value, 1, caller, name)
                elif details["stream"]:
                    results = self._code.stream(context, value, caller, details)
                else:
                    results = self.results.encode(task_id, value, details["returns"], caller, name)
            finally:
                del args, kwargs  # whatever still refers to a ref now keeps it (Arguments.kept)
                value = None
                context.arguments = ()
            return (m.DONE, task_id, results, self.arguments.kept(loaded))
        except BaseException as error:  # noqa: BLE001  everything a method raises goes to its caller
            return self.failure(task_id, error, name, caller, started, loaded)

    def failure(
        self, task_id: bytes, error: BaseException, name: str, caller: bytes, started: bool, loaded: Loaded
    ) -> tuple[Any, ...]:
        """The FAILED message for what a call raised; raises on what ends the actor."""
        if self._cancels.covers(task_id):
            failed = (*self.results.cancelled(task_id, name), True)
        elif isinstance(error, ActorExit | SystemExit):
            raise error
        else:
            failed = self.results.failure(task_id, error, name, caller, started, loaded.attempt)
        error.__traceback__ = None
        return (*failed[:4], self.arguments.kept(loaded), failed[4])


def _terminate() -> None:
    raise ActorExit
