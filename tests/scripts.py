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
        self._said = ""  # what is no fact, of the output that was read
        self.process = subprocess.Popen(
            [sys.executable, str(self.path), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        )

    def line(self):
        """The next fact; fails with the script's errors if it has ended."""
        while True:
            text = self.process.stdout.readline()
            if not text:
                pytest.fail(f"the script ended: {self.process.communicate()[1]}")
            if text.startswith("{"):
                return json.loads(text)
            self._said += text

    def finish(self, code=0):
        """Wait for its end; returns what else it printed, and its errors."""
        out, err = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == code, err
        return self._said + out, err
