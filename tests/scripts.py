"""Drivers as users start them: scripts in processes of their own, which tell a test what they see."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

LIMIT_S = 60

# What each script begins with.
PRELUDE = """
import json, os, signal, sys, threading, time
import shoal

def tell(**facts):
    print(json.dumps(facts) + "\\n", end="", flush=True)  # one piece: what workers print comes in between
"""


class Script:
    """A driver in a process of its own, which prints a line of JSON for each fact that a test needs."""

    def __init__(self, folder: Path, source: str, **environment: str) -> None:
        self.path = folder / "script.py"
        self.path.write_text(textwrap.dedent(source))
        self._said = b""  # what is no fact, of the output that was read
        self._rest = (
            b""  # read, but not looked at yet: what a file object had read ahead `communicate` would not find
        )
        self.process = subprocess.Popen(
            [sys.executable, str(self.path), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        )

    def line(self):
        """The next fact; fails with the script's errors if it has ended."""
        while True:
            line, newline, rest = self._rest.partition(b"\n")
            if not newline:
                more = os.read(self.process.stdout.fileno(), 65536)
                if not more:
                    pytest.fail(f"the script ended: {self.process.communicate()[1].decode()}")
                self._rest += more
                continue
            self._rest = rest
            if line.startswith(b"{"):
                return json.loads(line)
            self._said += line + newline

    def finish(self, code=0):
        """Wait for its end; returns what else it printed, and its errors."""
        out, err = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == code, err.decode()
        return (self._said + self._rest + out).decode(), err.decode()
