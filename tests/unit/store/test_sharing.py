"""What other nodes have to do with a store: transit holds, marks, and the head's proposals."""

from __future__ import annotations

import pytest

from shoal.ids import node_tag
from shoal.wire import messages as m
from shoald.objects.cluster_refs import ClusterRefs
from shoald.store.errors import ProtocolError
from unit.store.storebench import NOBODY, A, B, Bench, C, X, Y, Z

NODE = "c0ffee" + "00" * 13
FAR = node_tag(NODE) + b"far.."  # a process there


class Shared(Bench):
    def __init__(self):
        super().__init__()
        self.refs = ClusterRefs(self.core)
        self.refs.joined(NODE)

    def turn(self):
        """(changes, messages to the other node)."""
        changes = self.refs.turn()
        sent = [message for _, message in self.refs.outbox]
        self.refs.outbox.clear()
        self.take()
        self.refs.validate()
        return changes, sent

    def hear(self, *message):
        self.refs.handle(NODE, list(message))
        return self.turn()


@pytest.fixture
def bench():
    return Shared()


def test_a_node_that_is_alone_has_nothing_to_tell():
    bench = Bench()
    bench.seal(A, X, contained=Y)
    bench.send(A, m.HOLD, FAR, X)
    bench.send(A, m.RELEASE, X)
    assert not bench.ids
    assert not bench.core.sharing.take_changes()


def test_what_is_sealed_in_a_run_for_somebody_elsewhere_is_handed_over(bench):
    offset = bench.lease(A, 256)
    bench.send(A, m.SEAL_RUN, X + Y, offset, [100, 50], m.SEAL_PRIMARY, FAR, ["", ""])
    changes, sent = bench.turn()
    assert [change[:2] for change in changes] == [("born", X), ("hold", X), ("born", Y), ("hold", Y)]
    assert sent == [[m.P_SEALED, 1, FAR, [X, 100, m.SEAL_PRIMARY, Y, 50, m.SEAL_PRIMARY]]]
    assert bench.core.sharing.in_transit(NODE) == {X: 1, Y: 1}


def test_nodes_that_nothing_is_handed_to_cost_the_store_nothing(bench):
    clients = len(bench.core._ledger.clients)
    for number in range(100):
        bench.refs.joined(f"{number:06x}" + "11" * 13)
    assert len(bench.core._ledger.clients) == clients
    bench.seal(A, X)
    bench.send(A, m.HOLD, FAR, X)
    assert len(bench.core._ledger.clients) == clients + 1
    assert bench.core.sharing.in_transit(NODE) == {X: 1}
    bench.refs.died(NODE)
    bench.refs.forget(NODE, 2.0)
    assert len(bench.core._ledger.clients) == clients
    bench.core.validate()
    bench.refs.validate()


def test_what_stays_on_this_node_is_not_told(bench):
    bench.seal(A, X, contained=Y)
    bench.seal(A, Z)
    bench.send(A, m.HOLD, B, Z)
    bench.send(A, m.RELEASE, Z)
    bench.send(B, m.RELEASE, Z)
    changes, sent = bench.turn()
    assert changes == [("hold", Y, 0)], "only what this store has never heard of"
    assert not sent
    assert bench.ids == {X}


def test_a_ref_on_its_way_is_held_until_the_other_node_says_so(bench):
    bench.seal(A, X, 1000)
    bench.send(A, m.HOLD, FAR, X + X)
    bench.send(A, m.RELEASE, X)
    changes, sent = bench.turn()
    assert changes == [("born", X, 1000), ("hold", X, 0)]
    assert sent == [[m.P_HOLD, 1, FAR, X + X]]
    assert bench.hear(m.P_HELD, 1) == ([("release", X, 0)], [])
    assert bench.ids == {X}, "a process elsewhere may hold it"
    bench.refs.free([X])
    assert bench.turn() == ([("freed", X, 0)], [])
    assert not bench.ids


def test_a_result_for_a_process_elsewhere(bench):
    bench.seal(A, X, 1000, holder=FAR, contained=Y)
    changes, sent = bench.turn()
    assert sent == [[m.P_SEALED, 1, FAR, [X, 1000, m.SEAL_PRIMARY]]]
    assert changes == [("hold", Y, 0), ("born", X, 1000), ("hold", X, 0)]
    assert bench.hear(m.P_HELD, 1) == ([("release", X, 0)], [])
    bench.refs.free([X])
    assert bench.turn()[0] == [("freed", X, 0), ("release", Y, 0)]


def test_messages_of_a_turn_are_merged_per_process(bench):
    for object_id in (X, Y):
        bench.seal(A, object_id, 64, holder=FAR)
    assert bench.turn()[1] == [[m.P_SEALED, 1, FAR, [X, 64, 4, Y, 64, 4]]]


def test_a_dead_node_holds_nothing_any_more_when_others_could_say_that_they_do(bench):
    bench.seal(A, X, holder=FAR)
    bench.turn()
    bench.refs.died(NODE)
    assert bench.turn() == ([], [])
    bench.send(B, m.HOLD, B, X)  # it has a value that was made there, with this in it
    bench.refs.forget(NODE, 2.0)
    assert bench.turn() == ([], [])
    bench.send(B, m.RELEASE, X)
    assert bench.turn() == ([("release", X, 0)], [])
    bench.seal(A, Y, holder=FAR)
    assert bench.ids == {X}, "nobody is there to hold the other"


def test_what_is_received_is_answered_when_the_head_knows(bench):
    assert bench.hear(m.P_HOLD, 1, A, X) == ([("hold", X, 0)], [])
    bench.refs.confirmed(0)
    assert bench.turn()[1] == []
    bench.refs.confirmed(bench.refs.reported)
    assert bench.turn()[1] == [[m.P_HELD, 1]]
    bench.send(A, m.RELEASE, X)
    assert bench.turn()[0] == [("release", X, 0)]


def test_a_release_that_overtook_leaves_nothing_and_is_answered_at_once(bench):
    bench.send(A, m.RELEASE, X)
    assert bench.hear(m.P_HOLD, 1, A, X) == ([], [[m.P_HELD, 1]])
    assert bench.hear(m.P_HOLD, 2, b"deadproc", X) == ([], [[m.P_HELD, 2]])
    assert bench.core.sharing.snapshot() == ([], [])


@pytest.mark.parametrize("here_first", [False, True])
def test_two_runs_of_a_task_bring_one_hold(bench, here_first):
    if here_first:
        bench.seal(B, X, holder=A)
    bench.hear(m.P_SEALED, 1, A, [X, 100, m.SEAL_PRIMARY])
    bench.hear(m.P_SEALED, 2, A, [X, 100, m.SEAL_PRIMARY])
    bench.seal(B, X, holder=A)
    bench.send(A, m.RELEASE, X)
    assert bench.turn()[0][-1] == ("release", X, 0)
    bench.refs.free([X])
    bench.turn()
    assert not bench.ids


def test_an_announcement_that_the_seal_elsewhere_overtook_is_none(bench):
    bench.core.sharing.receive_sealed(A, X)
    bench.send(A, m.EXPECT, X)
    bench.core.located(X, NODE, 100, m.SEAL_PRIMARY)
    assert not bench.pin(B, X), "it is fetched"
    assert bench.core.take_wants(9) == [(X, NOBODY, 0, 0)]


def test_readers_of_an_announced_object_learn_that_it_was_sealed_elsewhere(bench):
    bench.send(A, m.EXPECT, X)
    bench.core.sharing.share(X)
    assert not bench.pin(B, X)
    assert not bench.send(B, m.WATCH, X, NOBODY, 0)
    assert not bench.core.take_wants(9)
    bench.refs.handle(NODE, [m.P_SEALED, 1, A, [X, 100, 0]])
    bench.core.located(X, NODE, 100, 0)
    assert bench.take() == [(B, [m.AVAILABLE, X, 100, 0, ""])]
    assert [want[0] for want in bench.core.take_wants(9)] == [X]


def test_a_read_that_waited_for_a_stream_is_fetched_from_where_it_was_sealed(bench):
    own = A + bytes(8)  # its owner lives, and holds it: on one node a seal would be on its way
    bench.send(A, m.HOLD, A, own)
    bench.core.located(own, NODE, 100, 0)
    assert not bench.pin(B, own, A, 3)
    assert not bench.core.take_wants(9)
    bench.advanced(A, 3)
    assert [want[0] for want in bench.core.take_wants(9)] == [own]


def test_where_an_object_was_is_known_when_a_ref_comes_back_of_which_nobody_told(bench):
    """Its owner let go of it, and reads it again out of a container elsewhere: the head may not have heard of the copy yet."""
    own = A + bytes(3) + b"\x01" + bytes(4)
    bench.refs.handle(NODE, [m.P_SEALED, 1, A, [own, 100, 0]])
    bench.core.located(own, NODE, 100, 0)
    bench.send(A, m.RELEASE, own)
    assert not bench.pin(A, own, B, 0)
    assert [want[0] for want in bench.core.take_wants(9)] == [own]
    assert bench.core.hinted(own) == [NODE]
    bench.core.lost([own])
    assert bench.core.hinted(own) == []


def test_what_was_announced_and_sealed_on_a_node_that_died_is_not_waited_for(bench):
    """The submitter has the reply, and the seal's word never comes."""
    own = A + bytes(3) + b"\x01" + bytes(4)
    bench.send(A, m.EXPECT, own)
    assert not bench.pin(B, own, FAR[:8], 3)
    assert not bench.core.take_wants(9)
    bench.send(A, m.UNEXPECT, own)
    assert [want[0] for want in bench.core.take_wants(9)] == [own]
    bench.core.fetch_failed(own, "lost", "nobody has it")
    assert bench.take() == [(A, [m.RECOVER, own])]
    bench.send(A, m.UNEXPECT, own)
    bench.core.validate()


def test_a_reader_of_what_was_lost_is_told(bench):
    bench.send(A, m.EXPECT, X)
    bench.pin(B, X)
    bench.core.lost([X])
    assert not bench.take(), "somebody here will seal it"
    bench.hear(m.P_HOLD, 1, A, Y)
    stamp = bench.pin(B, Y, C, 5)
    bench.core.lost([Y])
    assert not stamp
    assert not bench.take(), "its seal may be on its way"


def test_a_second_run_brings_a_hold_if_that_of_the_first_was_given_back(bench):
    bench.hear(m.P_SEALED, 1, A, [X, 100, m.SEAL_PRIMARY])
    bench.send(A, m.RELEASE, X)
    bench.hear(m.P_SEALED, 2, A, [X, 100, m.SEAL_PRIMARY])
    bench.send(A, m.RELEASE, X)
    bench.seal(C, X, 10, flags=0, holder=NOBODY)
    bench.seal(B, X, 10, holder=A)
    assert bench.turn()[0][-1] == ("hold", X, 0)
    bench.seal(C, Y, 10, holder=FAR)
    assert bench.turn()[1] == [[m.P_SEALED, 1, FAR, [Y, 10, m.SEAL_PRIMARY]]]
    bench.seal(C, Y, 10, holder=FAR)
    assert bench.turn()[1] == [[m.P_SEALED, 2, FAR, [Y, 10, m.SEAL_PRIMARY]]], "its node knows better"


def test_a_copy_of_another_node_stays_without_a_holder_and_holds_what_it_contains(bench):
    bench.seal(A, X, 100, flags=0, holder=NOBODY, contained=Y)
    assert bench.ids == {X}
    assert bench.turn()[0] == [("hold", Y, 0), ("born", X, 100)]
    assert bench.core.sharing.snapshot() == ([(X, 100)], [Y])


def test_a_held_object_is_not_freed_by_the_head(bench):
    bench.hear(m.P_HOLD, 1, A, X)
    bench.seal(B, X, 10, holder=NOBODY)
    bench.turn()
    bench.refs.free([X, Y])
    assert bench.turn()[0] == [("hold", X, 0), ("freed", Y, 0)]
    assert bench.ids == {X}


def test_pins_outlive_the_heads_word(bench):
    bench.seal(A, X, holder=FAR, flags=m.SEAL_PRIMARY | m.SEAL_PINNED)
    bench.turn()
    bench.hear(m.P_HELD, 1)
    bench.refs.free([X])
    assert bench.ids == {X}
    assert bench.take() == [(A, [m.UNPIN_RECALL, X])]
    bench.send(A, m.UNPIN, X)
    assert not bench.ids


def test_shared_ids_inside_of_a_freed_object_are_not_freed_with_it(bench):
    bench.seal(A, Y, 10)
    bench.seal(A, X, contained=Y)
    bench.send(A, m.HOLD, FAR, Y)
    bench.send(A, m.RELEASE, Y)
    bench.turn()
    bench.hear(m.P_HELD, 1)
    bench.send(A, m.RELEASE, X)
    assert bench.ids == {Y}
    assert bench.turn()[0] == [("release", Y, 0)]


def test_what_is_inside_of_a_shared_object_is_shared(bench):
    bench.seal(A, Y, 10)
    bench.seal(A, X, 20, contained=Y)
    bench.core.sharing.share(X)
    assert bench.turn()[0] == [("born", X, 20), ("hold", X, 0), ("born", Y, 10), ("hold", Y, 0)]


def test_an_evicted_copy_keeps_its_holders(bench):
    bench.hear(m.P_HOLD, 1, A, X)
    bench.seal(B, X, 10, flags=0, holder=NOBODY)
    bench.turn()
    ledger = bench.core._ledger
    ledger.evict(ledger.objects[X])
    assert bench.turn()[0] == [("freed", X, 0)]
    assert bench.core.sharing.snapshot() == ([], [X])


def test_whoever_waits_for_the_head_is_told_in_order(bench):
    told = []
    bench.refs.when_known(lambda: told.append(1))
    bench.turn()
    assert told == [1], "there was nothing to tell"
    bench.send(A, m.HOLD, FAR, X)
    bench.refs.when_known(lambda: told.append(2))
    bench.turn()
    assert told == [1]
    bench.refs.confirmed(1)
    assert told == [1, 2]


@pytest.mark.parametrize(
    "message",
    [
        [m.P_HOLD, 1, A],
        [m.P_HOLD, -1, A, X],
        [m.P_HOLD, 1, b"short", X],
        [m.P_HOLD, 1, A, X[:7]],
        [m.P_SEALED, 1, A, [X, 1]],
        [m.P_SEALED, 1, A, [X, -1, 0]],
        [m.P_SEALED, 1, A, X],
        [m.P_HELD],
        [m.P_HELD, 1],
        [m.P_HELD, b"1"],
    ],
)
def test_messages_that_make_no_sense(bench, message):
    with pytest.raises(ProtocolError):
        bench.refs.handle(NODE, message)
    bench.take()
    bench.refs.validate()


# --- what is lost, and what only seems to be ---

OWN = A + b"\0\0\0\1" + bytes(4)  # a result of a task of A


def test_what_there_is_no_room_for_is_not_lost(bench):
    bench.pin(B, OWN, FAR[:8], 3)
    bench.core.take_wants(9)
    bench.core.fetch_failed(OWN, "full", "there is no room")
    [(reader, message)] = bench.take()
    assert (reader, message[0], message[3]) == (B, m.PIN_FAILED, "full"), (
        "its owner is not asked to make it again"
    )


def test_what_was_said_to_be_lost_is_looked_for_where_it_was_sealed(bench):
    bench.hear(m.P_SEALED, 1, A, [OWN, 100, m.SEAL_PRIMARY])
    bench.core.lost([OWN])  # the head had not heard of the copy there
    assert not bench.pin(B, OWN, FAR[:8], 3)
    assert [want[0] for want in bench.core.take_wants(9)] == [OWN]
    bench.seal(C, OWN, 100, flags=0, holder=NOBODY)
    bench.send(B, m.UNPIN, OWN)
    bench.core.take_wants(9)
    bench.core._ledger.evict(bench.core._ledger.objects[OWN])
    assert not bench.pin(B, OWN), "it is not lost any more"
    assert [want[0] for want in bench.core.take_wants(9)] == [OWN]


def test_who_waits_for_an_announced_result_finds_it_though_its_owner_lets_go_before_it_is_told(bench):
    bench.core.register(b"\0Nnode01", {"kind": "node"})
    bench.send(A, m.EXPECT, X)
    assert not bench.pin(b"\0Nnode01", X)
    bench.send(A, m.RELEASE, X)
    bench.hear(m.P_SEALED, 1, A, [X, 100, m.SEAL_PRIMARY])
    bench.core.located(X, NODE, 100, m.SEAL_PRIMARY)
    assert [message[3] for _, message in bench.take()] == ["elsewhere"]


# --- the hold of a seal comes once, however often a task runs ---


def holds(bench, object_id):
    return bench.core._ledger.clients[A].holds.get(object_id, 0)


@pytest.mark.parametrize("here", [False, True])
def test_a_run_that_died_untold_and_its_retry_give_one_hold_though_the_first_copy_is_lost(bench, here):
    bench.hear(m.P_SEALED, 1, A, [OWN, 100, m.SEAL_PRIMARY])
    bench.core.lost([OWN])  # its node died, before the run was heard of
    if here:
        bench.seal(B, OWN, holder=A)
    else:
        bench.hear(m.P_SEALED, 2, A, [OWN, 100, m.SEAL_PRIMARY])
    assert holds(bench, OWN) == 1
    bench.send(A, m.RELEASE, OWN)
    assert not bench.core._ledger.given
    bench.hear(m.P_SEALED, 3, A, [OWN, 100, m.SEAL_PRIMARY])
    assert holds(bench, OWN) == 1, "what was given back comes again"
    bench.drop(A)
    assert not bench.core._ledger.given


def test_what_is_lost_is_announced_again_though_its_hold_was_given(bench):
    bench.hear(m.P_SEALED, 1, A, [OWN, 100, m.SEAL_PRIMARY])
    bench.core.lost([OWN])
    bench.send(A, m.EXPECT, OWN)
    assert not bench.pin(B, OWN), "it is waited for"
    assert not bench.core.take_wants(9)
    bench.seal(C, OWN, holder=A)
    assert holds(bench, OWN) == 1


def test_a_damaged_copy_that_is_made_again_brings_no_second_hold(bench):
    bench.seal(B, OWN, holder=A)
    ledger = bench.core._ledger
    obj = ledger.objects[OWN]
    ledger.drop_memory(obj)
    ledger.abandon(obj)  # its copy on disk was damaged
    bench.seal(C, OWN, holder=A)
    assert holds(bench, OWN) == 1
    bench.send(A, m.RELEASE, OWN)
    assert OWN not in bench.ids
