"""The end of a worker whose own code has failed on a thread that nobody waits for.

The main thread of a worker ends the process when that happens there. Elsewhere it would only be one thread less, or a callback
of the event loop: replies would be missing, and whoever waits for them would wait for ever. So the process ends there too, and
the daemon tells whoever it matters to; its log has the reason.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from shoald.worker import output


def end_process() -> NoReturn:
    """Print the exception that is being handled, and end this process with code 1."""
    sys.excepthook(*sys.exc_info())
    output.flush()
    os._exit(1)
