"""A head's table of placement groups with the cores of nodes, joined by streams that a test carries, breaks and mends."""

import dataclasses

from schedulerparts import Node
from shoal.config import Config
from shoal.wire import messages as m
from shoald.head import groupwords as gw
from shoald.head.groups import GroupTable
from shoald.node.groups import GroupCore

MAKER = b"driver-1"
JOB = "job1"


class Member:
    """A node: its scheduler and groups, and its stream to the head."""

    def __init__(self, cluster, node_id, cpus):
        self.cluster = cluster
        self.node_id = node_id
        self.node = Node({"CPU": cpus * 10_000})
        self.node.driver(MAKER, JOB)
        self.core = self.node.core
        self.groups = GroupCore(self.core, cluster.config, node_id, True)
        self.core.view = self
        self.connected = False
        self.up, self.down = [], []
        self.told = []
        self.labels = {}

    def alive(self):
        return [other for other in self.cluster.members.values() if other is not self]

    @property
    def resources(self):
        return self.core.ledger.total

    @property
    def available(self):
        return self.core.available()

    def collect(self):
        """Carry the core's effects to where they belong."""
        outbox, self.groups.outbox = self.groups.outbox, []
        for effect in outbox:
            if effect[0] == "send":
                self.told.append(effect[2])
            elif self.connected:
                self.up.append(_news(effect[1]))

    def states_of(self, group_id):
        """The states that this node's processes were told of the group."""
        return [message[2] for message in self.told if message[:2] == [m.GROUP_STATE, group_id]]


class GroupCluster:
    """A head's table and nodes; time passes when it is told to."""

    def __init__(self, *cpus, **config):
        self.config = dataclasses.replace(Config(), **config)
        self.now = 100.0
        self.members = {}
        self.gauges = {}
        self.table = GroupTable(self.rooms, self.config)
        self.made = 0
        for count in cpus:
            self.join(count)

    def rooms(self):
        return {
            node_id: gw.NodeRoom(member.resources, self.gauges[node_id], member.labels)
            for node_id, member in self.members.items()
            if member.connected
        }

    def join(self, cpus):
        member = Member(self, f"{len(self.gauges) + 1:x}" * 32, cpus)
        self.gauges[member.node_id] = member.available
        self.members[member.node_id] = member
        self.connect(member)
        for each in self.members.values():
            each.groups.nodes_changed(self.now)
            each.collect()
        return member

    def connect(self, member):
        member.connected = True
        self.gauges[member.node_id] = member.available
        self.table.nodes_changed(self.now)
        member.groups.connected(self.now)
        member.collect()

    def disconnect(self, member):
        member.connected = False
        member.up, member.down = [], []
        member.groups.disconnected()

    def die(self, member):
        del self.members[member.node_id]
        self.table.node_died(member.node_id, "it was killed", self.now)
        self.carry_head()
        for each in self.members.values():
            each.groups.nodes_changed(self.now)
            each.collect()

    # --- what processes ask ---

    def create(self, member, strategy, *cpus, name="", detached=False, job=JOB, selectors=()):
        self.made += 1
        group_id = self.made.to_bytes(16, "big")
        info = {
            "name": name, "namespace": "n", "strategy": strategy, "detached": detached,
            "bundles": [{"CPU": count * 10_000} for count in cpus], "selectors": list(selectors),
        }  # fmt: skip
        member.groups.create(MAKER, job, group_id, info, 7 if name else 0, self.now)
        member.collect()
        return group_id

    def remove(self, member, group_id):
        member.groups.remove(group_id, self.now)
        member.collect()

    # --- carrying ---

    def carry_head(self):
        self.saved = [effect for effect in self.table.take() if not self._send(effect)]

    def _send(self, effect):
        if not isinstance(effect, gw.TellGroups):
            return False
        member = self.members.get(effect.node_id)
        if member is not None and member.connected:
            member.down.append(effect)
        return True

    def hear_one(self, member):
        """The head hears the next message of a node."""
        news = member.up.pop(0)
        self.table.heard(member.node_id, news, self.now)
        self.carry_head()

    def obey_one(self, member):
        """A node takes the next message of the head."""
        told = member.down.pop(0)
        member.groups.ordered([_order(order) for order in told.orders], self.now)
        member.groups.states([_state(state) for state in told.states], self.now)
        member.collect()

    def measure(self, member):
        """A node tells the head what it has free."""
        if member.connected and not member.up and self.gauges[member.node_id] != member.available:
            self.gauges[member.node_id] = member.available
            self.table.gauges(member.node_id, self.now)

    def turn(self, member):
        member.groups.turn(self.now)
        member.node.run()
        member.groups.turn(self.now)
        member.collect()

    def tick(self):
        self.table.tick(self.now)
        self.carry_head()

    def settle(self, rounds=40):
        """Carry everything until nothing more happens, with time enough for every retry."""
        for _ in range(rounds):
            self.now += 0.11
            for member in list(self.members.values()):
                member.node.now = self.now
                self.turn(member)
                while member.up:
                    self.hear_one(member)
                self.measure(member)
            self.tick()
            for member in self.members.values():
                while member.down:
                    self.obey_one(member)
            self.validate()

    def validate(self):
        self.table.validate(set(self.members))
        for member in self.members.values():
            member.groups.validate()
            member.core.validate()

    def state(self, group_id):
        return self.table._records[group_id].view

    def check_settled(self):
        """What the head believes is what the nodes have, and nothing else is reserved."""
        wanted = {node_id: {} for node_id in self.members}
        for view in self.table.views():
            if view.state in (gw.CREATED, gw.RESCHEDULING):
                for index, node_id in enumerate(view.nodes):
                    if node_id:
                        wanted[node_id][view.group.group_id, index] = "committed"
        for node_id, member in self.members.items():
            assert member.groups.bundles.states == wanted[node_id], node_id


def _news(fields):
    return gw.News(
        bool(fields.get("snapshot")),
        tuple(
            gw.Held(each["group_id"], tuple(each["prepared"]), tuple(each["committed"]))
            for each in fields.get("held", ())
        ),
        tuple(map(_group, fields.get("made", ()))),
        tuple(map(_group, fields.get("wanted", ()))),
        tuple(gw.Answer(**each) for each in fields.get("answers", ())),
        tuple(fields.get("removed", ())),
        tuple(fields.get("watched", ())),
    )


def _group(info):
    selectors = tuple(dict(bundle.get("selector", {})) for bundle in info["bundles"])
    bundles = tuple(dict(bundle["resources"]) for bundle in info["bundles"])
    return gw.Group(**{**info, "bundles": bundles, "selectors": selectors if any(selectors) else ()})


def _order(order):
    bundles = [{"resources": dict(amounts)} for amounts in order.bundles]
    return {
        "kind": order.kind, "group_id": order.group_id, "attempt": order.attempt, "indices": list(order.indices),
        "bundles": bundles,
    }  # fmt: skip


def _state(state):
    group = dataclasses.asdict(state.group)
    selectors = group.pop("selectors") or [{}] * len(state.group.bundles)
    group["bundles"] = [
        {"resources": dict(amounts), "selector": selector}
        for amounts, selector in zip(state.group.bundles, selectors, strict=True)
    ]
    return {"group": group, "state": state.state, "reason": state.reason, "nodes": list(state.nodes)}
