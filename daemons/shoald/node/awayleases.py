"""Leases of this node's clients on workers of other nodes: a pure core (R6).

    asked of a node (P_DEMAND) → DIALING (P_LEASE came; the connection is being opened) → OPEN (the client has it) → ended

What other nodes are asked for is the scheduler's decision (`SchedulerCore.shares`), declarative: only changes are sent. To
the client such a lease is one like any other, with a number of this node's. Ends come from either side: the client returns
it, the lender tells of the worker's death or recalls it, the lender dies, or the client leaves.

Effects (`outbox`, in order): ("send", node id, message), ("dial", lease), ("undial", lease), ("client", proc, message),
("move", proc, node id): not a lease for an actor there, but the actor.

Invariants: each lease is of one living node and one connected client; what `told` says was sent to that node, less what
it has granted since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.wire import messages as m
from shoal.wire.auth import TARGET_SIZE
from shoald.node.fields import checked
from shoald.store.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config
    from shoald.node.cluster import ClusterView, Node
    from shoald.node.leases import Amounts, Client, Demand
    from shoald.node.scheduler import SchedulerCore

_NO_TASK = bytes(16)
# What a lender says to clients, and the kinds of its fields.
_FOR_CLIENTS: dict[int, tuple[type, ...]] = {
    m.RECALL_LEASE: (int,),
    m.WORKER_DIED: (int, int, int, bytes, str, dict),
    m.DEMAND_STATUS: (int, str, str),
}


class AwayLease:
    """A worker of another node in the hands of a client of this one.

    Attributes:
        lease_id: as the client knows it; `lender_id` as the lender does.
        demand: what it was granted for; the scheduler may have forgotten that since.
        token: what the connection to the worker is opened with.
        open: the client has it.
        why: why that node was asked, for people.
    """

    __slots__ = (
        "demand",
        "lease_id",
        "lender_id",
        "node_id",
        "open",
        "pid",
        "proc",
        "resources",
        "shape_id",
        "token",
        "why",
        "worker",
    )

    def __init__(
        self,
        lease_id: int,
        node_id: str,
        demand: Demand,
        lender_id: int,
        worker: bytes,
        pid: int,
        resources: Amounts,
        token: bytes,
    ) -> None:
        self.lease_id = lease_id
        self.node_id = node_id
        self.demand = demand
        self.proc = demand.client.proc
        self.shape_id = demand.shape_id
        self.lender_id = lender_id
        self.worker = worker
        self.pid = pid
        self.resources = resources
        self.token = token
        self.open = False
        self.why = ""

    def __repr__(self) -> str:
        return (
            f"<lease {self.lease_id} of {self.proc.hex()} at node {self.node_id[:8]}, {self.lender_id} there>"
        )


class AwayLeases:
    """All such leases of one node.

    Args:
        job_of: what P_DEMAND says of a client's job; None if the client belongs to none.

    Attributes:
        leases: by the client's number.
        told: (proc, shape) → node id → how many leases it was asked for.
    """

    def __init__(
        self,
        scheduler: SchedulerCore,
        view: ClusterView,
        config: Config,
        job_of: Callable[[Client], dict[str, Any] | None],
    ) -> None:
        self._scheduler = scheduler
        self._view = view
        self._placement = scheduler.placement
        self._config = config
        self._job_of = job_of
        self.outbox: list[tuple[Any, ...]] = []
        self.leases: dict[int, AwayLease] = {}
        self.told: dict[tuple[bytes, int], dict[str, int]] = {}
        self._by_lender: dict[tuple[str, int], AwayLease] = {}
        self._shares = scheduler.shares  # those that were told
        self._avoided: dict[str, float] = {}

    # --- asking ---

    def turn(self, now: float) -> float | None:
        """After the scheduler's decisions: ask other nodes for what is missing. Returns when to `forgive` one."""
        shares = self._scheduler.shares
        if shares is not self._shares:
            self._shares = shares
            for key in sorted(self.told.keys() - shares.keys()):
                self._tell(key, {})
            for key, wanted in shares.items():
                share = self._of_living(wanted)
                if share != self.told.get(key):
                    self._tell(key, share)
        return min(self._avoided.values(), default=None)

    def _of_living(self, share: dict[str, int]) -> dict[str, int]:
        """A placement group may name a node that has died, until the head has said where its bundle is now."""
        live = self._view.live
        if share.keys() <= live.keys():
            return share
        return {node_id: count for node_id, count in share.items() if node_id in live}

    def _avoid(self, node_id: str, now: float) -> None:
        """Ask nothing of a node for a while: it could not give what it was asked for."""
        node = self._view.live.get(node_id)
        if node is not None:
            self._view.avoid(node, True)
            self._avoided[node_id] = now + self._config.reconnect_ms_max / 1000
            self._scheduler.view_changed(now)

    def forgive(self, now: float) -> None:
        """Before the scheduler's decisions: nodes that were avoided for long enough may be asked again."""
        if not self._avoided:
            return
        for node_id in [node_id for node_id, until in self._avoided.items() if until <= now]:
            del self._avoided[node_id]
            node = self._view.live.get(node_id)
            if node is not None:
                self._view.avoid(node, False)
                self._scheduler.view_changed(now)

    def _tell(self, key: tuple[bytes, int], share: dict[str, int]) -> None:
        proc, shape_id = key
        before = self.told.pop(key, {})
        client = self._scheduler.clients.get(proc)
        job = self._job_of(client) if client is not None else None
        if client is None or job is None:
            return  # it left, which the nodes are told
        if client.kind == "actor":
            self.outbox += [("move", proc, node_id) for node_id, backlog in share.items() if backlog]
            return
        for node_id in sorted(before.keys() | share.keys()):
            backlog = share.get(node_id, 0)
            if backlog != before.get(node_id, 0):
                self._ask(node_id, client, job, shape_id, backlog)
        if share:
            self.told[key] = dict(share)

    def _ask(self, node_id: str, client: Client, job: dict[str, Any], shape_id: int, backlog: int) -> None:
        """P_DEMAND; to ask for nothing the number is enough, and the demand may be forgotten."""
        resources, options = {}, {}
        if backlog:
            demand = client.demands[shape_id]
            resources, options = demand.resources, demand.options
        asked = [client.proc, client.kind, job, shape_id, resources, backlog, options]
        self.outbox.append(("send", node_id, [m.P_DEMAND, *asked]))

    # --- what the lender says ---

    def leased(self, node_id: str, fields: list[Any], now: float) -> None:
        """P_LEASE without its tag: a worker there is this client's now, if it still wants one."""
        kinds = (bytes, int, int, bytes, int, dict, bytes)
        proc, shape_id, lender_id, worker, pid, resources, token = checked(fields, *kinds)
        if len(token) != TARGET_SIZE or not all(type(amount) is int for amount in resources.values()):
            raise ProtocolError("a lease needs a token, and resources in whole numbers")
        share = self.told.get((proc, shape_id), {})
        if share.get(node_id):
            share[node_id] -= 1
        demand = self._scheduler.granted_elsewhere(proc, shape_id, now)
        if demand is None:
            back = [m.RETURN, lender_id, m.RETURN_OK]
            self.outbox.append(("send", node_id, [m.P_FROM_CLIENT, proc, back]))
            return
        lease_id = self._scheduler.next_lease_id()
        lease = AwayLease(lease_id, node_id, demand, lender_id, worker, pid, resources, token)
        self.leases[lease_id] = self._by_lender[node_id, lender_id] = lease
        lease.why = demand.away
        self._placement.leased((proc, shape_id), node_id, demand.amounts, now)
        self.outbox.append(("dial", lease))

    def dial_failed(self, lease: AwayLease, now: float) -> None:
        """There is none: the lease goes back, and the client waits for another."""
        self._avoid(lease.node_id, now)
        self._send_back(lease, m.RETURN_OK)
        self._end(lease)
        self._scheduler.missed_elsewhere(lease.demand, now)

    def for_client(self, node_id: str, fields: list[Any], now: float) -> None:
        """P_FOR_CLIENT without its tag: a lender's word to a client of this node."""
        proc, message = checked(fields, bytes, list)
        kinds = _FOR_CLIENTS.get(message[0]) if message and type(message[0]) is int else None
        if kinds is None:
            raise ProtocolError("that is no message for a client of another node")
        checked(message[1:], *kinds)
        if message[0] == m.DEMAND_STATUS:
            if message[2] != "ok":  # others may do better
                self._avoid(node_id, now)
                self._withdraw((proc, message[1]), node_id)
            return
        lease = self._by_lender.get((node_id, message[1]))
        if lease is None or lease.proc != proc:
            return  # it has ended meanwhile
        if message[0] == m.WORKER_DIED:
            self._died(lease, message, now)
        elif message[0] == m.RECALL_LEASE:
            self.outbox.append(("client", proc, [m.RECALL_LEASE, lease.lease_id]))

    def _withdraw(self, key: tuple[bytes, int], node_id: str) -> None:
        """A node waits for what it is not asked for any more: a lease of it has crossed the last P_DEMAND."""
        client = self._scheduler.clients.get(key[0])
        job = self._job_of(client) if client is not None else None
        if client is not None and job is not None and not self.told.get(key, {}).get(node_id):
            self._ask(node_id, client, job, key[1], 0)

    def _died(self, lease: AwayLease, message: list[Any], now: float) -> None:
        self._end(lease)
        if lease.open:
            self.outbox.append(("client", lease.proc, [m.WORKER_DIED, lease.lease_id, *message[2:]]))
        else:
            self.outbox.append(("undial", lease))
            self._scheduler.missed_elsewhere(lease.demand, now)

    def node_died(self, node: Node, now: float) -> None:
        """Every lease there has ended, and nobody knows which tasks had been started."""
        self._avoided.pop(node.node_id, None)
        text = f"{node} died" + (f": {node.reason}" if node.reason else "")
        facts = {"kind": "node", "node": node.node_id, "log_path": ""}
        for lease in [lease for lease in self.leases.values() if lease.node_id == node.node_id]:
            self._died(lease, [m.WORKER_DIED, lease.lender_id, 0, 0, _NO_TASK, text, facts], now)
        for share in self.told.values():
            share.pop(node.node_id, None)

    # --- what clients say ---

    def from_client(self, proc: bytes, message: list[Any]) -> bool:
        """Any message for the scheduler; whether it was a RETURN or KILL_WORKER of one of these leases."""
        if message[0] not in (m.RETURN, m.KILL_WORKER) or len(message) < 3 or type(message[1]) is not int:
            return False
        lease = self.leases.get(message[1])
        if lease is None or lease.proc != proc:
            return False
        if message[0] == m.RETURN:
            self._send_back(lease, message[2])
            if message[2] != m.RETURN_BROKEN:  # then the worker's death is awaited
                self._end(lease)
        else:
            self._forward(lease, [m.KILL_WORKER, lease.lender_id, *message[2:]])
        return True

    def _send_back(self, lease: AwayLease, state: int) -> None:
        self._forward(lease, [m.RETURN, lease.lender_id, state])

    def _forward(self, lease: AwayLease, message: list[Any]) -> None:
        self.outbox.append(("send", lease.node_id, [m.P_FROM_CLIENT, lease.proc, message]))

    def client_left(self, proc: bytes) -> None:
        """A client is gone: the nodes that have something of it are told."""
        ended = [lease for lease in self.leases.values() if lease.proc == proc]
        nodes = {lease.node_id for lease in ended}
        for key in [key for key in self.told if key[0] == proc]:
            nodes.update(self.told.pop(key))
        for lease in ended:
            self._end(lease)
            if not lease.open:
                self.outbox.append(("undial", lease))
        for node_id in sorted(nodes):
            self.outbox.append(("send", node_id, [m.P_CLIENT_LEFT, proc]))

    def _end(self, lease: AwayLease) -> None:
        del self.leases[lease.lease_id]
        del self._by_lender[lease.node_id, lease.lender_id]
        self._placement.released((lease.proc, lease.shape_id), lease.node_id)

    def validate(self) -> None:
        """Raise AssertionError if an invariant is broken."""
        assert {(each.node_id, each.lender_id): each for each in self.leases.values()} == self._by_lender
        for lease in self.leases.values():
            assert lease.node_id in self._view.live, lease
            assert lease.proc in self._scheduler.clients, lease
        for (proc, _), share in self.told.items():
            assert proc in self._scheduler.clients, proc
            assert all(node_id in self._view.live and backlog >= 0 for node_id, backlog in share.items()), (
                share
            )
