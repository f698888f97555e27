"""The calls of one actor against a model of it: order, deaths, restarts, cancels; no call lost, none run twice unasked."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actorcaller import Caller, error_of, sent
from shoal.actors.calls import CONNECTED, DEAD
from shoal.exceptions import ActorDiedError, ActorUnavailableError
from shoal.owner.objects import FAILED, INLINE, PENDING

DEATH = {"reason": "it was killed", "pid": 1, "exit_code": 0, "signal": 9}


def test_calls_wait_for_the_connection_and_go_in_order():
    caller = Caller()
    entries = [caller.submit() for _ in range(3)]
    lease = caller.connect()
    assert sent(lease) == [entry.id for entry in entries]
    assert caller.lifetime.count == 2  # its handle's, and one while there are calls
    for entry in entries:
        caller.answer(lease, entry.id)
    assert [entry.state for entry in entries] == [INLINE] * 3
    assert caller.lifetime.count == 1
    caller.validate()


def test_a_call_without_its_argument_holds_up_the_later_ones():
    caller = Caller()
    argument = caller.argument()
    first, second = caller.submit(argument), caller.submit()
    lease = caller.connect()
    assert not sent(lease)
    caller.table.fulfil_plain(argument, b"v")
    assert sent(lease) == [first.id, second.id]


def test_an_unordered_actor_gets_what_is_ready():
    caller = Caller(ordered=False)
    argument = caller.argument()
    first, second = caller.submit(argument), caller.submit()
    lease = caller.connect()
    assert sent(lease) == [second.id]
    caller.table.fulfil_plain(argument, b"v")
    assert sent(lease) == [second.id, first.id]
    caller.validate()


def test_a_failed_argument_fails_its_call_at_once_and_no_other():
    caller = Caller()
    slow, failing = caller.argument(), caller.argument()
    first, second, third = caller.submit(slow), caller.submit(failing), caller.submit()
    caller.table.fail(failing, b"error")
    assert second.state == FAILED
    lease = caller.connect()
    caller.table.fulfil_plain(slow, b"v")
    assert sent(lease) == [first.id, third.id]


def test_calls_sent_are_bounded():
    caller = Caller(sent_max=2)
    entries = [caller.submit() for _ in range(4)]
    lease = caller.connect()
    assert len(lease.inflight) == 2
    caller.answer(lease, entries[0].id)
    assert list(lease.inflight) == [entries[1].id, entries[2].id]


def test_at_a_restart_what_surely_did_not_start_is_sent_again():
    caller = Caller()
    ran, current, later = caller.submit(), caller.submit(), caller.submit()
    lease = caller.connect()
    caller.answer(lease, ran.id)
    caller.calls.restarting({**DEATH, "current": current.id})
    assert isinstance(error_of(current), ActorUnavailableError)
    assert later.state == PENDING
    again = caller.connect()
    assert list(again.inflight) == [later.id]
    caller.validate()


def test_no_call_ran_in_an_actor_that_was_not_made():
    caller = Caller()
    entries = [caller.submit() for _ in range(2)]
    caller.connect()
    caller.calls.restarting({**DEATH, "unmade": True})
    assert list(caller.connect().inflight) == [entry.id for entry in entries]


def test_without_knowing_what_ran_all_that_was_sent_is_in_doubt():
    caller = Caller()
    entries = [caller.submit() for _ in range(2)]
    caller.connect()
    waiting = caller.submit(caller.argument())
    caller.calls.restarting({**DEATH, "current": bytes(16)})
    assert [type(error_of(entry)) for entry in entries] == [ActorUnavailableError] * 2
    assert waiting.state == PENDING


@pytest.mark.parametrize("ordered", [True, False])
def test_what_an_actor_that_leaves_has_not_begun_is_sent_again_in_order(ordered):
    """Its process is killed as it does not end in time: only what it had begun is in doubt."""
    caller = Caller(ordered)
    first, second, third, fourth = (caller.submit() for _ in range(4))
    lease = caller.connect()
    caller.calls.not_begun.update([second.id, third.id])
    caller.answer(lease, first.id)
    caller.calls.restarting({**DEATH, "current": fourth.id if ordered else bytes(16)})
    assert isinstance(error_of(fourth), ActorUnavailableError)
    assert (second.state, third.state) == (PENDING, PENDING)
    again = caller.connect()
    assert sent(again) == [second.id, third.id]
    assert not caller.calls.not_begun, "the next process has said nothing"
    caller.validate()


def test_retries_are_sent_first_and_in_order():
    caller = Caller()
    one, two = caller.submit(retries=1), caller.submit(retries=1)
    caller.connect()
    caller.calls.restarting({**DEATH, "current": bytes(16)})
    three = caller.submit()
    lease = caller.connect()
    assert list(lease.inflight) == [one.id, two.id, three.id]
    caller.calls.restarting({**DEATH, "current": two.id})
    assert [type(error_of(entry)) for entry in (one, two)] == [ActorUnavailableError] * 2


def test_a_dead_actor_fails_everything_now_and_later():
    caller = Caller()
    sent = caller.submit(retries=-1)
    caller.connect()
    waiting, aside = caller.submit(caller.argument()), caller.submit()
    caller.calls.died({**DEATH, "name": "one"})
    later = caller.submit()
    for entry in (sent, waiting, aside, later):
        error = error_of(entry)
        assert isinstance(error, ActorDiedError)
        assert "it was killed" in str(error)
    assert caller.lifetime.count == 1
    caller.validate()


def test_the_constructor_s_error_is_what_callers_get():
    caller = Caller()
    entry = caller.submit()
    caller.calls.died({"reason": "its constructor raised", "error": b"made by the actor"})
    assert entry.value == b"made by the actor"


def test_a_new_connection_to_a_living_actor_leaves_the_old_calls_in_doubt():
    caller = Caller()
    entry = caller.submit()
    caller.connect()
    caller.calls.lost()
    later = caller.submit()
    lease = caller.connect()
    assert isinstance(error_of(entry), ActorUnavailableError)
    assert list(lease.inflight) == [later.id]


def test_when_a_new_connection_ends_the_last_calls_the_lifetime_object_goes():
    caller = Caller()
    entry = caller.submit()
    caller.connect()
    assert caller.lifetime.count == 2
    caller.calls.lost()
    caller.connect()
    assert isinstance(error_of(entry), ActorUnavailableError)
    assert caller.lifetime.count == 1, "an actor whose handles are gone would never end"
    caller.validate()


class OneActor(RuleBasedStateMachine):
    """Calls of one process to an actor that runs them in order, dies and comes back."""

    def __init__(self):
        super().__init__()
        self.caller = Caller()
        self.lease = None
        self.entries = []  # in the order of submission
        self.runs = {}  # id → how often it ran
        self.finished = []  # ids in the order in which they ran
        self.arguments = []
        self.retriable = set()

    @precondition(lambda self: len(self.entries) < 30)
    @rule(retries=st.sampled_from([0, 0, 1, -1]), waits=st.booleans())
    def submit(self, retries, waits):
        arguments = ()
        if waits:
            arguments = (self.caller.argument(),)
            self.arguments += arguments
        entry = self.caller.submit(*arguments, retries=retries)
        self.entries.append(entry)
        if retries:
            self.retriable.add(entry.id)

    @precondition(lambda self: self.arguments)
    @rule(data=st.data(), fails=st.booleans())
    def argument_comes(self, data, fails):
        entry = self.arguments.pop(data.draw(st.integers(0, len(self.arguments) - 1)))
        if fails:
            self.caller.table.fail(entry, b"error")
        else:
            self.caller.table.fulfil_plain(entry, b"v")

    @precondition(lambda self: self.lease is None and self.caller.calls.state != DEAD)
    @rule()
    def connect(self):
        self.lease = self.caller.connect()

    def _run_next(self):
        task_id = next(iter(self.lease.inflight))
        self.runs[task_id] = self.runs.get(task_id, 0) + 1
        self.finished.append(task_id)
        return task_id

    @precondition(lambda self: self.lease is not None and self.lease.inflight)
    @rule()
    def answer(self):
        self.caller.answer(self.lease, self._run_next())

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def cancel(self, data):
        entry = self.entries[data.draw(st.integers(0, len(self.entries) - 1))]
        if entry.task is not None and entry.task.lease is None:
            self.caller.dispatch.cancel(entry.task, False, True)
            self.caller.calls.settle()

    @precondition(lambda self: self.lease is not None)
    @rule(told=st.booleans(), ran=st.integers(0, 3), final=st.booleans())
    def die(self, told, ran, final):
        """Up to ``ran`` calls were run and not answered; ``told``: the last of these is named."""
        current = bytes(16)
        for task_id in list(self.lease.inflight)[:ran]:
            self.runs[task_id] = self.runs.get(task_id, 0) + 1
            self.finished.append(task_id)
            current = task_id
        self.caller.calls.lost()
        details = {**DEATH, "current": current if told and ran else bytes(16)}
        if final and len(self.entries) > 20:
            self.caller.calls.died(details)
        else:
            self.caller.calls.restarting(details)
        self.lease = None

    @invariant()
    def holds(self):
        self.caller.validate()
        assert self.caller.calls.state != CONNECTED or self.lease is not None
        for task_id, count in self.runs.items():
            assert count == 1 or task_id in self.retriable, "a call ran twice"

    def teardown(self):
        """Healed, everything settles, and what ran for the first time did so in order."""
        for entry in self.arguments:
            self.caller.table.fulfil_plain(entry, b"v")
        if self.caller.calls.state != DEAD and self.lease is None:
            self.connect()
        while self.lease is not None and self.lease.inflight:
            self.answer()
        assert all(entry.state in (INLINE, FAILED) for entry in self.entries)
        assert all(entry.state != INLINE or entry.id in self.runs for entry in self.entries)
        assert self.caller.lifetime.count == 1
        place = {entry.id: number for number, entry in enumerate(self.entries)}
        firsts = list(dict.fromkeys(self.finished))
        once = [place[task_id] for task_id in firsts if task_id not in self.retriable]
        assert once == sorted(once), "calls ran out of order"
        self.caller.validate()


TestOneActor = OneActor.TestCase
TestOneActor.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
