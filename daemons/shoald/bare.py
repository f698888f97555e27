"""`shoal` without the users' API, for the processes of a daemon."""

import importlib.util
import sys


def skip_user_api() -> None:
    """Make `shoal` importable without running its `__init__`.

    That is the users' API, which loads much that a daemon has no use for: it needs only a few modules below it.
    """
    spec = importlib.util.find_spec("shoal")
    if spec is not None:
        sys.modules["shoal"] = importlib.util.module_from_spec(spec)
