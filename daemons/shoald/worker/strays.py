"""Children that user code has forked, and that come back from the call which did it: they end there.

Such a child has a copy of one thread of the worker, with none of the others. It would wait for ever for a call that
nobody gives it or, on an event loop, take the wake-ups of the loop in its parent, since both share their descriptors.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from shoald.worker import output


def end() -> NoReturn:
    """End this process, as a call asks for that ends with SystemExit; else say why, with exit code 1."""
    error = sys.exc_info()[1]
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    else:
        code = 1
        print(
            f"[shoal] process {os.getpid()} was forked by an actor's method and came back from it; it ends here. "
            "Let a child end by itself (os._exit), or use multiprocessing",
            file=sys.__stderr__,
        )
    output.flush()
    os._exit(code)
