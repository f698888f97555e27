"""Messages to and from other nodes: reliable, in order, exactly once while both live (`peerstream` has the rules).

Each direction has a connection of its own, opened by the sender when it has something to say, and opened again, with
growing pauses, until everything is acknowledged or the node is dead. A node that this one does not know yet is heard as
soon as the head has told of it. Messages of one turn leave in one frame; handlers run in the loop.

A node that does not take messages until `peer_backlog_bytes_max` wait for it is given up: it is dead to this node, and
this node to it, whatever the head says.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from shoal.wire import auth
from shoal.wire import messages as m
from shoald.node.cluster import DEAD
from shoald.node.fields import checked
from shoald.node.peerstream import InStream, OutStream
from shoald.shell.framesocket import FrameSocket
from shoald.shell.tcp import Dial
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from shoal.config import Config
    from shoald.node.cluster import ClusterView, Node
    from shoald.shell.daemonlog import DaemonLog
    from shoald.shell.identity import Identity
    from shoald.shell.loop import Loop, Timer

    Handler = Callable[[str, list[Any]], None]

TURNS_MAX = 8  # a flush makes messages for others at most this often


class _Peer:
    """What this node has with one other.

    Attributes:
        out: of the connection that carries this node's messages; None while there is none. `ready`: it takes them.
        reached: the last attempt to make one has not failed.
        into: of the one that carries the other's.
    """

    __slots__ = (
        "ack_timer",
        "dial",
        "inbound",
        "into",
        "node",
        "out",
        "outbound",
        "pause_s",
        "reached",
        "ready",
        "timer",
    )

    def __init__(self, node: Node, config: Config) -> None:
        self.node = node
        self.outbound = OutStream(config.peer_window_bytes_max, config.frame_bytes_max // 2)
        self.inbound = InStream()
        self.out: FrameSocket | None = None
        self.into: FrameSocket | None = None
        self.ready = False
        self.reached = True
        self.dial: Dial | None = None
        self.timer: Timer | None = None  # of the next attempt
        self.ack_timer: Timer | None = None
        self.pause_s = 0.0


class Peers:
    """The links of one node.

    Args:
        incarnation: of this node.
        to_flush: sockets add themselves when they have something to write; the daemon does it at the end of the turn.
        on_given_up: called with a node that is dead to this one, and why.

    Attributes:
        identity: of this node; set before the first other is known.
        dirty: those that something is to be sent to; `flush` before that.
        before_send: called before anything is sent to anybody; what it sends goes first.
        on_broken: called with a node when the connection to it is closed, and it is not dead.
        on_reach: called with a node, and whether a connection to it was made, or could not be: at each failure, and at the first
            success after one.
    """

    def __init__(
        self,
        loop: Loop,
        view: ClusterView,
        incarnation: str,
        config: Config,
        log: DaemonLog,
        to_flush: set[FrameSocket],
        on_given_up: Callable[[Node, str], None],
    ) -> None:
        self._loop = loop
        self._view = view
        self._incarnation = incarnation
        self._config = config
        self._log = log
        self._on_given_up = on_given_up
        self.identity: Identity
        self._peers: dict[str, _Peer] = {}
        self._handlers: dict[int, Handler] = {}
        self._strangers: dict[FrameSocket, list[Any]] = {}  # and their P_HELLO, until the head tells of them
        self._to_flush = to_flush
        self.dirty: dict[_Peer, None] = {}
        self._pings: dict[int, Callable[[str], None]] = {}
        self.before_send: Callable[[], None] = _nothing
        self.on_broken: Callable[[str], None] = _nothing
        self.on_reach: Callable[[str, bool], None] = _nothing
        self._number = itertools.count(1).__next__
        self.on(m.P_PING, lambda node_id, message: self.send(node_id, [m.P_PONG, *checked(message[1:], int)]))
        self.on(m.P_PONG, self._ponged)

    # --- for the rest of the daemon ---

    def on(self, tag: int, handler: Handler) -> None:
        """Have messages with ``tag`` handled; what ``handler`` raises closes the connection, and the next message follows."""
        assert tag not in self._handlers, tag
        self._handlers[tag] = handler

    def send(self, node_id: str, message: list[Any]) -> None:
        """Send to a node; nothing happens if it is dead or unknown. Raises ValueError for a message that is too long."""
        self.before_send()
        peer = self._peers.get(node_id) or self._meet(node_id)
        if peer is None:
            return
        peer.outbound.send(message)
        self.dirty[peer] = None

    def waiting_bytes(self, node_id: str) -> int:
        """How much this node has not taken yet."""
        peer = self._peers.get(node_id)
        return peer.outbound.waiting_bytes if peer is not None else 0

    def ping(self, node_id: str, then: Callable[[str], None]) -> None:
        """Have ``then`` called with the node's id if it answers within query_ms_max."""
        number = self._number()
        self._pings[number] = then
        self._loop.call_later(self._config.query_ms_max / 1000, lambda: self._forget_ping(number))
        self.send(node_id, [m.P_PING, number])

    def _forget_ping(self, number: int) -> None:
        self._pings.pop(number, None)

    def _ponged(self, node_id: str, message: list[Any]) -> None:
        _, number = checked(message, int, int)
        then = self._pings.pop(number, None)
        if then is not None:
            then(node_id)

    def _meet(self, node_id: str) -> _Peer | None:
        node = self._view.live.get(node_id)
        if node is None:
            return None
        peer = self._peers[node_id] = _Peer(node, self._config)
        return peer

    # --- what the view says ---

    def joined(self, node: Node) -> None:
        """The head tells of a node, which may have come here before."""
        for sock, hello in list(self._strangers.items()):
            if hello and hello[1] == node.node_id:  # [] before it has said who it is
                del self._strangers[sock]
                self._welcome(sock, hello)

    def died(self, node: Node) -> None:
        """A node is dead: nothing is sent to it, and nothing of it is heard, any more."""
        peer = self._peers.pop(node.node_id, None)
        if peer is not None:
            self._close(peer, "")

    def _close(self, peer: _Peer, reason: str) -> None:
        self.dirty.pop(peer, None)
        for timer in (peer.timer, peer.ack_timer):
            if timer is not None:
                timer.cancel()
        if peer.dial is not None:
            peer.dial.cancel()
        out, into = peer.out, peer.into
        peer.out = peer.into = None
        for sock in (out, into):
            if sock is not None:
                sock.close(reason)

    def close(self) -> None:
        """The daemon ends."""
        for peer in self._peers.values():
            self._close(peer, "")
        self._peers.clear()
        for sock in list(self._strangers):
            sock.close("")

    # --- out ---

    def flush(self) -> None:
        """Send what was said in this turn."""
        for _ in range(TURNS_MAX):
            if not self.dirty:
                break
            dirty, self.dirty = self.dirty, {}
            try:
                while dirty:
                    peer, _ = dirty.popitem()
                    self._flush(peer)
            except MemoryError:
                self.dirty[peer] = None
                raise
            finally:
                self.dirty.update(dirty)

    def _flush(self, peer: _Peer) -> None:
        if peer.outbound.waiting_bytes > self._config.peer_backlog_bytes_max:
            self._give_up(peer, f"{peer.outbound.waiting_bytes} bytes wait for it (peer_backlog_bytes_max)")
        elif peer.out is None:
            self._connect(peer)
        elif peer.ready:
            for data in peer.outbound.take():
                peer.out.send_frame(data)

    def _give_up(self, peer: _Peer, reason: str) -> None:
        self._log.line(f"{peer.node} is given up: {reason}")
        if peer.into is not None:
            peer.into.send([m.P_REFUSED, reason, True])
            peer.into.flush()
        self._on_given_up(peer.node, reason)

    def _connect(self, peer: _Peer) -> None:
        if peer.dial is not None or peer.timer is not None:
            return
        if not peer.node.address or not peer.outbound.waiting_bytes:
            return
        peer.dial = Dial(
            self._loop,
            peer.node.address,
            self.identity,
            auth.KIND_PEER,
            bytes(auth.TARGET_SIZE),
            self._config,
            lambda sock: self._opened(peer, sock),
            lambda reason: self._unreachable(peer, reason),
        )

    def _opened(self, peer: _Peer, sock: socket.socket) -> None:
        peer.dial = None
        peer.ready = False
        out = FrameSocket(
            self._loop,
            sock,
            self._config,
            lambda batch: self._answers(peer, out, batch),
            lambda reason: self._out_closed(peer, out, reason),
            self._to_flush,
        )
        peer.out = out
        out.send([m.P_HELLO, self._view.own_node_id, self._incarnation, peer.node.node_id])

    def _unreachable(self, peer: _Peer, reason: str) -> None:
        """No connection could be made, or it was refused."""
        self._failed(peer, reason)
        peer.reached = False
        self.on_reach(peer.node.node_id, False)

    def _failed(self, peer: _Peer, reason: str) -> None:
        """The next attempt comes later; whether the node is dead is not for this one to say."""
        peer.dial = None
        if not peer.pause_s:
            self._log.line(f"{peer.node} cannot be reached: {reason}")
        config = self._config
        peer.pause_s = min(
            max(2 * peer.pause_s, config.reconnect_ms_min / 1000), config.reconnect_ms_max / 1000
        )
        peer.timer = self._loop.call_later(peer.pause_s, lambda: self._again(peer))

    def _again(self, peer: _Peer) -> None:
        peer.timer = None
        self._connect(peer)

    def _answers(self, peer: _Peer, sock: FrameSocket, batch: list[list[Any]]) -> None:
        """What the receiver of this node's messages says."""
        for message in batch:
            if peer.out is not sock:
                return
            tag, value = message[0], message[1] if len(message) > 1 else None
            if tag == m.P_ACK and peer.ready:
                peer.outbound.acknowledged(value)  # type: ignore[arg-type]  # it looks at what it is
            elif tag == m.P_READY and not peer.ready:
                peer.outbound.connected(value)  # type: ignore[arg-type]
                peer.ready = True
                peer.pause_s = 0.0
                if not peer.reached:
                    peer.reached = True
                    self.on_reach(peer.node.node_id, True)
            elif tag == m.P_REFUSED and len(message) == 3:
                self._refused(peer, str(value), bool(message[2]))
                return
            else:
                raise ProtocolError(f"message {tag} is not one that a receiver sends")
            self.dirty[peer] = None

    def _refused(self, peer: _Peer, reason: str, final: bool) -> None:
        if final:
            self._give_up(peer, f"it has given up this node: {reason}")
        elif peer.out is not None:
            peer.out.close(f"refused: {reason}")

    def _out_closed(self, peer: _Peer, sock: FrameSocket, reason: str) -> None:
        if peer.out is not sock:
            return
        peer.out = None
        if not peer.ready:
            self._unreachable(peer, reason or "closed by it")
            return
        peer.ready = False
        if peer.outbound.waiting_bytes:
            self._failed(peer, reason or "closed by it")
        self.on_broken(peer.node.node_id)

    # --- in ---

    def on_connection(self, sock: socket.socket) -> None:
        """Another node, which knows the secret, has opened a connection (KIND_PEER)."""
        if len(self._strangers) >= self._config.connections_max:
            self._log.line(
                f"connection of a node closed: {len(self._strangers)} of nodes that are not known (connections_max)"
            )
            sock.close()
            return
        into = FrameSocket(
            self._loop,
            sock,
            self._config,
            lambda batch: self._on_batch(into, batch),
            lambda reason: self._in_closed(into, reason),
            self._to_flush,
        )
        self._strangers[into] = []

    def _in_closed(self, sock: FrameSocket, reason: str) -> None:
        self._strangers.pop(sock, None)
        if reason:
            self._log.line(f"connection of a node closed: {reason}")

    def _on_batch(self, sock: FrameSocket, batch: list[list[Any]]) -> None:
        if self._strangers.get(sock, batch):  # [] only before its first message
            raise ProtocolError("a node sends nothing before P_READY")
        message = batch[0]
        if message[0] != m.P_HELLO or len(message) != 4 or not all(type(each) is str for each in message[1:]):
            raise ProtocolError("a node's first message has to be P_HELLO")
        self._strangers[sock] = message
        if len(batch) > 1:
            raise ProtocolError("a node sends nothing before P_READY")
        if message[1] in self._view.nodes or message[3] != self._view.own_node_id:
            del self._strangers[sock]
            self._welcome(sock, message)

    def _welcome(self, sock: FrameSocket, hello: list[Any]) -> None:
        _, node_id, incarnation, meant = hello
        node = self._view.nodes.get(node_id)
        reason, final = "", False
        if meant != self._view.own_node_id or node is None:
            reason = f"this is node {self._view.own_node_id}, not {meant}"
        elif node.incarnation != incarnation or node.state == DEAD:
            reason, final = f"{node} is dead: {node.reason}", True
        peer = None if reason else self._peers.get(node_id) or self._meet(node_id)
        if peer is None:
            sock.send([m.P_REFUSED, reason, final])
            sock.flush()
            sock.close(f"refused: {reason}")
            return
        before, peer.into = peer.into, sock
        if before is not None:
            before.close("")
        sock.on_batch = lambda batch: self._messages(peer, sock, batch)
        sock.on_closed = lambda reason: self._into_closed(peer, sock, reason)
        sock.send([m.P_READY, peer.inbound.acknowledge()])

    def _into_closed(self, peer: _Peer, sock: FrameSocket, reason: str) -> None:
        if peer.into is sock:
            peer.into = None
        if reason:
            self._log.line(f"connection of {peer.node} closed: {reason}")

    def _messages(self, peer: _Peer, sock: FrameSocket, batch: list[list[Any]]) -> None:
        inbound, node_id = peer.inbound, peer.node.node_id
        for frame in batch:
            if frame[0] != m.P_STREAM:
                raise ProtocolError(f"message {frame[0]} is not one that a sender sends")
            for message in inbound.fresh(frame):
                if peer.into is not sock:
                    return  # what was handled has ended this connection
                inbound.handled += 1
                handler = self._handlers.get(message[0])
                if handler is None:
                    raise ProtocolError(f"message {message[0]} is not one that a node sends")
                self._handle(handler, node_id, message)
        self._acknowledge(peer)

    @staticmethod
    def _handle(handler: Handler, node_id: str, message: list[Any]) -> None:
        try:
            handler(node_id, message)
        except ValueError as error:
            raise ProtocolError(f"message {message[0]} has wrong fields: {error}") from error

    def _acknowledge(self, peer: _Peer) -> None:
        if peer.inbound.handled - peer.inbound.told >= self._config.peer_ack_messages:
            self._acknowledge_now(peer)
        elif peer.ack_timer is None:
            peer.ack_timer = self._loop.call_later(
                self._config.peer_ack_ms / 1000, lambda: self._acknowledge_now(peer)
            )

    def _acknowledge_now(self, peer: _Peer) -> None:
        if peer.ack_timer is not None:
            peer.ack_timer.cancel()
            peer.ack_timer = None
        if peer.into is not None and peer.inbound.told < peer.inbound.handled:
            peer.into.send([m.P_ACK, peer.inbound.acknowledge()])


def _nothing(*_: object) -> None:
    pass
