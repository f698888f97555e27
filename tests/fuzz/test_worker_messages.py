"""A worker under task messages that are almost right: with one field of another type, size or value.

Whatever it makes of one, it answers, closes the connection, or ends; and the next task runs, on it or on another worker.
"""

import pickle

import pytest

from almostright import VALUES, almost
from nodeclient import CPU1, Daemon
from shoal.ids import IdSource
from shoal.serialization import dumps_call, dumps_code
from shoal.wire import messages as m
from shoal.wire.frames import FrameDecoder, frame
from submitter import Owner

FUNCTION_ID = b"f" * 16
JOB = {"job_id": "00", "namespace": "", "sys_path": [], "cwd": "/", "caller": bytes(8)}


def real_details():
    """The options field of a task, as a submitter makes it."""
    owner = Owner()
    entry = owner.submit(num_returns=2, name="a task")
    return owner.sent_details(owner.grant(), entry)


DETAILS = real_details()


def twice(value):
    return value, value


twice.__module__ = "__main__"  # so that it travels by value


@pytest.fixture(scope="module")
def shared(module_leaves_nothing):
    with Daemon(cpus=1, workers="shoald.worker.main", config={"lease_idle_ms": 60_000}) as running:
        yield running


@pytest.fixture
def no_leaks(module_leaves_nothing):
    """The module's check covers the daemon that its tests share."""


class Submitter:
    """A driver that leases workers of the daemon, and speaks to them itself."""

    def __init__(self, daemon):
        self.client = daemon.client()
        self.ids = IdSource(self.client.proc)
        self.blob = dumps_code(twice)[0]
        self.worker = None
        self.deaths = 0

    def task(self, **details):
        payload = dumps_call((7,), {})
        return [m.TASK, self.ids.next_id(), FUNCTION_ID, payload, (), {**DETAILS, **details}]

    def leased(self):
        """The socket to a worker that has greeted its submitter; another one if the last is of no use any more."""
        if self.worker is None:
            ((grant, self.worker),) = self.client.lease(resources=CPU1)
            self.lease_id = grant[2]
            self.worker.settimeout(60)
            self.decoder = FrameDecoder(2**28)
            self.send((m.JOB, {**JOB, "caller": self.client.proc}))
            self.send((m.FUNCTION, FUNCTION_ID, self.blob, "twice"))
            self.send(
                tuple(self.task())
            )  # workers that end before their first task are started again after a pause
            assert self.answers()
        return self.worker

    def send(self, *messages):
        self.leased().sendall(frame(pickle.dumps(list(messages), 5)))

    def answers(self):
        """The next answers; None if the worker has closed the connection."""
        try:
            data = self.worker.recv(2**16)
        except ConnectionResetError:
            return None
        if not data:
            return None
        return [message for body in self.decoder.feed(data) for message in pickle.loads(body)]

    def try_message(self, message):
        """Send it, then a good task: that is answered, unless the worker is of no use after ``message``."""
        self.leased()
        good = self.task()
        try:
            self.send(tuple(message))
            self.send(tuple(good))
        except (BrokenPipeError, ConnectionResetError):
            self.bury()
            return
        while True:
            answers = self.answers()
            if answers is None:
                self.bury()
                return
            for answer in answers:
                if answer[0] == m.DONE and answer[1] == good[1]:
                    assert [pickle.loads(each) for each in answer[2]] == [7, 7]
                    return
                assert answer[:2] != (m.FAILED, good[1]), pickle.loads(answer[2])
                if answer[0] == m.USED_UP:
                    self.client.send([m.RETURN, self.lease_id, m.RETURN_RECYCLE])
                    self.worker = None
                    return
                if answer[0] == m.GIVEN_BACK and good[1] in answer[1]:
                    try:
                        self.send(tuple(good))
                    except (
                        BrokenPipeError,
                        ConnectionResetError,
                    ):  # it gave back what it had before it ended
                        self.bury()
                        return

    def bury(self):
        """The worker has ended, or ends when the daemon is told that its connection broke."""
        self.deaths += 1
        self.client.send([m.RETURN, self.lease_id, m.RETURN_BROKEN])
        assert self.client.receive(m.WORKER_DIED)[1] == self.lease_id
        self.worker = None


@pytest.fixture
def submitter(shared):
    submitter = Submitter(shared)
    yield submitter
    submitter.try_message(submitter.task())
    assert submitter.worker is not None, "a good task ran"
    assert shared.process.poll() is None
    assert "fault" not in shared.log
    submitter.client.send([m.GOODBYE])
    submitter.client.receive(m.GOODBYE_OK)
    while shared.clients:
        shared.clients.pop().close()


def test_good_tasks_run(submitter):
    for _ in range(3):
        submitter.try_message(submitter.task())
    assert submitter.deaths == 0


@pytest.mark.parametrize("field", range(1, 6))
def test_tasks(submitter, field):
    for value in VALUES:
        message = submitter.task()
        message[field] = value
        submitter.try_message(message)


@pytest.mark.parametrize("key", sorted(DETAILS))
def test_details_of_tasks(submitter, key):
    for value in VALUES:
        submitter.try_message(submitter.task(**{key: value}))
    message = submitter.task()
    del message[5][key]
    submitter.try_message(message)


def test_lifted_arguments(submitter):
    stamp = (submitter.client.proc, 1)
    object_id = bytes(16)
    for values in ([b"x"], [(object_id, stamp)], [(b"\x80\x05K\x01.", stamp, {})]):
        for places in (None, (0,), (5,), ("name",)):
            good = submitter.task()
            good[4] = (places, values)
            submitter.try_message(good)
            for wrong in VALUES:
                message = submitter.task()
                message[4] = (places, [wrong])
                submitter.try_message(message)


def test_other_messages(submitter):
    task_id = submitter.ids.next_id()
    messages = [
        [m.JOB, dict(JOB)],
        [m.FUNCTION, b"g" * 16, submitter.blob, "g", (submitter.client.proc, 1), {}],
        [m.CANCEL, task_id, False, True],
        [m.TAKE_BACK, 1],
        [m.CONSUMED, task_id, 1],
        [m.FORGET, FUNCTION_ID[:8] * 2],
        [0],
        [250, 1],
    ]
    for message in messages:
        for wrong in almost(message):
            submitter.try_message(wrong)


def test_batches_that_are_none(submitter):
    for value in VALUES:
        submitter.leased()
        try:
            submitter.worker.sendall(frame(pickle.dumps(value, 5)))
        except (BrokenPipeError, ConnectionResetError):
            submitter.bury()
            continue
        submitter.try_message(submitter.task())
    for garbage in (b"", b"garbage", b"\x80\x05", b"(" * 1000, pickle.dumps([], 5)[:-1]):
        submitter.leased().sendall(frame(garbage))
        submitter.try_message(submitter.task())
