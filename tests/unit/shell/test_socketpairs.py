"""Socket pairs of tasks: how much may be sent ahead, and that no machine's limit is an error."""

import socket
import sys

import pytest

from shoald.shell.socketpairs import task_pair

MESSAGE = bytes(80_000)


def sent_ahead(end):
    """How many messages go before the other end has read any."""
    end.setblocking(False)
    count = 0
    while True:
        try:
            if end.send(MESSAGE) < len(MESSAGE):
                return count
        except BlockingIOError:
            return count
        count += 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count a buffer in other ways")
def test_more_can_be_sent_ahead_than_usual_by_either_end():
    usual = socket.socketpair()
    pair = task_pair(1024 * 1024)
    try:
        least = sent_ahead(usual[0])
        assert sent_ahead(pair[0]) > least
        assert sent_ahead(pair[1]) > least
    finally:
        for end in (*usual, *pair):
            end.close()


@pytest.mark.parametrize("unread_bytes", [1, 2**31 - 1])
def test_what_no_machine_gives_is_no_error(unread_bytes):
    ours, theirs = task_pair(unread_bytes)
    try:
        ours.sendall(b"word")
        assert theirs.recv(10) == b"word"
    finally:
        ours.close()
        theirs.close()
