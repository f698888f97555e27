"""The text of an exception for people on another machine: where it was raised, without the runtime's frames.

The frames of `shoal` and `shoald` that carry a task say nothing to its author, and are left out, also from
chained exceptions and from those in groups. Notes (PEP 678) of the exception itself are left out as well:
they travel with the error and are shown by whoever shows it. No text here is without a bound.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback

TEXT_CHARS_MAX = 2000  # of the one line that says what was raised
_PACKAGE_DIR = os.path.dirname(os.path.abspath(__file__)) + os.sep


def format_remote_traceback(error: BaseException, chars_max: int | None = None) -> str:
    """The traceback of ``error``, its causes and, for a group, its parts, as Python prints it.

    Of a text of more than ``chars_max`` characters (by default the configured `traceback_chars_max`) the
    middle is left out. Of an error that another task had raised only the frames of this one: the other's are
    in the error. Never raises, whatever the exception's ``__str__`` does.
    """
    from shoal.exceptions import TaskError

    summary = traceback.TracebackException.from_exception(error, compact=True)
    _drop_own_frames(summary, set())
    if isinstance(error, TaskError):
        text = "".join(summary.stack.format())
    else:
        summary.__notes__ = None
        text = "".join(summary.format())
    return shorten(text, traceback_chars_max() if chars_max is None else chars_max)


@functools.cache
def traceback_chars_max() -> int:
    """The configured bound of a remote traceback, in characters."""
    from shoal.config import load

    return load().traceback_chars_max


def describe(error: BaseException) -> str:
    """``ClassName: text`` of an exception; survives a ``__str__`` that raises."""
    from shoal.exceptions import ShoalError

    name = class_name(type(error))
    try:
        text = error.message if isinstance(error, ShoalError) else str(error)
    except Exception as problem:  # noqa: BLE001  the user's code; what it did is said instead
        text = f"<its text cannot be had: __str__ raised {type(problem).__name__}>"
    return shorten(f"{name}: {text}" if text else name, TEXT_CHARS_MAX)


def class_name(cls: type) -> str:
    """How people call a class: with its module, unless that is obvious."""
    module = cls.__module__
    return (
        cls.__qualname__
        if module in {"builtins", "__main__", "__mp_main__"}
        else f"{module}.{cls.__qualname__}"
    )


def shorten(text: str, chars_max: int) -> str:
    """``text``; of one longer than ``chars_max`` characters, how much of its middle was left out."""
    if len(text) <= chars_max:
        return text
    kept = chars_max // 2
    return f"{text[:kept]}\n… {len(text) - 2 * kept} characters left out …\n{text[-kept:]}"


def _own_directories() -> tuple[str, ...]:
    """Where the code of `shoal` and, in a worker, of `shoald` lies."""
    daemons = getattr(sys.modules.get("shoald"), "__path__", ())
    return (_PACKAGE_DIR, *(os.path.join(os.path.abspath(path), "") for path in daemons))


def _drop_own_frames(summary: traceback.TracebackException, seen: set[int]) -> None:
    """Leave the runtime's frames out, unless there are no others (then the runtime itself is at fault)."""
    own = _own_directories()
    waiting = [summary]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        kept = [frame for frame in current.stack if not frame.filename.startswith(own)]
        if kept:
            current.stack = traceback.StackSummary.from_list(kept)
        chained = [current.__cause__, current.__context__, *(current.exceptions or ())]
        waiting.extend(each for each in chained if each is not None)
