"""`@shoal.remote` on classes: what `.remote()` and `.options()` of an actor class do."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from shoal import session
from shoal.actors.method import (
    ClassTable,
    MethodSpec,
    check_group,
    describe_methods,
    is_async_class,
    options_of,
)
from shoal.options import ActorOptions

if TYPE_CHECKING:
    from shoal.actors.handle import ActorHandle
    from shoal.client.runtime import Runtime
    from shoal.refs import ObjectRef

C = TypeVar("C")
ASYNC_CONCURRENCY = 1000  # of an actor with async methods, unless it says otherwise


class ActorClass(Generic[C]):
    """A class whose instances are actors.

    Made by `@shoal.remote`. `A.remote(*args, **kwargs)` makes an actor, and returns its handle at once;
    `A.options(...)` gives the same class with other options.
    """

    def __init__(self, cls: type[C], options: ActorOptions, shared: ClassExport | None = None) -> None:
        if not isinstance(cls, type):
            raise TypeError(
                "an actor class cannot be a base class: inherit from the plain class, and make the subclass remote"
            )
        self._cls = cls
        self._options = options
        self._export = shared or ClassExport(cls)
        self._tables: dict[tuple[Any, ...], ClassTable] = {}
        self.__name__ = cls.__name__
        self.__qualname__ = cls.__qualname__
        self.__module__ = cls.__module__
        self.__doc__ = cls.__doc__
        if options.concurrency_groups:  # without, they may be given by `options` later
            self._check_groups()

    def __new__(cls, *args: Any, **_: Any) -> ActorClass[C]:
        if args and isinstance(args[0], str):  # class Sub(ThisActorClass): …
            raise TypeError(
                f"{args[0]} cannot inherit from an actor class: inherit from the plain class, and make the subclass remote"
            )
        return super().__new__(cls)

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Make an actor, which runs the constructor with these arguments in a process of its own; its handle at once.

        What the constructor raises reaches every caller. Raises TypeError at once if the arguments do not fit it; ValueError if
        there is an actor of that name already (and not `get_if_exists`).
        """
        self._export.constructor.check(f"{self.__name__}", args, kwargs)
        runtime = session.current() or session.runtime()
        return runtime.actors.create(self, args, kwargs)

    def options(self, **overrides: Any) -> ActorClass[C]:
        """The same class with some options changed; raises ValueError or TypeError for a bad one."""
        return ActorClass(self._cls, self._options.merged(**overrides), self._export)

    def __call__(self, *args: Any, **kwargs: Any) -> C:
        name = self.__name__
        raise TypeError(
            f"actor class {name} cannot be instantiated directly: use {name}.remote(...) to make an actor, "
            f"or {name}.underlying(...) to make an object here"
        )

    @property
    def underlying(self) -> type[C]:
        """The plain class."""
        return self._cls

    def __reduce__(self) -> Any:
        return ActorClass, (self._cls, self._options)

    def __repr__(self) -> str:
        return f"<actor class {self.__qualname__}>"

    def _check_groups(self) -> None:
        """Raise ValueError unless the class has the concurrency groups of its methods."""
        groups = tuple(self._options.concurrency_groups)
        for name, spec in self._export.methods.items():
            group = spec.options.get("concurrency_group")
            if group is not None:
                check_group(f"{self.__name__}.{name}", group, groups)

    # --- for the runtime ---

    def table(self) -> ClassTable:
        """What handles carry."""
        export, options = self._export, self._options
        key = (options.max_concurrency, options.max_pending_calls, options.max_task_retries)
        table = self._tables.get(key)
        if table is None:
            self._check_groups()
            ordered = (
                not export.is_async and not options.concurrency_groups and (options.max_concurrency or 1) == 1
            )
            table = self._tables[key] = ClassTable(
                self.__name__,
                export.methods,
                ordered,
                options.max_pending_calls,
                options.max_task_retries,
                tuple(options.concurrency_groups),
            )
        return table

    def concurrency(self) -> int:
        """Calls at once, outside of concurrency groups."""
        default = ASYNC_CONCURRENCY if self._export.is_async else 1
        return self._options.max_concurrency or default


class ClassExport:
    """A class as the current session has exported it; shared by all variants with other options."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.methods = describe_methods(cls)
        self.is_async = is_async_class(cls)
        self.constructor = self._constructor()
        self._runtime: Runtime | None = None
        self._blob = b""
        self._refs: list[ObjectRef[Any]] = []

    def _constructor(self) -> MethodSpec:
        found = self.methods.get("__init__")
        if found is not None:
            return found
        inherited = any("__init__" in vars(base) or "__new__" in vars(base) for base in self.cls.__mro__[:-1])
        return MethodSpec("__init__", None, (0, 1 << 30)) if inherited else MethodSpec("__init__", (), (0, 0))

    def code(self, runtime: Runtime) -> tuple[bytes, list[ObjectRef[Any]]]:
        """The pickled class, and the refs that it captured."""
        if self._runtime is not runtime:
            # Not before: it loads numpy, which nobody needs until there is a session.
            from shoal.serialization import dumps_code

            self._blob, refs = dumps_code(self.cls)
            self._refs = list(refs)
            self._runtime = runtime
        return self._blob, self._refs


def group_of_methods(cls: type) -> dict[str, str]:
    """Method name → the concurrency group that `@method` put it in."""
    found = {}
    for name, value in inspect.getmembers(cls):
        group = options_of(value).get("concurrency_group")
        if group is not None:
            found[name] = group
    return found
