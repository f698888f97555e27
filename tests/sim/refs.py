"""A cluster that does nothing but hand references around, from a seed, and two things that must hold of it.

    *Safety*: what a live process can refer to has a copy on a live node, from its seal on: directly, or within a container
    that it can refer to. Excepted is what no protocol can keep: what only a dead machine had, and refs whose hold a dead
    machine was to register.
    *Liveness*: when the network is whole and nothing happens any more, nothing else has a copy, and when no process is left,
    no core remembers anything.

`World.step` does one thing at random: processes put, submit, keep, read, drop and return; nodes pull and evict; connections
break, nodes are cut off, machines die, and the head restarts.
"""

from __future__ import annotations

import random
from typing import Any

from tests.sim.machines import HEAD, P_TOLD, Head, Node
from tests.sim.network import Channel, Clock, Network
from tests.sim.processes import PENDING, PLAIN, WITH_REFS, Process, Task

from shoal.config import load

CONFIG = load(
    {
        "heartbeat_ms": 500,
        "node_suspect_ms": 20_000,
        "node_dead_ms": 60_000,  # silence kills nobody by itself: machines die when the seed says so
        "directory_grace_ms": 2000,
        "report_parts_max": 4096,
    }
)
VARS_MAX = 6
SETTLE_S = 200.0


class World:
    """The cluster and everything that happens in it.

    Args:
        faults: whether machines die, connections break and the head restarts.
    """

    def __init__(self, seed: int, nodes: int = 3, workers: int = 2, *, faults: bool = True) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.network = Network(self.clock, self.random)
        self.faults = faults
        self.head = Head(self.network, CONFIG)
        self.head.on_dead = self._declared_dead
        self.nodes: dict[str, Node] = {}
        self.processes: dict[bytes, Process] = {}
        self.contents: dict[bytes, tuple[bytes, ...]] = {}  # of what was sealed
        self.lost: set[bytes] = set()
        self.history: list[str] = []
        self._written: dict[bytes, list[bytes]] = {}  # contents, from the moment they are decided
        self._channels: dict[tuple[bytes, bytes], Channel] = {}
        self._numbers = 0
        for number in range(1, nodes + 1):
            node = Node(number, self.network, self.head, lambda proc, message: None)
            node.on_told = lambda message, node=node: self._told(node, message)
            node.on_handed = lambda holder, object_id, giver: self._handed(holder, object_id, giver)
            node.nodes = self.nodes
            self.nodes[node.node_id] = node
        while any(len(node.peers) < nodes - 1 for node in self.nodes.values()):
            self.clock.run(1.0)
        self.jobs: dict[int, Process] = {}
        for job, node in enumerate(self.nodes.values()):
            self.jobs[job] = self._start(node, job)
            for _ in range(workers):
                self._start(self.random.choice(list(self.nodes.values())), job)
        self.clock.after_each = self.check

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _start(self, node: Node, job: int) -> Process:
        proc = node.new_process_id(self.next_number())
        process = self.processes[proc] = Process(self, node, proc, job)
        return process

    def between(self, one: Process, other: Process) -> Channel:
        """The task connection; it has no order with anything else."""
        key = (one.proc, other.proc)
        if key not in self._channels:
            suffix = " " if one.node is other.node else ""
            self._channels[key] = self.network.channel(
                one.node.node_id,
                other.node.node_id + suffix,
                lambda message: self._task_message(other, message),
            )
        return self._channels[key]

    def _task_message(self, process: Process, message: tuple[Any, ...]) -> None:
        if process.alive:
            if message[0] == "task":
                process.start(message[1])
            else:
                process.replied(*message[1:])

    # --- what the shells tell ---

    def sealed(self, object_id: bytes, contained: bytes) -> None:
        """A store has taken a seal in."""
        inner = tuple(contained[at : at + 16] for at in range(0, len(contained), 16))
        if object_id in self.contents:  # a second run of its task: what both copies contain
            inner = tuple(each for each in self.contents[object_id] if each in inner)
        self.contents[object_id] = inner

    def _handed(self, holder: bytes, object_id: bytes, giver: str) -> None:
        process = self.processes.get(holder)
        if process is not None and process.alive:
            process.registered(giver, object_id)

    def death_confirmed(self, process: Process) -> None:
        """A process's daemon has seen it die: its submitters hear of it."""
        for submitter in self.processes.values():
            for task in list(submitter.submitted.values()):
                if task.worker is process and submitter.alive:
                    self._tell_failed(process.node, submitter, task)

    def _tell_failed(self, node: Node, submitter: Process, task: Task) -> None:
        if submitter.node is node:
            submitter.failed(task)
        else:
            node.peers[submitter.node.node_id].send([P_TOLD, "task", submitter.proc, task])

    def _told(self, node: Node, message: list[Any]) -> None:
        if message[1] == "task":
            _, _, proc, task = message
            if self.processes[proc].alive:
                self.processes[proc].failed(task)
            return
        for process in list(self.processes.values()):
            if process.node is node and process.alive:
                process.node_died(message[2])
                for task in list(process.submitted.values()):
                    if task.worker.node.node_id == message[2]:
                        process.failed(task)

    def _declared_dead(self, node_id: str) -> None:
        if self.nodes[node_id].alive:
            self.kill_node(self.nodes[node_id])

    # --- what happens ---

    def step(self) -> None:
        """One thing happens, and some time passes."""
        weights = {
            self._put: 10, self._submit: 12, self._finish: 14, self._keep: 6, self._let_go: 12, self._read: 10,
            self._pull: 8, self._evict: 2,
        }  # fmt: skip
        if self.faults:
            weights |= {
                self._process_dies: 0.6, self._node_dies: 0.12, self._head_restarts: 0.3, self._cut_off: 0.5, self._heal: 0.7,
                self._part: 0.3,
            }  # fmt: skip
        [action] = self.random.choices(list(weights), list(weights.values()))
        action()
        self.check()
        self.clock.run(self.random.choice((0.0, 0.0, 0.0001, 0.001, 0.02, 0.5)))

    def _note(self, text: str) -> None:
        self.history.append(f"{self.clock.now:.4f} {text}")

    def _living(self) -> list[Process]:
        return [process for process in self.processes.values() if process.alive]

    def _someone(self) -> Process | None:
        living = self._living()
        return self.random.choice(living) if living else None

    def _some(self, ids: list[bytes], most: int) -> list[bytes]:
        return self.random.sample(ids, min(len(ids), self.random.randint(0, most)))

    def _put(self) -> None:
        process = self._someone()
        if process is not None and len(process.vars) < VARS_MAX:
            contained = self._some(process.usable(), 2)
            self._note(f"{process} puts {[each.hex() for each in contained]}")
            self._written[process.put(contained)] = contained

    def _submit(self) -> None:
        process = self._someone()
        if process is None:
            return
        workers = [each for each in self._living() if each.job == process.job and each is not process]
        workers = [each for each in workers if each is not self.jobs[each.job] and len(each.running) < 2]
        if workers and len(process.vars) < VARS_MAX:
            worker = self.random.choice(workers)
            args = self._some(process.usable(), 3)
            self._note(f"{process} submits to {worker}: {[each.hex() for each in args]}")
            process.submit(worker, args)

    def _finish(self) -> None:
        busy = [(process, task) for process in self._living() for task in process.running.values()]
        if busy:
            process, task = self.random.choice(busy)
            kind = self.random.choice((PLAIN, WITH_REFS))
            # A circle of containers is never freed, by design.
            ids = [each for each in process.usable() if task.result not in self._inside(each)]
            contained = self._some(ids, 2) if kind == WITH_REFS else []
            self._written[task.result] = contained
            self._note(f"{process} returns {task.result.hex()} {kind} {[each.hex() for each in contained]}")
            process.finish(task, kind, contained)

    def _inside(self, object_id: bytes) -> set[bytes]:
        """It, and all that it contains."""
        found = {object_id}
        todo = [object_id]
        while todo:
            fresh = set(self._written.get(todo.pop(), ())) - found
            found |= fresh
            todo += fresh
        return found

    def _keep(self) -> None:
        process = self._someone()
        if process is not None and process.usable() and len(process.vars) < VARS_MAX:
            object_id = self.random.choice(process.usable())
            self._note(f"{process} keeps {object_id.hex()}")
            process.keep(object_id)

    def _let_go(self) -> None:
        process = self._someone()
        if process is not None and process.vars:
            position = self.random.randrange(len(process.vars))
            self._note(f"{process} drops {process.vars[position].hex()}")
            process.let_go(position)

    def _read(self) -> None:
        process = self._someone()
        if process is None or len(process.vars) >= VARS_MAX:
            return
        readable = [
            each
            for each in process.usable()
            if self.contents.get(each) and each not in self.lost and process.entries[each].state != PENDING
        ]
        readable = [each for each in readable if self.is_protected(process, each)]
        if readable:
            container = self.random.choice(readable)
            inner = self.random.choice(self.contents[container])
            self._note(f"{process} reads {inner.hex()} out of {container.hex()}")
            process.read(container, inner)

    def _pull(self) -> None:
        node = self.random.choice(list(self.nodes.values()))
        ids = [each for process in self._living() if process.node is node for each in process.usable()]
        if node.alive and ids:
            object_id = self.random.choice(ids)
            sources = [
                each
                for each in self.nodes.values()
                if each.alive and each is not node and each.has(object_id)
            ]
            if sources:
                node.pull(object_id, self.random.choice(sources))

    def _evict(self) -> None:
        node = self.random.choice(list(self.nodes.values()))
        ids = list(node.store._ledger.objects)
        if node.alive and ids:
            object_id = self.random.choice(ids)
            if sum(each.alive and each.has(object_id) for each in self.nodes.values()) > 1:
                node.evict(object_id)

    # --- faults ---

    def _process_dies(self) -> None:
        process = self._someone()
        if process is not None:
            self.kill(process)

    def kill(self, process: Process) -> None:
        """It dies, and with it what works for it; what it had sent is handled."""
        if not process.alive:
            return
        self._note(f"{process} dies")
        process.alive = False
        process.stream.send(None)
        tasks = [task for other in self.processes.values() for task in other.running.values()]
        for task in tasks:
            if task.submitter is process:
                self.kill(task.worker)
        if process is self.jobs[process.job]:
            for other in self.processes.values():
                if other.job == process.job:
                    self.kill(other)
        for task in process.submitted.values():  # replies under way are read by nobody, nor are tasks run
            self.kill(task.worker)

    def _node_dies(self) -> None:
        living = [node for node in self.nodes.values() if node.alive]
        if len(living) > 1:
            self.kill_node(self.random.choice(living))

    def kill_node(self, node: Node) -> None:
        """Its machine is gone, with all processes; the head hears of it later."""
        self._note(f"{node} dies")
        node.kill()
        for process in list(self.processes.values()):
            if process.node is node:
                self.kill(process)
        alive = [each for each in self.nodes.values() if each.alive]
        for process in self._living():
            process.node_died(node.node_id)
        self.lost |= {each for each in self.contents if not any(other.has(each) for other in alive)}
        self.clock.at(self.random.choice((0.0, 1.0, 5.0)), lambda: self._head_notices(node))

    def _head_notices(self, node: Node) -> None:
        core = self.head.core
        record = core.nodes.get(node.node_id)
        if record is not None and self.head.up:
            record.last_seen = self.clock.now - 1000.0
            self.head.stream_ended(record.stream or 0)
            from shoald.head import events as ev

            self.head.take(ev.TimePasses())
        elif not self.head.up:
            self.clock.at(1.0, lambda: self._head_notices(node))

    def _head_restarts(self) -> None:
        if self.head.up:
            self._note("the head crashes")
            self.head.crash()
            self.clock.at(self.random.choice((0.0, 0.5, 3.0)), self.head.restart)

    def _cut_off(self) -> None:
        node = self.random.choice(list(self.nodes.values()))
        self._note(f"{node} is cut off from the head")
        self.network.part(node.node_id, HEAD)

    def _part(self) -> None:
        one, other = self.random.sample(list(self.nodes), 2)
        self._note(f"{one[:6]} and {other[:6]} are parted")
        self.network.part(one, other)

    def _heal(self) -> None:
        self._note("the network is whole")
        self.network.heal()

    # --- what must hold ---

    def protected(self) -> dict[Process, set[bytes]]:
        """For each process, what it can refer to and somebody is bound to keep for it: by a hold of its own, of the submitter of
        a task that it runs, or of a container that is protected.
        """
        sure = {
            process: {
                each
                for each, entry in process.entries.items()
                if entry.holds > entry.void or entry.state == PENDING
            }
            for process in self._living()
        }
        fresh = {process: set(ids) for process, ids in sure.items()}
        while fresh:
            process, found = fresh.popitem()
            more: dict[Process, set[bytes]] = {process: set()}
            for container in found - self.lost:
                more[process] |= process.entries.keys() & set(self.contents.get(container, ()))
            for task in process.submitted.values():
                worker = task.worker
                if worker in sure and task.number in worker.running:
                    more[worker] = more.get(worker, set()) | (found & set(task.args) & worker.entries.keys())
            for other, ids in more.items():
                if ids - sure[other]:
                    fresh.setdefault(other, set()).update(ids - sure[other])
                    sure[other] |= ids
        return sure

    def is_protected(self, process: Process, object_id: bytes) -> bool:
        return object_id in self.protected().get(process, ())

    def referenced(self) -> set[bytes]:
        """Everything that has to be there, if it was sealed and is not lost."""
        found = set().union(*self.protected().values())
        todo = list(found)
        while todo:
            object_id = todo.pop()
            if object_id not in self.lost:
                fresh = set(self.contents.get(object_id, ())) - found
                found |= fresh
                todo += fresh
        return found

    def check(self) -> None:
        """Safety."""
        alive = [node for node in self.nodes.values() if node.alive]
        for object_id in self.referenced() & self.contents.keys():
            if object_id not in self.lost and not any(node.has(object_id) for node in alive):
                raise AssertionError(f"{object_id.hex()} was freed while it was referenced")

    def validate(self) -> None:
        """Every core is sound."""
        for node in self.nodes.values():
            if node.alive:
                node.validate()
        self.head.core.validate()

    def settle(self) -> None:
        """Liveness: the network is whole, all is said; nothing is left but what is referenced."""
        self.network.heal()
        self.clock.run(SETTLE_S)
        self.validate()
        alive = [node for node in self.nodes.values() if node.alive]
        kept = self.referenced()
        todo = list(kept)
        while (
            todo
        ):  # copies hold what they contain: of whatever run, and those that had just left a machine that died
            object_id = todo.pop()
            fresh = {inner for node in alive for inner in node.contained(object_id)} - kept
            kept |= fresh
            todo += fresh
        for node in self.nodes.values():
            if node.alive:
                left = node.store._ledger.objects.keys() - kept
                assert not left, f"{node} keeps {[each.hex() for each in left]}"

    def end(self) -> None:
        """All processes end; nobody remembers anything."""
        for process in self.processes.values():
            self.kill(process)
        self.settle()
        for node in self.nodes.values():
            if node.alive:
                ledger = node.store._ledger
                rest = (ledger.objects, ledger.early, ledger.shared, ledger.expected, ledger.changes)
                assert not any(rest), (node, rest)
                assert all(not node.store.sharing.in_transit(other) for other in node.peers)
                assert not node.refs._waiting
                assert node.buffer.empty
        assert not len(self.head.core.directory), "the head remembers objects"
