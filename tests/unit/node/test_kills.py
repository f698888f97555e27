"""When a killer is answered, and which ways its kill takes."""

from types import SimpleNamespace

import pytest

from shoal.config import load
from shoal.wire import messages as m
from shoald.node.kills import Kills
from shoald.store.errors import ProtocolError

A, B = b"a" * 16, b"b" * 16


class World:
    """A daemon, as much as kills need of it: this one hosts what is in `hosted`; the head's answers are given by hand."""

    def __init__(self, hosted=(), told=True, away=None, settled=True):
        self.sent, self.killed, self.reports, self.due, self.asked = [], [], [], [], []
        self.told = told
        client = SimpleNamespace(proc=b"p", pid=7, kind="driver", worker_id=b"")
        client.sock = SimpleNamespace(send=self.sent.append)
        self.client = client
        head = SimpleNamespace(settled=settled, report_kill=lambda *kill: self.reports.append(kill))
        loop = SimpleNamespace(now=lambda: 0.0, call_later=lambda _, then: self.due.append(then))
        peers = SimpleNamespace(send=lambda node, message: self.sent.append((node, message)))
        daemon = SimpleNamespace(
            head=head, loop=loop, peers=peers, config=load(), node_id="f" * 32, clients={b"p": client}
        )
        core = SimpleNamespace(
            actors=dict.fromkeys(hosted, "record"), dead={}, kill=lambda *kill: self.killed.append(kill)
        )
        side = SimpleNamespace(core=core, name_of=lambda worker_id: "")
        actors = {} if away is None else {A: SimpleNamespace(node_id=away)}
        cluster = SimpleNamespace(
            alone=False, away=SimpleNamespace(actors=actors), patience=lambda: 1.0, tells_of=lambda record: self.told,
            find=lambda what, then: self.asked.append(then), again=lambda until, then: self.asked.append(then),
        )  # fmt: skip
        self.core = core
        self.kills = Kills(daemon, side, cluster)

    def kill(self, req=1, no_restart=True, actor_id=A):
        self.kills.asked(self.client, req, actor_id, no_restart)


def test_what_the_head_does_not_know_of_is_just_ended():
    world = World([A], told=False)
    world.kill()
    assert world.sent == [[m.RESPONSE, 1, True, True]]
    assert not world.reports
    ((actor_id, no_restart, _, reason),) = world.killed
    assert (actor_id, no_restart) == (A, True)
    assert reason == "it was killed by shoal.kill() in driver 7 on node ffffffff"


def test_a_killer_is_answered_when_the_head_knows():
    world = World([A])
    world.kill()
    assert world.killed, "the process ends at once"
    assert not world.sent
    world.reports[0][2]()
    assert world.sent == [[m.RESPONSE, 1, True, True]]
    world.due[0]()
    assert len(world.sent) == 1


def test_a_head_that_is_silent_is_waited_for_once():
    world = World([A, B])
    world.kill(1)
    world.due[0]()
    assert world.sent == [[m.RESPONSE, 1, True, False]]
    world.kill(2, actor_id=B)
    assert world.sent[1:] == [[m.RESPONSE, 2, True, False]]
    world.reports[0][2]()  # it is back: the next one waits again
    world.kill(3, actor_id=B)
    assert len(world.sent) == 2
    world.reports[2][2]()
    assert world.sent[2:] == [[m.RESPONSE, 3, True, True]]


def test_a_killer_that_is_gone_is_not_answered():
    world = World([A])
    world.kill()
    world.kills._daemon.clients.clear()
    world.reports[0][2]()
    assert not world.sent


def test_a_known_host_hears_at_once_also_without_the_head():
    world = World(away="n2")
    world.kill()
    reason = world.killed[0][3]
    assert world.sent == [("n2", [m.P_ACTOR_KILL, A, True, reason])]
    assert not world.asked
    assert world.reports


def test_an_unknown_host_is_looked_for_and_a_restart_again_and_again():
    world = World()
    world.kill()
    world.asked.pop()({"node_id": "n3", "state": "ALIVE"}, "")
    assert world.sent[0][0] == "n3"
    world.kill(2)
    world.asked.pop()(None, "")
    assert not world.asked, "the head tells whoever gets it"
    world.kill(3, no_restart=False)
    assert world.sent[-1] == [m.RESPONSE, 3, True, True]
    world.asked.pop()(None, "")
    assert world.asked
    assert len(world.reports) == 2


def test_what_another_node_takes_to_be_here_is_sent_on_over_the_head():
    world = World(away="n2")
    world.kills.from_node("n4", A, True, "why")
    assert world.killed[0][3] == "why"
    assert not world.sent, "two nodes could send it to and fro"
    world.asked.pop()({"node_id": "n2", "state": "ALIVE"}, "")
    assert world.sent == [("n2", [m.P_ACTOR_KILL, A, True, "why"])]


@pytest.mark.parametrize(("req", "actor_id"), [("x", A), (1, "a" * 16), (1, b"short")])
def test_what_makes_no_sense_is_refused(req, actor_id):
    with pytest.raises(ProtocolError):
        World().kill(req, actor_id=actor_id)
