"""Processes for simulations: what drivers and workers do with references, by the rules of `shoal.owner.table`.

A process counts its uses of an id, and the holds that its daemon counts for it; at the last use it gives the holds back. Refs
that were read out of a container ride on it: when the container goes, those still in use are registered first. A task's
arguments are held by the submitter until the reply; what the worker keeps, or has sent on, is named in the reply, and the
submitter registers it for the worker before it lets go. A ref that leaves inside a value has *escaped*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.wire import messages as m

if TYPE_CHECKING:
    from tests.sim.machines import Node
    from tests.sim.network import Channel
    from tests.sim.refs import World

PENDING, THERE, BORROWED = "pending", "there", "borrowed"
PLAIN, WITH_REFS = "plain", "with refs"


class Entry:
    """An id that a process knows.

    Attributes:
        void: holds that a dead node's daemon should have registered; the process does not know that they never came.
        riders: ids read out of this container.
    """

    __slots__ = ("count", "escaped", "holds", "riders", "state", "void")

    def __init__(self, state: str) -> None:
        self.state = state
        self.count = 0
        self.holds = 0
        self.void = 0
        self.escaped = False
        self.riders: list[bytes] = []


class Task:
    """A task, as submitter and worker see it."""

    def __init__(
        self, number: int, submitter: Process, worker: Process, result: bytes, args: list[bytes]
    ) -> None:
        self.number = number
        self.submitter = submitter
        self.worker = worker
        self.result = result
        self.args = args
        self.riders: list[bytes] = []  # refs that the worker has until its reply, by the submitter's holds
        self.done = False


class Process:
    """A driver or a worker.

    Attributes:
        vars: ids that user code refers to, one for each ref.
        promised: what somebody of another node registers for this process: (giver's node, id) → how many are missing.
    """

    def __init__(self, world: World, node: Node, proc: bytes, job: int) -> None:
        self.world = world
        self.node = node
        self.proc = proc
        self.job = job
        self.alive = True
        self.entries: dict[bytes, Entry] = {}
        self.vars: list[bytes] = []
        self.promised: dict[tuple[str, bytes], int] = {}
        self.submitted: dict[int, Task] = {}
        self.running: dict[int, Task] = {}
        self._counter = 0
        network = world.network
        self.stream: Channel = network.channel(node.node_id, node.node_id + " ", self._at_daemon)
        node.store.register(proc, {"kind": "worker", "pid": len(world.processes)})

    def __repr__(self) -> str:
        return f"<process {self.proc.hex()}>"

    def _at_daemon(self, message: Any) -> None:
        if not self.node.alive:
            return
        if message is None:  # the confirmed death
            self.node.store.drop(self.proc, self.node.now)
            self.node.turn()
            self.world.death_confirmed(self)
        elif message[0] == m.SEAL:
            _, object_id, contained, holder = message
            self.node.seal(self.proc, object_id, contained, m.SEAL_PRIMARY, holder)
            self.world.sealed(object_id, contained)
            self.node.turn()
        else:
            self.node.from_process(self.proc, message)

    # --- the table ---

    def usable(self) -> list[bytes]:
        """Ids that user code of this process can refer to now."""
        return sorted({*self.vars, *(each for task in self.running.values() for each in task.riders)})

    def entry(self, object_id: bytes) -> Entry:
        if object_id not in self.entries:
            self.entries[object_id] = Entry(BORROWED)
        return self.entries[object_id]

    def use(self, object_id: bytes) -> None:
        self.entry(object_id).count += 1

    def unuse(self, object_id: bytes) -> None:
        entry = self.entries[object_id]
        entry.count -= 1
        if not entry.count:
            self._forget(object_id, entry)

    def _forget(self, object_id: bytes, entry: Entry) -> None:
        if entry.state == PENDING:
            return
        missing = []
        for inner in dict.fromkeys(entry.riders):
            known = self.entries.get(inner)
            if known is not None and known.count and not known.holds:
                known.void += not self.world.is_protected(self, inner)
                known.holds = 1
                missing.append(inner)
        if missing:
            self.stream.send([m.HOLD, self.proc, b"".join(missing)])
        del self.entries[object_id]
        if entry.holds:  # after the registration of what rode on it
            self.stream.send([m.RELEASE, object_id * entry.holds])

    def new_id(self) -> bytes:
        self._counter += 1
        return self.proc + self._counter.to_bytes(4, "big") + bytes(4)

    def escape(self, object_id: bytes) -> None:
        """The id is about to be sent inside a value."""
        entry = self.entry(object_id)
        if not entry.escaped:
            entry.escaped = True
            if entry.state == PENDING:
                self.stream.send([m.EXPECT, object_id])
            elif entry.state == THERE and not entry.holds:
                self._promote(object_id, entry)

    def _promote(self, object_id: bytes, entry: Entry) -> None:
        """Seal a small value that has escaped."""
        entry.holds += 1
        self.stream.send([m.SEAL, object_id, b"", self.proc])

    # --- what user code does ---

    def put(self, contained: list[bytes]) -> bytes:
        object_id = self.new_id()
        for inner in contained:
            self.escape(inner)
        entry = self.entries[object_id] = Entry(THERE)
        entry.count = entry.holds = 1
        self.vars.append(object_id)
        self.stream.send([m.SEAL, object_id, b"".join(contained), self.proc])
        return object_id

    def keep(self, object_id: bytes) -> None:
        """User code stores one more ref."""
        self.use(object_id)
        self.vars.append(object_id)

    def let_go(self, position: int) -> None:
        self.unuse(self.vars.pop(position))

    def read(self, object_id: bytes, inner: bytes) -> None:
        """User code takes a ref out of a container that it refers to."""
        self.entries[object_id].riders.append(inner)
        self.keep(inner)

    # --- tasks ---

    def submit(self, worker: Process, args: list[bytes]) -> None:
        world = self.world
        task = Task(world.next_number(), self, worker, self.new_id(), args)
        for object_id in args:
            self.escape(object_id)
            self.use(object_id)
        entry = self.entries[task.result] = Entry(PENDING)
        entry.count = 1
        self.vars.append(task.result)
        self.submitted[task.number] = task
        world.between(self, worker).send(("task", task))

    def start(self, task: Task) -> None:
        """A task has arrived."""
        self.running[task.number] = task
        for object_id in task.args:
            self.use(object_id)
            task.riders.append(object_id)

    def finish(self, task: Task, kind: str, contained: list[bytes]) -> None:
        """Reply: the result, and what is kept."""
        submitter = task.submitter
        if kind == WITH_REFS:
            for inner in contained:
                self.escape(inner)
            self.stream.send([m.SEAL, task.result, b"".join(contained), submitter.proc])
            submitter.promise(self, task.result)
        task.done = True
        kept = []
        lists = [task.riders]
        while lists:
            riders = lists.pop()
            for object_id in riders:
                entry = self.entries.get(object_id)
                if entry is None:
                    continue
                own = riders.count(object_id) if riders is task.riders else 0
                if entry.count > own or entry.escaped:
                    entry.void += not self.world.is_protected(self, object_id)
                    entry.holds += 1
                    kept.append(object_id)
                    self.promise(submitter, object_id)
                elif entry.riders and not entry.holds:
                    lists.append(entry.riders)
        del self.running[task.number]
        for object_id in task.riders:
            self.unuse(object_id)
        self.world.between(self, submitter).send(("done", task, kept, kind))

    def promise(self, giver: Process, object_id: bytes) -> None:
        """``giver`` registers a hold for this process."""
        key = (giver.node.node_id, object_id)
        if giver.node is not self.node:
            self.promised[key] = self.promised.get(key, 0) + 1

    def replied(self, task: Task, kept: list[bytes], kind: str) -> None:
        """The reply has arrived."""
        if not self.submitted.pop(task.number, None):
            return
        if kept:
            self.stream.send([m.HOLD, task.worker.proc, b"".join(kept)])
        entry = self.entries[task.result]
        if kind == WITH_REFS:
            entry.holds += 1
            entry.state = THERE
        else:
            entry.state = THERE
            if entry.escaped:
                self._promote(task.result, entry)
        if not entry.count:
            self._forget(task.result, entry)
        for object_id in task.args:
            self.unuse(object_id)

    def failed(self, task: Task) -> None:
        """The worker's death is confirmed: what it had sealed for this process, and not told, is given back."""
        if self.submitted.pop(task.number, None) is None:
            return
        entry = self.entries[task.result]
        entry.state = THERE
        entry.void = 0  # it has no holds yet
        left = self.node.store._ledger.clients[self.proc].holds.get(task.result, 0)
        if entry.escaped:  # its error is what readers get, unless the dead run has sealed it, with a hold
            self._promote(task.result, entry)
        elif left > 0:
            self.stream.send([m.RELEASE, task.result])
            self.world.contents.pop(task.result, None)  # if it escapes later, it is sealed once more
        if not entry.count:
            self._forget(task.result, entry)
        for object_id in task.args:
            self.unuse(object_id)

    def registered(self, giver: str, object_id: bytes) -> None:
        """A hold that another node promised has come."""
        key = (giver, object_id)
        self.promised[key] = self.promised.get(key, 0) - 1

    def node_died(self, node_id: str) -> None:
        """What that node has not registered by now never comes."""
        for (giver, object_id), missing in self.promised.items():
            if giver == node_id and missing > 0 and object_id in self.entries:
                self.entries[object_id].void += missing
        self.promised = {key: count for key, count in self.promised.items() if key[0] != node_id}
