"""Faults of the daemon: said once with their traceback, then rarely, and never forgotten for want of memory."""

import os

from shoald.shell import faults
from shoald.shell.carrying import carry_out
from shoald.shell.daemonlog import DaemonLog


class Log(DaemonLog):
    def __init__(self):
        super().__init__(os.devnull, 1, 1)
        self.said, self.no_memory = [], False

    def line(self, text):
        if self.no_memory:
            raise MemoryError
        self.said.append(text)


def fail(error):
    raise error


def met(reports, error, where="here"):
    try:
        fail(error)
    except ValueError as raised:
        reports.met(where, raised)


def test_a_fault_that_comes_again_and_again_is_said_with_its_traceback_once():
    log = Log()
    reports = faults.Faults(log, 10)
    for number in range(1000):
        met(reports, ValueError(number))
    assert "def" not in log.said[0]
    assert "in fail" in log.said[0]
    assert len(log.said) == 10  # 1, 2, 4 … 512
    assert log.said[-1] == "fault here, for the 512th time: ValueError: 511"
    met(reports, ValueError(1), "elsewhere")
    assert log.said[-1].startswith("fault elsewhere:\nTraceback")


def test_more_kinds_than_are_remembered_forget_the_oldest():
    log = Log()
    reports = faults.Faults(log, 2)
    for where in ("a", "b", "c", "a"):
        met(reports, ValueError(), where)
    assert [said[:8] for said in log.said] == ["fault a:", "fault b:", "fault c:", "fault a:"]
    assert len(reports._counts) == 2


def test_what_there_is_no_memory_to_say_is_said_next_time():
    log = Log()
    reports = faults.Faults(log, 2)
    log.no_memory = True
    met(reports, ValueError())
    log.no_memory = False
    met(reports, ValueError())
    assert "Traceback" in log.said[0]


def test_effects_are_carried_out_once_whatever_becomes_of_them():
    done, outbox = [], [1, 2, 3]

    def one(effect):
        done.append(effect)
        if effect == 1:
            outbox.append(4)
        if effect == 2:
            raise ValueError

    try:
        carry_out(outbox, one)
    except ValueError:
        assert outbox == [3, 4]
    carry_out(outbox, one)
    assert (done, outbox) == ([1, 2, 3, 4], [])
