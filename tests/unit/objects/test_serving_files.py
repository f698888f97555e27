"""What no room can be made for at its node is read out of its spill file by other nodes."""

from __future__ import annotations

from shoal.config import Config
from shoal.wire import messages as m
from shoald.objects.effects import Tell, ToStore
from shoald.objects.serving import ServeCore, node_client
from shoald.store.objects import StoredObject

NODE = "0a" * 16
X = b"X" * 16
STAMP = b"origin..copy...."


def test_a_reader_is_granted_the_file_and_nothing_is_pinned():
    obj = StoredObject(X, -1, 5000, 5056, (), m.SEAL_PRIMARY, "here", b"", 0.0)
    obj.copy = STAMP
    outbox = []
    serving = ServeCore(Config(), {X: obj}.get, lambda _: [], lambda *_: [], lambda *_: None, outbox)
    serving.fetch(NODE, [m.P_FETCH, 3, X, [b"proc...."], [4], 0, b""], 0.0)
    client = node_client(NODE)
    assert [type(each) for each in outbox] == [ToStore]
    outbox.clear()
    serving.told(client, [m.PINNED_IN_FILE, 3, X, "/spill/7", 128, 5000, m.SEAL_PRIMARY, 99, 7])
    [told] = outbox
    assert isinstance(told, Tell)
    assert told.message[:3] == [m.P_FETCHED, 3, 5000]
    copy = serving.tickets[NODE, 3].copy
    assert copy is not None
    assert copy.file == ("/spill/7", 128, 99)
    assert copy.place(0) == (0, 5000)
    outbox.clear()
    serving.damaged(copy, "its checksum is not what it was")
    [said] = outbox
    assert (said.proc, said.message[:3]) == (client, [m.FILE_DAMAGED, X, "/spill/7"])
    outbox.clear()
    serving.done(NODE, [m.P_FETCH_DONE, [3], True])
    serving.damaged(copy, "nobody reads it any more")
    assert not outbox, "there is no pin to give back"
    assert not serving.tickets


def test_a_reader_that_has_gone_is_told_nothing():
    outbox = []
    serving = ServeCore(Config(), {}.get, lambda _: [], lambda *_: [], lambda *_: None, outbox)
    serving.fetch(NODE, [m.P_FETCH, 3, X, [b"proc...."], [4], 0, b""], 0.0)
    serving.done(NODE, [m.P_FETCH_DONE, [3], False])
    outbox.clear()
    serving.told(node_client(NODE), [m.PINNED_IN_FILE, 3, X, "/spill/7", 0, 10, 0, 1, 7])
    assert not outbox
