"""The dashboard's process, as the daemon that has it sees it: started, told of, started again when it dies, ended.

    off → starting → up ⇄ starting (it died; up to `dashboard_restarts_max` times) → failed

The daemon gives it one end of a pipe as its standard input, which ends with the daemon however that ends, and hears on another
where it listens and, by its end, that it died. Nothing else passes between them but the questions that it asks like any command;
so it can neither hold the daemon up nor take it along.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from shoal.wire.tls import TlsUnavailable
from shoald.node.headside import ANY_HOSTS
from shoald.shell.tcp import join_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoald.node.options import NodeOptions
    from shoald.shell.daemonlog import DaemonLog
    from shoald.shell.identity import Identity
    from shoald.shell.loop import Loop, Timer

_READ_BYTES = 4096
_END_S = 1.0


class DashboardSide:
    """The dashboard of one daemon.

    Args:
        socket_path, session_dir: of the daemon.
        on_settled: called once, when it is up or has failed.

    Attributes:
        url: where it is, without what lets in; "" unless it is up.
        trouble: why it is not, if it was wanted.
        settled: it is not wanted, is up, or has failed.
    """

    def __init__(
        self,
        loop: Loop,
        options: NodeOptions,
        identity: Identity,
        session_dir: str,
        socket_path: str,
        log: DaemonLog,
        on_settled: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._options = options
        self._identity = identity
        self._session_dir = session_dir
        self._socket_path = socket_path
        self._log = log
        self._on_settled = on_settled
        self._process: subprocess.Popen[bytes] | None = None
        self._input = self._ready = -1  # our ends of its pipes
        self._said = b""
        self._timer: Timer | None = None
        self._was_up = False
        self._restarts = 0
        self._port = options.dashboard_port
        self.url = self.trouble = ""
        self.settled = options.dashboard_port is None

    def start(self) -> None:
        """Begin; nothing unless it is wanted, or the second time."""
        if self._port is None or self._process is not None or self.settled:
            return
        try:
            secure = self._identity.wants_tls(self._options.dashboard_host)
            if secure:
                self._identity.certificates()
            self._spawn(secure)
        except (OSError, TlsUnavailable) as error:
            self._failed(str(error))
            return
        self._timer = self._loop.call_later(
            self._options.config.dashboard_start_ms_max / 1000,
            lambda: self._failed("it was not ready in time"),
        )

    def _spawn(self, secure: bool) -> None:
        options = self._options
        their_input, self._input = os.pipe()
        self._ready, their_ready = os.pipe()
        command = [sys.executable, "-P", "-m", "shoald.dashboard", "--session-dir", self._session_dir]
        command += [
            "--socket",
            self._socket_path,
            "--host",
            options.dashboard_host,
            "--port",
            str(self._port),
        ]
        command += ["--config", json.dumps(vars(options.config)), "--ready-fd", str(their_ready)]
        command += ["--tls"] if secure else []
        try:
            self._process = subprocess.Popen(command, stdin=their_input, pass_fds=(their_ready,))
        finally:
            os.close(their_input)
            os.close(their_ready)
        os.set_blocking(self._ready, False)
        self._loop.add_reader(self._ready, self._hear)

    def _hear(self) -> None:
        try:
            data = os.read(self._ready, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._died()
            return
        self._said += data
        if self._said.endswith(b"\n") and not self.url:
            self._told(json.loads(self._said))

    def _told(self, facts: dict[str, Any]) -> None:
        if not facts["ok"]:
            self._failed(f"cannot listen on {facts['error']}")
            return
        self._port = facts["port"]
        host = self._options.dashboard_host
        shown = socket.gethostname() if host in ANY_HOSTS else host
        scheme = "https" if self._identity.wants_tls(host) else "http"
        self.url = f"{scheme}://{join_address(shown, facts['port'])}"
        self._log.line(
            f"the dashboard is at {self.url} (process {self._process.pid if self._process else 0})"
        )
        self._settle()

    def _died(self) -> None:
        status = self._reap()
        if not self.settled:
            self._failed(f"it ended as it started (exit status {status})")
            return
        self.url = ""
        self.trouble = f"its process ended (exit status {status})"
        self._was_up = True
        self._retry()

    def _retry(self) -> None:
        if self._restarts < self._options.config.dashboard_restarts_max:
            self._restarts += 1
            self._log.line(f"the dashboard: {self.trouble}; it is started again")
            self._timer = self._loop.call_later(self._options.config.dashboard_restart_ms / 1000, self._again)
        else:
            self._log.line(
                f"the dashboard: {self.trouble}, as before; it stays away (dashboard_restarts_max)"
            )

    def _again(self) -> None:
        self._said = b""
        self.trouble = ""
        self.settled = False
        self.start()

    def _failed(self, reason: str) -> None:
        self.trouble = reason
        self._log.line(f"no dashboard: {reason}")
        self._reap()
        self._settle()
        if self._was_up:  # it could listen before
            self._retry()

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.url:
            self.trouble = ""
        self.settled = True
        self._on_settled()

    def close(self) -> None:
        """The daemon ends, and it too."""
        if self._timer is not None:
            self._timer.cancel()
        self._reap()

    def _reap(self) -> int | None:
        """End the process, if it has not; returns its exit status."""
        process, self._process = self._process, None
        if self._ready >= 0:
            self._loop.remove_reader(self._ready)
            os.close(self._ready)
            os.close(self._input)
            self._ready = self._input = -1
        if process is None:
            return None
        process.kill()  # it keeps nothing that it would have to put away
        try:
            return process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return None  # it cannot end yet; with this daemon it does
