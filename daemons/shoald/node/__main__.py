"""`python -m shoald.node`: a node daemon. The fork server is forked before anything else is loaded; see
`lifecycle`.
"""

import gc
import importlib.util
import sys

from shoald.worker import forkserver


def skip_user_api() -> None:
    """Make `shoal` importable without running its `__init__`.

    That is the users' API, which loads much that a daemon has no use for: it needs only a few modules below it.
    """
    spec = importlib.util.find_spec("shoal")
    if spec is not None:
        sys.modules["shoal"] = importlib.util.module_from_spec(spec)


if __name__ == "__main__":
    fork_server = forkserver.start()
    skip_user_api()

    from shoal.config import GC_THRESHOLD

    gc.set_threshold(*GC_THRESHOLD)  # before the imports

    from shoald.node.lifecycle import main

    main(sys.argv[1:], fork_server)
