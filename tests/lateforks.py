"""Stub workers (nodeworker) whose fork is reported last of all: the fork server's word of it comes with that of their end.

It is loaded in the fork server, whose child may be faster than itself on a busy machine.
"""

import nodeworker
from shoald.worker import forkserver as fs

run_worker = nodeworker.run_worker
_send = fs.ForkServer._send
_reports = {}


def _send_late(server, *message):
    if message[0] == fs.FORKED:
        _reports[message[1]] = message
        return
    if message[0] == fs.EXITED:
        _send(server, *_reports.pop(message[1]))
    _send(server, *message)


fs.ForkServer._send = _send_late
