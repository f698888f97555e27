"""Becomes a job's shell; run as a script, by its supervisor: launch.py SUPERVISOR_PID ENTRYPOINT.

The shell ends with its supervisor, also if that is killed (on Linux; elsewhere it is left to whoever reads the job's status).
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    supervisor, entrypoint = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:
            sys.exit("the job's supervisor has ended")
    os.execv("/bin/sh", ["sh", "-c", entrypoint])  # noqa: S606  (a job is a command for the shell)


if __name__ == "__main__":
    main()
