"""What an actor remembers of its callers, and for how long."""

import pytest

from shoald.worker.callers import UNKNOWN, Callers


def test_frames_are_kept_until_they_are_heard():
    caller = Callers(30.0, 10).begins(b"a", 1, "socket")
    for data in (b"1", b"2", b"3"):
        caller.keep(data)
    caller.heard(2)
    assert caller.unheard == [b"3"]
    caller.heard(2)
    with pytest.raises(ValueError):
        caller.heard(4)
    with pytest.raises(ValueError):
        caller.heard(1)
    assert caller.unheard == [b"3"]


def test_a_caller_that_comes_back_in_time_is_known():
    callers = Callers(30.0, 10)
    caller = callers.begins(b"a", 1, "socket")
    caller.keep(b"1")
    assert not callers.parks(caller, 100.0)
    assert not callers.overdue(129.0)
    callers.resumes(caller, "other", 0)
    assert callers.get(b"a") is caller
    assert caller.connection == "other"
    assert not callers.overdue(1000.0)


def test_one_that_stays_away_is_forgotten():
    callers = Callers(30.0, 10)
    early, late = callers.begins(b"a", 1, "socket"), callers.begins(b"b", 1, "socket")
    callers.parks(early, 100.0)
    callers.parks(late, 120.0)
    assert callers.overdue(130.0) == [early]
    callers.forget(early)
    callers.forget(early)
    assert callers.get(b"a") is None
    assert list(callers) == [late]


def test_only_so_many_are_remembered():
    callers = Callers(30.0, 2)
    each = [callers.begins(bytes([number]), 1, "socket") for number in range(4)]
    gone = []
    for caller in each:
        for old in callers.parks(caller, 1.0):
            callers.forget(old)
            gone.append(old)
    assert gone == each[:2]


def test_a_new_session_is_not_ended_with_the_old_one():
    callers = Callers(30.0, 10)
    old = callers.begins(b"a", 1, "socket")
    callers.forget(old)
    new = callers.begins(b"a", 1, "socket")
    callers.forget(old)
    assert callers.get(b"a") is new


def with_call(callers, proc, session):
    caller = callers.begins(proc, session, "socket")
    caller.received = 1
    return caller


def test_of_a_session_that_was_never_known_nothing_arrived():
    callers = Callers(30.0, 10)
    assert callers.received_of_unknown(b"a", 1, 0) == 0
    assert callers.received_of_unknown(b"a", 1, 1) == UNKNOWN
    callers.forget(with_call(callers, b"a", 1))
    assert callers.received_of_unknown(b"a", 2, 0) == 0
    callers.parks(with_call(callers, b"a", 2), 0.0)
    (gone,) = callers.overdue(31.0)
    callers.forget(gone)
    assert callers.received_of_unknown(b"a", 2, 0) == UNKNOWN
    assert callers.received_of_unknown(b"a", 3, 0) == 0
    assert callers.received_of_unknown(b"b", 1, 0) == 0


def test_one_that_was_believed_gone_is_told_so_as_often_as_it_asks():
    callers = Callers(30.0, 10)
    assert callers.left(b"a") is None
    caller = with_call(callers, b"a", 4)
    assert callers.left(b"a") is caller
    callers.forget(caller)
    for _ in range(2):  # the first answer may be lost
        assert callers.received_of_unknown(b"a", 4, 0) == UNKNOWN
        assert callers.get(b"a") is None
    assert callers.is_late(b"a", 4, begins=True)
    assert not callers.is_late(b"a", 5, begins=True)


def test_with_too_many_forgotten_sessions_any_may_be_one():
    callers = Callers(30.0, 2)
    for number in range(3):
        callers.forget(callers.left(with_call(callers, bytes([number]), 1).proc))
        assert (callers.received_of_unknown(b"other", 1, 0) == UNKNOWN) == (number == 2)


def test_connections_that_were_given_up_are_late():
    callers = Callers(30.0, 10)
    assert not callers.is_late(b"a", 2, begins=True)
    callers.begins(b"a", 2, "socket")
    assert not callers.is_late(b"a", 2, begins=False)
    assert not callers.is_late(b"a", 3, begins=True)
    assert not callers.is_late(b"b", 1, begins=True)
    for session, begins in ((2, True), (1, True), (1, False)):
        assert callers.is_late(b"a", session, begins)
