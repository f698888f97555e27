"""Commands as users type them, and what they print."""

import json
import subprocess
import sys
import time
from typing import NamedTuple

from click.testing import CliRunner

from shoal.cli.app import app

PATIENCE_S = 60.0


class Result(NamedTuple):
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def error(self):
        """The one line of an error."""
        assert self.status == 1, (self.out, self.err)
        [line] = self.err.strip().splitlines()
        return line


def run(*arguments):
    """Run a command: in this process, which is quick, or if it starts daemons, as users do."""
    if arguments[0].startswith("start-"):
        command = [sys.executable, "-m", "shoal", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        return Result(done.returncode, done.stdout, done.stderr)
    done = CliRunner().invoke(app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Result(done.exit_code, done.stdout, done.stderr)


def until(condition):
    """Wait for a condition; returns its value."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return value
