"""Both ends of a connection that breaks while the actor lives: every call runs once, in order, and is answered once."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actorcaller import Caller, error_of, sent
from shoal.actors.calls import BROKEN, CONNECTED, RESUMING
from shoal.exceptions import ActorUnavailableError
from shoal.owner.objects import FAILED, INLINE, PENDING
from shoal.wire import messages as m
from shoald.worker.callers import UNKNOWN, Callers


class Pair(RuleBasedStateMachine):
    """A caller and an actor that runs calls in order; what is on the way is lost when the connection breaks."""

    def __init__(self):
        super().__init__()
        self.caller = Caller()
        self.callers = Callers(30.0, 10)
        self.lease = None
        self.socket = 0  # number of the present connection
        self.there = []  # messages on their way to the actor
        self.back = []  # frames on their way to the caller
        self.late = (0, [])  # a connection that was given up, and what it still carries
        self.inbox = []
        self.ran = []
        self.entries = []
        self.forgotten = False
        self._connect()

    @property
    def actor_side(self):
        return self.callers.get(b"caller")

    def _connect(self):
        self.there, self.back = [], []
        self.socket += 1
        if self.caller.incarnation:
            self.lease = self.caller.connect_again()
        else:
            self.lease = self.caller.connect()

    def _flush(self):
        self.there += self.lease.outbox
        self.lease.outbox = []

    @precondition(lambda self: len(self.entries) < 40)
    @rule(count=st.integers(1, 4))
    def submit(self, count):
        self.entries += [self.caller.submit() for _ in range(count)]

    @precondition(lambda self: self.lease is not None)
    @rule(count=st.integers(1, 6))
    def travel(self, count):
        """Messages arrive at the actor."""
        self._flush()
        taken, self.there = self.there[:count], self.there[count:]
        for message in taken:
            self._arrive(message, self.socket)

    @precondition(lambda self: self.late[1])
    @rule()
    def arrive_late(self):
        """What lay in the socket of a connection that was given up is read at last."""
        socket, messages = self.late
        self.late = (0, [])
        for message in messages:
            self._arrive(message, socket)

    def _arrive(self, message, socket):
        side = self.actor_side
        if message[0] == m.JOB:
            if not self.callers.is_late(b"caller", message[1]["session"], begins=True):
                if side is not None:
                    self.callers.forget(side)
                self.callers.begins(b"caller", message[1]["session"], socket)
        elif message[0] == m.RESUME:
            if not self.callers.is_late(b"caller", message[1], begins=False):
                self._resume(side, socket, *message[1:])
        elif side is None or side.connection != socket:
            return  # the connection was closed
        elif message[0] == m.TASK:
            side.received += 1
            self.inbox.append(message[1])
        elif message[0] == m.HEARD:
            side.heard(message[1])

    def _resume(self, side, socket, session, heard):
        answers = []
        if side is None or side.session != session:
            assert not self.inbox
            received = self.callers.received_of_unknown(b"caller", session, heard)
            answers.append([(m.RESUMED, received)])
            if received != UNKNOWN:
                self.callers.begins(b"caller", session, socket)
        else:
            self.callers.resumes(side, socket, heard)
            answers += [[(m.RESUMED, side.received)], *side.unheard]
            self.inbox += side.held
            side.held.clear()
        if socket == self.socket:
            self.back += answers

    @precondition(lambda self: self.inbox)
    @rule(count=st.integers(1, 3))
    def run(self, count):
        """The actor runs calls and sends one frame; into the void if there is no connection."""
        ran, self.inbox = self.inbox[:count], self.inbox[count:]
        self.ran += ran
        data = [(m.DONE, task_id, [b"v"], b"", 1.0) for task_id in ran]
        self.actor_side.keep(data)
        if self.actor_side.connection == self.socket and self.lease is not None:
            self.back.append(data)

    @precondition(lambda self: self.lease is not None and self.back)
    @rule(count=st.integers(1, 4))
    def hear(self, count):
        """Frames arrive at the caller."""
        calls, lease = self.caller.calls, self.lease
        taken, self.back = self.back[:count], self.back[count:]
        for body in taken:
            if body[0][0] == m.RESUMED:
                calls.resumed(lease, body[0][1])
                if calls.lease is None:  # its session is over, and another connection was asked for
                    assert any(said[0] == m.CONNECT_ACTOR for said in self.caller.table.node_out)
                    self.lease = None
                    break
                continue
            for message in body:
                self.caller.dispatch.done(lease, message)
            calls.heard_frame(lease, 100)
        calls.settle()

    @precondition(lambda self: self.lease is not None)
    @rule(actor_first=st.booleans(), late=st.booleans())
    def cut(self, actor_first, late):
        self._flush()
        self.late = (self.socket, self.there) if late and not actor_first else (0, [])
        self.lease = None
        self.caller.calls.lost()
        side = self.actor_side
        if actor_first and side is not None and side.connection is not None:
            # It notices before the caller is back, and holds what has not started; else the caller is faster.
            side.held += self.inbox
            self.inbox.clear()
            self.callers.parks(side, 0.0)

    @precondition(lambda self: self.actor_side is not None)
    @rule()
    def leave(self):
        """The caller's node is cut off, and believed dead: the actor is told that the caller is gone."""
        side = self.callers.left(b"caller")
        self.callers.forget(side)
        self.forgotten = True
        self.inbox.clear()
        if side.connection == self.socket and self.lease is not None:
            self.cut(actor_first=False, late=False)

    @precondition(lambda self: self.lease is None)
    @rule()
    def connect(self):
        self._connect()

    @invariant()
    def holds(self):
        self.caller.validate()
        assert len(self.ran) == len(set(self.ran)), "a call ran twice"
        assert self.caller.calls.state in (CONNECTED, BROKEN, RESUMING)

    def teardown(self):
        """Healed: everything runs, in order, and is answered."""
        for _ in range(200):
            if self.lease is None:
                self._connect()
            self.travel(100)
            if self.inbox:
                self.run(3)
            if self.back:
                self.hear(100)
        answered = [entry.id for entry in self.entries if entry.state == INLINE]
        if self.forgotten:  # what it had been sent is in doubt
            assert all(entry.state in (INLINE, FAILED) for entry in self.entries)
            ran = set(self.ran)
            assert ran.issuperset(answered)
            assert self.ran == [entry.id for entry in self.entries if entry.id in ran]
        else:
            assert self.ran == answered == [entry.id for entry in self.entries]


TestPair = Pair.TestCase
TestPair.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def connected(count):
    """A caller with as many calls sent, its lease, and the entries."""
    caller = Caller()
    entries = [caller.submit() for _ in range(count)]
    return caller, caller.connect(), entries


def resume(caller, received):
    """Break the connection; the actor has received as many."""
    caller.calls.lost()
    lease = caller.connect_again()
    caller.calls.resumed(lease, received)
    return lease


def test_what_was_not_received_is_sent_again_and_the_rest_is_awaited():
    caller, _, entries = connected(4)
    lease = resume(caller, 2)
    assert sent(lease) == [entry.id for entry in entries[2:]]
    for entry in entries:
        caller.answer(lease, entry.id)
    assert [entry.state for entry in entries] == [INLINE] * 4


def test_nothing_is_sent_before_the_actor_has_said_what_it_received():
    caller, _, entries = connected(2)
    caller.calls.lost()
    lease = caller.connect_again()
    later = caller.submit()
    assert not sent(lease)
    caller.calls.resumed(lease, 0)
    assert sent(lease) == [*(entry.id for entry in entries), later.id]
    caller.validate()


def test_a_cancel_is_said_again_or_not_sent_at_all():
    caller, _, (received, lost) = connected(2)
    caller.calls.lost()
    for entry in (received, lost):
        caller.dispatch.cancel(entry.task, False, True)
    lease = caller.connect_again()
    caller.calls.resumed(lease, 1)
    assert lease.outbox[1:] == [(m.CANCEL, received.id, False, True)]
    assert lost.value == b"cancelled"
    caller.validate()


def test_an_actor_that_has_forgotten_the_caller_leaves_its_calls_in_doubt():
    caller, _, (entry,) = connected(1)
    later = caller.submit()
    lease = resume(caller, UNKNOWN)
    assert isinstance(error_of(entry), ActorUnavailableError)
    # That session is over: what comes now goes in another one, over another connection.
    assert caller.calls.lease is None
    assert lease.broken
    assert isinstance(error_of(later), ActorUnavailableError)
    assert [m.CONNECT_ACTOR, caller.calls.actor_id, caller.incarnation] in caller.table.node_out
    after = caller.submit()
    again = caller.connect_again()
    assert again.outbox[0][0] == m.JOB
    assert list(again.inflight) == [after.id]
    assert caller.calls.sent == 1


def test_connections_that_break_again_and_again_are_given_up():
    caller, _, (entry,) = connected(1)
    most = caller.dispatch.config.actor_resumes_max
    resume(caller, 1)  # the call has arrived: that is progress
    for _ in range(most):
        resume(caller, 1)
    assert entry.state == PENDING
    caller.calls.lost()
    caller.connect_again()
    assert isinstance(error_of(entry), ActorUnavailableError)


def test_nothing_under_way_begins_anew():
    caller, lease, (entry,) = connected(1)
    caller.answer(lease, entry.id)
    before = caller.calls.session
    caller.calls.lost()
    (first,) = caller.connect_again().outbox
    assert first[0] == m.JOB
    assert first[1]["session"] > before
    assert caller.calls.sent == 0


def test_a_connection_that_is_read_late_runs_nothing_again():
    """The first one was cut before the actor read it; its calls come over the second one, and then it is read after all."""
    pair = Pair()
    pair.submit(2)
    pair.cut(actor_first=False, late=True)
    pair.connect()
    for step in (pair.travel, pair.hear, pair.travel, pair.run):
        step(10)
    assert len(pair.ran) == 2
    pair.arrive_late()
    assert not pair.inbox
    pair.teardown()


LEFT = {"reason": "its node drains", "current": m.LEFT, "unmade": True}


def took(caller, details, ended):
    caller.calls.restarting(caller.calls.known(details, ended))
    caller.validate()


def test_calls_without_an_answer_from_an_actor_that_left_never_began():
    caller, _, (entry,) = connected(1)
    took(caller, {**LEFT, "incarnation": 1}, ended=True)
    assert list(caller.connect().inflight) == [entry.id]


def test_that_is_not_known_over_a_connection_that_broke():
    caller, _, (entry, given_back) = connected(2)
    caller.calls.not_begun.add(given_back.id)
    took(caller, LEFT, ended=False)
    assert isinstance(error_of(entry), ActorUnavailableError)
    assert given_back.state == PENDING, "the actor itself has said so"


def test_nor_before_the_actor_has_said_what_it_received():
    """Its replies may be on their way over the connection before, which it does not know to be broken."""
    caller, _, (entry,) = connected(1)
    caller.calls.lost()
    caller.connect_again()
    caller.calls.lost()
    took(caller, LEFT, ended=True)
    assert isinstance(error_of(entry), ActorUnavailableError)


def test_when_it_has_said_it_the_new_connection_counts():
    caller, _, (entry,) = connected(1)
    resume(caller, 1)
    took(caller, LEFT, ended=True)
    assert list(caller.connect().inflight) == [entry.id]


def test_the_word_on_another_process_says_nothing_of_the_calls_to_this_one():
    caller, _, (entry,) = connected(1)
    took(caller, {**LEFT, "current": bytes(16), "incarnation": 2}, ended=True)
    assert isinstance(error_of(entry), ActorUnavailableError)
