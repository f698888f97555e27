"""ActorHandle: what callers hold of an actor. It counts like a ref, since it holds one: that of the actor's lifetime object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal import session
from shoal.actors.method import BUILT_IN, check_group, check_method_options
from shoal.options import TaskOptions
from shoal.owner.tasks import FunctionExport

if TYPE_CHECKING:
    from shoal.actors.calls import ActorCalls
    from shoal.actors.method import ClassTable, MethodSpec
    from shoal.client.runtime import Runtime
    from shoal.refs import ObjectRef

_GROUP = b"\0"  # between a method's name and the concurrency group that a call asks for


class ActorHandle:
    """A reference to an actor: `handle.method.remote(...)` queues a call of its method.

    Picklable only inside values that go through shoal, like the ref that it holds. The actor ends when its last handle goes.
    """

    __slots__ = ("_calls", "_ref", "_runtime", "_table", "__weakref__")

    _calls: ActorCalls | None
    _runtime: Runtime | None

    def __init__(self, ref: ObjectRef[Any], table: ClassTable) -> None:
        self._ref = ref
        self._table = table
        self._calls = None
        self._runtime = None

    def __getattr__(self, name: str) -> ActorMethod:
        spec = self._table.methods.get(name)
        if spec is None:
            known = ", ".join(each for each in self._table.methods if each not in (*BUILT_IN, "__init__"))
            raise AttributeError(f"actor {self._table.name} has no method {name!r}; it has {known}")
        return ActorMethod(self, spec, calls_like(self._table, spec))

    def __dir__(self) -> list[str]:
        return [*self._table.methods, "_actor_id"]

    @property
    def _actor_id(self) -> bytes:
        return self._ref.id

    def __hash__(self) -> int:
        return hash(self._ref.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._ref.id == self._ref.id

    def __repr__(self) -> str:
        return f"Actor({self._table.name}, {self._ref.id.hex()})"

    def __reduce__(self) -> Any:
        return ActorHandle, (self._ref, self._table)


class CallForm:
    """What all calls of a method with the same options share."""

    __slots__ = ("function", "options")

    def __init__(self, function: FunctionExport, options: TaskOptions) -> None:
        self.function = function
        self.options = options


_forms: dict[int, tuple[ClassTable, dict[str, CallForm]]] = {}
_FORMS_MAX = 4096


def calls_like(table: ClassTable, spec: MethodSpec) -> CallForm:
    """The form of calls of ``spec`` without `.options`; made once per class table."""
    known = _forms.get(id(table))
    if known is None or known[0] is not table:
        if len(_forms) >= _FORMS_MAX:
            _forms.clear()
        known = _forms[id(table)] = (table, {})
    form = known[1].get(spec.name)
    if form is None:
        form = known[1][spec.name] = make_form(table, spec, {})
    return form


def make_form(table: ClassTable, spec: MethodSpec, overrides: dict[str, Any]) -> CallForm:
    """A form with options of one call over those of the method."""
    given = {**spec.options, **overrides}
    options: dict[str, Any] = {
        "num_returns": given.get("num_returns", 1),
        "max_retries": given.get("max_task_retries", table.max_task_retries),
        "retry_exceptions": given.get("retry_exceptions", False),
        "generator_backpressure_num_objects": given.get("generator_backpressure_num_objects"),
    }
    if given.get("name"):
        options["name"] = given["name"]
    wire_name = spec.name.encode()
    if "concurrency_group" in overrides:
        check_group(f"{table.name}.{spec.name}", overrides["concurrency_group"], table.groups)
        wire_name += _GROUP + str(overrides["concurrency_group"]).encode()
    label = f"{table.name}.{spec.name}"
    return CallForm(FunctionExport(wire_name, b"", label, []), TaskOptions().merged(**options))


class ActorMethod:
    """One method of one actor; holds its handle."""

    __slots__ = ("_form", "_handle", "_spec")

    def __init__(self, handle: ActorHandle, spec: MethodSpec, form: CallForm) -> None:
        self._handle = handle
        self._spec = spec
        self._form = form

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Queue a call; its ref at once (or what `num_returns` says).

        Raises TypeError if the arguments do not fit the method, PendingCallsLimitExceeded if `max_pending_calls` wait already.
        """
        form, spec = self._form, self._spec
        least, most = spec.positional
        if kwargs or not least <= len(args) <= most:
            spec.check(form.function.name, args, kwargs)
        runtime = session.current() or session.runtime()
        return runtime.actors.call(self._handle, form, args, kwargs)

    def options(self, **overrides: Any) -> ActorMethod:
        """The same method with other options (num_returns, concurrency_group, name, …) for the next calls."""
        return ActorMethod(
            self._handle,
            self._spec,
            make_form(self._handle._table, self._spec, check_method_options(overrides)),
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self._form.function.name
        raise TypeError(f"{name}() cannot be called directly: use handle.{self._spec.name}.remote(...)")

    def __repr__(self) -> str:
        return f"<method {self._form.function.name} of {self._handle!r}>"
