"""Where the threads of this process are, for `shoal stack`.

Whoever reads the daemon's question answers it: a thread in `get`, or while user code runs the backup thread, as long as the
interpreter lets it (C code that keeps the lock of the interpreter silences the process). Nothing is read from disk: a frame is a
file, a line and a function.
"""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

_THREADS_MAX = 200
_FRAMES_MAX = 100  # of one thread, the innermost
_OWN_PACKAGES = ("shoal", "shoald")


def stack_rows() -> list[dict[str, Any]]:
    """A row for each thread, the main thread first: {"thread", "ident", "main", "answers", "frames", "own", "cut"}.

    Frames, [file, line, function] each, come as in a traceback, the innermost last; "own": of each, whether it is shoal's own
    code, whatever directory that is in; "cut": how many outer ones are left out. The
    thread that "answers" is shown as it was before it did.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main, own = threading.main_thread().ident, threading.get_ident()
    rows = []
    for ident, frame in sys._current_frames().items():
        frames, own_code = _frames(_before_answer(frame) if ident == own else frame)
        rows.append(
            {
                "thread": _text(names.get(ident, "not Python's")),
                "ident": ident,
                "main": ident == main,
                "answers": ident == own,
                "frames": frames[-_FRAMES_MAX:],
                "own": own_code[-_FRAMES_MAX:],
                "cut": max(0, len(frames) - _FRAMES_MAX),
            }
        )
    return sorted(rows, key=lambda row: not row["main"])[:_THREADS_MAX]


def _before_answer(frame: FrameType) -> FrameType:
    """The frame that called for this answer, or that of the loop that reads."""
    inner: FrameType | None = frame
    while inner is not None and inner.f_globals.get("__name__") in (__name__, "shoal.client.explain"):
        inner = inner.f_back
    return inner or frame


def _frames(frame: FrameType) -> tuple[list[list[Any]], list[bool]]:
    found, own = [], []
    inner: FrameType | None = frame
    while inner is not None:
        code = inner.f_code
        found.append([_text(code.co_filename), inner.f_lineno or 0, _text(code.co_qualname)])
        variables = inner.f_globals
        # The name of what `python -m` runs is "__main__".
        where = variables.get("__package__") or variables.get("__name__")
        own.append(str(where).partition(".")[0] in _OWN_PACKAGES)
        inner = inner.f_back
    return found[::-1], own[::-1]


def _text(text: str) -> str:
    """As something that every file of messages takes: names of files may be no valid text."""
    return text.encode("utf-8", "backslashreplace").decode()
