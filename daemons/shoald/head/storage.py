"""What a head that can be started again must not forget, in SQLite (WAL): cluster id, nodes and fences, jobs, named and detached
actors, actors that were killed, placement groups, durable keys. (Where nothing outlives the head: `ephemeral`.)

One connection, used from the head's thread only. `synchronous=NORMAL` under WAL survives a crash of the
process at any point, and of the machine up to the last transactions, without an fsync per write (1 ms and
more each here).  A file of another schema version is refused, never converted silently.

The lock that SQLite takes in exclusive mode also keeps a second head away from the same directory.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import asdict

import msgpack

from shoal.config import Config
from shoald.head import events as ev
from shoald.head.actors import Actor, ForgetActor, ForgetKill, SaveActor, SaveKill
from shoald.head.core import Durable
from shoald.head.ephemeral import check_key, check_number_of_keys
from shoald.head.groupwords import ForgetGroup, Group, GroupState, SaveGroup

SCHEMA_VERSION = 4
_NONE = ev.Gauges()
FILE_NAME = "head.sqlite"
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE nodes (
    serial INTEGER PRIMARY KEY, node_id TEXT NOT NULL, incarnation TEXT NOT NULL, state TEXT NOT NULL,
    reason TEXT NOT NULL, draining INTEGER NOT NULL, info TEXT NOT NULL, UNIQUE (node_id, incarnation)
);
CREATE TABLE jobs (job_id TEXT PRIMARY KEY, serial INTEGER, job TEXT NOT NULL);
CREATE TABLE actors (actor_id BLOB PRIMARY KEY, actor BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE kills (serial INTEGER PRIMARY KEY, actor_id BLOB NOT NULL UNIQUE, actor BLOB NOT NULL);
CREATE TABLE groups (group_id BLOB PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE keys (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""
_SAVE_NODE = """
INSERT INTO nodes (node_id, incarnation, state, reason, draining, info) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    state = excluded.state, reason = excluded.reason, draining = excluded.draining, info = excluded.info
"""
_SAVE_JOB = """
INSERT INTO jobs VALUES (?, (SELECT coalesce(max(serial), 0) + 1 FROM jobs), ?)
ON CONFLICT DO UPDATE SET job = excluded.job
"""


class StorageError(Exception):
    """The head's file cannot be used; the message says why and what to do."""


class HeadStorage:
    """The file `head.sqlite` in ``directory``.

    Raises StorageError when another head has it open, it is damaged, or of another version.
    """

    def __init__(self, directory: str, config: Config, new_cluster_id: Callable[[], str]) -> None:
        self._config = config
        self.path = os.path.join(directory, FILE_NAME)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        try:
            self._db = self._open()
            self.cluster_id = self._prepare(new_cluster_id)
        except sqlite3.OperationalError as error:
            raise StorageError(f"{self.path}: {error}; does another head use this directory?") from error
        except sqlite3.DatabaseError as error:
            raise StorageError(f"{self.path} is damaged ({error}); move it away to start anew") from error

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(self.path, timeout=0.2, isolation_level=None)
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        return db

    def _prepare(self, new_cluster_id: Callable[[], str]) -> str:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._db.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";")[:-1]:
                self._db.execute(statement)
            self._db.execute("INSERT INTO facts VALUES ('cluster_id', ?)", (new_cluster_id(),))
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._db.execute("COMMIT")
        elif version != SCHEMA_VERSION:
            self._db.close()
            raise StorageError(f"{self.path} has schema {version}, this shoal {SCHEMA_VERSION}; move it away")
        row = self._db.execute("SELECT value FROM facts WHERE name = 'cluster_id'").fetchone()
        return str(row[0])

    def load(self) -> Durable:
        """Nodes in the order in which they were saved first (so fences keep their age), and jobs."""
        rows = self._db.execute(
            "SELECT node_id, incarnation, state, reason, draining, info FROM nodes ORDER BY serial"
        )
        nodes = tuple(
            ev.NodeView(
                node_id, incarnation, ev.NodeInfo(**json.loads(info)), state, reason, bool(draining), 0, _NONE
            )
            for node_id, incarnation, state, reason, draining, info in rows
        )
        jobs = self._db.execute("SELECT job FROM jobs ORDER BY serial")
        actors = self._db.execute("SELECT actor FROM actors")
        groups = self._db.execute("SELECT state FROM groups")
        kills = self._db.execute("SELECT actor FROM kills ORDER BY serial")
        return Durable(
            nodes,
            tuple(ev.Job(**json.loads(text)) for (text,) in jobs),
            tuple(Actor(**msgpack.unpackb(packed)) for (packed,) in actors),
            tuple(_unpack_group(packed) for (packed,) in groups),
            tuple(Actor(**msgpack.unpackb(packed)) for (packed,) in kills),
        )

    def save(self, effects: list[ev.Effect]) -> None:
        """Make the durable ones among ``effects`` durable, in one transaction; others are passed over.

        Raises sqlite3.Error, with nothing changed.
        """
        statements = [statement for effect in effects if (statement := _statement(effect)) is not None]
        if not statements:
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for sql, values in statements:
                self._db.execute(sql, values)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def put_key(self, key: str, value: bytes, *, only_new: bool) -> bool:
        """Store a value; False if ``only_new`` and the key exists. Raises ValueError at a bound."""
        check_key(key, value, self._config)
        if self.get_key(key) is not None:
            if only_new:
                return False
        else:
            check_number_of_keys(self._db.execute("SELECT count(*) FROM keys").fetchone()[0], self._config)
        self._db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?)", (key, value))
        return True

    def get_key(self, key: str) -> bytes | None:
        row = self._db.execute("SELECT value FROM keys WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def delete_key(self, key: str) -> bool:
        """Whether there was such a key."""
        return self._db.execute("DELETE FROM keys WHERE key = ?", (key,)).rowcount > 0

    def close(self) -> None:
        self._db.close()


def _statement(effect: ev.Effect) -> tuple[str, tuple[object, ...]] | None:
    if isinstance(effect, ev.SaveNode):
        node = effect.node
        info = json.dumps(_plain(node.info))
        return _SAVE_NODE, (node.node_id, node.incarnation, node.state, node.reason, node.draining, info)
    if isinstance(effect, ev.ForgetNode):
        return "DELETE FROM nodes WHERE node_id = ? AND incarnation = ?", (effect.node_id, effect.incarnation)
    if isinstance(effect, ev.SaveJob):
        job = effect.job
        return _SAVE_JOB, (job.job_id, json.dumps(asdict(job)))
    if isinstance(effect, ev.ForgetJob):
        return "DELETE FROM jobs WHERE job_id = ?", (effect.job_id,)
    if isinstance(effect, SaveActor):
        return "INSERT OR REPLACE INTO actors VALUES (?, ?)", (
            effect.actor.actor_id,
            _pack_actor(effect.actor),
        )
    if isinstance(effect, ForgetActor):
        return "DELETE FROM actors WHERE actor_id = ?", (effect.actor_id,)
    if isinstance(effect, SaveKill):
        actor = effect.actor
        return "INSERT INTO kills (actor_id, actor) VALUES (?, ?)", (actor.actor_id, _pack_actor(actor))
    if isinstance(effect, ForgetKill):
        return "DELETE FROM kills WHERE actor_id = ?", (effect.actor_id,)
    if isinstance(effect, SaveGroup):
        return "INSERT OR REPLACE INTO groups VALUES (?, ?)", (
            effect.state.group.group_id,
            _pack_group(effect.state),
        )
    if isinstance(effect, ForgetGroup):
        return "DELETE FROM groups WHERE group_id = ?", (effect.group_id,)
    return None


def _pack_actor(actor: Actor) -> bytes:
    packed: bytes = msgpack.packb({**asdict(actor), "placement": dict(actor.placement)})
    return packed


def _pack_group(state: GroupState) -> bytes:
    bundles = [dict(amounts) for amounts in state.group.bundles]
    selectors = [dict(selector) for selector in state.group.selectors]
    group = {**asdict(state.group), "bundles": bundles, "selectors": selectors}
    packed: bytes = msgpack.packb({**asdict(state), "group": group})
    return packed


def _unpack_group(packed: bytes) -> GroupState:
    fields = msgpack.unpackb(packed)
    group = fields.pop("group")
    group["bundles"] = tuple(group["bundles"])
    group["selectors"] = tuple(group.get("selectors", ()))
    return GroupState(Group(**group), **{**fields, "nodes": tuple(fields["nodes"])})


def _plain(info: ev.NodeInfo) -> dict[str, object]:
    plain = asdict(info)
    return {**plain, "resources": dict(info.resources), "labels": dict(info.labels)}
