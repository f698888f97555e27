"""Clusters of several nodes on one machine, for tests: real daemons, each with its own region, session and resources.

with Cluster() as cluster:
    cluster.add_node(num_cpus=2, resources={"disk": 1})
    shoal.init(cluster.address)
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Self

from shoal import config
from shoal.bootstrap import DaemonInfo, DaemonOptions, start_daemon, stop_session
from shoal.control import request
from shoal.sessions import SECRET_FILE, remove_directory

if TYPE_CHECKING:
    from collections.abc import Mapping

_POLL_S = 0.02
_STORE_BYTES = 256 * 1024 * 1024


class Cluster:
    """A head with a node, and further nodes as they are added; everything stops at the end of the `with` block.

    Args:
        num_cpus, resources, labels, object_store_memory (bytes), system_config: of the first node; see `add_node`.

    Raises BootstrapError if a daemon does not start; those that did are stopped then.
    """

    def __init__(self, **first_node: Any) -> None:
        self._nodes: list[DaemonInfo] = []
        self.head = self._start(DaemonOptions(**_options(first_node), head=True))

    @property
    def address(self) -> str:
        """host:port of the head, for `shoal.init` and `start-node --address`."""
        return self.head.address

    @property
    def nodes(self) -> list[DaemonInfo]:
        """The running nodes, the head's first."""
        return list(self._nodes)

    def add_node(
        self,
        *,
        num_cpus: float = 1,
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
        object_store_memory: int = _STORE_BYTES,
        name: str = "",
        system_config: Mapping[str, Any] | None = None,
    ) -> DaemonInfo:
        """Start one more node and wait until the head knows it.

        Raises BootstrapError if it does not start, TimeoutError if it does not register.
        """
        given = {
            "num_cpus": num_cpus,
            "resources": resources or {},
            "labels": labels or {},
            "object_store_memory": object_store_memory,
            "name": name,
            "system_config": system_config or {},
        }
        node = self._start(
            DaemonOptions(
                **_options(given),
                head_address=self.address,
                secret_file=os.path.join(self.head.session_dir, SECRET_FILE),
            )
        )
        self.wait_for_nodes()
        return node

    def _start(self, options: DaemonOptions) -> DaemonInfo:
        try:
            node = start_daemon(options)
        except BaseException:
            self.shutdown()
            raise
        self._nodes.append(node)
        return node

    def remove_node(self, node: DaemonInfo) -> None:
        """Stop a node in order. Raises ValueError for one that is not of this cluster, or for the head's."""
        self._check(node)
        self._nodes.remove(node)
        _stop(node)

    def _check(self, node: DaemonInfo) -> None:
        if node is self.head or node not in self._nodes:
            raise ValueError("this needs a node that add_node returned, and that is still there")

    def forget(self, node: DaemonInfo) -> None:
        """A node's daemon was killed: it is not stopped at the end, and what it left goes. Raises ValueError as `remove_node`."""
        self._check(node)
        self._nodes.remove(node)
        remove_directory(node.session_dir)

    def wait_for_nodes(self, timeout_s: float | None = None) -> None:
        """Wait until the head counts every node as alive. Raises TimeoutError otherwise."""
        limit_s = config.load().start_ms_max / 1000 if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        while True:
            rows = request(self.head.socket, self.head.secret, "nodes", {})["rows"]
            alive = [row for row in rows if row["state"] == "ALIVE"]
            if len(alive) >= len(self._nodes):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{len(alive)} of {len(self._nodes)} nodes registered within {limit_s:g} s"
                )
            time.sleep(_POLL_S)

    def shutdown(self) -> None:
        """Stop all nodes, the head's last. May be called again."""
        while self._nodes:
            _stop(self._nodes.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    values = {"num_cpus": 1, "object_store_memory": _STORE_BYTES, **given}
    values["config"] = values.pop("system_config", None) or {}
    return values


def _stop(node: DaemonInfo) -> None:
    stop_session(node.session)
    node.process.wait()
