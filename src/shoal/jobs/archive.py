"""Records of jobs on disk, in SQLite, so that they outlive who keeps them: the registry, and with `--data-dir` the head's node.

One transaction for each change, before anybody is told of it. A supervisor notes how its script ended in a file of its own
beside the log (`note_end`), since it may end while there is no registry.
"""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from shoal.jobs.records import JobDetails, JobStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA_VERSION = 1
_FILE = "jobs.sqlite"
_SCHEMA = "CREATE TABLE jobs (serial INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, job TEXT NOT NULL, stopping INTEGER NOT NULL)"
_SAVE = """
INSERT INTO jobs (id, job, stopping) VALUES (?, ?, ?)
ON CONFLICT (id) DO UPDATE SET job = excluded.job, stopping = excluded.stopping
"""
_BUSY_S = 10.0  # for another registry to end, which was killed
_END = ".end"


class Saved(NamedTuple):
    """A job as it was left; `stopping`: somebody had asked for its end."""

    job: JobDetails
    stopping: bool


class ScriptEnd(NamedTuple):
    """How and when a script ended."""

    exit_code: int
    time_ms: int


class Archive:
    """The records in ``folder``. Raises OSError, or sqlite3.Error for a file that cannot be used, which says which."""

    def __init__(self, folder: str) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, _FILE)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._db.execute(_SCHEMA)
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise type(error)(f"{path}: {error}; move it away to forget all jobs") from error
        if version not in (0, SCHEMA_VERSION):
            text = (
                f"{path} has schema {version}, this shoal {SCHEMA_VERSION}; move it away to forget all jobs"
            )
            raise sqlite3.DatabaseError(text)

    def load(self) -> list[Saved]:
        """All jobs, in the order in which they were submitted."""
        rows = self._db.execute("SELECT job, stopping FROM jobs ORDER BY serial")
        return [Saved(_details(text), bool(stopping)) for text, stopping in rows]

    def save(self, job: JobDetails, stopping: bool) -> None:
        """As ``job`` is now."""
        self._db.execute(_SAVE, (job.submission_id, json.dumps(asdict(job)), stopping))

    def forget(self, jobs: Iterable[JobDetails]) -> None:
        """These, with what is beside their logs."""
        self._db.executemany("DELETE FROM jobs WHERE id = ?", [(job.submission_id,) for job in jobs])

    def close(self) -> None:
        self._db.close()


def _details(text: str) -> JobDetails:
    fields = json.loads(text)
    return JobDetails(**{**fields, "status": JobStatus(fields["status"])})


def note_end(log_path: str, end: ScriptEnd) -> None:
    """The script that wrote this log has ended; all of that is there, or nothing."""
    path = log_path + _END
    with open(f"{path}.new", "w", encoding="ascii") as file:
        json.dump(end, file)
    os.replace(f"{path}.new", path)


def noted_end(log_path: str) -> ScriptEnd | None:
    """What `note_end` noted; None if nothing, or if a crash of the machine has cut that off."""
    try:
        with open(log_path + _END, encoding="ascii") as file:
            return ScriptEnd(*json.load(file))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def remove_files(log_path: str) -> None:
    """A job's log, and how it ended."""
    for path in (log_path, log_path + _END):
        if os.path.exists(path):
            os.unlink(path)
