"""HeadCore: named cases, and any order of events against its invariants and a plain model."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from shoal.config import load
from shoald.head import events as ev
from shoald.head.actors import Actor
from shoald.head.core import Durable, HeadCore
from shoald.head.nodes import ImpossibleTransition, NodeRecord, NodeTable

VERSIONS = ev.Versions(1, 3, 11)
CONFIG = load({"node_suspect_ms": 3000, "node_dead_ms": 10000, "dead_nodes_max": 3, "report_parts_max": 4})
UNIX = 1_000_000.0
NOTHING = Durable()


def make_core(durable=NOTHING, now=0.0, config=CONFIG):
    return HeadCore(config, VERSIONS, durable, now, UNIX)


def oid(number):
    return number.to_bytes(16, "big")


def register(core, stream, node_id="a", incarnation=None, now=0.0, versions=VERSIONS):
    event = ev.NodeRegisters(stream, node_id, incarnation or node_id + "1", ev.NodeInfo(pid=7), versions)
    return core.handle(event, now)


def report(core, stream, now=0.0, **given):
    batch = ev.ObjectBatch(
        **{name: tuple(given.pop(name, ())) for name in ("born", "hold", "release", "freed")}
    )
    return core.handle(ev.NodeReports(stream, 1, objects=batch, **given), now)


def sent(effects, kind):
    return [(e.stream, e.message) for e in effects if isinstance(e, ev.Send) and isinstance(e.message, kind)]


def state_of(core, node_id):
    return {view.node_id: view.state for view in core.views(0.0)}.get(node_id)


class TestNodes:
    def test_registers_and_is_told_of_the_others(self):
        core = make_core()
        register(core, 1, "a")
        effects = register(core, 2, "b")
        [(stream, registered)] = sent(effects, ev.Registered)
        assert stream == 2
        assert {view.node_id for view in registered.nodes} == {"a", "b"}
        [(told, changed)] = sent(effects, ev.NodesChanged)
        assert (told, changed.nodes[0].node_id) == (1, "b")
        assert [e.node.node_id for e in effects if isinstance(e, ev.SaveNode)] == ["b"]

    def test_the_fence_is_saved_before_anybody_hears_of_it(self):
        core = make_core()
        register(core, 1, "a")
        register(core, 2, "b")
        effects = core.handle(ev.NodeLeaves(1, "left"), 1.0)
        kinds = [type(e) for e in effects if isinstance(e, ev.SaveNode | ev.Send)]
        assert kinds[0] is ev.SaveNode

    def test_silence_makes_suspect_then_dead(self):
        core = make_core()
        register(core, 1, "a")
        assert core.next_deadline() == 3.0
        core.handle(ev.TimePasses(), 3.0)
        assert state_of(core, "a") == ev.SUSPECTED
        assert core.next_deadline() == 10.0
        effects = core.handle(ev.TimePasses(), 10.0)
        assert state_of(core, "a") == ev.DEAD
        assert sent(effects, ev.Refused)[0][1].reason == ev.REFUSED_DEAD
        assert core.next_deadline() is None

    def test_a_head_that_stood_still_itself_hears_first_what_came_meanwhile(self):
        core = make_core()
        register(core, 1, "a")
        register(core, 2, "b")
        core.handle(ev.TimePasses(), 60.0)
        assert {state_of(core, each) for each in "ab"} == {ev.SUSPECTED}
        report(core, 1, 60.1)
        core.handle(ev.TimePasses(), 66.9)
        assert (state_of(core, "a"), state_of(core, "b")) == (ev.SUSPECTED, ev.SUSPECTED)
        report(core, 1, 66.9)
        core.handle(ev.TimePasses(), 67.0)
        assert (state_of(core, "a"), state_of(core, "b")) == (ev.ALIVE, ev.DEAD)

    def test_a_report_revives_a_suspect(self):
        core = make_core()
        register(core, 1, "a")
        core.handle(ev.TimePasses(), 4.0)
        report(core, 1, 5.0)
        assert state_of(core, "a") == ev.ALIVE
        assert core.next_deadline() == 8.0

    def test_a_broken_stream_is_not_death(self):
        core = make_core()
        register(core, 1, "a")
        core.handle(ev.StreamBreaks(1), 1.0)
        assert state_of(core, "a") == ev.SUSPECTED
        register(core, 2, "a", now=2.0)
        assert state_of(core, "a") == ev.ALIVE
        core.handle(ev.StreamBreaks(1), 3.0)  # late news of the old one
        assert state_of(core, "a") == ev.ALIVE

    def test_a_dead_incarnation_is_refused_and_a_new_one_admitted(self):
        core = make_core()
        register(core, 1, "a", "one")
        core.handle(ev.TimePasses(), 3.0)
        core.handle(ev.TimePasses(), 10.0)
        effects = register(core, 2, "a", "one", 11.0)
        assert sent(effects, ev.Refused)[0][1].reason == ev.REFUSED_DEAD
        assert ev.CloseStream(2) in effects
        assert sent(register(core, 3, "a", "two", 12.0), ev.Registered)

    def test_a_newer_incarnation_replaces_and_fences_the_old_one(self):
        core = make_core()
        register(core, 1, "a", "one")
        effects = register(core, 2, "a", "two")
        assert (1, ev.REFUSED_REPLACED) in [(s, m.reason) for s, m in sent(effects, ev.Refused)]
        assert sent(register(core, 3, "a", "one"), ev.Refused)[0][1].reason == ev.REFUSED_DEAD

    @pytest.mark.parametrize("versions", [ev.Versions(2, 3, 11), ev.Versions(1, 3, 12)])
    def test_another_version_is_refused_with_both_named(self, versions):
        [(_, refused)] = sent(register(make_core(), 1, versions=versions), ev.Refused)
        assert refused.reason == ev.REFUSED_VERSION
        assert "3.11" in refused.message

    def test_dead_nodes_are_forgotten_at_the_bound_oldest_first(self):
        core = make_core()
        for index in range(5):
            register(core, index, f"n{index}")
            effects = core.handle(ev.NodeLeaves(index, "left"), 0.0)
        assert [e.node_id for e in effects if isinstance(e, ev.ForgetNode)] == ["n1"]
        assert core.nodes.dead_count == 3

    def test_drain_is_told_to_the_node_and_the_others_once(self):
        core = make_core()
        register(core, 1, "a")
        register(core, 2, "b")
        effects = core.handle(ev.DrainAsked("a", "upgrade"), 1.0)
        assert sent(effects, ev.DrainNode) == [(1, ev.DrainNode("upgrade"))]
        assert sent(effects, ev.NodesChanged)[0][0] == 2
        assert core.handle(ev.DrainAsked("a", "again"), 1.0) == []

    def test_an_impossible_transition_tells_the_story(self):
        record = NodeRecord("a", "one", ev.NodeInfo(), 0.0)
        with pytest.raises(ImpossibleTransition, match="registered"):
            record.become(ev.ALIVE, "again", 1.0)


class TestObjects:
    def test_freed_when_the_last_node_lets_go(self):
        core = make_core()
        register(core, 1, "a")
        register(core, 2, "b")
        report(core, 1, born=[(oid(1), 100)], hold=[oid(1)])
        report(core, 2, hold=[oid(1)])
        assert not sent(report(core, 1, release=[oid(1)]), ev.FreeObjects)
        effects = report(core, 2, release=[oid(1)])
        assert sent(effects, ev.FreeObjects) == [(1, ev.FreeObjects((oid(1),)))]
        report(core, 1, freed=[oid(1)])
        assert len(core.directory) == 0

    def test_a_refused_free_is_proposed_again_after_the_next_release(self):
        core = make_core()
        register(core, 1, "a")
        report(core, 1, born=[(oid(1), 100)])
        report(core, 1, hold=[oid(1)])
        assert sent(report(core, 1, release=[oid(1)]), ev.FreeObjects)

    def test_born_and_held_in_one_batch_is_not_proposed(self):
        core = make_core()
        register(core, 1, "a")
        assert not sent(report(core, 1, born=[(oid(1), 9)], hold=[oid(1)]), ev.FreeObjects)

    def test_what_was_never_held_gets_time(self):
        core = make_core()
        register(core, 1, "a")
        register(core, 2, "b")
        assert not sent(report(core, 1, 1.0, born=[(oid(1), 5), (oid(2), 5), (oid(3), 5)]), ev.FreeObjects)
        report(core, 2, 2.0, hold=[oid(2)])
        assert core.next_deadline() == 1.0 + CONFIG.directory_grace_ms / 1000
        effects = core.handle(ev.TimePasses(), core.next_deadline())
        assert sent(effects, ev.FreeObjects) == [(1, ev.FreeObjects((oid(1), oid(3))))]
        assert not sent(core.handle(ev.TimePasses(), core.next_deadline()), ev.FreeObjects), "proposed once"
        effects = report(core, 2, 3.0, release=[oid(2)])
        assert sent(effects, ev.FreeObjects) == [(1, ev.FreeObjects((oid(2),)))]

    def test_what_only_a_dead_node_held_gets_time(self):
        core = make_core()
        register(core, 1, "a")
        register(core, 2, "b")
        report(core, 1, born=[(oid(1), 5), (oid(2), 5)])
        report(core, 2, hold=[oid(1), oid(2)])
        assert not sent(core.handle(ev.NodeLeaves(2, "left"), 1.0), ev.FreeObjects)
        report(core, 1, 1.5, hold=[oid(2)])
        effects = core.handle(ev.TimePasses(), 1.0 + CONFIG.directory_grace_ms / 1000)
        assert sent(effects, ev.FreeObjects) == [(1, ev.FreeObjects((oid(1),)))]

    def test_what_a_dead_node_held_has_the_same_time_when_others_let_go_of_it(self):
        """A process may have referred to it by way of a container on that node, and hears of the death a moment later."""
        core = make_core()
        register(core, 1, "a")
        register(core, 2, "b")
        report(core, 1, born=[(oid(1), 5), (oid(2), 5)], hold=[oid(1), oid(2)])
        report(core, 2, hold=[oid(1), oid(2)])
        core.handle(ev.NodeLeaves(2, "left"), 1.0)
        assert not sent(report(core, 1, 1.1, release=[oid(1), oid(2)]), ev.FreeObjects)
        report(core, 1, 1.2, hold=[oid(2)])
        core.directory.validate({"a"})
        effects = core.handle(ev.TimePasses(), 1.1 + CONFIG.directory_grace_ms / 1000)
        assert sent(effects, ev.FreeObjects) == [(1, ev.FreeObjects((oid(1),)))]
        assert sent(report(core, 1, 5.0, release=[oid(2)]), ev.FreeObjects), "the time is over"

    def test_a_hold_that_ended_before_it_was_told_is_one(self):
        core = make_core()
        register(core, 1, "a")
        effects = report(core, 1, born=[(oid(1), 5)], release=[oid(1)])
        assert sent(effects, ev.FreeObjects) == [(1, ev.FreeObjects((oid(1),)))]

    def test_holders_hear_of_a_loss_when_the_last_copy_dies(self):
        core = make_core()
        register(core, 1, "a")
        register(core, 2, "b")
        report(core, 1, born=[(oid(1), 100)], hold=[oid(1)])
        core.handle(ev.TimePasses(), 3.0)
        report(core, 2, hold=[oid(1)], now=9.0)
        effects = core.handle(ev.TimePasses(), 10.0)
        assert sent(effects, ev.LostObjects) == [(2, ev.LostObjects((oid(1),)))]

    def test_a_snapshot_replaces_what_was_known(self):
        core = make_core()
        register(core, 1, "a")
        report(core, 1, born=[(oid(1), 1), (oid(2), 1)], hold=[oid(1), oid(2)])
        report(core, 1, snapshot=True, born=[(oid(2), 1)], hold=[oid(2)])
        assert core.directory.get(oid(1)) is None
        assert core.directory.get(oid(2)) is not None

    def test_a_batch_in_parts_applies_at_its_end(self):
        core = make_core()
        register(core, 1, "a")
        assert not sent(report(core, 1, born=[(oid(1), 1)], more=True), ev.FreeObjects)
        assert core.directory.get(oid(1)) is None
        assert not sent(report(core, 1, hold=[oid(1)]), ev.FreeObjects)
        assert core.directory.get(oid(1)).holders == {"a"}

    def test_parts_are_bounded(self):
        core = make_core()
        register(core, 1, "a")
        refused = []
        for _ in range(4):
            refused += sent(report(core, 1, more=True), ev.Refused)
        assert refused[0][1].reason == ev.REFUSED_INVALID


class TestActors:
    def test_one_without_a_home_gets_the_first_that_can_be_used_again(self):
        core = make_core()
        register(core, 1, "a")
        register(core, 2, "b")
        actor = Actor(b"a" * 16, node_id="b", restarts_left=1, info=b"made from")
        core.handle(ev.ActorsReported(2, (actor,), False), 0.0)
        core.handle(ev.StreamBreaks(1), 0.0)
        core.handle(ev.NodeLeaves(2, "left"), 0.1)
        assert core.actors.find(actor.actor_id, "").node_id == ""
        register(core, 3, "a", now=0.2)
        assert core.actors.find(actor.actor_id, "").node_id == "a"

    def test_one_that_is_only_cut_off_is_a_home_when_it_is_heard_of_again(self):
        core = make_core()
        register(core, 1, "a")
        register(core, 2, "b")
        actor = Actor(b"a" * 16, node_id="b", restarts_left=1, info=b"made from")
        core.handle(ev.ActorsReported(2, (actor,), False), 0.0)
        report(core, 2, now=2.9)
        core.handle(ev.TimePasses(), 3.0)
        assert state_of(core, "a") == ev.SUSPECTED
        core.handle(ev.NodeLeaves(2, "left"), 3.1)
        assert core.actors.find(actor.actor_id, "").node_id == ""
        report(core, 1, now=3.2)
        assert core.actors.find(actor.actor_id, "").node_id == "a"


class TestRestart:
    def durable(self, *names, state=ev.ALIVE):
        return Durable(
            tuple(ev.NodeView(n, n + "1", ev.NodeInfo(), state, "x", False, 0, ev.Gauges()) for n in names)
        )

    def test_nothing_is_freed_until_every_known_node_told(self):
        core = make_core(self.durable("a", "b"))
        assert core.recovering
        register(core, 1, "a")
        assert not sent(report(core, 1, snapshot=True, born=[(oid(1), 1)]), ev.FreeObjects)
        register(core, 2, "b")
        effects = report(core, 2, snapshot=True)
        assert not core.recovering
        assert sent(effects, ev.FreeObjects) == [(1, ev.FreeObjects((oid(1),)))]

    def test_a_node_that_holds_speaks_up_in_time(self):
        core = make_core(self.durable("a", "b"))
        register(core, 1, "a")
        report(core, 1, snapshot=True, born=[(oid(1), 1)])
        register(core, 2, "b")
        assert not sent(report(core, 2, snapshot=True, hold=[oid(1)]), ev.FreeObjects)

    def test_a_node_that_comes_back_at_the_end_of_its_death_period_is_heard_out(self):
        core = make_core(self.durable("a", "b"))
        register(core, 1, "a")
        report(core, 1, snapshot=True, born=[(oid(1), 1)])
        report(core, 1, now=9.0)
        register(core, 2, "b", now=9.9)
        assert not sent(report(core, 1, now=10.1), ev.FreeObjects), "what it holds is on its way"
        assert not sent(core.handle(ev.TimePasses(), 11.0), ev.FreeObjects)
        assert not sent(report(core, 2, now=11.1, snapshot=True, hold=[oid(1)]), ev.FreeObjects)
        assert not core.recovering
        assert core.directory.get(oid(1)).holders == {"b"}

    def test_nobody_is_forgotten_before_it_is_declared_dead(self):
        core = make_core(self.durable("a", "b"))
        register(core, 1, "a")
        report(core, 1, snapshot=True, born=[(oid(1), 1)])
        assert not sent(report(core, 1, now=10.1), ev.FreeObjects), "time has not been told to pass yet"
        assert not sent(register(core, 2, "b", now=10.2), ev.FreeObjects)
        assert not sent(report(core, 2, now=10.3, snapshot=True, hold=[oid(1)]), ev.FreeObjects)

    def test_a_death_period_ends_the_waiting(self):
        core = make_core(self.durable("a"))
        assert core.next_deadline() == 10.0
        core.handle(ev.TimePasses(), 10.0)
        assert not core.recovering
        assert state_of(core, "a") == ev.DEAD

    def test_fences_survive(self):
        core = make_core(self.durable("a", state=ev.DEAD))
        assert not core.recovering
        assert sent(register(core, 1, "a", "a1"), ev.Refused)[0][1].reason == ev.REFUSED_DEAD


class TestJobs:
    def test_a_job_fails_with_its_node(self):
        core = make_core()
        register(core, 1, "a")
        core.handle(ev.JobStarts(ev.Job("j", "a")), 2.0)
        assert core.jobs.get("j").started_s == UNIX + 2
        effects = core.handle(ev.NodeLeaves(1, "left"), 5.0)
        [job] = [e.job for e in effects if isinstance(e, ev.SaveJob)]
        assert (job.state, job.ended_s) == (ev.JOB_FAILED, UNIX + 5)

    def test_the_first_end_counts(self):
        core = make_core()
        core.handle(ev.JobStarts(ev.Job("j", "a")), 0.0)
        core.handle(ev.JobEnds("j", ev.JOB_FINISHED, "", 5.0), 0.0)
        assert core.handle(ev.JobEnds("j", ev.JOB_FAILED, "", 6.0), 0.0) == []
        assert core.jobs.get("j").state == ev.JOB_FINISHED

    def test_an_end_that_is_none_is_refused(self):
        with pytest.raises(ValueError, match="RUNNING"):
            make_core().handle(ev.JobEnds("j", "RUNNING", "", 5.0), 0.0)

    def test_jobs_are_bounded_and_running_ones_kept(self):
        core = make_core(config=load({"jobs_max": 2}))
        for name in "abc":
            core.handle(ev.JobStarts(ev.Job(name)), 1.0)
            if name == "b":
                core.handle(ev.JobEnds("b", ev.JOB_FINISHED, "", 5.0), 1.0)
        assert [job.job_id for job in core.jobs.all()] == ["a", "c"]


NODES = ["a", "b", "c"]
OBJECTS = [oid(n) for n in range(4)]


class HeadMachine(RuleBasedStateMachine):
    """Nodes that come, go, report and fall silent; a model of who holds and has what."""

    streams = Bundle("streams")

    @initialize()
    def start(self):
        self.core = make_core()
        self.now = 0.0
        self.last_stream = 0
        self.lives = dict.fromkeys(NODES, 0)
        self.stream_of = {}  # current stream → node
        self.held = {node: set() for node in NODES}
        self.copies = {node: set() for node in NODES}
        self.fenced = set()

    def handle(self, event):
        effects = self.core.handle(event, self.now)
        for effect in effects:
            if isinstance(effect, ev.SaveNode) and effect.node.state == ev.DEAD:
                self.fenced.add((effect.node.node_id, effect.node.incarnation))
                self.held[effect.node.node_id] = set()
                self.copies[effect.node.node_id] = set()
            if isinstance(effect, ev.ForgetNode):
                self.fenced.discard((effect.node_id, effect.incarnation))
            if isinstance(effect, ev.CloseStream):
                self.stream_of.pop(effect.stream, None)
            if isinstance(effect, ev.Send) and isinstance(effect.message, ev.FreeObjects):
                for object_id in effect.message.ids:
                    assert not any(object_id in held for held in self.held.values()), "freed while held"
        return effects

    @rule(target=streams, node=st.sampled_from(NODES), newer=st.booleans())
    def registers(self, node, newer):
        self.last_stream += 1
        self.lives[node] += newer
        incarnation = str(self.lives[node])
        fenced = (node, incarnation) in self.fenced
        for stream, name in list(self.stream_of.items()):
            if name == node and not fenced:
                del self.stream_of[stream]
        if not fenced:
            self.stream_of[self.last_stream] = node
        effects = self.handle(ev.NodeRegisters(self.last_stream, node, incarnation, ev.NodeInfo(), VERSIONS))
        assert (
            bool(sent(effects, ev.Refused) and sent(effects, ev.Refused)[0][0] == self.last_stream) == fenced
        )
        return self.last_stream

    @rule(
        stream=streams,
        born=st.sets(st.sampled_from(OBJECTS)),
        hold=st.sets(st.sampled_from(OBJECTS)),
        release=st.sets(st.sampled_from(OBJECTS)),
        freed=st.sets(st.sampled_from(OBJECTS)),
        snapshot=st.booleans(),
    )
    def reports(self, stream, born, hold, release, freed, snapshot):
        node = self.stream_of.get(stream)
        if node is not None:
            if snapshot:
                self.held[node], self.copies[node] = set(hold), set(born)
                release, freed = set(), set()
            else:
                self.held[node] = (self.held[node] | hold) - release
                self.copies[node] = (self.copies[node] | born) - freed
        batch = ev.ObjectBatch(
            tuple((o, 1) for o in sorted(born)),
            tuple(sorted(hold)),
            tuple(sorted(release)),
            tuple(sorted(freed)),
        )
        self.handle(ev.NodeReports(stream, 1, None, batch, snapshot))

    @rule(stream=streams)
    def breaks(self, stream):
        self.stream_of.pop(stream, None)
        self.handle(ev.StreamBreaks(stream))

    @rule(stream=streams)
    def leaves(self, stream):
        self.handle(ev.NodeLeaves(stream, "left"))

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0]))
    def time_passes(self, seconds):
        self.now += seconds
        deadline = self.core.next_deadline()
        if deadline is not None and deadline <= self.now:
            self.handle(ev.TimePasses())
            after = self.core.next_deadline()
            assert after is None or after > self.now, "a deadline that is never met would spin"

    @invariant()
    def is_valid(self):
        self.core.validate()

    @invariant()
    def agrees_with_the_model(self):
        for object_id in OBJECTS:
            entry = self.core.directory.get(object_id)
            holders = {node for node in NODES if object_id in self.held[node]}
            copies = {node for node in NODES if object_id in self.copies[node]}
            assert (entry.holders if entry else set()) == holders
            assert (entry.copies if entry else set()) == copies
        for node_id, incarnation in self.fenced:
            assert self.core.nodes.is_dead(node_id, incarnation)


TestHeadMachine = HeadMachine.TestCase
TestHeadMachine.settings = settings(max_examples=60, stateful_step_count=40)


def test_validate_catches_a_broken_index():
    core = make_core()
    register(core, 1, "a")
    report(core, 1, born=[(oid(1), 1)], hold=[oid(1)])
    core.directory.get(oid(1)).holders.add("nobody")
    with pytest.raises(AssertionError, match="unknown nodes"):
        core.validate()


def test_a_deadline_that_rounding_put_a_little_too_early_is_one_all_the_same():
    # The sum of the two is less than what is between them by the last bit: the head woke up for nothing, again and again.
    table = NodeTable(5.0, 10.0)
    table.add(NodeRecord("n", "1", ev.NodeInfo(), 6.60936562477981))
    suspects, _ = table.silent(table.next_deadline())
    assert [record.node_id for record in suspects] == ["n"]


def test_a_node_in_the_heads_own_process_need_not_say_that_it_lives():
    core = HeadCore(CONFIG, VERSIONS, NOTHING, 0.0, UNIX, "here")
    [(_, registered)] = sent(register(core, 1, "here"), ev.Registered)
    assert registered.heartbeat_ms == 0  # as rarely as it likes
    assert core.next_deadline() is None
    [(_, registered)] = sent(register(core, 2, "a"), ev.Registered)
    assert registered.heartbeat_ms > 0
    assert core.next_deadline() == 3.0
    core.handle(ev.TimePasses(), 100.0)
    core.validate()
    states = {view.node_id: (view.state, view.silent_ms) for view in core.views(100.0)}
    assert states == {"here": (ev.ALIVE, 0), "a": (ev.SUSPECTED, 100_000)}


def test_one_whose_stream_broke_has_to_come_back_like_any_other():
    core = HeadCore(CONFIG, VERSIONS, NOTHING, 0.0, UNIX, "here")
    register(core, 1, "here")
    core.handle(ev.StreamBreaks(1), 100.0)
    core.validate()
    assert state_of(core, "here") == ev.SUSPECTED
    assert core.next_deadline() == 107.0
    register(core, 2, "here", now=101.0)
    core.validate()
    assert state_of(core, "here") == ev.ALIVE
    assert core.next_deadline() is None
    core.handle(ev.StreamBreaks(2), 102.0)
    core.handle(ev.TimePasses(), core.next_deadline())
    core.validate()
    assert state_of(core, "here") == ev.DEAD


def test_the_next_deadline_is_that_of_the_node_that_is_silent_for_longest():
    core = make_core()
    exact = []
    for step in range(200):
        now = step * 0.05
        if step < 20:
            register(core, step + 1, f"n{step}", now=now)
        elif step % 3:
            report(core, 1 + step * 7 % 20, now)
        else:
            core.handle(ev.TimePasses(), now)
        table = core.nodes
        suspect, dead = table._suspect_s, table._dead_s
        exact.append(
            min(each.last_seen + (suspect if each.state == ev.ALIVE else dead) for each in table.live)
        )
        assert table.next_deadline() == exact[-1]
        table.validate()
    assert len(set(exact)) > 20
    assert len(core.nodes._deadlines) <= 2 * core.nodes.live_count + 8
