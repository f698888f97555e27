"""The node among other nodes, as the daemon's shell handles it: its TCP listener, the view of the cluster, the links.

Made of parts that each decide for themselves: the head says who lives (`ClusterView`), `Peers` carries messages, and whoever
has something with a node hears of its death through `NodeDaemon.on_node_dead`. A node that is alone has a listener at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.wire import auth
from shoald.node.cluster import DIED, JOINED, ClusterView, Node
from shoald.node.headside import ANY_HOSTS, LOOPBACK
from shoald.node.peers import Peers
from shoald.shell.listener import TcpListener
from shoald.shell.tcp import join_address, outward_host

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from shoald.node.daemon import NodeDaemon
    from shoald.node.refside import RefSide
    from shoald.shell.identity import Identity

    TakeConnection = Callable[[bytes, socket.socket], None]

_OUTWARD = "192.0.2.1:9"  # an address of nobody's, for the machine's address on its default route


class ClusterSide:
    """Listener, view and links of one daemon.

    Attributes:
        address: "host:port" where other nodes reach this one; "" before `listen`.
        encrypts: whether its connections are encrypted, those of tasks by the workers that get them.
        takers: who takes connections, by kind: called with (target, socket), which is non-blocking and theirs.
    """

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self.address = ""
        self.view = ClusterView(daemon.node_id, daemon.config.dead_nodes_max)
        self.peers = Peers(
            daemon.loop,
            self.view,
            daemon.incarnation,
            daemon.config,
            daemon.log,
            daemon.to_flush,
            self._given_up,
        )
        self.takers: dict[int, TakeConnection] = {
            auth.KIND_PEER: lambda _target, sock: self.peers.on_connection(sock)
        }
        self._listener: TcpListener | None = None

    def listen(self, identity: Identity) -> None:
        """Open the data listener; again changes nothing.

        Raises OSError if the host is not this machine's, TlsUnavailable if it needs TLS that cannot be.
        """
        if self._listener is not None:
            return
        daemon = self._daemon
        self.peers.identity = identity
        towards = daemon.options.head_address or _OUTWARD
        host = daemon.options.host or (outward_host(towards) if daemon.options.head_address else LOOPBACK)
        secret, config = identity.secret, daemon.config
        listener = TcpListener(daemon.loop, host, secret, config, self._on_connection, daemon.log.line)
        host = listener.host
        if host in ANY_HOSTS:
            host = outward_host(towards)
        self._listener = listener
        if identity.wants_tls(host):
            identity.certificates()
            listener.encrypts = identity
        self.address = join_address(host, listener.port)

    @property
    def encrypts(self) -> bool:
        return self._listener is not None and self._listener.encrypts is not None

    def _on_connection(self, kind: int, target: bytes, sock: socket.socket, _pid: int) -> None:
        taker = self.takers.get(kind)
        if taker is None:
            self._daemon.log.line(f"connection closed: kind {kind} does not belong on this port")
            sock.close()
        else:
            taker(target, sock)

    # --- what the head says ---

    def heard(self, rows: list[dict[str, Any]]) -> None:
        """Nodes as the head sends them (codec.node_dict)."""
        for node, change in self.view.update(rows):
            if change == JOINED:
                self._references().joined(node)
                self.peers.joined(node)
                self._daemon.actors.cluster.joined()
            elif change == DIED:
                self._died(node)
        now = self._daemon.loop.now()
        self._daemon.scheduler.view_changed(now)
        self._daemon.groups.core.nodes_changed(now)

    def heard_gauges(self, rows: list[dict[str, Any]]) -> None:
        """What nodes have free."""
        self.view.update_gauges(rows)
        self._daemon.scheduler.view_changed(self._daemon.loop.now())

    def _references(self) -> RefSide:
        """This node is not alone: objects, and refs to those here, may be elsewhere."""
        daemon = self._daemon
        if daemon.refs is None:
            from shoald.node.refside import RefSide  # here: a node that is alone does without
            from shoald.objects.manager import ObjectManager

            daemon.objects = ObjectManager(daemon)
            daemon.refs = RefSide(daemon)
        return daemon.refs

    def _died(self, node: Node) -> None:
        self.peers.died(node)
        self._daemon.log.line(f"{node} is dead: {node.reason}")
        for tell in self._daemon.on_node_dead:
            try:
                tell(node.node_id, node.reason)
            except Exception as error:  # noqa: BLE001  a death is told once: those after one that fails have to hear of it too
                self._daemon.log.fault(f"at the death of {node}", error)

    def _given_up(self, node: Node, reason: str) -> None:
        if node.node_id in self.view.live:
            self.view.bury(node, reason)
            self._died(node)
            self._daemon.scheduler.view_changed(self._daemon.loop.now())

    def close(self) -> None:
        """The daemon ends."""
        if self._listener is not None:
            self._listener.close()
        if self._daemon.objects is not None:
            self._daemon.objects.close()
        self.peers.close()
