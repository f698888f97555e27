"""Actors that other nodes host: found, missed, found again, and known to be dead."""

import msgpack
import pytest

from shoal.config import load
from shoal.wire import messages as m
from shoald.node.awayactors import AwayActors

A = b"a" * 16
P, Q = b"P" * 8, b"Q" * 8


@pytest.fixture
def away():
    return AwayActors(load({"actor_unknown_ms": 1000, "actor_ask_again_ms": 100}))


def found(node="n1", state="ALIVE", **more):
    return {
        "node_id": node,
        "state": state,
        "name": "",
        "class_name": "K",
        "reason": "",
        "details": b"",
        **more,
    }


def take(away):
    effects, away.outbox = away.outbox, []
    away.validate()
    return effects


def connect_message(proc, broken=0):
    return [m.P_ACTOR_CONNECT, A, proc, "driver", broken]


def test_callers_are_connected_by_the_host_that_the_head_names(away):
    away.connect(P, "driver", A, 0)
    away.connect(Q, "driver", A, 0)
    assert take(away) == [("ask", A)], "the head is asked once"
    away.heard(A, found(), 0.0)
    assert take(away) == [("peer", "n1", connect_message(P)), ("peer", "n1", connect_message(Q))]
    away.connect(P, "driver", A, 3)
    assert take(away) == [("peer", "n1", connect_message(P, 3))], "its connection broke"


def test_the_last_caller_is_forgotten_with_its_handle(away):
    away.connect(P, "driver", A, 0)
    away.heard(A, found(), 0.0)
    take(away)
    away.client_left(P)
    assert take(away) == [("peer", "n1", [m.P_ACTOR_DISCONNECT, A, P])]
    assert not away.actors


def test_what_nobody_has_made_is_dead_after_a_while(away):
    away.connect(P, "driver", A, 0)
    take(away)
    now = 0.0
    while away.actors:
        away.heard(A, None, now)
        now = away.tick(now) or now
        away.tick(now)
        assert now < 5
    (told,) = [effect for effect in take(away) if effect[0] == "client"]
    assert told[2][2] == "dead"
    assert "never made" in told[2][3]["reason"]
    assert now >= 0.9


def test_a_creation_may_be_slower_than_its_handle(away):
    away.connect(P, "driver", A, 0)
    away.heard(A, None, 0.0)
    assert away.tick(0.05) == pytest.approx(0.1)
    take(away)
    away.tick(0.1)
    assert take(away) == [("ask", A)]
    away.heard(A, found(), 0.2)
    assert take(away) == [("peer", "n1", connect_message(P))]


def test_a_dead_node_is_missed_and_callers_go_to_the_next_host(away):
    away.connect(P, "driver", A, 4)
    away.heard(A, found(), 0.0)
    take(away)
    away.node_died("n1", "silent for 10 s")
    (told, asked) = take(away)
    assert told[2][2] == "restarting"
    assert "silent for 10 s" in told[2][3]["reason"]
    assert asked == ("ask", A)
    away.heard(A, found("", "RESTARTING", reason="its node n1 died"), 1.0)
    (told,) = take(away)
    assert told[2][2] == "pending"
    away.heard(A, found("n2", "RESTARTING"), 2.0)
    assert take(away) == [("peer", "n2", connect_message(P, 0))], "what was lost with n1 is nothing to n2"
    away.heard(A, found("n2"), 3.0)
    assert take(away) == [], "its host tells the rest"


def test_death_says_why(away):
    away.connect(P, "driver", A, 0)
    take(away)
    details = msgpack.packb({"reason": "killed", "signal": 9})
    away.heard(A, found(state="DEAD", details=details), 0.0)
    (told,) = take(away)
    assert told == (
        "client",
        P,
        [m.ACTOR_STATE, A, "dead", {"name": "", "class": "K", "node": "n1", "reason": "killed", "signal": 9}],
    )
    assert not away.actors


def test_a_host_that_does_not_know_it_is_asked_about_again(away):
    away.connect(P, "driver", A, 0)
    away.heard(A, found(), 0.0)
    take(away)
    away.not_there("n1", A, 1.0)
    assert take(away) == []
    away.tick(1.1)
    assert take(away) == [("ask", A)]
    away.heard(A, found(), 1.2)
    assert take(away) == [("peer", "n1", connect_message(P))]


def test_without_a_head_it_is_asked_until_it_answers(away):
    away.connect(P, "driver", A, 0)
    take(away)
    away.not_heard(A, 0.0)
    away.tick(0.1)
    assert take(away) == [("ask", A)]
    away.heard(A, found(), 0.2)
    take(away)
    away.head_is_back()
    assert take(away) == [("ask", A)], "a new head does not know who wants to be told"


def test_this_node_becomes_the_host(away):
    away.connect(P, "driver", A, 2)
    assert away.take_callers(A) == {P: ("driver", 2)}
    assert away.take_callers(A) == {}


def test_who_was_told_that_it_is_dead_hears_that_it_is_not(away):
    away.connect(P, "driver", A, 0)
    away.connect(Q, "driver", A, 0)
    away.heard(A, found(), 0.0)
    away.heard(A, found(state="DEAD"), 0.0)
    assert not away.actors
    away.client_left(Q)
    take(away)
    away.heard(A, found("n2"), 1.0)
    (_, proc, message), connect = take(away)
    assert (proc, message[:3]) == (P, [m.ACTOR_STATE, A, "restarting"])
    assert connect == ("peer", "n2", connect_message(P))
    away.heard(A, found("n2"), 2.0)
    assert not take(away)


def test_who_let_go_of_a_dead_actor_or_asked_again_is_not_told(away):
    away.connect(P, "driver", A, 0)
    away.connect(Q, "driver", A, 0)
    away.heard(A, found(state="DEAD"), 0.0)
    away.disconnect(P, A)
    away.connect(Q, "driver", A, 0)
    take(away)
    away.heard(A, found("n2"), 1.0)
    assert take(away) == [("peer", "n2", connect_message(Q))]


def test_one_that_was_called_dead_and_is_here_gets_its_callers(away):
    away.connect(P, "driver", A, 0)
    away.heard(A, found(state="DEAD"), 0.0)
    assert away.take_callers(A) == {P: ("driver", 0)}
    assert not away.actors


def test_who_was_told_of_a_death_is_remembered_within_a_bound():
    away = AwayActors(load({"dead_actors_max": 1}))
    for actor_id in (A, b"b" * 16):
        away.connect(P, "driver", actor_id, 0)
        away.heard(actor_id, found(state="DEAD"), 0.0)
    assert [away.take_callers(each) for each in (A, b"b" * 16)] == [{}, {P: ("driver", 0)}]
