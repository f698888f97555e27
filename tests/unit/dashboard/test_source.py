"""How often the daemon is asked, and what becomes of one that does not answer."""

import asyncio

import pytest

from shoal.config import load
from shoal.control import ControlError
from shoald.dashboard.source import Source


class Daemon:
    """Answers as one without nodes; counts its connections, and questions by method."""

    def __init__(self):
        self.connections = 0
        self.closed = 0
        self.asked = []
        self.breaks = False

    def connect(self):
        self.connections += 1
        return self

    def request(self, method, _params):
        self.asked.append(method)
        if self.breaks:
            raise ControlError("it hangs")
        head = {"address": "", "trouble": ""}
        return {
            "rows": [],
            "silent": [],
            "head": head,
            "nodes": [],
            "pending": [],
            "groups": [],
            "node_id": "n",
        }

    def close(self):
        self.closed += 1


def test_many_who_look_at_once_are_one_question():
    daemon = Daemon()

    async def look():
        source = Source(daemon.connect, load({"dashboard_refresh_ms": 1e6}))
        return await asyncio.gather(*(source.state() for _ in range(20)), source.metrics(), source.metrics())

    answers = asyncio.run(look())
    assert len(set(answers[:20])) == 1
    assert answers[20].startswith(b"# HELP shoal_")
    assert sorted(daemon.asked) == ["actors", "figures", "figures", "jobs", "metrics", "nodes", "status"]
    assert daemon.connections == 1


def test_what_is_old_is_asked_again():
    daemon = Daemon()

    async def look():
        source = Source(daemon.connect, load({"dashboard_refresh_ms": 0, "dashboard_refresh_ms_per_node": 0}))
        for _ in range(3):
            await source.state()

    asyncio.run(look())
    assert daemon.asked.count("status") == 3


def test_many_who_wait_while_it_fails_are_one_question():
    daemon = Daemon()
    daemon.breaks = True

    async def look():
        source = Source(daemon.connect, load({"dashboard_refresh_ms": 1e6}))
        return await asyncio.gather(*(source.state() for _ in range(20)), return_exceptions=True)

    assert [str(error) for error in asyncio.run(look())] == ["it hangs"] * 20
    assert daemon.asked == ["status"]


def test_after_a_failure_it_connects_anew():
    daemon = Daemon()

    async def look():
        source = Source(daemon.connect, load({"dashboard_refresh_ms": 1e6}))
        daemon.breaks = True
        with pytest.raises(ControlError, match="hangs"):
            await source.state()
        daemon.breaks = False
        return await source.state()

    assert b'"nodes":[]' in asyncio.run(look())
    assert (daemon.connections, daemon.closed) == (2, 1)
