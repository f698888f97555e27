"""A node daemon from its first line to its last: what is started in which order, and what is left at the
end (nothing).

The order serves the first task: the fork server is forked before anything is imported, the socket accepts
before the store exists, and gRPC is imported when another node comes (`headside`). A daemon that does not
belong to a driver waits with its ready line until the head is there, so that whoever starts it hears of a
port in use or a wrong secret.

Every wait at the end has a bound; an alarm that kills this process is the last one, and the fork server,
whose socket closes then, ends all workers.
"""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import signal
import socket
import sys
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

from shoal.client import heap
from shoal.ids import new_node_id
from shoal.wire.tls import TlsUnavailable
from shoald.node.leases import UNITS
from shoald.node.options import BadOptions, NodeOptions, parse
from shoald.node.session import Session, SessionError
from shoald.shell.daemonlog import DaemonLog
from shoald.shell.identity import Identity
from shoald.shell.listener import UnixListener
from shoald.shell.loop import Loop
from shoald.worker import forkserver

if TYPE_CHECKING:
    from shoald.node.clients import Job
    from shoald.node.daemon import NodeDaemon
    from shoald.node.forkclient import ForkClient
    from shoald.node.headside import HeadSide
    from shoald.shell.loop import Timer
    from shoald.store.populate import Populator

_HEAD_DELAY_S = 0.5  # of a driver's own daemon, if no task comes first
_HEAD_STOP_S = 2.0
_END_CHILDREN_S = 1.0
_SWITCH_INTERVAL_S = 0.0005  # the loop waits this long at most while another thread imports or serializes


def main(arguments: list[str], fork_server: tuple[int, socket.socket]) -> NoReturn:
    """Be a node daemon; ends the process."""
    ready_fd = ready_fd_of(arguments)
    code = 1
    try:
        options = parse(arguments)
        code = Lifecycle(options, fork_server).run()
    except (BadOptions, SessionError) as error:
        report_ready(ready_fd, {"ok": False, "error": str(error)})
        sys.__stderr__.write(f"shoal node: {error}\n")  # type: ignore[union-attr]
    except Exception as error:  # noqa: BLE001 - the last boundary: told to the starter, and logged
        report_ready(ready_fd, {"ok": False, "error": f"{type(error).__name__}: {error}"})
        sys.excepthook(*sys.exc_info())
    finally:
        # Not sys.exit: whatever a thread of a library still waits for, this process ends now (R8).
        os._exit(code)


def ready_fd_of(arguments: list[str]) -> int:
    """Where the starter listens; also when the other arguments make no sense. -1: nowhere."""
    text = dict(pairwise(arguments)).get("--ready-fd", "")
    return int(text) if text.isdigit() else -1


def report_ready(ready_fd: int, facts: dict[str, Any]) -> None:
    """Write the ready line to whoever started this, and close it; nothing without a descriptor, or the
    second time.
    """
    if ready_fd < 0:
        return
    try:
        os.write(ready_fd, json.dumps(facts).encode() + b"\n")
        os.close(ready_fd)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EBADF):  # it has gone away, or was told before
            raise


class Lifecycle:
    """One run of a daemon."""

    def __init__(self, options: NodeOptions, fork_server: tuple[int, socket.socket]) -> None:
        self._options = options
        self._fork_server = fork_server
        self._session = Session(options.session_dir)
        self._node_id = new_node_id()
        log_path = os.path.join(self._session.logs_dir, "node.log")
        self._log = DaemonLog(log_path, options.config.log_file_bytes_max, options.config.log_files_max)
        self._loop = Loop(self._log.fault)
        self._stop_reason = ""
        self._failed = ""
        self._ready = False
        self._ready_waits = False  # for the dashboard
        self._address = ""
        self._populator: Populator | None = None
        self._last_gauges: dict[str, Any] = {}
        self._gauges_timer: Timer | None = None
        self._gauges_due = False
        self._gauges_soon = False
        self._rounds_told = 0  # rounds of the scheduler before the last gauges
        # The cluster of one driver: its first task waits for no head.
        self._private = bool(options.owner_pid) and not options.head_address

    def run(self) -> int:
        """Start, serve, end; the exit code. What failed before the socket is raised, and nothing is left
        then.
        """
        try:
            self._start()
        except BaseException:
            self._session.remove(keep_logs=False)
            raise
        self._loop.run()
        self._end()
        return 1 if self._failed else 0

    # --- start ---

    def _start(self) -> None:
        options = self._options
        os.umask(0o077)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        heap.share_one_arena()
        _raise_descriptor_limit()
        self._secret = self._session.secret(options.secret_file, make=not options.head_address)
        self._identity = Identity(self._secret, options.config.tls, self._session.path)
        self._log.open()
        self._log.line(f"node daemon {os.getpid()} starts in {self._session.path}")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        forkserver.become_subreaper()
        self._listener = self._listen()
        if self._private:
            self._tell_ready()
        self._make_daemon()
        self._start_workers()
        self._make_head()
        self._make_dashboard()
        if options.owner_pid:
            self._watch_owner()
        if self._private:
            self._daemon.on_first_grant = self._after_first_grant
            self._loop.call_later(_HEAD_DELAY_S, self._after_first_grant)
        else:
            self._join()
            if not self._head.wanted:
                self._tell_ready()

    def _listen(self) -> UnixListener:
        return UnixListener(
            self._loop,
            self._session.socket_path,
            self._secret,
            self._options.config,
            lambda *connection: self._daemon.on_connection(*connection),
            self._log.line,
        )

    def _make_daemon(self) -> None:
        from shoald.node.daemon import NodeDaemon
        from shoald.store.memory import default_capacity, memory_limit
        from shoald.store.region import RegionFile

        options = self._options
        capacity = options.object_store_memory or default_capacity()
        # What the store does not take is for tasks to ask for.
        options.resources.setdefault("memory", max(0, memory_limit() - capacity) * UNITS)
        self._region = RegionFile(capacity, self._session.path, options.huge_pages)
        self._daemon: NodeDaemon = NodeDaemon(
            self._loop, self._node_id, options, self._session, self._region, self._log
        )
        self._daemon.on_stop = self._stop
        self._daemon.on_job = self._tell_job
        self._loop.on_turn_end = self._turn_end
        self._session.write_facts(self._daemon.facts())

    def _start_workers(self) -> None:
        from shoald.node.forkclient import ForkClient

        options, daemon = self._options, self._daemon
        self._forks: ForkClient = ForkClient(self._loop, *self._fork_server, daemon)
        daemon.workers.forks = self._forks
        info = {
            "socket_path": self._session.socket_path,
            "secret": self._secret,
            "node_id": self._node_id,
            "capacity": self._region.capacity,
            "slots": options.config.workers_max,
            "config": vars(options.config),
            "worker_main": options.worker_main,
            "tls": any(map(self._identity.wants_tls, options.hosts)),
        }
        # Standard error is the log by now; a copy, because rotation replaces it here.
        fds = [self._region.read_fd, daemon.board.fd, os.dup(2)]
        self._forks.setup(info, fds)
        daemon.scheduler.start(self._loop.now())

    def _make_head(self) -> None:
        from shoald.node.headside import HeadSide

        daemon = self._daemon
        self._head: HeadSide = HeadSide(
            self._loop,
            self._options,
            self._identity,
            self._head_settled,
            self._head_says,
        )
        daemon.head = self._head

    def _make_dashboard(self) -> None:
        options, daemon = self._options, self._daemon
        if options.dashboard_port is None:
            return
        from shoald.node.dashboardside import DashboardSide  # with what a daemon without one never loads

        daemon.dashboard = DashboardSide(
            self._loop,
            options,
            self._identity,
            self._session.path,
            self._session.socket_path,
            self._log,
            self._dashboard_settled,
        )
        if not self._private:
            daemon.dashboard.start()

    def _dashboard_settled(self) -> None:
        dashboard = self._daemon.dashboard
        assert dashboard is not None
        if dashboard.trouble and not self._ready and not self._private:
            self._refuse(f"no dashboard: {dashboard.trouble}")
            return
        self._session.write_facts(self._daemon.facts())
        if self._ready_waits:
            self._tell_ready()

    def _refuse(self, reason: str) -> None:
        """What this daemon was started for cannot be: whoever did hears why, and it ends."""
        self._failed = reason
        report_ready(self._options.ready_fd, {"ok": False, "error": reason})
        self._stop(reason)

    def _tell_ready(self) -> None:
        dashboard = self._daemon.dashboard if not self._private else None
        if dashboard is not None and not dashboard.settled:
            self._ready_waits = True
            return
        facts = {
            "ok": True,
            "socket": self._session.socket_path,
            "session_dir": self._session.path,
            "node_id": self._node_id,
            "address": self._address,
            "pid": os.getpid(),
            "dashboard": dashboard.url if dashboard is not None else "",
        }
        report_ready(self._options.ready_fd, facts)
        self._ready = True

    def _watch_owner(self) -> None:
        """End when the driver that this daemon belongs to ends, even if it has never connected."""
        try:
            fd = os.pidfd_open(self._options.owner_pid)
        except ProcessLookupError:
            self._stop("its driver is gone")
        except (OSError, AttributeError):
            self._poll_owner()
        else:
            self._loop.add_reader(fd, lambda: self._owner_ended(fd))

    def _owner_ended(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        os.close(fd)
        self._stop("its driver is gone")

    def _poll_owner(self) -> None:
        """Where the kernel has no descriptors for processes."""
        try:
            os.kill(self._options.owner_pid, 0)
        except ProcessLookupError:
            self._stop("its driver is gone")
        else:
            self._loop.call_later(1.0, self._poll_owner)

    # --- later ---

    def _after_first_grant(self) -> None:
        """The first task is on its way (or none comes): now what would have delayed it."""
        self._daemon.on_first_grant = lambda: None
        self._join()
        if self._daemon.dashboard is not None:
            self._daemon.dashboard.start()
        if self._options.spilling_directories:
            self._daemon.spiller.prepare()
        if self._populator is None and not self._stop_reason:
            threading.Thread(target=self._make_populator, name="shoal-populate-start", daemon=True).start()

    def _join(self) -> None:
        """Start the head, or go to it; from now on other nodes reach this one."""
        daemon = self._daemon
        if self._head.wanted:
            try:
                daemon.side.listen(self._identity)
            except TlsUnavailable as error:
                self._head_settled("", str(error))
                return
            except OSError as error:
                self._head_settled("", f"cannot listen on {self._options.host}: {error.strerror}")
                return
        self._head.start(
            {"node_id": daemon.node_id, "incarnation": daemon.incarnation, **daemon.registration()}
        )

    def _make_populator(self) -> None:
        from shoald.store.populate import Populator

        daemon, leases = self._daemon, self._daemon.scheduler.leases
        config = self._options.config
        populator = Populator(
            self._region.map(),
            config.populate_ahead_bytes_max,
            busy=lambda: bool(leases) or (daemon.objects is not None and daemon.objects.busy),
            # Huge pages are reserved: given back, they would be nobody else's.
            idle_s=math.inf if self._options.huge_pages else config.populate_idle_ms / 1000,
        )
        self._loop.call_soon_threadsafe(lambda: self._set_populator(populator))

    def _set_populator(self, populator: Populator) -> None:
        self._populator = populator
        self._daemon.memory.on_short.append(populator.hurry)

    def _turn_end(self, now: float) -> float | None:
        daemon = self._daemon
        deadline = daemon.turn_end(now)
        if self._address:
            self._tell_gauges()
        if self._populator is not None:
            high_water = self._daemon.store.high_water
            self._populator.wake(high_water)
            due = self._populator.give_back(high_water, now)
            if due is not None and (deadline is None or due < deadline):
                deadline = due
        return deadline

    def _head_settled(self, address: str, reason: str) -> None:
        daemon = self._daemon
        self._address = daemon.address = address
        daemon.head_trouble = reason
        if reason:
            self._log.line(f"no head: {reason}")
            if not self._private:
                self._refuse(reason)
            return
        what = "the head rests" if self._head.rests else "registered at the head"
        self._log.line(f"{what} at {address}")
        self._session.write_facts(daemon.facts())
        if not self._ready:
            self._tell_ready()
            self._after_first_grant()
        self._gauges_due = True
        for job in daemon.jobs.values():
            self._tell_job(job, "RUNNING")

    def _tell_job(self, job: Job, state: str) -> None:
        """The head keeps a table of jobs; what happens before there is a head is told when there is one."""
        if not self._address or self._head.rests:
            return
        if state == "RUNNING":
            facts = {
                "job_id": job.job_id,
                "node_id": self._node_id,
                "name": str(job.info.get("argv0") or ""),
                "namespace": job.namespace,
                "pid": job.driver.pid,
                "started_s": job.started_s,
            }
            self._head.call("StartJob", {"job": facts}, self._job_told)
        else:
            self._head.call("EndJob", {"job_id": job.job_id, "state": state, "message": ""}, self._job_told)

    def _job_told(self, ok: bool, answer: Any) -> None:
        if not ok:
            self._log.line(f"the head was not told of a job: {answer}")

    def _head_says(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "registered":
            self._daemon.head_trouble = ""
            self._daemon.side.heard(message["nodes"])
            self._last_gauges = self._daemon.gauges()
            objects = refs.snapshot() if (refs := self._daemon.refs) is not None else {}
            self._head.report({**self._last_gauges, "snapshot": True, **objects})
            self._daemon.actors.cluster.registered()
            self._daemon.groups.head_says(message)
        elif kind == "nodes":
            self._daemon.side.heard(message["nodes"])
        elif kind in {"free", "lost"}:
            if (refs := self._daemon.refs) is not None:
                (refs.free if kind == "free" else refs.lost)(message["ids"])
        elif kind == "gauges":
            self._daemon.side.heard_gauges(message["nodes"])
        elif kind == "groups":
            self._daemon.groups.head_says(message)
        elif kind == "disconnected":
            self._daemon.head_trouble = message["reason"]
            self._daemon.groups.head_says(message)
        elif kind == "refused":
            self._daemon.head_trouble = message["reason"]
            if self._ready:
                self._stop(f"the head refuses this node: {message['reason']}")
        elif kind in {"actor", "host_actor", "end_actor"}:
            self._daemon.actors.cluster.heard(message)
        elif kind == "drain":
            self._daemon.draining.begin(message["reason"], lambda _ended: None)

    def _tell_gauges(self) -> None:
        """At the end of a turn: have the head told what has changed, some time later, and together.

        Without a turn nothing changes: a daemon to which nothing happens does not wake up to look.
        """
        daemon = self._daemon
        if self._gauges_due:
            self._gauges_due = self._gauges_soon = False
            self._gauges_timer = None
            self._rounds_told = daemon.scheduler.rounds
            gauges = daemon.gauges()
            if gauges == self._last_gauges:
                return
            self._last_gauges = gauges
            self._head.report(gauges)
        if self._gauges_timer is None:
            self._gauges_timer = self._loop.call_later(
                self._options.config.heartbeat_ms / 1000, self._gauges_now
            )
        # Others place their tasks by what this node says that it has free, and the scheduler has decided something.
        if daemon.scheduler.rounds != self._rounds_told and daemon.cluster.live and not self._gauges_soon:
            self._gauges_soon = True
            self._gauges_timer.cancel()
            pause_s = self._options.config.view_ms / 2 / 1000
            self._gauges_timer = self._loop.call_later(pause_s, self._gauges_now)

    def _gauges_now(self) -> None:
        self._gauges_due = True

    # --- end ---

    def _on_signal(self, number: int, _frame: object) -> None:
        name = signal.Signals(number).name
        asked = self._drain_and_stop if number == signal.SIGTERM else self._stop
        self._loop.call_soon_threadsafe(lambda: asked(f"it got {name}"))

    def _drain_and_stop(self, reason: str) -> None:
        """Leave the cluster without harm to what runs here; at once if nobody else could go on, or when asked again."""
        daemon = self._daemon
        draining = daemon.draining.reason and not daemon.draining.moves_again
        if draining or self._options.head or not daemon.cluster.alive() or daemon.head_trouble:
            self._stop(reason)
            return
        self._head.call("DrainNode", {"node_id": self._node_id, "reason": reason}, self._drain_told)
        daemon.draining.begin(reason, lambda _ended: self._stop(reason))

    def _drain_told(self, ok: bool, answer: Any) -> None:
        if not ok:
            self._log.line(f"the head was not told that this node drains: {answer}")

    def _stop(self, reason: str) -> None:
        if self._stop_reason:
            return
        self._stop_reason = reason
        self._log.line(f"node daemon stops: {reason}")
        signal.alarm(max(1, round(self._options.config.stop_ms_max / 1000)))
        self._listener.close()
        self._daemon.scheduler.staffing.stopping = True
        self._loop.stop()

    def _end(self) -> None:
        """Everything that this daemon has goes: workers first, the session directory last."""
        self._forks.close()
        if self._daemon.dashboard is not None:
            self._daemon.dashboard.close()
        forkserver.end_children(_END_CHILDREN_S)  # adopted from a fork server that could not do it
        for client in list(self._daemon.clients.values()):
            client.sock.close("")
        self._daemon.side.close()
        self._head.stop(_HEAD_STOP_S)
        if self._populator is not None:
            self._populator.close()
        self._daemon.spiller.close()
        self._region.close()
        self._daemon.board.close()
        self._log.line("node daemon ends")
        self._session.remove(keep_logs=not self._options.owner_pid and not self._failed)


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
