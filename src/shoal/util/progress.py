"""Progress bars: of refs that are waited for, and of what tasks, actors and scripts do. They show at the driver's terminal.

    progress(refs)                       # waits for refs, in lists and dicts too; a persisted collection of Dask

    for row in tqdm(rows, desc="rows"):  # in a task, in an actor, or in the script itself
        ...

    bar = tqdm(total=1000)               # one bar for many tasks: each adds to it
    shoal.get([work.remote(part, bar) for part in parts])

Bars of tasks say which task they are of, and go when they are closed or their worker ends; those of the script stay.
Where standard error is no terminal a line is printed now and then.

To count costs as much as an addition: a thread looks ten times a second at the bars of a driver, four times at those of a worker.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from shoal import session
from shoal.context import current_task
from shoal.owner.objects import FAILED
from shoal.refs import ObjectRef
from shoal.wire.barlines import CLOSED, NUMBER_MAX, OPEN, Report, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")
_REPORT_S = 0.25
_LAST_S = 0.6  # that long the last counts of workers may take
_IDLE_REPORTS = 4  # of no bar in a row, and the thread of a worker ends
_SHARED_MAX = 1000  # bars of other processes that this one has added to; beyond, the oldest would begin anew
_PROGRESS_S = 0.1


class tqdm(Generic[T]):  # noqa: N801  the name that everybody knows it by
    """A progress bar with the methods of `tqdm.tqdm` that are used most; shown by the driver wherever it is.

    A bar can be an argument of tasks: what they add counts at the one bar.

    Args:
        iterable: what is iterated over, if the bar is.
        total: how many there are; by default the length of ``iterable``.
        unit: what is counted.
        leave: stay on the screen when closed. By default bars of the script stay, those of tasks go.
        initial: where to begin.
        disable: show nothing.
        kwargs: other arguments of `tqdm.tqdm` have no meaning here.
    """

    def __init__(
        self,
        iterable: Iterable[T] | None = None,
        desc: str | None = None,
        total: float | None = None,
        leave: bool | None = None,
        *,
        unit: str = "it",
        initial: float = 0,
        disable: bool = False,
        **kwargs: Any,
    ) -> None:
        if total is None and iterable is not None:
            length = getattr(iterable, "__len__", None)
            total = length() if length is not None else None
        task = current_task.get()
        self.iterable = iterable
        name = os.urandom(8).hex()
        stays = leave if leave is not None else not _in_worker()
        self._state = _State(
            Report(
                name,
                name,
                initial,
                total,
                desc or "",
                unit,
                "",
                OPEN,
                stays,
                task.name if task else "",
                initial,
            )
        )
        self._token = self._state.user = object()
        self.disable = disable
        if not disable:
            _reporter.add(self._state, self)

    @property
    def n(self) -> float:
        """How many were counted here."""
        return self._state.n

    @n.setter
    def n(self, n: float) -> None:
        self._state.n = n

    @property
    def total(self) -> float | None:
        return self._state.report.total

    @total.setter
    def total(self, total: float | None) -> None:
        self._changed(total=total)

    @property
    def desc(self) -> str:
        return self._state.report.desc

    def update(self, n: float | None = 1) -> None:
        """Count ``n`` more."""
        if n:
            self._state.n += n

    def set_description(self, desc: str | None = None, refresh: bool = True) -> None:
        """Another text in front of the bar."""
        self._changed(desc=desc or "")

    set_description_str = set_description

    def set_postfix(
        self, ordered_dict: dict[str, Any] | None = None, refresh: bool = True, **kwargs: Any
    ) -> None:
        """Show names with values after the bar."""
        values = {**(ordered_dict or {}), **kwargs}
        shown = (
            f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in values.items()
        )
        self._changed(postfix=", ".join(shown))

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Show a text after the bar."""
        self._changed(postfix=str(s))

    def _changed(self, **fields: Any) -> None:
        self._state.report = self._state.report._replace(**fields)

    def reset(self, total: float | None = None) -> None:
        """Begin again."""
        self._state.n = 0
        if total is not None:
            self._changed(total=total)

    def refresh(self, *args: Any, **kwargs: Any) -> None:
        """Show what there is now."""
        if not self.disable:
            _reporter.send()

    def clear(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: bars make room for what is printed."""

    @classmethod
    def write(cls, s: str, file: Any = None, end: str = "\n") -> None:
        """Print above the bars, as `print` does too."""
        (file or sys.stdout).write(f"{s}{end}")

    def close(self) -> None:
        """It is done, or not needed any more. Idempotent.

        Of a bar that tasks have counted at too, the last counts may be on their way: it waits for these a little.
        """
        state = self._state
        if self.disable or state.report.state != OPEN:
            return
        if state.sent_away and not _in_worker():
            _wait_for_counts(state)
        self._changed(state=CLOSED)
        _reporter.send()

    def __iter__(self) -> Iterator[T]:
        if self.iterable is None:
            raise TypeError(
                "this tqdm has nothing to iterate over: it was made without an iterable; use update()"
            )
        state = self._state
        try:
            for item in self.iterable:
                yield item
                state.n += 1
        finally:
            self.close()

    def __len__(self) -> int:
        total = self.total
        if total is None:
            raise TypeError("this tqdm does not know its total")
        return int(total)

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> tqdm[T]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        # No lock and no output here: the thread sees it.
        state = getattr(self, "_state", None)
        if state is not None and state.user is self._token:
            state.left = True

    def __reduce__(self) -> Any:
        if not self.disable:
            self._state.sent_away = True
            if self._state.said is None:
                _reporter.send()  # so that the driver knows the bar before others count
        return _joined, (self._state.report, self.disable)


class _State:
    """What there is to say of a bar, also when the bar itself has gone.

    Attributes:
        n: what was counted in this process.
        said: what was reported last.
        user: the token of the bar object that counts; `left`: that has gone, and nobody can count any more.
        sent_away: other processes may count too.
        began: when it was made here, monotonic.
    """

    __slots__ = ("began", "left", "n", "report", "said", "sent_away", "user")

    def __init__(self, report: Report) -> None:
        self.report = report
        self.n = report.n
        self.began = time.monotonic()
        self.said: Report | None = None
        self.left = False
        self.sent_away = False
        self.user: object = None


class _Reporter:
    """Reports the bars of this process: in a driver when the screen asks, in a worker with a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._states: list[_State] = []
        self._bars: weakref.WeakValueDictionary[str, tqdm[Any]] = weakref.WeakValueDictionary()
        self._shared: dict[str, _State] = {}
        self._thread: threading.Thread | None = None

    def add(self, state: _State, bar: tqdm[Any]) -> None:
        """There is a bar more."""
        with self._lock:
            self._bars[state.report.bar] = bar
            if state not in self._states:
                self._states.append(state)
        self._begin()

    def join(self, report: Report) -> tqdm[Any]:
        """The one bar of this process that counts at a bar which was sent to it; what was counted here before is in it."""
        with self._lock:
            bar = self._bars.get(report.bar)
            if bar is not None:
                return bar
            bar = tqdm.__new__(tqdm)
            state = self._shared.pop(report.bar, None)
            if state is None:
                state = _State(report._replace(reporter=os.urandom(8).hex(), n=0))
            self._shared[report.bar] = state
            if len(self._shared) > _SHARED_MAX:
                del self._shared[next(iter(self._shared))]
            bar.iterable = None
            bar.disable = False
            bar._state = state
            bar._token = state.user = object()
            state.left = False
            self._bars[report.bar] = bar
        self.add(state, bar)
        return bar

    def _begin(self) -> None:
        """Have somebody look at the bars. Without the lock: the screen asks for reports (`collect`) with its own."""
        if not _in_worker():
            from shoal.client.screen import screen

            screen.begin(self.collect)
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shoal-progress", daemon=True)
                self._thread.start()

    def collect(self) -> list[Report]:
        """What has changed since the last time."""
        with self._lock:
            reports = []
            for state in list(self._states):
                report = state.report
                own = report.bar == report.reporter
                if state.left and own:
                    report = report._replace(state=CLOSED)
                report = _plain(report._replace(n=state.n))
                if report != state.said:
                    state.said = report
                    reports.append(report._replace(age_s=round(time.monotonic() - state.began, 6)))
                if state.left or report.state == CLOSED:
                    self._states.remove(state)
            return reports

    def send(self) -> None:
        """Report now."""
        if not _in_worker():
            from shoal.client.screen import screen

            screen.draw()
            return
        with self._lock:
            lines = "".join(f"{encode(report)}\n" for report in self.collect())
            out: Any = sys.__stdout__  # the task may have put another one at sys.stdout
            if lines and out is not None:
                out.buffer.write(lines.encode())
                out.buffer.flush()

    def _run(self) -> None:
        idle = 0
        while idle < _IDLE_REPORTS:
            time.sleep(_REPORT_S)
            self.send()
            idle = 0 if self._states else idle + 1
            with self._lock:
                if idle >= _IDLE_REPORTS and not self._states:
                    self._thread = None
                    return

    def after_fork(self) -> None:
        """In a forked child: its parent reports."""
        self.__init__()  # type: ignore[misc]  # with a new lock, and no thread


def _plain(report: Report) -> Report:
    """With numbers and texts that can be sent: people count with numpy, and with torch, and describe with anything."""
    total = None if report.total is None else _number(report.total)
    return report._replace(
        n=_number(report.n),
        total=total,
        initial=_number(report.initial),
        desc=str(report.desc),
        unit=str(report.unit),
    )


def _number(value: Any) -> float:
    if type(value) is not int and type(value) is not float:
        value = float(value)
        if value.is_integer():
            value = int(value)
    return value if abs(value) <= NUMBER_MAX else NUMBER_MAX  # also what is no number


def _in_worker() -> bool:
    runtime = session.current()
    return runtime is not None and runtime.kind == "worker"


def _joined(report: Report, disable: bool) -> tqdm[Any]:
    """A bar that was sent to this process."""
    return tqdm(disable=True) if disable else _reporter.join(report)


def _wait_for_counts(state: _State) -> None:
    from shoal.client.screen import screen

    end = time.monotonic() + _LAST_S
    total = state.report.total or 0
    while screen.count(state.report.bar) < total and time.monotonic() < end:
        time.sleep(0.01)
        screen.draw()


_reporter = _Reporter()
os.register_at_fork(after_in_child=_reporter.after_fork)


def trange(*args: int, **kwargs: Any) -> tqdm[int]:
    """``tqdm(range(*args))``."""
    return tqdm(range(*args), **kwargs)


def progress(refs: T, desc: str = "", *, unit: str = "task", leave: bool | None = None) -> T:
    """Wait until all ``refs`` are ready, with a bar: how many are, how many of these have failed, how fast, how long yet.

    Args:
        refs: a ref; lists, tuples, sets and dicts of refs, nested; a collection of Dask that was persisted.
        desc, unit, leave: as of `tqdm`.

    Returns ``refs``, so that it can be written around them: ``shoal.get(progress(refs))``. A failed task raises nothing here.
    Large results stay where they are.
    """
    from shoal.api import wait

    left = list({ref.id: ref for ref in _refs_in(refs)}.values())
    failed = 0
    if not left:
        return refs
    runtime = session.runtime()
    warn_at: float | None = time.monotonic() + runtime.config.get_warning_s
    with tqdm[Any](total=len(left), desc=desc, unit=unit, leave=leave) as bar:
        pause = _PROGRESS_S
        while left:
            began = time.monotonic()
            ready, left = wait(left, num_returns=len(left), timeout=pause, fetch_local=False)
            bar.update(len(ready))
            failed += sum(ref._entry is not None and ref._entry.state == FAILED for ref in ready)
            if failed:
                bar.set_postfix_str(f"{failed} failed")
            if bar.n:
                warn_at = None
            elif warn_at is not None and time.monotonic() >= warn_at:
                warn_at = None
                runtime.explain.say(left)
            # Of a great many refs, to look at all takes longer than the wait.
            pause = max(_PROGRESS_S, 10 * (time.monotonic() - began - pause))
    return refs


def _refs_in(value: Any) -> Iterator[ObjectRef[Any]]:
    if isinstance(value, ObjectRef):
        yield value
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _refs_in(item)
    elif isinstance(value, dict):
        yield from _refs_in(list(value.values()))
    elif hasattr(value, "__dask_graph__"):
        yield from (node for node in dict(value.__dask_graph__()).values() if isinstance(node, ObjectRef))
    else:
        raise TypeError(f"progress needs ObjectRefs, or lists and dicts of them, not {type(value).__name__}")
