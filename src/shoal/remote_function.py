"""`@shoal.remote` on functions: what `.remote()` and `.options()` do."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar, overload
from weakref import WeakSet

from shoal import session
from shoal.digests import blake2b
from shoal.owner.tasks import FunctionExport
from shoal.refs import ObjectRef
from shoal.sizes import bytes_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.client.runtime import Runtime
    from shoal.options import TaskOptions

P = ParamSpec("P")
R = TypeVar("R")
_ID_SIZE = 16


class RemoteFunction(Generic[P, R]):
    """A function whose calls run as tasks.

    Made by `@shoal.remote`. `f.remote(*args, **kwargs)` queues a call and returns its `ObjectRef` at once;
    `f.options(...)` gives the same function with other options.
    """

    def __init__(
        self, function: Callable[P, R], options: TaskOptions, shared: _Exports | None = None
    ) -> None:
        self._function = function
        self._options = options
        self._exports = shared or _Exports(function)
        self._num_returns = options.num_returns
        functools.update_wrapper(self, function)

    # The first overload is for editors, which show it; the second lets refs stand for values.
    @overload
    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[R]: ...
    @overload
    def remote(self, *args: Any, **kwargs: Any) -> ObjectRef[R]: ...

    def remote(self, *args: Any, **kwargs: Any) -> ObjectRef[R]:
        """Queue a call. Raises TypeError at once if the arguments do not fit the function's signature."""
        exports = self._exports
        runtime = session.current() or session.runtime()
        function = exports.export if exports.runtime is runtime else exports.renew(runtime)
        if args or kwargs:
            exports.check(args, kwargs)
        elif exports.needs_arguments:
            exports.bind((), {})
        result: ObjectRef[R] = runtime.submit(function, self._options, args, kwargs)
        return result

    def options(self, **overrides: Any) -> RemoteFunction[P, R]:
        """The same function with some options changed; raises ValueError or TypeError for a bad one."""
        return RemoteFunction(self._function, self._options.merged(**overrides), self._exports)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        name = self._exports.name
        raise TypeError(
            f"remote function {name}() cannot be called directly: use {name}.remote(...) to run it as a task, "
            f"or {name}.underlying(...) to call it here"
        )

    @property
    def underlying(self) -> Callable[P, R]:
        """The plain function."""
        return self._function

    def __reduce__(self) -> Any:
        return RemoteFunction, (self._function, self._options)

    def __repr__(self) -> str:
        return f"<remote function {self._exports.name}>"


class _Exports:
    """The function as the current session has exported it; shared by all variants with other options."""

    living: ClassVar[WeakSet[_Exports]] = WeakSet()

    def __init__(self, function: Callable[..., Any]) -> None:
        self.living.add(self)
        self.function = function
        self.name = getattr(function, "__qualname__", None) or type(function).__name__
        self.runtime: Runtime | None = None
        self.export: FunctionExport = None  # type: ignore[assignment]  # set by renew, which remote() calls first
        try:
            self._signature: inspect.Signature | None = inspect.signature(function)
        except (TypeError, ValueError):  # builtins without a signature are checked when they run
            self._signature = None
        self._positional_min, self._positional_max = self._counts()
        self.needs_arguments = self._positional_min != 0

    def _counts(self) -> tuple[int, int]:
        """Between how many arguments, all positional, surely fit; (-1, -1) if only `bind` can tell."""
        if self._signature is None:
            return 0, 1 << 30
        least = most = 0
        for parameter in self._signature.parameters.values():
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                most += 1
                least += parameter.default is parameter.empty
            elif parameter.kind is parameter.VAR_POSITIONAL:
                most = 1 << 30
            elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                return -1, -1
        return least, most

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise TypeError unless the arguments fit."""
        if kwargs or not self._positional_min <= len(args) <= self._positional_max:
            self.bind(args, kwargs)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise TypeError, naming the function, unless the arguments fit."""
        if self._signature is None:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}(): {error}") from None

    def renew(self, runtime: Runtime) -> FunctionExport:
        """Export the function to the current session."""
        from shoal.serialization import dumps_code  # loads numpy, which nobody needs before the first session

        _follow_registrations()
        blob, refs = dumps_code(self.function)
        config = runtime.config
        if len(blob) > config.function_bytes_max:
            limit = bytes_text(config.function_bytes_max, beside=[len(blob)])
            raise ValueError(
                f"{self._too_large(blob, config.function_bytes_max)}; it may take {limit} at most"
            )
        if len(blob) > config.function_warning_bytes:
            runtime.report(self._too_large(blob))
        function_id = blake2b(blob, digest_size=_ID_SIZE).digest()
        exports = runtime.dispatch.exports
        with runtime.lock:
            export = exports.get(function_id)
            if export is None:
                held = [runtime.table.entry_of(ref) for ref in refs]
                for entry in held:
                    entry.count += 1
                    runtime.table.escape(entry)
                export = exports[function_id] = FunctionExport(function_id, blob, self.name, held)
        self.export = export
        self.runtime = runtime
        return export

    def _too_large(self, blob: bytes, *limit: int) -> str:
        """What to say of a function that captured much, beside the ``limit``."""
        from shoal.serialization import serialize

        sizes = {name: serialize(value).size for name, value in _captured(self.function).items()}
        largest = max(sizes, key=sizes.__getitem__, default=None)
        culprit = f", most of it {largest!r} ({bytes_text(sizes[largest])})" if largest is not None else ""
        size = bytes_text(len(blob), beside=limit)
        return (
            f"function {self.name} takes {size} with what it captured{culprit}, and is sent to every worker: "
            f"put large values with shoal.put(), and pass the refs as arguments"
        )


def _captured(function: Callable[..., Any]) -> dict[str, Any]:
    """The variables of the function that may be large, by name."""
    try:
        variables = inspect.getclosurevars(function)
    except (TypeError, ValueError):  # no function of Python
        return {}
    found = {**variables.globals, **variables.nonlocals}
    return {name: value for name, value in found.items() if not inspect.ismodule(value)}


@functools.cache
def _follow_registrations() -> None:
    """From now on, functions are exported again when a serializer was registered."""
    from shoal.serialization import custom

    custom.on_change(_export_again)


def _export_again() -> None:
    """A serializer was registered: functions that are sent from now on take it along."""
    for exports in _Exports.living:
        exports.runtime = None
