"""Views that are still read when their session ends: what they lie over stays as it is while one of them lives.

A driver leaves a cluster that goes on, and has arrays of it: `with shoal.init("auto"): part = shoal.get(ref)`. With its goodbye
its pins would go, and others would write there. So before that it gives back what it has no view of, and is to the daemon what
a forked child is (see `forks`): the rest stays until a pipe closes, of which it keeps the write end until the last of the views
dies, or the process ends.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shoal.client.forks import has_views, keep_what_is_read
from shoal.owner.nodestream import MESSAGE_IDS_MAX
from shoal.store.filecopies import mapped_files
from shoal.wakeup import bells
from shoal.wire import messages as m

if TYPE_CHECKING:
    from shoal.client.runtime import Runtime


def keep_views(runtime: Runtime) -> KeptViews | None:
    """Before the goodbye (lock held). None if there are no views; or no pipe is to be had, which is said."""
    store = runtime.store
    store.give_back()
    unread = store.pins.unread()
    for start in range(0, len(unread), MESSAGE_IDS_MAX):
        runtime.table.to_node([m.UNPIN, b"".join(unread[start : start + MESSAGE_IDS_MAX])])
    if not has_views(runtime):
        return None
    try:
        return KeptViews(runtime, keep_what_is_read(runtime))
    except OSError as error:
        runtime.report(
            f"no pipe to keep what this process still has views of ({error.strerror}): they must not be read any more; "
            "allow more open files (ulimit -n)"
        )
        return None


class KeptViews:
    """Looks whether a view lives, whenever one has died: in `__del__`, so it takes no lock, and needs no module that may be gone.

    Args:
        write_end: of the pipe, which it closes.
    """

    def __init__(self, runtime: Runtime, write_end: int) -> None:
        self._pins = runtime.store.pins
        # Views of the region that have died, and are still counted there.
        self._closed = runtime.store.closed_views
        self._files = mapped_files
        self._bells = bells
        self._write_end = [write_end]
        self._close = os.close
        self._look()

    def _look(self) -> None:
        if self._write_end:
            self._bells.insert(0, self._look)
            if len(self._closed) >= self._pins.views() and not self._files:
                self.end()

    def end(self) -> None:
        """Nothing needs to be kept: no view lives, or the daemon has ended."""
        try:
            self._close(self._write_end.pop())
            self._bells.remove(self._look)
        except (IndexError, ValueError):
            pass  # another thread is at it
